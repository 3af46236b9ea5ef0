"""Trying configs: each is checked against the definition, into a red-zoned output, and only then timed.

A laboratory lives in a worker process: what it runs may hang or take the process with it.
"""

import torch

from ..checking import trial_tensors
from ..launching import launch
from ..planning.config import Config
from ..planning.device import Device
from ..problems.problem import Problem
from ..worker import failure
from . import peers
from .results import CUDNN
from .timing import EventTimer, Timer, Times


class Unprepared(Exception):
    """A problem cannot be tried, whatever the config: its operands do not fit into memory, for instance."""

    kind = "problem"


class Laboratory:
    """Tries configs of one problem after another on one device.

    Args:
        device: what plans are made for.
        timer: measures.
        where: the torch device of the tensors.
    """

    def __init__(self, device: Device, timer: Timer, where="cuda"):
        self._device, self._timer, self._where = device, timer, where
        self._problem = self._given = self._truth = self._timed = None

    def examine(self, problem: Problem, config: Config, seconds: float) -> Times:
        """The time of a config that computes its problem rightly, cold L2.

        Raises:
            Wrong: it does not, or it wrote outside its output.
            Unprepared: it is not the config's fault.
            Exception: whatever compiling and launching raise.
        """
        self._prepare(problem)
        record = self._bind(problem, config)
        zone = trial_tensors.red_zone(problem, self._where)
        self._run(record, self._given, zone.view)
        zone.check(self._truth, trial_tensors.ulps(problem))
        del zone
        call = self._call(record, self._timed)
        return self._timer.device({str(config): call}, cold=True, seconds=seconds)[str(config)]

    def compare(self, problem: Problem, configs: dict[str, Config], seconds: float) -> dict[str, Times]:
        """The times of configs that were examined before, and PyTorch's under "cudnn", measured in turns, cold L2."""
        self._prepare(problem)
        calls = {name: self._call(self._bind(problem, config), self._timed) for name, config in configs.items()}
        try:
            theirs = peers.product(problem, self._timed)
            theirs()
            calls[CUDNN] = theirs
        except Exception:  # a baseline that cannot run (Unavailable, or out of memory) is no reason to keep nothing
            pass
        return self._timer.device(calls, cold=True, seconds=seconds)

    def synchronize(self) -> None:
        """Wait for the device; raises where its context is lost."""
        if torch.device(self._where).type == "cuda":
            torch.cuda.synchronize(self._where)

    def _prepare(self, problem: Problem) -> None:
        if problem == self._problem:
            return
        self._problem = self._given = self._truth = self._timed = None  # the memory of the last one goes first
        torch.cuda.empty_cache()  # does nothing where CUDA was never used
        try:
            self._given = trial_tensors.integers(problem, self._where)
            wide = torch.float64 if trial_tensors.ulps(problem) else None  # in fp32 smooth activations lose digits
            self._truth = trial_tensors.exact(problem, self._given, wide)
            self._timed = trial_tensors.normals(problem, self._where)
        except Exception as error:
            found = failure(error)
            if found.lost:
                raise
            raise Unprepared(f"its operands cannot be made: {found.reason}") from error
        self._problem = problem

    def _bind(self, problem: Problem, config: Config):
        return launch.bind(launch.plan(problem, self._device, config))

    def _call(self, record, given):
        target = getattr(given, trial_tensors.written(record.plan.problem))
        return lambda: self._run(record, given, target)

    def _run(self, record, given, target) -> None:
        """Every launch of a plan, written to target."""
        tensors = {"x": given.x, "w": given.w, "y": given.y} | {trial_tensors.written(record.plan.problem): target}
        launch.run(record, **tensors, b=given.b, residual=given.residual)


def here(index: int = 0) -> Laboratory:
    """The laboratory of the CUDA device with this index."""
    from ..planning import device

    torch.backends.cudnn.benchmark = True
    torch.cuda.set_device(index)
    return Laboratory(device.current(index), EventTimer(index), torch.device("cuda", index))
