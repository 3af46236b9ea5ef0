"""Tensors in memory: the same values at other strides, among NaN, and outputs whose surroundings must survive."""

import math

import torch

from triton_conv3dt.checking import trial_tensors

LAYOUTS = ("channels_first", "channels_last", "concatenated", "concatenated_channels_last", "sliced",
           "sliced_channels_last", "misaligned", "misaligned_channels_last", "transposed", "expanded")


def lay_out(t: torch.Tensor, layout: str) -> torch.Tensor:
    """The values of a 5-D t at other strides. Whatever memory lies around or between them holds NaN.

    concatenated: a channel slice of a larger tensor. sliced: out of a tensor that is larger on every axis, aligned to
    nothing. misaligned: dense, one element past an aligned address. transposed: W is the slowest axis. expanded:
    stride 0 along the batch and along W, as the gradient of a sum has it; this one repeats the first values, so
    compare with what is returned.
    """
    if layout == "channels_first":
        return t.contiguous()
    if layout == "channels_last":
        return t.contiguous(memory_format=torch.channels_last_3d)
    if layout == "expanded":
        return t[:1, ..., :1].contiguous().expand(t.shape)
    storage = torch.full((_extent(t.shape, layout),), math.nan, dtype=t.dtype, device=t.device)
    return _view(storage, t.shape, layout).copy_(t)


class RedZone(trial_tensors.RedZone):
    """The package's, laid out as lay_out would, in any of its layouts except expanded; what lies around or between the
    places of the view must survive."""

    def __init__(self, shape, dtype=torch.float32, layout="sliced", *, device="cpu"):
        extent = _extent(shape, layout)
        placed = _view(torch.empty(extent, device="meta"), shape, layout)
        before = placed.storage_offset()
        after = extent - before - 1 - sum((size - 1) * stride for size, stride in zip(shape, placed.stride()))
        super().__init__(shape, placed.stride(), dtype, device, before=before, after=after)


def _order(layout: str) -> tuple[int, ...]:
    """The axes from slowest to fastest."""
    if "channels_last" in layout:
        return 0, 2, 3, 4, 1
    return (4, 1, 2, 3, 0) if layout == "transposed" else (0, 1, 2, 3, 4)


def _margins(layout: str) -> list[tuple[int, int]]:
    """Elements before and after, per axis."""
    if "concatenated" in layout:
        return [(0, 0), (16, 8), (0, 0), (0, 0), (0, 0)]
    return [(1, 2), (2, 1), (1, 2), (2, 1), (1, 2)] if "sliced" in layout else [(0, 0)] * 5


def _skipped(layout: str) -> int:
    return 1 if "misaligned" in layout else 0


def _extent(shape, layout: str) -> int:
    return _skipped(layout) + math.prod(size + sum(margin) for size, margin in zip(shape, _margins(layout)))


def _view(storage: torch.Tensor, shape, layout: str) -> torch.Tensor:
    """A view of `shape` into one-dimensional storage of at least _extent(shape, layout) elements."""
    order, margins = _order(layout), _margins(layout)
    outer = [shape[axis] + sum(margins[axis]) for axis in order]
    block = storage[_skipped(layout):_extent(shape, layout)].view(outer)
    block = block.permute([order.index(axis) for axis in range(5)])
    return block[tuple(slice(before, before + size) for (before, _), size in zip(margins, shape))]
