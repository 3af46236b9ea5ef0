"""How a problem is computed: the tile, as a value, and whether it fits a problem and a device. Which one is good, search.py
says.
"""

from dataclasses import dataclass

from ..problems.problem import BACKWARD, OVERHANG, Problem, exceed_31_bits
from . import boxes, flat, pairs, taps, walks, weight_pairs, weight_turns, weight_walks
from .boxes import copyable, seen  # noqa: F401: asked of a config by others
from .device import Device
from .phases import join_factor, rows_and_reduction  # noqa: F401: asked of a config by others
from .recall import recalled

PATHS = ("gather", "descriptor", "direct", "onepass", "walk", "pair")
STATISTICS = ("gather", "descriptor", "direct")  # paths whose kernels leave partial statistics of what they write
SHARED = ("gather", "descriptor", "pair")  # paths whose programs may share the steps of a tile of an input gradient
SMALLEST_DOT = 16  # rows, columns and reduction of the smallest product on tensor cores


@dataclass(frozen=True)
class Config:
    """Tiles of one product.

    gather: block_m rows (phase, channel), block_n positions, block_k reduction channels, on tensor cores. For
    grad_weight: block_m rows (shift of x, input channel), block_n columns (shift of dz, output channel), block_k positions.
    descriptor: the same product, with its positions read by tensor descriptor: those of a box (d, h, w) of block_n, or,
    where box is zero, block_n neighbours in flat order.
    direct: block_m channels by block_n positions, without tensor cores.
    walk: the same sums, with every plane fetched once: block_m channels of each phase, block_n places (h, w) of a patch, of box
    (planes along d, h, w), block_k channels side by side; a box of one row is a run of places, row after row of a plane; stages: planes that
    are kept (planning/walks.py).
    pair: the gather product, or that of a weight gradient, by the programs of a cluster, so many: block_m by block_n of all together, of
    which each has its part of one side and all of the other, which is fetched once for all (planning/pairs.py, weight_pairs.py).
    halo: a step of a pair fetches the rows along h of all taps along h at once; the programs part a box along w (planning/halos.py).
    A walk of 16 bits channels-last fetches a plane once for all taps along w, into lines.
    onepass: all gradients of a kernel = stride layer at once; block_m >= input channels, block_n >= output channels times
    taps, block_k positions, and as many programs as shares.
    copy: a channels-first x, or dz of an input gradient, is copied to channels_last first; by a walk and a pair, padded where it must be; of a
    grad_weight both are copied as taps.py explains, by a pair dz as weight_pairs.py does. Without one, a walk reads TF32 as it lies.
    merge: which axes have their phases among the rows; a walking input gradient may sum residues along w side by side, of a copy or as
    words of 16 bits have two, and one with taps among the channels may have pairs of places along w among its rows.
    flat: of how many axes of an input gradient, w first, the taps are summed over beside the channels, block_k of both at a time
    (planning/flat.py).
    shares: programs that share a reduction over positions, or, of an input gradient, over taps and channels. taps: the way of each axis
    in a grad_weight on tensor cores: its taps are "programs", "columns", "crossed", or of neighbours, "by two" or "by four" (taps.py). Of
    a walk, those along d: products of their own, columns of few products, or of one (walk_tables.py).
    """

    path: str
    block_m: int
    block_n: int
    block_k: int = 1
    warps: int = 4
    stages: int = 1
    merge: tuple[bool, bool, bool] = (False, False, False)
    shares: int = 1
    box: tuple[int, int, int] = (0, 0, 0)
    copy: bool = False
    taps: tuple[str, str, str] = ("programs", "programs", "programs")
    flat: int = 0
    cluster: int = 2
    halo: bool = False

    def but(self, **changes) -> "Config":
        """The same but for these fields: as dataclasses.replace has it, in a fraction of the time; planning does it a thousand times."""
        if not changes.keys() <= vars(self).keys():
            raise TypeError(f"{', '.join(changes)} are not all fields of a config")
        found = object.__new__(Config)
        vars(found).update(vars(self), **changes)
        return found

    @property
    def dense(self) -> bool:
        """A product on tensor cores."""
        return self.path != "direct"

    @property
    def ctas(self) -> int:
        """Programs of a cluster, which the grid counts once."""
        return self.cluster if self.path == "pair" else 1

    def __str__(self) -> str:
        words = [self.path, f"{self.block_m}x{self.block_n}" + f"x{self.block_k}" * self.dense,
                 f"{self.warps} warps", f"{self.stages} stages"]
        if any(self.box):
            words.append(f"boxes of {'x'.join(map(str, self.box))}")
        words += [f"clusters of {self.ctas}"] * (self.ctas > 2)
        words += ["a halo along " + ("w" if self.path == "walk" else "h")] * self.halo + ["a copy first"] * self.copy
        if any(self.merge):
            words.append("phases merged along " + ", ".join(a for a, m in zip("dhw", self.merge) if m))
        words += [f"taps of {', '.join('dhw'[-self.flat:])} among the channels"] * (self.flat > 0)
        words += [f"taps of {a} {way}" for a, way in zip("dhw", self.taps) if way != "programs"]
        return ", ".join(words + [f"{self.shares} shares"] * (self.shares > 1))


def walking(problem: Problem):
    """Who knows the walks of a problem: functions of one name answer for every direction."""
    if problem.direction != "grad_weight":
        return walks
    return weight_walks if weight_walks.readable(problem) else weight_turns


def pairing(problem: Problem):
    """Who knows the pairs of programs of a problem, likewise."""
    return weight_pairs if problem.direction == "grad_weight" else pairs


def overhang(config: Config, problem: Problem) -> int:
    """How many positions beyond the last may be counted: by its tile, which splits or joins some, or by shares left idle."""
    block = config.block_k if config.dense and problem.direction not in ("forward", "grad_input") else config.block_n
    return block * max(config.shares, taps.split_factor(problem, config), join_factor(problem, config.merge))


@recalled
def shared_memory(config: Config, problem: Problem) -> int:
    """Bytes that one program uses, an upper estimate that the compiler's figure must not exceed: the pipelined tiles, or
    after them the accumulator on its way into the order of the store; and the barriers."""
    if not config.dense:
        return 0
    if config.path == "walk":
        return walking(problem).shared_memory(problem, config)
    if config.path == "pair":
        return pairing(problem).shared_memory(problem, config)
    if config.path == "onepass":  # the weight, and per stage x, dy and what is saved; dz in the two orders of its products
        tile = config.block_k * (config.block_m + (2 if problem.epilogue.activation else 1) * config.block_n)
        held = config.block_m * config.block_n + 2 * config.block_k * config.block_n
        return problem.item * (config.stages * tile + held) + 1024
    split = taps.split_factor(problem, config)
    if problem.direction == "grad_weight":
        tile = config.block_k * (config.block_m + config.block_n * split)
    else:
        tile = config.block_k * split * (config.block_m + config.block_n)
    accumulators = config.block_m * config.block_n * (1 if config.merge[2] else join_factor(problem, config.merge))
    accumulators *= split if problem.direction == "grad_weight" else 1
    return max(problem.item * tile * config.stages, 4 * accumulators) + 1024


def shares_steps(config: Config, problem: Problem) -> bool:
    """Whether several programs share the steps of a tile, and what they leave is added up."""
    return config.shares > 1 and problem.direction == "grad_input" and config.path in SHARED


def sums_bias(config: Config, problem: Problem) -> bool:
    """Whether a weight gradient whose layer has a bias sums dz for it on the way."""
    return problem.direction == "grad_weight" and config.path == "walk" and walking(problem).sums(problem, config)


def fits(config: Config, problem: Problem, device: Device) -> str | None:
    """None if config can compute problem on device, else the reason why not."""
    if config.path not in PATHS:
        return f"path {config.path!r} is not one of {', '.join(PATHS)}"
    for name in ("block_m", "block_n", "block_k", "warps"):
        value = getattr(config, name)
        if value < 1 or value & (value - 1):
            return f"{name} = {value} is not a power of two"
    if min(config.stages, config.shares) < 1 or (
            config.shares > 1 and not (problem.direction in ("grad_weight", BACKWARD) or shares_steps(config, problem))):
        return (f"stages = {config.stages} and shares = {config.shares}: at least 1, and shares are those of a grad_weight, or of a "
                f"grad_input by {' or '.join(SHARED)}")
    if (beyond := overhang(config, problem)) > OVERHANG:
        return f"tiles and shares may count {beyond} positions beyond the last, more than offsets have room for: {OVERHANG}"
    if (config.path == "onepass") != (problem.direction == BACKWARD):
        return f"path {config.path!r} does not compute {problem.direction}"
    if problem.epilogue.statistics and config.path not in STATISTICS:
        return f"path {config.path!r} takes no statistics of what it writes"
    if config.halo and (config.path not in ("walk", "pair") or problem.direction not in ("forward", "grad_input")):
        return f"path {config.path!r} keeps no halo in a {problem.direction}"
    if any(config.box) and config.path not in ("descriptor", "walk", "pair"):
        return f"path {config.path!r} has no boxes, received {config.box}"
    if config.flat and (reason := flat.fits(config, seen(problem, config))):
        return reason
    if config.path == "walk":
        return walking(problem).fits(config, problem, device) or _fits_shared_memory(config, problem, device)
    if config.path == "pair":
        return pairing(problem).fits(config, problem, device) or _fits_shared_memory(config, problem, device)
    if config.copy and (reason := _fits_copy(config, problem)):
        return reason
    problem = seen(problem, config)
    if any(way != "programs" for way in config.taps) and not (config.dense and problem.direction == "grad_weight"):
        return f"taps = {config.taps} are those of a grad_weight on tensor cores"
    if config.path == "onepass":
        return _fits_one_pass(config, problem, device)
    for axis, merged, name in zip(problem.axes, config.merge, "dhw"):
        if merged and not config.flat and (axis.dilation != 1 or problem.direction != "forward"):
            return f"phases along {name} cannot be merged: only those of a forward with dilation 1 can"
    if not config.dense:
        return "the direct path does not merge phases" if any(config.merge) else None
    return _fits_tensor_cores(config, problem, device) or (
        _fits_descriptor(config, problem, device) if config.path == "descriptor" else None)


def _fits_copy(config: Config, problem: Problem) -> str | None:
    """Why nothing can be copied first, or None."""
    if problem.direction != "grad_weight":
        return None if config.dense and copyable(problem) else (
            "a copy to channels_last is made for tensor cores, of a channels-first x or dz whose taps shift along w or that is "
            "TF32, and whose channels are a multiple of 16 bytes")
    if config.path != "gather" or not taps.copyable(problem):
        return "copies of x and dz are made for a weight gradient on tensor cores that is TF32 and channels-first"
    if not problem.wide and exceed_31_bits(*taps.copied_elements(problem, config)):
        return "a copy has more elements than 31 bits can count"
    return None


def _fits_tensor_cores(config: Config, problem: Problem, device: Device) -> str | None:
    if problem.dtype == "float64":
        return "tensor cores of this path do not take float64; use the direct path"
    if min(config.block_m, config.block_n, config.block_k) < SMALLEST_DOT:
        return f"a product of {config.block_m}x{config.block_n}x{config.block_k} is below {SMALLEST_DOT} on an axis"
    if problem.direction == "grad_weight" and (reason := _fits_taps(config, problem)):
        return reason
    joined = join_factor(problem, config.merge)
    if joined & (joined - 1):
        return f"{joined} phases along w cannot be joined: not a power of two"
    if config.merge[2] and joined > 1 and config.block_m < joined:
        return f"block_m = {config.block_m} holds less than one joined run of {joined} phases"
    accumulators = config.block_m * config.block_n * (2 if joined > 1 and not config.merge[2] else 1)
    accumulators *= taps.split_factor(problem, config) if problem.direction == "grad_weight" else 1
    # Offsets of 64 bits, the tile of a residual and places that are written one by one take registers, too.
    single = problem.direction == "forward" and problem.y_layout == "channels_first" and problem.y_run == 1 and any(config.box)
    if accumulators > (64 if problem.wide or problem.epilogue.residual or single else 128) * 32 * config.warps:
        return f"an accumulator of {accumulators} values leaves {config.warps} warps without registers"
    if device.tensor_memory and (columns := _columns(config, problem, accumulators)) > device.tensor_memory:
        return f"{columns} columns of tensor memory are needed, {device.name} has {device.tensor_memory}"
    return _fits_shared_memory(config, problem, device)


def _columns(config: Config, problem: Problem, accumulators: int) -> int:
    """Columns of tensor memory that a product takes: neighbours that are parted have an accumulator each, and first operands of 128 rows
    that are rounded go there, too, in pairs."""
    parted = taps.split_factor(problem, config) if problem.direction == "grad_input" else 1
    rounded = 2 * config.block_m * config.block_k if problem.rounded and config.block_m >= 128 else 0
    return parted * (accumulators + rounded) // 128


def _fits_taps(config: Config, problem: Problem) -> str | None:
    """Why the axes of a weight gradient cannot be walked so, or None."""
    if reason := taps.refused(problem, config):
        return reason
    if (shifts := taps.shifts(problem, config)) > taps.MOST_SHIFTS:
        return f"{shifts} shifts of the three axes are more than the {taps.MOST_SHIFTS} that the kernel has bits for"
    if exceed_31_bits(*problem.out_size, *(axis.size * axis.stride for axis in problem.axes)):
        return "an axis has more places than 31 bits can count"
    if not problem.wide and exceed_31_bits(taps.boxes(problem, config)):
        return "there are more boxes of positions than 31 bits can count"
    return None


def _fits_one_pass(config: Config, problem: Problem, device: Device) -> str | None:
    if not problem.exact or problem.groups > 1 or problem.item != 2:
        return "one pass computes all gradients of a 16-bit layer with kernel = stride, nothing cropped, one group"
    if not device.warpgroups:
        return (f"tensor cores of {device.name} take operands by registers, and those of two products do not fit beside "
                "a sum")
    if problem.w_minor == "scattered":
        return "one pass reads a weight with one stride from tap to tap"
    width = problem.stride[2]
    if problem.y_layout == "channels_first" and width > 2:
        return f"{width} phases along w cannot be split: one pass parts pairs, and of more Triton compiles some tiles alone"
    columns = problem.co * problem.taps
    smallest = min(config.block_m, config.block_n, config.block_k)
    if config.block_m < problem.ci or config.block_n < columns or smallest < SMALLEST_DOT:
        return f"{config.block_m}x{config.block_n} does not hold {problem.ci} input channels by {columns} columns"
    if config.block_m * config.block_n > (32 if problem.wide else 64) * 32 * config.warps:
        return f"an accumulator of {config.block_m}x{config.block_n} leaves {config.warps} warps without registers"
    return _fits_shared_memory(config, problem, device)


def _fits_shared_memory(config: Config, problem: Problem, device: Device) -> str | None:
    needed = shared_memory(config, problem)
    if needed > device.shared_memory:
        return f"{needed} bytes of shared memory are needed, {device.name} has {device.shared_memory}"
    return None


def _fits_descriptor(config: Config, problem: Problem, device: Device) -> str | None:
    if not device.descriptors:
        return f"{device.name} has no engine for tensor descriptors: capability 9.0 and later do"
    if problem.direction == "grad_weight":
        return "the weight gradient has no descriptor form; use the gather path"
    return boxes.fits(config, problem)
