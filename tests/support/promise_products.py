"""What one program of a forward or an input gradient reads and writes."""

import random
from math import prod

import numpy as np
import torch

from promise_calls import Call
from promise_tiles import Access, Counts, axis_taps, copy_of, inside, place, position, row_parts, some, which
from triton_conv3dt.launching.tensors import place_stride, weight_strides
from triton_conv3dt.planning import lowering
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.passes import Launch
from triton_conv3dt.problems.problem import Problem


class Product:
    """A forward or an input gradient: kernels/gather.py and kernels/direct.py."""

    def __init__(self, call: Call, problem: Problem, config: Config, launch: Launch, rng: random.Random):
        self.call, self.p, self.c, self.launch, self.rng, self.k = call, problem, config, launch, rng, launch.constants
        self.forward = problem.direction == "forward"
        self.axes = self.k["AXIS_D"], self.k["AXIS_H"], self.k["AXIS_W"]
        self.source, self.target = (call.x, call.y) if self.forward else (call.y, call.x)
        if config.copy:
            self.source = copy_of(call.x if self.forward else call.y)
        if "parts" in launch.tensors and not problem.epilogue.statistics:  # shares of dx
            self.target = copy_of(call.x).float()
        self.places, self.steps = launch.sizes[0], launch.sizes[1][:3]
        self.rows, self.red = self.k["ROWS"], self.k["RED"]
        self.split, self.join, self.phase_minor, self.n = 1, self.k.get("JOIN"), False, config.block_n
        if config.dense:
            tile = self.k["TILE"]
            self.split, self.join, self.phase_minor = tile.split, tile.join, tile.phase_minor
        self.group = which(rng, problem.groups) if config.dense else 0
        self.box = config.box if any(config.box) else None
        tiles = -(-self.places // self.n)
        if self.box:
            tiles = problem.n * prod(-(-t // b) for t, b in zip(self.steps, self.box))
        self.tile = which(rng, tiles)
        # Where phases are joined, programs know one phase along w, and accumulate both.
        phases = [rng.randrange(a.phases) for a in self.axes]
        self.phases, self.writing = phases, list(phases)
        if self.join > (self.join if self.axes[2].merged > 1 else 1):
            self.phases[2] = rng.randrange(self.join)

    def accesses(self):
        yield Counts([(self.tile + 1) * self.n * max(self.split, self.join), self.places * max(self.split, self.join)])
        taps = [axis_taps(a, r) for a, r in zip(self.axes, self.phases)]
        if min(t for t, _, _ in taps) > 0:
            j = [which(self.rng, t) for t, _, _ in taps]
            first, offset = [f for _, f, _ in taps], [o for _, _, o in taps]
            if self.c.flat:
                yield from self.flat(j)
                yield from self.written()
                return
            if self.k["X"].reading == "pointers":
                yield self.gathered([o + i * a.move for o, i, a in zip(offset, j, self.axes)])
            else:
                yield self.described()
            if self.c.dense:
                yield self.weight(first, j)
        yield from self.written()

    def gathered(self, moved) -> Access:
        q = some(self.rng, self.n * self.split)
        n, *t = position(self.tile * self.n + q // self.split, self.steps)
        at = [i * a.in_step for i, a in zip(t, self.axes)]
        at[2] = at[2] + q % self.split
        at = [i + m * s for i, m, s in zip(at, moved, (1, 1, self.split))]
        live = (self.tile * self.n * self.split + q < self.places * self.split) & inside(
            at, self.source.shape[2:], [a.halo for a in self.axes])
        last, strides = self.k["X"].last, self.source.stride()
        step = 1 if last else strides[1]
        farthest = np.int64((self.red - 1) * step)  # another group's channels are added in 64 bits
        offsets = place(strides, n, 0, *at)
        beyond = (self.source.shape[1] - 1) * step
        return Access("gathered", self.source, offsets, live, self.k["X"].run, None if last else 0, (offsets, farthest),
                      beyond)

    def flat(self, j):
        """kernels/flat.py: dz and the weight, with the parts of r side by side."""
        k, axes = self.k, self.axes
        length = self.red * prod(a.flat for a in axes)
        r = which(self.rng, -(-length // self.c.block_k)) * self.c.block_k + some(self.rng, self.c.block_k)
        (fd, fh, fw), taps = (a.flat for a in axes), length // self.red
        c, tap = (r % self.red, r // self.red) if k["X"].last else (r // taps, r % taps)
        tap = [i + first for i, first in zip((tap // (fw * fh) % fd, tap // fw % fh, tap % fw), j)]
        q = some(self.rng, self.n)
        n, *t = position(self.tile * self.n + q, self.steps)
        at = [(i * a.in_step + a.offset)[:, None] + (k * a.move)[None, :] for i, a, k in zip(t, axes, tap)]
        live = (self.tile * self.n + q < self.places)[:, None] & (r < length)[None, :]
        live = live & inside(at, self.source.shape[2:], [a.halo for a in axes])
        strides = self.source.stride()
        step, beyond = 1 if k["X"].last else strides[1], (self.source.shape[1] - self.red) * strides[1]
        offsets = place((strides[0], step, *strides[2:]), n[:, None], c[None, :], *at)
        yield Access("gathered", self.source, offsets, live, k["X"].run, 1, (offsets,), beyond)
        w, (row, red, step) = self.given_weight()
        pairs = axes[2].merged
        m = which(self.rng, -(-pairs * self.rows // self.c.block_m)) * self.c.block_m + some(self.rng, self.c.block_m)
        later, channel = m // self.rows * (axes[2].in_step // pairs), m % self.rows
        columns = c * red + ((tap[0] * axes[1].kernel + tap[1]) * axes[2].kernel + tap[2]) * step
        live = (m < pairs * self.rows)[:, None] & (r < length)[None, :]
        live = live & inside([tap[2][None, :] - later[:, None]], [axes[2].kernel], [axes[2].guard])
        offsets = (channel * row - later * step)[:, None] + columns[None, :]
        yield Access("weight", w, offsets, live, k["W"].run, 0 if k["W"].minor == "row" else 1, (offsets,),
                     (self.p.groups - 1) * self.p.ci_group * row)

    def described(self) -> Access:
        """A descriptor asks for an address and strides of 16 bytes."""
        step = place_stride(self.source)
        shape, strides, block = lowering.described(self.k["X"].reading, self.p, self.c, step)
        assert max(shape) < 2**31 and max(block) <= 256 and strides[-1] == 1 == self.source.stride(1)
        offsets = np.array([0, *strides[:-1]], dtype=np.int64)
        live = np.array([True, *(size > 1 for size in shape[:-1])])
        return Access("described", self.source, offsets, live, 16 // self.p.item, None, terms=(np.int64(0),),
                      beyond=-offsets.max())

    def given_weight(self):
        """The weight that a product reads, and its strides by (row, what is summed over, tap)."""
        minor, w, (ci, co, tap) = self.k["W"].minor, self.call.w, weight_strides(self.call.w) or (0, 0, 0)
        if "packed" in self.launch.tensors:
            co_group, taps = self.p.co_group, self.p.taps
            w = torch.empty(self.p.ci, taps, co_group, dtype=w.dtype, device="meta")
            ci, co, tap = taps * co_group, 1, co_group
            if self.forward and lowering.rounded_before(self.p, self.c):
                ci, co, tap = 1, taps * self.p.ci, self.p.ci
        row, red = (co, ci) if self.forward else (ci, co)
        return w, (1 if minor == "row" else row, 1 if minor == "red" else red, tap)

    def weight(self, first, j) -> Access:
        k, axes, minor = self.k, self.axes, self.k["W"].minor
        w, (row, red, tap) = self.given_weight()
        ci = red if self.forward else row
        m, kk = some(self.rng, self.c.block_m), some(self.rng, self.c.block_k * self.split)
        md, mh, mw = (a.merged for a in axes)
        interleave = self.join if mw > 1 else 1
        i_row = which(self.rng, -(-md * mh * mw * self.rows // self.c.block_m))
        lines = self.c.block_m // interleave
        if interleave > 1:
            rw, line = (m % interleave, m // interleave) if self.phase_minor else (m // lines, m % lines)
            rd, rh, _, channel = row_parts(i_row * lines + line, self.rows, md, mh, 1, self.phase_minor)
        else:
            rd, rh, rw, channel = row_parts(i_row * self.c.block_m + m, self.rows, md, mh, mw, self.phase_minor)
        row_live = (channel < self.rows) & (rd < md)
        rows = channel * row + ((rd * axes[1].kernel + rh) * axes[2].kernel + rw) * tap
        c0 = which(self.rng, -(-self.red // self.c.block_k)) * self.c.block_k
        kd, kh, kw = (f + i * a.tap_step for f, i, a in zip(first, j, axes))
        split = kk // self.c.block_k
        columns = split * tap + (kk % self.c.block_k + c0) * red
        columns += ((kd * axes[1].kernel + kh) * axes[2].kernel + kw) * tap
        column_live = c0 + kk % self.c.block_k < self.red
        if axes[2].guard and self.split > 1:
            column_live &= (kw + split >= 0) & (kw + split < axes[2].kernel)
        for axis, k0, r in zip(axes[:2] + axes[2:] * (self.split == 1), (kd, kh, kw), (rd, rh, rw)):
            row_live &= (k0 + r >= 0) & (k0 + r < axis.kernel) | (not axis.guard)
        live = row_live[:, None] & column_live[None, :]
        axis = 0 if minor == "row" or self.phase_minor else 1 if minor == "red" else None
        beyond = (self.p.groups - 1) * self.p.ci_group * ci
        return Access("weight", w, rows[:, None] + columns[None, :], live, k["W"].run, axis,
                      (rows[:, None], columns[None, :]), beyond)

    def written(self):
        k, join = self.k, self.join
        if self.c.dense:
            rd, rh, rw, channel, line_live = self.lines()
        else:
            i_row = which(self.rng, -(-self.p.groups * self.rows // self.c.block_m))
            channel = i_row * self.c.block_m + some(self.rng, self.c.block_m)
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
        base = [t * a.out_step + r - a.origin for t, a, r in zip((td, th, tw), self.axes, self.writing)]
        base[2] = base[2] + column % join
        at = [r[:, None] + b[None, :] for r, b in zip((rd, rh, rw), base)]
        live = line_live[:, None] & column_live[None, :]
        live &= inside(at, self.target.shape[2:], [a.edge for a in self.axes])
        everywhere = [np.broadcast_to(i, live.shape) for i in at]
        outside = live & ~inside(everywhere, self.target.shape[2:])
        assert not outside.any(), "a place outside the output is live"
        axis = 0 if k["Y"].last else 1
        yield Access("written", self.target, self.offsets(self.target, n, channel, at), live, k["Y"].run, axis)
        if self.call.residual is not None:
            yield Access("residual", self.call.residual, self.offsets(self.call.residual, n, channel, at), live,
                         k["R"].run, axis)

    @staticmethod
    def offsets(tensor, n, channel, at):
        return place(tensor.stride(), np.asarray(n), channel[:, None], *at)

    def lines(self):
        k, axes = self.k, self.axes
        md, mh, mw = (a.merged for a in axes)
        interleave = self.join if mw > 1 else 1
        mw, lines = mw // interleave, self.c.block_m // interleave
        i_row = which(self.rng, -(-md * mh * axes[2].merged * self.rows // self.c.block_m))
        line = some(self.rng, lines)
        if self.phase_minor and k["Y"].last:
            channels = lines // (md * mh * mw)
            rd, rh, rw, channel = row_parts(line, channels, md, mh, mw, False)
            channel = channel + i_row * channels
        else:
            rd, rh, rw, channel = row_parts(i_row * lines + line, self.rows, md, mh, mw, self.phase_minor)
        live = (channel < self.rows) & (rd < md)
        return rd, rh, rw, self.group * self.rows + channel, live
