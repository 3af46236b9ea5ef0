"""Which places the patches of a walk have, boxes or runs, and how much of what they fetch lies in the tensor: the rest is zeros, which
nobody reads."""

from functools import lru_cache

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from .phases import coarse_places
from .walk_constants import Sheet, Walk
from .walk_memory import read
from .walk_tables import uses


def along(problem: Problem, config, run: int) -> int:
    """Places from one row to the next in a run of them, such that what taps reach beyond a row is zeros. Even where two are read at once."""
    shifts, places = [shift for _, _, shift, _ in uses(problem, 2, config.merge[2])], coarse_places(problem, config.merge)[2]
    _, _, _, size, step = read(problem)
    found = max(places + max(shifts), places, ceil_div(size[2], step[2]) - min(0, *shifts))
    return found + found % 2 * (run == 2 and step[2] == 1)


def patches(config, along: int, steps: tuple[int, int, int]) -> int:
    """Patches of a plane: boxes, or runs that have all rows and what lies between them."""
    _, high, wide = config.box
    return ceil_div((steps[1] - 1) * along + steps[2], wide) if along else ceil_div(steps[1], high) * ceil_div(steps[2], wide)


@lru_cache(maxsize=4096)
def inside(walk: Walk, planes: int, steps: tuple[int, int, int], size: tuple[int, int, int],
           step: tuple[int, int, int]) -> float:
    """Of the places that all programs load in all steps, the part that is inside. steps: coarse places; size: of what is read, whose
    residues lie `step` apart; planes: that a program walks."""
    (depth, *_), span = steps, walk.span
    walks = range(0, depth, planes)
    along_d = [_within(t + walk.low, min(planes, depth - t) + span - 1, _count(size[0], r, step[0])) for t in walks for r in walk.residues]
    all_d = sum(min(planes, depth - t) + span - 1 for t in walks) * len(walk.residues)
    within, everything = zip(*(_of_plane(walk, sheet, steps, size, step) for sheet in walk.sheets))
    return sum(along_d) / all_d * sum(within) / sum(everything)


def _of_plane(walk: Walk, sheet: Sheet, steps, size, step) -> tuple[float, int]:
    """Places of a sheet that all patches of a plane load: inside, and all."""
    high, wide = _count(size[1], sheet.residue, step[1]), _count(size[2], sheet.residue_w, step[2])
    places = walk.wide + sheet.reach
    if walk.along:
        runs = range(0, (steps[1] - 1) * walk.along + steps[2], walk.wide)
        before = lambda place: min(place // walk.along, high) * wide + min(place % walk.along, wide) * (place < high * walk.along)
        within = (before(max(0, w + sheet.shift + places)) - before(max(0, w + sheet.shift)) for w in runs)
        return sum(within), len(runs) * places
    down, across = range(0, steps[1], walk.high), range(0, steps[2], walk.wide)
    within = sum(_within(h + sheet.first, sheet.rows, high) for h in down) * sum(_within(w + sheet.shift, places, wide) for w in across)
    return within, len(down) * sheet.rows * len(across) * places


def _count(size: int, residue: int, step: int) -> int:
    """Places of a residue."""
    return ceil_div(size - residue, step)


def _within(first: int, count: int, size: int) -> int:
    """How many of so many places are of an axis."""
    return max(0, min(first + count, size) - max(first, 0))
