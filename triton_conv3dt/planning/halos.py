"""Rows along h that a step of a cluster fetches with a halo, so that all taps along h of one residue of the stride read them (pairs.py).

A box of high rows lies in shared memory row after row. What a tap reads is the box, some rows further on: as many more rows as the
taps are apart serve all of them, where each would fetch a box of its own.
"""

from functools import lru_cache

from ..problems.geometry import power_of_two_divisor
from ..problems.problem import Problem
from .constants import Band
from .phases import phase_origin

HIGH = {"box": 2, "apart": 2, "strided": 1, "lines": 1, "strided lines": 1}  # the side of a block that is along h
SIDES = {"box": (1, 3), "apart": (1, 3), "strided": (3,), "lines": (0, 3), "strided lines": (4,)}  # of a block that are parted
FURTHER = 0.4  # of the instructions of a step: what each further tap adds; fitted to counts of H200
MOST_TAPS = 7  # of a band: so many products may be under way while a wait tells those before them


def bands(problem: Problem, config) -> tuple[Band, ...]:
    """The bands that the steps of a product fetch, one of them each; none where its config keeps no halo."""
    return _bands(problem, config.merge[1]) if config.halo else ()


def count(problem: Problem, config) -> int | None:
    """How many steps the taps along h take; None where each takes one."""
    return len(bands(problem, config)) or None


def taps(problem: Problem, config) -> float:
    """Taps of a step, on average over steps."""
    found = bands(problem, config)
    return sum(len(band.taps) for band in found) / len(found) if found else 1


def rows(problem: Problem, config) -> float:
    """Rows that a step fetches beside those of its box, likewise."""
    found = bands(problem, config)
    return sum(band.halo for band in found) / len(found) if found else 0


def most(problem: Problem, config) -> tuple[int, int]:
    """Taps and rows of the largest step."""
    found = bands(problem, config)
    return max((len(band.taps) for band in found), default=1), max((band.halo for band in found), default=0)


def wide(config) -> int:
    """Places along w of one program: with a halo, those of a cluster have planes of their own, or parts of rows."""
    return config.box[2] * config.box[0] // config.ctas if config.halo else config.box[2]


def further(problem: Problem, config, kind: str, block: list[int]) -> list[int]:
    """The block of further rows, beside that of the box of a tensor that is read so."""
    return [together(problem, config) if i == HIGH[kind] else side for i, side in enumerate(block)]


def busy(problem: Problem, config) -> float:
    """What a step issues, over one of one tap: more of each further tap, and to tell bands apart."""
    return 1 + FURTHER * (taps(problem, config) - 1 + (len(bands(problem, config)) > 1))


def together(problem: Problem, config) -> int:
    """Rows of a halo that are fetched at once: a power of two that divides all."""
    return min((power_of_two_divisor(band.halo, 16) for band in bands(problem, config)), default=1)


def fits(config, problem: Problem, kind: str) -> str | None:
    """Why a halo cannot be kept of a tensor that is read so, or None."""
    if kind in ("rows", "planes"):
        return "a halo is that of boxes"
    if problem.direction == "forward" and problem.stride[1] > 1 and not config.merge[1]:
        return "phases along h have taps of their own; a halo serves those of merged ones"
    if not 1 < (found := most(problem, config)[0]) <= MOST_TAPS:
        return f"{found} taps along h are not two to {MOST_TAPS} of one residue"
    deep = config.box[0]
    if deep > (1 if kind in ("strided", "strided lines") else config.ctas) or wide(config) < (8 if kind in ("box", "strided", "apart") else 1):
        return f"{config.ctas} programs do not part the planes and rows of a box of {'x'.join(map(str, config.box))}, in 8 places along w"
    return None


@lru_cache(maxsize=4096)
def _bands(problem: Problem, merged: bool) -> tuple[Band, ...]:
    axis, found = problem.axes[1], {}
    if problem.direction != "forward":
        step, reads = axis.stride, [(tap * axis.dilation - axis.padding, tap) for tap in range(axis.kernel)]
    elif merged:
        m, step = axis.merged(phase_origin(problem, "h")), 1
        reads = [(m.offset - j, m.first + j * m.stride) for j in range(m.taps)]
    else:
        only, step = axis.phase(0), 1
        reads = [(only.offset - j * axis.input_step, only.first + j * axis.tap_step) for j in range(only.taps)]
    for place, tap in reads:
        found.setdefault(place % step, []).append((place // step, tap))
    return tuple(Band(residue, first := min(read)[0], max(read)[0] - first, tuple((row - first, tap) for row, tap in read))
                 for residue, read in sorted(found.items()))
