"""PyTorch's own activations, functions and modules, by the names under which the kernels fuse them."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

FUNCTIONS = {  # called with a tensor alone: torch's defaults are those of problem.ACTIVATIONS
    torch.relu: "relu", F.relu: "relu", F.relu6: "relu6", F.leaky_relu: "leaky_relu", F.elu: "elu",
    torch.selu: "selu", F.selu: "selu", torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid", torch.special.expit: "sigmoid",
    torch.tanh: "tanh", F.tanh: "tanh", F.softplus: "softplus", F.hardsigmoid: "hardsigmoid",
    F.hardtanh: "hardtanh", torch.exp: "exponential", F.gelu: "gelu", F.silu: "silu", F.mish: "mish",
    F.hardswish: "hardswish", F.softsign: "softsign",
}
MODULES = {  # the name, and the attributes that hold the parameters; inplace makes no difference
    nn.Identity: ("identity",), nn.ReLU: ("relu",), nn.ReLU6: ("relu6",), nn.LeakyReLU: ("leaky_relu", "negative_slope"),
    nn.ELU: ("elu", "alpha"), nn.SELU: ("selu",), nn.Sigmoid: ("sigmoid",), nn.Tanh: ("tanh",),
    nn.Softplus: ("softplus", "beta", "threshold"), nn.Hardsigmoid: ("hardsigmoid",),
    nn.Hardtanh: ("hardtanh", "min_val", "max_val"), nn.GELU: ("gelu",), nn.SiLU: ("silu",), nn.Mish: ("mish",),
    nn.Hardswish: ("hardswish",), nn.Softsign: ("softsign",),
}


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
        name, instance = MODULES.get(spec, (None,))[0], f"{'nn.' * (spec in MODULES)}{spec.__name__}()"
        raise TypeError("activation must be a name, a pair (name, parameters) or a callable on tensors, received the "
                        f"class {spec.__name__}: pass " + f'"{name}" or ' * bool(name) + f"an instance, {instance}")
    if isinstance(spec, nn.Module):
        return _module(spec)
    return next((name for function, name in FUNCTIONS.items() if function is spec), spec)


def _module(module: nn.Module):
    name, *attributes = MODULES.get(type(module), (None,))
    parameters = [getattr(module, attribute) for attribute in attributes]
    if name is None or _changed(module) or not all(isinstance(value, (int, float)) for value in parameters):
        return module
    if name == "gelu" and module.approximate == "tanh":
        name = "gelu_tanh"
    return name, *parameters


def _changed(module: nn.Module) -> bool:
    """Whether a call of it would run something else than its class's forward."""
    return bool(module._forward_pre_hooks or module._forward_hooks or module._backward_pre_hooks
                or module._backward_hooks or _has_any_global_hook() or "forward" in vars(module))
