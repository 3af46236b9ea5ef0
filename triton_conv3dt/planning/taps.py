"""How a weight gradient on tensor cores walks an axis: which taps are programs, columns or rows of one product.

    dw[k] = sum over i of x[i] * dz[stride * i - padding + k * dilation]

"programs": each tap is a program of its own; "columns": all of them are shifts of dz, columns of one product. "crossed": write
k = stride * a + r + e and t = i + a, then x[t - a] meets dz[stride * t - padding + e + r]: the offsets a are rows, the residues
r columns, and each place is read once for all taps. Where a channels-first dz is split along w after the load, the residues
are what is split, and what is left of its taps are shifts by whole strides.

A config is one of a weight gradient on tensor cores.
"""

from functools import lru_cache
from math import gcd, prod

from ..problems.geometry import Axis, ceil_div, power_of_two_divisor
from ..problems.problem import Problem
from .constants import Shifts, WeightAxis

WAYS = ("programs", "columns", "crossed")
MOST_SHIFTS = 28  # of rows or columns that may leave the tensor, all axes together: the kernel keeps a bit for each


def split_factor(problem: Problem, config=None) -> int:
    """How many neighbours along w of a channels-first dz are loaded as one run and split after the load; none by a config that is
    flat."""
    if config is not None and config.flat:
        return 1
    axis = problem.axes[2]
    power = axis.stride & (axis.stride - 1) == 0
    if problem.direction == "forward" or problem.y_layout == "channels_last" or axis.dilation != 1 or not power:
        return 1
    return axis.stride if axis.stride == 2 or (axis.stride <= 8 and axis.kernel == axis.stride) else 1


def ways(axis: Axis, split: int) -> tuple[str, ...]:
    """The ways to walk an axis that differ."""
    shifts = axis.split().taps if split > 1 else axis.kernel
    if shifts <= 1:
        return WAYS[:1]
    crossed = axis.dilation == 1 and weight_axis(axis, "crossed", split)[0].x.count > 1
    return WAYS if crossed else WAYS[:2]


def weight_axes(problem: Problem, config) -> list[tuple[WeightAxis, int]]:
    """Each axis (d, h, w), and how many positions are summed over along it."""
    split = split_factor(problem)
    return [weight_axis(a, way, split if i == 2 else 1) for i, (a, way) in enumerate(zip(problem.axes, config.taps))]


def positions(problem: Problem, config) -> tuple[int, int, int]:
    """What is summed over along each axis."""
    return tuple(size for _, size in weight_axes(problem, config))


def box(problem: Problem, config) -> tuple[int, int, int]:
    """The box of up to block_k positions that a step sums over."""
    return _box(positions(problem, config), config.block_k, "channels_first" in (problem.x_layout, problem.y_layout))


def boxes(problem: Problem, config) -> int:
    """Boxes of all samples."""
    return problem.n * prod(map(ceil_div, positions(problem, config), box(problem, config)))


def lines(problem: Problem, config) -> tuple[int, int]:
    """Rows and columns of all tiles together; those that a split makes of a column are not counted."""
    axes = [axis for axis, _ in weight_axes(problem, config)]
    return prod(a.x.count for a in axes) * problem.ci_group, prod(a.z.count for a in axes) * problem.co_group


def shifts(problem: Problem, config) -> int:
    """Shifts of rows or of columns that may leave the tensor, whichever are more."""
    axes = [axis for axis, _ in weight_axes(problem, config)]
    return max(sum(a.x.count * a.x.halo for a in axes), sum(a.z.count * a.z.halo for a in axes))


def tiles(problem: Problem, config) -> int:
    """Programs that share nothing: tiles of rows and columns, for every tap that is a program."""
    rows, columns = lines(problem, config)
    programs = prod(axis.programs for axis, _ in weight_axes(problem, config))
    return programs * ceil_div(rows, config.block_m) * ceil_div(columns, config.block_n)


def edges(problem: Problem, config) -> list[WeightAxis]:
    """The axes, and whether boxes reach beyond their last position."""
    cut = [size % side > 0 for size, side in zip(positions(problem, config), box(problem, config))]
    return [axis._replace(x=axis.x._replace(edge=edge), z=axis.z._replace(edge=edge))
            for (axis, _), edge in zip(weight_axes(problem, config), cut)]


def x_run(problem: Problem, config) -> int:
    """Elements of x that are moved at once: along channels, or along w where no row shifts them."""
    if problem.x_layout == "channels_last":
        return gcd(problem.x_run, problem.ci_group)
    axis, size = weight_axes(problem, config)[2]
    if axis.x.count > 1 or axis.x.first:
        return 1
    return gcd(problem.x_run, problem.in_size[2], size, box(problem, config)[2])


def z_run(problem: Problem, config) -> int:
    """Elements of dz that are moved at once: along channels, or along w where positions are neighbours in it."""
    if problem.y_layout == "channels_last":
        return gcd(problem.y_run, problem.co_group)
    (axis, size), split = weight_axes(problem, config)[2], split_factor(problem)
    if axis.z.step != split:
        return 1
    shift = axis.z.move if axis.z.count * axis.programs > 1 else 0
    width = gcd(size * split, box(problem, config)[2] * split, problem.out_size[2])
    return gcd(problem.y_run, width, axis.z.first, shift)


@lru_cache(maxsize=4096)
def weight_axis(a: Axis, way: str, split: int) -> tuple[WeightAxis, int]:
    """An axis walked in one way, and its positions."""
    if way == "crossed":
        residues = [a.padding % a.stride] if split > 1 else sorted(range(a.stride), key=lambda e: e != a.padding % a.stride)
        axis, size = min((_crossed(a, e) for e in residues), key=lambda found: (found[0].x.count, found[1]))
        return (axis._replace(z=axis.z._replace(count=1)) if split > 1 else axis), size
    if split > 1:
        m = a.split()
        taps, first, move = m.taps, m.offset * a.stride, a.stride
        tap_first, tap_step, guard = m.first, a.stride, not m.full
    else:
        taps, first, move, tap_first, tap_step, guard = a.kernel, -a.padding, a.dilation, 0, 1, False
    last = (a.size - 1) * a.stride + first + (taps - 1) * move + (split - 1)
    columns, programs = (taps, 1) if way == "columns" else (1, taps)
    return WeightAxis(a.kernel, Shifts(1, 1, 0, 1), Shifts(columns, a.stride, first, move, first < 0 or last >= a.out), programs,
                      tap_first, 1, tap_step, guard), a.size


def _crossed(a: Axis, e: int) -> tuple[WeightAxis, int]:
    """Offsets of x by residues of dz, where residue 0 is tap e modulo the stride."""
    s, low, high = a.stride, -(e > 0), (a.kernel - 1 - e) // a.stride
    high = max(low, high)
    first = max(low, (a.padding - e) // s)
    size = max(1, min(a.size - 1 + high, (a.out - 1 + a.padding - e) // s) - first + 1)
    rows, z_first = high - low + 1, s * first - a.padding + e
    x = Shifts(rows, 1, first - low, -1, first - high < 0 or first + size - 1 - low >= a.size)
    z = Shifts(s, s, z_first, 1, z_first < 0 or z_first + s * size - 1 >= a.out)
    return WeightAxis(a.kernel, x, z, 1, s * low + e, s, 1, guard=s * low + e != 0 or rows * s != a.kernel), size


@lru_cache(maxsize=4096)
def _box(sizes: tuple[int, int, int], places: int, narrow: bool) -> tuple[int, int, int]:
    """The sides of a box of at most so many places that takes the fewest steps. Rows that are read along w should be long, and
    keep the runs that the width has."""
    d, h, w = sizes
    run = power_of_two_divisor(w, 8) if narrow else 1
    short = lambda width: 1.5 if width < 4 else 1.15 if width < 8 else 1.0
    penalty = lambda width: (short(width) if narrow else 1.0) * (run // gcd(run, width)) ** 0.5
    tried = [(min(d, places // (i * j)), i, j) for j in range(1, min(w, places) + 1) for i in range(1, min(h, places // j) + 1)]
    return min(tried, key=lambda box: (prod(map(ceil_div, sizes, box)) * penalty(box[2]), -min(box[2], 32), -box[1]))
