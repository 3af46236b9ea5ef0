"""The walking form: which rows of a plane are kept, which taps meet them, and what that takes of shared memory.

A program owns a patch of places (h, w) and walks along d. Each plane that it comes to is fetched once, in `sheets`: the
rows of the patch with those that taps reach beside it, once for every shift along w. Shifted along h a patch is another
run of rows. TF32, and channels-first 16 bits, that are read as they lie are kept in lines along w, where a patch may begin at any place:
once for all shifts. So are channels-last 16 bits with a halo along w.
All weights of a program stay in shared memory. Sums of places that later planes still add to stay in registers: they differ in
age. Places are coarse ones, as in geometry.py: what is written has phases there, what is read residues.

A patch of one row is a run of places, row after row of a plane with zeros between them: as many places of a plane of any size as it has.
It is kept in lines, where a shift along h is one by a row's places.

A config is one of a walk.
"""

from functools import lru_cache
from math import gcd

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import walk_memory, walk_reads
from .device import Device
from .phases import coarse_places, rows_and_reduction
from .walk_constants import Walk
from .walk_memory import beside, in_runs, read, row_channels, shape, summed, turned, written  # noqa: F401: turned is asked of a walk
from .walk_tables import APART, FEWEST, PADDED, TOGETHER, WARPGROUP, tables, uses
from .walk_tables import runs as runs_of

TURNING, ROUNDING = 0.8, 0.35  # instructions for an element that is copied by itself, or rounded in registers, over one that is written
LINE = 8  # neighbouring places of a line in four channels, which are written at once
SLACK = 4096  # bytes for barriers, and for buffers that start at multiples of 1024
MOST_TOGETHER = 16  # weight tiles that are fetched at once


@lru_cache(maxsize=4096)
def walk(problem: Problem, config) -> Walk:
    """What the kernel is told."""
    _, high, wide = config.box
    turned, channels = walk_memory.turned(problem, config), summed(problem, config)
    run = walk_memory.turned_run(problem, len({r for _, r, *_ in uses(problem, 2)})) if turned else 1
    along = walk_reads.along(problem, config, run) if high == 1 else 0

    def known(copied: bool) -> Walk:
        lines = config.block_k * problem.item // 16, wide, run if run == 2 else 1, copied
        t = tables(problem, config.merge, high, config.taps[0], config.block_m, lines if turned else None, along)
        together = min(MOST_TOGETHER, 1 << (len(t["slots"]).bit_length() - 1))
        return Walk(high, wide, config.block_k, ceil_div(channels, config.block_k), config.block_m, config.stages, **t,
                    together=together, turned=turned, summed=(channels if t["second"] < 0 else problem.co) * turned, run=run, copied=copied,
                    twins=twins(problem, config), along=along)

    found = known(turned and problem.item == 4)
    found = known(True) if config.halo and _late(found, config) else found
    abreast = _abreast(found, problem, config)
    found = found._replace(abreast=abreast, runs=runs_of(found.products, abreast))
    taken = _sums(found, config) + _loads(found, config) * (turned and not found.copied)
    return found._replace(early=not _late(found, config), crowded=taken > FREE[found.twins])


def _abreast(w: Walk, problem: Problem, config) -> int:
    """How many groups are summed in one turn, which brings a run of rows to registers once for all of them: as many as have room."""
    groups = len(w.groups)
    by_registers = w.turned or problem.item == 4
    several = (n for n in range(groups, 1, -1) if by_registers and groups % n == 0 and not (w.twins and n % 2))
    return next((n for n in several if _roomy(w._replace(abreast=n), problem, config)), 1)


def _roomy(w: Walk, problem: Problem, config) -> bool:
    """Whether sums leave registers for addresses, those of each block of channels too, and for what else a thread has."""
    return _sums(w, config) <= _most(w, problem, config) and (w.copied or not _late(w, config, ADDRESSES * (w.blocks - 1)))


def twins(problem: Problem, config) -> bool:
    """Whether both phases along w of a channels-first output are summed apart, and written as one run."""
    apart = problem.direction == "forward" and not config.merge[2] and problem.axes[2].stride == 2
    return apart and problem.y_layout == "channels_first"


def _late(w: Walk, config, more: int = 0) -> bool:
    """Whether sums leave no registers for what is loaded while products take their time, two of their first operands, and more: it is
    copied."""
    return _sums(w, config) + _loads(w, config) + config.block_n * w.channels // (32 * config.warps) + more > AHEAD


def _loads(w: Walk, config) -> int:
    """Registers of a thread for a plane that is loaded, two values in each, before it is stored."""
    return w.blocks * sum(s.rows * (w.wide + s.reach) for s in w.sheets) * w.channels // (2 * 32 * config.warps)


def step_bytes(problem: Problem, config) -> int:
    """Bytes that a program fetches in one step along d."""
    w = walk(problem, config)
    return len(w.residues) * w.blocks * sum(s.rows * (w.wide + s.reach) for s in w.sheets) * w.channels * problem.item


def widths(w: Walk) -> list[int]:
    """Columns of the products of each bundle of ages."""
    return [size * w.live[sum(w.bundles[:i])] * w.columns for i, size in enumerate(w.bundles)]


def fetches(problem: Problem, config) -> int:
    """Boxes that a program fetches in one step along d: patches, and single rows beside them."""
    w = walk(problem, config)
    return len(w.residues) * w.blocks * sum(1 + sheet.rows - w.high for sheet in w.sheets)


def multiplied(problem: Problem, config) -> int:
    """Multiplications of one step of a program, on tensor cores."""
    w = walk(problem, config)
    columns = sum(len(bundle) * width for group in w.products for bundle, width in zip(group, widths(w)))
    return w.high * w.wide * columns * w.blocks * w.channels


def shared_bytes(problem: Problem, config) -> int:
    """Bytes that one step moves through shared memory: what copies write, what each warpgroup's products read, of TF32 each run of rows
    once for all of them, and tiles on their way into another order. Few places beside a patch count as a line: they take as many instructions."""
    w = walk(problem, config)
    places = w.high * w.wide
    read = sum(len(bundle) * width for group in w.products for bundle, width in zip(group, widths(w))) + WARPGROUP * runs(problem, w)
    moved = read * ceil_div(places, WARPGROUP) * w.blocks * w.channels
    turned = 2 * places * w.columns * len(w.phases) * len(w.groups) if in_runs(problem) else 0
    few = sum(s.rows * (LINE * s.reach.bit_count() - s.reach) for s in w.sheets) * len(w.residues) * w.blocks * w.channels * w.copied
    return step_bytes(problem, config) + (moved + turned + few) * problem.item


def runs(problem: Problem, w: Walk) -> int:
    """How often a step reads a run of rows, which are the first operand of a product, for each block of channels: of 16 bits once for
    each product, of TF32 and lines once for all of a turn."""
    if problem.item == 2 and not w.turned:
        return sum(len(bundle) for group in w.products for bundle in group)
    return sum(map(len, w.runs))


def fetched(problem: Problem, config) -> float:
    """Which part of what is written to shared memory is read: the rest of a block of channels is zeros, and so is, of what is loaded, what
    lies outside."""
    w, part = walk(problem, config), _channels_read(problem, config)
    size, step = shape(problem, config)[1], read(problem)[4]
    return part * walk_reads.inside(w, config.box[0], coarse_places(problem, config.merge), size, step) if w.turned else part


def _channels_read(problem: Problem, config) -> float:
    w = walk(problem, config)
    return beside(problem, config.merge) * shape(problem, config)[0] / (w.blocks * w.channels)


def features(problem: Problem, config, trips: float) -> tuple[float, float, float, float]:
    """What issue.py multiplies its costs by: a program, what it fetches of the weight counted with it; steps, instructions of tensor cores, and
    elements that a thread writes."""
    w, threads = walk(problem, config), 32 * config.warps
    products = sum(len(bundle) for group in w.products for bundle in group) * w.blocks * w.channels * problem.item / 32
    elements = w.high * w.wide * w.columns * len(w.phases) * len(w.groups) / threads
    if w.turned and not config.halo:  # whose units are few
        rounded = runs(problem, w) * w.high * w.wide * w.blocks * w.channels
        elements += (TURNING * step_bytes(problem, config) / problem.item / w.run + ROUNDING * rounded) / threads
    return 1.0 + weight_fetches(problem, config) / 16, trips, trips * products, trips * elements


def weight_fetches(problem: Problem, config) -> int:
    """How often a program fetches weight tiles, several at once."""
    w = walk(problem, config)
    return ceil_div(len(w.slots), w.together) * w.blocks


def weight_bytes(problem: Problem, config) -> int:
    """Bytes of the weights that a program fetches, some of them twice."""
    w = walk(problem, config)
    return weight_fetches(problem, config) * w.together * w.columns * w.channels * problem.item


def weight_read(problem: Problem, config) -> float:
    """Those of them that are no zeros beyond the last channel."""
    return weight_bytes(problem, config) * _channels_read(problem, config)


def shared_memory(problem: Problem, config) -> int:
    """Bytes that one program uses, an upper estimate."""
    w = walk(problem, config)
    turned = w.high * w.wide * w.columns * len(w.phases) * problem.item if in_runs(problem) or problem.epilogue.residual else 0
    ring = config.stages * w.blocks * w.rows * (16 if w.turned else w.wide * w.channels * problem.item)
    weights = len(w.slots) * w.blocks * w.columns * w.channels * problem.item
    return ring + weights + turned + SLACK


def written_run(problem: Problem, config, alignment: int) -> int:
    """Neighbours of what is written, or added, that a thread moves at once: channels, or the phases of a place along w."""
    rows = rows_and_reduction(problem)[0]
    if written(problem)[0] == "channels_last":
        return gcd(alignment, rows, config.block_m)
    axis = problem.axes[2]
    joined = axis.stride if config.merge[2] or twins(problem, config) else 1
    return gcd(alignment, joined) if joined & (joined - 1) == 0 else 1


def packs(problem: Problem, config) -> bool:
    """The weight is brought into the order of its rows: channels that are summed over side by side."""
    return walk_memory.packs(problem, reordered(problem, config))


def reordered(problem: Problem, config) -> tuple[int, ...] | None:
    """The taps of the slots, None where they are all taps in their order."""
    slots = tuple(tap for taps in walk(problem, config).slots for tap in taps)
    return None if slots == tuple(range(problem.taps)) else slots


def registers(problem: Problem, config) -> int:
    """Sums that one thread holds: those of later places of all groups, and finished ones of two turns, with what is none in a bundle."""
    return _sums(walk(problem, config), config)


def _under_way(w: Walk) -> int:
    """Groups that a thread has finished sums of."""
    return min(2 * w.abreast + (w.twins and w.abreast == 1), len(w.groups))


def _sums(w: Walk, config) -> int:
    unused = (sum(w.bundles) - w.span) * w.live[-1]
    older = sum(w.live[1:]) * len(w.groups) + (w.live[0] + unused) * _under_way(w)
    return older * w.columns * config.block_n // (32 * config.warps)


MOST_SINGLE = 80  # where single elements have addresses at both ends
MOST_TURNED, MOST_NARROW = 2, 64  # of each residue along d a block of channels; of one residue so many channels in any blocks
MOST_SUMS = 144  # of a thread's 255 registers: what is left is for addresses
AHEAD = 170  # of them for sums and loads, beside which two first operands have room
FREE = {False: 64, True: 40}  # of them for sums and loads, beside which addresses are kept; twins are written from more of them
ADDRESSES = 12  # of them for each block of channels beyond the first
FRAGMENTS = 48  # of them for what is multiplied, where that passes by registers


def fits(config, problem: Problem, device: Device) -> str | None:
    """None if a config of a walk can compute a problem, else the reason why not."""
    if not device.walks:
        return f"{device.name} does not walk: it takes Hopper, and Triton 3.6 to 3.8"
    if problem.dtype == "float64" or problem.dtype == "float32" and problem.precision != "tf32":
        return f"a walk takes 16 bits and TF32, received {problem.dtype}, {problem.precision}"
    if problem.groups > 1 or problem.wide:
        return "a walk takes one group, and offsets of 32 bits"
    plain = walk_memory.as_it_is(problem)
    if not (config.copy or plain or walk_memory.turnable(problem) or config.halo):
        return ("a walk reads a copy, channels_first tensors, or channels_last ones with one stride for all places and 16-byte alignment, "
                "whose height and width the stride divides")
    joined = beside(problem, config.merge) > 1
    if config.copy and plain and not joined:
        return "a copy to channels_last is made of what cannot be read as it is"
    sided = joined and (config.copy or walk_memory.in_words(problem))  # by side
    if problem.direction != "forward" and (any(config.merge[:2]) or config.merge[2] and not sided):
        return "only a forward has phases to merge; an input gradient merges residues along w, those of a copy, or two of few channels in words"
    if config.halo and (config.copy or not walk_memory.aligned(problem)):
        return "a halo along w is kept of 16 bits in channels_last that are not copied, whose channels are whole 16 bytes"
    if config.block_k not in row_channels(problem, config.merge, config.copy or config.halo):
        return (f"block_k = {config.block_k}: rows have 32 to 128 bytes, none that they need not, and may not end in the channels of "
                "the next place")
    phases = problem.stride if problem.direction == "forward" else (1, 1, 1)
    if any(len({p for p, *_ in uses(problem, i)}) < n for i, n in enumerate(phases)):
        return "a walk takes phases that all have taps"
    return _fits_tile(config, problem)


def _fits_tile(config, problem: Problem) -> str | None:
    planes, high, wide = config.box
    if min(config.box) < 1 or high * wide != config.block_n or wide < 8 or high & (high - 1) or wide & (wide - 1):
        return f"a patch of {high}x{wide} does not hold block_n = {config.block_n} places, 8 or more along w"
    if config.warps % 4 or config.block_n % (16 * config.warps):
        return f"{config.warps} warps do not share {config.block_n} places by 16, warpgroup by warpgroup"
    w = walk(problem, config)
    columns = len(w.phases) * w.columns
    if min(w.live) * w.columns < FEWEST or columns > 256 or columns & (columns - 1):
        return f"{len(w.phases)} phases of {w.columns} channels are no product of 8 to 256 columns"
    if config.taps[0] not in (APART, TOGETHER, PADDED) or set(config.taps[1:]) != {APART}:
        return f"a walk has the taps of d alone side by side, received {', '.join(config.taps)}"
    if config.taps[0] != APART and (len(w.bundles) == w.span or max(widths(w)) > 256):
        return f"{w.span} steps to a place of {w.live} phases of {w.columns} channels are no columns of a product"
    if registers(problem, config) > _most(w, problem, config):
        return f"{registers(problem, config)} sums of each thread leave it no registers"
    if w.along and (not w.turned or w.copied or w.second >= 0):
        return "a run of places is one of 16 bits, which pass by registers into lines, each residue into its own"
    room = w.wide * (1 + (w.along > 0)) - max(0, w.second)
    if w.turned and (max(s.reach for s in w.sheets) > room or config.block_n != 16 * config.warps):
        return "lines have room for as many places beside a patch as in it, and each warp 16 of them"
    if w.copied and problem.item == 2 and (problem.epilogue.residual or problem.epilogue.keep_pre or len(w.groups) > 2 and config.warps < 8):
        return f"{registers(problem, config)} sums of each thread leave no registers to write so much, and copy into lines"
    narrow = len(w.residues) == 1 and w.blocks * w.channels <= MOST_NARROW
    if w.turned and problem.item == 4 and len(w.residues) * w.blocks > MOST_TURNED and not narrow:
        return f"addresses of {len(w.residues)} residues by {w.blocks} blocks of channels that are read singly leave no registers: copy them"
    return None


def _most(w: Walk, problem: Problem, config) -> int:
    """Sums of a thread at most."""
    single = written_run(problem, config, 16) == 1 or w.twins and len(w.groups) > max(2, w.abreast)
    return MOST_SINGLE if w.turned and single else MOST_SUMS - FRAGMENTS * (problem.item == 4)


def grid(problem: Problem, config, steps: tuple[int, int, int]) -> int:
    """Programs."""
    rows, along = rows_and_reduction(problem)[0], walk(problem, config).along
    return problem.n * ceil_div(steps[0], config.box[0]) * walk_reads.patches(config, along, steps) * ceil_div(rows, config.block_m)


def loop_steps(problem: Problem, config, steps: tuple[int, int, int]) -> int:
    """Steps along d of all programs together."""
    span = walk(problem, config).span
    walks = ceil_div(steps[0], config.box[0])
    return grid(problem, config, steps) // walks * (steps[0] + walks * (span - 1))


def described(problem: Problem, config, reading: str, step: int | tuple[int, int, int]) -> tuple[list, list, list]:
    """Shape, strides and block of a descriptor: of a patch's rows or of one line, whose places lie step elements apart, or of the
    weight, whose strides (row, tap, channel) are given."""
    w = walk(problem, config)
    if reading == "weight":
        channels, (row, tap, channel) = summed(problem, config), step
        return ([len(w.slots), rows_and_reduction(problem)[0], channels], [tap * len(w.slots[0]), row, channel],
                [w.together, w.columns, w.channels])
    channels, (d, h, x) = shape(problem, config)
    _, sh, sx = read(problem)[4]
    block = [1, w.high if reading == "patch" else 1, 1, w.wide, w.channels]
    return ([problem.n * d, h // sh, sh, x // sx, (sx - 1) * step + channels],
            [h * x * step, sh * x * step, x * step, sx * step, 1], block)
