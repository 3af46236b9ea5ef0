"""How many instructions the warps of a product issue, estimated before anything is compiled; compiling/bounds.py counts them."""

from typing import NamedTuple

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
    ("backward", "onepass"): Cost(1043, 214.4, 69.24, 0, 0.4954),
    ("forward", "descriptor"): Cost(0, 246.9, 2.366, 8.049, 0.5311),
    ("forward", "direct"): Cost(59.7, 161.3, 0, 0, 0.7991),
    ("forward", "gather"): Cost(205.5, 135.2, 6.127, 2.951, 0.7737),
    ("grad_input", "descriptor"): Cost(0, 54.01, 26.62, 0, 0.4703),
    ("grad_input", "direct"): Cost(101.4, 35, 255.4, 4.042, 0.8621),
    ("grad_input", "gather"): Cost(0, 197.4, 16.92, 0.7242, 0.8343),
    ("grad_weight", "direct"): Cost(4632, 214.6, 297, 4.516, 1.159),
    ("grad_weight", "gather"): Cost(86.85, 271.2, 5.875, 16.08, 0.946),
}


def features(plan: Plan, trips: float) -> tuple[float, float, float, float]:
    """What the first four costs are multiplied by, for trips of the loop of a program."""
    p, c = plan.problem, plan.config
    threads, gathered = 32 * c.warps, (c.block_k if c.dense else 1) * c.block_n
    run = p.y_run if p.direction == "grad_input" else p.x_run
    return 1.0, trips, trips * gathered / threads / run, c.block_m * c.block_n / threads


def instructions(plan: Plan, trips: float) -> float:
    """What one warp issues, about: within a factor of 1.5 for nine kernels of ten."""
    cost = COSTS[kind(plan)]
    return sum(each * times for each, times in zip(cost, features(plan, trips)))


def kind(plan: Plan) -> tuple[str, str]:
    """What kernels with the same costs have in common."""
    return plan.problem.direction, plan.config.path
