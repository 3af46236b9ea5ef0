"""The slow, obvious truth: the layer and its two gradients by their definition, and every activation in plain torch.

The kernels are tested against this file, so it shares nothing with them: it knows no phases. Every tap scatters the
whole input into a canvas large enough for all taps, and the output is cut out of that canvas.

Shapes: x [N, CI, ID, IH, IW], w [CI, CO/G, KD, KH, KW], b [CO], y and dz [N, CO, OD, OH, OW], of any floating dtype.
"""
import itertools
import math

import torch
import torch.nn.functional as F


def conv_transpose3d(x, w, b=None, residual=None, *, stride, padding, dilation, out_size, groups, activation=None,
                     dtype=torch.float64):
    """activation(conv_transpose(x, w) + b + residual), computed and returned in `dtype`, contiguous.

    stride, dilation, out_size: three ints each. padding: what is cropped before the output, any three ints; a negative
    one puts outputs without a tap in front. What out_size asks for beyond the last tap has no tap either: there the
    result is activation(b + residual). activation: None, or anything with a `name` and its `parameters`.
    """
    x, w = x.to(dtype), w.to(dtype)
    canvas = x.new_zeros(x.shape[0], w.shape[1] * groups, *_canvas_size(x, w.shape[2:], stride, dilation))
    for tap in _taps(w.shape[2:]):
        weight = _split(w[_at(tap)], 0, groups)
        product = torch.einsum("ngidhw,gio->ngodhw", _split(x, 1, groups), weight).flatten(1, 2)
        canvas[_reached(tap, x, stride, dilation)] += product
    z = _window(canvas, padding, out_size)
    if b is not None:
        z = z + b.to(dtype).view(-1, 1, 1, 1)
    if residual is not None:
        z = z + residual.to(dtype)
    return z if activation is None else _ACTIVATIONS[activation.name][0](z, *activation.parameters)


def grad_input(dz, w, *, in_size, stride, padding, dilation, groups, dtype=torch.float64):
    """dx [N, CI, *in_size] in `dtype`: each input gathers from the outputs that its taps reached."""
    dz, w = dz.to(dtype), w.to(dtype)
    dx = dz.new_zeros(dz.shape[0], w.shape[0], *in_size)
    canvas = _uncut(dz, padding, _canvas_size(dx, w.shape[2:], stride, dilation))
    for tap in _taps(w.shape[2:]):
        weight = _split(w[_at(tap)], 0, groups)
        reached = _split(canvas[_reached(tap, dx, stride, dilation)], 1, groups)
        dx += torch.einsum("ngodhw,gio->ngidhw", reached, weight).flatten(1, 2)
    return dx


def grad_weight(x, dz, *, kernel, stride, padding, dilation, groups, dtype=torch.float64):
    """dw [CI, CO/G, *kernel] in `dtype`: each tap correlates the input with the outputs that it reached."""
    x, dz = x.to(dtype), dz.to(dtype)
    dw = x.new_zeros(x.shape[1], dz.shape[1] // groups, *kernel)
    canvas = _uncut(dz, padding, _canvas_size(x, kernel, stride, dilation))
    for tap in _taps(kernel):
        reached = _split(canvas[_reached(tap, x, stride, dilation)], 1, groups)
        dw[_at(tap)] = torch.einsum("ngidhw,ngodhw->gio", _split(x, 1, groups), reached).flatten(0, 1)
    return dw


def activation(z, name, parameters=()):
    """The value at z, in z's dtype. Parameters left out take torch's defaults."""
    return _ACTIVATIONS[name][0](z, *parameters)


def activation_derivative(saved, name, parameters=()):
    """d activation / d z from the one tensor that is kept for it, in its dtype; differentiable in `saved`.

    saved is the output of relu, relu6, leaky_relu (slope >= 0), elu (alpha > 0), selu, sigmoid, tanh, hardsigmoid,
    hardtanh and exponential, and the input of all others. At kinks and NaN it is what torch.nn.functional's backward
    uses; where that differs between devices (NaN into hardtanh, elu and hardswish), what it uses on CUDA.
    """
    return _ACTIVATIONS[name][1](saved, *parameters)


def _taps(kernel):
    return itertools.product(*map(range, kernel))


def _at(tap):
    """The index of a tap in w or dw: all channels, one kernel place."""
    return (slice(None), slice(None), *tap)


def _canvas_size(x, kernel, stride, dilation):
    """The size of the uncropped output: from the first tap of the first input to the last tap of the last."""
    return [max((i - 1) * s + (k - 1) * d + 1, 0) for i, k, s, d in zip(x.shape[2:], kernel, stride, dilation)]


def _reached(tap, x, stride, dilation):
    """The index of the canvas that a tap reaches from all of x."""
    return (..., *(slice(k * d, k * d + i * s, s) for k, i, s, d in zip(tap, x.shape[2:], stride, dilation)))


def _split(t, axis, groups):
    return t.unflatten(axis, (groups, t.shape[axis] // groups))


def _window(t, start, size):
    """t[..., start : start + size] on the last three axes, with zeros where that is outside t."""
    result = t.new_zeros(*t.shape[:2], *size)
    inside, source = [...], [...]
    for a, length, extent in zip(start, size, t.shape[2:]):
        low, high = max(a, 0), max(min(a + length, extent), a, 0)
        inside.append(slice(low - a, high - a))
        source.append(slice(low, high))
    result[tuple(inside)] = t[tuple(source)]
    return result


def _uncut(dz, padding, canvas_size):
    """dz back at its place in the canvas it was cut out of."""
    return _window(dz, [-p for p in padding], canvas_size)


def _steps(saved, condition, inside, outside):
    """A constant where condition holds and another elsewhere, with a gradient (of zero) for `saved`."""
    return saved.masked_fill(condition, inside).masked_fill(~condition, outside)


def _elu_derivative(saved, alpha=1.0):
    below = saved + alpha if alpha > 0 else alpha * saved.clamp(max=0).exp()
    return torch.where(saved <= 0, below, 1.0)


def _selu_derivative(y):
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    return torch.where(y <= 0, y + scale * alpha, scale)


def _softplus_derivative(z, beta=1.0, threshold=20.0):
    return torch.where(z * beta > threshold, 1.0, torch.sigmoid(z * beta))


def _logistic(z):
    """sigmoid(z) and its derivative, which s * (1 - s) would not give where s rounds to 1."""
    s = torch.sigmoid(z)
    return s, s * torch.sigmoid(-z)


def _gelu_derivative(z):
    return 0.5 * (1 + torch.erf(z * math.sqrt(0.5))) + z * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _gelu_tanh_derivative(z):
    k, c = math.sqrt(8 / math.pi), 0.044715
    square = z.square().clamp(max=1e4)  # beyond it the derivative is 0 or 1, and inf * 0 would be NaN
    s, slope = _logistic(k * z * (1 + c * square))
    return s + z * slope * k * (1 + 3 * c * square)


def _silu_derivative(z):
    s, slope = _logistic(z)
    return s + z * slope


def _mish_derivative(z):
    t = torch.tanh(F.softplus(z))
    return t + z * torch.sigmoid(z) * (1 - t * t)


def _hardswish_derivative(z):
    return torch.where(z <= -3, 0.0, torch.where(z < 3, z / 3 + 0.5, 1.0))


_ACTIVATIONS = {  # name: value at z, derivative from what is saved
    "relu": (F.relu, lambda y: _steps(y, y <= 0, 0.0, 1.0)),
    "relu6": (F.relu6, lambda y: _steps(y, (y <= 0) | (y >= 6), 0.0, 1.0)),
    "leaky_relu": (F.leaky_relu, lambda t, slope=0.01: _steps(t, t > 0, 1.0, slope)),
    "elu": (F.elu, _elu_derivative),
    "selu": (F.selu, _selu_derivative),
    "sigmoid": (torch.sigmoid, lambda y: y * (1 - y)),
    "tanh": (torch.tanh, lambda y: 1 - y * y),
    "softplus": (F.softplus, _softplus_derivative),
    "hardsigmoid": (F.hardsigmoid, lambda y: _steps(y, (y > 0) & (y < 1), 1 / 6, 0.0)),
    "hardtanh": (F.hardtanh, lambda y, low=-1.0, high=1.0: _steps(y, (y <= low) | (y >= high), 0.0, 1.0)),
    "exponential": (torch.exp, lambda y: y),
    "gelu": (F.gelu, _gelu_derivative),
    "gelu_tanh": (lambda z: F.gelu(z, approximate="tanh"), _gelu_tanh_derivative),
    "silu": (F.silu, _silu_derivative),
    "mish": (F.mish, _mish_derivative),
    "hardswish": (F.hardswish, _hardswish_derivative),
    "softsign": (F.softsign, lambda z: (1 + z.abs()) ** -2),
}
