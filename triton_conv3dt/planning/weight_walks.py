"""The walking form of a weight gradient: its tile, what a step fetches, and what that takes of registers and shared memory.

A config's block_m rows are (tap along d, input channel), its block_n columns output channels of one tap (h, w) each, and its
box (1, h, w) of block_k places is the patch of a step. taps along h are "columns" where a program has all of them, "programs"
where those of one residue of dz are a program of their own. kernels/walk_weight.py says what is done with them.
"""

from functools import lru_cache
from math import ceil, prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem, exceed_31_bits
from .device import Device
from .walk_constants import Fetch, WalkedAxis, WeightProduct, WeightWalk

WARPGROUP = 64  # rows of one product
ATOM = 8  # rows of shared memory by which its banks are permuted: a run of rows begins at a multiple
ROW = 128  # bytes of a row at most of what a copy permutes
SLACK = 3072  # bytes for barriers, and for buffers that begin at multiples of 1024
REGISTERS = 216  # of a thread that sums and places of x may take: beyond, ptxas spills, and lets products wait for each other
WAYS = (("crossed", "columns", "columns"), ("crossed", "programs", "columns"))


def readable(problem: Problem) -> bool:
    """x and dz are read by descriptor, and multiplied as they lie: 16 bits in channels_last. Others are turned (weight_turns.py)."""
    return problem.item == 2 and problem.x_layout == problem.y_layout == "channels_last"


def turned(problem: Problem, config) -> bool:
    """Nothing passes by registers on its way to shared memory."""
    return False


def sums(problem: Problem, config) -> bool:
    """dz is not summed for the bias on the way."""
    return False


def axes(problem: Problem) -> list[WalkedAxis]:
    """What the kernel is told of d, h and w."""
    return [WalkedAxis(a.kernel, a.stride, a.padding) for a in problem.axes]


def slots(problem: Problem, axis: int) -> int:
    """Taps of a residue along an axis, of that which has the most."""
    return ceil_div(problem.axes[axis].kernel, problem.axes[axis].stride)


def channels(problem: Problem, config) -> int:
    """Input channels of one plane among a program's rows; the planes that are left meet further taps along d."""
    wanted = _power_of_two(max(problem.ci, 16))
    return min(config.block_m, max(wanted, config.block_m // _power_of_two(slots(problem, 0))))


@lru_cache(maxsize=4096)
def walk(problem: Problem, config) -> WeightWalk:
    """What one program does in a step, as the kernel is told."""
    _, high, wide = config.box
    _, h, w = problem.axes
    apart = config.taps[1] == "programs"
    taps_of = {}  # residue along h: its taps
    if apart:
        taps_of[0, 0] = [h.stride * j for j in range(slots(problem, 1))]
    else:
        for k in range(h.kernel):
            shift, residue = divmod(k - h.padding, h.stride)
            first = next((found for found in taps_of if found[0] == residue), (residue, shift))
            taps_of.setdefault(first, []).append(k)
    boxes, rows, products, row = [], [], [], 0
    for k in range(w.kernel):
        shift_w, residue_w = divmod(k - w.padding, w.stride)
        for (residue, shift), taps in taps_of.items():
            boxes.append(Fetch(residue, shift, residue_w, shift_w, row))
            products += [WeightProduct(row + j, tap, k) for j, tap in enumerate(taps)]
            rows += [Fetch(residue, shift + high + j, residue_w, shift_w, row + high + j) for j in range(len(taps) - 1)]
            row += high + len(taps) - 1
    side = channels(problem, config)
    planes = config.block_m // side
    return WeightWalk(high, wide, planes, side, config.block_n, ceil_div(problem.ci, side), ceil_div(problem.co, config.block_n),
                      apart, row, problem.item * wide * high * side, problem.item * wide * row * config.block_n, tuple(boxes),
                      tuple(rows), tuple(products))


def sizes(problem: Problem, config) -> tuple[int, int, int, int]:
    """Steps along d, patches along h and w, and planes of dz."""
    (_, h, w), (_, high, wide), planes = problem.in_size, config.box, problem.out_size[0]
    return ceil_div(planes, problem.stride[0]), ceil_div(h, high), ceil_div(w, wide), planes


def steps(problem: Problem, config) -> int:
    """Steps of all samples."""
    return problem.n * prod(sizes(problem, config)[:3])


def loop_steps(problem: Problem, config, places: tuple[int, int, int]) -> int:
    """Steps of all programs together."""
    return grid(problem, config, places) * steps(problem, config)


def grid(problem: Problem, config, places: tuple[int, int, int]) -> int:
    """Programs of a share: columns, rows, residues along h and d, and taps along d beyond the planes of one."""
    w = walk(problem, config)
    d, h = problem.axes[:2]
    turns, rest = divmod(d.kernel, d.stride * w.planes)
    return w.column_tiles * w.row_tiles * (h.stride if w.apart else 1) * (turns * d.stride + min(rest, d.stride))


def step_bytes(problem: Problem, config) -> int:
    """Bytes that a step fetches, on average: whole boxes, which copies write to shared memory."""
    w = walk(problem, config)
    return ceil(planes_read(problem, config) * w.x_bytes + w.z_bytes)


def fetched(problem: Problem, config) -> float:
    """Which part of what copies write is read: they fill boxes with zeros beyond the last channel."""
    w = walk(problem, config)
    x = planes_read(problem, config) * w.x_bytes * min(1, problem.ci / w.channels)
    return (x + w.z_bytes * min(1, problem.co / w.columns)) / step_bytes(problem, config)


def shared_bytes(problem: Problem, config) -> int:
    """Bytes that a step moves through shared memory: what copies write, and what products read, x once, dz anew for every tap
    and 64 rows."""
    columns = len(walk(problem, config).products) * ceil_div(config.block_m, WARPGROUP) * config.block_n
    return step_bytes(problem, config) + problem.item * config.block_k * (config.block_m + columns)


def planes_read(problem: Problem, config) -> float:
    """Planes of x that a step fetches, on average: one, and all of a program where a patch or the ring of slots begins."""
    planes, depth = walk(problem, config).planes, sizes(problem, config)[0]
    return 1 + (planes - 1) * (1 / depth + (1 - 1 / depth) / (2 * planes))


def multiplied(problem: Problem, config) -> int:
    """Multiplications of a step, with what is padded."""
    return config.block_m * config.block_n * config.block_k * len(walk(problem, config).products)


def weight_bytes(problem: Problem, config) -> int:
    """No weights are kept."""
    return 0


def weight_read(problem: Problem, config) -> float:
    """Nor fetched."""
    return 0.0


def packs(problem: Problem, config) -> bool:
    """No weight is read."""
    return False


def shared_memory(problem: Problem, config) -> int:
    """Bytes that one program uses, an upper estimate."""
    w = walk(problem, config)
    return (3 * w.planes - 1) * w.x_bytes + 2 * w.z_bytes + SLACK


def registers(problem: Problem, config) -> int:
    """Of a thread, for the sums of all taps and for its places of x."""
    threads = 32 * config.warps
    return config.block_m * (len(walk(problem, config).products) * config.block_n + config.block_k // 2) // threads


def described(problem: Problem, config, reading: str, step: int) -> tuple[list, list, list]:
    """Shape, strides and block of the descriptor of patches of x, or of patches or lines of dz; places lie step elements apart."""
    w = walk(problem, config)
    if reading == "x":
        d, h, width = problem.in_size
        return ([problem.n, d, h, width, problem.ci], [d * h * width * step, h * width * step, width * step, step, 1],
                [1, 1, w.high, w.wide, w.channels])
    (d, h, width), (_, sh, sw) = problem.out_size, problem.stride
    return ([problem.n * d, h // sh, sh, width // sw, (sw - 1) * step + problem.co],
            [h * width * step, sh * width * step, width * step, sw * step, 1],
            [1, w.high if reading == "patch" else 1, 1, w.wide, w.columns])


def fits(config, problem: Problem, device: Device) -> str | None:
    """Why a weight gradient that is readable cannot be walked so, or None."""
    if not device.walks:
        return f"{device.name} does not walk: it takes Hopper, and a Triton with Gluon"
    if problem.groups > 1 or any(a.dilation != 1 for a in problem.axes):
        return "a walk of a weight gradient takes 16-bit tensors, one group and dilation 1"
    if min(problem.x_run, problem.y_run) * problem.item < 16 or not problem.even:
        return "a walk reads channels_last tensors with one stride for all places and 16-byte alignment"
    if config.copy:
        return "a walking weight gradient reads x and dz as they are, and copies neither"
    if any(a.out % a.stride for a in problem.axes[1:]):
        return "a walk reads residues of a gradient whose height and width the stride divides"
    if config.taps not in WAYS:
        return f"a walk has its taps {' or '.join(map(', '.join, WAYS))} along d, h, w, received {', '.join(config.taps)}"
    one, high, wide = config.box
    if one != 1 or min(high, wide) < 1 or prod(config.box) != config.block_k or config.block_k < 16 or wide % ATOM:
        return f"a patch is 1 x h x w places, block_k and at least 16 in all, w a multiple of {ATOM}; received {config.box}"
    if config.block_m not in (WARPGROUP, 2 * WARPGROUP) or config.warps * 16 != config.block_m:
        return f"a walk has {WARPGROUP} rows for every 4 warps, 4 or 8 of them"
    if not 16 <= config.block_n <= ROW // problem.item or (problem.stride[2] > 1 and problem.co % config.block_n):
        return f"block_n = {config.block_n} is not one of 16 to {ROW // problem.item} that divide {problem.co} channels"
    if config.taps[1] == "programs" and problem.kernel[1] < problem.stride[1]:
        return "residues along h are no programs where some have no tap"
    if config.stages != 2:
        return f"a walk fetches one step ahead of its products: it has 2 stages, received {config.stages}"
    if (taken := registers(problem, config)) > REGISTERS:
        return f"sums and places of x would take {taken} registers of a thread, {REGISTERS} are left for them"
    if exceed_31_bits(problem.n * problem.out_size[0], *problem.out_size, steps(problem, config) + config.shares):
        return "there are more steps or places in a row than 31 bits can count"
    return None


def _power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()
