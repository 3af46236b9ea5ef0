"""What is promised to the compiler, against the true offsets as integers: no kernel runs.

A promise is a run of a tensor: along some axis of a tile, so many neighbours lie side by side in memory and begin at a multiple
of their number, wherever one of them is live. Another is that 31 bits hold every offset and every count of positions unless
Problem.wide. Random problems on random memory; of each, one tile of one program.

    python promises.py [number] [seed]      as many problems as you like, and how many promises were false
"""

import random
import sys
from collections import Counter
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from triton_conv3dt.launching.tensors import empty, even_step, extent, layout_of, problem_of, weight_strides
from triton_conv3dt.planning import lowering, search
from triton_conv3dt.planning.config import Config, copyable, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.launches import Launch
from triton_conv3dt.planning.plan import plan
from triton_conv3dt.problems.activations import Activation
from triton_conv3dt.problems.problem import BACKWARD, DIRECTIONS, Epilogue, Problem

H200 = Device.named("nvidia_h200")
(OUT_STEP, ORIGIN, IN_STEP, MOVE, KERNEL, TAP_STEP, TAPS, FIRST, OFFSET, RESIDUE, COMMON, INVERSE, DILATION, MERGED, PHASES,
 GUARD, EDGE, HALO) = range(18)  # as kernels/tiles.py names them
LANES = 32  # of each axis of a tile that are looked at


@dataclass
class Call:
    """A layer's tensors, which have no storage, and its geometry."""

    direction: str
    x: torch.Tensor
    w: torch.Tensor
    y: torch.Tensor
    residual: torch.Tensor | None
    stride: tuple
    padding: tuple
    dilation: tuple
    groups: int
    activation: Activation | None

    def problem(self) -> Problem:
        epilogue = Epilogue(residual=self.residual is not None, activation=self.activation)
        return problem_of(self.direction, self.x, self.w, self.y, epilogue, self.stride, self.padding, self.dilation,
                          self.groups, "tf32", self.residual)


@dataclass
class Access:
    """Elements that a tile reads or writes: those of its offsets that are live.

    run neighbours along axis lie side by side and begin at a multiple of run; without an axis each begins one. terms: what
    is added to the pointer one after the other, where live. beyond: the most that is added to the offsets besides.
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


# What is drawn.


def draw(rng: random.Random) -> Call:
    """A random layer on random memory."""
    direction = rng.choice((*DIRECTIONS, BACKWARD))
    dtype = rng.choice((torch.float16, torch.float16, torch.float32, torch.float64) if direction != BACKWARD else (torch.float16,))
    triple = lambda choose: tuple(choose() for _ in range(3))
    sizes = (lambda: rng.randint(1, 9), lambda: 8 * rng.randint(1, 16), lambda: rng.randint(1, 300), lambda: rng.randint(1, 3000))
    channels = (1, 2, 3, 4, 7, 8, 12, 16, 24, 32, 33, 64)
    groups = rng.choice((1, 1, 1, 1, 2, 3)) if direction != BACKWARD else 1
    ci, co = groups * rng.choice(channels), groups * rng.choice(channels)
    if rng.random() < 0.1 and direction != BACKWARD:
        groups, co = ci, ci * rng.choice((1, 1, 2))
    n, in_size = rng.choice((1, 1, 2, 3)), triple(lambda: rng.choice(sizes[:rng.randint(1, 4)])())
    in_size = tuple(1 if rng.random() < 0.15 else size for size in in_size)
    if rng.random() < 0.1:  # as many elements or positions as 31 bits hold, or a few more
        axis, most = rng.randrange(3), 2**31 // (n * rng.choice((1, ci, 2 * co, 8 * co)))
        others = prod(in_size) // in_size[axis]
        in_size = (*in_size[:axis], max(1, most // others + rng.randint(-1, 1)), *in_size[axis + 1:])
    stride = triple(lambda: rng.choice((1, 1, 2, 2, 2, 3, 4, 8)))
    kernel = triple(lambda: rng.choice((1, 2, 3, 4, 5, 8)))
    if rng.random() < 0.4 or direction == BACKWARD:
        kernel = stride
    dilation = triple(lambda: rng.choice((1, 2, 3, 4, 6))) if rng.random() < 0.2 and direction != BACKWARD else (1, 1, 1)
    padding, out_size = (0, 0, 0), tuple((i - 1) * s + (k - 1) * d + 1 for i, k, s, d in zip(in_size, kernel, stride, dilation))
    if rng.random() < 0.6 and direction != BACKWARD:
        padding = triple(lambda: rng.randint(0, 2)) if rng.random() < 0.7 else triple(lambda: rng.randint(-3, 9))
        extra = rng.choice((lambda: 0, lambda: rng.randint(0, 3), lambda: rng.randint(-9, 9)))
        out_size = tuple(max(1, o - 2 * p + extra()) for o, p in zip(out_size, padding))
    if n * max(ci * prod(in_size), co * prod(out_size)) > 2**36:  # what no memory holds
        return draw(rng)
    x = memory(rng, (n, ci, *in_size), dtype)
    y = memory(rng, (n, co, *out_size), dtype)
    w, residual, activation = memory(rng, (ci, co // groups, *kernel), dtype, spread=0.3), None, None
    if direction == "forward":
        y = memory(rng, y.shape, dtype, spread=0.5, expanded=0) if rng.random() < 0.3 else empty(y.shape, x)
        residual = memory(rng, y.shape, dtype) if rng.random() < 0.3 else None
    if direction == "grad_input":
        x = empty(x.shape, y)
    if direction == BACKWARD:
        activation = rng.choice((None, Activation.of("relu")))
    return Call(direction, x, w, y, residual, stride, padding, dilation, groups, activation)


def memory(rng: random.Random, shape: tuple, dtype, spread: float = 0.6, expanded: float = 0.05) -> torch.Tensor:
    """A tensor somewhere in memory, in some order; with probabilities that there are gaps, and that axes are expanded."""
    order = rng.choice(((0, 1, 2, 3, 4), (0, 1, 2, 3, 4), (0, 2, 3, 4, 1), (0, 2, 3, 4, 1), (2, 3, 4, 1, 0), None))
    order = order or rng.sample(range(5), 5)
    strides, step, gaps = [0] * 5, 1, rng.random() < spread
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis] + (rng.choice((0, 0, 0, 1, 2, 4, 8, 16)) if gaps else 0)
        if gaps and rng.random() < 0.05:
            step += rng.choice((1, 2, 8, 2**20, 2**29, 2**30, 2**31) if prod(shape) < 2**20 else (1, 2, 8))
    for axis in range(5):
        if shape[axis] == 1 and rng.random() < 0.3:
            strides[axis] = rng.choice((0, 1, 2, 3, 7, 8, 64, 2**32 + 1))
        if rng.random() < expanded:
            strides[axis] = 0
    if gaps and rng.random() < 0.05:  # as far as 31 bits reach, or a little farther
        axis = max(range(5), key=lambda i: strides[i] * (shape[i] > 1))
        if shape[axis] > 1:
            strides[axis] = max(strides[axis], 2**rng.randint(29, 31) // (shape[axis] - 1) + rng.randint(-8, 8))
    skipped = rng.choice((0, 1, 2, 3, 4, 8, 24)) if rng.random() < spread else 0
    return torch.empty(1, dtype=dtype, device="meta").as_strided(shape, strides, skipped)


def choose(rng: random.Random, problem: Problem) -> Config | None:
    """A config that fits: one that the search proposes, or any."""
    kind = rng.random() if problem.direction != BACKWARD else 1
    if kind < 0.4:
        return rng.choice(search.candidates(problem, H200) if kind < 0.002 else search.sensible(problem, H200))
    power = lambda low, high: 1 << rng.randint(low, high)
    for _ in range(16):
        shares = rng.choice((1, 2, 5, 64)) if problem.direction in ("grad_weight", BACKWARD) else 1
        blocks, stages = (power(4, 7), power(4, 8), power(4, 6)), rng.choice((1, 2, 3))
        if problem.direction == BACKWARD:
            least = lambda size: max(16, 1 << (size - 1).bit_length())
            tried = Config("onepass", least(problem.ci), least(problem.co * problem.taps), blocks[2], 16, stages, shares=shares)
        elif problem.dtype == "float64" or rng.random() < 0.2:
            tried = Config("direct", power(0, 5), power(2, 10), shares=shares)
        else:
            merge = tuple(a.kernel % a.stride == 0 and rng.random() < 0.7 for a in problem.axes)
            path, box = rng.choice(("gather", "descriptor")), (0, 0, 0)
            if path == "descriptor" and rng.random() < 0.8:
                d, h = power(0, 1) if problem.direction == "forward" else 1, power(0, 2)
                blocks = power(4, 7), max(16, blocks[1]), power(3, 5) * 2
                box = (d, h, blocks[1] // (d * h))
            merge = merge if problem.direction == "forward" else (False,) * 3
            copy = copyable(problem) and rng.random() < 0.7
            tried = Config(path, *blocks, 8, stages, merge, shares, box, copy)
        if fits(tried, problem, H200) is None:
            return tried
    return None


# What a program does: the kernels' arithmetic of one tile, by integers.


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


def some(rng: random.Random, count: int, width: int = LANES) -> np.ndarray:
    """A slice of so many lanes; it begins where runs do."""
    width = min(count, width)
    return np.arange(width, dtype=np.int64) + width * rng.randrange(count // width)


def which(rng: random.Random, count: int) -> int:
    """A tile, often the first or the last."""
    return rng.choice((0, count - 1, rng.randrange(count)))


def axis_taps(a: tuple, r: int) -> tuple[int, int, int]:
    if a[TAPS] >= 0:
        return a[TAPS], a[FIRST], a[OFFSET]
    q = r + a[RESIDUE]
    first = q // a[COMMON] * a[INVERSE] % a[TAP_STEP]
    taps = max(0, -(-(a[KERNEL] - first) // a[TAP_STEP])) if q % a[COMMON] == 0 else 0
    return taps, first, a[OFFSET] + (q - first * a[DILATION]) // a[OUT_STEP]


def row_parts(row, channels, md, mh, mw, phase_minor):
    if phase_minor:
        return row // (mw * mh) % md, row // mw % mh, row % mw, row // (mw * mh * md)
    rest = row // channels
    return rest // (mw * mh), rest // mw % mh, rest % mw, row % channels


class Product:
    """A forward or an input gradient: kernels/gather.py and kernels/direct.py."""

    def __init__(self, call: Call, problem: Problem, config: Config, launch: Launch, rng: random.Random):
        self.call, self.p, self.c, self.launch, self.rng, self.k = call, problem, config, launch, rng, launch.constants
        self.forward = problem.direction == "forward"
        self.axes = self.k["AXIS_D"], self.k["AXIS_H"], self.k["AXIS_W"]
        self.source, self.target = (call.x, call.y) if self.forward else (call.y, call.x)
        if config.copy:
            self.source = torch.empty(call.x.shape, dtype=call.x.dtype, device="meta", memory_format=torch.channels_last_3d)
        self.places, self.steps = launch.sizes[0], launch.sizes[1:4]
        self.rows, self.red = self.k["ROWS"], self.k["RED"]
        self.split, self.join, self.n = self.k.get("SPLIT", 1), self.k["JOIN"], config.block_n
        self.group = which(rng, problem.groups) if config.dense else 0
        self.box = config.box if any(config.box) else None
        tiles = problem.n * prod(-(-t // b) for t, b in zip(self.steps, self.box)) if self.box else -(-self.places // self.n)
        self.tile = which(rng, tiles)
        # Where phases are joined, programs know one phase along w, and accumulate both.
        phases = [rng.randrange(a[PHASES]) for a in self.axes]
        self.phases, self.writing = phases, list(phases)
        if self.join > (self.join if self.axes[2][MERGED] > 1 else 1):
            self.phases[2] = rng.randrange(self.join)

    def accesses(self):
        yield Counts([(self.tile + 1) * self.n * max(self.split, self.join), self.places * max(self.split, self.join)])
        taps = [axis_taps(a, r) for a, r in zip(self.axes, self.phases)]
        if min(t for t, _, _ in taps) > 0:
            j = [which(self.rng, t) for t, _, _ in taps]
            first, offset = [f for _, f, _ in taps], [o for _, _, o in taps]
            if self.k.get("FORM", "pointers") == "pointers":
                yield self.gathered([o + i * a[MOVE] for o, i, a in zip(offset, j, self.axes)])
            else:
                yield self.described()
            if self.c.dense:
                yield self.weight(first, j)
        yield from self.written()

    def gathered(self, moved) -> Access:
        q = some(self.rng, self.n * self.split)
        n, *t = position(self.tile * self.n + q // self.split, self.steps)
        at = [i * a[IN_STEP] for i, a in zip(t, self.axes)]
        at[2] = at[2] + q % self.split
        at = [i + m * s for i, m, s in zip(at, moved, (1, 1, self.split))]
        live = (self.tile * self.n * self.split + q < self.places * self.split) & inside(
            at, self.source.shape[2:], [a[HALO] for a in self.axes])
        last, strides = self.k["X_LAST"], self.source.stride()
        step = 1 if last else strides[1]
        farthest = np.int64((self.red - 1) * step)  # another group's channels are added in 64 bits
        offsets = place(strides, n, 0, *at)
        beyond = (self.source.shape[1] - 1) * step
        return Access("gathered", self.source, offsets, live, self.k["X_RUN"], None if last else 0, (offsets, farthest), beyond)

    def described(self) -> Access:
        """A descriptor asks for an address and strides of 16 bytes."""
        step = even_step(self.source)
        shape, strides, block = lowering.described(self.p, self.c, step)
        assert max(shape) < 2**31 and max(block) <= 256 and strides[-1] == 1 == self.source.stride(1)
        offsets = np.array([0, *strides[:-1]], dtype=np.int64)
        return Access("described", self.source, offsets, np.array([True, *(size > 1 for size in shape[:-1])]), 16 // self.p.item, None,
                      terms=(np.int64(0),), beyond=-offsets.max())

    def weight(self, first, j) -> Access:
        k, axes = self.k, self.axes
        w, (ci, co, tap) = self.call.w, weight_strides(self.call.w) or (0, 0, 0)
        if "packed" in self.launch.tensors:
            co_group, taps = self.p.co_group, self.p.taps
            w, (ci, co, tap) = torch.empty(self.p.ci, taps, co_group, dtype=w.dtype, device="meta"), (taps * co_group, 1, co_group)
        row, red = (co, ci) if self.forward else (ci, co)
        row, red = 1 if k["W_MINOR"] == "row" else row, 1 if k["W_MINOR"] == "red" else red
        m, kk = some(self.rng, self.c.block_m), some(self.rng, self.c.block_k * self.split)
        md, mh, mw = (a[MERGED] for a in axes)
        interleave = k["JOIN"] if mw > 1 else 1
        i_row = which(self.rng, -(-md * mh * mw * self.rows // self.c.block_m))
        lines = self.c.block_m // interleave
        if interleave > 1:
            rw, line = (m % interleave, m // interleave) if k["PHASE_MINOR"] else (m // lines, m % lines)
            rd, rh, _, channel = row_parts(i_row * lines + line, self.rows, md, mh, 1, k["PHASE_MINOR"])
        else:
            rd, rh, rw, channel = row_parts(i_row * self.c.block_m + m, self.rows, md, mh, mw, k["PHASE_MINOR"])
        row_live = (channel < self.rows) & (rd < md)
        rows = channel * row + ((rd * axes[1][KERNEL] + rh) * axes[2][KERNEL] + rw) * tap
        c0 = which(self.rng, -(-self.red // self.c.block_k)) * self.c.block_k
        kd, kh, kw = (f + i * a[TAP_STEP] for f, i, a in zip(first, j, axes))
        split = kk // self.c.block_k
        columns = split * tap + kk % self.c.block_k * red + ((kd * axes[1][KERNEL] + kh) * axes[2][KERNEL] + kw) * tap + c0 * red
        column_live = c0 + kk % self.c.block_k < self.red
        if axes[2][GUARD]:
            column_live &= (kw + split >= 0) & (kw + split < axes[2][KERNEL])
        live = row_live[:, None] & column_live[None, :]
        axis = 0 if k["W_MINOR"] == "row" or k["PHASE_MINOR"] else 1 if k["W_MINOR"] == "red" else None
        beyond = (self.p.groups - 1) * self.p.ci_group * ci
        return Access("weight", w, rows[:, None] + columns[None, :], live, k["W_RUN"], axis, (rows[:, None], columns[None, :]),
                      beyond)

    def written(self):
        k, (a_d, a_h, a_w), join = self.k, self.axes, self.join
        if self.c.dense:
            rd, rh, rw, channel, line_live = self.lines()
        else:
            channel = which(self.rng, -(-self.p.groups * self.rows // self.c.block_m)) * self.c.block_m + some(self.rng, self.c.block_m)
            rd = rh = rw = np.zeros_like(channel)
            line_live = channel < self.rows * self.p.groups
        column = some(self.rng, self.n * join)
        if self.box is None:
            n, td, th, tw = position(self.tile * self.n + column // join, self.steps)
            column_live = self.tile * self.n * join + column < self.places * join
        else:
            n, td, th, tw = position(self.tile, [-(-t // b) for t, b in zip(self.steps, self.box)])
            width = self.box[2] * join
            td = td * self.box[0] + column // (width * self.box[1])
            th = th * self.box[1] + column // width % self.box[1]
            tw = tw * self.box[2] + column % width // join
            column_live = (td < self.steps[0]) & (th < self.steps[1]) & (tw < self.steps[2])
        base = [t * a[OUT_STEP] + r - a[ORIGIN] for t, a, r in zip((td, th, tw), self.axes, self.writing)]
        base[2] = base[2] + column % join
        at = [r[:, None] + b[None, :] for r, b in zip((rd, rh, rw), base)]
        live = line_live[:, None] & column_live[None, :] & inside(at, self.target.shape[2:], [a[EDGE] for a in self.axes])
        everywhere = [np.broadcast_to(i, live.shape) for i in at]
        outside = live & ~inside(everywhere, self.target.shape[2:])
        assert not outside.any(), "a place outside the output is live"
        axis = 0 if k["Y_LAST"] else 1
        yield Access("written", self.target, self.offsets(self.target, n, channel, at), live, k["Y_RUN"], axis)
        if self.call.residual is not None:
            yield Access("residual", self.call.residual, self.offsets(self.call.residual, n, channel, at), live,
                         k.get("R_RUN", 1), axis)

    @staticmethod
    def offsets(tensor, n, channel, at):
        return place(tensor.stride(), np.asarray(n), channel[:, None], *at)

    def lines(self):
        k, axes = self.k, self.axes
        md, mh, mw = (a[MERGED] for a in axes)
        interleave = k["JOIN"] if mw > 1 else 1
        mw, lines = mw // interleave, self.c.block_m // interleave
        i_row = which(self.rng, -(-md * mh * axes[2][MERGED] * self.rows // self.c.block_m))
        line = some(self.rng, lines)
        if k["PHASE_MINOR"] and k["Y_LAST"]:
            channels = lines // (md * mh * mw)
            rd, rh, rw, channel = row_parts(line, channels, md, mh, mw, False)
            channel = channel + i_row * channels
        else:
            rd, rh, rw, channel = row_parts(i_row * lines + line, self.rows, md, mh, mw, k["PHASE_MINOR"])
        live = (channel < self.rows) & (rd < md)
        return rd, rh, rw, self.group * self.rows + channel, live


class Copy:
    """x in channels_last: to_channels_last of kernels/reduce.py."""

    def __init__(self, call: Call, launch: Launch, rng: random.Random):
        self.call, self.k, self.rng = call, launch.constants, rng
        self.places, self.channels, *self.sizes = launch.sizes

    def accesses(self):
        x, block_p, block_c = self.call.x, self.k["BLOCK_P"], self.k["BLOCK_C"]
        index = which(self.rng, -(-self.places // block_p)) * block_p + some(self.rng, block_p)
        channel = which(self.rng, -(-self.channels // block_c)) * block_c + some(self.rng, block_c)
        live = (channel < self.channels)[:, None] & (index < self.places)[None, :]
        n, d, h, w = position(index, self.sizes)
        yield Access("copied", x, channel[:, None] * x.stride(1) + place(x.stride(), n, 0, d, h, w)[None, :], live, self.k["X_RUN"], 1)
        copy = torch.empty(x.shape, dtype=x.dtype, device="meta", memory_format=torch.channels_last_3d)
        yield Access("the copy", copy, channel[:, None] + index[None, :] * self.channels, live, self.k["C_RUN"], 0)


class WeightGradient:
    """kernels/grad_weight.py, with tensor cores and without."""

    def __init__(self, call: Call, problem: Problem, config: Config, launch: Launch, rng: random.Random):
        self.call, self.c, self.k, self.rng = call, config, launch.constants, rng
        self.axes = self.k["AXIS_D"], self.k["AXIS_H"], self.k["AXIS_W"]
        self.places, self.share, *steps = launch.sizes[:5]
        self.steps, self.split, self.groups = steps, self.k.get("SPLIT", 1), problem.groups

    def accesses(self):
        k, block = self.k, self.c.block_k if self.c.dense else self.c.block_n
        i_share = which(self.rng, self.c.shares)
        first = i_share * self.share
        last = min(self.places, first + self.share)
        yield Counts([first + self.share, (last + block) * self.split, self.places * self.split])
        if first >= last:
            return
        start = first + which(self.rng, -(-(last - first) // block)) * block
        o = some(self.rng, block)
        n, d, h, w = position(start + o, self.steps)
        yield self.access("x", self.call.x, n, (d, h, w), start + o < last, k["X_LAST"], k["X_RUN"])
        q = some(self.rng, block * self.split)
        n, *t = position(start + q // self.split, self.steps)
        j = [which(self.rng, a[TAPS]) for a in self.axes]
        moved = [i * a[MOVE] + a[OFFSET] for i, a in zip(j, self.axes)]
        at = [i * a[IN_STEP] + m * s for i, a, m, s in zip(t, self.axes, moved, (1, 1, self.split))]
        at[2] = at[2] + q % self.split
        live = (start * self.split + q < last * self.split) & inside(at, self.call.y.shape[2:], [a[HALO] for a in self.axes])
        yield self.access("dz", self.call.y, n, at, live, k["Z_LAST"], k["Z_RUN"])

    def access(self, what, tensor, n, at, live, last, run) -> Access:
        step = 1 if last else tensor.stride(1)
        offsets = place(tensor.stride(), n, 0, *at)
        farthest = tensor.shape[1] // (self.groups if self.c.dense else 1) - 1  # groups are added in 64 bits
        return Access(what, tensor, offsets, live, run, None if last else 0, (offsets, np.int64(farthest * step)),
                      (tensor.shape[1] - 1) * step)


class OnePass:
    """kernels/backward.py."""

    def __init__(self, call: Call, problem: Problem, config: Config, launch: Launch, rng: random.Random):
        self.call, self.c, self.k, self.rng, self.p = call, config, launch.constants, rng, problem
        self.places, *self.steps = launch.sizes

    def accesses(self):
        k, call, block = self.k, self.call, self.c.block_k
        sd, sh, sw = k["SD"], k["SH"], k["SW"]
        split = 1 if k["Z_LAST"] else sw
        tile = which(self.rng, -(-self.places // block))
        yield Counts([(tile + 1) * block * split, self.places * split])
        line, q, o = some(self.rng, self.c.block_n // split), some(self.rng, block * split), some(self.rng, block)
        if k["Z_LAST"]:
            co, tap = line % k["CO"], line // k["CO"]
            kd, kh, kw = tap // (sw * sh), tap // sw % sh, tap % sw
            live_line = kd < sd
        else:
            co, rest = line // (sd * sh), line % (sd * sh)
            kd, kh, kw, live_line = rest // sh, rest % sh, rest * 0, co < k["CO"]
        strides = call.y.stride()
        lines = place((0, 1 if k["Z_LAST"] else strides[1], *strides[2:]), 0, co, kd, kh, kw)
        n, d, h, w = position(tile * block + q // split, self.steps)
        columns = place(strides, n, 0, d * sd, h * sh, w * sw + q % split)
        live = live_line[:, None] & (tile * block * split + q < self.places * split)[None, :]
        yield Access("dy", call.y, lines[:, None] + columns[None, :], live, k["Z_RUN"], 0 if k["Z_LAST"] else 1,
                     (lines[:, None], columns[None, :]))
        n, *at = position(tile * block + o, self.steps)
        live = tile * block + o < self.places
        for what, tensor, last, run in (("x", call.x, k["X_LAST"], k["X_RUN"]),
                                        ("dx", empty(call.x.shape, call.y), k["O_LAST"], k["O_RUN"])):
            offsets, step = place(tensor.stride(), n, 0, *at), 1 if last else tensor.stride(1)
            farthest = (tensor.shape[1] - 1) * step
            yield Access(what, tensor, offsets, live, run, None if last else 0, (offsets, np.int64(farthest)), farthest)


def check(call: Call, rng: random.Random) -> tuple[str, list[str]]:
    """What is computed of a call, "" where no config was found; and the promises that are false."""
    problem = call.problem()
    if problem.direction == BACKWARD and problem.y_layout != layout_of(empty(call.x.shape, call.y)):
        return "", []
    config = choose(rng, problem)
    if config is None:
        return "", []
    schedule = plan(problem, H200, config).schedule
    kind = {"grad_weight": WeightGradient, BACKWARD: OnePass}.get(problem.direction, Product)
    found, runs = [], 1
    tried = [kind(call, problem, config, schedule.main, rng)]
    tried += [Copy(call, launch, rng) for launch in schedule.launches if launch.kernel == "to_channels_last"]
    for access in (access for one in tried for access in one.accesses()):
        found += access.false_promises(problem.wide)
        runs = max(runs, getattr(access, "run", 1))
    form = schedule.main.constants.get("FORM", config.path) + " of a copy" * config.copy
    return f"{problem.direction} {form}{' wide' * problem.wide}{', runs' * (runs > 1)}", [
        f"{reason}: {problem}, {config}, {call}" for reason in found]


def main(n: int, seed: int, report=lambda text: None) -> tuple[Counter, list[str]]:
    """Check n random calls; how many there were of each kind, and the false promises."""
    rng, kinds, found = random.Random(seed), Counter(), []
    for i in range(n):
        kind, false = check(draw(rng), rng)
        kinds[kind] += 1
        found += false
        if false or i % 50000 == 49999:
            report(f"{i + 1} problems, {len(found)} false promises" + "".join(f"\n  {text}" for text in false))
    return kinds, found


if __name__ == "__main__":
    given = [*map(int, sys.argv[1:]), 1000, 0]
    kinds, found = main(given[0], given[1 if len(given) > 3 else -1], lambda text: print(text, flush=True))
    print(*(f"{count:8} {kind or 'nothing that fits'}" for kind, count in sorted(kinds.items())), sep="\n")
    sys.exit(f"{len(found)} false promises" if found else 0)
