"""How a product without tensor cores is spread over threads: lanes of a box, lines that a thread computes, and what it reads
for them. All follows from block_m channels and block_n places of a config.
"""

from functools import lru_cache
from math import gcd, prod

from ..problems.geometry import Axis, ceil_div
from ..problems.problem import Problem
from .config import Config, rows_and_reduction
from .constants import Lanes, Reads
from .device import Device

SUMS = 32  # of fp32 that a thread keeps of a lane
WEIGHTS = 100  # or sums of a weight gradient, by tap, that it keeps besides
MOST_REGISTERS = 264  # fitted to what the compiler makes of defaults of layers.json on sm_80 and sm_90
MOST_OF_CHANNELS = 200  # of a thread with several channels that lie side by side
MOST_ALONE = 304  # by the same scale, of a thread with one lane of more than two columns
MOST_ON_BLACKWELL = 190  # of a thread with more than one lane of two columns, but for weight gradients: its assemblers spill sooner


def places(problem: Problem) -> tuple[int, int, int]:
    """Coarse places per axis: of the output's phases forward, of x otherwise."""
    return tuple(a.steps(0) for a in problem.axes) if problem.direction == "forward" else problem.in_size


@lru_cache(maxsize=4096)
def lanes(problem: Problem, config: Config) -> Lanes:
    """The tile of a program; lanes lie as what is written does, or as dz does for a weight gradient."""
    forward, weights = problem.direction == "forward", problem.direction == "grad_weight"
    last = (problem.x_layout if problem.direction == "grad_input" else problem.y_layout) == "channels_last"
    shared = _shared(problem, config, last)
    h, w = unrolled(problem, shared)
    phases = (problem.stride[1] if h else 1) * (problem.stride[2] if w else 1) if forward else 1
    _, height, width = sizes = places(problem)
    most = SUMS // (phases * (1 if weights else shared)) // max(1, problem.item // 4)
    lines = max(1, min(config.block_n, 8, 1 << (height - 1).bit_length(), most))
    lines = 1 << (lines.bit_length() - 1)
    channels = config.block_m // (1 if weights else shared)
    values = channels * config.block_n // lines // (32 * config.warps)  # lanes of a thread, if they were not its columns
    # Twice as many of an input gradient would have the lanes of a warp read from twice as many lines of the cache.
    columns = gcd(max(1, min(values, config.block_n // lines)), width, 4 if forward and not last else 2)
    columns = columns if w and _overlap(problem.axes[2], forward) else 1
    box = _box((sizes[0], ceil_div(height, lines), width // columns), config.block_n // lines // columns)
    join = 1 if weights else shared if last else columns * (problem.stride[2] if forward and w else 1)
    return Lanes(channels, shared, lines, columns, box, (box[0], box[1] * lines, box[2] * columns), last,
                 join if join in (1, 2, 4, 8) else 1)


def _overlap(a: Axis, forward: bool) -> bool:
    """Whether neighbouring places read some of the same."""
    one, two = (len(_reads(a, forward, True, columns, 0).offset) for columns in (1, 2))
    return two < 2 * one


def _shared(problem: Problem, config: Config, last: bool) -> int:
    """Neighbouring channels of a thread: input channels of a group for a weight gradient, else those of one group that are
    written; in channels_last as many as are written at once."""
    if problem.direction == "grad_weight":
        taps = problem.kernel[1] * problem.kernel[2]
        most = min(4, max(1, 64 // taps))
        return min(1 << (most.bit_length() - 1), problem.ci_group & -problem.ci_group)
    rows, few = rows_and_reduction(problem)[0], max(1, WEIGHTS // max(1, problem.item // 4) // problem.kernel[2])
    return min(config.block_m, rows & -rows, 16 // problem.item if last else 8, 1 << (few.bit_length() - 1))


def sides(problem: Problem, config: Config) -> tuple[int, int, int]:
    """Places (d, h, w) of a program."""
    return lanes(problem, config).sides


def boxes(problem: Problem, config: Config) -> int:
    """How many boxes hold the places of all samples."""
    return problem.n * prod(map(ceil_div, places(problem), sides(problem, config)))


@lru_cache(maxsize=4096)
def _box(sizes: tuple[int, int, int], count: int) -> tuple[int, int, int]:
    """The box of so many places that leaves the fewest unused, wide rather than high."""
    powers = [1 << i for i in range(count.bit_length())]
    found = [(d, h, count // (d * h)) for d in powers for h in powers if d * h <= count]
    filled = lambda box: prod(ceil_div(size, side) * side for size, side in zip(sizes, box))
    return min(found, key=lambda box: (filled(box) * (1 + 1 / box[2]), -box[2], -box[1]))


@lru_cache(maxsize=4096)
def unrolled(problem: Problem, shared: int) -> tuple[bool, bool]:
    """Whether taps along h and along w are unrolled: where the weights of all, or their sums, fit a thread."""
    _, h, w = problem.kernel
    phases = problem.stride if problem.direction == "forward" else (1, 1, 1)
    most, sums = WEIGHTS // max(1, problem.item // 4), SUMS // max(1, problem.item // 4)
    sums = sums if problem.direction != "grad_weight" else shared
    along_w = w * shared <= most and phases[2] * shared <= sums
    return along_w and h * w * shared <= most and phases[1] * phases[2] * shared <= sums, along_w


def looped(problem: Problem, config: Config) -> tuple[bool, bool, bool]:
    """The axes whose taps are not unrolled."""
    return True, *(not each for each in unrolled(problem, lanes(problem, config).shared))


def reads(problem: Problem, config: Config) -> tuple[Reads, Reads]:
    """What a lane reads along h and along w."""
    found, forward = lanes(problem, config), problem.direction == "forward"
    h, w = unrolled(problem, found.shared)
    beyond = [ceil_div(all_, side) * side for all_, side in zip(places(problem), found.sides)]
    return (_reads(problem.axes[1], forward, h, found.lines, beyond[1]),
            _reads(problem.axes[2], forward, w, found.columns, beyond[2]))


@lru_cache(maxsize=4096)
def _reads(a: Axis, forward: bool, unroll: bool, lines: int, beyond: int) -> Reads:
    """beyond: where boxes end."""
    step, phases = 1 if forward else a.stride, a.stride if unroll and forward else 1
    uses = sorted((line * step + offset, line * phases + phase, tap) for line in range(lines) for phase in range(phases)
                  for tap, offset in (_taps(a, forward, phase) if unroll else [(0, 0)]))
    offsets = sorted({offset for offset, _, _ in uses})
    last, size = (beyond - lines) * step, a.size if forward else a.out  # of what is read, beside which offsets count
    inside = tuple(unroll and offset >= 0 and last + offset < size for offset in offsets)
    start = [sum(offset < each for offset, _, _ in uses) for each in offsets] + [len(uses)]
    return Reads(tuple(offsets), inside, tuple(start), tuple(line for _, line, _ in uses), tuple(tap for _, _, tap in uses),
                 lines * phases, a.kernel if unroll else 1, unroll)


def _taps(a: Axis, forward: bool, phase: int) -> list[tuple[int, int]]:
    """The taps of a phase, and what each reads beside its place."""
    if not forward:
        return [(tap, tap * a.dilation - a.padding) for tap in range(a.kernel)]
    p = a.phase(phase)
    return [(p.first + j * a.tap_step, p.offset - j * a.input_step) for j in range(p.taps)]


def kept(problem: Problem, config: Config, values: int, device: Device) -> bool:
    """Whether the registers of a thread hold what so many places of each of its lines need; of a single lane they should."""
    found = lanes(problem, config)
    columns, values = found.columns, max(values, found.channels // (32 * config.warps))
    several = found.last and values > 1
    alone, needed = values <= columns, registers(problem, config, max(1, values // columns))
    if device.capability >= (10, 0) and problem.direction != "grad_weight":
        return needed <= (MOST_REGISTERS if alone and columns <= 2 else MOST_ON_BLACKWELL)
    return needed <= (MOST_OF_CHANNELS if several else MOST_REGISTERS) or alone and (columns <= 2 or needed <= MOST_ALONE)


def registers(problem: Problem, config: Config, values: int) -> float:
    """About what a thread of so many lanes would like to keep: sums, what it reads of a plane, and weights. The scale is such that
    nothing spills below MOST_REGISTERS."""
    found, (h, w) = lanes(problem, config), reads(problem, config)
    weights, wide = h.taps * w.taps * found.shared, max(1, problem.item // 4)
    if problem.direction == "grad_weight":
        return 2.5 * values * (weights * wide + len(h.offset) * len(w.offset))
    of_channels = values if found.last and found.channels > 1 else 1
    doubled = 2 if found.join > 1 and problem.item >= 4 else 1  # what is joined, until it is written
    of_lane = h.lines * w.lines * found.shared * wide * doubled + len(h.offset) * len(w.offset)
    return values * of_lane + 2 * of_channels * weights


def instructions(problem: Problem, config: Config) -> float:
    """About what a thread issues, counted in compiled kernels: by load, row of loads, weight, element that is written or
    reduced."""
    found, (h, w), axes = lanes(problem, config), reads(problem, config), looped(problem, config)
    values = max(1, found.channels * prod(found.box) / (32 * config.warps))
    values_c = values if found.last and found.channels > 1 else 1
    narrow = 16 // problem.item
    wide = min(narrow, values) if found.last or (len(w.offset) == 1 and problem.stride[2] == 1) else 1
    loads, taps, uses = len(h.offset) * len(w.offset), h.taps * w.taps, len(h.tap) * len(w.tap)
    masked = 1.5 if found.box[0] > 1 else 0.5  # by lanes of several planes everything
    step = values * (loads * (masked + 1 + 3 / wide) + found.shared * uses) + len(h.offset) * 8 * values / wide
    if problem.direction == "grad_weight":
        step += found.lines * found.columns * found.shared * values * (2 + 5 / wide) + 60
        reduced = taps * found.shared * (10 * values_c + (14 if config.warps > 1 else 4))
        return step * ceil_div(boxes(problem, config), config.shares) + reduced + 150
    phases = problem.stride if problem.direction == "forward" else (1, 1, 1)
    steps = prod(k / s for k, s, each in zip(problem.kernel, phases, axes) if each) * rows_and_reduction(problem)[1]
    step += taps * found.shared * 2 * values_c + 30
    return steps * step + h.lines * w.lines * found.shared * values * (2 + 8 / wide) + 150
