"""What a tile reads or writes, and whether what is promised of it is true; the kernels' arithmetic of one tile."""

import random
from dataclasses import dataclass

import numpy as np
import torch

from triton_conv3dt.launching.tensors import extent
from triton_conv3dt.planning.constants import AxisConstants
from triton_conv3dt.planning.passes import Workspace

LANES = 32  # of each axis of a tile that are looked at


@dataclass
class Access:
    """Elements that a tile reads or writes: those of its offsets that are live.

    run neighbours along axis lie side by side and begin at a multiple of run; without an axis each begins one. terms:
    what is added to the pointer one after the other, where live. beyond: the most that is added to the offsets besides.
    """

    what: str
    tensor: torch.Tensor
    offsets: np.ndarray
    live: np.ndarray
    run: int
    axis: int | None
    terms: tuple = ()
    beyond: int = 0

    def false_promises(self, wide: bool) -> list[str]:
        live, found = self.live, []
        if self.axis is not None and live.shape[self.axis] % self.run:
            return [f"{self.what}: a run of {self.run} among {live.shape[self.axis]} lanes"]
        if not live.any():
            return found
        at = self.offsets[live]
        if at.min() < 0 or at.max() + self.beyond >= extent(self.tensor):
            found.append(f"{self.what}: offsets {at.min()} to {at.max()} + {self.beyond} are outside the tensor")
        if self.run > 1:
            begin = self.offsets + self.tensor.data_ptr() // self.tensor.element_size()
            if self.axis is not None:
                shape = [1] * begin.ndim
                shape[self.axis] = -1
                begin = begin - (np.arange(begin.shape[self.axis]) % self.run).reshape(shape)
                groups = np.moveaxis(np.where(live, begin, np.iinfo(np.int64).min), self.axis, -1)
                groups = groups.reshape(*groups.shape[:-1], -1, self.run)
                first = groups.max(-1, keepdims=True)
                if ((groups != first) & (groups != np.iinfo(np.int64).min)).any():
                    found.append(f"{self.what}: {self.run} neighbours do not lie side by side")
            if (begin[live] % self.run).any():
                found.append(f"{self.what}: a run of {self.run} begins elsewhere than at a multiple of it")
        if not wide:
            for term in self.terms or (self.offsets,):
                part = np.broadcast_to(term, live.shape)[live]
                if part.min() < -2**31 or part.max() >= 2**31:
                    found.append(f"{self.what}: an offset of {part.min()} or {part.max()} in 32 bits")
        return found


class Counts(list):
    """Counts of positions that programs make, dead ones as well."""

    def false_promises(self, wide: bool) -> list[str]:
        return [f"a position is counted as {count} in 32 bits" for count in self if not wide and count >= 2**31]


def position(index, sizes):
    """(n, d, h, w) of a flat index."""
    d, h, w = sizes
    return index // (d * h * w), index // (h * w) % d, index // w % h, index % w


def place(strides, n, c, d, h, w):
    return n * strides[0] + c * strides[1] + d * strides[2] + h * strides[3] + w * strides[4]


def inside(places, sizes, asked=(True,) * 3):
    """Which places are, on the axes where it is asked."""
    live = True
    for at, size, ask in zip(places, sizes, asked):
        live = live & ((at >= 0) & (at < size)) if ask else live
    return live


def copy_of(x: torch.Tensor) -> torch.Tensor:
    """x in channels_last."""
    return torch.empty(x.shape, dtype=x.dtype, device="meta", memory_format=torch.channels_last_3d)


def meta(w: Workspace) -> torch.Tensor:
    """The memory of a workspace of fp32."""
    return torch.empty_strided(w.shape, w.strides, device="meta")


def some(rng: random.Random, count: int, width: int = LANES) -> np.ndarray:
    """A slice of so many lanes; it begins where runs do."""
    width = min(count, width)
    return np.arange(width, dtype=np.int64) + width * rng.randrange(count // width)


def which(rng: random.Random, count: int) -> int:
    """A tile, often the first or the last."""
    return rng.choice((0, count - 1, rng.randrange(count)))


def axis_taps(a: AxisConstants, r: int) -> tuple[int, int, int]:
    if a.taps >= 0:
        return a.taps, a.first, a.offset
    q = r + a.residue
    first = q // a.common * a.inverse % a.tap_step
    taps = max(0, -(-(a.kernel - first) // a.tap_step)) if q % a.common == 0 else 0
    return taps, first, a.offset + (q - first * a.dilation) // a.out_step


def row_parts(row, channels, md, mh, mw, phase_minor):
    if phase_minor:
        return row // (mw * mh) % md, row // mw % mh, row % mw, row // (mw * mh * md)
    rest = row // channels
    return rest // (mw * mh), rest // mw % mh, rest % mw, row % channels
