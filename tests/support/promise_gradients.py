"""What one program of a weight gradient, of all gradients in one pass, or of a copy reads and writes."""

import random
from math import prod

import numpy as np

from promise_calls import Call
from promise_tiles import Access, Counts, copy_of, inside, meta, place, position, some, which
from triton_conv3dt.launching.tensors import empty, weight_strides
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.passes import Launch, Workspace
from triton_conv3dt.problems.problem import Problem


class Copy:
    """x, or dz, in channels_last: to_channels_last of kernels/reduce.py."""

    def __init__(self, call: Call, launch: Launch, rng: random.Random):
        self.source, self.k, self.rng = call.x if launch.tensors[0] == "x" else call.y, launch.constants, rng
        self.places, self.channels, self.sizes, self.given, self.given_sizes = launch.sizes

    def accesses(self):
        x, block_p, block_c = self.source, self.k["BLOCK_P"], self.k["BLOCK_C"]
        index = which(self.rng, -(-self.places // block_p)) * block_p + some(self.rng, block_p)
        channel = which(self.rng, -(-self.channels // block_c)) * block_c + some(self.rng, block_c)
        live = (channel < self.channels)[:, None] & (index < self.places)[None, :]
        (sd, sh), (deep, high, wide) = self.k["APART"], self.sizes
        n, d, h, w = position(index, (deep // sd, high // sh, wide))
        n, d, h = n // (sd * sh), d * sd + n // sh % sd, h * sh + n % sh
        offsets = channel[:, None] * x.stride(1) + place(x.stride(), n, 0, d, h, w)[None, :]
        there = (channel < self.given)[:, None] & ((d < self.given_sizes[0]) & (h < self.given_sizes[1]) & (w < self.given_sizes[2]))[None, :]
        yield Access("copied", x, offsets, live & there, self.k["X_RUN"], 1)
        offsets = channel[:, None] + index[None, :] * self.channels
        yield Access("the copy", copy_of(x), offsets, live, self.k["C_RUN"], 0)


class Residues:
    """x, or dz, as a weight gradient reads a copy: to_residues of kernels/reduce.py."""

    def __init__(self, call: Call, launch: Launch, copied: Workspace, rng: random.Random):
        self.source, self.copied, self.k, self.rng = call.x if launch.tensors[0] == "x" else call.y, meta(copied), launch.constants, rng
        self.channels, self.first, self.count, self.places, self.sizes = launch.sizes
        self.samples = call.x.shape[0]

    def accesses(self):
        x, (deep, high, wide) = self.source, self.count
        n, c, d = (which(self.rng, many) for many in (self.samples, self.channels, deep))
        h, w = (which(self.rng, -(-many // block)) * block + some(self.rng, block)
                for many, block in ((high, self.k["BLOCK_H"]), (wide, self.k["BLOCK_W"])))
        h, w = h[:, None], w[None, :]
        live = (h < high) & (w < wide)
        target = [apart(i, residues, places) for i, residues, places in zip((d, h, w), self.k["RESIDUES"], self.places)]
        yield Access("the copy", self.copied, place(self.copied.stride(), n, c, *target), live, self.k["C_RUN"], 1)
        at = [first + i for first, i in zip(self.first, (d, h, w))]
        live = inside(at, self.sizes)
        yield Access("copied", x, place(x.stride(), n, c, *at), live, self.k["X_RUN"], 1)


class WeightGradient:
    """kernels/grad_weight.py, with tensor cores."""

    def __init__(self, call: Call, problem: Problem, config: Config, launch: Launch, rng: random.Random, copies=()):
        self.c, self.k, self.rng, self.groups = config, launch.constants, rng, problem.groups
        self.x, self.z = map(meta, copies) if config.copy else (call.x, call.y)
        self.places = (launch.sizes[3], launch.sizes[4])  # of a residue, where there are copies
        self.axes = self.k["AXIS_D"], self.k["AXIS_H"], self.k["AXIS_W"]
        self.boxes, self.share, self.size = launch.sizes[:3]
        self.tile = self.k["TILE"]

    def accesses(self):
        k, rng, (bd, bh, bw), split = self.k, self.rng, self.tile.box, self.tile.split
        i_share = which(rng, self.c.shares)
        first = i_share * self.share
        last = min(self.boxes, first + self.share)
        yield Counts([first + self.share, self.boxes])
        if first >= last:
            return
        n, *at = position(first + which(rng, last - first), [-(-t // b) for t, b in zip(self.size, (bd, bh, bw))])
        begin = [i * side for i, side in zip(at, (bd, bh, bw))]
        o = some(rng, self.c.block_k)
        t = [b + i for b, i in zip(begin, (o // (bw * bh), o // bw % bh, o % bw))]
        axes = [a.x for a in self.axes]
        at = [i * a.step + a.first for i, a in zip(t, axes)]
        yield self.access("x", self.x, self.line(self.c.block_m, k["CI"], axes, self.places[0]), n, at, t, o < bd * bh * bw, axes, k["X"])
        q, width = some(rng, self.c.block_k * split), bw * split
        t = [b + i for b, i in zip(begin, (q // (width * bh), q // width % bh, q % width // split))]
        axes = [a.z for a in self.axes]
        at = [i * a.z.step + a.z.first + apart(which(rng, a.programs) * a.z.move, a.z.residues, places)
              for i, a, places in zip(t, self.axes, self.places[1])]
        at[2] = at[2] + q % split
        yield self.access("dz", self.z, self.line(self.c.block_n, k["CO"], axes, self.places[1]), n, at, t, q < bd * bh * width, axes, k["Z"])

    def line(self, block: int, channels: int, axes, places):
        """Some rows or columns of a tile: how far (d, h, w) they shift, their channels, and which of them there are."""
        d, h, w = [a.count for a in axes]
        line = which(self.rng, -(-channels * d * h * w // block)) * block + some(self.rng, block)
        shift = line // channels
        moved = [apart(i * a.move, a.residues, of_one)
                 for i, a, of_one in zip((shift // (w * h), shift // w % h, shift % w), axes, places)]
        return moved, line % channels, line < channels * d * h * w

    def access(self, what, tensor, line, n, at, t, boxed, axes, memory) -> Access:
        moved, channel, live = line
        strides = (tensor.stride(0), 1 if memory.last else tensor.stride(1), *tensor.stride()[2:])
        rows, columns = place(strides, 0, channel, *moved), place(strides, n, 0, *at)
        live = live[:, None] & boxed & np.array(inside(t, self.size, [a.edge for a in axes]))
        places = [i[None, :] + m[:, None] for i, m in zip(at, moved)]
        live = np.broadcast_to(live & inside(places, tensor.shape[2:], [a.halo for a in axes]), (len(rows), len(columns)))
        channels = tensor.shape[1] // self.groups  # groups are added in 64 bits
        offsets = rows[:, None] + columns[None, :]
        return Access(what, tensor, offsets, live, memory.run, 0 if memory.last else 1, (offsets,),
                      (tensor.shape[1] - channels) * strides[1])


def apart(place, residues: int, places: int):
    """Where a place is, residue after residue."""
    return place % residues * places + place // residues


class OnePass:
    """kernels/backward.py."""

    def __init__(self, call: Call, problem: Problem, config: Config, launch: Launch, rng: random.Random):
        self.call, self.c, self.k, self.rng, self.p = call, config, launch.constants, rng, problem
        self.places, self.steps = launch.sizes[:2]

    def accesses(self):
        k, call, block = self.k, self.call, self.c.block_k
        yield self.weight()
        (sd, sh, sw), split = k["STRIDE"], k["TILE"].split
        tile = which(self.rng, -(-self.places // block))
        yield Counts([(tile + 1) * block * split, self.places * split])
        line, q, o = some(self.rng, self.c.block_n // split), some(self.rng, block * split), some(self.rng, block)
        if k["Z"].last:
            co, tap = line % k["CO"], line // k["CO"]
            kd, kh, kw = tap // (sw * sh), tap // sw % sh, tap % sw
            live_line = kd < sd
        else:
            co, rest = line // (sd * sh), line % (sd * sh)
            kd, kh, kw, live_line = rest // sh, rest % sh, rest * 0, co < k["CO"]
        strides = call.y.stride()
        lines = place((0, 1 if k["Z"].last else strides[1], *strides[2:]), 0, co, kd, kh, kw)
        n, d, h, w = position(tile * block + q // split, self.steps)
        columns = place(strides, n, 0, d * sd, h * sh, w * sw + q % split)
        live = live_line[:, None] & (tile * block * split + q < self.places * split)[None, :]
        yield Access("dy", call.y, lines[:, None] + columns[None, :], live, k["Z"].run, 0 if k["Z"].last else 1,
                     (lines[:, None], columns[None, :]))
        n, *at = position(tile * block + o, self.steps)
        live = tile * block + o < self.places
        for what, tensor, (last, run, _) in (("x", call.x, k["X"]), ("dx", empty(call.x.shape, call.y), k["O"])):
            offsets, step = place(tensor.stride(), n, 0, *at), 1 if last else tensor.stride(1)
            farthest = (tensor.shape[1] - 1) * step
            yield Access(what, tensor, offsets, live, run, None if last else 0, (offsets, np.int64(farthest)), farthest)

    def weight(self) -> Access:
        """w, in the order of the columns; of lines too few for two products the residue that is parted counts slower."""
        column, tile, taps = np.arange(self.c.block_n), self.k["TILE"], prod(self.k["STRIDE"])
        lines = tile.n // tile.split
        if tile.split > 1 and lines < 16:
            column = column % lines * tile.split + column // lines
        co, tap = (column % self.k["CO"], column // self.k["CO"]) if self.k["Z"].last else (column // taps, column % taps)
        row, (to_ci, to_co, to_tap) = some(self.rng, self.c.block_m), weight_strides(self.call.w)
        live = (row < self.k["CI"])[:, None] & (column < self.k["CO"] * taps)[None, :]
        offsets = (row * to_ci)[:, None] + (co * to_co + tap * to_tap)[None, :]
        return Access("weight", self.call.w, offsets, live, self.k["W"].run, 1, ((row * to_ci)[:, None], (co * to_co + tap * to_tap)[None, :]))
