"""What stands in for a GPU when the tuner is tested: the interpreter, a timer that reads a table, and configs that fail.

Made in the worker process, where `laboratory` is called by name.
"""

import os
import signal
import time

os.environ["TRITON_INTERPRET"] = "1"

from triton_conv3dt.device import Device  # noqa: E402
from triton_conv3dt.laboratory import Laboratory  # noqa: E402
from triton_conv3dt.timing import Times  # noqa: E402

H200 = Device.named("nvidia_h200")


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


class FaultyLaboratory(Laboratory):
    """A laboratory in the interpreter where some configs, by their text, fail in a way of their own."""

    def __init__(self, table=(), faults=(), delay=0.0):
        super().__init__(H200, TableTimer(table), "cpu")
        self.faults, self.delay = dict(faults), delay

    def _run(self, record, given, target):
        time.sleep(self.delay)
        fault = self.faults.get(str(record.plan.config))
        if fault in ("hang", "crash", "illegal access", "compile", "resources", "memory"):
            globals()["_" + fault.replace(" ", "_")]()
        super()._run(record, given, target)
        if fault == "wrong result":
            target.view(-1)[1] += 1
        if fault == "unwritten":
            target.view(-1)[-1] = float("nan")
        if fault == "red zone":
            target.as_strided((1,), (1,), target.storage_offset() + target.numel())[0] = 0.0


def laboratory(table=(), faults=(), delay=0.0):
    return FaultyLaboratory(table, faults, delay)


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


def quick_laboratory():
    """Where OTHERS[2] of test_tune.py takes half the time of the rest."""
    return FaultyLaboratory({"gather, 32x16x16, 4 warps, 1 stages, phases merged along d, h, w": 50.0})


def stand():
    from triton_conv3dt.bench import Stand

    return Stand(H200, TableTimer(), "cpu")
