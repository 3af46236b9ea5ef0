"""Trying whatever computes a layer: it is verified first, and only then timed.

Tuning tries configs of a problem, each to the bit and into a red-zoned output; benchmarking tries peers for a setting,
whose results may differ by rounding. A trial lives in a worker process: what it runs may hang or take the process with
it.
"""

from collections.abc import Callable, Sequence

import torch

from ..checking import trial_tensors
from ..launching import launch
from ..planning.config import Config
from ..planning.device import Device
from ..problems.problem import Problem
from . import machine, peers, timing, verification
from .results import CUDNN
from .selection import Setting
from .timing import EventTimer, Timer, Times

COLD_SECONDS, WARM_SECONDS = 0.4, 0.15  # of measuring, all peers of a setting together


class Trial:
    """Verifies and times, on one device, one problem or setting after another.

    Args:
        device: what plans are made for.
        timer: measures.
        where: the torch device of the tensors.
    """

    def __init__(self, device: Device, timer: Timer, where="cuda"):
        self._device, self._timer, self._where = device, timer, where
        self._current = self._given = None  # the problem or setting that is tried, and its tensors
        self._right = {}  # the calls of the peers whose results for it were right, by name

    def examine(self, problem: Problem, config: Config, seconds: float) -> Times:
        """The time of a config that computes its problem rightly, cold L2.

        Raises:
            Wrong: it does not, or it wrote outside its output.
            Unprepared: it is not the config's fault.
            Exception: whatever compiling and launching raise.
        """
        given = self._prepared(problem, verification.exact_tensors)
        bound, zone = self._bind(problem, config), trial_tensors.red_zone(problem, self._where)
        self._run(bound, given.integers, zone.view)
        zone.check(given.truth, trial_tensors.ulps(problem))
        del zone
        name, call = str(config), self._call(bound, given.normals)
        return self._timer.device({name: call}, cold=True, seconds=seconds)[name]

    def compare(self, problem: Problem, configs: dict[str, Config], seconds: float) -> dict[str, Times]:
        """The times of configs that were examined before, and PyTorch's under "cudnn", measured in turns, cold L2."""
        normals = self._prepared(problem, verification.exact_tensors).normals
        calls = {name: self._call(self._bind(problem, config), normals) for name, config in configs.items()}
        try:
            theirs = peers.product(problem, normals)
            theirs()
            calls[CUDNN] = theirs
        except Exception:  # a baseline that cannot run (Unavailable, or out of memory) is no reason to keep nothing
            pass
        return self._timer.device(calls, cold=True, seconds=seconds)

    def card(self) -> dict:
        """What this very card can do: bytes per second of a copy, FLOP per second of a matrix product by dtype and the
        precision of those in float32, and the microseconds that a call which does nothing seems to take; and its clocks
        while it does."""
        rates = {f"rate_{dtype}": self._timer.matmul_rate(dtype) for dtype in ("float16", "bfloat16", "float32")}
        rates["precision_float32"] = torch.backends.cuda.matmul.fp32_precision
        clocks = machine.clocks()  # an idle card would show those of its sleep
        nothing = self._timer.device({"": lambda: None}, cold=True, seconds=0.1)[""].median
        return {"bandwidth": self._timer.bandwidth(), **rates, "floor_us": nothing, "clocks": clocks}

    def check(self, name: str, setting: Setting) -> dict:
        """The row of a peer so far: whether its result is right."""
        given = self._prepared(setting, verification.tensors)
        try:
            call = peers.build(name, setting, given)
        except peers.Unavailable as error:
            return {"outcome": "unavailable", "reason": str(error)}
        waits = isinstance(call, peers.SelfTimedCall)
        error = verification.error(setting, given, call.result() if waits else call())
        limit = verification.LIMITS[setting.dtype]
        row = {"error": float(f"{error:.3g}"), "limit": limit, "clock": "wall" if waits else "events"}
        if not error <= limit:
            return {"outcome": "wrong result", "reason": f"RMS error {error:.2g} of the result, at most {limit:.2g} is "
                                                         "explained by rounding", **row}
        self._right[name] = call
        return {"outcome": "ok", **row}

    def measure(self, setting: Setting, names: Sequence[str]) -> dict[str, dict]:
        """The times of peers that were right, in turns."""
        calls = {name: self._right[name] for name in names}
        waiting = {name: call for name, call in calls.items() if isinstance(call, peers.SelfTimedCall)}
        on_device = {name: call for name, call in calls.items() if name not in waiting}
        cold = self._timer.device(on_device, cold=True, seconds=COLD_SECONDS) if on_device else {}
        warm = self._timer.device(on_device, cold=False, seconds=WARM_SECONDS) if on_device else {}
        found = {name: {"cold": cold[name].fields(), "warm": warm[name].fields(),
                        "host": self._timer.host(call).fields()} for name, call in on_device.items()}
        torch.cuda.empty_cache()  # does nothing where CUDA was never used; else whoever names the kernels may need it
        return found | {name: {"warm": self._timer.wall(call).fields()} for name, call in waiting.items()}

    def synchronize(self) -> None:
        """Wait for the device; raises where its context is lost."""
        timing.synchronize(self._where)

    def _prepared(self, what: Problem | Setting, make: Callable):
        """The tensors that make(what, where) gives, kept until something else is tried."""
        if what != self._current:
            self._right.clear()  # the memory of the last one goes first
            self._current = self._given = None
            torch.cuda.empty_cache()  # does nothing where CUDA was never used
            self._given, self._current = make(what, self._where), what
        return self._given

    def _bind(self, problem: Problem, config: Config) -> launch.Call:
        return launch.bind(launch.plan(problem, self._device, config))

    def _call(self, bound: launch.Call, given: trial_tensors.Operands) -> Callable:
        target = getattr(given, trial_tensors.written(bound.plan.problem))
        return lambda: self._run(bound, given, target)

    def _run(self, bound: launch.Call, given: trial_tensors.Operands, target: torch.Tensor) -> None:
        """Every launch of a plan, written to target."""
        tensors = {"x": given.x, "w": given.w, "y": given.y} | {trial_tensors.written(bound.plan.problem): target}
        launch.run(bound, **tensors, b=given.b, residual=given.residual)


def here(index: int = 0) -> Trial:
    """The trial of the CUDA device with this index."""
    from ..planning import device

    peers.settle()  # the truth of a config stays exact: its integers, and their products, are so in TF32 as well
    torch.cuda.set_device(index)
    return Trial(device.current(index), EventTimer(index), torch.device("cuda", index))
