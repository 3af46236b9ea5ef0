"""From tensors to launches: the plan of the problem that they ask for, and running it.

The plan of a call is remembered by its shapes, strides and alignments, so a repeated call decides nothing again. Every
function returns without a synchronisation and allocates through torch alone.
"""

import functools
import os
from contextlib import nullcontext
from math import prod

import torch

from . import device as devices
from . import lowering, search
from .binding import FUSION, Descriptor, Record, bind, load
from .device import Device
from .geometry import ceil_div
from .plan import plan
from .problem import BACKWARD, Epilogue, exceed_31_bits
from .tensors import DTYPES, empty, even_step, layout_of, memory_format, problem_of, reach, weight_strides

BLOCK = 1024  # elements per program of an elementwise launch


@functools.lru_cache(maxsize=None)
def interpreting() -> bool:
    """Kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def _unsupported(device_type: str, index: int, dtype: torch.dtype) -> str | None:
    if dtype not in DTYPES:
        return (f"dtype {dtype} is not one of {', '.join(DTYPES.values())}; complex and integer tensors run on "
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
            keep_pre=False, records=None):
    """y [N, CO, *out_size] and the value before the activation (None unless keep_pre), in one launch of the layer.

    y has x's memory format, or is written into out, any view of that shape. Sizes are checked by the caller. records is
    the caller's own memory of calls that differ in nothing but where their tensors lie, and in precision.
    """
    if b is not None and not b.is_contiguous():
        b = b.contiguous()
    key = (x.stride(), x.data_ptr() % 16, w.stride(), w.data_ptr() % 16, precision,
           b if b is None else b.data_ptr() % 16, residual if residual is None else _place(residual),
           out if out is None else _place(out))
    if records is None:
        records = _records
        key += (x.shape, w.shape, x.dtype, x.device, out_size, stride, padding, dilation, groups, activation, keep_pre)
    record = records.get(key)
    if record is None:
        y = empty((x.shape[0], w.shape[1] * groups, *out_size), x) if out is None else out
        if y.numel() == 0:
            return y, torch.empty_like(y) if keep_pre else None
        epilogue = Epilogue(b is not None, residual is not None, activation, keep_pre)
        record = _bind("forward", x, w, y, epilogue, stride, padding, dilation, groups, precision, residual)
        _remember(records, key, record)
        record.result = y.shape, y.stride()
    y = x.new_empty_strided(*record.result) if out is None else out
    pre = torch.empty_like(y) if keep_pre else None
    _gather(record, x, w, y, b, residual, pre)
    return y, pre


def grad_input(dz, w, *, in_size, stride, padding, dilation, groups, precision):
    """dx [N, CI, *in_size] in dz's memory format."""
    dx = empty((dz.shape[0], w.shape[0], *in_size), dz)
    if dz.numel() == 0 or w.numel() == 0:
        return dx.zero_()
    if dx.numel():
        record = _record("grad_input", dx, w, dz, stride, padding, dilation, groups, precision)
        _gather(record, dz, w, dx, None, None, None)
    return dx


def grad_weight(x, dz, *, kernel, strides, stride, padding, dilation, groups, precision):
    """dw [CI, CO / groups, *kernel] in these strides."""
    dw = x.new_empty_strided((x.shape[1], dz.shape[1] // groups, *kernel), strides)
    if x.numel() == 0 or dz.numel() == 0:
        return dw.zero_()
    if dw.numel():
        record = _record("grad_weight", x, dw, dz, stride, padding, dilation, groups, precision)
        _grad_weight(record, x, dz, dw)
    return dw


def run(record: Record, x, w, y, b=None, residual=None) -> None:
    """Every launch of a bound plan (binding.bind) on the layer's tensors, gradients in the places of what they are of.

    Written is y forward, x by the input gradient and w by the weight gradient. The tensors must be those of the plan's
    problem: nothing is checked. This is how a config is tried without becoming what calls of that shape use.
    """
    direction = record.plan.problem.direction
    if direction == "forward":
        _gather(record, x, w, y, b, residual, None)
    elif direction == "grad_input":
        _gather(record, y, w, x, None, None, None)
    else:
        _grad_weight(record, x, y, w)


def _grad_weight(record: Record, x, dz, dw) -> None:
    problem, shares = record.plan.problem, record.plan.config.shares
    taps, co = problem.taps, problem.co_group
    accumulator = torch.float64 if x.dtype is torch.float64 else torch.float32
    # Where dz is split, a tap that meets no place has no program, so parts start at zero.
    allocate = torch.zeros if record.constants.get("SPLIT", 1) > 1 else torch.empty
    parts = allocate((shares, x.shape[1], taps, co), dtype=accumulator, device=x.device)
    with _on(x):
        record.launch(x.device.index, (x, dz, parts),
                      (*x.stride(), *dz.stride(), *(parts.stride(i) for i in (0, 1, 3, 2))))
        _sum_weights(parts, dw)


def _sum_weights(parts, dw) -> None:
    """dw = the shares parts [shares, ci, tap, co], added in order."""
    shares, _, taps, co = parts.shape
    strides, size = weight_strides(dw, packed=False), parts[0].numel()
    target = dw if strides else torch.empty(dw.shape, dtype=dw.dtype, device=dw.device)
    load()["sum_parts"][(ceil_div(size, BLOCK),)](
        parts, target, size, shares, co, taps, *(strides or weight_strides(target, packed=False)), BLOCK=BLOCK, **FUSION)
    if target is not dw:
        dw.copy_(target)


def _sum_biases(parts, db) -> None:
    """db = the shares parts [shares, co], added in order."""
    shares, co = parts.shape
    load()["sum_parts"][(ceil_div(co, BLOCK),)](parts, db, co, shares, co, 1, 0, 1, 0, BLOCK=BLOCK, **FUSION)


def backward(dy, x, w, saved, bias, w_strides, stride, padding, dilation, groups, precision, activation):
    """(dx, dw, db): all gradients, from what is saved for the activation's derivative; db is None unless bias. In one pass
    over memory where that is possible and better, else one after the other: the same values but for the order of sums.
    """
    if stride == tuple(w.shape[2:]) and x.dtype.itemsize == 2 and (saved is None or saved.stride() == dy.stride()):
        found = _one_pass(dy, x, w, saved, bias, w_strides, stride, padding, dilation, groups, precision, activation)
        if found is not None:
            return found
    dz = dy if activation is None else activation_grad(dy, saved, activation)
    given = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, precision=precision)
    return (grad_input(dz, w, in_size=tuple(x.shape[2:]), **given),
            grad_weight(x, dz, kernel=tuple(w.shape[2:]), strides=w_strides, **given), grad_bias(dz) if bias else None)


def _one_pass(dy, x, w, saved, bias, w_strides, stride, padding, dilation, groups, precision, activation):
    """backward by its own kernel, None where there is none for these tensors or separate products are better. dz is rounded
    as the separate products find it."""
    key = (BACKWARD, x.shape, x.stride(), x.data_ptr() % 16, dy.shape, dy.stride(), dy.data_ptr() % 16, w.shape,
           w.stride(), w.data_ptr() % 16, x.dtype, x.device, padding, dilation, groups, activation, bias,
           saved is None or saved.data_ptr() % 16)
    record = _records.get(key, key)
    if record is key:
        epilogue = Epilogue(bias, activation=activation)
        problem = problem_of(BACKWARD, x, w, dy, epilogue, stride, padding, dilation, groups, precision)
        device, like = _device(x), empty(x.shape, dy if saved is None else saved)
        possible = x.numel() and weight_strides(w, packed=False) and problem.y_layout == layout_of(like)
        config = search.one_pass(problem, device) if possible else None
        record = _remember(_records, key, config and bind(plan(problem, device, config)))
    if record is None:
        return None
    shares, taps, co = record.plan.config.shares, record.plan.problem.taps, dy.shape[1]
    residues = taps if record.constants["Z_LAST"] else stride[0] * stride[1]
    dx, dw = empty(x.shape, dy if saved is None else saved), w.new_empty_strided(w.shape, w_strides)
    parts = torch.empty((shares, x.shape[1], taps, co), dtype=torch.float32, device=x.device)
    sums = torch.empty((shares * residues, co), dtype=torch.float32, device=x.device) if bias else None
    db = torch.empty(co, dtype=x.dtype, device=x.device) if bias else None
    with _on(x):
        record.launch(x.device.index, (dy, x, w, saved, dx, parts, sums),
                      (*dy.stride(), *x.stride(), *dx.stride(), *weight_strides(w, packed=False),
                       *(parts.stride(i) for i in (0, 1, 3, 2))))
        _sum_weights(parts, dw)
        if bias:
            _sum_biases(sums, db)
    return dx, dw, db


def grad_bias(dz):
    """db [CO], the sum of dz over all places."""
    n, co, *sizes = dz.shape
    db = torch.empty(co, dtype=dz.dtype, device=dz.device)
    if dz.numel() == 0:
        return db.zero_()
    places, accumulator = n * prod(sizes), torch.float64 if dz.dtype is torch.float64 else torch.float32
    block_c, block_p = (32, 64) if dz.stride(1) == 1 else (1, 1024)
    if interpreting():
        block_p = min(block_p, 64)
    share = block_p * ceil_div(places, block_p * min(256, max(1, places // (8 * block_p))))
    shares = ceil_div(places, share)
    parts = torch.empty((shares, co), dtype=accumulator, device=dz.device)
    kernels = load()
    with _on(dz):
        kernels["grad_bias"][(ceil_div(co, block_c), shares)](
            dz, parts, places, share, co, *sizes, *dz.stride(), BLOCK_C=block_c, BLOCK_P=block_p,
            ACC=kernels[accumulator], INDEX=kernels["int64" if exceed_31_bits(reach(dz)) else "int32"], **FUSION)
        _sum_biases(parts, db)
    return db


def activation_grad(dy, saved, activation):
    """dz = dy * derivative, in saved's memory format and dtype."""
    dz = torch.empty(saved.shape, dtype=saved.dtype, device=saved.device, memory_format=memory_format(saved))
    if dz.numel() == 0:
        return dz
    n, c, *sizes = dz.shape
    flat = dy.stride() == saved.stride() == dz.stride()
    kernels = load()
    a, b = (*activation.parameters, 0.0, 0.0)[:2]
    with _on(dz):
        kernels["activation_grad"][(ceil_div(dz.numel(), BLOCK),)](
            dy, saved, dz, dz.numel(), c, *sizes, *dy.stride(), *saved.stride(), *dz.stride(),
            LAST=dz.stride(1) == 1, FLAT=flat, DERIVATIVE=kernels["activations"][activation.name][1], A=a, B=b,
            ACC=kernels[torch.float64 if dz.dtype is torch.float64 else torch.float32], BLOCK=BLOCK, **FUSION)
    return dz


def _gather(record: Record, x, w, y, b, residual, pre) -> None:
    """The forward or the input gradient: x is gathered, y written."""
    if y.is_cuda and torch.cuda.current_device() != y.device.index:
        with torch.cuda.device(y.device):
            return _gather(record, x, w, y, b, residual, pre)
    if record.copies:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    if record.packs:
        w = _pack(w)
    strides = None if record.compiled else _gather_strides(record, x, w, y, residual)
    if record.describe is not None:
        x = record.describe(x)
    record.launch(y.device.index, (x, w, y, b, residual, pre), strides)


def _gather_strides(record: Record, x, w, y, residual) -> tuple[int, ...]:
    problem, config = record.plan.problem, record.plan.config
    ci, co, tap = weight_strides(w, record.packs)
    row, red = (co, ci) if problem.direction == "forward" else (ci, co)
    rest = residual.stride() if residual is not None else (0,) * 5
    x_strides = x.stride()
    if config.path == "descriptor":
        step = even_step(x)
        record.describe, x_strides = Descriptor(x, *lowering.described(problem, config, step)), (*x_strides[:4], step)
    return *x_strides, row, red, tap, problem.ci_group * ci, *y.stride(), *rest


def _pack(w):
    """w as [ci, tap, co], output channels side by side."""
    ci, co, kd, kh, kw = w.shape
    packed = torch.empty((ci, kd * kh * kw, co), dtype=w.dtype, device=w.device)
    load()["pack"][(ceil_div(w.numel(), BLOCK),)](
        w, packed, w.numel(), co, kd * kh * kw, kh, kw, *w.stride(), BLOCK=BLOCK, **FUSION)
    return packed


def _place(t) -> tuple:
    """What of a tensor's place in memory specialises a kernel."""
    return t.stride(), t.data_ptr() % 16


_records: dict = {}


def _record(direction, x, w, y, stride, padding, dilation, groups, precision) -> Record:
    """The record of a gradient; x, w and y are the layer's (or their gradients'), whatever the direction."""
    key = (direction, x.shape, x.stride(), w.shape, w.stride(), y.shape, y.stride(), x.dtype, x.device, stride,
           padding, dilation, groups, precision, x.data_ptr() % 16, w.data_ptr() % 16, y.data_ptr() % 16)
    record = _records.get(key)
    if record is None:
        record = _bind(direction, x, w, y, Epilogue(), stride, padding, dilation, groups, precision)
        _remember(_records, key, record)
    return record


def _remember(records: dict, key, record: Record) -> Record:
    if len(records) >= 4096:  # shapes without end: forget rather than grow
        records.clear()
    records[key] = record
    return record


def _bind(direction, x, w, y, epilogue, stride, padding, dilation, groups, precision, residual=None) -> Record:
    problem = problem_of(direction, x, w, y, epilogue, stride, padding, dilation, groups, precision, residual)
    record = bind(plan(problem, _device(x)))
    record.packs = direction != "grad_weight" and (record.packs or weight_strides(w, packed=False) is None)
    return record


def _device(t) -> Device:
    return Device.named("nvidia_h200") if interpreting() else devices.current(t.device.index or 0)


def _on(t):
    return torch.cuda.device(t.device) if t.is_cuda and torch.cuda.current_device() != t.device.index else nullcontext()
