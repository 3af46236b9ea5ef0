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
from . import lowering
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
        if d.bandwidth:
            rate = d.rate_16bit if p.item == 2 else d.rate_tf32
            memory, matmul = p.bytes / d.bandwidth * 1e6, p.flops / rate * 1e6
            bound = "memory" if memory >= matmul else "compute"
            lines.append(f"roofline  {max(memory, matmul):.1f} us by the vendor's rates, {bound} bound")
        return "\n".join(lines)


def plan(problem: Problem, device: Device, config: Config | None = None) -> Plan:
    """The plan of a problem: a pure function, for any device, present or not.

    Raises:
        ValueError: the given config does not fit, with the reason.
    """
    source = "given" if config else "default of config.py"
    config = config or configs.default(problem, device)
    if reason := configs.fits(config, problem, device):
        raise ValueError(f"config {config} does not fit {problem} on {device.name}: {reason}")
    steps = []
    if lowering.copies(problem, config):
        steps.append("copy x to channels_last (its taps shift along w by single elements)")
    if lowering.packs(problem, config):
        steps.append("pack the weight, output channels side by side (none for a weight in channels_last_3d)")
    kernel = {"gather": "gather", "direct": "direct"}[config.path]
    if problem.direction == "grad_weight":
        kernel = {"gather": "grad_weight", "direct": "grad_weight_direct"}[config.path]
    steps.append(f"{kernel}, grid {_grid(problem, config)}, {64 if problem.wide else 32}-bit offsets")
    if problem.direction == "grad_weight" and config.shares > 1:
        steps.append(f"sum_parts, {config.shares} shares in order")
    return Plan(problem, device, config, source, tuple(steps))


def _grid(problem: Problem, config: Config) -> tuple[int, int, int]:
    taps = [c[lowering.TAPS] for c in lowering.axis_constants(problem, config)]
    if problem.direction == "grad_weight":
        if config.path == "direct":
            return prod(taps) * problem.ci_group * ceil_div(problem.co, config.block_m), config.shares, 1
        tiles = ceil_div(problem.ci_group, config.block_m) * ceil_div(problem.co_group, config.block_n)
        return prod(taps) * tiles, config.shares, problem.groups
    constants = lowering.axis_constants(problem, config)
    positions = ceil_div(problem.n * prod(lowering.steps(problem, config)), config.block_n)
    phases = prod(c[lowering.PHASES] for c in constants)
    rows = configs.rows_and_reduction(problem)[0]
    if config.path == "direct":
        return positions * phases * ceil_div(rows * problem.groups, config.block_m), 1, 1
    interleave = configs.join_factor(problem, config.merge) if config.merge[2] else 1
    merged = prod(c[lowering.MERGED] for c in constants)
    return positions * phases * ceil_div(merged * rows, config.block_m), problem.groups, 1


def memory_format(t: torch.Tensor) -> torch.memory_format:
    """The format results take: channels_last_3d for a tensor that is laid out so, else contiguous, as PyTorch's do."""
    return torch._prims_common.suggest_memory_format(t)


@functools.lru_cache(maxsize=None)
def interpreting() -> bool:
    """Kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def _unsupported(device_type: str, index: int, dtype: torch.dtype) -> str | None:
    if dtype not in DTYPES:
        return f"dtype {dtype} is not one of {', '.join(DTYPES.values())}; complex and integer tensors run on backend='torch'"
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


_unsupported._dynamo_marked_constant = True  # as torch.compiler.assume_constant_result does, without importing the compiler


def unsupported(x: torch.Tensor, w: torch.Tensor) -> str | None:
    """Why the Triton kernels cannot take these tensors here, or None."""
    return _unsupported(x.device.type, x.device.index or 0, x.dtype)


def forward(x, w, b, residual, *, stride, padding, dilation, out_size, groups, activation, precision, out=None,
            keep_pre=False):
    """y [N, CO, *out_size] and the value before the activation (None unless keep_pre), in one launch of the layer.

    y has x's memory format, or is written into out, any view of that shape. Sizes are checked by the caller.
    """
    shape = (x.shape[0], w.shape[1] * groups, *out_size)
    y = _result(shape, x) if out is None else out
    pre = torch.empty_like(y) if keep_pre else None
    if y.numel() == 0:
        return y, pre
    record = _record("forward", x, w, y, (b is not None, residual is not None, activation, keep_pre), stride, padding,
                     dilation, groups, precision)
    _gather(record, x, w, y, b, residual, pre)
    return y, pre


def grad_input(dz, w, *, in_size, stride, padding, dilation, groups, precision):
    """dx [N, CI, *in_size] in dz's memory format."""
    dx = _result((dz.shape[0], w.shape[0], *in_size), dz)
    if dz.numel() == 0 or w.numel() == 0:
        return dx.zero_()
    if dx.numel():
        record = _record("grad_input", dx, w, dz, None, stride, padding, dilation, groups, precision)
        _gather(record, dz, w, dx, None, None, None)
    return dx


def grad_weight(x, dz, *, kernel, stride, padding, dilation, groups, precision, like=None):
    """dw [CI, CO / groups, *kernel] in the strides of like (contiguous without it)."""
    size = (x.shape[1], dz.shape[1] // groups, *kernel)
    dw = torch.empty_strided(size, like.stride(), dtype=x.dtype, device=x.device) if like is not None else \
        torch.empty(size, dtype=x.dtype, device=x.device)
    if x.numel() == 0 or dz.numel() == 0:
        return dw.zero_()
    if dw.numel() == 0:
        return dw
    record = _record("grad_weight", x, dw, dz, None, stride, padding, dilation, groups, precision)
    problem, shares = record.plan.problem, record.plan.config.shares
    accumulator = torch.float64 if x.dtype is torch.float64 else torch.float32
    taps, co = problem.taps, problem.co_group
    # A tap that no pair of places reaches is not visited by a split reduction, so parts start at zero there.
    covered = record.constants["SPLIT"] == 1 if "SPLIT" in record.constants else True
    parts = (torch.empty if covered else torch.zeros)((shares, x.shape[1], taps, co), dtype=accumulator, device=x.device)
    kernels = _kernels()
    with _on(x):
        kernels["grad_weight" if record.plan.config.path == "gather" else "grad_weight_direct"][record.grid](
            x, dz, parts, *record.sizes, *x.stride(), *dz.stride(), *_part_strides(parts), **record.constants)
        size = parts[0].numel()
        o_ci, o_co, o_tap = _weight_strides(dw, packed=False) or (0, 0, 0)
        target = dw if o_tap else torch.empty(dw.shape, dtype=dw.dtype, device=dw.device)
        o_ci, o_co, o_tap = _weight_strides(target, packed=False)
        kernels["sum_parts"][(ceil_div(size, BLOCK),)](parts, target, size, shares, co, taps, o_ci, o_co, o_tap, BLOCK=BLOCK)
    return dw if target is dw else dw.copy_(target)


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
    kernels = _kernels()
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
    kernels = _kernels()
    a, b = (*activation.parameters, 0.0, 0.0)[:2]
    with _on(dz):
        kernels["activation_grad"][(ceil_div(dz.numel(), BLOCK),)](
            dy, saved, dz, dz.numel(), c, *sizes, *dy.stride(), *saved.stride(), *dz.stride(),
            LAST=dz.stride(1) == 1, FLAT=flat, DERIVATIVE=kernels["activations"][activation.name][1], A=a, B=b,
            ACC=kernels[torch.float64 if dz.dtype is torch.float64 else torch.float32], BLOCK=BLOCK)
    return dz


@dataclass(frozen=True)
class Record:
    """A plan bound to strides: everything of a launch but the tensors."""

    plan: Plan
    grid: tuple[int, int, int]
    sizes: tuple[int, ...]
    constants: dict
    copies: bool
    packs: bool


def _gather(record: Record, x, w, y, b, residual, pre) -> None:
    """The forward or the input gradient: x is gathered, y written."""
    kernels, direction = _kernels(), record.plan.problem.direction
    with _on(y):
        if record.copies:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        strides = None if record.packs else _weight_strides(w, packed=False)
        if strides is None:
            w = _pack(kernels, w)
            strides = _weight_strides(w, packed=True)
        ci, co, tap = strides
        row, red = (co, ci) if direction == "forward" else (ci, co)
        group = record.plan.problem.ci_group * ci
        residual_strides = residual.stride() if residual is not None else (0,) * 5
        kernels[record.plan.config.path][record.grid](
            x, w, y, b, residual, pre, *record.sizes, *x.stride(), row, red, tap, group, *y.stride(), *residual_strides,
            **record.constants)


def _pack(kernels, w):
    """w as [ci, tap, co], output channels side by side."""
    ci, co, kd, kh, kw = w.shape
    packed = torch.empty((ci, kd * kh * kw, co), dtype=w.dtype, device=w.device)
    kernels["pack"][(ceil_div(w.numel(), BLOCK),)](w, packed, w.numel(), co, kd * kh * kw, kh, kw, *w.stride(), BLOCK=BLOCK)
    return packed


def _weight_strides(w, packed: bool) -> tuple[int, int, int] | None:
    """(ci, co, tap) strides where one stride serves all taps, else None."""
    if packed:
        return w.stride(0), w.stride(2), w.stride(1)
    (ci, co, *steps), sizes = w.stride(), w.shape[2:]
    tap = next((step for step, size in zip(reversed(steps), reversed(sizes)) if size > 1), 1)
    expected = [tap * sizes[1] * sizes[2], tap * sizes[2], tap]
    first = next((i for i in (2, 1, 0) if sizes[i] > 1), None)
    if first is not None:  # the fastest axis that has more than one tap sets the step
        scale = prod(sizes[first + 1:])
        expected = [steps[first] // scale * prod(sizes[i + 1:]) for i in range(3)]
        tap = steps[first] // scale
    if any(size > 1 and step != want for step, size, want in zip(steps, sizes, expected)):
        return None
    return ci, co, tap


_records: dict = {}


def _record(direction, x, w, y, epilogue, stride, padding, dilation, groups, precision) -> Record:
    """The record of a call; x, w and y are the layer's (or their gradients'), whatever the direction."""
    key = (direction, x.shape, x.stride(), w.shape, w.stride(), y.shape, y.stride(), x.dtype, x.device, epilogue, stride,
           padding, dilation, groups, precision, x.data_ptr() % 16, w.data_ptr() % 16, y.data_ptr() % 16)
    record = _records.get(key)
    if record is None:
        if len(_records) >= 4096:  # shapes without end: forget rather than grow
            _records.clear()
        record = _records[key] = _bind(direction, x, w, y, epilogue, stride, padding, dilation, groups, precision)
    return record


def _bind(direction, x, w, y, epilogue, stride, padding, dilation, groups, precision) -> Record:
    problem = _problem(direction, x, w, y, epilogue, stride, padding, dilation, groups, precision)
    device = Device.named("nvidia_h200") if interpreting() else devices.current(x.device.index or 0)
    return bind(plan(problem, device))


def _problem(direction, x, w, y, epilogue, stride, padding, dilation, groups, precision) -> Problem:
    strides = _weight_strides(w, packed=False)
    minor = "tap" if strides is None else "co" if strides[1] == 1 else "ci" if strides[0] == 1 else "tap"
    bias, residual, activation, keep_pre = epilogue or (False, False, None, False)
    return Problem(
        direction, x.shape[0], x.shape[1], y.shape[1], tuple(x.shape[2:]), tuple(y.shape[2:]), tuple(w.shape[2:]),
        tuple(stride), tuple(padding), tuple(dilation), groups, DTYPES[x.dtype], precision, _layout(x), _layout(y), minor,
        Epilogue(bias, residual, activation, keep_pre), _alignment(x), _alignment(y), _alignment(w),
        wide=max(_extent(x), 2 * _extent(y)) >= 2**31)


def _layout(t) -> str:
    last = t.stride(1) == 1 and memory_format(t) is torch.channels_last_3d
    return "channels_last" if last or (t.stride(1) == 1 and t.stride(4) != 1) else "channels_first"


def _alignment(t) -> int:
    """The run length, in elements, that every stride but the unit one and the address allow."""
    limit = 16 // t.element_size()
    run = power_of_two_divisor(t.data_ptr() // t.element_size(), limit)
    unit = 0
    for size, stride in zip(t.shape, t.stride()):
        if size > 1 and not (stride == 1 and (unit := unit + 1) == 1):
            run = power_of_two_divisor(stride, run)
    return run if unit else 1


def _extent(t) -> int:
    return sum((size - 1) * stride for size, stride in zip(t.shape, t.stride())) + 1


def _result(shape, like):
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format(like))


def _on(t):
    return torch.cuda.device(t.device) if t.is_cuda and torch.cuda.current_device() != t.device.index else nullcontext()


def _part_strides(parts):
    """(share, ci, co, tap) of parts [share, ci, tap, co]."""
    return parts.stride(0), parts.stride(1), parts.stride(3), parts.stride(2)


def bind(plan: Plan) -> Record:
    """The launch of a plan's main kernel: grid, run-time sizes, and what specialises it."""
    p, c, kernels = plan.problem, plan.config, _kernels()
    axis_d, axis_h, axis_w = lowering.axis_constants(p, c)
    copies, packs = lowering.copies(p, c), lowering.packs(p, c)
    limit = 16 // p.item
    x_run = p.x_alignment or power_of_two_divisor(p.ci if p.x_layout == "channels_last" else p.in_size[2], limit)
    y_run = p.y_alignment or power_of_two_divisor(p.co if p.y_layout == "channels_last" else p.out_size[2], limit)
    accumulator = kernels[torch.float64 if p.dtype == "float64" else torch.float32]
    shared = dict(AXIS_D=axis_d, AXIS_H=axis_h, AXIS_W=axis_w, ACC=accumulator,
                  INDEX=kernels["int64" if p.wide else "int32"], num_warps=c.warps, num_stages=c.stages)
    td, th, tw = lowering.steps(p, c)
    places = p.n * td * th * tw
    if p.direction == "grad_weight":
        block = c.block_k if c.path == "gather" else c.block_n
        share = block * ceil_div(places, block * c.shares)
        shared |= dict(CI=p.ci_group, CO=p.co_group, X_LAST=p.x_layout == "channels_last", Z_LAST=p.y_layout == "channels_last",
                       X_RUN=x_run if p.x_layout == "channels_last" else lowering.plain_run(x_run, tw),
                       Z_RUN=lowering.gathered_run(p, c, p.y_layout, y_run))
        if c.path == "gather":
            shared |= dict(SPLIT=configs.split_factor(p), BLOCK_M=c.block_m, BLOCK_N=c.block_n, BLOCK_K=c.block_k,
                           STAGES=c.stages, PRECISION=p.precision)
        else:
            shared |= dict(CHANNELS=p.co, BLOCK_C=c.block_m, BLOCK_P=c.block_n)
        return Record(plan, _grid(p, c), (places, share, td, th, tw, *p.out_size), shared, copies, packs)
    forward = p.direction == "forward"
    x_layout, y_layout = (p.x_layout, p.y_layout) if forward else (p.y_layout, p.x_layout)
    x_run, y_run = (x_run, y_run) if forward else (y_run, x_run)
    if copies:
        x_layout, x_run = "channels_last", power_of_two_divisor(p.ci, limit)
    rows, red = configs.rows_and_reduction(p)
    activation = p.epilogue.activation
    value = kernels["activations"][activation.name][0] if activation else None
    a, b = (*(activation.parameters if activation else ()), 0.0, 0.0)[:2]
    shared |= dict(ROWS=rows, RED=red, JOIN=configs.join_factor(p, c.merge), X_LAST=x_layout == "channels_last",
                   X_RUN=lowering.gathered_run(p, c, x_layout, x_run), Y_LAST=y_layout == "channels_last",
                   Y_RUN=lowering.written_run(p, c, y_layout, y_run), ACTIVATION=value, A=a, B=b)
    if c.path == "gather":
        minor = "co" if packs else p.w_minor
        w_align = power_of_two_divisor(p.co_group, limit) if packs else \
            p.w_alignment or power_of_two_divisor({"co": p.co_group, "ci": p.ci_group, "tap": p.taps}[minor], limit)
        role = {"tap": "tap", "co": "row" if forward else "red", "ci": "red" if forward else "row"}[minor]
        shared |= dict(SPLIT=configs.split_factor(p), PHASE_MINOR=lowering.phase_minor(p, c), W_MINOR=role,
                       W_RUN=lowering.weight_run(p, c, minor, w_align), BLOCK_M=c.block_m, BLOCK_N=c.block_n,
                       BLOCK_K=c.block_k, STAGES=c.stages, PRECISION=p.precision)
    else:
        shared |= dict(GROUPS=p.groups, BLOCK_C=c.block_m, BLOCK_P=c.block_n)
    source, target = (p.in_size, p.out_size) if forward else (p.out_size, p.in_size)
    return Record(plan, _grid(p, c), (places, td, th, tw, *source, *target), shared, copies, packs)


@functools.lru_cache(maxsize=None)
def _kernels() -> dict:
    """The kernels and Triton's types by name; Triton is imported here, at the first launch."""
    import triton.language as tl

    from .kernels import activations, direct, gather, grad_weight, reduce

    return {
        "gather": gather.gather, "direct": direct.direct, "grad_weight": grad_weight.grad_weight,
        "grad_weight_direct": grad_weight.grad_weight_direct, "sum_parts": reduce.sum_parts, "grad_bias": reduce.grad_bias,
        "activation_grad": reduce.activation_grad, "pack": reduce.pack, "activations": activations.KERNELS,
        torch.float32: tl.float32, torch.float64: tl.float64, "int32": tl.int32, "int64": tl.int64,
    }
