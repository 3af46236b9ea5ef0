"""The walking form: which rows of a plane are kept, which taps meet them, and what that takes of shared memory.

A program owns a patch of places (h, w) and walks along d. Each plane that it comes to is fetched once, in `sheets`: the
rows of the patch with those that taps reach beside it, once for every shift along w. Shifted along h a patch is another
run of rows. All weights of a program stay in shared memory. Sums of places that later planes still add to stay in registers:
they differ in age. Places are coarse ones, as in geometry.py: what is written has phases there, what is read residues.
"""

from functools import lru_cache
from itertools import product
from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from .config import Config, phase_origin, rows_and_reduction
from .constants import Product, Sheet, Walk

SWIZZLE = 128  # bytes of a row at most: what a copy swizzles, so that products find no bank conflicts
SLACK = 4096  # bytes for barriers, and for buffers that start at multiples of 1024


def uses(problem: Problem, axis: int) -> list[tuple[int, int, int, int]]:
    """Along one axis: phase p of place t adds residue r of place t + shift by tap k, (p, r, shift, k) for every tap."""
    a = problem.axes[axis]
    if problem.direction == "forward":
        return [(p.residue, 0, p.offset - j * a.input_step, p.first + j * a.tap_step)
                for p in a.phases(phase_origin(problem, "dhw"[axis])) for j in range(p.taps)]
    places = [k * a.dilation - a.padding for k in range(a.kernel)]
    return [(0, place % a.stride, place // a.stride, k) for k, place in enumerate(places)]


def block_c(problem: Problem) -> int:
    """Channels that are summed side by side: of a row of shared memory."""
    reduction = rows_and_reduction(problem)[1]
    return min(SWIZZLE // problem.item, max(32 // problem.item, 1 << (reduction - 1).bit_length()))


@lru_cache(maxsize=4096)
def walk(problem: Problem, config: Config) -> Walk:
    """What the kernel is told."""
    axes = [uses(problem, i) for i in range(3)]
    shifts = [sorted({shift for _, _, shift, _ in axis}) for axis in axes]
    phases = [sorted({p for p, *_ in axis}) for axis in axes]
    _, high, wide = config.box
    # Rows of a sheet begin with the lowest shift of their residue.
    reach = {r: [s for _, q, s, _ in axes[1] if q == r] for r in {r for _, r, *_ in axes[1]}}
    sheets, row = {}, 0
    for rh, (rw, shift) in product(sorted(reach), sorted({(r, s) for _, r, s, _ in axes[2]})):
        rows = high + max(reach[rh]) - min(reach[rh])
        sheets[rh, rw, shift] = Sheet(rh, min(reach[rh]), rows, rw, shift, row)
        row += rows
    residues = sorted({r for _, r, *_ in axes[0]})
    merged = [p if m else [None] for p, m in zip(phases, config.merge)]
    apart = [[None] if m else p for p, m in zip(phases, config.merge)]
    columns = [tuple(p or 0 for p in phase) for phase in product(*merged)]
    slots, groups = [], list(product(*apart))
    products = []
    live = _live(problem, config, axes[0], columns)
    for group in groups:
        ages = [[] for _ in live]
        meets = [sorted({(r, s) for p, r, s, _ in axis if g is None or p == g}) for axis, g in zip(axes, group)]
        for (rd, sd), (rh, sh), (rw, sw) in product(*meets):
            sheet = sheets[rh, rw, sw]
            age = max(shifts[0]) - sd
            ages[age].append(Product(residues.index(rd), sheet.row + sh - sheet.first, len(slots)))
            for column in columns[:live[age]]:
                phase = [c if g is None else g for g, c in zip(group, column)]
                slots.append(_tap(problem, axes, phase, (rd, rh, rw), (sd, sh, sw)))
        products.append(tuple(map(tuple, ages)))
    channels = rows_and_reduction(problem)[1]
    return Walk(high, wide, block_c(problem), ceil_div(channels, block_c(problem)), config.block_m, config.stages, row,
                min(shifts[0]), len(live), live, tuple(residues), tuple(sheets.values()), tuple(slots),
                tuple(tuple(p or 0 for p in group) for group in groups), tuple(columns), tuple(products))


def _live(problem: Problem, config: Config, axis, columns) -> tuple[int, ...]:
    """How many phases are columns, by how many steps are still to come: those along d of which some come later may be left out where
    they are the second half, since a product cannot write to a part of its sums."""
    highest = max(shift for _, _, shift, _ in axis)
    begun = [{p for p, _, shift, _ in axis if shift <= highest - age} for age in range(highest - min(s for _, _, s, _ in axis) + 1)]
    counts = [sum(c[0] in phases for c in columns) if config.merge[0] else len(columns) for phases in begun]
    whole = all(few in (many, many / 2) for many, few in zip(counts, counts[1:])) and all(
        c[0] in phases for phases, n in zip(begun, counts) for c in (columns[:n] if config.merge[0] else ()))
    return tuple(counts) if whole else (len(columns),) * len(counts)


def _tap(problem: Problem, axes, phase, residue, shift) -> int:
    """The tap by which a phase adds a residue of a shifted place, counted over all axes; -1 where there is none."""
    tap = 0
    for axis, p, r, s, size in zip(axes, phase, residue, shift, problem.kernel):
        found = [k for q, e, t, k in axis if (q, e, t) == (p, r, s)]
        if not found:
            return -1
        tap = tap * size + found[0]
    return tap


def ring(problem: Problem, config: Config) -> int:
    """Bytes of the planes that are kept."""
    w = walk(problem, config)
    return config.stages * step_bytes(problem, config)


def step_bytes(problem: Problem, config: Config) -> int:
    """Bytes that a program fetches in one step along d."""
    w = walk(problem, config)
    return len(w.residues) * w.blocks * w.rows * w.wide * w.channels * problem.item


def weight_bytes(problem: Problem, config: Config) -> int:
    """Bytes of the weights that a program keeps."""
    w = walk(problem, config)
    return len(w.slots) * w.blocks * w.columns * w.channels * problem.item


def shared_memory(problem: Problem, config: Config) -> int:
    """Bytes that one program uses, an upper estimate."""
    w = walk(problem, config)
    turned = 0 if problem.item == 4 else w.high * w.wide * w.columns * len(w.phases) * 4
    return step_bytes(problem, config) * config.stages + weight_bytes(problem, config) + turned + SLACK
