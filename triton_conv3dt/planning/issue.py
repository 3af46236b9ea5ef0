"""How many instructions the warps of a product issue, estimated before anything is compiled; compiling/bounds.py counts them."""

from typing import NamedTuple

from . import flat, walks
from .config import seen
from .plan import Plan
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
    ("backward", "onepass"): Cost(1251, 223.1, 60.06, 0, 0.5098),
    ("forward", "descriptor"): Cost(438, 123.6, 0, 4.843, 0.2388),
    ("forward", "direct"): Cost(0, 497.7, 0, 0, 0.6373),
    ("forward", "gather"): Cost(118.3, 154.6, 5.838, 3.956, 0.7121),
    ("grad_input", "descriptor"): Cost(0, 110.5, 5.356, 2.531, 0.1974),
    ("grad_input", "direct"): Cost(0, 380.1, 31.97, 0.1562, 0.6678),
    ("grad_input", "gather"): Cost(10.78, 128.8, 10.48, 3.679, 0.7503),
    ("grad_input", "flat"): Cost(*flat.COSTS, 0.91),
    ("forward", "walk"): Cost(1851, 257.4, 8.5, 1.469, 0.6372),
    ("grad_input", "walk"): Cost(3057, 618.6, 7.713, 1.295, 0.8181),
    ("grad_weight", "walk"): Cost(900, 600, 0, 0, 0.2),
    ("grad_weight", "direct"): Cost(594.8, 405.4, 0, 0, 0.9167),
    ("grad_weight", "gather"): Cost(905.6, 258, 8.72, 0, 0.8526),
}


def features(plan: Plan, trips: float) -> tuple[float, float, float, float]:
    """What the first four costs are multiplied by, for trips of the loop of a program."""
    p, c = seen(plan.problem, plan.config), plan.config
    split = split_factor(p, c) if p.direction == "grad_input" else 1
    threads, gathered = 32 * c.warps, (c.block_k * split if c.dense else 1) * c.block_n
    if c.path == "walk" and p.direction != "grad_weight":
        return walks.features(p, c, trips)
    if c.flat:
        return flat.features(p, c, trips)
    run = p.y_run if p.direction == "grad_input" else p.x_run
    return 1.0, trips, trips * gathered / threads / run, c.block_m * c.block_n / threads


def instructions(plan: Plan, trips: float) -> float:
    """What one warp issues, about: within a factor of 1.9 for nine kernels of ten on Hopper, for which it was fitted; on A100,
    whose warps load the fragments of every product, half of them issue half as much again."""
    cost = COSTS[kind(plan)]
    return sum(each * times for each, times in zip(cost, features(plan, trips)))


def kind(plan: Plan) -> tuple[str, str]:
    """What kernels with the same costs have in common."""
    return plan.problem.direction, "flat" if plan.config.flat else plan.config.path
