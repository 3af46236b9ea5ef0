"""Which inputs the outputs of a rank read, which rank has them, and what a rank computes from what.

A volume is split over ranks as DTensor splits it, input and output each by its own length, so a rank's outputs may read
inputs of any other rank: of none where kernel = stride and the shards are aligned, of several where shards are shorter
than the kernel reaches. What one output reads along an axis does not depend on the other axes, so what a rank reads is
a product of runs of planes, and only that is sent.

A rank computes the outputs that read nothing but its own inputs from its shard, where it lies; those at the borders it
computes from small buffers, in which what others have is joined to the planes next to it.

Only integers here: no tensors, no devices.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import prod

from ..problems.geometry import Axis, ceil_div

Box = tuple[range, range, range]  # along depth, height and width
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Split:
    """A mesh of ranks, of the given sizes, and the axis (0: depth, 1: height, 2: width) that each of its axes splits.

    order: the ranks as the group that they talk in counts them, where it counts otherwise.
    """

    sizes: tuple[int, ...]
    axes: tuple[int, ...]
    order: tuple[int, ...] | None = None

    @cached_property
    def ranks(self) -> int:
        return prod(self.sizes)

    def box(self, lengths: tuple[int, int, int], rank: int) -> Box:
        """What a rank has of a volume; ranks are counted with the last axis of the mesh fastest."""
        box = [range(length) for length in lengths]
        following = self.ranks
        for size, axis in zip(self.sizes, self.axes):
            following //= size
            box[axis] = chunk(box[axis], size, rank // following % size)
        return tuple(box)


@dataclass(frozen=True)
class Part:
    """Outputs of a rank that are one product, and the inputs it reads: the rank's own, or a buffer that is joined."""

    outputs: Box
    inputs: Box
    joined: bool


@dataclass(frozen=True)
class Piece:
    """A box of one of several tensors, and where it lies in a flat buffer: at [inner] of a box that begins there."""

    tensor: int
    outer: Slices
    start: int  # in places, each of them N * C elements
    shape: tuple[int, int, int]
    inner: Slices


@dataclass(frozen=True)
class Route:
    """Boxes of tensors, of these sizes, on their way to or from a flat buffer of so many places."""

    pieces: tuple[Piece, ...]
    sizes: tuple[tuple[int, int, int], ...]
    places: int


def chunk(whole: range, parts: int, index: int) -> range:
    """One of the ranges into which DTensor, as torch.chunk, cuts: all as long as the first, while there are any."""
    length = ceil_div(len(whole), parts)
    return whole[min(len(whole), index * length):min(len(whole), (index + 1) * length)]


@lru_cache(maxsize=65536)
def inputs_of(axis: Axis, outputs: range) -> tuple[range, ...]:
    """The runs of inputs that these outputs read, exactly: taps that lie apart may leave out what is between them."""
    if not outputs:
        return ()
    first, last = outputs.start + axis.padding, outputs.stop - 1 + axis.padding  # of the taps' positions
    lowest = max(0, ceil_div(first - (axis.kernel - 1) * axis.dilation, axis.stride))
    highest = min(axis.size - 1, last // axis.stride)
    runs = []
    for i in range(lowest, highest + 1):
        tap = max(0, ceil_div(first - i * axis.stride, axis.dilation))
        if tap < axis.kernel and i * axis.stride + tap * axis.dilation <= last:
            if runs and runs[-1].stop == i:
                runs[-1] = range(runs[-1].start, i + 1)
            else:
                runs.append(range(i, i + 1))
    return tuple(runs)


def interior(axis: Axis, own: range, outputs: range) -> range:
    """The outputs between the last that reads an input before own and the first that reads one behind it."""
    start, stop = outputs.start, outputs.stop
    if own.start > 0:
        start = max(start, (own.start - 1) * axis.stride - axis.padding + (axis.kernel - 1) * axis.dilation + 1)
    if own.stop < axis.size:
        stop = min(stop, own.stop * axis.stride - axis.padding)
    return range(start, stop)


def common(a: Box, b: Box) -> Box:
    return tuple(range(max(p.start, q.start), max(p.start, q.start, min(p.stop, q.stop))) for p, q in zip(a, b))


def places(box: Box) -> int:
    return prod(map(len, box))


def within(box: Box, outer: Box) -> Slices:
    """A box as an index into a tensor that holds the outer one."""
    return tuple(slice(b.start - o.start, b.stop - o.start) for b, o in zip(box, outer))


class Plan:
    """What one rank of a split layer has, receives, computes and sends."""

    def __init__(self, axes: tuple[Axis, Axis, Axis], split: Split, rank: int):
        self.axes, self.split, self.rank = axes, split, rank
        self.own, self.outputs = self.inputs_at(rank), self.outputs_at(rank)
        self.parts = tuple(self._parts())

    def inputs_at(self, rank: int) -> Box:
        return self.split.box(tuple(axis.size for axis in self.axes), rank)

    def outputs_at(self, rank: int) -> Box:
        return self.split.box(tuple(axis.out for axis in self.axes), rank)

    def message(self, source: int, target: int) -> list[Box]:
        """The boxes of the source's inputs that outputs of the target read."""
        runs = map(inputs_of, self.axes, self.outputs_at(target))
        boxes = (common(box, self.inputs_at(source)) for box in product(*runs))
        return [box for box in boxes if places(box)]

    def received(self, rank: int) -> int:
        """How many places a rank receives from others."""
        read = prod(sum(map(len, inputs_of(*pair))) for pair in zip(self.axes, self.outputs_at(rank)))
        return read - sum(map(places, self.message(rank, rank)))

    @cached_property
    def exchanges(self) -> bool:
        """Whether any rank receives anything."""
        return any(map(self.received, range(self.split.ranks)))

    def _parts(self):
        """The borders, axis by axis, each without what those before it have; and what is left between them."""
        rest = self.outputs
        if not places(rest):
            return
        for place, axis in enumerate(self.axes):
            inner = interior(axis, self.own[place], rest[place])
            if not (inner and self.own[place]):
                yield self._border(rest)
                return
            for border in (range(rest[place].start, inner.start), range(inner.stop, rest[place].stop)):
                if border:
                    yield self._border((*rest[:place], border, *rest[place + 1:]))
            rest = (*rest[:place], inner, *rest[place + 1:])
        yield Part(rest, self.own, False)

    def _border(self, outputs: Box) -> Part:
        runs = [inputs_of(axis, r) for axis, r in zip(self.axes, outputs)]
        # Outputs that read nothing are a product, too: of one plane of zeros.
        return Part(outputs, tuple(range(r[0].start, r[-1].stop) if r else range(1) for r in runs), True)

    @cached_property
    def joined(self) -> list[Part]:
        return [part for part in self.parts if part.joined]

    @cached_property
    def sending(self) -> Route:
        """From the shard: first what its own buffers want, then the messages to all ranks in turn."""
        boxes = [common(self.own, part.inputs) for part in self.joined]
        boxes += [box for target in self._others for box in self.message(self.rank, target)]
        pieces, start = [], 0
        for box in boxes:
            shape = tuple(map(len, box))
            pieces.append(Piece(0, within(box, self.own), start, shape, within(box, box)))
            start += places(box)
        return Route(tuple(pieces), (tuple(map(len, self.own)),), start)

    @cached_property
    def kept(self) -> int:
        """How many places of what is packed stay on this rank."""
        return sum(places(common(self.own, part.inputs)) for part in self.joined)

    @cached_property
    def joining(self) -> Route:
        """Into the buffers of the borders: what was kept, then the messages from all ranks in turn."""
        pieces, start = [], 0
        for i, part in enumerate(self.joined):
            box = common(self.own, part.inputs)
            pieces.append(Piece(i, within(box, part.inputs), start, tuple(map(len, box)), within(box, box)))
            start += places(box)
        for box in (box for source in self._others for box in self.message(source, self.rank)):
            for i, part in enumerate(self.joined):
                shared = common(box, part.inputs)
                if places(shared):
                    shape = tuple(map(len, box))
                    pieces.append(Piece(i, within(shared, part.inputs), start, shape, within(shared, box)))
            start += places(box)
        return Route(tuple(pieces), tuple(tuple(map(len, part.inputs)) for part in self.joined), start)

    @cached_property
    def send_places(self) -> list[int]:
        """How many places go to each rank, in the order of the group."""
        return [self._size(self.rank, other) for other in self._order]

    @cached_property
    def receive_places(self) -> list[int]:
        return [self._size(other, self.rank) for other in self._order]

    @property
    def _order(self):
        return self.split.order or range(self.split.ranks)

    @property
    def _others(self) -> list[int]:
        return [rank for rank in self._order if rank != self.rank]

    def _size(self, source: int, target: int) -> int:
        return 0 if source == target else sum(map(places, self.message(source, target)))


plan = lru_cache(maxsize=1024)(Plan)
