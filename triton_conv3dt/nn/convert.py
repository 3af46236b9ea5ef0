"""Putting the layer into a model that exists, and taking it out again."""

import warnings

import torch
from torch import nn

from .chains import FusedSequential, chain_after, flattened, is_plain
from .classes import change_class, converted, mixed, original, own_class
from .layer import ConvTranspose3d, Settings, check_choices
from .report import report, why_not

SETTINGS = "_triton_conv3dt_settings"


def convert(model: nn.Module, *, fuse=False, precision=None, backend="auto") -> list[str]:
    """Make every torch.nn.ConvTranspose3d in a model one of ours, in place; convert before compiling the model.

    The modules stay the same objects, so parameters, state_dict, hooks, optimizers and references to them hold. Lazy
    layers, parametrized ones and those under `fully_shard` are converted, and so are subclasses with PyTorch's forward.
    Subclasses with a forward of their own, scripted modules and calls of the function stay; `report` says so, and a
    warning does where nothing could be converted. A second call changes precision and backend of what was converted.

    Args:
        fuse: whether a torch.nn.Sequential, such as MONAI's Convolution, computes what follows a layer in the layer's
            call: normalisation with running statistics (folded into weight and bias at each call, so that state_dict
            stays what it is), dropout that is off, and an activation. Hooks and a training mode are heeded.
        precision, backend: as conv_transpose3d takes them.

    Returns:
        The names of the layers that changed, as named_modules gives them ("" is the model itself).

    Raises:
        ValueError: a precision or backend that does not exist.
        RuntimeError: fuse, and a normalisation to be folded is in training mode.
    """
    check_choices(precision, backend)
    chains = _chains(model) if fuse else []
    _check_eval(chains)
    settings, changed = Settings(precision, backend), set()
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose3d) and not why_not(module):
            own = own_class(module)
            if SETTINGS not in vars(module):
                if issubclass(own, ConvTranspose3d):  # as its constructor made it
                    continue
                change_class(module, converted(own))
            elif vars(module)[SETTINGS] == settings:
                continue
            vars(module)[SETTINGS] = settings
            changed.add(module)
    chains = [(container, layer) for container, layer, _ in chains
              if isinstance(layer, ConvTranspose3d) and not isinstance(container, FusedSequential)]
    for container in dict.fromkeys(container for container, _ in chains):
        own = own_class(container)
        change_class(container, mixed((FusedSequential, own), own))
    changed.update(layer for _, layer in chains)
    names = [name for name, module in model.named_modules() if module in changed]
    _warn_if_in_vain(model, names)
    return names


def revert(model: nn.Module) -> list[str]:
    """Undo `convert`: every module it changed is of its own class again, with the parameters that it has. Returns the
    names of the layers.

    A ConvTranspose3d that was made by its constructor stays: it may have an activation, which PyTorch's has not.
    """
    names = []
    for name, module in model.named_modules():
        if SETTINGS in vars(module):
            change_class(module, original(own_class(module)))
            del vars(module)[SETTINGS]
            names.append(name)
        elif isinstance(module, FusedSequential):
            change_class(module, original(own_class(module)))
    return names


def _chains(model) -> list[tuple]:
    """(container, layer, chain) of all that may be fused, by the innermost Sequential that holds both."""
    found = []
    for container in model.modules():
        steps = list(flattened(container)) if is_plain(container) else []
        for place, (path, module) in enumerate(steps):
            if isinstance(module, nn.ConvTranspose3d):
                chain = chain_after([step for _, step in steps], place, as_in_eval=True)
                if chain.length and steps[place + chain.length][0][0] != path[0]:
                    found.append((container, module, chain))
    return found


def _check_eval(chains) -> None:
    training = {type(norm).__name__ for _, _, chain in chains for norm in chain.norms if norm.training}
    if training:
        raise RuntimeError(f"convert(fuse=True) folds the running statistics of {', '.join(sorted(training))} into the "
                           "layer before it, and the model is in training mode, where they change. Call model.eval() "
                           "first, or leave fuse away")


def _warn_if_in_vain(model, names) -> None:
    rows = [] if names else report(model)
    if rows and not any(isinstance(module, ConvTranspose3d) for module in model.modules()):
        reasons = "; ".join(f"{row.name or 'the model'}: {row.left}" for row in rows)
        warnings.warn(f"triton_conv3dt.nn.convert has converted nothing. {reasons}", stacklevel=3)
