"""PyTorch's own activations, functions and modules, by the names under which the kernels fuse them."""

from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from ..problems.activations import ACTIVATIONS, IDENTITY, Entry


def _named(name: str):
    """What a name such as "F.relu" stands for."""
    module, _, rest = name.partition(".")
    return attrgetter(rest)({"torch": torch, "nn": nn, "F": F}[module])


FUNCTIONS = {_named(function): entry.name for entry in ACTIVATIONS.values() for function in entry.functions}
MODULES: dict[type, list[Entry]] = {}  # inplace makes no difference
for _entry in (IDENTITY, *ACTIVATIONS.values()):
    if _entry.module:
        MODULES.setdefault(_named(_entry.module), []).append(_entry)


def recognised(spec):
    """An activation as Activation.of takes it where it is one of PyTorch's own, else spec as it is, callables included.

    A module counts only as what PyTorch made it: a subclass, one with a hook or another forward, and one whose
    parameters are tensors stay callables.

    Raises:
        TypeError: spec is a class.
    """
    if not callable(spec):
        return spec
    if isinstance(spec, type):
        name = f'"{MODULES[spec][0].name}" or ' if spec in MODULES else ""
        instance = f"{'nn.' * (spec in MODULES)}{spec.__name__}()"
        raise TypeError("activation must be a name, a pair (name, parameters) or a callable on tensors, received the "
                        f"class {spec.__name__}: pass {name}an instance, {instance}")
    if isinstance(spec, nn.Module):
        return _module(spec)
    return next((name for function, name in FUNCTIONS.items() if function is spec), spec)


def _module(module: nn.Module):
    for entry in MODULES.get(type(module), ()):
        if all(getattr(module, attribute) == value for attribute, value in entry.where.items()):
            parameters = [getattr(module, attribute) for attribute in entry.parameters]
            constant = all(isinstance(value, (int, float)) for value in parameters)
            return (entry.name, *parameters) if constant and not changed(module) else module
    return module


def changed(module: nn.Module) -> bool:
    """Whether a call of it would run something else than its class's forward."""
    return bool(module._forward_pre_hooks or module._forward_hooks or module._backward_pre_hooks
                or module._backward_hooks or _has_any_global_hook() or "forward" in vars(module))
