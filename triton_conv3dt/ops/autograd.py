"""The differentiable operators. Forward, grad_input and grad_weight are each other's derivatives, so every order of
derivative and forward mode come from these three products, and an activation adds one elementwise factor.

An operator is called with the arguments of its schema (schemas.py). Where the dispatcher would do nothing but find the
implementation, it is left out: it costs more than many of these layers take on a GPU.
"""

from functools import partial

import torch
from torch._C import _AutoDispatchBelowAutograd
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction  # what Function is below functorch's dispatch

from ..checking import reference
from ..launching.tensors import channel_parts
from . import flops, internals, vmap  # noqa: F401 (flops and vmap register their rules)
from .arguments import refuse_derivatives
from .schemas import IMPLEMENTATIONS, NAMESPACE, activation_of, backward, library, with_tuples

_is_compiling, _is_grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled
_PLAIN_TYPES = frozenset((torch.Tensor, torch.nn.Parameter))
_OPS = getattr(torch.ops, NAMESPACE)


def _plain(tensors) -> bool:
    """Whether nothing is active that has to see the operator: no compiler, mode, transform, autocast or subclass."""
    if (_is_compiling() or internals.has_dispatch_mode() or internals.has_function_mode() or internals.has_transform()
            or internals.forward_level._current_level >= 0 or internals.is_autocasting() or internals.is_tracing()
            or internals.has_profiler() or internals.has_vmap_mode()):
        return False
    for t in tensors:
        if t is not None and (type(t) not in _PLAIN_TYPES or t.is_neg() or internals.is_wrapped(t)):
            return False
    return tensors[0].is_cuda or tensors[0].is_cpu


def _transformed() -> bool:
    """Whether a transform that may want derivatives, or a batch of them, is active."""
    return internals.has_transform() or internals.forward_level._current_level >= 0 or internals.has_vmap_mode()


def _tracked(tensors) -> bool:
    """Whether a derivative may be asked for."""
    return (_is_grad_enabled() and internals.any_requires_grad(*tensors)
            or internals.forward_level._current_level >= 0)


class Operator:
    """One operator: `operator(*args)` with `tensors` operands first; `function(direct, *args)` is differentiable.

    memory is what a caller may offer the implementation, by name: `records`, which one who repeats himself keeps, and
    `into`, a place for the result, which need not be taken.
    """

    def __init__(self, name: str, tensors: int, function):
        self.implementation = IMPLEMENTATIONS[name]
        self.overload = getattr(getattr(torch.ops, NAMESPACE), name).default
        self.tensors, self.function = tensors, function
        library.impl(name, self._autograd, "Autograd")

    def __call__(self, *args, **memory):
        tensors = args[:self.tensors]
        if _plain(tensors):
            if _tracked(tensors):
                return self.function(True, *args, **memory)
            return self.implementation(*args, **memory)
        if _is_compiling() or not internals.is_autocasting():
            return self.overload(*args)
        # The dtypes are settled by now, and those of a derivative are those of its forward pass.
        with internals.without_autocast():
            return self.overload(*args)

    def below_autograd(self, direct: bool, *args, **memory):
        """The result without derivatives; direct where the arguments are known to be plain."""
        if direct:
            return self.implementation(*args, **memory)
        # A Function switches both gradient modes off; under functorch, the levels below this one need them.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), _AutoDispatchBelowAutograd():
            return self.overload(*args)

    def _autograd(self, *args):
        if _tracked(args[:self.tensors]):
            with enable_single_level_autograd_function():
                return self.function(False, *with_tuples(args))
        with _AutoDispatchBelowAutograd():
            return self.overload(*args)


def _saved_where_needed(ctx, a, b):
    """(a, b) of a product of the two, each only where the gradient of the other is asked for."""
    needs_a, needs_b = ctx.needs_input_grad[1:3]
    if internals.forward_level._current_level >= 0:
        ctx.save_for_forward(a, b)
    return a if needs_b else None, b if needs_a else None


def dense_strides(w: torch.Tensor) -> tuple[int, ...]:
    """The strides of w's gradient: w's own where w is dense, else what torch.empty_like would give."""
    if w.is_contiguous():
        return w.stride()
    span = 1
    for stride, size in sorted(zip(w.stride(), w.shape)):
        if size > 1 and stride != span:
            return torch.empty_like(w, device="meta").stride()
        span *= size
    return w.stride()


def _sum(a, b):
    return b if a is None else a if b is None else a + b


def _own(ctx, saved):
    """The layer's channels of what was saved."""
    return saved if saved is None or ctx.concat is None else channel_parts(saved, *ctx.concat)[0]


# The names of these classes are what a profile and a tensor's grad_fn show.

class ConvTranspose3d(_SingleLevelFunction):
    """forward, and forward_concat where there is something to concatenate."""

    @staticmethod
    def forward(ctx, direct, x, w, b, residual, concat, concat_first, out_size, geometry, activation, parameters,
                keep_pre, run):
        rest = (out_size, *geometry, activation, parameters, keep_pre)
        if concat is None:
            ctx.concat = None
            y, pre = (run or forward.below_autograd)(direct, x, w, b, residual, *rest)
        else:
            ctx.concat = w.shape[1] * geometry[3], concat_first
            ctx.concat_shape, ctx.concat_dtype = concat.shape, concat.dtype
            y, pre = forward_concat.below_autograd(direct, x, w, b, residual, concat, concat_first, *rest)
        ctx.set_materialize_grads(False)
        ctx.out_size, ctx.geometry, ctx.keep_pre = out_size, geometry, keep_pre
        ctx.activation, ctx.parameters = activation, parameters
        ctx.in_size, ctx.kernel, ctx.w_strides = tuple(x.shape[2:]), tuple(w.shape[2:]), dense_strides(w)
        saved = None
        if activation:
            saved = y if activation_of(activation, parameters).derivative_from == "output" else pre
        needs_x, needs_w, needs_b, needs_residual = ctx.needs_input_grad[1:5]
        needs_saved = needs_x or needs_w or needs_b or needs_residual
        ctx.save_for_backward(x if needs_w else None, w if needs_x else None, saved if needs_saved else None)
        if internals.forward_level._current_level >= 0:
            ctx.save_for_forward(x, w, saved)
        return (y, pre) if keep_pre else y

    @staticmethod
    def backward(ctx, dy, dpre=None):
        x, w, saved = ctx.saved_tensors
        _, needs_x, needs_w, needs_b, needs_residual, needs_concat, *rest = ctx.needs_input_grad
        dx = dw = db = dconcat = None
        if ctx.concat is not None:
            saved = _own(ctx, saved)
            if dy is not None:
                dy, dconcat = channel_parts(dy, *ctx.concat)
                dconcat = dconcat.to(ctx.concat_dtype) if needs_concat else None
            if not (needs_x or needs_w or needs_b or needs_residual):
                dy = dpre = None
        others = dconcat, *(None for _ in rest)
        in_one_pass = dpre is None and needs_x and needs_w and not needs_residual
        if dy is not None and in_one_pass and not (_is_grad_enabled() or _transformed()):
            # Nobody differentiates these, so they may come from one pass over memory.
            args = (dy, x, w, saved, needs_b, ctx.w_strides, *ctx.geometry, ctx.activation, ctx.parameters)
            dx, dw, db = backward(*args) if _plain((dy, x, w, saved)) else _OPS.backward(*args)
            return None, dx, dw, db if needs_b else None, None, *others
        if dy is not None and ctx.activation:
            dy = activation_grad(dy, saved, ctx.activation, ctx.parameters)
        dz = _sum(dy, dpre)
        if dz is not None:
            if needs_x:
                dx = grad_input(dz, w, ctx.in_size, *ctx.geometry)
            if needs_w:
                dw = grad_weight(x, dz, ctx.kernel, ctx.w_strides, *ctx.geometry)
            if needs_b:
                db = grad_bias(dz)
        return None, dx, dw, db, dz if needs_residual else None, *others

    @staticmethod
    def jvp(ctx, _, tx, tw, tb, tresidual, tconcat, *__):
        x, w, saved = ctx.saved_tensors
        linear = (ctx.out_size, *ctx.geometry, None, (), False)
        tz = tresidual
        if tx is not None:
            tz, tb = forward(tx, w, tb, tz, *linear)[0], None
        if tw is not None:
            tz, tb = forward(x, tw, tb, tz, *linear)[0], None
        if tb is not None:
            size = (x.shape[0], tb.shape[0], *ctx.out_size)
            tz = _sum(tb.view(-1, 1, 1, 1).expand(size), tz)
        if tz is None:  # the only tangent is concat's
            ty = tz = x.new_zeros((x.shape[0], ctx.concat[0], *ctx.out_size))
        else:
            ty = activation_grad(tz, _own(ctx, saved), ctx.activation, ctx.parameters) if ctx.activation else tz
        if ctx.concat is not None:
            tconcat = x.new_zeros(ctx.concat_shape) if tconcat is None else tconcat
            ty = torch.cat((tconcat, ty) if ctx.concat[1] else (ty, tconcat), 1)
        return (ty, tz) if ctx.keep_pre else ty


class ConvTranspose3dGradInput(_SingleLevelFunction):
    @staticmethod
    def forward(ctx, direct, dz, w, in_size, *geometry):
        ctx.save_for_backward(*_saved_where_needed(ctx, dz, w))
        ctx.in_size, ctx.geometry = in_size, geometry
        ctx.out_size, ctx.kernel, ctx.w_strides = tuple(dz.shape[2:]), tuple(w.shape[2:]), dense_strides(w)
        return grad_input.below_autograd(direct, dz, w, in_size, *geometry)

    @staticmethod
    def backward(ctx, g):
        dz, w = ctx.saved_tensors
        _, needs_dz, needs_w, *rest = ctx.needs_input_grad
        d_dz = forward(g, w, None, None, ctx.out_size, *ctx.geometry, None, (), False)[0] if needs_dz else None
        d_w = grad_weight(g, dz, ctx.kernel, ctx.w_strides, *ctx.geometry) if needs_w else None
        return None, d_dz, d_w, *(None for _ in rest)

    @staticmethod
    def jvp(ctx, _, tdz, tw, *__):
        dz, w = ctx.saved_tensors
        first = None if tdz is None else grad_input(tdz, w, ctx.in_size, *ctx.geometry)
        return _sum(first, None if tw is None else grad_input(dz, tw, ctx.in_size, *ctx.geometry))


class ConvTranspose3dGradWeight(_SingleLevelFunction):
    @staticmethod
    def forward(ctx, direct, x, dz, kernel, w_strides, *geometry):
        ctx.save_for_backward(*_saved_where_needed(ctx, x, dz))
        ctx.kernel, ctx.w_strides, ctx.geometry = kernel, w_strides, geometry
        ctx.in_size, ctx.out_size = tuple(x.shape[2:]), tuple(dz.shape[2:])
        return grad_weight.below_autograd(direct, x, dz, kernel, w_strides, *geometry)

    @staticmethod
    def backward(ctx, g):
        x, dz = ctx.saved_tensors
        _, needs_x, needs_dz, *rest = ctx.needs_input_grad
        d_x = grad_input(dz, g, ctx.in_size, *ctx.geometry) if needs_x else None
        d_dz = forward(x, g, None, None, ctx.out_size, *ctx.geometry, None, (), False)[0] if needs_dz else None
        return None, d_x, d_dz, *(None for _ in rest)

    @staticmethod
    def jvp(ctx, _, tx, tdz, *__):
        x, dz = ctx.saved_tensors
        rest = (ctx.kernel, ctx.w_strides, *ctx.geometry)
        first = None if tx is None else grad_weight(tx, dz, *rest)
        return _sum(first, None if tdz is None else grad_weight(x, tdz, *rest))


class ConvTranspose3dGradBias(_SingleLevelFunction):
    @staticmethod
    def forward(ctx, direct, dz):
        ctx.size = dz.shape
        return grad_bias.below_autograd(direct, dz)

    @staticmethod
    def backward(ctx, g):
        return None, g.view(-1, 1, 1, 1).expand(ctx.size)

    @staticmethod
    def jvp(ctx, _, tdz):
        return grad_bias(tdz)


def _forward(direct, x, w, b, residual, *rest, **memory):
    return _forward_concat(direct, x, w, b, residual, None, False, *rest, **memory)


def _forward_concat(direct, x, w, b, residual, concat, concat_first, out_size, *rest, records=None, into=None, run=None):
    """The operator with derivatives: the pre-activation is kept, too, where the activation's derivative needs it. run: what
    launches the layer, where that is another operator."""
    *geometry, activation, parameters, keep_pre = rest
    needed = (activation is not None and activation_of(activation, parameters).derivative_from == "input"
              and (concat is None or _tracked((x, w, b, residual))))
    if into is not None and not needed:
        run = partial(forward.below_autograd, into=into)
    result = ConvTranspose3d.apply(direct, x, w, b, residual, concat, concat_first, out_size, geometry, activation,
                                   parameters, keep_pre or needed, run)
    y, pre = result if keep_pre or needed else (result, None)
    return y, pre if keep_pre else None if direct else x.new_empty((0,))


def _forward_out(direct, *args):
    refuse_derivatives(*args[:5])
    return forward_out.below_autograd(direct, *args)


def _activation_grad(direct, dy, saved, activation, parameters):
    """`activation_grad` in differentiable expressions, rounded once as the kernel rounds."""
    wide = torch.promote_types(saved.dtype, torch.float32)
    derivative = reference.activation_derivative(saved.to(wide), activation, parameters)
    return (derivative * dy.to(wide)).to(saved.dtype)


forward = Operator("forward", 4, _forward)
forward_out = Operator("forward_out", 5, _forward_out)
forward_concat = Operator("forward_concat", 5, _forward_concat)
grad_input = Operator("grad_input", 2, ConvTranspose3dGradInput.apply)
grad_weight = Operator("grad_weight", 2, ConvTranspose3dGradWeight.apply)
grad_bias = Operator("grad_bias", 1, ConvTranspose3dGradBias.apply)
activation_grad = Operator("activation_grad", 2, _activation_grad)
