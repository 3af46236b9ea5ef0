"""Compiling ahead in parallel: Triton's cache on disk is warm when the one GPU gets to a candidate.

No GPU is needed to compile. What fails here is known before the worker sees it; what this pool does not get to, or a
compiler that takes its process with it, the worker compiles itself, under its watchdog.
"""

import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool

from ..planning.config import Config
from ..planning.device import Device
from ..problems.problem import Problem
from ..worker import Failure, failure, serve

MOST_PROCESSES = 16


class Compilers:
    """A pool of processes that compile plans for a device, present or not."""

    def __init__(self, device: Device, processes: int | None = None):
        self._device = device
        self._processes = processes or max(1, min(MOST_PROCESSES, len(os.sched_getaffinity(0)) - 1))
        self._pool, self._pending = None, {}

    def submit(self, problem: Problem, config: Config) -> None:
        """Begin to compile, unless that was begun."""
        if (problem, config) in self._pending:
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._processes, context, initializer=serve, initargs=(os.getpid(),))
        try:
            self._pending[problem, config] = self._pool.submit(compile_one, problem, self._device, config)
        except BrokenProcessPool:
            self.close()

    def wait(self, problem: Problem, config: Config, seconds: float) -> Failure | None:
        """Why this does not compile, after so many seconds at most; None if it does, or if nobody knows."""
        pending: Future | None = self._pending.pop((problem, config), None)
        try:
            return pending.result(seconds) if pending else None
        except TimeoutError:
            self.close()  # the next submit begins anew
            return Failure("compile", f"the compiler did not end within {seconds:.0f} s")
        except BrokenProcessPool:
            self.close()
            return None

    def close(self) -> None:
        """End all processes."""
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())  # a compiler that hangs answers to nothing else
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            self._pool, self._pending = None, {}


def compile_one(problem: Problem, device: Device, config: Config) -> Failure | None:
    """Compile the main kernel of a plan into Triton's cache."""
    try:
        from ..compiling.compile import compile_plan
        from ..launching import launch

        compile_plan(launch.plan(problem, device, config))
    except Exception as error:
        found = failure(error)
        return Failure("compile", found.reason) if found.kind == "error" else found
    return None
