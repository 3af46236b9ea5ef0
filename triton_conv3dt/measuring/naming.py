"""Which kernels a peer launches, found out in a process of its own.

What a profiler has attached itself to stays attached, and every later call of that process takes the host longer: so
nothing is timed where kernels are named, and names are asked for when the times are known. They are worth neither
waiting nor losing a time for: where they cannot be had, the row says why.
"""

import re
from collections.abc import Callable, Sequence

import torch

from ..worker import Failure, Worker
from . import peers, timing, verification
from .selection import Setting

SECONDS = 30.0  # for the names of a setting, torch.compile and cuDNN's search included
NO_KERNEL = re.compile(r"cu(da)?[A-Z]|Activity|Lazy|Memset")  # what a profile has beside kernels: calls of the driver


class Profiler:
    """Runs peers under a profiler, in a worker process.

    Args:
        where: the torch device of the tensors.
    """

    def __init__(self, where="cuda"):
        self._where = where

    def kernels(self, setting: Setting, names: Sequence[str]) -> dict[str, dict]:
        """What each peer's row says of its kernels."""
        given = verification.tensors(setting, self._where)
        try:
            return {name: _row(peers.build(name, setting, given)) for name in names}
        finally:
            del given
            torch.cuda.empty_cache()  # does nothing where CUDA was never used; else whoever measures may need it

    def synchronize(self) -> None:
        """Wait for the device; raises where its context is lost."""
        timing.synchronize(self._where)


class Names:
    """Asks a Profiler, and not again once it was lost.

    Args:
        worker: answers as a Profiler does.
    """

    def __init__(self, worker: Worker):
        self._worker, self._lost = worker, None

    def of(self, setting: Setting, names: Sequence[str]) -> dict[str, dict]:
        """What each peer's row says of its kernels: their names, or none and why."""
        answer = self._lost or self._asked(setting, names)
        if not isinstance(answer, Failure):
            return answer
        self._lost = answer if answer.lost else None
        return {name: _unknown(answer.reason) for name in names}

    def _asked(self, setting: Setting, names: Sequence[str]) -> dict[str, dict] | Failure:
        try:
            return self._worker.ask("kernels", setting, names, seconds=SECONDS)
        except RuntimeError as error:
            return Failure("crash", str(error))


def kernels(call: Callable) -> list[str]:
    """The names of the kernels that a call launches, as the profiler sees them.

    Raises:
        Unavailable: it sees none: another profiler is at work, or the driver lets nobody count.
    """
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            call()
            torch.cuda.synchronize()
        found = [event.key[:100] for event in seen.key_averages() if not NO_KERNEL.match(event.key)]
    except (RuntimeError, AssertionError) as error:
        raise peers.Unavailable(f"the profiler failed: {' '.join(str(error).split())[:200]}") from None
    if not found:
        raise peers.Unavailable("the profiler saw none; the driver may keep performance counters for administrators")
    return found


def here(index: int = 0) -> Profiler:
    """The profiler of the CUDA device with this index."""
    peers.settle()
    torch.cuda.set_device(index)
    return Profiler(torch.device("cuda", index))


def _row(call: Callable) -> dict:
    call()  # the first time, cuDNN and compilers try kernels out
    try:
        return {"kernels": kernels(call)}
    except peers.Unavailable as error:
        return _unknown(str(error))


def _unknown(reason: str) -> dict:
    return {"kernels": [], "kernels_unknown": reason}
