"""How much of what a walk fetches lies in the tensor: what it loads of places outside is zeros, which nobody reads."""

from functools import lru_cache

from ..problems.geometry import ceil_div
from .walk_constants import Sheet, Walk


@lru_cache(maxsize=4096)
def inside(walk: Walk, planes: int, steps: tuple[int, int, int], size: tuple[int, int, int],
           step: tuple[int, int, int]) -> float:
    """Of the places that all programs load in all steps, the part that is inside. steps: coarse places; size: of what is read, whose
    residues lie `step` apart; planes: that a program walks."""
    (depth, *_), span = steps, walk.span
    walks = range(0, depth, planes)
    along_d = [_within(t + walk.low, min(planes, depth - t) + span - 1, _count(size[0], r, step[0])) for t in walks for r in walk.residues]
    all_d = sum(min(planes, depth - t) + span - 1 for t in walks) * len(walk.residues)
    read, all_read = zip(*(_of_plane(walk, sheet, steps, size, step) for sheet in walk.sheets))
    return sum(along_d) / all_d * sum(read) / sum(all_read)


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
