"""From recorded measurements to tables and pictures. Nothing is measured here, and no GPU is needed.

A cell that was not measured is "-".
"""

import os
import statistics
from collections.abc import Iterable
from pathlib import Path

from ..files import replace
from ..problems.layers import layers
from .records import Line, Results, networks
from .selection import COMPILED, CUDNN, CUDNN_LAST, JAX, MATMUL, MEASURED, OURS

BEGIN, END = "<!-- performance: begin -->", "<!-- performance: end -->"
CLOCKS = ("SM {sm_mhz} MHz (of {sm_mhz_max}), memory {memory_mhz} MHz, {power_w} W (of {power_limit_w}), "
          "{temperature_c} °C")
FACTS = ("reported", "driver", "cuda", "cudnn", "torch", "triton", "jax", "triton_conv3dt", "python", "date")


def write(results: list[Results], folder: Path) -> list[Path]:
    """Write report.md, and its pictures where matplotlib is installed. Returns the files.

    Raises:
        OSError: one cannot be written.
    """
    written, sections = [], []
    for one in results:
        suffix = "" if len(results) == 1 else f".{one.device}"
        pictures = _draw(one, folder, suffix)
        written += pictures
        sections.append(markdown(one, [picture.name for picture in pictures]))
    target = folder / "report.md"
    replace(target, "\n".join(["# Measurements", "", *sections]))
    return [target, *written]


def markdown(results: Results, pictures: Iterable[str] = ()) -> str:
    """Everything: what it was measured on, the summary, and every setting."""
    failed = [(line, name, row) for line in results.lines for name, row in line.peers.items()
              if row["outcome"] not in ("ok", "unavailable")]
    parts = [f"## {results.device}", provenance(results), by_direction(results), _links(pictures, ""),
             by_network(results)]
    for direction in MEASURED:
        lines = [line for line in results.lines if line.setting["direction"] == direction]
        if lines:
            parts += [f"### {direction}", _settings(lines)]
    if failed:
        parts += ["### What failed", table(("setting", "who", "outcome", "reason"), [
            (_name(line), name, row["outcome"], row.get("reason", "")) for line, name, row in failed])]
    return "\n\n".join(part for part in parts if part) + "\n"


def provenance(results: Results) -> str:
    """The device, its clocks, every version, and the commands."""
    facts, card = results.sessions[-1]["facts"], results.card
    clocks = CLOCKS.format(**card["clocks"]) if card.get("clocks") else "clocks unknown"
    kind = lambda dtype: f"{dtype} ({card[f'precision_{dtype}']})" if f"precision_{dtype}" in card else dtype
    rates = ", ".join(f"{kind(name.removeprefix('rate_'))} {rate / 1e12:.0f}" for name, rate in card.items()
                      if name.startswith("rate_"))
    commands = dict.fromkeys(session["facts"]["command"] for session in results.sessions)
    return "\n".join([
        ", ".join(f"{name} {facts[name]}" for name in FACTS if facts.get(name)) + ".",
        f"This card, measured at {clocks}: copy {card['bandwidth'] / 1e12:.2f} TB/s, matrix products {rates} TFLOP/s; "
        f"a call that does nothing seems to take {card['floor_us']:.1f} us.",
        "Made by " + "; ".join(f"`{command}`" for command in commands) + "."])


def by_direction(results: Results) -> str:
    """How we stand to the best cuDNN in each direction."""
    rows = []
    for direction in MEASURED:
        lines = [line for line in results.lines if line.setting["direction"] == direction and line.speedup]
        if lines:
            faster = [line.speedup for line in lines]
            rows.append((direction, len(lines), _times(statistics.geometric_mean(faster)), _times(min(faster)),
                         _times(max(faster)), sum(value >= 1 for value in faster),
                         _percent(statistics.median(line.roofline_share for line in lines))))
    head = ("direction", "layers", "speed-up, geometric mean", "least", "most", "not slower", "of the roofline, median")
    return table(head, rows) if rows else "Nothing could be compared with cuDNN."


def by_network(results: Results) -> str:
    """The sums of networks; how many of a network's layers are in a sum stands beside it."""
    rows = [(name, direction, f"{count} of {_layers(name, direction) or count}", _us(ours), _us(theirs),
             _times(theirs / ours))
            for name, direction, count, ours, theirs in networks(results.lines)]
    return table(("network", "direction", "layers", "ours, us", "best cuDNN, us", "speed-up"), rows) if rows else ""


def update_readme(readme: Path, results: list[Results], folder: Path) -> None:
    """Replace what stands between the markers of a README by the summary, with links to the pictures of a folder.

    Raises:
        OSError: it cannot be read or written.
        ValueError: it lacks the markers.
    """
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{readme} needs the lines {BEGIN} and {END} once each, in this order: the report goes "
                         "between them")
    place = os.path.relpath(folder, readme.parent)
    pictures = [path.name for path in sorted(folder.glob("*.png"))]
    parts = [part for one in results for part in (f"### {one.device}", provenance(one), by_direction(one))]
    parts += [_links(pictures, place), f"Sums of networks and every setting: [{place}/report.md]({place}/report.md)."]
    head, tail = text[:text.index(BEGIN) + len(BEGIN)], text[text.index(END):]
    replace(readme, head + "\n" + "\n\n".join(part for part in parts if part) + "\n" + tail)


def table(head: Iterable, rows: Iterable[Iterable]) -> str:
    """A table in Markdown; the first column is text, the others stand to the right."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|---|" + "---:|" * (len(cells[0]) - 1))
    return "\n".join(lines)


def _settings(lines: list[Line]) -> str:
    head = ("layer", "follows", "ours, us", "20 to 80 %", "warm", "host", "of the roofline", "bound", "cuDNN",
            "channels_last", "torch.compile", "matmul", "JAX, wall", "speed-up")
    return table(head, [
        (_name(line), line.setting["follows"], _us(line.ours), _range(line.peers.get(OURS, {})),
         _us(line.time(OURS, kind="warm")), _us(line.time(OURS, kind="host")), _percent(line.roofline_share),
         line.setting["bound"], *(_us(line.time(name)) for name in (CUDNN, CUDNN_LAST, COMPILED, MATMUL)),
         _us(line.time(JAX, kind="warm")), _times(line.speedup)) for line in lines])


def _draw(results: Results, folder: Path, suffix: str) -> list[Path]:
    try:
        from . import plots

        return [plots.roofline(folder / f"roofline{suffix}.png", results),
                plots.speedup(folder / f"speedup{suffix}.png", results)]
    except ImportError:  # matplotlib is not installed: the tables remain
        return []


def _layers(network: str, direction: str) -> int:
    """How many layers of a network there are, in this direction."""
    return sum(layer.network == network and (layer.mode == "train" or direction == "forward") for layer in layers())


def _links(pictures: Iterable[str], place: str) -> str:
    return "\n\n".join(f"![{Path(name).stem}]({f'{place}/' if place else ''}{name})" for name in pictures)


def _name(line: Line) -> str:
    return f"{line.setting['layer']} {line.setting['dtype']} {line.setting['layout']}"


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _range(row: dict) -> str:
    return f"{_us(row['cold']['p20'])} to {_us(row['cold']['p80'])}" if "cold" in row else "-"
