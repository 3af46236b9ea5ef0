"""Measuring layers: ours and what people use instead, in turns in one run, each verified before it is timed.

Every setting (a layer in one direction, dtype and layout) is one row of a journal with all its peers; records.py makes
bench.json and bench.csv of it. Times are microseconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

from ..checking import trial_tensors
from ..planning import constraints, search, store
from ..planning.device import Device
from ..problems.problem import BACKWARD
from ..progress import Progress
from ..worker import LOST, Failure, Worker
from .asking import Asker, OutOfTime, told
from .budget import Budget
from .journal import Journal
from .naming import Names
from .selection import STEP, Setting, peers_of

WATCHDOG, SHORTEST_WATCH = 60.0, 30.0  # seconds for one peer, torch.compile and cuDNN's search included; near the end


class Bench:
    """One run over settings.

    Args:
        device: what is measured on.
        journal: where rows go.
        worker: answers `card`, `check` and `measure` as a Trial does.
        names: knows which kernels ran.
        known: the settings that earlier runs measured, by key.
        budget: the time for all of it; None for no limit.
    """

    def __init__(self, device: Device, journal: Journal, worker: Worker, names: Names, *, known: dict,
                 budget: Budget | None = None, progress: Progress | None = None):
        self._device, self._journal, self._names, self._known = device, journal, names, known
        self._budget, self._progress = budget or Budget(), progress or Progress(0, quiet=True)
        self._asker, self._card = Asker(worker, self._budget, (WATCHDOG, SHORTEST_WATCH)), None

    def run(self, settings: Sequence[Setting], names: Sequence[str], facts: dict) -> int:
        """Measure until all is done or the time is up. Returns how many settings are left.

        Raises:
            RuntimeError: the worker cannot start, or this card cannot be measured.
            OSError: the journal cannot be written.
        """
        left = unmeasured(settings, names, self._device, self._known)
        for place, setting in enumerate(left):
            if self._budget.spent:
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
        card = self._asker.ask("card")
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
        times = self._asker.ask("measure", setting, right) if right else {}
        for name in right:
            rows[name] |= told(times) if isinstance(times, Failure) else times[name]
        if launching := [name for name in right if "cold" in rows[name]]:  # not those who were timed by the wall clock
            for name, named in self._names.of(setting, launching).items():
                rows[name] |= named
        self._journal.append(self._row(setting) | {"peers": rows})
        self._progress.say(line(setting, rows))

    def _checked(self, setting: Setting, name: str) -> dict:
        answer = self._asker.ask("check", name, setting)
        return told(answer) if isinstance(answer, Failure) else answer

    def _row(self, setting: Setting) -> dict:
        layer, found = setting.layer, configs_of(setting, self._device)
        return {"event": "measured", "key": key(setting, self._device), "device": self._device.name,
                "network": layer.network, "layer": layer.name, "shape": str(setting.problem),
                "direction": setting.direction, "dtype": setting.dtype, "layout": setting.layout,
                "follows": str(setting.after), **roofline(setting, self._card),
                "config": "; ".join(str(f.config) for f in found), "source": "; ".join(f.source for f in found)}


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
