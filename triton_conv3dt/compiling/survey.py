"""Many kernels, compiled in parallel processes: what each uses, and what should be better.

The processes are new ones, so kernels can be compiled where this one interprets them.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context

from .. import worker
from ..planning.config import Config
from ..planning.device import Device
from ..planning.explain import count
from ..problems import case
from ..problems.problem import Problem
from ..progress import Progress
from .bounds import Bound
from .machinecode import BULK, LOADS, STORES, Resources

# Each column and how wide it is at least: what stands in it is not known before the row is printed.
COLUMNS = {"kernel": 0, "config": 0, "regs": 4, "shared": 6, "blocks": 6, "occupancy": 9, "code": 6, "bound": 13,
           "tensor cores": 12, "loads": 22, "stores": 14, "remarks": 0}
NUMBERS = ("regs", "shared", "blocks", "occupancy", "code")


@dataclass(frozen=True)
class Task:
    """A problem to compile with a config for a device. source says where the config came from."""

    name: str
    problem: Problem
    device: Device
    config: Config
    source: str = "given"


@dataclass(frozen=True)
class Kernel:
    """What became of a task.

    failure: why there is no kernel (used is None then), or why it cannot run. blocks: how many an SM holds at once;
    occupancy: which part of its warps they are; None where the limits of the device are not known. bound: what the machine
    code permits at best, None where the device's clock is not known. triton: the version that compiled it.
    """

    task: Task
    used: Resources | None = None
    blocks: int | None = None
    occupancy: float | None = None
    bound: Bound | None = None
    warnings: tuple[str, ...] = ()
    failure: str | None = None
    triton: str = ""

    def as_json(self) -> dict:
        """In JSON's types."""
        task, used = self.task, self.used
        said = {"name": task.name, "case": case.format(task.problem), "device": task.device.name, "triton": self.triton,
                "config": asdict(task.config), "source": task.source, "failure": self.failure,
                "warnings": list(self.warnings)}
        return said if used is None else said | asdict(used) | {
            "spills": used.spills, "tensor_cores": used.tensor_cores, "blocks": self.blocks,
            "occupancy": self.occupancy, "bound": self.bound and self.bound.as_json()}


def inspect(tasks: list[Task], processes: int | None = None, progress: Progress | None = None) -> Iterator[Kernel]:
    """Compile all tasks, on every core unless fewer processes are given; each kernel as it comes, in the order of the
    tasks. A compiler that crashes costs its own task alone."""
    done, processes = 0, min(len(tasks), processes or cores())
    while done < len(tasks):
        rest = tasks[done:]
        try:
            for task, kernel in zip(rest, _in_parallel(rest, processes)):
                done += 1
                if progress:
                    progress.step(task.name or case.format(task.problem))
                yield kernel
        except BrokenProcessPool:  # by this task or by one that ran beside it
            done += 1
            yield _alone(tasks[done - 1])


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_task(task: Task) -> Kernel:
    """Compile one task, in this process."""
    import triton

    from ..launching import launch
    from . import bounds, machinecode
    from .compile import compile_plan

    try:
        plan = launch.plan(task.problem, task.device, task.config)
        kernel = compile_plan(plan)
        usage, disassembly = machinecode.listing(kernel)
        used = machinecode.read(usage, disassembly, kernel.metadata.shared)
        bound = bounds.bound(plan, disassembly, kernel.asm["ptx"])
    except Exception as error:  # whatever a compiler raises, the other tasks go on
        what = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
        return Kernel(task, failure=what, triton=triton.__version__)
    config, device = task.config, task.device
    blocks = machinecode.blocks(used, config, device)
    failure = machinecode.unfit(used, blocks, getattr(kernel.metadata, "tmem_size", None) or 0, device)
    remarks = machinecode.warnings(used, config, task.problem, device)
    return Kernel(task, used, blocks, machinecode.occupancy(used, config, device), bound, tuple(remarks), failure,
                  triton.__version__)


def table(kernels: Iterable[Kernel], tasks: list[Task]) -> Iterator[str]:
    """Lines as the kernels of these tasks come, one by one: those of a device that stand together are a table, and what
    they add up to follows it."""
    widths = [max(len(column), least, *(len(cells[i]) for cells in map(_asked, tasks)) if i < 2 else ())
              for i, (column, least) in enumerate(COLUMNS.items())]
    for place, (device, group) in enumerate(itertools.groupby(kernels, lambda kernel: kernel.task.device)):
        found = []
        for kernel in group:
            if not found:
                yield "\n" * (place > 0) + f"{device.name}, sm_{device.arch}, compiled by triton {kernel.triton}"
                yield _line(tuple(COLUMNS), widths)
            found.append(kernel)
            yield _line(_row(kernel), widths)
        failed, remarked = sum(k.failure is not None for k in found), sum(bool(k.warnings) for k in found)
        yield f"{count(len(found), 'kernel')}: {failed} do not compile or fit, {remarked} with remarks"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.rjust(width) if column in NUMBERS else cell.ljust(width)
                     for cell, width, column in zip(cells, widths, COLUMNS)).rstrip()


def _asked(task: Task) -> tuple[str, str]:
    """The first two cells of a row, which are known before the kernel is."""
    name = f"{task.name} {task.problem.direction}" if task.name else case.format(task.problem)
    return name, str(task.config)


def _row(kernel: Kernel) -> tuple[str, ...]:
    task, used = kernel.task, kernel.used
    if used is None:
        return (*_asked(task), *[""] * 9, f"FAILED {kernel.failure.splitlines()[0]}")
    remarks = [f"FAILED {kernel.failure}"] * (kernel.failure is not None) + list(kernel.warnings)
    blocks, part = ("?", "?") if kernel.blocks is None else (str(kernel.blocks), f"{kernel.occupancy:.0%}")
    bound = f"{kernel.bound.limit:.1f}x {kernel.bound.binds}" if kernel.bound else "?"
    return (*_asked(task), str(used.registers), str(used.shared), blocks, part, str(used.code), bound,
            _counts(used.tensor_cores), _accesses(used, LOADS), _accesses(used, STORES), "; ".join(remarks))


def _accesses(used: Resources, families: tuple[str, ...]) -> str:
    """The widths of loads or stores of each family, "LDGSTS 128 LDG 16,128"."""
    return " ".join(f"{family} {','.join(map(str, sorted(used.accesses[family])))}" if family not in BULK else family
                    for family in families if family in used.accesses) or "none"


def _counts(instructions: dict[str, int]) -> str:
    return " ".join(f"{count} {name}" for name, count in sorted(instructions.items())) or "none"


def _alone(task: Task) -> Kernel:
    try:
        return next(_in_parallel([task], 1))
    except BrokenProcessPool:
        return Kernel(task, failure="the compiler crashed")


def _in_parallel(tasks: list[Task], processes: int):
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin, initargs=(os.getpid(),))
    try:
        yield from pool.map(compile_task, tasks)
    finally:
        pool.shutdown(cancel_futures=True)  # at Ctrl-C nobody waits for the rest


def _begin(parent: int) -> None:
    """In a new process: Triton compiles, whatever it does in the one that asks."""
    worker.serve(parent)
    os.environ.pop("TRITON_INTERPRET", None)
