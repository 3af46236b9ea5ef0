"""The record of bounds: what the compiled defaults of many layers permit at best on a device, as a file beside the project.

A row knows the digest of its plan, and the file that of the kernels, so that a record that is no longer true can be told.
"""

import csv
import hashlib
import io
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from ..files import replace
from ..planning import search, store
from ..planning.constraints import NONE
from ..planning.device import Device
from ..planning.explain import backward
from ..planning.launches import schedule
from ..problems.layers import Layer
from ..problems.problem import BACKWARD, DIRECTIONS
from .bounds import Bound
from .survey import Kernel, Task

TERMS = (*Bound.resources, "passes")


@dataclass(frozen=True, kw_only=True)
class Row:
    """The bound of one product of a layer: limit and terms are multiples of its roofline, intensity FLOP per byte that has to be
    moved, instructions and wavefronts those of one warp, conflicts of banks the wavefronts of its accesses over their least."""

    layer: str
    direction: str
    dtype: str
    layout: str
    config: str
    intensity: float
    limit: float
    binds: str
    dram: float
    l2: float
    tensor: float
    shared: float
    issue: float
    integer: float
    passes: float
    instructions: float
    wavefronts: float
    conflicts: float
    trips: float
    registers: int
    spills: int
    plan: str


@dataclass(frozen=True)
class Record:
    """Rows of a device, and what they were made with: triton's version, the digest of the kernels, and the day."""

    device: str
    triton: str
    kernels: str
    date: str
    rows: tuple[Row, ...]

    def quantiles(self, direction: str) -> tuple[float, float, float]:
        """The median, 90 % and worst limit of a direction."""
        found = sorted(row.limit for row in self.rows if row.direction == direction)
        return statistics.median(found), found[min(len(found) - 1, int(0.9 * len(found)))], found[-1]


def tasks(device: Device, layers: Iterable[Layer]) -> list[Task]:
    """The defaults of layers in every direction, and all gradients in one pass where that is the default."""
    found = []
    for layer in layers:
        problems = [layer.problem(direction) for direction in DIRECTIONS]
        found += [Task(layer.name, p, device, search.default(p, device, NONE), "default") for p in problems]
        one_pass = backward(problems[1])
        if config := search.one_pass(one_pass, device, NONE):
            found.append(Task(layer.name, one_pass, device, config, "default"))
    return found


def row(kernel: Kernel) -> Row:
    """The row of a kernel that was compiled.

    Raises:
        ValueError: it was not or does not fit, or its device has no bounds.
    """
    task, used, bound = kernel.task, kernel.used, kernel.bound
    if kernel.failure or bound is None:
        raise ValueError(f"{task.name} {task.problem.direction} on {task.device.name}: {kernel.failure or 'no bound is known'}")
    p, round4 = task.problem, lambda value: float(f"{value:.4g}")
    said = bound.as_json()
    numbers = {name: round4(said[name]) for name in ("limit", *TERMS, "instructions", "wavefronts", "conflicts", "trips")}
    return Row(layer=task.name, direction=p.direction, dtype=p.dtype, layout=p.y_layout, config=str(task.config),
               intensity=round4(p.flops / p.bytes), binds=bound.binds, **numbers, registers=used.registers,
               spills=used.spills, plan=digest(task))


def digest(task: Task) -> str:
    """What a bound depends on beside the kernels' code: every launch of the plan."""
    return hashlib.sha256(repr(schedule(task.problem, task.config)).encode()).hexdigest()[:8]


def write(record: Record, path: Path) -> Path:
    """Write a record as CSV; what it was made with is its first line, a comment.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    text, names = io.StringIO(), [field.name for field in fields(Row)]
    text.write(f"# {record.device}, triton {record.triton}, kernels {record.kernels}, {record.date}, bounds, not times\n")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    table.writerows([getattr(one, name) for name in names] for one in record.rows)
    return replace(path, text.getvalue())


def read(path: Path) -> Record:
    """A record that was written.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is none, with the reason.
    """
    kinds = {field.name: field.type for field in fields(Row)}
    try:
        first, *lines = path.read_text("utf-8").splitlines()
        device, triton, kernels, date = (words.split()[-1] for words in first.removeprefix("# ").split(", ")[:4])
        rows = tuple(Row(**{name: kinds[name](value) for name, value in one.items()}) for one in csv.DictReader(lines))
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of bounds ({error}); triton-conv3dt limits writes one") from None
    return Record(device, triton, kernels, date, rows)


def stale(record: Record, tasks: Iterable[Task]) -> list[str]:
    """Why a record is no longer true, in sentences; empty where it is what these tasks would leave."""
    if record.kernels != store.kernel_digest():
        return [f"the kernels have changed: their digest was {record.kernels}, and is {store.kernel_digest()}"]
    recorded = {(row.layer, row.direction): row.plan for row in record.rows}
    now = {(task.name, task.problem.direction): digest(task) for task in tasks}
    return [f"{name} {direction} runs otherwise than recorded" for (name, direction), plan in now.items()
            if recorded.get((name, direction)) != plan] + [
        f"{name} {direction} is recorded and no longer runs" for name, direction in recorded.keys() - now.keys()]


def summary(record: Record) -> list[tuple[str, ...]]:
    """Limits by direction: how many layers, median, 90 % and worst, and how many bind what."""
    rows = [("direction", "layers", "median", "90 %", "worst", "what binds")]
    for direction in (*DIRECTIONS, BACKWARD):
        if found := [row.binds for row in record.rows if row.direction == direction]:
            binds = ", ".join(f"{name} {found.count(name)}" for name in sorted(set(found), key=found.count, reverse=True))
            rows.append((direction, str(len(found)), *(f"{value:.1f}" for value in record.quantiles(direction)), binds))
    return rows
