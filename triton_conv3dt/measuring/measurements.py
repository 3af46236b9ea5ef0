"""What bench has recorded, read back: settings with what each peer's row says, and what follows by division and sum.

Speed-up is the best cuDNN (the faster of its two memory formats, with all that a user writes after it) over ours,
device time with a cold L2, both from the same run.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .records import PLACE, SCHEMA
from .selection import CUDNN, CUDNN_LAST, OURS


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


def _results(device: str, content: dict) -> Results:
    groups: dict[tuple, dict[str, dict]] = {}
    for row in content["rows"]:
        if row["device"] == device:
            groups.setdefault(tuple(row[name] for name in PLACE), {})[row["peer"]] = row
    sessions = [session for session in content["sessions"] if session["device"] == device]
    sessions[-1]["card"]["bandwidth"], sessions[-1]["facts"]["command"]  # what every table needs
    return Results(device, sessions, [Line(next(iter(peers.values())), peers) for peers in groups.values()])
