"""The weight gradient of the programs of a cluster: what they fetch at once, from which memory, and what fits.

A config's block_m rows and block_n columns are those of all programs, and block_k the positions of a step: of a box whose runs along w
are fetched apart or, where rows are evenly apart, at once (taps.box). kernels/pair_weight.py says what is done with them. dz is read as
it lies where its stride along w is 1, and where its residues can be parted in registers; or from a copy. Rows that are no multiples of 16
bytes are read from planes whose places follow each other, if no tap leaves them.
"""

from functools import lru_cache
from math import prod

from ..problems.geometry import ceil_div, power_of_two_divisor
from ..problems.problem import Problem, exceed_31_bits
from . import taps
from .constants import CopiedAxis, WeightAxis, WeightPair
from .device import Device
from .recall import recalled

WARPGROUP, WARPS, ROWS = 64, 4, 16  # rows of one product, warps that compute it, and rows of each
FEWEST, COLUMNS = 32, 256  # columns of one product, at least as their sums are written, and at most
ATOM = 8  # rows of shared memory by which its banks are permuted: what a program fetches at once has a multiple
UNIT = 16  # bytes, of which the strides of a descriptor are multiples
SLACK = 3072  # bytes for barriers, and for buffers that begin at multiples of 1024
SPLITS = (2, 4)  # residues that lie side by side, at most as 16 bytes of a position
MOST_BITS = 27  # for shifts of dz of crossed axes: the kernel keeps one for each
MOST_FETCHES = 20, 24, 16  # in a step, beside whose addresses most sums have registers, without residues along w, with them, and by few warps
FARTHEST = 2**29  # places along an axis: what is fetched of no line lies further before them


@lru_cache(maxsize=256)
def pair(problem: Problem, config) -> WeightPair:
    """What a cluster does in a step, as the kernel is told."""
    (*x_shifts, x_channels), (*z_shifts, z_channels) = x_chunk(problem, config), z_chunk(problem, config)
    split = taps.parted(problem, config)
    return WeightPair(config.block_m, config.block_n, taps.box(problem, config), config.stages, written_bytes(problem, config),
                      halved(problem, config), (x_channels, z_channels), config.block_m // (prod(x_shifts) * x_channels),
                      config.block_n // split // (prod(z_shifts) * z_channels), apart(problem, config), split, flat(problem, config),
                      x_runs(problem, config), z_runs(problem, config))


@recalled
def flat(problem: Problem, config) -> bool:
    """x and dz are read as planes of a sample and channel, whose places follow each other: rows are no multiples of 16 bytes but planes
    are, and all that taps read at a position lies within its rows."""
    unit, inside = UNIT // problem.item, all(
        a.padding == 0 and a.dilation == 1 and a.kernel <= a.stride and (a.size - 1) * a.stride + a.kernel <= a.out for a in problem.axes)
    planes = problem.even and prod(problem.in_size) % unit == 0 and prod(problem.out_size) % unit == 0
    return inside and planes and min(problem.x_run, problem.y_run) < unit and taps.parted(problem, config) > 1


def x_runs(problem: Problem, config) -> int:
    """Runs of x that are fetched at once: those of a box, if all rows of a tile are one chunk of one shift."""
    whole = x_chunk(problem, config) == (1, 1, 1, config.block_m) and not flat(problem, config)
    return prod(taps.box(problem, config)[:2]) if whole else 1


def z_runs(problem: Problem, config) -> int:
    """Runs of dz that are fetched at once: those along h, if all lines of a tile are one chunk, of one shift but for residues along h, and
    rows of one residue are evenly apart."""
    (_, oh, ow), stride, unit = problem.out_size, problem.stride[1], UNIT // problem.item
    d, h, w, channels = z_chunk(problem, config)
    axis, whole = axes(problem, config)[1].z, d * w == 1 and h * channels * taps.parted(problem, config) == config.block_n
    residues = h == 1 or axis.first == 0 and axis.move == 1 and axis.count <= stride
    even = problem.even and oh % stride == 0 and (stride * ow % unit == 0 if flat(problem, config) else True)
    return taps.box(problem, config)[1] if whole and residues and even and not config.copy else 1


def apart(problem: Problem, config) -> bool:
    """dz has residues along w, and a copy has them apart."""
    return config.copy and problem.stride[2] > 1


def halved(problem: Problem, config) -> tuple[int, ...]:
    """Of which sides of a tile each program has half, of four of both. Of two it is rows (0), or columns (1) where all would be more than
    a product may have, or, of lines that are parted, more than its warps compute at once."""
    if config.cluster == 4:
        return 0, 1
    split = taps.parted(problem, config)
    return (int(config.block_n > COLUMNS if split == 1 else config.block_n // split > ROWS * config.warps),)


def own(problem: Problem, config) -> tuple[int, int]:
    """Rows and columns of one program."""
    sides = halved(problem, config)
    return config.block_m >> sides.count(0), config.block_n >> sides.count(1)


@recalled
def axes(problem: Problem, config) -> list[WeightAxis]:
    """What the kernel is told of d, h and w: shifts of x are counted such that what they read follows each other in memory."""
    return list(map(_ascending, (axis for axis, _ in taps.weight_axes(problem, config))))


@lru_cache(maxsize=4096)
def _ascending(axis: WeightAxis) -> WeightAxis:
    x, last = axis.x, axis.x.count - 1
    if x.move > 0 or not last:
        return axis
    return axis._replace(x=x._replace(first=x.first + last * x.move, move=-x.move), tap_first=axis.tap_first + last * axis.tap_row,
                         tap_row=-axis.tap_row)


@recalled
def x_chunk(problem: Problem, config) -> tuple[int, int, int, int]:
    """Shifts (d, h, w) of x and channels that are fetched at once; those along w are no multiples of 16 bytes apart."""
    return _chunk(tuple(axis.x for axis in axes(problem, config)), problem.ci, config.block_m, 1, True)


@recalled
def z_chunk(problem: Problem, config) -> tuple[int, int, int, int]:
    """Shifts (d, h, w) of dz and channels that are fetched at once; along w those to different residues of a copy."""
    lines = config.block_n // taps.parted(problem, config)
    return _chunk(tuple(axis.z for axis in axes(problem, config)), problem.co, lines, problem.stride[2] if config.copy else 1,
                  not flat(problem, config))


@lru_cache(maxsize=4096)
def _chunk(shifts: tuple, channels: int, tile: int, apart: int, joined: bool) -> tuple[int, int, int, int]:
    """The most neighbours among the lines of a tile that are a box in memory: some channels, or all of some shifts along w, or all of
    those and some along h, and so on, if they may be joined; or all lines, where there is one shift, and beyond its channels are zeros."""
    if all(one.count == 1 for one in shifts):
        return 1, 1, 1, tile
    found, lines = [1, 1, 1], power_of_two_divisor(channels, tile)
    sizes, whole = [1, 1, 1, lines], lines == channels and joined
    for i, most in ((2, power_of_two_divisor(apart, tile)), (1, tile), (0, tile)):
        if whole:
            found[i] = power_of_two_divisor(shifts[i].count, min(most if shifts[i].move == 1 else 1, tile // lines))
            lines, whole = lines * found[i], found[i] == shifts[i].count
    return *found, sizes[3]


@recalled
def copies(problem: Problem, config) -> dict[str, list[CopiedAxis]]:
    """The copies that are made, by what they are of, and by axis: of x where no descriptor reads its rows, of dz where the config says
    so. The first of its residues along w is that of shift 0."""
    found, stride, unit = {}, problem.stride[2], UNIT // problem.item

    def of(sizes, first, residues):
        count = ceil_div(sizes[2] - first, residues) * residues
        return [CopiedAxis(0, sizes[0], 1, 1), CopiedAxis(0, sizes[1], 1, 1), CopiedAxis(first, count, residues, unit)]

    if problem.x_run < unit and not flat(problem, config):
        found["x"] = of(problem.in_size, 0, 1)
    if config.copy:
        found["y"] = of(problem.out_size, -(-axes(problem, config)[2].z.first % stride), stride)
    return found


def copied_elements(problem: Problem, config) -> dict[str, int]:
    """Elements of the copies."""
    channels = {"x": problem.ci, "y": problem.co}
    return {name: problem.n * channels[name] * prod(axis.size for axis in axes) for name, axes in copies(problem, config).items()}


def copied_bytes(problem: Problem, config) -> list[int]:
    """What each launch that copies reads and writes of memory."""
    read = {"x": problem.ci * prod(problem.in_size), "y": problem.co * prod(problem.out_size)}
    return [problem.item * (problem.n * read[name] + copy) for name, copy in copied_elements(problem, config).items()]


def packs(problem: Problem, config) -> bool:
    """No weight is read."""
    return False


def boxes(problem: Problem, config) -> tuple[int, int, int]:
    """Boxes along each axis of a sample."""
    return tuple(map(ceil_div, taps.positions(problem, config), taps.box(problem, config)))


def described(problem: Problem, config, kind: str, strides: tuple[int, ...]) -> tuple:
    """Shape, strides and block of the descriptor of x or dz, or of the copy of it, whose strides (n, c, d, h, w) are these; which
    dimension is parted between the programs, -1 for none; and that it rounds."""
    channels, sizes, chunk = (problem.ci, problem.in_size, x_chunk(problem, config)) if kind == "x lines" else (
        problem.co, problem.out_size, z_chunk(problem, config))
    (n, c, d, h, _), (deep, high, run), split = strides, taps.box(problem, config), taps.parted(problem, config)
    side, unit, (_, rows, wide) = int(kind != "x lines"), UNIT // problem.item, sizes
    run, stride = run * split if side else run, problem.stride[1]
    parted = lambda dimension: tuple(dimension if other == side else -1 for other in halved(problem, config))
    step = lambda size, step: step if size > 1 else unit  # that of a single place may be anything
    if side and apart(problem, config):
        w = copies(problem, config)["y"][2]
        shape = [*sizes[:2], w.residues, problem.n * channels, w.count // w.residues]
        return shape, [d, h, w.places, c, 1], [*chunk, run], parted(3), problem.rounded
    if side and z_runs(problem, config) > 1:
        planes, row = (problem.n - 1) * n // (rows * wide) + sizes[0], [rows * wide, stride * wide]
        if flat(problem, config):
            return ([planes, rows // stride, channels, stride * wide], [*row, step(channels, c), 1], [1, high, chunk[3], run], parted(2),
                    problem.rounded)
        return ([planes, rows // stride, stride, channels, wide], [*row, wide, step(channels, c), 1], [1, high, chunk[1], chunk[3], run],
                parted(3), problem.rounded)
    if flat(problem, config):
        shape, steps = [problem.n, channels, prod(sizes)], [step(problem.n, n), step(channels, c), 1]
        return shape, steps, [1, chunk[3], run], parted(1), problem.rounded
    shape, box = [problem.n, *sizes[:2], channels, wide], [1, *chunk[:2], chunk[3], run]
    if not side and x_runs(problem, config) > 1:
        box[1:3] = deep, high
    return shape, [*map(step, shape, (n, d, h, c)), 1], box, parted(3), problem.rounded


@recalled
def fetches(problem: Problem, config) -> int:
    """Boxes that a program asks for in a step."""
    paired = pair(problem, config)
    runs = prod(paired.box[:2])
    return runs * paired.x_chunks // paired.x_runs + runs * paired.z_chunks // paired.z_runs


def written_bytes(problem: Problem, config) -> int:
    """Bytes that the copy engine writes to the shared memory of one program in a step."""
    return problem.item * config.block_k * sum(own(problem, config))


def read_bytes(problem: Problem, config) -> int:
    """Bytes that the products of one program read of them."""
    rows, columns = own(problem, config)
    if (split := taps.parted(problem, config)) > 1:  # columns are what products take from registers, and rows their second operand
        return problem.item * config.block_k * (columns + ceil_div(columns // split, WARPGROUP) * split * rows)
    return problem.item * config.block_k * (rows + ceil_div(rows, WARPGROUP) * columns)


def shared_memory(problem: Problem, config) -> int:
    """Bytes that one program uses, an upper estimate."""
    return config.stages * written_bytes(problem, config) + SLACK


def fits(config, problem: Problem, device: Device) -> str | None:
    """Why a weight gradient cannot be computed so, or None."""
    if not device.pairs:
        return f"{device.name} has no pairs of programs: they take Hopper, and Triton 3.7 or 3.8"
    if reason := unreadable(problem, config):
        return reason
    if config.block_k * problem.item < 2 * UNIT or prod(taps.box(problem, config)) != config.block_k:
        return f"a step of {config.block_k} positions is no runs along w of {', '.join(map(str, taps.runs(problem)))}"
    if config.cluster not in (2, 4):
        return f"clusters have 2 or 4 programs, not {config.cluster}"
    least = [ATOM << (side in halved(problem, config)) for side in (0, 1)]
    channels = [power_of_two_divisor(count, chunk[3]) for count, chunk in (
        (problem.ci, x_chunk(problem, config)), (problem.co, z_chunk(problem, config)))]
    if channels[0] < least[0] or channels[1] < least[1]:
        return (f"pairs fetch {least[0]} or more input and {least[1]} or more output channels at once, powers of two that divide "
                f"theirs; not {problem.ci} and {problem.co}")
    (rows, columns), threads, split = own(problem, config), 32 * config.warps, taps.parted(problem, config)
    first, second = (columns // split, rows) if split > 1 else (rows, columns)
    if config.warps % WARPS or first < ROWS * config.warps or not FEWEST <= second <= COLUMNS:
        return (f"products of a pair have {ROWS} lines or more for each warp of {WARPS} or more, and {FEWEST} to {COLUMNS} others, received "
                f"{first}x{second} for {config.warps} warps")
    most = MOST_FETCHES[(problem.stride[2] > 1) * (1 + (config.warps == WARPS))]
    if rows * columns > 128 * threads or rows * columns > 64 * threads and fetches(problem, config) > most:
        return f"an accumulator of {rows * columns} values leaves {config.warps} warps without registers, or beside more than {most} fetches"
    if sum(axis.z.count for axis in axes(problem, config) if axis.guard) > MOST_BITS:
        return f"the kernel has {MOST_BITS} bits for residues of which some have no tap"
    if config.stages < 2:
        return "pairs fetch ahead: they have 2 stages or more"
    if exceed_31_bits(taps.boxes(problem, config) + config.shares):
        return "there are more boxes of positions than 31 bits can count"
    return None


def unreadable(problem: Problem, config) -> str | None:
    """Why x and dz cannot be read by pairs in the ways of a config, whatever its tile, or None."""
    if not taps.pairable(problem):
        return "pairs compute a weight gradient that is TF32 or of 16 bits and channels-first, of one group"
    if reason := taps.refused(problem, config):
        return reason
    if problem.wide or max(problem.in_size + problem.out_size) > FARTHEST or exceed_31_bits(0, *copied_elements(problem, config).values()):
        return "pairs count offsets and the elements of a copy with 31 bits, and the places of an axis with 29"
    return _unread(problem, config)


def _unread(problem: Problem, config) -> str | None:
    """Why dz cannot be read so, or None."""
    stride, w = problem.stride[2], problem.axes[2]
    if flat(problem, config) and "crossed" in config.taps:
        return "taps of planes whose places follow each other are not crossed: each meets one position"
    if config.copy:
        needed = stride > 1 or problem.y_run < UNIT // problem.item
        return None if needed else "a copy of dz is made for strides along w, and for rows that are misaligned"
    if problem.y_run < UNIT // problem.item and not flat(problem, config):
        return "rows of dz begin at multiples of 16 bytes, or a copy has them"
    if stride > 1 and (stride not in SPLITS or w.dilation > 1):
        return f"{' or '.join(map(str, SPLITS))} neighbours along w are parted, of taps that are neighbours, or a copy has them apart"
    return None
