"""Which walks are worth trying, and how long their steps take: what search.py asks of walks."""

from itertools import product
from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import lowering, walk_memory, walk_tables, walks, weight_turn_tiles, weight_turns, weight_walk_tiles, weight_walks
from .config import Config, rows_and_reduction, walking
from .device import REGISTERS, Device

PATCHES = ((8, 8), (8, 16), (4, 16), (16, 8))
RUNS, UNUSED = ((1, 64), (1, 128)), 1.15  # of places in rows, tried where patches have so many as a plane
# Instructions of a warp in each step, for each of tensor cores, element that it writes, and fetch; where it brings elements into lines, too,
# of 2 bytes, of 4, or of 16 together.
ISSUED = {0: (150, 8, 3, 20), 2: (320, 4.4, 3.5, 0), 4: (130, 5, 9, 20), 16: (240, 6, 2.5, 0)}
FETCH = 8e-7  # seconds until a plane that nothing overlaps with begins to arrive
SCHEDULERS = 4  # of an SM, each an instruction a clock
THREAD = 200  # registers, about what those of a walk take


def tiles(problem: Problem, device: Device, thorough: bool):
    """Configs of a walk, some of which may not fit."""
    if problem.direction == "grad_weight":
        yield from _of_weights(problem).tiles(problem, device, thorough)
    if not device.walks or problem.direction not in ("forward", "grad_input") or problem.groups > 1:
        return
    if all(len(walks.uses(problem, i)) <= problem.stride[i] for i in range(3)):
        return  # nothing overlaps: what is fetched once anyway takes no halo
    rows = rows_and_reduction(problem)[0]
    largest = max(8, min(64, 1 << (rows - 1).bit_length()))
    for merge in _merges(problem, thorough):
        joined = walk_memory.beside(problem, merge) > 1
        copied, lined = not walk_memory.as_it_is(problem) or joined, walk_memory.aligned(problem) and not joined
        depth = lowering.steps(problem, Config("walk", 8, 8, merge=merge))[0]
        parts = dict.fromkeys(ceil_div(depth, n) for n in ((1, 2, 4, 8) if thorough else (1, 2, 4)))
        halves = *_halves(largest, 8 if thorough else max(8, largest // 4)), *_few(rows, problem, merge)
        sizes = product((*(PATCHES if thorough else PATCHES[:3]), *_runs(problem, merge)), halves, parts)
        for (high, wide), block_m, planes in sizes:
            for block_k, way in product(_rows(problem, merge, copied or lined), _ways(problem, merge, block_m)):
                config = Config("walk", block_m, high * wide, block_k, high * wide // 16, 2, merge, box=(planes, high, wide),
                                copy=copied, taps=(way, walk_tables.APART, walk_tables.APART))
                if not thorough and planes == depth > 1 and _idle(config, problem, device):
                    continue
                for stages in _stages(config, problem, device, thorough):
                    yield (tried := config.but(stages=stages))
                    if walk_memory.turnable(problem) and (problem.item == 2 or not joined):
                        yield tried.but(copy=False)
                    if lined:
                        yield tried.but(copy=False, halo=True)


def _runs(problem: Problem, merge) -> tuple[tuple[int, int], ...]:
    """Runs of places where they may be walked, and where patches of two sides leave many unused."""
    _, h, w = lowering.steps(problem, Config("walk", 8, 8, merge=merge))
    fewest = min(ceil_div(h, high) * high * ceil_div(w, wide) * wide for high, wide in PATCHES)
    return RUNS if problem.item == 2 and walk_memory.turnable(problem) and fewest > UNUSED * h * w else ()


def _idle(config: Config, problem: Problem, device: Device) -> bool:
    """Whether twins that walk all of a sample leave more than half of a device without a program: they may share it."""
    return walks.twins(problem, config) and walks.grid(problem, config, lowering.steps(problem, config)) < device.sms / 2


def _rows(problem: Problem, merge, copied: bool):
    """Channels of a row: the most, and fewer where they leave less of the last row unused."""
    least = None
    for block_k in walk_memory.row_channels(problem, merge, copied):
        channels = ceil_div(walk_memory.beside(problem, merge) * rows_and_reduction(problem)[1], block_k) * block_k
        if least is None or channels < least:
            least = channels
            yield block_k


def _ways(problem: Problem, merge, block_m: int):
    """Which taps along d are columns of one product: those of each step alone, some, or all."""
    known = {}
    for way in (walk_tables.APART, walk_tables.TOGETHER, walk_tables.PADDED):
        known.setdefault(walk_tables.ages(problem, merge, way, block_m)[2], way)
    return known.values()


def _stages(config: Config, problem: Problem, device: Device, thorough: bool):
    """A ring of one plane only where two do not fit, or where it leaves room for another program to work meanwhile."""
    alone = config.but(stages=1)
    more = resident(alone, problem, device) > resident(config, problem, device)
    return (2, 3) * thorough + (2,) * (not thorough) + (1,) * more


def resident(config: Config, problem: Problem, device: Device) -> int:
    """Programs that share an SM; 0 where one does not fit."""
    return min(device.shared_memory // walks.shared_memory(problem, config), REGISTERS // (THREAD * 32 * config.warps))


def _merges(problem: Problem, thorough: bool):
    """Which axes have their phases among the columns: a channels-first output wants those along w, which are neighbours there. Of an
    input gradient, whether residues along w are summed side by side: where the channels of one are less than a row."""
    if problem.direction != "forward":
        few = problem.co_group * problem.item < walk_memory.NARROWEST
        return [(False, False, False)] + [(False, False, True)] * (few and problem.stride[2] > 1)
    able = [axis.stride > 1 for axis in problem.axes]
    if thorough:
        return list(product(*((False, True) if a else (False,) for a in able)))
    d, h, w = able
    joins = problem.y_layout == "channels_first" and w
    twins = joins and problem.axes[2].stride == 2  # written together, though summed apart
    apart = ((d, both, False) for both in (h, False)) if twins else ()
    return list(dict.fromkeys([(d, False, joins), (d, False, w), (False, False, joins), (d, h, w), *apart]))


def _few(rows: int, problem: Problem, merge):
    """Fewer columns of each phase than a product has, where phases together are as many: of all rows, or of a part of them whose weights
    fit where those of all do not."""
    fewest = 1 << (rows - 1).bit_length()
    phases = prod(axis.stride for axis, merged in zip(problem.axes, merge) if merged) if problem.direction == "forward" else 1
    return tuple(columns for columns in _halves(fewest, 1) if fewest < 8 <= columns * phases)


def _halves(largest: int, smallest: int):
    while largest >= smallest:
        yield largest
        largest //= 2


def time(config: Config, problem: Problem, device: Device, shared_rate: float, cache_rate: float, clock: float) -> float:
    """Seconds of one program: its weights, and then its steps, bound by what takes longest of each. Rates are those of one SM."""
    if problem.direction == "grad_weight":
        return _of_weights(problem).time(config, problem, device, shared_rate, cache_rate, clock)
    w, steps = walks.walk(problem, config), lowering.steps(problem, config)
    programs = walks.grid(problem, config, steps)
    rate = (device.rate_16bit if problem.item == 2 else device.rate_tf32) or 1e14
    written = w.high * w.wide * w.columns * len(w.phases) * len(w.groups)
    bandwidth = (device.bandwidth or 1e12) / device.sms
    fetch = walks.step_bytes(problem, config) * walks.fetched(problem, config) / cache_rate
    counts = *walks.features(problem, config, 1.0)[1:], walks.fetches(problem, config)
    issued = config.warps * sum(n * count for n, count in zip(ISSUED[16 if config.halo else problem.item * w.turned], counts))
    busy = max(2 * walks.multiplied(problem, config) / rate * device.sms, walks.shared_bytes(problem, config) / shared_rate,
               problem.item * written / bandwidth, issued / SCHEDULERS / clock)
    step = max(busy, fetch)
    if config.stages == 1:  # products wait for their plane, and it for those of the last: other programs alone work meanwhile
        step = max(step, (busy + fetch + FETCH * len(w.residues)) / max(1, resident(config, problem, device)))
    return walks.weight_bytes(problem, config) / cache_rate + walks.loop_steps(problem, config, steps) / programs * step


def _of_weights(problem: Problem):
    """Who knows the walks of a weight gradient."""
    return {weight_walks: weight_walk_tiles, weight_turns: weight_turn_tiles}[walking(problem)]
