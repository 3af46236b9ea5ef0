"""The pictures of a report, and of the record of bounds."""

from collections.abc import Sequence
from pathlib import Path

from ..compiling.limits import Record
from ..problems.problem import BACKWARD, DIRECTIONS
from .records import Results, networks

COLOURS = {"forward": "#2f6fde", "grad_input": "#1c9c6b", "grad_weight": "#c9791f", "step": "#a23bbf", BACKWARD: "#a23bbf"}
BETTER, WORSE, INK, FAINT = "#2f6fde", "#c0392b", "#22262b", "#9aa3ad"
MOST_LABELS, LONGEST_LABEL = 60, 26  # bars with their names below; more, or longer ones, cannot be read


def roofline(path: Path, results: Results) -> Path:
    """Every measured product of a layer as a point under the roof of this card: FLOP/s over FLOP/byte.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    figure, axes = _figure(9, 6)
    card, lines = results.card, [line for line in results.lines if line.ours and line.setting["flops"]]
    intensity = [line.setting["flops"] / line.setting["bytes"] for line in lines]
    low, high = min(intensity, default=1) / 2, max(intensity, default=1000) * 2
    for name, style in (("float16", "-"), ("float32", "--")):
        rate = card[f"rate_{name}"]
        corner = rate / card["bandwidth"]
        end, roof = max(high, 2 * corner), rate / 1e12
        axes.plot([low, corner, end], [low * card["bandwidth"] / 1e12, roof, roof], style, color=INK, linewidth=1.2,
                  zorder=1)
        axes.annotate(f"{name.replace('float32', 'tf32')} {roof:.0f} TFLOP/s", (end, roof), ha="right", va="bottom",
                      color=INK, size=8)
    axes.annotate(f"copy {card['bandwidth'] / 1e12:.2f} TB/s", (low, low * card["bandwidth"] / 1e12), xytext=(14, -2),
                  textcoords="offset points", color=INK, size=8)
    for direction, colour in COLOURS.items():
        points = [(x, line.setting["flops"] / line.ours / 1e6) for x, line in zip(intensity, lines)
                  if line.setting["direction"] == direction]
        if points:
            axes.scatter(*zip(*points), s=16, color=colour, alpha=0.7, linewidths=0, zorder=2,
                         label=f"{direction} ({len(points)})")
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte that has to be moved", ylabel="TFLOP/s",
             title=f"Every layer under the roof of {results.device}, cold L2")
    if lines:
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return _save(figure, path)


def speedup(path: Path, results: Results) -> Path:
    """Bars of the speed-up over the best cuDNN: of every layer, and of the sums of networks, forward and step.

    Raises: as roofline does.
    """
    layers = {direction: sorted(((line.speedup, line.setting["layer"]) for line in results.lines
                                 if line.speedup and line.setting["direction"] == direction), reverse=True)
              for direction in ("forward", "step")}
    panels = [(f"each layer, {direction}", bars) for direction, bars in layers.items() if bars]
    for direction in layers:
        sums = sorted(((theirs / ours, name) for name, own, _, ours, theirs in networks(results.lines)
                       if own == direction), reverse=True)
        panels += [(f"sum of each network, {direction}", sums)] if sums else []
    figure, _ = _figure(11, 3.4 * max(1, len(panels)), axes=False)
    for place, (title, bars) in enumerate(panels, 1):
        axes = _plain(figure.add_subplot(len(panels), 1, place))
        values = [value for value, _ in bars]
        axes.bar(range(len(bars)), values, color=[BETTER if value >= 1 else WORSE for value in values], width=0.8)
        axes.axhline(1, color=INK, linewidth=0.8)
        axes.set(title=f"{title}: best cuDNN over ours on {results.device}", ylabel="speed-up",
                 xlim=(-0.7, len(bars) - 0.3))
        if max(values) > 8:
            axes.set_yscale("log")
        labels = [name[:LONGEST_LABEL] for _, name in bars] if len(bars) <= MOST_LABELS else []
        axes.set_xticks(range(len(labels)), labels, rotation=90, size=6)
    return _save(figure, path)


def limits(path: Path, records: Sequence[Record]) -> Path:
    """The bound of every layer over its arithmetic intensity, a panel for each device; the median of a direction is a line.

    Raises: as roofline does.
    """
    figure, _ = _figure(4.2 * len(records) + 0.6, 4.6, axes=False)
    first = None
    for place, record in enumerate(records, 1):
        axes = first = _plain(figure.add_subplot(1, len(records), place, sharey=first))
        for direction in (*DIRECTIONS, BACKWARD):
            points = [(row.intensity, row.limit) for row in record.rows if row.direction == direction]
            if points:
                median = record.quantiles(direction)[0]
                axes.scatter(*zip(*points), s=9, color=COLOURS[direction], alpha=0.6, linewidths=0,
                             label=f"{direction}, median {median:.1f}")
                axes.axhline(median, color=COLOURS[direction], linewidth=0.9)
        axes.axhline(1, color=INK, linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="FLOP per byte that has to be moved",
                 ylabel="bound over the roofline" if place == 1 else "", title=f"{record.device}: a bound, not a time")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.legend(frameon=False, fontsize=7, loc="upper right")
    return _save(figure, path)


def _figure(width: float, height: float, axes: bool = True):
    from matplotlib.figure import Figure  # without pyplot: no display and no global state

    figure = Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")
    return figure, _plain(figure.add_subplot()) if axes else None


def _plain(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8)
    axes.title.set_fontsize(10)
    return axes


def _save(figure, path: Path) -> Path:
    figure.savefig(path)
    return path
