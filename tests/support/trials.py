"""What stands in for a GPU where tuning and measuring are tested: the interpreter, a timer that reads a table, and
configs that fail.

trial, quick_trial, wrong_trial and profiler are called by name in a worker process, which then interprets, wherever it
runs.
"""

import os
import signal
import time
from dataclasses import replace

from triton_conv3dt.measuring.naming import Profiler
from triton_conv3dt.measuring.timing import Times
from triton_conv3dt.measuring.trial import Trial
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.problem import Problem

H200 = Device.named("nvidia_h200")
PROBLEM = Problem.of_layer(n=1, ci=16, co=8, in_size=(2, 2, 3), kernel=2, stride=2)
DEFAULT = Config("gather", 64, 16, 16, merge=(True, True, True))
OTHERS = tuple(replace(DEFAULT, block_m=m, warps=w) for m in (16, 32, 64) for w in (4, 8))[:-2]


class TableTimer:
    """A timer that runs each call once and reads its time from a table: microseconds by name, 100 for others."""

    def __init__(self, table=()):
        self.table = dict(table)

    def device(self, calls, *, cold, seconds):
        for call in calls.values():
            call()
        return {name: self.times(self.table.get(name, 100.0) - (0 if cold else 1)) for name in calls}

    def host(self, call):
        call()
        return self.times(5.0)

    def wall(self, call):
        call()
        return self.times(200.0)

    def bandwidth(self):
        return 4e12

    def matmul_rate(self, dtype):
        return 6e14 if dtype != "float32" else 3e14

    @staticmethod
    def times(microseconds):
        return Times(microseconds, microseconds - 0.5, microseconds + 0.5, 7)


class FaultyTrial(Trial):
    """A trial where some configs, by their text, fail in a way of their own."""

    def __init__(self, table=(), faults=(), delay=0.0, where="cpu"):
        super().__init__(H200, TableTimer(table), where)
        self.faults, self.delay = dict(faults), delay

    def _run(self, bound, given, target):
        time.sleep(self.delay)
        fault = self.faults.get(str(bound.plan.config))
        if fault in ("hang", "crash", "illegal access", "compile", "resources", "memory"):
            globals()["_" + fault.replace(" ", "_")]()
        super()._run(bound, given, target)
        if fault == "wrong result":
            target.view(-1)[1] += 1
        if fault == "unwritten":
            target.view(-1)[-1] = float("nan")
        if fault == "red zone":
            target.as_strided((1,), (1,), target.storage_offset() + target.numel())[0] = 0.0


def trial(*given):
    os.environ["TRITON_INTERPRET"] = "1"
    return FaultyTrial(*given)


def quick_trial():
    """Where OTHERS[2] takes half the time of the rest."""
    return trial({"gather, 32x16x16, 4 warps, 1 stages, phases merged along d, h, w": 50.0})


def wrong_trial():
    """Where OTHERS[0] and OTHERS[2] do harm."""
    text = "gather, {}x16x16, 4 warps, 1 stages, phases merged along d, h, w"
    return trial((), {text.format(16): "red zone", text.format(32): "wrong result"})


def profiler():
    os.environ["TRITON_INTERPRET"] = "1"
    return Profiler("cpu")


def broken():
    raise OSError("no device answers")


def _hang():
    time.sleep(1000)


def _crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def _illegal_access():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _compile():
    from triton.compiler.errors import CompilationError

    raise CompilationError("source", None, "not a kernel")


def _resources():
    from triton.runtime.errors import OutOfResources

    raise OutOfResources(300000, 232448, "shared memory")


def _memory():
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB")
