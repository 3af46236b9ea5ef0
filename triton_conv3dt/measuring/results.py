"""From the journal of the tuner to config files. Files are derived: writing them again changes nothing.

A journal of tune holds rows of three kinds, told apart by "event": a "session" says what it ran on, a "candidate" what
became of one config, a "result" which config a problem is to have. Rows for other kernels than these are passed over.
"""

from collections.abc import Iterable
from pathlib import Path

from .. import __version__
from ..planning import store
from ..planning.config import Config
from ..planning.configfile import Entry, config_fields, config_of
from ..planning.constraints import NONE, Constraints
from ..planning.device import Device
from ..problems import case
from ..problems.problem import Problem
from . import journal
from .timing import Times

DEFAULT, CUDNN = "default", "cudnn"  # the names in a comparison that are not a candidate's
NOISE = 0.02  # a win below this share of the default's time is none, however quiet the measurement


class Known:
    """What a journal says about the kernels of now on one device, and what was decided where the same may be used: what
    is best without a path says nothing of what is best with it."""

    def __init__(self, rows: Iterable[dict], device: Device, without: Constraints = NONE):
        self.without = without
        self._tried: dict[tuple[str, str], dict] = {}
        self._results: dict[str, dict] = {}
        for row in rows:
            if row.get("device") == device.name and row.get("kernel") == store.kernel_digest():
                self.add(row)

    def add(self, row: dict) -> None:
        if row["event"] == "candidate":
            self._tried[row["case"], repr(row["config"])] = row
        elif row["event"] == "result" and row.get("without", "") == str(self.without):
            self._results[row["case"]] = row

    def tried(self, problem: Problem, config: Config) -> dict | None:
        """What became of a candidate."""
        return self._tried.get((case.format(problem), repr(plain(config))))

    def result(self, problem: Problem) -> dict | None:
        """What was decided for a problem, last."""
        return self._results.get(case.format(problem))

    def done(self, problem: Problem, candidates: int | None) -> bool:
        """Whether it was decided from all the candidates, or as many of the best (None: all of them)."""
        row = self.result(problem)
        if row is None or not row.get("complete"):
            return False
        return row["candidates"] is None or (candidates is not None and candidates <= row["candidates"])


def choose(times: dict[str, Times]) -> str:
    """The name of what is kept: the fastest, if it beats the default by more than the noise of both."""
    best = min(times, key=lambda name: (times[name].median, name != DEFAULT, name))
    if DEFAULT not in times or best == DEFAULT:
        return best
    default, won = times[DEFAULT], times[DEFAULT].median - times[best].median
    return best if won > max(NOISE * default.median, default.noise, times[best].noise) else DEFAULT


def save(rows: Iterable[dict], device: Device, output: Path) -> None:
    """Store results: the configs that beat the default. Where the default is best, and an entry for a problem nearby
    would stand in for it, the default itself is stored, so that a look-up never loses to it.

    Raises:
        OSError, ConfigFileError: a file cannot be written; it is as it was.
    """
    entries = {True: [], False: []}
    for row in rows:
        entry = Entry(case.parse(row["case"]), config_of(row["config"]), row["us"], row["made_with"])
        entries[row["better"]].append(entry)
    if entries[True]:
        store.save(entries[True], device, {}, output)
    shadowed = [entry for entry in entries[False]
                if (found := store.lookup(entry.problem, device, [output])) and found.config != entry.config]
    if shadowed:
        store.save(shadowed, device, {}, output)


def merge(journals: Iterable[Path], output: Path) -> dict[str, int]:
    """Store what journals say, those of shards for instance, as if one sweep had written them all; the last result for
    a problem counts. Returns how many results each device had.

    Raises:
        OSError, ValueError: a journal cannot be read, is none or was made under constraints, or a config file cannot be
            written.
    """
    devices, found = {}, {}
    for path in journals:
        rows = journal.read(path)[0]
        sessions = [row for row in rows if row.get("event") == "session"]
        if not sessions:
            raise ValueError(f"{path} is no journal of tune: it has no session")
        if without := next((row["without"] for row in rows if row.get("without")), None):
            raise ValueError(f"{path} says what is best without {without}, which would stand in for what is best of "
                             "all; the folder that tune was given has its configs")
        devices |= {row["device"]: device_of(row) for row in sessions}
        found |= {(row["device"], row["case"]): row for row in rows
                  if row.get("event") == "result" and row["kernel"] == store.kernel_digest()}
    counts = dict.fromkeys(sorted(devices), 0)
    for name, device in sorted(devices.items()):
        results = [row for (owner, _), row in found.items() if owner == name]
        save(results, device, output)
        counts[name] = len(results)
    return counts


def session(device: Device, facts: dict) -> dict:
    """The first row of a run."""
    about = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(device).items()}
    return {"event": "session", "device": device.name, "kernel": store.kernel_digest(), "about": about, "facts": facts}


def device_of(row: dict) -> Device:
    """The device of a session's row."""
    return Device(**row["about"] | {"capability": tuple(row["about"]["capability"])})


def made_with(facts: dict) -> dict[str, str]:
    """What a result is kept with: the versions that it depends on, and the digest of the kernels."""
    kept = {name: facts[name] for name in ("triton", "torch", "cuda", "driver", "date") if facts.get(name)}
    return {"triton_conv3dt": __version__, "kernel": store.kernel_digest(), **kept, "date": facts["date"][:10]}


def plain(config: Config) -> dict:
    """A config as it comes back from JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config_fields(config).items()}
