"""The walking weight gradient of tensors that no descriptor reads, or that products do not take as they lie: its tile, what a step reads,
and what that takes of registers and shared memory.

A config's block_m are output channels, its block_n input channels, and its box (1, h, w) of block_k places is the patch of a step. taps
along d are "crossed" where a program has all of one residue of dz, or "programs". kernels/turn_weight.py says what is done with them.
"""

from functools import lru_cache
from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem, exceed_31_bits
from .device import Device
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
    sheets, groups, products = _tables(problem, wide, halves, adds)
    reach, most, d = max(sheet.places for sheet in sheets) - wide, planes(problem, config), problem.axes[0]
    whole, rest = divmod(d.kernel, d.stride * most)
    # Programs follow each other by residues, and all residues by what a program has of each.
    beyond = [min(most, ceil_div(rest - i, d.stride)) for i in range(min(rest, d.stride))]
    whole = whole * d.stride + beyond.count(most)
    return WeightTurn(
        high, wide, most, whole, min((n for n in beyond if n < most), default=0), config.block_m, config.block_n,
        ceil_div(problem.co, config.block_m), ceil_div(problem.ci, config.block_n), h.stride * (high - 1) + h.kernel,
        h.stride * (high - 1) + ceil_div(halves * LINES, config.block_m), 2 * wide if reach else wide, MOST,
        chunk(problem, config, len(products)), problem.wide, sheets, groups, products, len(adds))


def chunk(problem: Problem, config, products: int) -> int:
    """Bytes of a channel of x that are multiplied at once: of words that are parted, and beside many sums, few."""
    few = problem.item < WORD or _sums(config, products * planes(problem, config)) > MANY
    return CHUNKS[0] if few or config.block_k * problem.item % CHUNKS[1] else CHUNKS[1]


def _sums(config, products: int) -> int:
    """Registers of a thread."""
    return ROWS * config.block_n * products // (32 * config.warps)


def sums(problem: Problem, config) -> bool:
    """Whether dz is summed for the bias on the way: it is wanted, and taps that are not shifted have all of dz, once. They are as many as
    the stride, and their patches reach the end of dz."""
    d, *others = problem.axes
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
def _tables(problem: Problem, wide: int, halves: int, adds: range) -> tuple:
    """Sheets, groups and products. Of 16 bits a tile is of two residues, which have a product each where they have a tap."""
    w = problem.axes[2]
    shifted = [(*divmod(k - w.padding, w.stride), k) for k in range(w.kernel)]
    joined = problem.item < WORD
    reached = {}  # residue, 0 where two are together: shifts
    for shift, residue, _ in shifted:
        reached.setdefault(0 if joined else residue, set()).add(shift)
    sheets = tuple(TurnSheet(r, min(found), wide + max(found) - min(found)) for r, found in sorted(reached.items()))
    number = {sheet.residue: i for i, sheet in enumerate(sheets)}
    tiles = {}  # (sheet, how far it is shifted, which lines): the tap of each residue
    for half in range(halves):
        for shift, residue, k in shifted:
            i = number[0 if joined else residue]
            tiles.setdefault((i, shift - sheets[i].first, half), {})[residue if joined else 0] = k
    groups, products = [], []
    order = sorted(tiles, key=lambda tile: (-len(tiles[tile]), sorted(tiles[tile]), tile[2] == halves - 1 and halves % 2, tile))
    for first, *others in _pairs(order, tiles):
        second = others[0] if others else None
        pair, taps = (first, second or first), (tiles[first], tiles[second] if second else {})
        residues = tuple(sorted({*taps[0], *taps[1]}))
        sheet, offset, half = zip(*pair)
        added = [t[2] - adds.start if t and t[2] in adds and sheets[t[0]].first + t[1] == 0 else -1 for t in (first, second)]
        groups.append(TurnGroup(sheet, half, offset, residues, len(products), tuple(added)))
        products += [TurnProduct(half, tuple(one.get(r, -1) for one in taps)) for r in residues]
    return sheets, tuple(groups), tuple(products)


def _pairs(order: list, tiles: dict) -> list:
    """Tiles in pairs, each residue of which is a product: alike ones first, neighbours in this order; one is alone where they are odd."""
    pairs, waiting = [], {}
    for tile in order:
        residues = tuple(tiles[tile])
        if residues in waiting:
            pairs.append((waiting.pop(residues), tile))
        else:
            waiting[residues] = tile
    left = [*waiting.values()]
    return pairs + [tuple(left[i:i + 2]) for i in range(0, len(left), 2)]


def sizes(problem: Problem, config) -> tuple[int, int, int]:
    """Steps along d, of which the first read x alone, and patches along h and w."""
    (_, h, w), (_, high, wide) = problem.in_size, config.box
    return ceil_div(problem.out_size[0], problem.stride[0]) + planes(problem, config) - 1, ceil_div(h, high), ceil_div(w, wide)


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
    return len(turn.products) * problem.kernel[0] / _along(problem, turn)


def step_bytes(problem: Problem, config) -> int:
    """Bytes that a step reads: of whole patches, and of the rows and places beside them."""
    turn = walk(problem, config)
    words = turn.rows * config.block_m * sum(sheet.places for sheet in turn.sheets)
    return WORD * words + problem.item * config.block_k * config.block_n


def fetched(problem: Problem, config) -> float:
    """Which part of what is copied is read: what lies beyond the last channel, plane, row or place is not."""
    turn, (depth, _, _) = walk(problem, config), sizes(problem, config)
    x = problem.item * config.block_k * config.block_n
    z = step_bytes(problem, config) - x
    inside = prod(n / (ceil_div(n, side) * side) for n, side in zip(problem.in_size[1:], config.box[1:]))
    x *= problem.ci / (turn.input_tiles * config.block_n)
    z *= problem.co / (turn.output_tiles * config.block_m) * (depth - turn.planes + 1) / depth
    return inside * (x + z) / step_bytes(problem, config)


def shared_bytes(problem: Problem, config) -> int:
    """Bytes that a step moves through shared memory: what copies write, lines of dz that are read for each group by all warps, and x, which
    is read anew for every product."""
    turn = walk(problem, config)
    lines = WORD * len(turn.groups) * ROWS * config.block_k * (config.warps // 4)
    return step_bytes(problem, config) + lines + int(problem.item * config.block_k * products(problem, config) * config.block_n)


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
    x = config.block_k * config.block_n / threads
    lines += sum(to >= 0 for group in turn.groups for to in group.adds) * LINES * config.block_k / 128 * (4 if problem.item < WORD else 1)
    return 3 * words + lines + 8 * x + products(problem, config) * config.block_k * problem.item / 32 + 16 * halves * len(turn.groups)


def shared_memory(problem: Problem, config) -> int:
    """Bytes that one program uses, an upper estimate."""
    turn = walk(problem, config)
    sheets = WORD * turn.height * config.block_m * turn.pitch * len(turn.sheets)
    return 2 * sheets + (turn.planes + 1) * problem.item * config.block_k * config.block_n + SLACK


def registers(problem: Problem, config) -> int:
    """Of a thread, for the sums of all taps and for its places of x."""
    turn = walk(problem, config)
    return _sums(config, len(turn.products) * turn.planes) + config.block_k * config.block_n // (32 * config.warps)


def fits(config, problem: Problem, device: Device) -> str | None:
    """Why a weight gradient cannot be walked so, or None."""
    if not device.pairs:
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
