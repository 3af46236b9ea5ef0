"""How a weight gradient on tensor cores walks an axis: which taps are programs, columns or rows of one product.

    dw[k] = sum over i of x[i] * dz[stride * i - padding + k * dilation]

"programs": each tap is a program of its own; "columns": all of them are shifts of dz, columns of one product. "crossed": write
k = stride * a + r + e and t = i + a, then x[t - a] meets dz[stride * t - padding + e + r]: the offsets a are rows, the residues
r columns, and each place is read once for all taps. Where a channels-first dz is split along w after the load, the residues
are what is split, and what is left of its taps are shifts by whole strides. "by two", "by four": so many neighbours are one position,
each a row, and columns are all shifts of dz that one of them meets. A tap has then several sums, which are added up like shares.

Of TF32 both may be copied first, rounded: then they pass from memory to products and by no registers. A copy begins with the
first place that is read and ends with the last, for x with that of whole boxes, and has zeros where the tensor has no place:
nothing is outside of it. That of dz lies residue after residue of the stride along each axis, so that what a tap reads at
neighbouring positions are neighbours.

A config is one of a weight gradient on tensor cores.
"""

from functools import lru_cache
from math import gcd, prod

from ..problems.geometry import Axis, ceil_div, power_of_two_divisor
from ..problems.problem import Problem
from .constants import CopiedAxis, Shifts, WeightAxis
from .recall import recalled

WAYS = ("programs", "columns", "crossed")
FOLDED = {"by two": 2, "by four": 4}  # neighbours that are one position, of what is not copied
FEW = 8  # output channels of a group, of which so many neighbours may be worth it
RUN = 4  # elements of TF32 in 16 bytes
RUNS = (128, 64, 32)  # bytes of positions along w that pairs of programs fetch at once: a row of shared memory, and no more than it permutes
SLOWER = 1.25  # steps of short runs, which are half of what L2 hands out at once
WARPGROUP = 64  # rows of its products
SHORT = 16  # bytes of positions along w that they may fetch of 16 bits, whose products are of two such runs
MOST_SHIFTS = 28  # of rows or columns that may leave the tensor, all axes together: the kernel keeps a bit for each


def split_factor(problem: Problem, config=None) -> int:
    """How many neighbours along w of a channels-first dz are loaded as one run and split after the load; none of a copy, or by a
    config that is flat; of what the pair of a weight gradient parts, `parted` knows."""
    if config is not None and (config.flat or config.copy or config.path == "pair" and problem.direction == "grad_weight"):
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


def parts(problem: Problem, config) -> int:
    """Parts that are added up to a weight gradient: of each share as many as neighbours are one position, whose rows are sums apart."""
    return config.shares * prod(FOLDED.get(way, 1) for way in config.taps)


def folds(problem: Problem, config) -> list[tuple[str, ...]]:
    """The ways of each axis besides that may be worth it: where few columns are what a step reads, of which neighbours meet much the same."""
    single = (problem.rounded or problem.item == 2) and problem.x_layout == "channels_last" and problem.co_group <= FEW and not config.copy
    meet = [a.kernel >= 2 * a.stride and a.size > 1 and a.dilation == 1 for a in problem.axes]
    return [way if single and met else () for way, met in zip(((), tuple(FOLDED)[:1], tuple(FOLDED)), meet)]


def refused(problem: Problem, config) -> str | None:
    """Why axes cannot be walked in the ways of a config, or None."""
    known = WAYS if config.copy or config.path == "pair" else (*WAYS, *FOLDED)
    for name, axis, way in zip("dhw", problem.axes, config.taps):
        if way not in known:
            return f"taps along {name} are {', '.join(known)}, received {way!r}"
        if way not in WAYS[:2] and axis.dilation != 1:
            return f"taps along {name} cannot be {way}: their dilation is {axis.dilation}"
        if way in FOLDED and name == "w" and split_factor(problem, config) > 1:
            return f"taps along w cannot be {way}: places of dz are split"
    return None


def reading(problem: Problem, config) -> str:
    """How dz is read: by pointers; or single elements in one row, with lanes along places, for products of a warpgroup whose operand
    has places side by side."""
    narrow = problem.item == 4 and problem.y_layout == "channels_last" and config.block_m >= WARPGROUP
    return "row" if narrow and any(way in FOLDED for way in config.taps) else "pointers"


def turned(problem: Problem, config) -> tuple[int, int, int] | None:
    """In which order dz is read whose neighbours are parted into four residues or eight, so that no lanes meet in a bank on its way to
    registers (kernels/turned.py): so many neighbours that a lane of a fragment reads at once, so many such runs until those of the next
    lane, and so many lines that follow each other. Of 16 bits in eight parts, products of fewer rows have a half of them in each warp."""
    split = split_factor(problem, config)
    if config.path != "gather" or split < 4 or not (problem.rounded or problem.item == 2):
        return None
    if split == 4 or problem.item == 4:
        return 16 // problem.item, split // 4, 2
    return (4, 4, 4) if config.block_m <= WARPGROUP else (8, 2, 2)


def parted(problem: Problem, config) -> int:
    """How many residues of dz along w a pair of programs parts in registers, that lie side by side as no copy has them apart: all, or 1."""
    return problem.stride[2] if config.path == "pair" and not config.copy else 1


def copyable(problem: Problem) -> bool:
    """Whether x and dz may be copied for a weight gradient: both are rounded, and neither has its channels side by side."""
    return problem.direction == "grad_weight" and problem.rounded and problem.x_layout == problem.y_layout == "channels_first"


def pairable(problem: Problem) -> bool:
    """Whether programs of a cluster can compute a weight gradient: of what tensor cores take from shared memory as it lies."""
    first = problem.x_layout == problem.y_layout == "channels_first"
    return problem.direction == "grad_weight" and (problem.rounded or problem.item == 2) and first and problem.groups == 1


def runs(problem: Problem) -> list[int]:
    """Positions along w that pairs of programs may fetch at once."""
    return [size // problem.item for size in RUNS + (SHORT,) * (problem.item == 2)]


def copies(problem: Problem, config) -> tuple[list[CopiedAxis], list[CopiedAxis]]:
    """The copies of x and dz, by axis."""
    x, z, runs = [], [], (1, 1, z_run(problem, config))
    for a, way, side, run in zip(problem.axes, config.taps, box(problem, config), runs):
        axis, size = weight_axis(a, way, 1)
        back, stride = axis.x.count - 1, axis.z.step
        x.append(CopiedAxis(axis.x.first - back, back + ceil_div(size, side) * side, 1, 1))
        last = stride * (size - 1) + (axis.z.count * axis.programs - 1) * axis.z.move
        z.append(CopiedAxis(axis.z.first, last + 1, stride, run))
    return x, z


def copied_elements(problem: Problem, config) -> tuple[int, int]:
    """Elements of the copies of x and dz."""
    x, z = (prod(axis.size for axis in axes) for axes in copies(problem, config))
    return problem.n * problem.ci * x, problem.n * problem.co * z


@recalled
def weight_axes(problem: Problem, config) -> list[tuple[WeightAxis, int]]:
    """Each axis (d, h, w), and how many positions are summed over along it."""
    return _weight_axes(problem.axes, config.taps, config.path == "pair", config.copy, split_factor(problem, config) * parted(problem, config))


@lru_cache(maxsize=1024)  # which configs that are tried one after another have in common
def _weight_axes(axes, ways, pair: bool, copy: bool, split: int) -> list[tuple[WeightAxis, int]]:
    found = [weight_axis(a, way, split if i == 2 else 1, not pair) for i, (a, way) in enumerate(zip(axes, ways))]
    return [(_of_copies(axis), size) for axis, size in found] if copy and not pair else found


@recalled
def positions(problem: Problem, config) -> tuple[int, int, int]:
    """What is summed over along each axis."""
    return tuple(size for _, size in weight_axes(problem, config))


@recalled
def box(problem: Problem, config) -> tuple[int, int, int]:
    """The box of up to block_k positions that a step sums over."""
    if config.path == "pair":
        longest, *_, shortest = runs(problem)
        return _box_of_runs(positions(problem, config), config.block_k, longest // parted(problem, config), shortest, SHORT // problem.item)
    sizes, narrow = positions(problem, config), "channels_first" in (problem.x_layout, problem.y_layout)
    return _box(sizes, config.block_k, narrow, RUN if config.copy else power_of_two_divisor(sizes[2], 8) if narrow else 1)


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
    return max(sum(a.x.doubtful for a in axes), sum(a.z.doubtful for a in axes))


def tiles(problem: Problem, config) -> int:
    """Programs that share nothing: tiles of rows and columns, for every tap that is a program."""
    rows, columns = lines(problem, config)
    programs = prod(axis.programs for axis, _ in weight_axes(problem, config))
    return programs * ceil_div(rows, config.block_m) * ceil_div(columns * parted(problem, config), config.block_n)


def edges(problem: Problem, config) -> list[WeightAxis]:
    """The axes, and whether boxes reach beyond their last position, where a copied x that is not shifted goes on with zeros."""
    cut = [size % side > 0 for size, side in zip(positions(problem, config), box(problem, config))]
    zeros = [config.copy and way != "crossed" for way in config.taps]
    return [axis._replace(x=axis.x._replace(edge=edge and not beyond), z=axis.z._replace(edge=edge))
            for (axis, _), edge, beyond in zip(weight_axes(problem, config), cut, zeros)]


def x_run(problem: Problem, config) -> int:
    """Elements of x that are moved at once: along channels, or along w where no row shifts them."""
    if problem.x_layout == "channels_last":
        return gcd(problem.x_run, problem.ci_group)
    axis, size = weight_axes(problem, config)[2]
    if config.copy:
        return gcd(RUN, box(problem, config)[2]) if config.taps[2] != "crossed" else 1
    if axis.x.count > 1 or axis.x.first:
        return 1
    return gcd(problem.x_run, problem.in_size[2], size, box(problem, config)[2])


def z_run(problem: Problem, config) -> int:
    """Elements of dz that are moved at once: along channels, or along w where positions are neighbours in it."""
    if reading(problem, config) == "row":
        return 1
    if problem.y_layout == "channels_last":
        return gcd(problem.y_run, problem.co_group)
    (axis, size), split = weight_axes(problem, config)[2], split_factor(problem, config)
    if config.copy:
        shifts = (i * axis.z.move // axis.z.residues for i in range(axis.z.count * axis.programs))
        return gcd(RUN, size, box(problem, config)[2], *shifts)
    if axis.z.step != split:
        return 1
    shift = axis.z.move if axis.z.count * axis.programs > 1 else 0
    width = gcd(size * split, box(problem, config)[2] * split, problem.out_size[2])
    order = turned(problem, config)
    return gcd(problem.y_run, width, axis.z.first, shift, *order[:1] if order else ())


@lru_cache(maxsize=4096)
def weight_axis(a: Axis, way: str, split: int, aligned: bool = True) -> tuple[WeightAxis, int]:
    """An axis walked in one way, and its positions. aligned: what is split begins at a multiple of the stride, as loads must; else
    with the first tap, and fewer shifts have all taps."""
    axis, size = _weight_axis(a, way, split, aligned)
    return axis._replace(x=_sure(axis.x, size, a.size), z=_sure(axis.z, size, a.out - split + 1)), size


def _sure(shifts: Shifts, positions: int, places: int) -> Shifts:
    """Of several shifts, it is known which stay inside."""
    last = (positions - 1) * shifts.step
    inside = [i for i in range(shifts.count) if 0 <= shifts.first + i * shifts.move < places - last]
    return shifts._replace(sure=(inside[0], inside[-1] + 1)) if shifts.halo and shifts.count > 1 and inside else shifts


def _weight_axis(a: Axis, way: str, split: int, aligned: bool) -> tuple[WeightAxis, int]:
    if way == "crossed":
        residues = [a.padding % a.stride] if split > 1 and aligned else sorted(range(a.stride), key=lambda e: e != a.padding % a.stride)
        axis, size = min((_crossed(a, e) for e in residues), key=lambda found: (found[0].x.count, found[1]))
        return (axis._replace(z=axis.z._replace(count=1)) if split > 1 else axis), size
    if way in FOLDED:
        return _folded(a, FOLDED[way])
    if split > 1 and not aligned:
        taps, first, move, tap_first, tap_step, guard = ceil_div(a.kernel, split), -a.padding, split, 0, split, a.kernel % split > 0
    elif split > 1:
        m = a.split()
        taps, first, move = m.taps, m.offset * a.stride, a.stride
        tap_first, tap_step, guard = m.first, a.stride, not m.full
    else:
        taps, first, move, tap_first, tap_step, guard = a.kernel, -a.padding, a.dilation, 0, 1, False
    last = (a.size - 1) * a.stride + first + (taps - 1) * move + (split - 1)
    columns, programs = (taps, 1) if way == "columns" else (1, taps)
    return WeightAxis(a.kernel, Shifts(1, 1, 0, 1), Shifts(columns, a.stride, first, move, first < 0 or last >= a.out), programs,
                      tap_first, 1, tap_step, guard), a.size


def _of_copies(axis: WeightAxis) -> WeightAxis:
    """The axis as its copies have it, whose first places are 0."""
    x, z = axis.x, axis.z
    return axis._replace(x=x._replace(first=x.count - 1, halo=False), z=z._replace(step=1, first=0, halo=False, residues=z.step))


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


def _folded(a: Axis, together: int) -> tuple[WeightAxis, int]:
    """Neighbours that are one position, each a shift of x, by every shift of dz that one of them meets."""
    size, step, count = ceil_div(a.size, together), together * a.stride, a.kernel + (together - 1) * a.stride
    z = Shifts(count, step, -a.padding, 1, a.padding > 0 or (size - 1) * step - a.padding + count > a.out)
    return WeightAxis(a.kernel, Shifts(together, together, 0, 1, size * together > a.size), z, 1, 0, -a.stride, 1, True, together), size


@lru_cache(maxsize=4096)
def _box(sizes: tuple[int, int, int], places: int, narrow: bool, run: int) -> tuple[int, int, int]:
    """The sides of a box of at most so many places that takes the fewest steps. Rows that are read along w should be long, and
    keep these runs."""
    d, h, w = sizes
    short = lambda width: 1.5 if width < 4 else 1.15 if width < 8 else 1.0
    penalty = lambda width: (short(width) if narrow else 1.0) * (run // gcd(run, width)) ** 0.5
    tried = [(min(d, places // (i * j)), i, j) for j in range(1, min(w, places) + 1) for i in range(1, min(h, places // j) + 1)]
    return min(tried, key=lambda box: (prod(map(ceil_div, sizes, box)) * penalty(box[2]), -min(box[2], 32), -box[1]))


@lru_cache(maxsize=4096)
def _box_of_runs(sizes: tuple[int, int, int], places: int, most: int, least: int, short: int) -> tuple[int, int, int]:
    """The sides of a box of so many places, powers of two and at least and at most so many along w, that takes the fewest steps, of which
    short runs make longer ones; of those, the one with the fewest runs."""
    powers = [1 << i for i in range(places.bit_length())]
    tried = [(d, h, w) for w in powers for d in powers for h in powers if d * h * w == places and least <= w <= most]
    steps = lambda box: prod(map(ceil_div, sizes, box)) * (SLOWER if box[2] <= short else 1)
    return min(tried, key=lambda box: (steps(box), box[0] * box[1], box[0]), default=(0, 0, 0))
