"""What one program without tensor cores reads and writes: kernels/direct.py and kernels/grad_weight_direct.py."""

import random

import numpy as np

from promise_calls import Call
from promise_tiles import Access, Counts, axis_taps, inside, place, position, some, which
from triton_conv3dt.planning import lanes
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.passes import Launch
from triton_conv3dt.problems.problem import Problem


class Lanes:
    """A product of boxes of places."""

    def __init__(self, call: Call, problem: Problem, config: Config, launch: Launch, rng: random.Random):
        self.call, self.p, self.k, self.rng = call, problem, launch.constants, rng
        self.axes = self.k["AXIS_D"], self.k["AXIS_H"], self.k["AXIS_W"]
        self.lanes, self.reads = self.k["LANES"], (self.k["READS_H"], self.k["READS_W"])
        self.weights, self.forward = problem.direction == "grad_weight", problem.direction == "forward"
        self.source, self.target = (call.x, call.y) if self.forward else (call.y, call.x)
        self.phases = [rng.randrange(a.phases) for a in self.axes]
        self.tile = which(rng, -(-self.target.shape[1] // config.block_m))
        if self.weights:
            self.tile = which(rng, -(-self.source.shape[1] // config.block_m))
        sizes, sides = lanes.places(problem), lanes.sides(problem, config)
        self.counts = [sum(launch.sizes[:2])] if self.weights else []  # boxes, and those of a share beyond the last
        self.n, *box = position(which(rng, lanes.boxes(problem, config)), [-(-t // s) for t, s in zip(sizes, sides)])
        self.origin = [i * s for i, s in zip(box, sides)]

    def parts(self, join: int = 1):
        """Channel, place (d, h, w), the neighbour that is joined, and the lane, of some lanes."""
        box, count = self.lanes.box, self.lanes.channels
        places = box[0] * box[1] * box[2]
        lane = some(self.rng, count * places * join)
        at, minor = lane // join, lane % join
        channel, at = (at % count, at // count) if self.lanes.last else (at // places, at % places)
        d, h, w = at // (box[1] * box[2]), at // box[2] % box[1], at % box[2]
        t = [o + i for o, i in zip(self.origin, (d, h * self.lanes.lines, w * self.lanes.columns))]
        return self.tile * self.lanes.channels + channel, t, minor

    def accesses(self):
        yield Counts([*self.origin, *self.counts])
        channel, t, _ = self.parts()
        if self.weights:
            line = self.rng.randrange(self.lanes.lines)
            at = [t[0], t[1] + line, t[2] + self.rng.randrange(self.lanes.columns)]
            live = inside(at, self.call.x.shape[2:], [a.edge for a in self.axes]) & (channel < self.call.y.shape[1])
            of_x = channel // self.k["CO"] * self.k["CI"] + self.rng.randrange(self.k["CI"])
            yield self.access("x", self.call.x, of_x, at, 0, live, self.k["X"])
        moved = self.moved()
        if moved is not None:
            yield self.gathered(channel, t, *moved)
        if not self.weights:
            yield from self.written()

    def moved(self):
        """What a read adds to a place, the first column's part of it along w apart, and along which axes it may leave the tensor;
        None of a phase that reads nothing."""
        found, column, halo = [], 0, [a.halo for a in self.axes]
        for axis, a, phase in zip("dhw", self.axes, self.phases):
            reads = self.reads["hw".index(axis)] if axis != "d" else None
            taps, _, offset = (1, 0, 0) if reads and reads.unrolled else axis_taps(a, phase)
            if taps == 0 or reads and not reads.offset:
                return None
            shift = offset + which(self.rng, taps) * a.move if not (reads and reads.unrolled) else 0
            if reads:
                i = self.rng.randrange(len(reads.offset))
                halo["dhw".index(axis)] &= not reads.inside[i]
            if axis == "w":
                column, shift = reads.offset[i] - reads.offset[0], shift + reads.offset[0]
            elif reads:
                shift += reads.offset[i]
            found.append(shift)
        return found, column, halo

    def gathered(self, channel, t, moved, column, halo) -> Access:
        at = [i * a.in_step + m for i, a, m in zip(t, self.axes, moved)]
        live = inside([*at[:2], at[2] + column], self.source.shape[2:], halo)
        if self.weights:
            live &= inside(t, self.call.x.shape[2:], [self.axes[0].edge, False, self.axes[2].edge])
            of_source = channel
        else:
            channel = channel * self.lanes.shared
            of_source = channel // self.k["ROWS"] * self.k["RED"] + self.rng.randrange(self.k["RED"])
        live = live & (channel < (self.source if self.weights else self.target).shape[1])
        return self.access("dz" if self.weights else "gathered", self.source, of_source, at, column, live,
                           self.k["Z" if self.weights else "X"])

    def access(self, what, tensor, channel, at, column, live, memory) -> Access:
        """Of channels side by side, where a place begins is what is promised."""
        strides = tensor.stride()
        first = place(strides, self.n, 0 if memory.last else channel, *at)
        beyond = tensor.shape[1] - 1 if memory.last else 0
        return Access(what, tensor, first + column * strides[4], live, memory.run, None if memory.last else 0,
                      (first + beyond, np.int64(column * strides[4])), beyond)

    def written(self):
        """The stores of one line."""
        found, k = self.lanes, self.k
        join = found.join if found.last or k["Y"].run > 1 else 1
        channel, t, minor = self.parts(join)
        channel, at = channel * found.shared, [i * a.out_step + r for i, a, r in zip(t, self.axes, self.phases)]
        line, phases = self.rng.randrange(self.reads[0].lines), self.reads[0].lines // found.lines
        at[1] = at[1] + line // phases * self.axes[1].out_step + line % phases
        if found.last:
            channel = channel + (minor if join > 1 else self.rng.randrange(found.shared))
        else:
            channel = channel + self.rng.randrange(found.shared)
            at[2] = at[2] + (minor if join > 1 else self.rng.randrange(self.reads[1].lines))
        live = inside(at, self.target.shape[2:], [a.edge for a in self.axes]) & (channel < self.target.shape[1])
        assert not (live & ~inside(at, self.target.shape[2:])).any(), "a place outside the output is live"
        axis = None if found.last and found.channels * join < k["Y"].run else 0
        for what, tensor, run in (("written", self.target, k["Y"].run), ("residual", self.call.residual, k["R"].run)):
            if tensor is not None:
                yield Access(what, tensor, place(tensor.stride(), self.n, channel, *at), live, run, axis)
