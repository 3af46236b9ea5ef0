"""What a walk reads and writes, as it lies in memory; and the copy that it may read instead, in channels_last and padded with
zeros, so that rows of shared memory end where the channels of a place end, and coarse places where an axis ends. Pairs of programs
read such copies, too, of as many channels as there are.
"""

from math import gcd, prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from .phases import rows_and_reduction

SWIZZLE = 128  # bytes of a row at most: what a copy swizzles, so that products find no bank conflicts
UNIT = 8  # channels of 16 bits that lie side by side in a line
NARROWEST = 32  # bytes of a row at least: what a product sums over at once


def read(problem: Problem) -> tuple[str, int, int, tuple[int, int, int], tuple[int, int, int]]:
    """Of what is read: its layout, run, channels, size, and the steps (d, h, w) of a coarse place."""
    if problem.direction == "forward":
        return problem.x_layout, problem.x_run, problem.ci, problem.in_size, (1, 1, 1)
    return problem.y_layout, problem.y_run, problem.co, problem.out_size, problem.stride


def written(problem: Problem) -> tuple[str, int]:
    """Of what is written: its layout and run."""
    return (problem.y_layout, problem.y_run) if problem.direction == "forward" else (problem.x_layout, problem.x_run)


def in_runs(problem: Problem) -> bool:
    """Whether a finished tile goes by shared memory into another order for the store: 16-bit channels side by side."""
    return problem.item == 2 and written(problem)[0] == "channels_last"


def as_it_is(problem: Problem) -> bool:
    """A descriptor can read the tensor without a copy, whatever the size of rows."""
    layout, run, channels, size, steps = read(problem)
    return (layout == "channels_last" and run * problem.item >= 16 and problem.even and not problem.rounded
            and channels * problem.item % 16 == 0 and all(n % s == 0 for n, s in zip(size[1:], steps[1:])))


def turnable(problem: Problem) -> bool:
    """A walk may bring what is read into lines by itself: TF32, which it rounds there, in any order, and 16 bits channels-first."""
    return problem.rounded or problem.item == 2 and read(problem)[0] == "channels_first"


def aligned(problem: Problem) -> bool:
    """A walk may copy 16 bits channels-last into lines, too: their channels are whole 16 bytes."""
    layout, run, *_ = read(problem)
    return problem.item == 2 and layout == "channels_last" and run * problem.item % 16 == 0


def turned(problem: Problem, config) -> bool:
    """It does so."""
    return (turnable(problem) or config.halo) and not config.copy


def turned_run(problem: Problem, residues: int) -> int:
    """Neighbours that are brought into lines at once: channels of 16 bytes, or two places of 16 bits, where both are there or none:
    along w, or both residues, of which so many are read."""
    layout, run, _, (_, _, width), (_, _, step) = read(problem)
    unit = 16 // problem.item
    if problem.item == 4 or layout == "channels_last":
        return unit if layout == "channels_last" and run % unit == 0 else 1
    return 2 if run % 2 == width % 2 == 0 and step == residues <= 2 else 1


def in_words(problem: Problem) -> bool:
    """Whether both residues along w of what is read are words of 16 bits, of no more channels than lie side by side in a line."""
    axis = problem.axes[2]
    two = axis.stride == 2 and axis.dilation == 1 and problem.item == 2 and problem.co <= UNIT
    return two and turnable(problem) and turned_run(problem, 2) == 2 and axis.kernel > 1


def beside(problem: Problem, merge: tuple[bool, bool, bool]) -> int:
    """Residues along w whose channels are summed side by side, as they lie in memory: those of an input gradient that are merged."""
    return read(problem)[4][2] if merge[2] and problem.direction != "forward" else 1


def summed(problem: Problem, config) -> int:
    """Channels that lie side by side for a sum: those of all residues that are merged."""
    residues = beside(problem, config.merge)
    return residues * weight_channels(problem, config) if residues > 1 else rows_and_reduction(problem)[1]


def row_channels(problem: Problem, merge: tuple[bool, bool, bool], copy: bool) -> tuple[int, ...]:
    """How many channels a row may have, the widest first: powers of two. Where residues along w lie side by side and are summed
    apart, a row must end with the channels of one; a copy has room for that."""
    reduction, residues = rows_and_reduction(problem)[1], beside(problem, merge)
    apart = residues == 1 and read(problem)[4][2] > 1
    least = NARROWEST // problem.item
    most = min(SWIZZLE // problem.item, max(least, 1 << (residues * reduction - 1).bit_length()))
    sizes = tuple(most >> i for i in range(most.bit_length()) if most >> i >= least)
    return sizes if copy or turnable(problem) or not apart else tuple(size for size in sizes if reduction % size == 0)


def shape(problem: Problem, config) -> tuple[int, tuple[int, int, int]]:
    """Channels and size of what is read: of the copy, where there is one."""
    _, _, channels, (d, h, w), (sd, sh, sw) = read(problem)
    if not config.copy or config.path not in ("walk", "pair"):
        return channels, (d, h, w)
    if config.path == "pair":
        return channels, (ceil_div(d, sd) * sd, ceil_div(h, sh) * sh, ceil_div(w, sw) * sw)
    residues, unit = beside(problem, config.merge), 16 // problem.item
    if residues > 1:
        unit //= gcd(unit, residues)  # all of them together are whole 16 bytes
    elif sw > 1:
        unit = config.block_k
    return ceil_div(channels, unit) * unit, (d, ceil_div(h, sh) * sh, ceil_div(w, sw) * sw)


def apart(problem: Problem, config) -> tuple[int, int]:
    """Residues along d and h that lie one after another in a copy: those of what a pair reads, which are boxes then."""
    return read(problem)[4][:2] if config.path == "pair" else (1, 1)


def copied_bytes(problem: Problem, config) -> int:
    """Bytes that a copy moves: those that it reads and those that it writes."""
    _, _, channels, size, _ = read(problem)
    padded, places = shape(problem, config)
    return problem.item * problem.n * (channels * prod(size) + padded * prod(places))


def weight_channels(problem: Problem, config) -> int:
    """Channels side by side of a packed weight: as many as a copy has where residues are merged, else whole 16 bytes."""
    if beside(problem, config.merge) > 1 and config.copy:
        return shape(problem, config)[0]
    unit = 16 // problem.item
    return ceil_div(rows_and_reduction(problem)[1], unit) * unit


def packs(problem: Problem, slots: tuple[int, ...] | None) -> bool:
    """The weight is brought into the order of its rows: channels that are summed over side by side."""
    minor, limit = "ci" if problem.direction == "forward" else "co", 16 // problem.item
    aligned = (problem.w_alignment or rows_and_reduction(problem)[1]) % limit == 0
    return problem.rounded or problem.w_minor != minor or not aligned or slots is not None
