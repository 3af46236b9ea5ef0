"""The demo's picture: three planes of a volume before and after, and a detail. The only file that knows matplotlib."""

from pathlib import Path

BACKGROUND, INK, ACCENT = "#14171a", "#e8eaed", "#ffb454"


def draw(path: Path, before, after, *, voxel, box, detail, by: str, windows, title: str, subtitle: str,
         notes: list[str]) -> None:
    """Draw slices of two volumes side by side and write them to a file.

    Args:
        before: [D, H, W]; the D axis points up, H to the front, W to the left of the person.
        after: [2D, 2H, 2W], on the same place.
        voxel: the size of a voxel of before in mm, per axis.
        box: a part of before, a slice per axis, which is outlined and drawn enlarged; the slices go through its middle.
        detail: the same part of after, [2d, 2h, 2w].
        by: what made the detail, to follow its title.
        windows: (black, white) for before, and for after.
        title, subtitle: above.
        notes: lines below.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: no display and no global state

    figure = Figure(figsize=(12, 5.9), dpi=110, facecolor=BACKGROUND)
    grid = figure.add_gridspec(3, 4, width_ratios=(1.19, 1.19, 1, 1), height_ratios=(0.275, 0.35, 0.72), left=0.015,
                               right=0.985, top=0.82, bottom=0.125, wspace=0.05, hspace=0.25)
    middle = tuple((s.start + s.stop) // 2 for s in box)
    stages = ((before, before[box], 1, "before"), (after, detail, 2, "after"))
    for column, (volume, part, scale, when) in enumerate(stages):
        d, h, w = (v / scale for v in voxel)
        cut_d, cut_h, cut_w = (scale * m for m in middle)
        # (place, image, height and width of its pixels, title)
        pictures = ((grid[:, column], volume[cut_d], h, w, f"axial, {when}"),
                    (grid[0, 2 + column], volume[:, :, cut_w], d, h, f"sagittal, {when}"),
                    (grid[1, 2 + column], volume[:, cut_h], d, w, f"coronal, {when}"),
                    (grid[2, 2 + column], part[len(part) // 2], h, w, f"outlined part, {when}{by * column}"))
        axial, *_, enlarged = [_show(figure.add_subplot(place), *rest, windows[column])
                               for place, *rest in pictures]
        _outline(axial, box, voxel)
        _frame(enlarged)
    figure.text(0.015, 0.955, title, color=INK, size=15, weight="bold", va="center")
    figure.text(0.015, 0.905, subtitle, color=INK, size=10, alpha=0.75, va="center")
    for line, note in enumerate(reversed(notes)):
        figure.text(0.015, 0.03 + 0.037 * line, note, color=INK, size=10, alpha=0.9, va="center")
    figure.savefig(path, facecolor=BACKGROUND)


def _show(axes, image, height, width, title, window):
    rows, columns = image.shape
    axes.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], origin="lower", interpolation="nearest",
                extent=(0, columns * width, 0, rows * height))
    axes.set_title(title, color=INK, size=10, pad=5)
    axes.set_anchor("N")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _outline(axes, box, voxel):
    from matplotlib.patches import Rectangle

    (_, h, w), (_, height, width) = box, voxel
    axes.add_patch(Rectangle((w.start * width, h.start * height), (w.stop - w.start) * width,
                             (h.stop - h.start) * height, fill=False, edgecolor=ACCENT, linewidth=1.3))


def _frame(axes):
    for spine in axes.spines.values():
        spine.set(visible=True, color=ACCENT, linewidth=1.3)

