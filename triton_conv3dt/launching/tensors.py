"""What of tensors a kernel is specialised on: their layout, their alignment, and the one stride that steps through an axis or
many; and so the problem that a call asks for."""

from math import prod

import torch

from ..planning.constants import Memory
from ..problems.geometry import power_of_two_divisor
from ..problems.problem import ITEM_SIZES, Problem

DTYPES = {name: getattr(torch, name) for name in ITEM_SIZES}  # by the name that a problem has for it
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def memory_format(t: torch.Tensor) -> torch.memory_format:
    """The format results take: channels_last_3d for a tensor that is laid out so, else contiguous, as PyTorch's do."""
    return torch._prims_common.suggest_memory_format(t)


def problem_of(direction, x, w, y, epilogue, stride, padding, dilation, groups, precision, residual=None) -> Problem:
    """The problem of a product; x, w and y are the layer's, or the gradients of these, whatever the direction."""
    strides = weight_strides(w)
    ci, co, tap = strides or (0, 0, 0)
    whole = tap == 1 and co == w.shape[2] * w.shape[3] * w.shape[4]
    minor = "co" if co == 1 else "ci" if ci == 1 else "tap" if whole else "other"
    minor = "scattered" if strides is None else minor
    # All taps are one run: the strides between their axes do not narrow it.
    taps = w if strides is None else w.as_strided((*w.shape[:2], prod(w.shape[2:])), strides)
    w_alignment = 1 if minor in ("other", "scattered") else _alignment(taps, ("ci", "co", "tap").index(minor))
    x_layout, y_layout = layout_of(x), layout_of(y)
    x_alignment = _alignment(x, 1 if x_layout == "channels_last" else 4)
    y_minor = 1 if y_layout == "channels_last" else 4
    y_alignment, r_alignment = _alignment(y, y_minor), 0 if residual is None else _alignment(residual, y_minor)
    gathered = x if direction == "forward" else y
    even = place_stride(gathered) is not None and (direction != "grad_weight" or place_stride(x) is not None)
    if layout_of(gathered) == "channels_first" and direction in ("forward", "grad_input"):
        even = _in_planes(gathered)
    elif layout_of(gathered) == layout_of(x) == "channels_first":
        even = _planes(x) and _planes(y) and y.stride(0) % (y.shape[3] * y.shape[4]) == 0
    reaches = [reach(t) for t in (x, w, y, residual) if t is not None]
    # The direct path adds what lies between two taps along w to a pointer, in 32 bits: the first may lie before the tensor.
    reaches[0] = max(reaches[0], gathered.stride(4) * dilation[2] * (w.shape[4] - 1))
    return Problem(
        x.shape[0], x.shape[1], y.shape[1], tuple(x.shape[2:]), tuple(y.shape[2:]), tuple(w.shape[2:]), tuple(stride),
        tuple(padding), tuple(dilation), groups, direction, NAMES[x.dtype], precision, x_layout, y_layout, minor,
        epilogue, x_alignment, y_alignment, w_alignment, r_alignment,
        wide=Problem.is_wide(x.shape[0], x.shape[2:], y.shape[2:], stride, *reaches), even=even)


def layout_of(t) -> str:
    """Which axis has stride 1, as far as kernels care: where W is a single place, its stride says nothing."""
    last = t.stride(1) == 1 and (t.stride(4) != 1 or t.shape[4] == 1 or memory_format(t) is torch.channels_last_3d)
    return "channels_last" if last else "channels_first"


def _alignment(t, minor: int) -> int:
    """The run length, in elements, that the address and every stride but that of the minor axis allow; 1 without runs, and where an
    axis is expanded: no descriptor takes its stride of 0."""
    if t.stride(minor) != 1:
        return 1
    run = max(1, power_of_two_divisor(t.data_ptr(), 16) // t.element_size())  # the address may be that of half an element
    for axis, (size, stride) in enumerate(zip(t.shape, t.stride())):
        if size > 1 and axis != minor:
            run = power_of_two_divisor(stride, run) if stride else 1
    return run


def extent(t) -> int:
    """How many elements a tensor spans in memory."""
    return sum((size - 1) * stride for size, stride in zip(t.shape, t.stride())) + 1


def reach(t) -> int:
    """How many elements a tensor spans in memory, or has: more where it is expanded, and a copy of it has them all."""
    return max(extent(t), t.numel())


def empty(shape, like, form=None):
    """Memory for a result in the format, or in this one, and in the dtype and device of another tensor."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=form or memory_format(like))


def statistics_of(y, statistics: str):
    """Mean and biased variance of y over the places of each sample [N, C], or of the "batch" [C], by PyTorch, in fp32 or
    wider."""
    wide = y.to(torch.promote_types(y.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, (0, 2, 3, 4) if statistics == "batch" else (2, 3, 4), correction=0)
    return mean, variance


def channel_parts(t, channels: int, concat_first: bool):
    """Views of a concatenation t [..., C, D, H, W]: a layer's channels, and those of what it is concatenated with."""
    others = t.shape[-4] - channels
    first, second = t.split_with_sizes((others, channels) if concat_first else (channels, others), -4)
    return (second, first) if concat_first else (first, second)


def weight_strides(w) -> tuple[int, int, int] | None:
    """(ci, co, tap) strides where one stride serves all taps, else None."""
    tap = _one_stride(w.shape[2:], w.stride()[2:], 1)
    return None if tap is None else (w.stride(0), w.stride(1), tap)


def place_stride(t) -> int | None:
    """Elements between neighbouring places of t [N, C, D, H, W] where that is one number above 0, else None. A single
    place has what is 16 bytes in every dtype that is read by descriptor.
    """
    n, _, *sizes = t.shape
    return _one_stride((n, *sizes), (t.stride(0), *t.stride()[2:]), 8) or None


def shared_axes(tensors, whole: bool) -> int:
    """How many of the last of the axes N, D, H and W one stride steps through in each of these tensors: W alone at least. whole: their
    channels need not be told apart, and five axes are one run where the first tensor is dense and all lie as it does."""
    first, *rest = tensors
    if whole and extent(first) == first.numel() and all(t.stride() == first.stride() for t in rest):
        return 5
    return next(axes for axes in (4, 3, 2, 1) if all(run_strides(t, axes)[4] is not None for t in tensors))


def run_strides(t, axes: int) -> tuple:
    """The strides of t, the last of them that which steps through so many of the axes N, D, H and W; of five those of one run."""
    if axes == 5:
        return 0, 0, 0, 0, 1
    sizes, strides = (t.shape[0], *t.shape[2:]), (t.stride(0), *t.stride()[2:])
    return *t.stride()[:4], _one_stride(sizes[-axes:], strides[-axes:], 1)


def run_memory(t, axes: int) -> Memory:
    """How t lies, seen as runs of places that one stride steps through."""
    n, c, *sizes = t.shape if axes < 5 else (1, 1, 1, 1, t.numel())
    *outer, step = run_strides(t, axes)
    places, last = prod((n, *sizes)[-axes:]), c > 1 and layout_of(t) == "channels_last"
    if not last and step != 1:
        return Memory(False, 1)
    run = max(1, power_of_two_divisor(t.data_ptr(), 16) // t.element_size())
    others = [*zip((n, *sizes), (outer[0], *outer[2:]))][:4 - min(axes, 4)] + [(places, step) if last else (c, outer[1])]
    for size, stride in others:
        run = power_of_two_divisor(stride, run) if size > 1 and stride else run if size == 1 else 1
    return Memory(last, power_of_two_divisor(c if last else places, run))


def _in_planes(t) -> bool:
    """Whether the places of every channel of t [N, C, D, H, W] are dense, from multiples of 16 bytes on, and one stride steps through the
    channels of all samples."""
    return _planes(t) and _one_stride(t.shape[:2], t.stride()[:2], 0) is not None


def _planes(t) -> bool:
    """Whether the places of every channel of every sample of t [N, C, D, H, W] are dense, from multiples of 16 bytes on."""
    starts = (stride * t.element_size() for size, stride in zip(t.shape[:2], t.stride()) if size > 1)
    return _one_stride(t.shape[2:], t.stride()[2:], 1) == 1 and not any(start % 16 for start in (t.data_ptr(), *starts)) and 0 not in t.stride()


def _one_stride(sizes, strides, single: int) -> int | None:
    """The stride that steps through all of these axes in turn; `single` for a single place; None where there is none."""
    step, span = None, 1
    for size, stride in zip(reversed(sizes), reversed(strides)):
        if size > 1:
            step = stride if step is None else step
            if stride != step * span:
                return None
        span *= size
    return single if step is None else step
