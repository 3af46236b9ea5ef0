"""Keras's activations by name: those that the kernels fuse, and the others, which follow the kernel."""

from functools import partial

import torch
import torch.nn.functional as F

from ..ops.activations import recognised
from ..problems.activations import ACTIVATIONS, ALIASES, Activation


def _hard_sigmoid(x):
    """Keras 2's, of TensorFlow 2.4; Keras 3's is "hardsigmoid"."""
    return (0.2 * x + 0.5).clamp(0, 1)


def _squareplus(x):
    return (x + (x * x + 4).sqrt()) / 2


def _sparse_plus(x):
    return torch.where(x <= -1, 0.0, torch.where(x < 1, (x + 1) ** 2 / 4, x))


def _sparse_sigmoid(x):
    return ((x + 1) / 2).clamp(0, 1)


def _sparsemax(x):
    """The nearest point of the probability simplex, along the last axis."""
    ordered = x.sort(-1, descending=True).values
    ranks = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    excess = ordered.cumsum(-1) - 1
    count = (ranks * ordered > excess).sum(-1, keepdim=True)
    return (x - excess.gather(-1, count - 1) / count).clamp(min=0)


FUSED = {name: (entry.name, *parameters) for entry in ACTIVATIONS.values() for name, parameters in entry.keras.items()}
APPLIED = {  # along the last axis, whatever the data_format, as Keras does
    "softmax": partial(torch.softmax, dim=-1), "log_softmax": partial(torch.log_softmax, dim=-1),
    "sparsemax": _sparsemax, "glu": partial(F.glu, dim=-1), "hard_sigmoid": _hard_sigmoid, "log_sigmoid": F.logsigmoid,
    "celu": F.celu, "soft_shrink": F.softshrink, "hard_shrink": F.hardshrink, "tanh_shrink": F.tanhshrink,
    "squareplus": _squareplus, "sparse_plus": _sparse_plus, "sparse_sigmoid": _sparse_sigmoid,
}


def activation_of(spec):
    """(the activation that is fused or None, the callable that follows or None) of what a layer is given: None, one of
    Keras's names, one of the kernels' names, a pair such as ("leaky_relu", 0.01), or a callable.

    Raises:
        TypeError: spec is none of these, or a class.
        ValueError: an unknown name.
    """
    if callable(spec):
        found = recognised(spec)
        return (None, found) if callable(found) else (Activation.of(found), None)
    if isinstance(spec, str) and spec in APPLIED and spec not in FUSED:
        return None, APPLIED[spec]
    if isinstance(spec, str) and spec not in (*FUSED, *ACTIVATIONS, *ALIASES):
        known = ", ".join(sorted({*FUSED, *ACTIVATIONS, *ALIASES, *APPLIED}))
        raise ValueError(f"Unknown activation function {spec!r}; known are {known}, or pass a callable")
    if spec is not None and not isinstance(spec, (str, tuple, list, Activation)):
        raise TypeError(f"Could not interpret activation function identifier: {spec!r}. It must be None, a name, a "
                        "pair (name, parameters) or a callable")
    return Activation.of(FUSED.get(spec, spec) if isinstance(spec, str) else spec), None
