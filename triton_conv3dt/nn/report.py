"""What transposed convolutions a model has, and what is fused with each."""

import types
from typing import NamedTuple

import torch
from torch import nn

from .chains import Chain, FusedSequential, chain_after, flattened, is_plain
from .classes import own_class
from .layer import ConvTranspose3d
from .rows import Report, Row, shape_class

COMPILE = 'torch.compile(model, backend="triton_conv3dt") sees it'
FUNCTION = "conv_transpose3d"


def report(model: nn.Module) -> Report:
    """One row for each transposed 3-D convolution of a model: its name, its shape, what follows it in a
    torch.nn.Sequential, what of that is fused with it, and why not more; or why it is not converted. Prints as a table.

    Scripted layers are found, and modules whose forward calls the function by its name.
    """
    chains = _chains(model)
    rows = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ConvTranspose3d):
            rows.append(_row(name, module, chains.get(module)))
        elif isinstance(module, torch.jit.ScriptModule):
            if getattr(module, "original_name", "").endswith("ConvTranspose3d"):
                rows.append(Row(name, "ConvTranspose3d", left="it is scripted: convert before torch.jit.script"))
        elif _calls_the_function(module):
            rows.append(Row(name, f"{type(module).__name__} calls {FUNCTION}",
                            left=f"call triton_conv3dt.{FUNCTION} there; or {COMPILE}"))
    return Report(rows)


def why_not(module: nn.ConvTranspose3d) -> str:
    """Why a layer cannot be converted, or ""."""
    own = own_class(module)
    if own.forward in (nn.ConvTranspose3d.forward, ConvTranspose3d.forward) and "forward" not in vars(module):
        return ""
    return f"{own.__name__} has a forward of its own"


class _Found(NamedTuple):
    """What follows a layer in a Sequential."""

    chain: Chain
    following: tuple[str, ...]
    fused: tuple[str, ...]


def _chains(model) -> dict:
    """_Found of the layers in a Sequential; of several around each other, what the one that sees most sees."""
    found = {}
    for container in model.modules():
        steps = list(flattened(container)) if is_plain(container) else []
        for place, (_, module) in enumerate(steps):
            if not isinstance(module, nn.ConvTranspose3d):
                continue
            chain = chain_after([step for _, step in steps], place)
            following = tuple(type(step).__name__ for _, step in steps[place + 1:place + chain.length + 2])
            fused = chain.words if isinstance(container, FusedSequential) else ()
            before = found.get(module, _Found(chain, (), ()))
            most = max(_Found(chain, following, ()), before, key=lambda f: len(f.following))
            found[module] = most._replace(fused=max(fused, before.fused, key=len))
    return found


def _row(name, module, found: _Found | None) -> Row:
    layer = shape_class(module.in_channels, module.out_channels, module.groups, module.kernel_size, module.stride,
                        module.dilation)
    chain, following, fused = found or (Chain(), (), ())
    own = module.settings()[0] if isinstance(module, ConvTranspose3d) else None
    words = fused if own is None else (_word(own), *fused)
    if left := why_not(module):
        return Row(name, layer, following, words, left)
    if chain.length > len(fused):
        left = "convert(model, fuse=True) fuses it"
    elif not isinstance(module, ConvTranspose3d):
        left = "it is not converted"
    else:
        left = chain.left or f"what follows {'then' if chain.length else 'it'} is in a forward: {COMPILE}"
    return Row(name, layer, following, words, left)


def _word(activation) -> str:
    if isinstance(activation, nn.Module):
        return type(activation).__name__
    return activation if isinstance(activation, str) else getattr(activation, "__name__", None) or str(activation[0])


def _calls_the_function(module) -> bool:
    """Whether the source of a module's forward names the function, as F.conv_transpose3d does."""
    forward = type(module).forward
    return not type(module).__module__.startswith("torch.") and FUNCTION in _names(getattr(forward, "__code__", None))


def _names(code) -> set[str]:
    """The names that a function, and those inside it, use."""
    if not isinstance(code, types.CodeType):
        return set()
    return set(code.co_names).union(*(_names(constant) for constant in code.co_consts))
