"""The operators under torch.vmap: one launch for the whole vmapped axis.

Where only x, dz or the residual have that axis, it becomes part of the batch. Where w or b have it, or where the result
is a gradient of w, every element becomes a group of channels of its own.
"""

import torch

from ..launching.tensors import statistics_of
from .schemas import NAMESPACE, library

_ops = getattr(torch.ops, NAMESPACE)


def _folded(t, dim, axis, batch):
    """t with its vmapped dimension `dim` multiplied into `axis`; repeated along it where it has none."""
    if t is None:
        return None
    t = t.movedim(dim, axis) if dim is not None else t.unsqueeze(axis).expand(*t.shape[:axis], batch, *t.shape[axis:])
    return t.flatten(axis, axis + 1)


def _forward(info, dims, x, w, b, residual, out_size, stride, padding, dilation, groups, *rest):
    axis, (x_dim, w_dim, b_dim, residual_dim, *_), batch = 0, dims, info.batch_size
    if w_dim is not None or b_dim is not None:
        axis, groups = 1, groups * batch
        w, b = _folded(w, w_dim, 0, batch), _folded(b, b_dim, 0, batch)
    x, residual = _folded(x, x_dim, axis, batch), _folded(residual, residual_dim, axis, batch)
    y, pre = _ops.forward(x, w, b, residual, out_size, stride, padding, dilation, groups, *rest)
    keep_pre = rest[-1]
    return (y.unflatten(axis, (batch, -1)), pre.unflatten(axis, (batch, -1)) if keep_pre else pre), (
        axis, axis if keep_pre else None)


def _forward_concat(info, dims, x, w, b, residual, concat, concat_first, *rest):
    """The layer, then a concatenation: where elements are groups of channels, a skip's would lie between them."""
    own, batch, (y_dim, pre_dim) = dims[:4], info.batch_size, (None, None)
    if any(dim is not None for dim in own):
        (y, pre), (y_dim, pre_dim) = _forward(info, own, x, w, b, residual, *rest)
    else:
        y, pre = _ops.forward(x, w, b, residual, *rest)
    y, concat = (t.expand(batch, *t.shape) if dim is None else t.movedim(dim, 0)
                 for t, dim in ((y, y_dim), (concat, dims[4])))
    return (torch.cat((concat, y) if concat_first else (y, concat), 2), pre), (0, pre_dim)


def _forward_statistics(info, dims, *args):
    """The layer, then the statistics by PyTorch, each element's own."""
    *args, statistics = args
    (y, pre), (axis, pre_axis) = _forward(info, dims[:-1], *args)
    moments = [t.unflatten(-1, (info.batch_size, -1)) for t in statistics_of(_folded(y, axis, 1, info.batch_size), statistics)]
    return (y, pre, *moments), (axis, pre_axis, moments[0].dim() - 2, moments[0].dim() - 2)


def _normalise(info, dims, y, mean, variance, scale, shift, *rest):
    batch, (y_dim, mean_dim, variance_dim, scale_dim, shift_dim, *_) = info.batch_size, dims
    axis = mean.dim() - (mean_dim is not None) - 1  # of its channels
    mean, variance = _folded(mean, mean_dim, axis, batch), _folded(variance, variance_dim, axis, batch)
    scale, shift = _folded(scale, scale_dim, 0, batch), _folded(shift, shift_dim, 0, batch)
    z = _ops.normalise(_folded(y, y_dim, 1, batch), mean, variance, scale, shift, *rest)
    return z.unflatten(1, (batch, -1)), 1


def _grad_input(info, dims, dz, w, in_size, stride, padding, dilation, groups, precision):
    axis, (dz_dim, w_dim, *_), batch = 0, dims, info.batch_size
    if w_dim is not None:
        axis, groups, w = 1, groups * batch, _folded(w, w_dim, 0, batch)
    dz = _folded(dz, dz_dim, axis, batch)
    dx = _ops.grad_input(dz, w, in_size, stride, padding, dilation, groups, precision)
    return dx.unflatten(axis, (batch, -1)), axis


def _grad_weight(info, dims, x, dz, kernel, w_strides, stride, padding, dilation, groups, precision):
    (x_dim, dz_dim, *_), batch = dims, info.batch_size
    x, dz = _folded(x, x_dim, 1, batch), _folded(dz, dz_dim, 1, batch)
    w_strides = torch.empty(x.shape[1], dz.shape[1] // (groups * batch), *kernel, device="meta").stride()
    dw = _ops.grad_weight(x, dz, kernel, w_strides, stride, padding, dilation, groups * batch, precision)
    return dw.unflatten(0, (batch, -1)), 0


def _grad_bias(info, dims, dz):
    return _ops.grad_bias(_folded(dz, dims[0], 1, info.batch_size)).unflatten(0, (info.batch_size, -1)), 0


def _activation_grad(info, dims, dy, saved, activation, parameters):
    dy, saved = (_folded(t, dim, 0, info.batch_size) for t, dim in zip((dy, saved), dims))
    return _ops.activation_grad(dy, saved, activation, parameters).unflatten(0, (info.batch_size, -1)), 0


for _name, _rule in {"forward": _forward, "forward_concat": _forward_concat, "grad_input": _grad_input,
                     "forward_statistics": _forward_statistics, "normalise": _normalise,
                     "grad_weight": _grad_weight, "grad_bias": _grad_bias,
                     "activation_grad": _activation_grad}.items():
    torch.library.register_vmap(f"{NAMESPACE}::{_name}", _rule, lib=library)
