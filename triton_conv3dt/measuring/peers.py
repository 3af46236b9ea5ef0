"""Everybody who computes a layer: this library, and what people use instead, each as a call without arguments.

A peer does all that its user would write for the layer: bias, activation, and the concatenation that follows. Tensors
are made beforehand; what the call allocates, it allocates as its user would.
"""

import os
from typing import Callable

import torch

from ..checking import reference, trial_tensors
from ..ops import composite
from ..problems.case import output_padding
from ..problems.problem import Problem
from .selection import COMPILED, CUDNN, CUDNN_LAST, JAX, MATMUL, OURS, Setting
from .verification import Tensors, concatenate, upstream


class SelfTimedCall:
    """A call that waits for a result of its own kind: no event on our stream sees its end, so that it is timed by the
    wall clock, with the host's part in it."""

    def __init__(self, call: Callable, convert: Callable):
        self._call, self._convert = call, convert

    def __call__(self):
        return self._call()

    def result(self) -> torch.Tensor:
        return self._convert(self._call())


class Unavailable(Exception):
    """A peer cannot take a setting; the message says why."""


def build(name: str, setting: Setting, given: Tensors) -> Callable:
    """The call of a peer: it returns the result, (result, dx, dw, db) for a step.

    Raises:
        Unavailable: it cannot take this setting here.
    """
    return _BUILDERS[name](setting, given)


def product(problem: Problem, given: trial_tensors.Operands) -> Callable:
    """PyTorch's own call for a problem, with its epilogue: cuDNN's on a GPU.

    Raises:
        Unavailable: PyTorch's arguments cannot express the gradient of this crop.
    """
    if problem.direction == "forward":
        e = problem.epilogue
        activation = (e.activation.name, e.activation.parameters) if e.activation else (None, ())
        rest = problem.out_size, problem.stride, problem.padding, problem.dilation, problem.groups, None, *activation
        return lambda: composite.conv_transpose3d(given.x, given.w, given.b, given.residual, *rest)
    return _gradient(problem, given.x, given.w, given.y)


def settle() -> None:
    """Let everybody in this process compute alike, as a user who cares for speed does: fp32 in TF32."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # PyTorch's default, which ours follows
    # Not the default. By its older name, which sets the newer one, too: torch.compile still asks for either.
    torch.backends.cuda.matmul.allow_tf32 = True


def _written(conv: Callable, setting: Setting) -> Callable:
    """What a user writes: a convolution conv(x, w, b) and what follows it, on tensors (x, w, b, skip)."""
    after = setting.after

    def layer(x, w, b, skip):
        y = conv(x, w, b)
        if after.residual:
            y = y + skip
        if after.activation:
            y = reference.activation(y, after.activation.name, after.activation.parameters)
        return concatenate(after, y, skip)

    return layer


def _call(layer: Callable, setting: Setting, t: Tensors) -> Callable:
    """One forward, or one step, of layer(x, w, b, skip)."""
    if setting.direction == "forward":
        return torch.no_grad()(lambda: layer(t.x, t.w, t.b, t.skip))
    x, w, b = (v if v is None else v.detach().requires_grad_() for v in (t.x, t.w, t.b))
    leaves, gradient = [v for v in (x, w, b) if v is not None], upstream(setting.after, t.dy)

    def step():
        y = layer(x, w, b, t.skip)
        return y, *torch.autograd.grad(y, leaves, gradient)

    return step


def _torch_conv(setting: Setting) -> Callable:
    p = setting.problem
    geometry = p.out_size, p.stride, p.padding, p.dilation, p.groups
    return lambda x, w, b: composite.conv_transpose3d(x, w, b, None, *geometry, None, None, ())


def _gradient(problem: Problem, x, w, dz) -> Callable:
    extra = output_padding(problem)
    if extra is None:
        raise Unavailable("PyTorch's arguments cannot express this crop")
    mask = [problem.direction == "grad_input", problem.direction == "grad_weight", False]
    geometry = problem.stride, problem.padding, problem.dilation, True, extra, problem.groups
    return lambda: torch.ops.aten.convolution_backward(dz, x, w, None, *geometry, mask)[mask.index(True)]


def _ours(setting: Setting, t: Tensors) -> Callable:
    from ..functional import conv_transpose3d_sized
    from ..ops import autograd

    p, after = setting.problem, setting.after
    geometry = p.stride, p.padding, p.dilation, p.groups, None
    if setting.direction == "grad_input":
        return lambda: autograd.grad_input(t.dy, t.w, p.in_size, *geometry)
    if setting.direction == "grad_weight":
        return lambda: autograd.grad_weight(t.x, t.dy, p.kernel, autograd.dense_strides(t.w), *geometry)
    given = dict(stride=p.stride, padding=p.padding, out_size=p.out_size, dilation=p.dilation, groups=p.groups,
                 activation=after.activation, backend="triton")

    def fused(x, w, b, skip):
        if not after.concat:
            return conv_transpose3d_sized(x, w, b, **given, residual=skip)
        return conv_transpose3d_sized(x, w, b, **given, concat=skip, concat_first=after.concat == "last")

    return _call(fused, setting, t)


def _cudnn(layout: str) -> Callable:
    def peer(setting: Setting, t: Tensors) -> Callable:
        t = t.to(layout)
        if setting.direction in ("grad_input", "grad_weight"):
            return _gradient(setting.problem, t.x, t.w, t.dy)
        return _call(_written(_torch_conv(setting), setting), setting, t)

    return peer


def _compiled(setting: Setting, t: Tensors) -> Callable:
    if setting.direction in ("grad_input", "grad_weight"):
        raise Unavailable("torch.compile has no product of its own to compile")
    torch._dynamo.reset()
    return _call(torch.compile(_written(_torch_conv(setting), setting), dynamic=False), setting, t)


def _matmul(setting: Setting, t: Tensors) -> Callable:
    p = setting.problem
    if not (p.exact and p.groups == 1 and p.out_size == tuple(i * k for i, k in zip(p.in_size, p.kernel))):
        raise Unavailable("kernel and stride differ, or something is cropped: the layer is not one matrix product")
    if setting.direction in ("grad_input", "grad_weight"):
        raise Unavailable("it is measured as forward and step")

    def first(x, w, b):
        y = torch.matmul(w.flatten(1).t(), x.flatten(2)).view(p.n, p.co, *p.kernel, *p.in_size)
        y = y.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(p.n, p.co, *p.out_size)
        return y if b is None else y + b.view(-1, 1, 1, 1)

    def last(x, w, b):
        w = w.permute(0, 2, 3, 4, 1).reshape(p.ci, -1)
        y = torch.matmul(x.permute(0, 2, 3, 4, 1).reshape(-1, p.ci), w).view(p.n, *p.in_size, *p.kernel, p.co)
        y = y.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(p.n, *p.out_size, p.co)
        return (y if b is None else y + b).permute(0, 4, 1, 2, 3)

    return _call(_written(last if setting.layout == "channels_last" else first, setting), setting, t)


def _jax(setting: Setting, t: Tensors) -> Callable:
    """lax's convolution with a dilated input, jitted with what follows."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else it takes most of the memory there is
    try:
        import jax
        import jax.numpy as jnp
        import numpy
    except ImportError:
        raise Unavailable("JAX is not installed") from None
    p, after = setting.problem, setting.after
    if jax.default_backend() != "gpu":
        raise Unavailable(f"JAX sees no GPU, only {jax.default_backend()!r}")
    if setting.direction != "forward" or p.groups > 1 or after.residual:
        raise Unavailable("it is measured as forward, without groups")
    here = lambda v: v if v is None else jnp.asarray(v.float().cpu().contiguous().numpy(), dtype=setting.dtype)
    x, w, b, skip = map(here, (t.x, t.w.flip(2, 3, 4), t.b, t.skip))
    reach = [(k - 1) * d for k, d in zip(p.kernel, p.dilation)]
    sizes = zip(reach, p.padding, p.out_size, p.in_size, p.stride)
    pads = [(before - cut, out - ((size - 1) * step + 1) + cut) for before, cut, out, size, step in sizes]
    activations = {"relu": jax.nn.relu, "gelu": lambda v: jax.nn.gelu(v, approximate=False)}

    @jax.jit
    def layer(x, w, b, skip):
        y = jax.lax.conv_general_dilated(x, w, (1, 1, 1), pads, lhs_dilation=p.stride, rhs_dilation=p.dilation,
                                         dimension_numbers=("NCDHW", "IODHW", "NCDHW"))
        y = y if b is None else y + b.reshape(-1, 1, 1, 1)
        y = activations[after.activation.name](y) if after.activation else y
        return jnp.concatenate([y, skip] if after.concat == "first" else [skip, y], 1) if after.concat else y

    return SelfTimedCall(lambda: layer(x, w, b, skip).block_until_ready(),
                         lambda y: torch.from_numpy(numpy.array(y.astype("float32"))).to(t.x.device))


_BUILDERS: dict[str, Callable[[Setting, Tensors], Callable]] = {
    OURS: _ours, CUDNN: _cudnn("channels_first"), CUDNN_LAST: _cudnn("channels_last"), COMPILED: _compiled,
    MATMUL: _matmul, JAX: _jax,
}
