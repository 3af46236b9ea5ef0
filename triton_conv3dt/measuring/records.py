"""What bench has recorded, as files: bench.json has everything, bench.csv one row per setting and peer.

Both are derived from the journal of bench and are replaced in one step. Times are microseconds, work is FLOP and bytes.
Read back, they are settings with what each peer's row says, and what follows by division and sum. Speed-up is the best
cuDNN (the faster of its two memory formats, with all that a user writes after it) over ours, device time with a cold
L2, both from the same run.
"""

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..files import replace
from .journal import Journal
from .selection import CUDNN, CUDNN_LAST, OURS

SCHEMA = 1
TIMES, STATISTICS = ("cold", "warm", "host"), ("median", "p20", "p80")
# Of a session, in every row of a table:
FACTS = ("date", "torch", "triton", "cuda", "cudnn", "driver", "jax", "command")
CARD = ("bandwidth", "rate_float16", "rate_bfloat16", "rate_float32", "precision_float32", "floor_us")
CLOCKS = ("sm_mhz", "memory_mhz", "power_w", "temperature_c")

PLACE = ("device", "network", "layer", "shape", "direction", "dtype", "layout")  # what a setting is told apart by
COLUMNS = ("session", "device", "network", "layer", "direction", "dtype", "layout", "follows", "peer", "outcome",
           *(f"{kind}_{statistic}_us" for kind in TIMES for statistic in STATISTICS), "clock", "rounds", "error",
           "limit", "roofline_us", "bound", "flops", "bytes", "config", "source", "kernels", "kernels_unknown",
           "reason", "shape", *FACTS, *CARD, *CLOCKS)


@dataclass(frozen=True)
class Line:
    """A setting and what each peer's row says of it."""

    setting: dict
    peers: dict[str, dict]

    def time(self, *names: str, kind: str = "cold") -> float | None:
        """The shortest median of some peers in microseconds; None where none of them has one."""
        found = [row[kind]["median"] for name in names if kind in (row := self.peers.get(name, {}))]
        return min(found, default=None)

    @property
    def ours(self) -> float | None:
        return self.time(OURS)

    @property
    def best_cudnn(self) -> float | None:
        return self.time(CUDNN, CUDNN_LAST)

    @property
    def speedup(self) -> float | None:
        return self.best_cudnn / self.ours if self.ours and self.best_cudnn else None

    @property
    def roofline_share(self) -> float | None:
        """Of the least possible time, in what was taken."""
        return self.setting["roofline_us"] / self.ours if self.ours else None


@dataclass(frozen=True)
class Results:
    """What was measured on one device."""

    device: str
    sessions: list[dict]
    lines: list[Line]

    @property
    def card(self) -> dict[str, float]:
        return self.sessions[-1]["card"]


def write(journal: Journal, folder: Path) -> list[Path]:
    """Make bench.json and bench.csv from a journal; of a setting that was measured again, with another config for
    instance, the last time counts.

    Raises:
        OSError: one cannot be written; the old one is as it was.
    """
    sessions, settings = [], {}
    for row in journal.rows():
        if row.get("event") == "session":
            sessions.append({name: value for name, value in row.items() if name != "event"})
        elif row.get("event") == "measured":
            own = {name: value for name, value in row.items() if name not in ("event", "key", "peers")}
            settings[tuple(row[name] for name in PLACE)] = [
                {"session": len(sessions) - 1, **own, "peer": name, **peer} for name, peer in row["peers"].items()]
    rows = [row for peers in settings.values() for row in peers]
    lines = lambda items: ",\n".join(json.dumps(item) for item in items)
    text = f'{{"schema": {SCHEMA},\n"sessions": [\n{lines(sessions)}\n],\n"rows": [\n{lines(rows)}\n]}}\n'
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(row) | _about(sessions[row["session"]]) for row in rows)
    return [replace(folder / "bench.json", text), replace(folder / "bench.csv", table.getvalue())]


def load(path: Path) -> list[Results]:
    """The results in a bench.json, or in a folder that has one, by device.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, is of a later version, or has nothing measured.
    """
    path = path / "bench.json" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; `triton-conv3dt bench` makes a folder with a bench.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] > SCHEMA:
            raise ValueError(f"{path} is of a later version of triton_conv3dt (schema {content['schema']}, this one "
                             f"reads up to {SCHEMA}); upgrade triton_conv3dt")
        found = [_results(name, content) for name in dict.fromkeys(row["device"] for row in content["rows"])]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} is not what `bench` writes: {type(error).__name__}: {error}") from None
    if not found:
        raise ValueError(f"{path} has no measurements; `bench` makes them")
    return found


def networks(lines: Iterable[Line]) -> list[tuple[str, str, int, float, float]]:
    """Network, direction, number of layers, and the sums of our times and of the best cuDNN's, forward and step; of
    layers where both are known, each in its first dtype and layout."""
    sums: dict[tuple[str, str], dict[str, Line]] = {}
    for line in lines:
        if line.speedup and line.setting["direction"] in ("forward", "step"):
            own = sums.setdefault((line.setting["network"], line.setting["direction"]), {})
            own.setdefault(line.setting["layer"], line)
    return [(name, direction, len(own), math.fsum(line.ours for line in own.values()),
             math.fsum(line.best_cudnn for line in own.values())) for (name, direction), own in sums.items()]


def _about(session: dict) -> dict:
    """What each row of a table has of its session: the versions, the command, the card and its clocks."""
    facts, card = session["facts"], session["card"]
    return {name: facts.get(name) for name in FACTS} | {name: card.get(name) for name in CARD} | \
        {name: card.get("clocks", {}).get(name) for name in CLOCKS}


def _flat(row: dict) -> dict:
    flat = {name: value for name, value in row.items() if name not in TIMES}
    for kind in TIMES:
        flat |= {f"{kind}_{statistic}_us": row[kind][statistic] for statistic in STATISTICS if kind in row}
    return flat | {"rounds": row.get("cold", {}).get("rounds"), "kernels": "; ".join(row.get("kernels", ()))}


def _results(device: str, content: dict) -> Results:
    groups: dict[tuple, dict[str, dict]] = {}
    for row in content["rows"]:
        if row["device"] == device:
            groups.setdefault(tuple(row[name] for name in PLACE), {})[row["peer"]] = row
    sessions = [session for session in content["sessions"] if session["device"] == device]
    sessions[-1]["card"]["bandwidth"], sessions[-1]["facts"]["command"]  # what every table needs
    return Results(device, sessions, [Line(next(iter(peers.values())), peers) for peers in groups.values()])
