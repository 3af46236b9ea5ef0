"""What bench has recorded, as files: bench.json has everything, bench.csv one row per setting and peer.

Both are derived from the journal of bench and are replaced in one step. Times are microseconds, work is FLOP and bytes.
"""

import csv
import io
import json
from pathlib import Path

from ..files import replace
from .journal import Journal

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
