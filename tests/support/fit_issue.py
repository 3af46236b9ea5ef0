"""Fit planning/issue.py to the record of bounds: prints its COSTS, and how well they tell what was counted.

    python tests/support/fit_issue.py
"""

import statistics
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

from triton_conv3dt.compiling import limits
from triton_conv3dt.compiling.survey import Task
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import issue, terms
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.layers import layers

RECORDS = Path(__file__).parents[2] / "benchmarks" / "limits"


@lru_cache(maxsize=None)
def tasks(device: str) -> list[Task]:
    """What is recorded of a device: planning it all takes a minute or more."""
    return limits.tasks(Device.named(device), layers())


def recorded(device: str) -> list[tuple]:
    """The plan of every row of a record, and the row."""
    rows = {(row.layer, row.direction): row for row in limits.read(RECORDS / f"{device}.csv").rows}
    return [(launch.plan(task.problem, task.device, task.config), rows[task.name, task.problem.direction]) for task in tasks(device)]


def fitted(samples: list[tuple[tuple, float]]) -> list[float]:
    """Costs, none below zero, with the least squares of relative errors: one after another, until they stay."""
    scaled = [[value / counted for value in features] for features, counted in samples]
    columns = list(zip(*scaled))
    norms = [sum(value * value for value in column) for column in columns]
    costs, errors = [0.0] * len(columns), [-1.0] * len(scaled)
    for _ in range(3000):
        for j, column in enumerate(columns):
            if norms[j]:
                better = max(0.0, costs[j] - sum(e * value for e, value in zip(errors, column)) / norms[j])
                errors = [e + (better - costs[j]) * value for e, value in zip(errors, column)]
                costs[j] = better
    return costs


def main() -> None:
    found = defaultdict(list)
    for plan, row in recorded("nvidia_h200"):
        found[issue.kind(plan)].append((issue.features(plan, terms.trips(plan)), row))
    for kind, rows in sorted(found.items()):
        costs = fitted([(features, row.instructions) for features, row in rows])
        ratios = sorted(sum(c * f for c, f in zip(costs, features)) / row.instructions for features, row in rows)
        integer = statistics.median(row.integer / row.issue for _, row in rows)
        numbers = ", ".join(f"{value:.4g}" for value in (*costs, integer))
        print(f"    {kind}: Cost({numbers}),".replace("'", '"'))
        print(f"# {len(rows)} kernels, estimate over count: 10 % {ratios[len(ratios) // 10]:.2f}, median "
              f"{statistics.median(ratios):.2f}, 90 % {ratios[9 * len(ratios) // 10]:.2f}")


if __name__ == "__main__":
    main()
