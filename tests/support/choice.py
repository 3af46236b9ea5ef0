"""How near the default is to the best of what may be tried: the bounds of compiled candidates, of a sample of layers.

A bound counts what all SMs can do, however few have programs: of small layers few large programs have the least, and would take longer
than more that are smaller. So where the default is not near the best, it is compared with those that keep as many SMs busy, too.

    PYTHONPATH=. python tests/support/choice.py        # an hour or so; begun again, it goes on; writes benchmarks/limits/choice.csv
"""

import csv
import io
import statistics
from datetime import date
from math import prod
from pathlib import Path

import triton

from triton_conv3dt import files
from triton_conv3dt.compiling import limits, survey
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import costs, search, store, terms
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.launches import schedule
from triton_conv3dt.problems.layers import layers
from triton_conv3dt.problems.problem import DIRECTIONS

FILE = Path(__file__).parents[2] / "benchmarks" / "limits" / "choice.csv"
DEVICE = Device.named("nvidia_h200")
EVERY = 5  # of the layers, in the directions in turn
FIRST = 6  # candidates that are compiled: the cheapest by the model, and as many that it expects to be bound the least
NEAR = 1.15  # times the best; where the default is further, those that are as busy are asked
COLUMNS = ("layer", "direction", "default", "best", "ratio", "as_busy", "as_busy_ratio", "as_busy_config", "compiled", "default_config",
           "best_config")


def chosen(problem) -> list:
    """The candidates that are compiled, the default first."""
    found = search.candidates(problem, DEVICE)
    bound = {config: terms.terms(launch.plan(problem, DEVICE, config)) for config in found}
    cheapest = sorted(found, key=lambda config: costs.cost(config, problem, DEVICE))[:FIRST]
    least = sorted((config for config in found if bound[config]), key=lambda config: bound[config].limit)[:FIRST]
    return list(dict.fromkeys([search.default(problem, DEVICE), *cheapest, *least]))


def busy(problem, config) -> int:
    """SMs that have a program."""
    return min(DEVICE.sms, prod(schedule(problem, config).main.grid) * config.ctas)


def row(layer, direction: str) -> tuple:
    """The bounds of the default, and of the best that spills nothing."""
    problem = layer.problem(direction)
    configs = chosen(problem)
    tasks = [survey.Task(layer.name, problem, DEVICE, config, "default") for config in configs]
    found = [(kernel.task.config, limits.row(kernel)) for kernel in survey.inspect(tasks) if not kernel.failure]
    default = next(one for config, one in found if config == configs[0])
    sound = [(config, one) for config, one in found if not one.spills or config == configs[0]]
    best = min((one for _, one in sound), key=lambda one: one.limit)
    told = [layer.name, direction, default.limit, best.limit, round(default.limit / best.limit, 3)]
    if told[-1] > NEAR:
        least = busy(problem, configs[0])
        as_busy = min((one for config, one in sound if busy(problem, config) >= least), key=lambda one: one.limit)
        told += as_busy.limit, round(default.limit / as_busy.limit, 3), as_busy.config
    else:
        told += "", "", ""
    return *told, len(found), default.config, best.config


def read() -> list[list[str]]:
    """What is there of these kernels."""
    text = FILE.read_text().splitlines() if FILE.exists() else []
    return list(csv.reader(text[2:])) if text and store.kernel_digest() in text[0] else []


def write(rows) -> None:
    text = io.StringIO()
    text.write(f"# {DEVICE.name}, triton {triton.__version__}, kernels {store.kernel_digest()}, {date.today()}, bounds, not times\n")
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    files.replace(FILE, text.getvalue())


if __name__ == "__main__":
    rows = read()
    done = {tuple(one[:2]) for one in rows}
    for i, layer in enumerate(layers()[::EVERY]):
        direction = DIRECTIONS[i % len(DIRECTIONS)]
        if (layer.name, direction) not in done:
            rows.append(row(layer, direction))
            write(rows)
            print(*rows[-1][:7], flush=True)
    ratios = [[float(one[COLUMNS.index(name)] or 1) for one in rows] for name in ("ratio", "as_busy_ratio")]
    for name, found in zip(("all", "those that keep as many SMs busy"), ratios):
        print(f"best of {name}: {sum(r <= NEAR for r in found)} of {len(found)} defaults are within {NEAR}, median "
              f"{statistics.median(ratios[0])}, worst {max(found)}")
