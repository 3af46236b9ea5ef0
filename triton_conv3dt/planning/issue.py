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
    ("backward", "onepass"): Cost(1233, 222.5, 60.47, 0, 0.5097),
    ("forward", "descriptor"): Cost(0, 218.3, 0, 8.669, 0.5563),
    ("forward", "direct"): Cost(0, 541.2, 0, 0, 0.6979),
    ("forward", "gather"): Cost(143.3, 139.1, 8.239, 3.509, 0.7765),
    ("grad_input", "descriptor"): Cost(198.8, 62.94, 17.72, 1.106, 0.4703),
    ("grad_input", "direct"): Cost(0, 364.3, 35.3, 0.1273, 0.6679),
    ("grad_input", "gather"): Cost(0, 201.4, 16.54, 0, 0.7634),
    ("grad_weight", "direct"): Cost(469.4, 422, 0, 0, 0.9167),
    ("grad_weight", "gather"): Cost(463.3, 291.1, 10.42, 0, 0.8986),
}


def features(plan: Plan, trips: float) -> tuple[float, float, float, float]:
    """What the first four costs are multiplied by, for trips of the loop of a program."""
    p, c = plan.problem, plan.config
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
