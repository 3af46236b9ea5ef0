"""Which tiles of a cluster are worth trying. A part of search.py."""

from itertools import chain, product
from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import halos, lowering, pairs, readings
from .boxes import partable
from .config import Config, fits
from .constraints import Constraints
from .device import Device
from .phases import rows_and_reduction

TILES = (512, 8, 4), (256, 8, 2), (256, 4, 4), (128, 4, 2)  # positions of a cluster, warps of each program, and programs
TALL = (1024, 4, 4), (512, 4, 4), (256, 4, 2)  # more products of a warpgroup, of tiles whose few steps do not hide what warps do beside them
STAGES = 4  # of the ring at most: what is in flight hides what a cluster waits for
UNUSED = 1 / 8  # of the channels of all steps, where longer ones find room at once


def tiles(problem: Problem, device: Device, merges, constraints: Constraints, thorough: bool):
    """Configs of a pair, some of which may not fit."""
    if not device.pairs or problem.direction not in ("forward", "grad_input") or problem.groups > 1 or problem.dtype == "float64":
        return
    shapes = TILES + TALL * pairs.in_place(problem)
    for merge in merges:
        rows = prod(a.stride for a, m in zip(problem.axes, merge) if m) * rows_and_reduction(problem)[0]
        largest = max(16, min(256, 1 << (rows - 1).bit_length()))
        columns = [largest >> i for i in range(4 if thorough else 2) if largest >> i >= 16]
        for (block_n, warps, cluster), block_m in product(shapes, columns):
            tile = Config("pair", block_m, block_n, pairs.ROW // problem.item, warps, 1, merge, cluster=cluster)
            read = (tile.but(box=box, copy=copy) for box, copy in _readings(problem, merge, block_n, thorough))
            for config in chain(read, _with_halos(tile, problem, thorough)):
                for staged in _stages(config, problem, device, constraints.most_stages or STAGES, thorough):
                    yield from (staged.but(shares=shares) for shares in _shares(problem, staged, device))


def _stages(config: Config, problem: Problem, device: Device, allowed: int, thorough: bool):
    """As many stages as there is room for, of the most channels that a step may sum over and of which there is room for three; with a halo,
    whose steps are longer, three as well, which may leave room for another cluster; others where all are wanted. No more than steps of
    taps that lie in place."""
    channels, found = rows_and_reduction(problem)[1], []
    for block_k in (config.block_k >> i for i in range(3)):
        tried = config.but(block_k=block_k)
        beside = pairs.shared_memory(problem, tried.but(stages=0))
        room = min(STAGES, allowed, (device.shared_memory - beside) // pairs.stage_bytes(problem, tried))
        steps = ceil_div(channels, block_k)
        most = min(room, max(2, steps)) if pairs.in_place(problem) else room
        fewest = 2 if thorough else 3 if config.halo and most > 3 else max(2, most)
        filled = channels % block_k == 0 or steps <= most and pairs.in_place(problem) and steps * block_k <= (1 + UNUSED) * channels
        if (filled or block_k * problem.item == pairs.ROW // 4) and not pairs.crowded(problem, tried):
            found += [tried.but(stages=n) for n in range(most, fewest - 1, -1)]
        if found and not thorough and room > 2:
            break
    return found if thorough else [config for config in found if config.block_k == found[-1].block_k]


def _shares(problem: Problem, config: Config, device: Device):
    """How many clusters may share the channels that a tile of an input gradient sums over: one; or as many as fill the device, of whole
    chunks."""
    yield 1
    if problem.direction == "grad_input" and not fits(config, problem, device):
        clusters, chunks = prod(lowering.grid(problem, config)), rows_and_reduction(problem)[1] // config.block_k
        most = min(device.sms // config.ctas // clusters, chunks)
        if (shares := max((n for n in range(2, most + 1) if chunks % n == 0), default=1)) > 1:
            yield shares


def _readings(problem: Problem, merge, block_n: int, thorough: bool):
    """Boxes of the positions, and whether of a copy."""
    first = _first(problem)
    for copy in (True,) * partable(problem) + (False,) * (not first):
        yield from ((box, copy) for box in readings.boxes(problem, merge, block_n, thorough, copy))
    if first:
        if pairs.in_place(problem):
            yield (0, 0, 0), False
        yield from ((box, False) for box in _boxes_of_lines(problem, merge, block_n, thorough))


def _with_halos(tile: Config, problem: Problem, thorough: bool):
    """The same tile whose steps fetch a halo along h, in boxes of every reading that are parted along w: those that fetch least."""
    first, places = _first(problem), pairs.positions(tile)
    for copy in (True,) * partable(problem) + (False,):
        shape = tile.but(halo=True, copy=copy, box=(1, 1, 1))
        if halos.most(problem, shape)[0] < 2:
            return
        lines, strided = first and not copy, not copy and problem.direction == "grad_input" and problem.stride != (1, 1, 1)
        parted = pairs.split(problem, shape) * problem.item
        wide = [pairs.ROW // parted >> i for i in range(3)] if lines else [places >> i for i in range(places.bit_length() - 3)]
        deep = (1,) if strided else (1, 2, 4)[:tile.cluster.bit_length()]
        found = [shape.but(box=(d, places // w, w * tile.cluster // d)) for d in deep for w in wide]
        fetched = lambda config: pairs.grid(problem, config, lowering.steps(problem, config)) * pairs.step_bytes(problem, config)
        yield from sorted(found, key=fetched)[:4 if thorough else 2]


def _first(problem: Problem) -> bool:
    """Whether channels come first in what is gathered."""
    return (problem.x_layout if problem.direction == "forward" else problem.y_layout) == "channels_first"


def _boxes_of_lines(problem: Problem, merge, block_n: int, thorough: bool):
    """Boxes of lines: those that leave the fewest places unused first, and the widest."""
    parted = pairs.split(problem, Config("pair", 16, block_n, box=(1, 1, 1)))
    places = lowering.steps(problem, Config("pair", 16, block_n, merge=merge))
    found = []
    for wide in (pairs.ROW >> i for i in range(3)):
        w = wide // (parted * problem.item)
        found += [(1 << i, block_n // w >> i, w) for i in range((block_n // w).bit_length()) if block_n // w >> i]
    waste = lambda box: (prod(ceil_div(t, b) * b for t, b in zip(places, box)), -box[2], -box[1])
    return sorted(found, key=waste)[:4 if thorough else 1]
