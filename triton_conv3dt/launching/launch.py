"""From tensors to launches: the plan of the problem that they ask for, and running it.

The plan of a call is remembered by its shapes, strides and alignments and by the constraints, so a repeated call decides
nothing again. Every function returns without a synchronisation and allocates through torch alone.
"""

from dataclasses import replace
from math import prod

import torch

from ..planning import device as devices
from ..planning import gradients, norms, search
from ..planning.constraints import current
from ..planning.device import Device
from ..planning.plan import plan
from ..problems.problem import BACKWARD, Epilogue, exceed_31_bits
from .binding import Call, interpreting
from .tensors import (
    NAMES, channel_parts, empty, memory_format, problem_of, reach, run_memory, shared_axes, statistics_of)

AS_SAVED = "as saved"  # the memory format of what is saved: asked for as rarely as a plan, since PyTorch takes its time to tell


def _unsupported(device_type: str, index: int, dtype: torch.dtype) -> str | None:
    if dtype not in NAMES:
        return (f"dtype {dtype} is not one of {', '.join(NAMES.values())}; complex and integer tensors run on "
                "backend='torch'")
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton is not installed or cannot be imported ({error}); pip install triton"
    if interpreting():
        return None if device_type == "cpu" else "TRITON_INTERPRET=1 runs kernels on CPU tensors; unset it for the GPU"
    if device_type != "cuda":
        return (f"the tensors are on {device_type!r} and the kernels need a CUDA GPU; "
                "with TRITON_INTERPRET=1 they run on CPU tensors, slowly")
    capability = torch.cuda.get_device_capability(index)
    if capability < (least := devices.LEAST_CAPABILITY):
        return f"the GPU has capability {capability[0]}.{capability[1]} and the kernels need {least[0]}.{least[1]} or later"
    return None


# As torch.compiler.assume_constant_result does, without importing the compiler.
_unsupported._dynamo_marked_constant = True


def unsupported(x: torch.Tensor, w: torch.Tensor) -> str | None:
    """Why the Triton kernels cannot take these tensors here, or None."""
    return _unsupported(x.device.type, x.device.index or 0, x.dtype)


def forward(x, w, b, residual, out_size, stride, padding, dilation, groups, precision, activation, out=None,
            keep_pre=False, records=None, concat=None, concat_first=False, statistics=None):
    """y [N, CO, *out_size] and the value before the activation (None unless keep_pre), in one launch of the layer.

    y has x's memory format, or is written into out, any view of that shape. The other value has y's strides, which is
    how the kernels write it. With concat [N, C, *out_size], y has a copy of it beside the layer's channels, and the
    kernel writes into their part of y. With statistics, "instance" or "batch", the mean and biased variance of what the layer
    writes follow, as statistics_of has them, from partial sums of that launch. Sizes are checked by the caller. records is the
    caller's own memory of calls that differ in nothing but where their tensors lie, and in precision.
    """
    if b is not None and not b.is_contiguous():
        b = b.contiguous()
    key = (x.stride(), x.data_ptr() % 16, w.stride(), w.data_ptr() % 16, precision,
           b if b is None else b.data_ptr() % 16, residual if residual is None else _place(residual),
           out if out is None else _place(out), concat if concat is None else (concat.shape[1], concat_first),
           statistics, current())
    if records is None:
        records = _records
        key += (x.shape, w.shape, x.dtype, x.device, out_size, stride, padding, dilation, groups, activation, keep_pre)
    call = records.get(key)
    if call is None:
        channels, others = w.shape[1] * groups, 0 if concat is None else concat.shape[1]
        y = empty((x.shape[0], channels + others, *out_size), x) if out is None else out
        own = y if concat is None else channel_parts(y, channels, concat_first)[0]
        if y.numel() == 0:
            return y, _like(own) if keep_pre else None, *(statistics_of(own, statistics) if statistics else ())
        epilogue = Epilogue(b is not None, residual is not None, activation, keep_pre, statistics)
        call = _bound(records, key, x, problem_of(
            "forward", x, w, own, epilogue, stride, padding, dilation, groups, precision, residual))
        call.result = y.shape, y.stride()
    y = own = x.new_empty_strided(*call.result) if out is None else out
    if concat is not None:
        own, other = channel_parts(y, w.shape[1] * groups, concat_first)
        other.copy_(concat)
    pre = _like(own) if keep_pre else None
    if statistics is None:
        call.run((x, w, own, b, residual, pre))
        return y, pre
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    size = own.shape[1:2] if statistics == "batch" else own.shape[:2]
    moments = own.new_empty(size, dtype=wide), own.new_empty(size, dtype=wide)
    call.run((x, w, own, b, residual, pre, *moments))
    return y, pre, *moments


def grad_input(dz, w, *, in_size, stride, padding, dilation, groups, precision, form=None, records=None):
    """dx [N, CI, *in_size] in this memory format, or in dz's. records, here and below: the caller's own memory of calls that
    differ in values alone."""
    key = "grad_input"
    if records is None:
        records, key = _records, (key, dz.shape, *_place(dz), w.shape, *_place(w), dz.dtype, dz.device, in_size, stride,
                                  padding, dilation, groups, precision, form, current())
    call = records.get(key)
    if call is None:
        dx = empty((dz.shape[0], w.shape[0], *in_size), dz, form)
        if not (dx.numel() and dz.numel() and w.numel()):
            return dx.zero_()
        call = _bound(records, key, dz, problem_of(
            "grad_input", dx, w, dz, Epilogue(), stride, padding, dilation, groups, precision))
        call.result = dx.shape, dx.stride()
    dx = dz.new_empty_strided(*call.result)
    call.run((dx, w, dz))
    return dx


def grad_weight(x, dz, **given):
    """dw [CI, CO / groups, *kernel] in these strides."""
    return grad_weight_and_bias(x, dz, bias=False, **given)[0]


def grad_weight_and_bias(x, dz, *, kernel, strides, stride, padding, dilation, groups, precision, bias: bool, records=None):
    """(dw, db): db is None unless bias, and summed on the way where the kernel can, which then reads dz once for both."""
    dw, key = x.new_empty_strided((x.shape[1], dz.shape[1] // groups, *kernel), strides), "grad_weight"
    if records is None:
        records, key = _records, (key, x.shape, *_place(x), dz.shape, *_place(dz), x.dtype, x.device, kernel, strides, stride,
                                  padding, dilation, groups, precision, bias, current())
    call = records.get(key)
    if call is None:
        if not (dw.numel() and x.numel() and dz.numel()):
            return dw.zero_(), grad_bias(dz) if bias else None
        call = _bound(records, key, x, problem_of(
            "grad_weight", x, dw, dz, Epilogue(bias), stride, padding, dilation, groups, precision))
    if "db" not in call.schedule.operands:
        call.run((x, dw, dz))
        return dw, grad_bias(dz) if bias else None
    db = dz.new_empty((dz.shape[1],))
    call.run((x, dw, dz, db))
    return dw, db


def bind(plan) -> Call:
    """A plan that can be run."""
    return Call(plan.schedule, plan)


def run(call: Call, x, w, y, b=None, residual=None) -> None:
    """Every launch of a bound plan on the layer's tensors, gradients in the places of what they are of.

    Written is y forward, x by the input gradient and w by the weight gradient. The tensors must be those of the plan's
    problem: nothing is checked. This is how a config is tried without becoming what calls of that shape use.
    """
    call.run((x, w, y, b, residual, None)[:len(call.schedule.operands)])


def backward(dy, x, w, saved, bias, w_strides, stride, padding, dilation, groups, precision, activation):
    """(dx, dw, db): all gradients, from what is saved for the activation's derivative; db is None unless bias. In one pass
    over memory where that is possible and better, else one after the other, of a dz that is made once: the same values but for the
    order of sums. What is bound for them is found at once.
    """
    key = ("backward", dy.shape, *_place(dy), x.shape, *_place(x), w.shape, *_place(w), saved if saved is None else _place(saved),
           x.dtype, x.device, bias, w_strides, stride, padding, dilation, groups, precision, activation, current())
    records = _records.get(key)
    if records is None:
        records = _remember(_records, key, {})
    if stride == tuple(w.shape[2:]) and x.dtype.itemsize == 2 and (saved is None or saved.stride() == dy.stride()):
        found = _one_pass(records, dy, x, w, saved, bias, w_strides, stride, padding, dilation, groups, precision, activation)
        if found is not None:
            return found
    given = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, precision=precision)
    last, dz, db = dy.stride(1) != 1 and _in_channels_last(records, dy, x, w, bias, activation, given), dy, None
    made = last or activation is not None
    if made:
        dz, db = make_dz(dy, saved, activation, bias, torch.channels_last_3d if last else AS_SAVED, records)
    given["records"] = records
    dx = grad_input(dz, w, in_size=tuple(x.shape[2:]), form=memory_format(dy) if last else None, **given)
    dw, summed = grad_weight_and_bias(x, dz, kernel=tuple(w.shape[2:]), strides=w_strides, bias=bias and not made, **given)
    return dx, dw, db if made else summed


def _in_channels_last(records, dy, x, w, bias, activation, given) -> bool:
    """Whether dz is made in channels_last, though dy is not."""
    found = records.get("channels_last")
    if found is None:
        problem = problem_of(BACKWARD, x, w, dy, Epilogue(bias, activation=activation), **given)
        found = bool(x.numel() and dy.numel() and w.numel()) and gradients.channels_last(problem, _device(x), current())
        records["channels_last"] = found
    return found


def _one_pass(records, dy, x, w, saved, bias, w_strides, stride, padding, dilation, groups, precision, activation):
    """backward by its own kernel, None where there is none for these tensors or separate products are better. dz is rounded
    as the separate products find it."""
    call = records.get(BACKWARD, records)
    if call is records:
        problem = problem_of(BACKWARD, x, w, dy, Epilogue(bias, activation=activation), stride, padding, dilation,
                             groups, precision)
        device, like = _device(x), empty(x.shape, dy if saved is None else saved)
        alike = like.stride(1 if problem.y_layout == "channels_last" else 4) == 1  # the kernel writes dx as it reads dy
        config = search.one_pass(problem, device, current()) if x.numel() and alike else None
        call = records[BACKWARD] = config and bind(plan(problem, device, config))
        if call is not None:
            call.result = like.shape, like.stride()
    if call is None:
        return None
    dx, dw = x.new_empty_strided(*call.result), w.new_empty_strided(w.shape, w_strides)
    db = dy.new_empty((dy.shape[1],)) if bias else None
    call.run((dy, x, w, saved, dx, dw, db))
    return dx, dw, db


def grad_bias(dz):
    """db [CO], the sum of dz over all places."""
    if dz.numel() == 0:
        return dz.new_zeros((dz.shape[1],))
    return make_dz(dz, None, None, True, None)[1]


def activation_grad(dy, saved, activation):
    """dz = dy * derivative, in saved's memory format and dtype."""
    return make_dz(dy, saved, activation, False, AS_SAVED)[0]


def make_dz(dy, saved, activation, bias: bool, form, records=None):
    """(dz, db) in one pass over memory: dz in this memory format, or AS_SAVED, dy itself where that is None, and db its sum, None
    unless bias."""
    key = "make_dz"
    if records is None:
        records, key = _records, (key, dy.shape, *_place(dy), saved if saved is None else _place(saved), dy.dtype, dy.device,
                                  activation, bias, form)
    call = records.get(key)
    like = dy if saved is None else saved
    if call is None:
        dz = None if form is None else empty(like.shape, like, None if form == AS_SAVED else form)
        if dy.numel() == 0:
            return dy if dz is None else dz, dy.new_zeros((dy.shape[1],)) if bias else None
        call = _remember(records, key, Call(_schedule_of_dz(dy, saved, dz, activation, bias)))
        call.result = None if form is None else (dz.shape, dz.stride())
    dz = None if form is None else like.new_empty_strided(*call.result)
    db = dy.new_empty((dy.shape[1],)) if bias else None
    call.run((dy, saved, dz, db))
    return dy if dz is None else dz, db


def _schedule_of_dz(dy, saved, dz, activation, bias: bool):
    named = {name: t for name, t in zip(gradients.OPERANDS, (dy, saved, dz)) if t is not None}
    axes = shared_axes([*named.values()], whole=not bias)
    most = dict(most_places=64) if interpreting() else {}
    return gradients.make_dz(
        dy.shape[0], dy.shape[1], tuple(dy.shape[2:]), axes, {name: run_memory(t, axes) for name, t in named.items()}, activation,
        sums=bias, double=dy.dtype is torch.float64, wide=exceed_31_bits(*map(reach, named.values())), **most)


def normalise(y, mean, variance, scale, shift, eps, activation):
    """activation((y - mean) / sqrt(variance + eps) * scale + shift) in y's memory format and dtype, in one pass. mean and
    variance: [N, C] or [C]; scale and shift: [C], of any dtype, or None.
    """
    dense = y.contiguous(memory_format=memory_format(y))
    vectors = [t if t is None else t.contiguous() for t in (mean, variance, scale, shift)]
    key = ("normalise", y.shape, *_place(dense), y.dtype, y.device, mean.shape, eps, activation,
           *(t if t is None else (t.data_ptr() % 16, t.dtype) for t in vectors))
    call = _records.get(key)
    if call is None:
        if y.numel() == 0:
            return torch.empty_like(dense)
        n, c, *sizes = y.shape
        call = _remember(_records, key, Call(norms.normalise(
            n, c, prod(sizes), activation, eps=eps, batch=mean.dim() == 1, channels_last=not dense.is_contiguous(),
            scaled=scale is not None, shifted=shift is not None, double=y.dtype is torch.float64,
            wide=exceed_31_bits(y.numel()))))
    z = dense.new_empty_strided(dense.shape, dense.stride())
    call.run((dense, z, *vectors))
    return z


def _like(t):
    """Memory for another tensor in exactly the strides of t."""
    return t.new_empty_strided(t.shape, t.stride())


def _place(t) -> tuple:
    """What of a tensor's place in memory specialises a kernel."""
    return t.stride(), t.data_ptr() % 16


_records: dict = {}


def _bound(records: dict, key, t, problem) -> Call:
    """The call of a problem on the device of t, as the constraints are now; remembered."""
    return _remember(records, key, bind(plan(problem, _device(t), constraints=current())))


def _remember(records: dict, key, what):
    if len(records) >= 4096:  # shapes without end: forget rather than grow
        records.clear()
    records[key] = what
    return what


def _device(t) -> Device:
    if interpreting():
        return replace(Device.named("nvidia_h200"), interpreted=True)
    return devices.current(t.device.index or 0)
