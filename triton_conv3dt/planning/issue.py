"""How many instructions the warps of a product issue, estimated before anything is compiled; compiling/bounds.py counts them."""

from typing import NamedTuple

from .config import seen
from .plan import Plan

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
    ("forward", "descriptor"): Cost(0, 242.3, 1.875, 6.388, 0.5737),
    ("forward", "direct"): Cost(2.124, 453.6, 0, 0.8147, 0.5918),
    ("forward", "gather"): Cost(146.3, 137.8, 6.453, 3.758, 0.7584),
    ("grad_input", "descriptor"): Cost(198.8, 62.94, 17.72, 1.106, 0.4703),
    ("grad_input", "direct"): Cost(0, 441.4, 27.94, 0, 0.3988),
    ("grad_input", "gather"): Cost(0, 158.7, 19.85, 0.9709, 0.7379),
    ("forward", "walk"): Cost(300, 300, 0, 3, 0.5),
    ("grad_input", "walk"): Cost(300, 300, 0, 3, 0.5),
    ("grad_weight", "walk"): Cost(900, 600, 0, 0, 0.2),
    ("grad_weight", "direct"): Cost(469.4, 422, 0, 0, 0.9167),
    ("grad_weight", "gather"): Cost(392, 290, 12.8, 0, 0.8986),
}


def features(plan: Plan, trips: float) -> tuple[float, float, float, float]:
    """What the first four costs are multiplied by, for trips of the loop of a program."""
    p, c = seen(plan.problem, plan.config), plan.config
    threads, gathered = 32 * c.warps, (c.block_k if c.dense else 1) * c.block_n
    run = p.y_run if p.direction == "grad_input" else p.x_run
    return 1.0, trips, trips * gathered / threads / run, c.block_m * c.block_n / threads


def instructions(plan: Plan, trips: float) -> float:
    """What one warp issues, about: within a factor of 1.8 for nine kernels of ten on Hopper, for which it was fitted; on A100,
    whose warps load the fragments of every product, half of them issue half as much again."""
    cost = COSTS[kind(plan)]
    return sum(each * times for each, times in zip(cost, features(plan, trips)))


def kind(plan: Plan) -> tuple[str, str]:
    """What kernels with the same costs have in common."""
    return plan.problem.direction, plan.config.path
