"""Which walks are worth trying, and how long their steps take: what search.py asks of walks."""

from itertools import product
from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import lowering, walks, weight_walk_tiles
from .config import Config, rows_and_reduction
from .device import Device

PATCHES = ((8, 8), (8, 16), (4, 16), (16, 8))
ISSUED = 3.0  # instructions of a warp for each element that a thread writes


def tiles(problem: Problem, device: Device, thorough: bool):
    """Configs of a walk, some of which may not fit."""
    if problem.direction == "grad_weight":
        yield from weight_walk_tiles.tiles(problem, device, thorough)
    if not device.walks or problem.direction not in ("forward", "grad_input") or problem.groups > 1:
        return
    if all(len(walks.uses(problem, i)) <= problem.stride[i] for i in range(3)):
        return  # nothing overlaps: what is fetched once anyway takes no halo
    rows = rows_and_reduction(problem)[0]
    largest = max(8, min(64, 1 << (rows - 1).bit_length()))
    copied = walks.read(problem)[0] == "channels_first" or problem.rounded
    for merge in _merges(problem, thorough):
        depth = lowering.steps(problem, Config("walk", 8, 8, merge=merge))[0]
        parts = dict.fromkeys(ceil_div(depth, n) for n in ((1, 2, 4, 8) if thorough else (1, 2, 4)))
        sizes = product(PATCHES if thorough else PATCHES[:2], _halves(largest, 8 if thorough else max(8, largest // 4)), parts)
        for (high, wide), block_m, planes in sizes:
            for stages in (2, 3) if thorough else (2,):
                yield Config("walk", block_m, high * wide, walks.block_c(problem), high * wide // 16, stages, merge,
                             box=(planes, high, wide), copy=copied)


def _merges(problem: Problem, thorough: bool):
    """Which axes have their phases among the columns: a channels-first output wants those along w, which are neighbours there."""
    if problem.direction != "forward":
        return [(False, False, False)]
    able = [axis.stride > 1 for axis in problem.axes]
    if thorough:
        return list(product(*((False, True) if a else (False,) for a in able)))
    d, h, w = able
    joins = problem.y_layout == "channels_first" and w
    return list(dict.fromkeys([(d, False, joins), (d, False, w), (False, False, joins), (d, h, w)]))


def _halves(largest: int, smallest: int):
    while largest >= smallest:
        yield largest
        largest //= 2


def time(config: Config, problem: Problem, device: Device, shared_rate: float, cache_rate: float, clock: float) -> float:
    """Seconds of one program: its weights, and then its steps, bound by what takes longest of each. Rates are those of one SM."""
    if problem.direction == "grad_weight":
        return weight_walk_tiles.time(config, problem, device, shared_rate, cache_rate, clock)
    w, steps = walks.walk(problem, config), lowering.steps(problem, config)
    programs = walks.grid(problem, config, steps)
    rate = (device.rate_16bit if problem.item == 2 else device.rate_tf32) or 1e14
    written = w.high * w.wide * w.columns * len(w.phases) * len(w.groups)
    bandwidth = (device.bandwidth or 1e12) / device.sms
    step = max(2 * walks.multiplied(problem, config) / rate * device.sms, walks.shared_bytes(problem, config) / shared_rate,
               walks.step_bytes(problem, config) * walks.fetched(problem, config) / cache_rate, problem.item * written / bandwidth,
               ISSUED * written / 32 / 4 / clock)
    return walks.weight_bytes(problem, config) / cache_rate + walks.loop_steps(problem, config, steps) / programs * step
