"""Tensors in memory: the same values at other strides, among NaN, and outputs whose surroundings must survive."""

import math

import torch

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


class RedZone:
    """An output to be written in place: `view` starts as NaN, and check() fails if memory around it was touched.

    layout: any that lay_out knows except expanded.
    """

    PATTERN = 0x5A
    GUARD = 64  # elements before and after; they keep the view as aligned as its layout says

    def __init__(self, shape, dtype=torch.float32, layout="sliced", *, device="cpu"):
        size = (_extent(shape, layout) + 2 * self.GUARD) * dtype.itemsize
        self._bytes = torch.full((size,), self.PATTERN, dtype=torch.uint8, device=device)
        self._pattern = self._bytes[:dtype.itemsize].clone().view(dtype)
        self.view = _view(self._bytes.view(dtype)[self.GUARD:], shape, layout)
        self.view.fill_(math.nan)

    def check(self) -> None:
        """Raises AssertionError if the surroundings changed or the view still holds NaN."""
        nans = int(self.view.isnan().sum())
        assert not nans, f"{nans} of {self.view.numel()} outputs are NaN: not written, or computed from a margin"
        written = self.view.clone()
        self.view.copy_(self._pattern.expand(self.view.shape))
        changed = (self._bytes != self.PATTERN).nonzero().flatten()
        self.view.copy_(written)
        assert not len(changed), f"{len(changed)} bytes outside the output changed, the first at byte {int(changed[0])}"


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
