"""Keras's constraints, projections of a weight, and applying them after an optimizer's step.

`axis` is what a norm is taken over, one axis or a list. Keras's default, 0, is made for matrices; the norm of each
filter of a kernel [depth, height, width, filters, in_channels] is taken over [0, 1, 2, 4].
"""

import functools
import weakref

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

EPSILON = 1e-7


def max_norm(w, max_value=2.0, axis=0):
    norms = _norms(w, axis)
    return w * (norms.clamp(0, max_value) / (EPSILON + norms))


def non_neg(w):
    return w * (w >= 0)


def unit_norm(w, axis=0):
    return w / (EPSILON + _norms(w, axis))


def min_max_norm(w, min_value=0.0, max_value=1.0, rate=1.0, axis=0):
    """rate: how far a norm outside the interval is moved into it, 1 for all the way."""
    norms = _norms(w, axis)
    wanted = rate * norms.clamp(min_value, max_value) + (1 - rate) * norms
    return w * (wanted / (EPSILON + norms))


CONSTRAINTS = {f.__name__.replace("_", ""): f for f in (max_norm, non_neg, unit_norm, min_max_norm)}
CONSTRAINTS |= {"nonnegative": non_neg}

_constrained = weakref.WeakSet()  # layers


def watch(layer) -> None:
    """From now on, a step of any optimizer that changes a weight of the layer is followed by the weight's constraint.

    layer: has `constrained_weights()`, pairs (weight, constraint).
    """
    _register()
    _constrained.add(layer)


@functools.cache
def _register():
    """Once, and not before there is a constraint: the hook is called by every optimizer of the process."""
    return register_optimizer_step_post_hook(_after_step)


def _norms(w, axis):
    return w.square().sum(axis, keepdim=True).sqrt()


def _after_step(optimizer, args, kwargs) -> None:
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
    with torch.no_grad():
        for layer in list(_constrained):
            for weight, constraint in layer.constrained_weights():
                if id(weight) in stepped:
                    weight.copy_(constraint(weight))
