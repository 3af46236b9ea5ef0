"""How the programs of a cluster, two or four, compute a tile of the gather product together (kernels/pair.py).

Each has its part of the tile's block_n positions, and all of its block_m rows of the weight, which the copy engine fetches once for all.
A row of 64 elements of 16 bits, or of 32 of TF32, which the engine rounds, is summed over at a time.

The gathered tensor is read in channels_last, or a copy in it, as a descriptor does: "rows", "box" or "strided", of a copy "apart".
Where channels come first it is read as it lies: as "planes" where 16-bit taps do not shift positions, else in lines along w, of 32, 64
or 128 bytes, which are positions side by side; of an input gradient with stride "strided lines", along w both residues. What wgmma
cannot transpose, TF32, and what is parted pass by registers. The weight is read as "taps", whatever is summed over side by side, and
packed for it where it has another order; or, of 16 bits where kernel = stride, "flat", as it is. A step takes one tap, or all taps along h
of one residue, of rows that are fetched once for them (halos.py).
"""

from math import prod

from ..problems.geometry import ceil_div, power_of_two_divisor
from ..problems.problem import Problem, exceed_31_bits
from . import boxes, halos, taps, walk_memory
from .boxes import partable, seen
from .device import Device
from .phases import rows_and_reduction

ROW = 128  # bytes that are summed over at a time: as wide as shared memory is swizzled
GROUP = 64  # positions of a warpgroup's product
SMALLEST_BOX = 8  # rows of the weight
WRITTEN = 32  # elements of a thread that are written at once: MOST of kernels/pair_store.py
SLACK = 1024  # bytes of shared memory for barriers and alignment
LINES = "lines", "strided lines"
SIDES = {"rows": (0,), "box": (1, 2, 3), "apart": (1, 2, 3), "strided": (1, 3), "lines": (0, 1), "strided lines": (1,)}  # of a block that are parted


def reading(problem: Problem, config) -> str:
    """How the gathered tensor is read."""
    p = seen(problem, config)
    if not config.copy and (p.x_layout if p.direction == "forward" else p.y_layout) == "channels_first":
        strided = p.direction == "grad_input" and p.stride != (1, 1, 1)
        return "strided lines" if strided else "lines" if any(config.box) else "planes"
    if p.direction == "grad_input" and p.stride != (1, 1, 1):
        return "apart" if config.copy else "strided"
    return "box" if any(config.box) else "rows"


def weight_reading(problem: Problem, config) -> str:
    """How the weight is read."""
    if problem.direction != "forward" or problem.item != 2 or not _whole(problem, config) or problem.w_alignment not in (0, 8):
        return "taps"
    pitch = problem.co_group * problem.taps * problem.item
    minor = problem.w_minor == "tap" or problem.w_minor == "co" and joined(problem, config) == 1
    return "flat" if minor and pitch % 16 == 0 else "taps"


def joined(problem: Problem, config) -> int:
    """Phases along w that are written as one run."""
    last = problem.y_layout == "channels_last" or problem.direction != "forward"
    return problem.stride[2] if config.merge[2] and not last else 1


def packs(problem: Problem, config) -> bool:
    """The weight is brought into another order, or rounded, first."""
    if weight_reading(problem, config) == "flat":
        return False
    side, channels = "ci" if problem.direction == "forward" else "co", rows_and_reduction(problem)[1]
    return problem.w_minor != side or problem.w_alignment * problem.item not in (0, 16) or channels * problem.item % 16 > 0


def weight_boxes(problem: Problem, config) -> int:
    """How many boxes of the weight make up the columns of a tile, each of one phase and one residue of those that are joined."""
    if weight_reading(problem, config) == "flat":
        return 1
    lines = config.block_m // joined(problem, config)
    return config.block_m // (power_of_two_divisor(rows_and_reduction(problem)[0], lines) if any(config.merge) else lines)


def _whole(problem: Problem, config) -> bool:
    """Every tap is a row of the weight's own: all axes are merged, and kernel = stride."""
    return all(a.kernel == a.stride and (m or a.stride == 1) and a.dilation == 1 and a.padding == 0
               for a, m in zip(problem.axes, config.merge))


def described(problem: Problem, config, kind: str, step) -> tuple[list, list, list, int, bool]:
    """Shape, strides, block, the dimensions that are halved, and whether it is rounded, of the descriptor of the weight, whose strides
    (row, tap, channel) are given, or of the gathered tensor, whose places lie step elements apart; of "planes" step is the strides of
    sample and channel."""
    p, rounded = problem, problem.rounded
    if kind == "weight":
        rows, channels = rows_and_reduction(p)
        row, tap, channel = step
        if weight_reading(p, config) == "flat":
            return [channels, rows * p.taps], [channel, 1], [config.block_k, config.block_m], parted(config, (), ()), False
        (kd, kh, kw), tap = p.kernel, tap if p.taps > 1 else row  # of one tap, any stride that the engine takes
        block = [config.block_m // weight_boxes(p, config), 1, 1, 1, config.block_k]
        strides = [row, kh * kw * tap, kw * tap, tap, 1]
        return [rows, kd, kh, kw, channels], strides, block, parted(config, (), ()), rounded and not packs(p, config)
    if kind == "halo":
        kind = reading(p, config)
        shape, strides, block, *more = described(p, config, kind, step)
        return shape, strides, halos.further(p, config, kind, block), *more
    if kind == "planes":
        block = [1, config.block_k, config.block_n]
        return [p.n, p.ci, prod(p.in_size)], [*step, 1], block, parted(config, (2,), block[2:]), False
    if kind in LINES:
        shape, strides, block = _lines(p, config, step[1])
    else:
        shape, strides, block = boxes.described(kind, p, config, step)
    sides = (halos.SIDES if config.halo else SIDES)[kind]
    return shape, strides, block, parted(config, sides, [block[i] for i in sides]), rounded and not config.copy


def parted(config, dimensions, sides) -> tuple[int, ...]:
    """Which of these dimensions, the outermost first, each bit of the number of a program halves, the lowest first: the outermost part
    the most. -1 where there are none, and all programs have the whole."""
    bits, found = config.ctas.bit_length() - 1, []
    for dimension, side in zip(dimensions, sides):
        found += [dimension] * min(bits - len(found), side.bit_length() - 1)
    return tuple(reversed(found)) if dimensions else (-1,) * bits


def _lines(p: Problem, config, channel: int) -> tuple[list, list, list]:
    """Shape, strides and block of lines; channel: from one to the next."""
    channels, (d, h, w) = (p.ci, p.in_size) if p.direction == "forward" else (p.co, p.out_size)
    (deep, high, wide), (_, sh, _) = config.box, p.stride
    wide *= split(p, config)
    if reading(p, config) == "lines":
        return [d, h, p.n * channels, w], [h * w, w, channel, 1], [deep, high, config.block_k, wide]
    return [d, h // sh, sh, p.n * channels, w], [h * w, sh * w, w, channel, 1], [1, high, 1, config.block_k, wide]


def split(problem: Problem, config) -> int:
    """Neighbours along w that are read for each position, and parted."""
    return taps.split_factor(problem, config)


def merged(problem: Problem, config) -> int:
    """Phases that are columns of one product."""
    return prod(a.stride for a, m in zip(problem.axes, config.merge) if m)


def grid(problem: Problem, config, places: tuple[int, int, int]) -> int:
    """Clusters, for these coarse places."""
    if any(config.box):
        tiles = problem.n * prod(map(ceil_div, places, config.box))
    elif reading(problem, config) == "planes":
        tiles = problem.n * ceil_div(prod(places), config.block_n)
    else:
        tiles = ceil_div(problem.n * prod(places), config.block_n)
    columns = merged(problem, config)
    phases = prod(problem.stride) // columns if problem.direction == "forward" else 1
    return tiles * phases * ceil_div(columns * rows_and_reduction(problem)[0], config.block_m)


def shared_memory(problem: Problem, config) -> int:
    """Bytes that one program uses: the ring, what is written at once on its way into the order of the store, and barriers."""
    ring = config.stages * stage_bytes(problem, config)
    tile = (4 if config.shares > 1 else problem.item) * min(positions(config) * config.block_m, WRITTEN * 32 * config.warps)
    return ring + tile + SLACK


def positions(config) -> int:
    """Positions of one program."""
    return config.block_n // config.ctas


def stage_bytes(problem: Problem, config) -> int:
    """Bytes of the shared memory of one program that the largest step fills."""
    return _bytes(problem, config, config.ctas, *halos.most(problem, config))


def in_place(problem: Problem) -> bool:
    """Whether a forward reads every position once."""
    return problem.direction == "forward" and all(axis.reads_in_place for axis in problem.axes)


def written_bytes(problem: Problem, config) -> float:
    """Bytes that a step writes there, on average over steps."""
    return _bytes(problem, config, config.ctas, halos.taps(problem, config), halos.rows(problem, config))


def step_bytes(problem: Problem, config) -> float:
    """Bytes that a step reads for a whole cluster, likewise."""
    return _bytes(problem, config, 1, halos.taps(problem, config), halos.rows(problem, config))


def _bytes(problem: Problem, config, programs: int, taps: float, rows: float) -> float:
    """The share of one of so many programs in the positions of a step that has so many more rows, and the weights of so many taps."""
    places = config.block_n // programs + rows * (config.box[0] * config.box[2] // programs)
    return problem.item * config.block_k * split(problem, config) * (places + taps * config.block_m)


def read_bytes(problem: Problem, config) -> int:
    """Bytes that the products of a step read from there: every 64 positions all of the weights anew."""
    read = positions(config) + positions(config) // GROUP * config.block_m
    of_a_tap = problem.item * config.block_k * split(problem, config) * read
    return of_a_tap * halos.taps(problem, config)


def turned_bytes(problem: Problem, config) -> int:
    """Bytes that a program writes there and reads, to bring its sums into the order of the store."""
    return 2 * (4 if config.shares > 1 else problem.item) * positions(config) * config.block_m


def by_registers(problem: Problem, config) -> bool:
    """Whether the positions pass by registers."""
    return reading(problem, config) in LINES and (problem.item == 4 or split(problem, config) > 1)


def crowded(problem: Problem, config) -> bool:
    """Whether fragments of lines stand beside too many sums in registers."""
    if not by_registers(problem, config):
        return False
    elements, threads = positions(config) * config.block_k * split(problem, config), 32 * config.warps
    sums = config.block_m * positions(config) // threads
    return elements * problem.item // 4 // threads > (16 if sums > 32 else 32)


def fits(config, problem: Problem, device: Device) -> str | None:
    """Why two programs of a cluster cannot compute this together, or None."""
    if not device.pairs:
        return f"{device.name} has no clusters whose programs share what they fetch: Hopper has, with Triton 3.7 or 3.8"
    if problem.groups > 1 or config.flat:
        return "a pair takes one group, and no taps among its channels"
    if config.shares > 1 and rows_and_reduction(problem)[1] % (config.shares * config.block_k):
        return f"{config.shares} shares of whole chunks of {config.block_k} channels are not all of {rows_and_reduction(problem)[1]}"
    if problem.wide and (problem.direction == "forward" or not any(config.box)):
        return "a pair takes offsets of 64 bits where it writes the boxes of an input gradient"
    if problem.item != 2 and not problem.rounded or problem.dtype == "float64":
        return f"a pair multiplies 16 bits or TF32, not {problem.dtype} as {problem.precision}"
    if config.block_k * problem.item not in (ROW, ROW // 2, ROW // 4):
        return f"block_k = {config.block_k} does not make rows of {ROW}, {ROW // 2} or {ROW // 4} bytes"
    products = positions(config) / GROUP / max(1, config.warps // 4)  # of a warpgroup
    if config.ctas not in (2, 4) or config.warps % 4 or products not in ((1,) if by_registers(problem, config) else (1, 2, 4)):
        return (f"{config.block_n} positions are not a product of {GROUP} for every warpgroup of {config.warps} warps of each of "
                f"{config.ctas} programs, two or four, nor two or four of what passes by no registers")
    most = 128 if problem.item == 2 or config.warps > 4 else 64  # sums of a thread: of fp32, in few warps, their addresses take room
    if crowded(problem, config):
        return f"fragments of {config.block_k} channels leave the sums no registers"
    if not 16 <= config.block_m <= 256 or config.block_m * positions(config) > most * 32 * config.warps:
        return f"a tile of {config.block_m} rows by {positions(config)} positions leaves {config.warps} warps without registers"
    if config.stages < 2:
        return "a ring of one stage leaves nothing to fetch into while its products are under way"
    if config.copy and not partable(problem):
        return "no copy in channels_last helps here"
    if config.copy and not problem.wide and exceed_31_bits(problem.n * (copied := walk_memory.shape(problem, config))[0] * prod(copied[1])):
        return "a copy has more elements than 31 bits can count"
    for axis, merged, name in zip(problem.axes, config.merge, "dhw"):
        if merged and (axis.dilation != 1 or problem.direction != "forward"):
            return f"phases along {name} cannot be merged: only those of a forward with dilation 1 can"
    return _fits_positions(config, problem) or _fits_weight(config, problem) or (
        halos.fits(config, problem, reading(problem, config)) if config.halo else None)


def _fits_positions(config, problem: Problem) -> str | None:
    """Why the gathered tensor cannot be read so, or None."""
    p, forward = seen(problem, config), problem.direction == "forward"
    kind = reading(problem, config)
    if kind == "planes":
        if p.item != 2 or not forward or not all(a.reads_in_place for a in p.axes):
            return "planes are read of 16 bits whose taps do not shift positions"
        if prod(p.in_size) * p.item % 16 or not p.even:
            return "planes of a channel begin at multiples of 16 bytes, and are dense"
        return None
    if kind in LINES:
        return _fits_lines(config, p)
    return boxes.fits(config, p)


def _fits_lines(config, p: Problem) -> str | None:
    """Why lines of a channels-first tensor cannot be read, or None."""
    forward, strided = p.direction == "forward", reading(p, config) == "strided lines"
    channels, sizes = (p.ci, p.in_size) if forward else (p.co, p.out_size)
    parted, wide = split(p, config), halos.wide(config)
    if not p.even or sizes[2] * p.item % 16:
        return "lines are read of dense samples whose rows are multiples of 16 bytes"
    if channels % config.block_k and p.n > 1:
        return f"block_k = {config.block_k} does not divide {channels} channels, and a box would read those of another sample"
    if prod(config.box) != config.block_n or min(config.box) < 1 or wide * parted * p.item not in (ROW, ROW // 2, ROW // 4):
        return (f"a box of {'x'.join(map(str, config.box))} does not hold {config.block_n} places in lines of {ROW}, {ROW // 2} or "
                f"{ROW // 4} bytes")
    most = config.ctas if config.halo else config.box[1] if strided else config.box[0] * config.box[1]
    if most < config.ctas or max(config.box) > boxes.LARGEST_BOX:
        return f"a box is parted between {config.ctas} programs: along h where dz is strided"
    if strided and (parted != p.stride[2] or p.out_size[1] % p.stride[1] or max(p.dilation) > 1):
        return "lines of dz are parted into the residues of its stride along w, and the stride divides its height"
    return None


def _stored(config) -> int:
    """Rows of a tile that its programs write at once: half after half, where it has more elements."""
    return min(config.block_m, WRITTEN * 32 * config.warps * config.ctas // config.block_n)


def _fits_weight(config, problem: Problem) -> str | None:
    """Why the weight cannot be read so, or None."""
    if problem.w_minor == "scattered" and not packs(problem, config):
        return "the weight has no one stride from tap to tap"
    if weight_reading(problem, config) == "flat":
        phases = merged(problem, config)
        if problem.w_minor == "tap" and (phases & (phases - 1) or phases > config.block_m):
            return f"{phases} phases of a channel are no power of two of at most {config.block_m} rows of a tile"
        if problem.w_minor == "tap" and problem.y_layout == "channels_last" and phases > _stored(config):
            return f"{_stored(config)} rows of a tile are written at once, where channels come last, and a channel has {phases} phases"
        return None
    if problem.item == 2 and problem.direction == "forward" and _whole(problem, config) and packs(problem, config):
        return "one launch reads the weight of a kernel = stride as it lies: the gather and descriptor paths do"
    rows, channels = rows_and_reduction(problem)
    if config.block_m // weight_boxes(problem, config) < SMALLEST_BOX:
        return f"boxes of the weight have {SMALLEST_BOX} rows of one phase or more, and {rows} channels do not make them"
    if channels * problem.item % 16:
        return f"{channels} channels are no multiple of 16 bytes"
    join = joined(problem, config)
    if join & (join - 1):
        return f"{join} phases along w cannot be joined: not a power of two"
    return None
