"""How many instructions the warps of a product issue, estimated before anything is compiled; compiling/bounds.py counts them."""

from typing import NamedTuple

from . import flat, pair_issue, walks, weight_pair_tiles, weight_pairs, weight_turns
from .config import seen, walking
from .planned import Plan
from .taps import split_factor

SCHEDULERS = 4  # of an SM, on every architecture from sm_80 on; each issues one instruction a clock


class Cost(NamedTuple):
    """What one warp issues once, in each step of its loop, for each access of a step, and for each element that a thread
    accumulates; and how long the integer pipes work for it, over how long the schedulers do."""

    once: float
    step: float
    access: float
    element: float
    integer: float


# Fitted to the counts of benchmarks/limits/nvidia_h200.csv by tests/support/fit_issue.py, which prints them.
COSTS = {
    ("backward", "onepass"): Cost(699.5, 185.4, 32.39, 0, 0.4501),
    ("forward", "descriptor"): Cost(996.6, 145.2, 0, 0, 0.2897),
    ("forward", "direct"): Cost(195.1, 368.7, 0, 0, 0.4583),
    ("forward", "gather"): Cost(172.3, 247.8, 2.964, 4.029, 0.8166),
    ("grad_input", "descriptor"): Cost(1011, 93.92, 7.946, 0, 0.2543),
    ("grad_input", "direct"): Cost(0, 325, 20.23, 0.318, 0.4885),
    ("grad_input", "gather"): Cost(55.84, 126.6, 10.09, 1.729, 0.7666),
    ("grad_input", "flat"): Cost(*flat.COSTS, 0.91),
    ("forward", "walk"): Cost(1928, 252.6, 8.48, 1.491, 0.631),
    ("grad_input", "walk"): Cost(3943, 589.4, 8.592, 1.229, 0.8181),
    ("forward", "lines"): Cost(374.5, 267.2, 6.577, 3.82, 0.47),
    ("grad_input", "lines"): Cost(0, 700, 3.1, 2.9, 0.4),
    ("forward", "halo"): Cost(867.7, 203.6, 5.2, 2.66, 0.4),  # of no layer that is recorded: fitted to 65 others
    ("grad_input", "halo"): Cost(401.3, 279.7, 8.21, 1.88, 0.3),
    ("forward", "pair"): Cost(471.7, 84.01, 1.597, 1.123, 0.3053),
    ("grad_input", "pair"): Cost(256.7, 74.54, 2.148, 2.068, 0.3915),
    ("grad_weight", "walk"): Cost(900, 600, 0, 0, 0.2),
    ("grad_weight", "turn"): Cost(1000, 240, 1.1, 6, 0.6),
    ("grad_weight", "pair"): Cost(1500, weight_pair_tiles.STEP, weight_pair_tiles.FETCH, 0, 0.38),
    ("grad_weight", "direct"): Cost(482.7, 478, 0, 0, 0.5835),
    ("grad_weight", "gather"): Cost(800.8, 248.7, 12.35, 0, 0.8498),
}


def features(plan: Plan, trips: float) -> tuple[float, float, float, float]:
    """What the first four costs are multiplied by, for trips of the loop of a program."""
    p, c = seen(plan.problem, plan.config), plan.config
    split = split_factor(p, c) if p.direction == "grad_input" else 1
    threads, gathered = 32 * c.warps, (c.block_k * split if c.dense else 1) * c.block_n
    if c.path == "walk" and p.direction != "grad_weight":
        return walks.features(p, c, trips)
    if kind(plan)[1] == "turn":
        return 1.0, trips, trips * weight_turns.instructions(p, c), weight_turns.registers(p, c)
    if c.flat:
        return flat.features(p, c, trips)
    if c.path == "pair":
        return pair_issue.features(plan.problem, c, trips) if p.direction != "grad_weight" else (1.0, trips, trips * weight_pairs.fetches(p, c), 0.0)
    run = p.y_run if p.direction == "grad_input" else p.x_run
    return 1.0, trips, trips * gathered / threads / run, c.block_m * c.block_n / threads


def instructions(plan: Plan, trips: float) -> float:
    """What one warp issues, about: within a factor of 1.9 for nine kernels of ten on Hopper, for which it was fitted; on A100,
    whose warps load the fragments of every product, half of them issue half as much again."""
    cost = COSTS[kind(plan)]
    return sum(each * times for each, times in zip(cost, features(plan, trips)))


def kind(plan: Plan) -> tuple[str, str]:
    """What kernels with the same costs have in common."""
    p, c = plan.problem, plan.config
    if c.path == "walk" and walking(p).turned(p, c):
        if p.direction == "grad_weight":
            return p.direction, "turn"
        if p.item == 2:
            return p.direction, "halo" if c.halo else "lines"
    return p.direction, "flat" if c.flat else c.path
