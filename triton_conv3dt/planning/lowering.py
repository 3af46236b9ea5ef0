"""From problem and config to the constants that specialise a kernel. Plain integers; the mathematics is geometry's.

A run is the largest power of two of neighbouring elements, 16 bytes at most, that a kernel may move at once: every run
starts at a multiple of its length and is contiguous. What is promised to the compiler is proved here.
"""

from functools import lru_cache
from math import gcd, prod

from ..problems.geometry import Axis, ceil_div, power_of_two_divisor
from ..problems.problem import Problem
from . import boxes, flat, lanes, pairs, taps, weight_pairs
from .config import SMALLEST_DOT, Config, join_factor, pairing, rows_and_reduction, walking
from .constants import AxisConstants, WeightAxis
from .phases import coarse_places, origins_of
from .recall import recalled


def origins(problem: Problem, config: Config) -> tuple[int, int, int]:
    """Where each axis counts its phases from."""
    return origins_of(problem, config.merge)


def steps(problem: Problem, config: Config) -> tuple[int, int, int]:
    """Coarse places per axis, several of x along w together where an input gradient has them among its rows."""
    d, h, w = coarse_places(problem, config.merge)
    return d, h, w if problem.direction == "forward" else ceil_div(w, flat.places(config))


@recalled
def axis_constants(problem: Problem, config: Config) -> list[AxisConstants] | list[WeightAxis]:
    """What a kernel is told of d, h and w."""
    if not config.dense:
        return _lane_axes(problem, config)
    if problem.direction == "grad_weight":
        known = {"walk": lambda: walking(problem).axes(problem), "pair": lambda: weight_pairs.axes(problem, config)}
        return known.get(config.path, lambda: taps.edges(problem, config))()
    if problem.direction != "forward":
        split = taps.split_factor(problem, config)
        if config.path == "pair":
            return [_gradient_axis(a, 1)._replace(taps=ceil_div(a.kernel, n), tap_step=n, move=n * a.dilation)
                    for a, n in zip(problem.axes, (1, 1, split))]
        return [_gradient_axis(a, split if i == 2 else 1, i >= 3 - config.flat, flat.places(config) if i == 2 else 1)
                for i, a in enumerate(problem.axes)]
    joined = join_factor(problem, config.merge) if config.path != "pair" else 1
    return [_forward_axis(a, origin, merged, i == 2 and joined > 1)
            for i, (a, origin, merged) in enumerate(zip(problem.axes, origins(problem, config), config.merge))]


@lru_cache(maxsize=4096)
def _forward_axis(a: Axis, origin: int, merged: bool, joined: bool) -> AxisConstants:
    places = a.steps(origin)
    edge = origin > 0 or places * a.stride - origin > a.out
    if merged:
        m = a.merged(origin)
        halo = m.offset - m.taps + 1 < 0 or places - 1 + m.offset >= a.size
        return AxisConstants(a.stride, origin, 1, -1, a.kernel, a.stride, m.taps, m.first, m.offset, merged=a.stride,
                             guard=not m.full, edge=edge, halo=halo)
    reads = a.reads
    halo = bool(reads) and (min(reads) < 0 or places - 1 + max(reads) >= a.size)
    only = a.phase(0) if a.stride == 1 else None
    taps, first, offset = (only.taps, only.first, only.offset) if only else (-1, 0, a.padding // a.stride)
    return AxisConstants(a.stride, 0, 1, -a.input_step, a.kernel, a.tap_step, taps, first, offset,
                         residue=a.padding % a.stride, common=a.common, inverse=a.inverse, dilation=a.dilation,
                         phases=1 if joined else a.stride, edge=edge, halo=halo)


@lru_cache(maxsize=4096)
def _gradient_axis(a: Axis, split: int, among: bool = False, places: int = 1) -> AxisConstants:
    if split > 1:
        m = a.split()
        halo = m.offset < 0 or (a.size + m.offset + m.taps - 1) * a.stride > a.out
        return AxisConstants(1, 0, a.stride, 1, a.kernel, a.stride, m.taps, m.first, m.offset, guard=not m.full, halo=halo)
    if places > 1:
        return AxisConstants(places, 0, places * a.stride, 1, a.kernel, 1, 1, 0, -a.padding, merged=places, guard=True,
                             edge=a.size % places > 0, halo=flat.halo(a, places), flat=flat.window(a, places))
    steps, together = (1, a.kernel) if among else (a.kernel, 1)
    return AxisConstants(1, 0, a.stride, a.dilation, a.kernel, 1, steps, 0, -a.padding, halo=flat.halo(a), flat=together)


def _lane_axes(problem: Problem, config: Config) -> list[AxisConstants]:
    """Of boxes, which may reach beyond the last place; phases of unrolled axes are in one program."""
    forward, found = problem.direction == "forward", []
    tiles = zip(problem.axes, lanes.places(problem), lanes.sides(problem, config), lanes.looped(problem, config))
    for a, places, side, looped in tiles:
        axis, beyond = _forward_axis(a, 0, False, False) if forward else _gradient_axis(a, 1), places % side > 0
        found.append(axis._replace(edge=axis.edge or beyond, halo=axis.halo or beyond, phases=axis.phases if looped else 1))
    return found


def phase_minor(problem: Problem, config: Config) -> bool:
    """Rows can be (channel, phase), the order in which PyTorch keeps a weight, so that it is read as it is."""
    if problem.direction != "forward" or problem.w_minor != "tap" or not config.dense or rounded_before(problem, config) \
            or config.path == "walk":
        return False
    if config.path == "pair":
        return pairs.weight_reading(problem, config) == "flat"
    if not all(c.first == 0 and c.taps == 1 and c.merged == a.kernel
               for a, c in zip(problem.axes, axis_constants(problem, config))):
        return False
    return problem.y_layout == "channels_first" or (problem.taps & (problem.taps - 1) == 0 and problem.taps <= config.block_m)


def rounded_before(problem: Problem, config: Config) -> bool:
    """What is multiplied is rounded to TF32 by the launches that copy and pack it: products then take both from shared memory as
    they lie, with what is summed over side by side, since wgmma transposes 16-bit types alone."""
    return problem.rounded and config.copy


def packs(problem: Problem, config: Config) -> bool:
    """The weight is brought into another order by a launch of its own."""
    if config.path == "walk":
        return walking(problem).packs(problem, config)
    if config.path == "pair":
        return pairing(problem).packs(problem, config)
    if rounded_before(problem, config):
        return problem.direction != "grad_weight"
    if problem.w_minor == "scattered":
        return problem.direction in ("forward", "grad_input")
    if config.flat and problem.w_minor == "tap" and flat.taps_first(problem, config):
        return False
    return config.dense and problem.direction in ("forward", "grad_input") \
        and problem.w_minor in ("tap", "other") and not phase_minor(problem, config)


def writes_whole(problem: Problem, config: Config) -> bool:
    """One part is all of a weight gradient, and is written as the result."""
    return problem.direction == "grad_weight" and config.dense and taps.parts(problem, config) == 1 and problem.w_minor != "scattered"


def dense_strides(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """The strides of a dense 5-D tensor: channels_first, channels_last, or "ci" for a weight of neighbouring input channels."""
    order = {"channels_first": (0, 1, 2, 3, 4), "channels_last": (0, 2, 3, 4, 1), "ci": (2, 3, 4, 1, 0)}[layout]
    result, step = [0] * 5, 1
    for axis in reversed(order):
        result[axis] = step
        step *= shape[axis]
    return tuple(result)


def reading(problem: Problem, config: Config) -> str:
    """How the gathered tensor is read: the reading of constants.Memory."""
    if config.path == "walk":
        return "patch"
    if config.path == "pair":
        return pairs.reading(problem, config)
    if config.path != "descriptor":
        return "pointers"
    if problem.direction == "grad_input" and problem.stride != (1, 1, 1):
        return "strided"
    return "box" if any(config.box) else "rows"


def described(kind: str, problem: Problem, config: Config, step) -> tuple[list[int], list[int], list[int]]:
    """Shape, strides and block of the descriptor of the gathered tensor, whose places lie step elements apart; or of what a walk
    reads, as `described` of walks.py and weight_walks.py say."""
    if config.path == "walk":
        return walking(problem).described(problem, config, kind, step)
    if config.path == "pair":
        return pairing(problem).described(problem, config, kind, step)
    return boxes.described(kind, problem, config, step)


@recalled
def grid(problem: Problem, config: Config) -> tuple[int, int, int]:
    """Programs of the main kernel."""
    if config.path == "onepass":
        return config.shares, 1, 1
    if problem.direction == "grad_weight" and config.dense and config.path != "walk":
        return taps.tiles(problem, config), config.shares, problem.groups
    if config.path == "walk":
        return walking(problem).grid(problem, config, steps(problem, config)), config.shares, 1
    if config.path == "pair":
        return pairs.grid(problem, config, steps(problem, config)), config.shares, 1
    constants = axis_constants(problem, config)
    if not config.dense:
        return _lane_grid(problem, config, prod(c.phases for c in constants))
    places = steps(problem, config)
    if any(config.box):
        tiles = problem.n * prod(map(ceil_div, places, config.box))
    elif problem.epilogue.statistics:  # tiles end with their sample
        tiles = problem.n * ceil_div(prod(places), config.block_n)
    else:
        tiles = ceil_div(problem.n * prod(places), config.block_n)
    tiles *= prod(c.phases for c in constants)
    rows = rows_and_reduction(problem)[0]
    merged = prod(c.merged for c in constants)
    return tiles * ceil_div(merged * rows, config.block_m), problem.groups, config.shares


def together(problem: Problem, config: Config) -> int:
    """How many lines of a tile are phases of one channel, whose statistics the tile adds up: all phases where rows count
    (channel, phase), else as many as have all their channels in a tile."""
    lines, phases, rows = *_lines_and_phases(problem, config), problem.co_group
    if phase_minor(problem, config):
        return phases if phases & (phases - 1) == 0 and phases <= lines else 1
    return lines // rows if phases > 1 and rows & (rows - 1) == 0 and rows <= lines else 1


def _lines_and_phases(problem: Problem, config: Config) -> tuple[int, int]:
    """Lines of a tile as it is written, and phases that are lines and not columns."""
    interleaved = join_factor(problem, config.merge) if config.merge[2] else 1
    return config.block_m // interleaved, prod(c.merged for c in axis_constants(problem, config)) // interleaved


def statistics_shares(problem: Problem, config: Config) -> int:
    """In how many partial results a product leaves the statistics of a channel of a sample."""
    constants = axis_constants(problem, config)
    programs = prod(c.phases for c in constants)
    if not config.dense:
        return lanes.boxes(problem, config) // problem.n * programs
    places = steps(problem, config)
    tiles = prod(map(ceil_div, places, config.box)) if any(config.box) else ceil_div(prod(places), config.block_n)
    return tiles * programs * ceil_div(_lines_and_phases(problem, config)[1], together(problem, config))


def _lane_grid(problem: Problem, config: Config, phases: int) -> tuple[int, int, int]:
    if problem.direction == "grad_weight":
        taps = prod(k for k, looped in zip(problem.kernel, lanes.looped(problem, config)) if looped)
        inputs = problem.ci_group // lanes.lanes(problem, config).shared
        return taps * inputs * ceil_div(problem.co, config.block_m), config.shares, 1
    tiles = ceil_div(rows_and_reduction(problem)[0] * problem.groups, config.block_m)
    return lanes.boxes(problem, config) * phases * tiles, 1, 1


def gathered_run(problem: Problem, config: Config, layout: str, alignment: int) -> int:
    """The run of the gathered tensor: x forward, dz otherwise."""
    if config.flat:
        return flat.gathered_run(problem, layout, alignment)
    constants = axis_constants(problem, config)[2]
    if layout == "channels_last":  # along the channels of a place; that channel offsets keep it whole, the compiler sees
        return alignment
    width, split = gcd(steps(problem, config)[2], config.block_n), taps.split_factor(problem, config) if config.dense else 1
    if not config.dense:
        written = problem.x_layout if problem.direction == "grad_input" else problem.y_layout
        size = problem.in_size if problem.direction == "forward" else problem.out_size
        # Lanes that are channels are no neighbours along w.
        width = 1 if written == "channels_last" else gcd(lanes.sides(problem, config)[2], size[2])
    if problem.direction == "forward":
        axis = problem.axes[2]
        in_place = len(axis.reads) <= 1 and axis.padding % axis.stride == 0 and constants.offset % alignment == 0
        return gcd(alignment, width) if in_place else 1
    if split == 1:
        in_place = problem.stride[2] == 1 and problem.kernel[2] == 1 and problem.padding[2] == 0
        return gcd(alignment, width) if in_place else 1
    alignment = gcd(alignment, width * split)
    alignment = alignment if constants.taps == 1 and constants.offset == 0 else gcd(alignment, split)
    return gcd(alignment, problem.out_size[2]) if constants.halo else alignment


def turned(problem: Problem, config: Config) -> tuple[int, int, int] | None:
    """Runs of what a forward or an input gradient gathers go by registers to their product: those that lie across what products of TF32
    want side by side, and those of which neighbours are parted. They are then read in an order in which no lanes meet in a bank
    (kernels/turned.py): so many neighbours of 32 bytes, so many of these runs, and of so many times eight channels. Of 16 bits whole lines,
    where there are some; of TF32 as few as leave a warp channels enough, whose elements it stores side by side; of single elements as many
    as leave a thread few places, whose masks it works out."""
    forward, split = problem.direction == "forward", taps.split_factor(problem, config)
    layout, run = (problem.x_layout, problem.x_run) if forward else (problem.y_layout, problem.y_run)
    by_registers = problem.rounded or problem.item == 2 and split > 1
    if config.path != "gather" or config.copy or config.flat or not by_registers or layout == "channels_last":
        return None
    single = gathered_run(problem, config, layout, run) == 1
    if single and (split == 1 or problem.item == 2):
        return None
    length = 32 // problem.item
    if single:
        return length, min(8, config.block_n * split // length), 1
    return (length, split, max(1, 2 // split)) if problem.item == 4 else (length, min(4, config.block_n * split // length), 1)


def split_run(problem: Problem) -> int:
    """The run of dy in one pass, where w is split off a channels-first line after the load."""
    if problem.y_layout == "channels_last":
        return gcd(problem.y_run, problem.co)
    return gcd(problem.y_run, problem.out_size[2])


def one_pass_weight_run(problem: Problem, config: Config) -> int:
    """The run of the weight in one pass, along the columns of its kernel: (channel, tap) channels-first, else (tap, channel)."""
    minor, inner = ("co", problem.co) if problem.y_layout == "channels_last" else ("tap", problem.taps)
    apart = problem.y_layout != "channels_last" and problem.stride[2] == 2 and config.block_n // 2 < SMALLEST_DOT
    if problem.w_minor != minor or apart:
        return 1
    return gcd(problem.w_alignment or 16, power_of_two_divisor(inner, 16 // problem.item))


def written_run(problem: Problem, config: Config, layout: str, alignment: int) -> int:
    """The run of the written tensor: y forward, dx of the input gradient."""
    rows = rows_and_reduction(problem)[0]
    if layout == "channels_last":
        if not config.dense:  # channels of all groups
            return gcd(alignment, config.block_m)
        if phase_minor(problem, config):  # a tile's channels, phase after phase
            return gcd(alignment, rows, config.block_m // problem.taps)
        return gcd(alignment, rows) if problem.groups > 1 or any(config.merge) else alignment
    stride = problem.stride[2] if problem.direction == "forward" else 1
    if not config.dense:
        found, sizes = lanes.lanes(problem, config), problem.out_size if problem.direction == "forward" else problem.in_size
        return gcd(alignment, sizes[2], found.sides[2] * stride) if found.join == stride * found.columns else 1
    joined = pairs.joined(problem, config) if config.path == "pair" else join_factor(problem, config.merge)
    if joined != stride:
        return 1
    return gcd(alignment, steps(problem, config)[2] * joined, (config.box[2] or config.block_n) * joined)


def weight_run(problem: Problem, config: Config, minor: str, alignment: int) -> int:
    """The run of the weight, in the order the kernel finds it in ("tap", "co" or "ci" side by side)."""
    if config.flat and minor != "ci":
        return flat.weight_run(problem, config, minor, alignment)
    if minor == "tap":
        return gcd(alignment, problem.taps) if phase_minor(problem, config) else 1
    inner = problem.co_group if minor == "co" else problem.ci_group
    if (minor == "co") == (problem.direction == "forward"):  # rows, of which joined phases leave fewer side by side
        inner = gcd(inner, config.block_m // (join_factor(problem, config.merge) if config.merge[2] else 1))
    return power_of_two_divisor(gcd(alignment, inner), alignment)
