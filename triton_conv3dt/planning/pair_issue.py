"""How many instructions the programs of a cluster issue for a tile of the gather product, about: a part of pairs.py."""

from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import halos, lowering, pairs
from .phases import rows_and_reduction

COSTS = 292, 80, 1.9, 2.6  # instructions of a warp: once, of a step, and as features says; fitted to counts of H200
FEW = 17  # steps that are written one after the other: FEW of kernels/pair.py
IN_LINE = 0.25  # of what a step of a loop costs, where they are


def instructions(problem: Problem, config, steps: float) -> float:
    """What a warp issues, about, for steps of a program."""
    return sum(cost * count for cost, count in zip(COSTS, features(problem, config, steps)))


def features(problem: Problem, config, steps: float) -> tuple[float, float, float, float]:
    """What COSTS are multiplied by: a program, its steps, longer ones of several taps, what they fetch (a box counts ten) and take into
    registers, and elements that a thread writes, more of narrow runs."""
    threads, kind, parts = 32 * config.warps, pairs.reading(problem, config), pairs.split(problem, config)
    taps = halos.taps(problem, config)
    fetches = pairs.weight_boxes(problem, config) * parts * taps + (config.box[0] if kind == "strided lines" else 1)
    fetches += halos.rows(problem, config) / halos.together(problem, config)
    fragments = taps * config.block_k * pairs.positions(config) * parts / threads * pairs.by_registers(problem, config)
    run = written_run(problem, config)
    looped = halos.busy(problem, config) * steps * (IN_LINE if in_line(problem, config) else 1)
    elements = config.block_m * pairs.positions(config) / threads * (1 + (2.5 if run > 1 else 9) / run)
    return 1.0, looped, steps * (10 * fetches + fragments), elements


def in_line(problem: Problem, config) -> bool:
    """Whether the steps of a tile are written one after the other: every phase has as many, and they are few."""
    taps = [axis.taps for axis in lowering.axis_constants(pairs.seen(problem, config), config)]
    steps = prod(taps) * ceil_div(rows_and_reduction(problem)[1], config.block_k * config.shares)
    return min(taps) > 0 and not config.halo and steps <= FEW


def written_run(problem: Problem, config) -> int:
    """Neighbours that are written at once, about."""
    forward = problem.direction == "forward"
    layout, run = (problem.y_layout, problem.y_run) if forward else (problem.x_layout, problem.x_run)
    return 1 if forward and layout == "channels_first" and problem.stride[2] != pairs.joined(problem, config) else run
