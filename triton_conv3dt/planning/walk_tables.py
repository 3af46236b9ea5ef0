"""The tables of a walk: which rows of a plane are kept, which taps meet them, and which sums they add to."""

from functools import lru_cache
from itertools import count, product

from ..problems.problem import Problem
from .device import gluon
from .phases import phase_origin
from .walk_constants import Product, Run, Sheet
from .walk_memory import beside

WARPGROUP = 64  # rows of its products
FEWEST, MOST_AGES = 8, 9  # columns of a product; ages that may lie side by side
APART, TOGETHER, PADDED = "programs", "columns", "crossed"  # taps along d: columns of products of their own, of fewer, or of one


@lru_cache(maxsize=1024)
def uses(problem: Problem, axis: int, merged: bool = False) -> list[tuple[int, int, int, int]]:
    """Along one axis: phase p of place t adds residue r of place t + shift by tap k, (p, r, shift, k) for every tap. merged: phases
    are columns, and counted from where their taps line up."""
    a = problem.axes[axis]
    if problem.direction == "forward":
        return [(p.residue, 0, p.offset - j * a.input_step, p.first + j * a.tap_step)
                for p in a.phases(phase_origin(problem, "dhw"[axis]) if merged else 0) for j in range(p.taps)]
    places = [k * a.dilation - a.padding for k in range(a.kernel)]
    return [(0, place % a.stride, place // a.stride, k) for k, place in enumerate(places)]


@lru_cache(maxsize=4096)
def ages(problem: Problem, merge: tuple[bool, bool, bool], way: str, channels: int) -> tuple[tuple, tuple[int, ...], tuple[int, ...]]:
    """Which phases (d, h, w) are columns, of so many channels each; how many of them live, by age; and how many ages are columns of one
    product."""
    axes = [uses(problem, i, merge[i]) for i in range(3)]
    columns = tuple(product(*(sorted({p for p, *_ in axis}) if m else (0,) for axis, m in zip(axes, merge))))
    live = _live(merge[0], axes[0], columns)
    if way != APART or min(live) * channels < FEWEST:
        live = (len(columns),) * len(live)  # zeros for what begins later
    return columns, live, _bundles(way, axes[0], merge[0], live, channels)


def tables(problem: Problem, merge: tuple[bool, bool, bool], high: int, way: str, channels: int,
           lines: tuple[int, int, int, bool] | None = None, along: int = 0) -> dict[str, object]:
    """The fields of a Walk that follow from the taps, for patches of so many rows and columns of so many channels. lines: sheets have all
    shifts along w, instead of one, in so many lines of so many places and those beside them, of which so many are read at once; and
    whether there are as many beside. along: rows begin so many places one after the other in one line, and are shifted there, too."""
    return _tables(problem, merge, high, ages(problem, merge, way, channels), lines, along)


@lru_cache(maxsize=4096)  # whatever the channels and the way are
def _tables(problem: Problem, merge, high: int, aged, lines, along: int) -> dict[str, object]:
    axes, (columns, live, bundles) = [uses(problem, i, merge[i]) for i in range(3)], aged
    known, residues_w = [{use[:3]: use[3] for use in axis} for axis in axes], beside(problem, merge)
    further = [0] * residues_w  # places by which a residue lies further in lines, such that taps meet
    if residues_w > 1:  # one row has the channels of all
        lowest = [min((s for _, r, s, _ in axes[2] if r == residue), default=0) for residue in range(residues_w)]
        further = [lowest[0] - low for low in lowest] if lines else further
        axes[2] = [(p, 0, shift + further[r], k) for p, r, shift, k in axes[2]]
    shifts = sorted({shift for _, _, shift, _ in axes[0]})
    phases = [sorted({p for p, *_ in axis}) for axis in axes]
    second = further[-1] if lines and residues_w > 1 else -1
    sheets, rows = _sheets(axes, high, lines, along, second)
    residues = sorted({r for _, r, *_ in axes[0]})
    groups = list(product(*([None] if m else p for p, m in zip(phases, merge))))
    # Where each product has a slot to itself, slots are taps in their order.
    slots, products, bundle_of = [], [], [i for i, size in enumerate(bundles) for _ in range(size)]  # of an age
    several = len(columns) > 1 or residues_w > 1 or len(bundles) < len(live)
    for group in groups:
        found = {}  # by bundle and by what is read: the taps of each age
        meets = [sorted({(r, s) for p, r, s, _ in axis if g is None or p == g}) for axis, g in zip(axes, group)]
        for (rd, sd), (rh, sh), (rw, sw) in product(*meets):
            (number, sheet), age = sheets[rh, rw, sw], shifts[-1] - sd
            phases_met = [[c if g is None else g for g, c in zip(group, column)] for column in columns[:live[age]]]
            taps = [tuple(_tap(known, problem.kernel, phase, (rd, rh, rw + i), (sd, sh, sw - more)) for i, more in enumerate(further))
                    for phase in phases_met]
            row, shift = (sheet.row, sh * along + sw) if along else (sheet.row + (sh - sheet.first) * sheet.pitch, sw)
            run = Run(residues.index(rd), row, number, shift - sheet.shift)
            found.setdefault((bundle_of[age], run), {})[age] = taps
        products.append([[] for _ in bundles])
        for (bundle, run), by_age in found.items():
            first, taps = sum(bundles[:bundle]), []
            for age in range(first, first + bundles[bundle]):
                taps += by_age.get(age, [(-1,) * residues_w] * live[min(age, len(live) - 1)])
            products[-1][bundle].append(Product(run, len(slots) if several else taps[0][0]))
            slots += taps
    return dict(rows=rows, low=shifts[0], span=len(live), live=live, residues=tuple(residues), sheets=tuple(dict(sheets.values()).values()),
                second=second, slots=tuple(slots if several else sorted(slots)), phases=columns, bundles=bundles,
                products=tuple(tuple(map(tuple, group)) for group in products),
                groups=tuple(tuple(p or 0 for p in group) for group in groups))


def runs(products, abreast: int) -> tuple[tuple[Run, ...], ...]:
    """For each turn of so many groups every run of rows that it reads, residue after residue."""
    turns = [products[i:i + abreast] for i in range(0, len(products), abreast)]
    found = [dict.fromkeys(p.run for group in turn for bundle in group for p in bundle) for turn in turns]
    return tuple(tuple(sorted(turn, key=lambda run: run.residue)) for turn in found)


def _bundles(way: str, axis, merged: bool, live: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """How many ages are columns of one product, which then reads its rows once for all of them: powers of two, those of which least is
    read; or one for all ages, some of which may be none."""
    span = len(live)
    if way == APART or span > MOST_AGES:
        return (1,) * span
    if way == PADDED:
        return (1 << (span - 1).bit_length(),)
    latest = max(shift for _, _, shift, _ in axis)
    read = [{latest - shift for p, r, shift, _ in axis if (phase is None or p == phase) and r == residue}
            for phase in ({None} if merged else {p for p, *_ in axis}) for residue in {r for _, r, *_ in axis}]

    def least(bundles):
        ages = [range(sum(bundles[:i]), sum(bundles[:i + 1])) for i in range(len(bundles))]
        return sum(WARPGROUP + size * live[0] * channels for met in read for size, of in zip(bundles, ages) if met & set(of))

    return min(_parts(span), key=lambda bundles: (least(bundles), bundles))


def _parts(count: int):
    """Powers of two in every order that add up to count."""
    if not count:
        yield ()
    for size in (1 << i for i in range(count.bit_length())):
        yield from ((size, *rest) for rest in _parts(count - size))


def _sheets(axes, high: int, lines: tuple[int, int, int, bool] | None, along: int,
            second: int) -> tuple[dict[tuple[int, int, int], tuple[int, Sheet]], int]:
    """The sheets of a plane, and their numbers, by (residue of h, residue of w, shift of w), and how many rows they are, or 16 bytes of lines.
    Two residues of w that are loaded at once have the same places; side by side, the second so many further, they are one."""
    found, row, numbers = {}, 0, count()
    residues_w = sorted({r for _, r, *_ in axes[2]})
    for rh, rw in product(sorted({r for _, r, *_ in axes[1]}), residues_w):
        reach = [s for _, r, s, _ in axes[1] if r == rh]  # rows of a sheet begin with the lowest shift of their residue
        shifts = sorted({s for _, r, s, _ in axes[2] if r == rw})
        for together in [shifts] if lines else [[s] for s in shifts]:
            first, beside = together[0], together[-1] - together[0]
            if second >= 0:  # loaded from the first place that either has
                first, beside = first - second, 1 << (beside + second - 1).bit_length() if beside + second else 0
            elif lines and lines[2] == 2:
                spread = [s for _, _, s, _ in axes[2]] if len(residues_w) > 1 else together
                first = min(spread) // (unit := 3 - len(residues_w)) * unit
                beside = max(spread) - first
                beside += beside % unit
            pitch, rows = 1, high + max(reach) - min(reach)
            if along:
                first, beside, rows = min(reach) * along + first, (rows - high) * along + beside, 1
            if lines and second >= 0:
                pitch = lines[0] * lines[1] * 2
            elif lines:
                beside, pitch = _line(*lines, beside, len(residues_w))
            sheet = next(numbers), Sheet(rh, 0 if along else min(reach), rows, rw, first, row, beside, pitch)
            row += rows * pitch
            found |= {(rh, rw, shift): sheet for shift in together}
    return found, row


def _line(units: int, wide: int, run: int, whole: bool, beside: int, residues: int) -> tuple[int, int]:
    """Places beside those of a patch that lines have, and how many 16 bytes so many lines take. whole: there is room for as many beside as in
    it; else for a power of two, and for one more after two lines where neighbours that are read at once would meet in the banks."""
    if whole or not beside:
        return beside, units * wide * (1 + (beside > 0))
    beside = 1 << (beside - 1).bit_length()
    if gluon() >= (3, 9):  # which does not see memory with gaps
        return beside, units * wide * (2 if beside <= wide else 4)
    return beside, units * (wide + beside) + units // 2 * (run > residues)


def _live(merged: bool, axis, columns) -> tuple[int, ...]:
    """How many phases are columns, by how many steps are still to come: those along d that begin later may be left out where they
    are the second half, since a product cannot write to a part of its sums."""
    shifts = [shift for _, _, shift, _ in axis]
    span = max(shifts) - min(shifts) + 1
    begun = [{p for p, _, shift, _ in axis if shift <= max(shifts) - age} for age in range(span)]
    counts = [sum(c[0] in phases for c in columns) if merged else len(columns) for phases in begun]
    whole = all(few in (many, many / 2) for many, few in zip(counts, counts[1:])) and all(
        c[0] in phases for phases, n in zip(begun, counts) for c in (columns[:n] if merged else ()))
    return tuple(counts) if whole else (len(columns),) * len(counts)


def _tap(known, size, phase, residue, shift) -> int:
    """The tap by which a phase adds a residue of a shifted place, counted over all axes; -1 where there is none. known: that of each
    axis by (phase, residue, shift); size: of the kernel."""
    (of_d, of_h, of_w), (pd, ph, pw), (rd, rh, rw), (sd, sh, sw) = known, phase, residue, shift
    d, h, w = of_d.get((pd, rd, sd), -1), of_h.get((ph, rh, sh), -1), of_w.get((pw, rw, sw), -1)
    return -1 if min(d, h, w) < 0 else (d * size[1] + h) * size[2] + w
