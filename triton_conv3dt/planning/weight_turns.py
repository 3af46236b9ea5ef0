"""The walking weight gradient of tensors that no descriptor reads, or that products do not take as they lie: its tile, what a step reads,
and what that takes of registers and shared memory.

A config's block_m are output channels, its block_n input channels, and its box (1, h, w) of block_k places is the patch of a step. taps
along d are "crossed" where a program has all of one residue of dz, or "programs". kernels/turn_weight.py says what is done with them.
"""

from functools import lru_cache
from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem, exceed_31_bits
from .device import Device, gluon
from .turn_constants import TurnGroup, TurnProduct, TurnSheet, WeightTurn
from .weight_walks import axes, packs, weight_bytes, weight_read  # noqa: F401: asked of both walks alike

LINES, ROWS = 32, 64  # of a tile of dz, and of a product, which is two of them
FEWEST = 8  # output channels: rows of a product are in eights
CHUNKS = 64, 128  # bytes of a channel of x that lie side by side, by as many of dz a thread has at once beside its sums
MANY = 128  # registers of sums that leave room for few
WORD = 4  # bytes that are copied at once
SLACK = 2048  # bytes beside what is kept, which begins at multiples of 1024
REGISTERS = 176  # of a thread that sums and places of x may take: beyond, ptxas spills
ONE_BY_ONE = 8  # fewer, where rows of few lines are read one by one, or few warps cross taps of rows that begin anywhere in memory
MOST = 4  # rows that are copied at once
WAYS = (("crossed", "columns", "columns"), ("programs", "columns", "columns"))


def turned(problem: Problem, config) -> bool:
    """Both are brought to where products read them by loads and copies of elements."""
    return True


def planes(problem: Problem, config) -> int:
    """Planes of x that one of dz meets in a program."""
    d = problem.axes[0]
    return ceil_div(d.kernel, d.stride) if config.taps[0] == "crossed" else 1


@lru_cache(maxsize=4096)
def walk(problem: Problem, config) -> WeightTurn:
    """What one program does in a step, as the kernel is told."""
    _, high, wide = config.box
    h, halves = problem.axes[1], ceil_div(problem.kernel[1] * config.block_m, LINES)
    adds = _adds(problem, config) if sums(problem, config) else range(0)
    sheets, shifts, groups, products = (_words if problem.item < WORD else _elements)(problem, wide, halves, adds)
    reach, most, d = max(sheet.places for sheet in sheets) - wide, planes(problem, config), problem.axes[0]
    whole, rest = divmod(d.kernel, d.stride * most)
    # Programs follow each other by residues, and all residues by what a program has of each.
    beyond = [min(most, ceil_div(rest - i, d.stride)) for i in range(min(rest, d.stride))]
    whole = whole * d.stride + beyond.count(most)
    return WeightTurn(
        high, wide, most, whole, min((n for n in beyond if n < most), default=0), config.block_m, config.block_n,
        ceil_div(problem.co, config.block_m), ceil_div(problem.ci, config.block_n), h.stride * (high - 1) + h.kernel,
        h.stride * (high - 1) + ceil_div(halves * LINES, config.block_m), 2 * wide if reach else wide, MOST,
        chunk(problem, config, _tiles(products)), shifts, problem.wide, sheets, groups, products, len(adds))


def chunk(problem: Problem, config, products: int) -> int:
    """Bytes of a channel of x that are multiplied at once: of words that are parted, and beside many sums, few."""
    few = problem.item < WORD or _sums(config, products * planes(problem, config)) > MANY
    return CHUNKS[0] if few or config.block_k * problem.item % CHUNKS[1] else CHUNKS[1]


def _tiles(products) -> int:
    """Products of all input channels that a program has."""
    return sum(len(product.taps) for product in products)


def _sums(config, products: int) -> int:
    """Registers of a thread."""
    return ROWS * config.block_n * products // (32 * config.warps)


def sums(problem: Problem, config) -> bool:
    """Whether dz is summed for the bias on the way: it is wanted, and taps that are not shifted have all of dz, once. They are as many as
    the stride, and their patches reach the end of dz, as those of words do along w."""
    d, *others = problem.axes[:2 if problem.item < WORD else 3]
    whole = all(0 <= a.padding <= a.kernel - a.stride and a.out <= a.stride * ceil_div(a.size, side) * side
                for a, side in zip(others, config.box[1:]))
    return problem.epilogue.bias and whole and d.kernel >= d.stride


def sum_rows(problem: Problem, config) -> int:
    """Sums for the bias of each channel: of every share, residue along d and residue along h."""
    return config.shares * problem.stride[0] * problem.stride[1]


def _adds(problem: Problem, config) -> range:
    """Which 32 lines of the taps along h have some of a tap that is not shifted."""
    h = problem.axes[1]
    return range(h.padding * config.block_m // LINES, ceil_div((h.padding + h.stride) * config.block_m, LINES))


@lru_cache(maxsize=1024)
def _elements(problem: Problem, wide: int, halves: int, adds: range) -> tuple:
    """Sheets, shifts of x, groups and products of single elements: a sheet for each residue, of which every tap along w is another tile."""
    w = problem.axes[2]
    shifted = [(*divmod(k - w.padding, w.stride), k) for k in range(w.kernel)]
    reached = {}  # residue: shifts
    for shift, residue, _ in shifted:
        reached.setdefault(residue, set()).add(shift)
    sheets = tuple(TurnSheet(r, min(found), wide + max(found) - min(found)) for r, found in sorted(reached.items()))
    number = {sheet.residue: i for i, sheet in enumerate(sheets)}
    tiles = [(number[r], half, shift - sheets[number[r]].first, k) for half in range(halves) for shift, r, k in shifted]
    tiles.sort(key=lambda tile: (tile[1] == halves - 1 and halves % 2, tile[0], tile[2], tile[1]))
    groups, products = [], []
    for pair in _pairs(tiles):
        sheet, half, offset, taps = zip(*pair)
        added = [t[1] - adds.start if t[1] in adds and sheets[t[0]].first + t[2] == 0 else -1 for t in pair]
        if pair[0] == pair[1]:
            added, taps = (added[0], -1), (taps[0], -1)
        groups.append(TurnGroup(sheet, half, offset, len(products), 1, tuple(added)))
        products.append(TurnProduct(half, (taps,)))
    return sheets, (0,), tuple(groups), tuple(products)


@lru_cache(maxsize=1024)
def _words(problem: Problem, wide: int, halves: int, adds: range) -> tuple:
    """The same of words of two residues: one sheet, whose tiles are read once for all taps along w, and what these shift is x. Two tiles
    are products of every residue, by the taps of neighbouring shifts at once; of one alone, both residues are, where taps shift x alike."""
    w = problem.axes[2]
    shifts = sorted({(k - w.padding) // w.stride for k in range(w.kernel)})
    tap = lambda residue, i: k if 0 <= (k := shifts[i] * w.stride + residue + w.padding) < w.kernel else -1
    groups, products = [], []
    for half in _pairs(range(halves)):
        alone, first = half[0] == half[1], len(products)
        both = [i for i in range(len(shifts)) if min(tap(0, i), tap(1, i)) >= 0] if alone else []
        if alone:
            products += [TurnProduct(half, tuple((tap(0, i), tap(1, i)) for i in run), (0, 1), run[0]) for run in _runs(both)]
        for r in range(w.stride):
            left = [i for i in range(len(shifts)) if tap(r, i) >= 0 and i not in both]
            products += [TurnProduct(half, tuple((tap(r, i), -1 if alone else tap(r, i)) for i in run), (r, r), run[0]) for run in _runs(left)]
        added = [i - adds.start if i in adds else -1 for i in half]
        groups.append(TurnGroup((0, 0), half, (0, 0), first, len(products) - first, (added[0], -1 if alone else added[1])))
    return (TurnSheet(0, 0, wide),), tuple(shifts), tuple(groups), tuple(products)


def _runs(shifts: list[int]) -> list[list[int]]:
    """Neighbours among numbers that rise, in runs of powers of two."""
    found = []
    while shifts:
        count = next(n for n in (8, 4, 2, 1) if shifts[:n] == list(range(shifts[0], shifts[0] + n)))
        found.append(shifts[:count])
        shifts = shifts[count:]
    return found


def _pairs(tiles) -> list[tuple]:
    """Neighbours; the last is its own where they are odd."""
    return [(tiles[i], tiles[min(i + 1, len(tiles) - 1)]) for i in range(0, len(tiles), 2)]


def sizes(problem: Problem, config) -> tuple[int, int, int]:
    """Steps along d, of which the first read x alone, and patches along h and w."""
    h, w = _places(problem)
    _, high, wide = config.box
    return ceil_div(problem.out_size[0], problem.stride[0]) + planes(problem, config) - 1, ceil_div(h, high), ceil_div(w, wide)


def _places(problem: Problem) -> tuple[int, int]:
    """Places of a plane along h, and along w: those of x, or words of dz, which x is shifted to."""
    return problem.in_size[1], problem.out_size[2] // 2 if problem.item < WORD else problem.in_size[2]


def steps(problem: Problem, config) -> int:
    """Steps of all samples."""
    return problem.n * prod(sizes(problem, config))


def loop_steps(problem: Problem, config, places: tuple[int, int, int]) -> int:
    """Steps of all programs together."""
    return grid(problem, config, places) * steps(problem, config)


def grid(problem: Problem, config, places: tuple[int, int, int]) -> int:
    """Programs of a share: output channels, input channels, and taps along d beyond those of one."""
    turn = walk(problem, config)
    return turn.output_tiles * turn.input_tiles * _along(problem, turn)


def _along(problem: Problem, turn: WeightTurn) -> int:
    """Programs along d."""
    return turn.whole + ((problem.kernel[0] - turn.whole * turn.planes) // turn.fewer if turn.fewer else 0)


def products(problem: Problem, config) -> float:
    """Products of all planes in a step, on average over programs."""
    turn = walk(problem, config)
    return _tiles(turn.products) * problem.kernel[0] / _along(problem, turn)


def step_bytes(problem: Problem, config) -> int:
    """Bytes that a step reads: of whole patches, and of the rows and places beside them."""
    turn = walk(problem, config)
    words = turn.rows * config.block_m * sum(sheet.places for sheet in turn.sheets)
    return WORD * words + problem.item * _x(config, turn)


def _x(config, turn: WeightTurn) -> int:
    """Elements of x that a step reads: for every shift, but those that all have once, as L1 keeps them."""
    return turn.high * (turn.wide + turn.shifts[-1] - turn.shifts[0]) * config.block_n


def fetched(problem: Problem, config) -> float:
    """Which part of what is copied is read: what lies beyond the last channel, plane, row or place is not."""
    turn, (depth, _, _) = walk(problem, config), sizes(problem, config)
    x = problem.item * _x(config, turn)
    z = step_bytes(problem, config) - x
    inside = prod(n / (ceil_div(n, side) * side) for n, side in zip(_places(problem), config.box[1:]))
    x *= problem.ci / (turn.input_tiles * config.block_n)
    z *= problem.co / (turn.output_tiles * config.block_m) * (depth - turn.planes + 1) / depth
    return inside * (x + z) / step_bytes(problem, config)


def shared_bytes(problem: Problem, config) -> int:
    """Bytes that a step moves through shared memory: what copies write, x for each shift, lines of dz that are read for each group by all
    warps, and x, which is read anew for every product."""
    turn = walk(problem, config)
    lines = WORD * len(turn.groups) * ROWS * config.block_k * (config.warps // 4)
    x = config.block_k * config.block_n
    written = step_bytes(problem, config) + problem.item * (len(turn.shifts) * x - _x(config, turn))
    return written + lines + int(problem.item * x * products(problem, config))


def multiplied(problem: Problem, config) -> float:
    """Multiplications of a step, with what is padded, on average over programs."""
    return ROWS * config.block_n * config.block_k * products(problem, config)


def instructions(problem: Problem, config) -> float:
    """What a warp issues in a step, about, beside what every step takes: words of dz that are copied, and read and rounded or parted for
    each group, elements of x, and products."""
    turn, threads = walk(problem, config), 32 * config.warps
    halves = config.block_k * problem.item // turn.chunk
    words = turn.rows * config.block_m * sum(sheet.places for sheet in turn.sheets) / threads
    lines = len(turn.groups) * ROWS * config.block_k / 128 * 3
    x = len(turn.shifts) * config.block_k * config.block_n / threads
    lines += sum(to >= 0 for group in turn.groups for to in group.adds) * LINES * config.block_k / 128 * (4 if problem.item < WORD else 1)
    if problem.item < WORD:  # whose lines are read once for several products, of which each has its registers
        return 2 * words + lines / 2 + 1.8 * x + 17 * halves * len(turn.products) * products(problem, config) / _tiles(turn.products)
    return 3 * words + lines + 8 * x + products(problem, config) * config.block_k * problem.item / 32 + 16 * halves * len(turn.groups)


def shared_memory(problem: Problem, config) -> int:
    """Bytes that one program uses, an upper estimate."""
    turn = walk(problem, config)
    sheets = WORD * turn.height * config.block_m * turn.pitch * len(turn.sheets)
    x = len(turn.shifts) * problem.item * config.block_k * config.block_n
    if gluon() >= (3, 9):  # of which no tile that is seen may end outside
        sheets += 5 * 8 * WORD * turn.pitch // 2
    return 2 * sheets + (turn.planes + 1) * x + SLACK


def registers(problem: Problem, config) -> int:
    """Of a thread, for the sums of all taps and for its places of x."""
    turn = walk(problem, config)
    return _sums(config, _tiles(turn.products) * turn.planes) + len(turn.shifts) * config.block_k * config.block_n // (32 * config.warps)


def fits(config, problem: Problem, device: Device) -> str | None:
    """Why a weight gradient cannot be walked so, or None."""
    if not device.walks or gluon() < (3, 7):
        return f"{device.name} does not walk: it takes Hopper, and a Triton with Gluon"
    if not (problem.rounded or problem.item == 2) or problem.groups > 1 or any(a.dilation != 1 for a in problem.axes):
        return "a walk of a weight gradient takes 16-bit or TF32 tensors, one group and dilation 1"
    if problem.item == 2 and (problem.stride[2] != 2 or problem.y_layout != "channels_first" or problem.y_run < 2):
        return "a walk reads words of a 16-bit gradient that are two residues: channels_first, stride 2 along w, rows of an even width"
    if config.copy:
        return "a walking weight gradient reads x and dz as they are, and copies neither"
    if config.taps not in WAYS:
        return f"a walk has its taps {' or '.join(map(', '.join, WAYS))} along d, h, w, received {', '.join(config.taps)}"
    one, high, wide = config.box
    if one != 1 or min(high, wide) < 1 or prod(config.box) != config.block_k or wide % 8 or wide * problem.item > CHUNKS[0] \
            or config.block_k * problem.item % CHUNKS[0]:
        return f"a patch is 1 x h x w places, block_k in all, w a multiple of 8 and h of those of {CHUNKS[0]} bytes; received {config.box}"
    if config.warps not in (4, 8) or config.stages != 2:
        return f"a walk has 4 or 8 warps and 2 stages, received {config.warps} and {config.stages}"
    if not FEWEST <= config.block_m <= 128 or not 8 * (config.warps // 4) <= config.block_n <= 256 or config.block_n < 16:
        return f"a walk has {FEWEST} to 128 output channels and 16 to 256 input channels, received {config.block_m} and {config.block_n}"
    stride, turn = problem.stride[1], walk(problem, config)
    if stride & (stride - 1):
        return f"rows of dz that are read at once lie {stride} apart, no power of two"
    if any(sheet.places > 2 * wide for sheet in turn.sheets):
        return f"taps along w reach further than the {wide} places of a patch"
    narrow = problem.y_run == 1 and config.taps[0] == "crossed" and config.warps == 4
    most = REGISTERS - ONE_BY_ONE * (narrow or stride * config.block_m < LINES)
    if (taken := registers(problem, config)) > most:
        return f"sums and places of x would take {taken} registers of a thread, {most} are left for them"
    if exceed_31_bits(*problem.out_size, steps(problem, config) + config.shares):
        return "there are more steps or places in a row than 31 bits can count"
    return None
