"""The operators that know mean and variance of a result, and their derivatives.

    forward_statistics   forward, and mean and biased variance of y; the two are differentiable as functions of y
    normalise            activation((y - mean) / sqrt(variance + eps) * scale + shift), where mean and variance are those of y:
                         what comes back for y has their part in it, and nothing comes back for them
"""

import torch
from torch.autograd.function import _SingleLevelFunction

from . import internals
from .autograd import Operator, _forward_concat, _transformed, activation_grad
from .schemas import activation_of

_is_grad_enabled = torch.is_grad_enabled


def _dims(statistics: str) -> tuple[int, ...]:
    """The axes over which statistics are taken."""
    return (0, 2, 3, 4) if statistics == "batch" else (2, 3, 4)


def kind_of(mean) -> str:
    """Whose statistics they are: [C] those of the batch, [N, C] of each instance."""
    return "batch" if mean.dim() == 1 else "instance"


def spread(t):
    """[C] or [N, C] beside [N, C, D, H, W]."""
    return t.view(*t.shape, 1, 1, 1)


class Moments(_SingleLevelFunction):
    """mean and variance, which were found beside y, as functions of y."""

    @staticmethod
    def forward(ctx, direct, y, mean, variance, statistics):
        ctx.set_materialize_grads(False)
        ctx.statistics = statistics
        ctx.save_for_backward(y, mean)
        if internals.forward_level._current_level >= 0:
            ctx.save_for_forward(y, mean)
        return (mean.detach(), variance.detach()) if direct else (mean.clone(), variance.clone())

    @staticmethod
    def backward(ctx, dmean, dvariance):
        y, mean = ctx.saved_tensors
        dims, dy = _dims(ctx.statistics), None
        count = max(1, y.numel() // mean.numel()) if mean.numel() else 1
        if dmean is not None:
            dy = spread(dmean / count).expand(y.shape)
        if dvariance is not None:
            wide = y.to(mean.dtype)
            if _is_grad_enabled() or _transformed():  # somebody may differentiate this, and the mean is y's
                mean = wide.mean(dims)
            more = spread(dvariance * (2 / count)) * (wide - spread(mean))
            dy = more if dy is None else dy + more
        return None, dy if dy is None else dy.to(y.dtype), None, None, None

    @staticmethod
    def jvp(ctx, _, ty, *__):
        y, mean = ctx.saved_tensors
        dims = _dims(ctx.statistics)
        wide, ty = y.to(mean.dtype), ty.to(mean.dtype)
        return ty.mean(dims), 2 * ((wide - spread(wide.mean(dims))) * ty).mean(dims)


class Normalise(_SingleLevelFunction):
    @staticmethod
    def forward(ctx, direct, y, mean, variance, scale, shift, eps, activation, parameters):
        z = normalise.below_autograd(direct, y, mean, variance, scale, shift, eps, activation, parameters)
        ctx.rest = eps, activation, parameters
        from_output = activation and activation_of(activation, parameters).derivative_from == "output"
        saved = y, mean, variance, scale, None if from_output else shift, z if from_output else None
        ctx.save_for_backward(*saved)
        if internals.forward_level._current_level >= 0:
            ctx.save_for_forward(*saved)
        return z

    @staticmethod
    def backward(ctx, dz):
        y, mean, variance, scale, shift, z = ctx.saved_tensors
        eps, activation, parameters = ctx.rest
        _, needs_y, _, _, needs_scale, needs_shift, *_ = ctx.needs_input_grad
        if activation:
            z = normalise(y, mean, variance, scale, shift, eps, None, ()) if z is None else z
            dz = activation_grad(dz, z, activation, parameters)
        dy, dscale, dshift = _norm_grad(dz, y, mean, variance, scale, eps, [needs_y, needs_scale, needs_shift])
        return None, dy, None, None, dscale, dshift, None, None, None

    @staticmethod
    def jvp(ctx, _, ty, tmean, tvariance, tscale, tshift, *__):
        y, mean, variance, scale, shift, z = ctx.saved_tensors
        eps, activation, parameters = ctx.rest
        dims, wide = _dims(kind_of(mean)), y.to(mean.dtype)
        away = wide - wide.mean(dims, keepdim=True)
        factor = torch.rsqrt(away.square().mean(dims, keepdim=True) + eps)
        unit, tz = away * factor, torch.zeros_like(away)
        if ty is not None:
            ty = ty.to(mean.dtype)
            ty = factor * (ty - ty.mean(dims, keepdim=True) - unit * (unit * ty).mean(dims, keepdim=True))
            tz = tz + (ty if scale is None else ty * spread(scale))
        tz = tz if tscale is None else tz + unit * spread(tscale)
        tz = (tz if tshift is None else tz + spread(tshift)).to(y.dtype)
        if activation:
            z = normalise(y, mean, variance, scale, shift, eps, None, ()) if z is None else z
            tz = activation_grad(tz, z, activation, parameters)
        return tz


def _norm_grad(dz, y, mean, variance, scale, eps, mask):
    """The gradients of (y, scale, shift) by PyTorch's own operator, each where mask asks for it: it reads dz and y twice."""
    factor, weight = torch.rsqrt(variance + eps), None if scale is None else scale.to(mean.dtype)
    size, instances = y.shape, kind_of(mean) == "instance"
    if instances:  # each sample's channels are channels of one sample
        y, dz = (t.reshape(1, -1, *t.shape[2:]) for t in (y, dz))
        mean, factor, weight = mean.flatten(), factor.flatten(), None if weight is None else weight.repeat(size[0])
    dy, dscale, dshift = torch.ops.aten.native_batch_norm_backward(dz, y, weight, None, None, mean, factor, True, eps, mask)
    if instances:
        dy = dy.reshape(size) if mask[0] else None
        dscale, dshift = (t.view(size[:2]).sum(0) if asked else None for t, asked in zip((dscale, dshift), mask[1:]))
    return (dy if mask[0] else None, dscale.to(scale.dtype) if mask[1] else None, dshift if mask[2] else None)


def _forward_statistics(direct, *args, records=None):
    """forward with derivatives, its launch left to the operator that has the statistics besides."""
    found, (*rest, statistics) = [], args

    def run(direct, *args):
        y, pre, *moments = forward_statistics.below_autograd(direct, *args, statistics)
        found.extend(moments)
        return y, pre

    y, pre = _forward_concat(direct, *rest[:4], None, False, *rest[4:], run=run)
    return y, pre, *Moments.apply(direct, y, *found, statistics)


forward_statistics = Operator("forward_statistics", 4, _forward_statistics)
normalise = Operator("normalise", 5, Normalise.apply)
