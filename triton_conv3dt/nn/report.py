"""What transposed convolutions a model has, and what is fused with each."""

import types

import torch
from torch import nn

from .chains import FusedSequential, chain_after, flattened, is_plain
from .classes import own_class
from .layer import ConvTranspose3d
from .rows import Report, Row, shape_class

COMPILE = 'torch.compile(model, backend="triton_conv3dt") sees it'
FUNCTION = "conv_transpose3d"


def report(model: nn.Module) -> Report:
    """One row for each transposed 3-D convolution of a model: its name, its shape, what follows it in a torch.nn.Sequential,
    what of that is fused with it, and why not more; or why it is not converted. Prints as a table.

    Scripted layers are found, and modules whose forward calls the function by its name.
    """
    chains = _chains(model)
    rows = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ConvTranspose3d):
            rows.append(_row(name, module, chains.get(module)))
        elif isinstance(module, torch.jit.ScriptModule) and getattr(module, "original_name", "").endswith("ConvTranspose3d"):
            rows.append(Row(name, "ConvTranspose3d", left="it is scripted: convert the model before torch.jit.script"))
        elif not isinstance(module, torch.jit.ScriptModule) and _calls_the_function(module):
            rows.append(Row(name, f"{type(module).__name__} calls {FUNCTION}",
                            left=f"call triton_conv3dt.{FUNCTION} there; or {COMPILE}"))
    return Report(rows)


def why_not(module: nn.ConvTranspose3d) -> str:
    """Why a layer cannot be converted, or ""."""
    own = own_class(module)
    if own.forward in (nn.ConvTranspose3d.forward, ConvTranspose3d.forward) and "forward" not in vars(module):
        return ""
    return f"{own.__name__} has a forward of its own"


def _chains(model) -> dict:
    """(chain, whether it is fused) of the layers in a Sequential; of several around each other, that which sees most."""
    found = {}
    for container in model.modules():
        steps = list(flattened(container)) if is_plain(container) else []
        for place, (path, module) in enumerate(steps):
            if not isinstance(module, nn.ConvTranspose3d):
                continue
            chain = chain_after([step for _, step in steps], place)
            end = place + chain.length
            following = tuple(type(step).__name__ for _, step in steps[place + 1:end + 2])
            fused = isinstance(container, FusedSequential) and bool(chain.length)
            before = found.get(module)
            if before is None or (len(following), fused) > (len(before[1]), before[2]):
                found[module] = chain, following, fused or (before is not None and before[2])
    return found


def _row(name, module, found) -> Row:
    layer = shape_class(module.in_channels, module.out_channels, module.groups, module.kernel_size, module.stride,
                        module.dilation)
    chain, following, fused = found or (None, (), False)
    own = module.settings()[0] if isinstance(module, ConvTranspose3d) else None
    words = (() if own is None else (_word(own),)) + (chain.words if fused else ())
    if left := why_not(module):
        return Row(name, layer, following, words, left)
    if not isinstance(module, ConvTranspose3d):
        left = "it is not converted"
    elif chain is None or not chain.left and len(following) <= chain.length:
        left = f"what follows {'it' if chain is None or not chain.length else 'then'} is in a forward: {COMPILE}"
    else:
        left = chain.left
    if chain is not None and chain.length and not fused:
        left = "convert(model, fuse=True) fuses it"
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
