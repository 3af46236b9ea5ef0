"""From tensors to launches: which kernel, tile and grid for a problem (`plan`, a value), and running it.

The plan of a call is remembered by its shapes, strides and alignments, so a repeated call decides nothing again. Every
function returns without a synchronisation and allocates through torch alone.
"""

import functools
import os
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

import torch

from . import config as configs
from . import device as devices
from . import lowering, store
from .binding import Descriptor, Record, bind, load
from .config import Config
from .device import Device
from .geometry import ceil_div, power_of_two_divisor
from .problem import Epilogue, Problem

DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}
BLOCK = 1024  # elements per program of an elementwise launch


@dataclass(frozen=True)
class Plan:
    """What runs for a problem on a device: the config, where it came from, and every launch in order."""

    problem: Problem
    device: Device
    config: Config
    source: str
    steps: tuple[str, ...]

    def __str__(self) -> str:
        p, d = self.problem, self.device
        lines = [f"problem   {p}", f"device    {d.name}, capability {d.capability[0]}.{d.capability[1]}, {d.sms} SMs"]
        lines += [f"phases    {name}: {axis.describe()}" for name, axis in zip("dhw", p.axes)]
        lines += [f"epilogue  {p.epilogue}"] if p.direction == "forward" else []
        lines += [f"config    {self.config}", f"source    {self.source}"]
        lines += [f"launch {i}  {step}" for i, step in enumerate(self.steps, 1)]
        lines.append(f"work      {p.flops / 1e9:.3f} GFLOP, {p.bytes / 1e6:.3f} MB moved at least")
        if self.roofline:
            time, bound = self.roofline
            lines.append(f"roofline  {time * 1e6:.1f} us by the vendor's rates, {bound} bound")
        return "\n".join(lines)

    @property
    def roofline(self) -> tuple[float, str] | None:
        """The least time in seconds, and what bounds it, "memory" or "compute"; None where the rates are not known."""
        p, d = self.problem, self.device
        if not d.bandwidth:
            return None
        memory, matmul = p.bytes / d.bandwidth, p.flops / (d.rate_16bit if p.item == 2 else d.rate_tf32)
        return max(memory, matmul), "memory" if memory >= matmul else "compute"


def plan(problem: Problem, device: Device, config: Config | None = None) -> Plan:
    """The plan of a problem: a function of problem, device and the files of tuned configs; the device need not be here.

    Raises:
        ValueError: the given config does not fit, with the reason.
    """
    found = store.Found(config, "given") if config else store.choose(problem, device)
    config, source = found.config, found.source
    if reason := configs.fits(config, problem, device):
        raise ValueError(f"config {config} does not fit {problem} on {device.name}: {reason}")
    steps = []
    if lowering.copies(problem, config):
        steps.append("copy x to channels_last (its taps shift along w by single elements)")
    if lowering.packs(problem, config):
        steps.append("pack the weight, output channels side by side (none for a weight in channels_last_3d)")
    kernel = "gather" if config.dense else "direct"
    if problem.direction == "grad_weight":
        kernel = "grad_weight" if config.dense else "grad_weight_direct"
    read = "" if problem.direction == "grad_weight" or not config.dense else f", reads by {lowering.form(problem, config)}"
    steps.append(f"{kernel}{read}, grid {lowering.grid(problem, config)}, {64 if problem.wide else 32}-bit offsets")
    if problem.direction == "grad_weight":
        steps.append(f"sum_parts, {config.shares} share{'s' * (config.shares > 1)} in order")
    return Plan(problem, device, config, source, tuple(steps))


def memory_format(t: torch.Tensor) -> torch.memory_format:
    """The format results take: channels_last_3d for a tensor that is laid out so, else contiguous, as PyTorch's do."""
    return torch._prims_common.suggest_memory_format(t)


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
    if capability < (8, 0):
        return f"the GPU has capability {capability[0]}.{capability[1]} and the kernels need 8.0 or later"
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
    key = (x.stride(), x.data_ptr() % 16, w.stride(), w.data_ptr() % 16, precision,
           b if b is None else b.data_ptr() % 16, residual if residual is None else _place(residual),
           out if out is None else _place(out))
    if records is None:
        records = _records
        key += (x.shape, w.shape, x.dtype, x.device, out_size, stride, padding, dilation, groups, activation, keep_pre)
    record = records.get(key)
    if record is None:
        y = _result((x.shape[0], w.shape[1] * groups, *out_size), x) if out is None else out
        if y.numel() == 0:
            return y, torch.empty_like(y) if keep_pre else None
        epilogue = Epilogue(b is not None, residual is not None, activation, keep_pre)
        record = _remember(records, key, _bind("forward", x, w, y, epilogue, stride, padding, dilation, groups, precision))
        record.result = y.shape, y.stride()
    y = x.new_empty_strided(*record.result) if out is None else out
    pre = torch.empty_like(y) if keep_pre else None
    _gather(record, x, w, y, b, residual, pre)
    return y, pre


def grad_input(dz, w, *, in_size, stride, padding, dilation, groups, precision):
    """dx [N, CI, *in_size] in dz's memory format."""
    dx = _result((dz.shape[0], w.shape[0], *in_size), dz)
    if dz.numel() == 0 or w.numel() == 0:
        return dx.zero_()
    if dx.numel():
        record = _record("grad_input", dx, w, dz, stride, padding, dilation, groups, precision)
        _gather(record, dz, w, dx, None, None, None)
    return dx


def grad_weight(x, dz, *, kernel, stride, padding, dilation, groups, precision, like=None):
    """dw [CI, CO / groups, *kernel] in the strides of like (contiguous without it)."""
    size = (x.shape[1], dz.shape[1] // groups, *kernel)
    dw = torch.empty_strided(size, like.stride(), dtype=x.dtype, device=x.device) if like is not None else \
        torch.empty(size, dtype=x.dtype, device=x.device)
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
    one_step = _weight_strides(dw, packed=False) is not None
    target = dw if one_step else torch.empty(dw.shape, dtype=dw.dtype, device=dw.device)
    with _on(x):
        record.launch(x.device.index, (x, dz, parts),
                      (*x.stride(), *dz.stride(), *(parts.stride(i) for i in (0, 1, 3, 2))))
        size = parts[0].numel()
        load()["sum_parts"][(ceil_div(size, BLOCK),)](parts, target, size, shares, co, taps,
                                                      *_weight_strides(target, packed=False), BLOCK=BLOCK)
    if target is not dw:
        dw.copy_(target)


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
            ACC=kernels[accumulator], INDEX=kernels["int64" if _extent(dz) >= 2**31 else "int32"])
        kernels["sum_parts"][(ceil_div(co, BLOCK),)](parts, db, co, shares, co, 1, 0, 1, 0, BLOCK=BLOCK)
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
            ACC=kernels[torch.float64 if dz.dtype is torch.float64 else torch.float32], BLOCK=BLOCK)
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
    ci, co, tap = _weight_strides(w, record.packs)
    row, red = (co, ci) if problem.direction == "forward" else (ci, co)
    rest = residual.stride() if residual is not None else (0,) * 5
    x_strides = x.stride()
    if config.path == "descriptor":
        step = _even_step(x)
        record.describe, x_strides = Descriptor(x, *lowering.described(problem, config, step)), (*x_strides[:4], step)
    return *x_strides, row, red, tap, problem.ci_group * ci, *y.stride(), *rest


def _pack(w):
    """w as [ci, tap, co], output channels side by side."""
    ci, co, kd, kh, kw = w.shape
    packed = torch.empty((ci, kd * kh * kw, co), dtype=w.dtype, device=w.device)
    load()["pack"][(ceil_div(w.numel(), BLOCK),)](w, packed, w.numel(), co, kd * kh * kw, kh, kw, *w.stride(), BLOCK=BLOCK)
    return packed


def _weight_strides(w, packed: bool) -> tuple[int, int, int] | None:
    """(ci, co, tap) strides where one stride serves all taps, else None."""
    if packed:
        return w.stride(0), w.stride(2), w.stride(1)
    tap = _one_step(w.shape[2:], w.stride()[2:], 1)
    return None if tap is None else (w.stride(0), w.stride(1), tap)


def _one_step(sizes, strides, alone: int) -> int | None:
    """The stride that steps through all of these axes in turn; `alone` for a single place; None where there is none."""
    step, span = None, 1
    for size, stride in zip(reversed(sizes), reversed(strides)):
        if size > 1:
            step = stride if step is None else step
            if stride != step * span:
                return None
        span *= size
    return alone if step is None else step


def _even_step(t) -> int | None:
    """Elements between neighbouring places of t [N, C, D, H, W] where that is one number above 0, else None."""
    n, c, *sizes = t.shape
    return _one_step((n, *sizes), (t.stride(0), *t.stride()[2:]), c) or None


def _place(t) -> tuple:
    """What of a tensor's place in memory specialises a kernel."""
    return t.stride(), t.data_ptr() % 16


_records: dict = {}


def _record(direction, x, w, y, stride, padding, dilation, groups, precision) -> Record:
    """The record of a gradient; x, w and y are the layer's (or their gradients'), whatever the direction."""
    key = (direction, x.shape, x.stride(), w.shape, w.stride(), y.shape, y.stride(), x.dtype, x.device, stride,
           padding, dilation, groups, precision, x.data_ptr() % 16, w.data_ptr() % 16, y.data_ptr() % 16)
    record = _records.get(key)
    return record or _remember(_records, key, _bind(direction, x, w, y, Epilogue(), stride, padding, dilation, groups, precision))


def _remember(records: dict, key, record: Record) -> Record:
    if len(records) >= 4096:  # shapes without end: forget rather than grow
        records.clear()
    records[key] = record
    return record


def _bind(direction, x, w, y, epilogue, stride, padding, dilation, groups, precision) -> Record:
    problem = _problem(direction, x, w, y, epilogue, stride, padding, dilation, groups, precision)
    device = Device.named("nvidia_h200") if interpreting() else devices.current(x.device.index or 0)
    record = bind(plan(problem, device))
    record.packs = direction != "grad_weight" and (record.packs or _weight_strides(w, packed=False) is None)
    return record


def _problem(direction, x, w, y, epilogue, stride, padding, dilation, groups, precision) -> Problem:
    strides = _weight_strides(w, packed=False)
    ci, co, tap = strides or (0, 0, 0)
    whole = tap == 1 and co == w.shape[2] * w.shape[3] * w.shape[4]
    minor = "co" if co == 1 else "ci" if ci == 1 else "tap" if whole else "other"
    # All taps are one run: the strides between their axes do not narrow it.
    taps = w if strides is None else w.as_strided((*w.shape[:2], prod(w.shape[2:])), strides)
    w_alignment = 1 if minor == "other" else _alignment(taps, ("ci", "co", "tap").index(minor))
    x_layout, y_layout = _layout(x), _layout(y)
    x_alignment = _alignment(x, 1 if x_layout == "channels_last" else 4)
    y_alignment = _alignment(y, 1 if y_layout == "channels_last" else 4)
    gathered = x if direction == "forward" else y
    return Problem(
        direction, x.shape[0], x.shape[1], y.shape[1], tuple(x.shape[2:]), tuple(y.shape[2:]), tuple(w.shape[2:]),
        tuple(stride), tuple(padding), tuple(dilation), groups, DTYPES[x.dtype], precision, x_layout, y_layout, minor,
        epilogue, x_alignment, y_alignment, w_alignment,
        wide=max(_extent(x), 2 * _extent(y)) >= 2**31, even=_even_step(gathered) is not None)


def _layout(t) -> str:
    last = t.stride(1) == 1 and memory_format(t) is torch.channels_last_3d
    return "channels_last" if last or (t.stride(1) == 1 and t.stride(4) != 1) else "channels_first"


def _alignment(t, minor: int) -> int:
    """The run length, in elements, that the address and every stride but that of the minor axis allow; 1 without runs."""
    if t.stride(minor) != 1:
        return 1
    run = power_of_two_divisor(t.data_ptr() // t.element_size(), 16 // t.element_size())
    for axis, (size, stride) in enumerate(zip(t.shape, t.stride())):
        if size > 1 and axis != minor:
            run = power_of_two_divisor(stride, run)
    return run


def _extent(t) -> int:
    return sum((size - 1) * stride for size, stride in zip(t.shape, t.stride())) + 1


def _result(shape, like):
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format(like))


def _on(t):
    return torch.cuda.device(t.device) if t.is_cuda and torch.cuda.current_device() != t.device.index else nullcontext()
