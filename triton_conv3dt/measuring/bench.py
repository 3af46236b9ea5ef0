"""Measuring layers: ours and what people use instead, in turns in one run, each verified before it is timed.

Every setting (a layer in one direction, dtype and layout) is one row of a journal with all its peers; records.py makes
bench.json and bench.csv of it. Times are microseconds.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

import torch

from ..checking import trial_tensors
from ..planning import constraints, search, store
from ..planning.device import Device
from ..problems.layers import Layer
from ..problems.problem import BACKWARD
from ..progress import Progress
from ..worker import LOST, Failure, Worker
from . import machine, peers, selection, verification
from .journal import Journal
from .naming import Names
from .peers import Unavailable
from .selection import COMPILED, JAX, MATMUL, MEASURED, STEP
from .setting import Setting
from .timing import EventTimer, Timer

WATCHDOG, SHORTEST_WATCH = 60.0, 30.0  # seconds for one peer, torch.compile and cuDNN's search included; near the end
COLD_SECONDS, WARM_SECONDS = 0.4, 0.15  # of measuring, all peers of a setting together


class OutOfTime(Exception):
    """The budget ended while an answer was waited for: nothing is known of whoever was asked."""


class Stand:
    """Checks and times peers on one device, in a worker process.

    Args:
        device: what plans are made for.
        timer: measures.
        where: the torch device of the tensors.
    """

    def __init__(self, device: Device, timer: Timer, where="cuda"):
        self._device, self._timer, self._where = device, timer, where
        self._setting = self._given = None
        self._calls = {}

    def card(self) -> dict:
        """What this very card can do: bytes per second of a copy, FLOP per second of a matrix product by dtype and the
        precision of those in float32, and the microseconds that a call which does nothing seems to take; and its clocks
        while it does."""
        rates = {f"rate_{dtype}": self._timer.matmul_rate(dtype) for dtype in ("float16", "bfloat16", "float32")}
        rates["precision_float32"] = torch.backends.cuda.matmul.fp32_precision
        clocks = machine.clocks()  # an idle card would show those of its sleep
        nothing = self._timer.device({"": lambda: None}, cold=True, seconds=0.1)[""].median
        return {"bandwidth": self._timer.bandwidth(), **rates, "floor_us": nothing, "clocks": clocks}

    def synchronize(self) -> None:
        """Wait for the device; raises where its context is lost."""
        if torch.device(self._where).type == "cuda":
            torch.cuda.synchronize(self._where)

    def check(self, name: str, setting: Setting) -> dict:
        """The row of a peer so far: whether its result is right."""
        if setting != self._setting:
            self._calls.clear()
            self._setting = self._given = None
            torch.cuda.empty_cache()  # does nothing where CUDA was never used
            self._given, self._setting = verification.tensors(setting, self._where), setting
        try:
            call = peers.build(name, setting, self._given)
        except Unavailable as error:
            return {"outcome": "unavailable", "reason": str(error)}
        waits = isinstance(call, peers.Waits)
        error = verification.error(setting, self._given, call.result() if waits else call())
        limit = verification.LIMITS[setting.dtype]
        row = {"error": float(f"{error:.3g}"), "limit": limit, "clock": "wall" if waits else "events"}
        if not error <= limit:
            return {"outcome": "wrong result", "reason": f"RMS error {error:.2g} of the result, at most {limit:.2g} is "
                                                         "explained by rounding", **row}
        self._calls[name] = call
        return {"outcome": "ok", **row}

    def measure(self, setting: Setting, names: Sequence[str]) -> dict[str, dict]:
        """The times of peers that were right, in turns."""
        calls = {name: self._calls[name] for name in names}
        waiting = {name: call for name, call in calls.items() if isinstance(call, peers.Waits)}
        on_device = {name: call for name, call in calls.items() if name not in waiting}
        cold = self._timer.device(on_device, cold=True, seconds=COLD_SECONDS) if on_device else {}
        warm = self._timer.device(on_device, cold=False, seconds=WARM_SECONDS) if on_device else {}
        found = {name: {"cold": cold[name].fields(), "warm": warm[name].fields(),
                        "host": self._timer.host(call).fields()} for name, call in on_device.items()}
        torch.cuda.empty_cache()  # does nothing where CUDA was never used; else whoever names the kernels may need it
        return found | {name: {"warm": self._timer.wall(call).fields()} for name, call in waiting.items()}


class Bench:
    """One run over settings.

    Args:
        device: what is measured on.
        journal: where rows go.
        worker: answers as a Stand does.
        names: knows which kernels ran.
        deadline: on time.monotonic(); None for no limit.
    """

    def __init__(self, device: Device, journal: Journal, worker: Worker, names: Names, *, known: dict,
                 deadline: float | None = None, progress: Progress | None = None):
        self._device, self._journal, self._worker, self._names = device, journal, worker, names
        self._known, self._deadline, self._progress = known, deadline, progress or Progress(0, quiet=True)
        self._card = None

    def run(self, settings: Sequence[Setting], names: Sequence[str], facts: dict) -> int:
        """Measure until all is done or the time is up. Returns how many settings are left.

        Raises:
            RuntimeError: the worker cannot start, or this card cannot be measured.
            OSError: the journal cannot be written.
        """
        left = unmeasured(settings, names, self._device, self._known)
        for place, setting in enumerate(left):
            if self._late():
                return len(left) - place
            try:
                if self._card is None:
                    self._card = self._describe(facts)
                self._measure(setting, names)
            except OutOfTime:
                return len(left) - place
        return 0

    def _describe(self, facts: dict) -> dict:
        """A row with every version and clock, and what this card can do."""
        card = self._ask("card")
        if isinstance(card, Failure):
            raise RuntimeError(f"this card could not be measured: {card.reason}")
        self._journal.append({"event": "session", "device": self._device.name, "facts": facts, "card": card})
        return card

    def _measure(self, setting: Setting, names: Sequence[str]) -> None:
        """Check every peer by itself, so that one who takes the worker with it is known; then time those that are
        right. The row is written when all is known: a setting that was interrupted, or ran out of time, has none."""
        rows = {}
        mine = peers_of(setting, names)
        self._progress.skip(len(names) - len(mine))
        for name in mine:
            self._progress.step(f"{setting}: {name}")
            rows[name] = self._checked(setting, name)
            if rows[name]["outcome"] in LOST:  # a new worker knows nothing of those that were right before
                rows |= {other: self._checked(setting, other) for other, row in rows.items() if row["outcome"] == "ok"}
        right = [name for name, row in rows.items() if row["outcome"] == "ok"]
        times = self._ask("measure", setting, right) if right else {}
        for name in right:
            rows[name] |= _failed(times) if isinstance(times, Failure) else times[name]
        if launching := [name for name in right if "cold" in rows[name]]:  # not those who were timed by the wall clock
            for name, named in self._names.of(setting, launching).items():
                rows[name] |= named
        self._journal.append(self._row(setting) | {"peers": rows})
        self._progress.say(line(setting, rows))

    def _checked(self, setting: Setting, name: str) -> dict:
        answer = self._ask("check", name, setting)
        return _failed(answer) if isinstance(answer, Failure) else answer

    def _ask(self, method: str, *arguments):
        patience = self._patience()
        answer = self._worker.ask(method, *arguments, seconds=patience)
        if isinstance(answer, Failure) and answer.kind == "hang" and patience < WATCHDOG:
            raise OutOfTime
        return answer

    def _row(self, setting: Setting) -> dict:
        layer, found = setting.layer, configs_of(setting, self._device)
        return {"event": "measured", "key": key(setting, self._device), "device": self._device.name,
                "network": layer.network, "layer": layer.name, "shape": str(setting.problem),
                "direction": setting.direction, "dtype": setting.dtype, "layout": setting.layout,
                "follows": str(setting.after), **roofline(setting, self._card),
                "config": "; ".join(str(f.config) for f in found), "source": "; ".join(f.source for f in found)}

    def _patience(self) -> float:
        if self._deadline is None:
            return WATCHDOG
        return min(WATCHDOG, max(SHORTEST_WATCH, self._deadline - time.monotonic()))

    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


def settings(layers: Iterable[Layer], directions: Sequence[str] | None = None, dtypes: Sequence[str] = (selection.OWN,),
             layouts: Sequence[str] = (selection.OWN,)) -> list[Setting]:
    """What is measured, each once: the layers by weight."""
    own = lambda asked, mine: mine if asked == selection.OWN else asked
    return list(dict.fromkeys(
        Setting(layer, direction, own(dtype, layer.dtype), own(layout, layer.layout))
        for layer in selection.by_weight(layers) for dtype in dtypes for layout in layouts
        for direction in selection.directions_of(layer, directions, MEASURED)))


def peers_of(setting: Setting, names: Sequence[str]) -> list[str]:
    """Those of the peers that a setting is measured with; whether they can run here shows later."""
    gradient = setting.direction in ("grad_input", "grad_weight")
    skipped = {COMPILED, MATMUL, JAX} if gradient else set()
    skipped |= set() if setting.problem.exact else {MATMUL}
    return [name for name in names if name not in skipped]


def key(setting: Setting, device: Device) -> str:
    """What a measurement is of: the setting, the kernels, and the configs that run."""
    configs = [str(found.config) for found in configs_of(setting, device)]
    return " | ".join([str(setting), device.name, store.kernel_digest(), *configs])


def configs_of(setting: Setting, device: Device) -> list[store.Found]:
    """What runs for a setting: the config of each product, or of a step's gradients in one pass."""
    without = constraints.current()
    found = [store.choose(problem, device, without) for problem in setting.problems]
    if setting.direction == STEP:
        epilogue = replace(setting.problem.epilogue, activation=setting.after.activation)
        one = search.one_pass(replace(setting.problem, direction=BACKWARD, epilogue=epilogue), device, without)
        return [found[0], store.Found(one, "all gradients in one pass")] if one else found
    return found


def roofline(setting: Setting, card: dict) -> dict:
    """The work of a setting, and the least time it can take on this card: every tensor is moved once, in a step once
    forward and once backward. A concatenation moves the skip, too."""
    p, flops = setting.problem, sum(problem.flops for problem in setting.problems)
    x, w, y = (p.item * prod(shape) for name, shape in trial_tensors.shapes(p).items() if name != "b")
    moved = p.bytes + y * (2 * bool(setting.after.concat) + setting.after.residual)
    moved += 2 * x + 2 * w + y if setting.direction == STEP else 0  # x, w and dy are read, dx and dw written
    rate = card.get(f"rate_{setting.dtype}", 0.0)
    memory, compute = moved / card["bandwidth"] * 1e6, flops / rate * 1e6 if rate else 0.0
    return {"flops": flops, "bytes": moved, "roofline_us": round(max(memory, compute), 3),
            "bound": "memory" if memory >= compute else "compute"}


def unmeasured(settings: Sequence[Setting], names: Sequence[str], device: Device,
               known: dict[str, dict]) -> list[Setting]:
    """The settings that no row of `known` has with all these peers."""
    return [setting for setting in settings
            if not set(peers_of(setting, names)) <= set(known.get(key(setting, device), {}).get("peers", ()))]


def known(rows: Iterable[dict]) -> dict[str, dict]:
    """The settings that a journal has, by key."""
    return {row["key"]: row for row in rows if row.get("event") == "measured"}


def line(setting: Setting, rows: dict[str, dict]) -> str:
    """A setting's times in one line."""
    def cell(name, row):
        if "cold" in row or "warm" in row:
            return f"{name} {row.get('cold', row.get('warm'))['median']:.1f}"
        return "" if row["outcome"] == "unavailable" else f"{name}: {row['outcome']}"

    return f"{setting}: {', '.join(filter(None, (cell(*item) for item in rows.items())))} (us)"


def here(index: int = 0) -> Stand:
    """The stand of the CUDA device with this index."""
    from ..planning import device

    peers.settle()
    torch.cuda.set_device(index)
    return Stand(device.current(index), EventTimer(index), torch.device("cuda", index))


def _failed(failure: Failure) -> dict:
    return {"outcome": failure.kind, "reason": failure.reason}
