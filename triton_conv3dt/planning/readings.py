"""How a tile of positions may be read: by pointers, or by a tensor descriptor in boxes of which few places are wasted."""

from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import lowering
from .config import Config, copyable
from .device import Device


def readings(problem: Problem, device: Device, merge, block_m: int, block_n: int, thorough: bool, flat: int = 0):
    """Paths and boxes that may read a tile of positions, of a copy of x or not; what costs the same is better read by
    descriptor."""
    copied = problem.direction == "forward" and copyable(problem)
    if device.descriptors and not flat:
        yield from (("descriptor", box, copied) for box in boxes(problem, merge, block_n, thorough))
    # Neighbours that are split, of two warpgroups with 64 rows between them, go through shared memory one by one.
    parted = problem.direction == "grad_input" and (problem.in_size[2] % 8 > 0 or block_m <= 64)
    still = device.warpgroups and all(axis.reads_in_place for axis in problem.axes) and not parted
    if thorough or max(block_m, block_n) <= 128 or still:  # addresses take registers, more where taps or rows shift them
        yield "gather", (0, 0, 0), copied
        if copied and problem.item > 2:  # narrower neighbours that shift by one are read singly: only a copy is worth trying
            yield "gather", (0, 0, 0), False


def boxes(problem: Problem, merge, block_n: int, thorough: bool, apart: bool = False):
    """Boxes of block_n positions, those that leave the fewest places unused first; none where neighbours in a row do. apart: residues
    of a stride lie apart, in a copy."""
    strided = problem.direction == "grad_input" and problem.stride != (1, 1, 1)
    if not strided and all(axis.reads_in_place for axis in problem.axes):
        return [(0, 0, 0)]
    places = lowering.steps(problem, Config("descriptor", 1, 1, merge=merge))
    filled = lambda box: prod(ceil_div(t, b) * b for t, b in zip(places, box)) * (1 if box[2] >= 4 else 1.25)
    waste = lambda box: (filled(box), -min(box[2], 16), -box[1])
    sides = [1 << i for i in range(9)]
    found = [(d, h, block_n // (d * h)) for d in (sides if apart or not strided else (1,)) for h in sides
             if block_n // (d * h) in sides and d * h * (block_n // (d * h)) == block_n]
    return sorted(found, key=waste)[:3 if thorough else 1]
