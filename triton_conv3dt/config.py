"""How a problem is computed: the tile, as a value; whether it fits a device; and the default for any problem.

`default` is a pure function of problem and device. Nothing is timed here and no file is read.
"""

from dataclasses import dataclass, replace

from .device import Device
from .geometry import ceil_div
from .problem import Problem

PATHS = ("gather", "direct")
SMALLEST_DOT = 16  # rows, columns and reduction of the smallest product on tensor cores


@dataclass(frozen=True)
class Config:
    """Tiles of one product.

    gather: block_m rows (phase, channel), block_n positions, block_k reduction channels, on tensor cores. For
    grad_weight: block_m input channels, block_n output channels, block_k positions.
    direct: block_m channels by block_n positions, without tensor cores.
    merge: which axes have their phases among the rows. shares: programs that share a reduction over positions.
    """

    path: str
    block_m: int
    block_n: int
    block_k: int = 1
    warps: int = 4
    stages: int = 1
    merge: tuple[bool, bool, bool] = (False, False, False)
    shares: int = 1

    def __str__(self) -> str:
        words = [self.path, f"{self.block_m}x{self.block_n}" + (f"x{self.block_k}" if self.path == "gather" else ""),
                 f"{self.warps} warps", f"{self.stages} stages"]
        if any(self.merge):
            words.append("phases merged along " + ", ".join(a for a, m in zip("dhw", self.merge) if m))
        return ", ".join(words + [f"{self.shares} shares"] * (self.shares > 1))


def split_factor(problem: Problem) -> int:
    """How many neighbours along w of a channels-first dz are loaded as one run and split after the load."""
    axis = problem.axes[2]
    power = axis.stride & (axis.stride - 1) == 0
    if problem.direction == "forward" or problem.y_layout == "channels_last" or axis.dilation != 1 or not power:
        return 1
    return axis.stride if axis.stride == 2 or (axis.stride <= 8 and axis.kernel == axis.stride) else 1


def join_factor(problem: Problem, merge) -> int:
    """How many w phases of a channels-first y are stored as one run."""
    axis = problem.axes[2]
    if problem.direction != "forward" or problem.y_layout == "channels_last":
        return 1
    if merge[2]:
        return axis.stride
    return 2 if axis.stride == 2 else 1


def rows_and_reduction(problem: Problem) -> tuple[int, int]:
    """Channels per group that are written and that are summed over."""
    if problem.direction == "forward":
        return problem.co_group, problem.ci_group
    return problem.ci_group, problem.co_group


def shared_memory(config: Config, problem: Problem) -> int:
    """Bytes of the pipelined tiles of a gather, an upper estimate that the compiler's figure must not exceed."""
    if config.path == "direct":
        return 0
    split = split_factor(problem)
    if problem.direction == "grad_weight":
        tile = config.block_k * (config.block_m + config.block_n * split)
    else:
        tile = config.block_k * split * (config.block_m + config.block_n)
    accumulators = config.block_m * config.block_n * (1 if config.merge[2] else join_factor(problem, config.merge))
    return problem.item * tile * max(1, config.stages) + 4 * accumulators


def fits(config: Config, problem: Problem, device: Device) -> str | None:
    """None if config can compute problem on device, else the reason why not."""
    if config.path not in PATHS:
        return f"path {config.path!r} is not one of {', '.join(PATHS)}"
    for name in ("block_m", "block_n", "block_k", "warps"):
        value = getattr(config, name)
        if value < 1 or value & (value - 1):
            return f"{name} = {value} is not a power of two"
    for axis, merged, name in zip(problem.axes, config.merge, "dhw"):
        if merged and (axis.dilation != 1 or problem.direction != "forward"):
            return f"phases along {name} cannot be merged: only those of a forward with dilation 1 can"
    if config.path == "direct":
        return "the direct path does not merge phases" if any(config.merge) else None
    if problem.dtype == "float64":
        return "tensor cores of this path do not take float64; use the direct path"
    if min(config.block_m, config.block_n, config.block_k) < SMALLEST_DOT:
        return f"a product of {config.block_m}x{config.block_n}x{config.block_k} is below {SMALLEST_DOT} on an axis"
    joined = join_factor(problem, config.merge)
    if joined & (joined - 1):
        return f"{joined} phases along w cannot be joined: not a power of two"
    if config.merge[2] and joined > 1 and config.block_m < joined:
        return f"block_m = {config.block_m} holds less than one joined run of {joined} phases"
    accumulators = config.block_m * config.block_n * (2 if joined > 1 and not config.merge[2] else 1)
    accumulators *= split_factor(problem) if problem.direction == "grad_weight" else 1
    if accumulators > 128 * 32 * config.warps:
        return f"an accumulator of {accumulators} values leaves {config.warps} warps without registers"
    needed = shared_memory(config, problem)
    if needed > device.shared_memory:
        return f"{needed} bytes of shared memory are needed, {device.name} has {device.shared_memory}"
    return None


def mergeable(problem: Problem) -> tuple[bool, bool, bool]:
    """The axes whose phases the default merges: all where kernel = stride, else as many as fill 64 rows for free."""
    if problem.direction != "forward":
        return (False, False, False)
    first = problem.y_layout == "channels_first"
    whole = [a.stride > 1 and a.dilation == 1 and a.kernel % a.stride == 0 for a in problem.axes]
    whole[2] = whole[2] and (not first or (a := problem.axes[2]).kernel == a.stride and a.aligned_origin == 0
                             and a.stride & (a.stride - 1) == 0)
    if all(a.stride == 1 or (m and a.kernel == a.stride) for a, m in zip(problem.axes, whole)):
        return tuple(whole)
    rows, merge = problem.co_group, [False, False, False]
    for i in (2, 1, 0):
        if whole[i] and rows < 64:
            merge[i], rows = True, rows * problem.stride[i]
    last = problem.axes[2]
    if rows < 64 and not first and not merge[2] and last.stride > 1 and last.dilation == 1 and last.kernel > last.stride:
        merge[2] = True
    return tuple(merge)


def default(problem: Problem, device: Device) -> Config:
    """Sensible tiles for any problem on any device: large enough to reuse what is loaded, small enough to fit."""
    rows, reduction = rows_and_reduction(problem)
    narrow = problem.groups > 1 and min(rows, reduction) < SMALLEST_DOT
    if problem.dtype == "float64" or narrow or (problem.direction != "grad_weight" and reduction < 8):
        return _direct(problem)
    config = _grad_weight(problem, device) if problem.direction == "grad_weight" else _gather(problem, device)
    while fits(config, problem, device) and (smaller := _shrink(config)):
        config = smaller
    return config if fits(config, problem, device) is None else _direct(problem)


def _power_of_two(value: int, low: int, high: int) -> int:
    return max(low, min(high, 1 << max(0, value - 1).bit_length()))


def _positions(problem: Problem) -> int:
    if problem.direction == "grad_weight":
        return problem.n * problem.in_size[0] * problem.in_size[1] * problem.in_size[2]
    steps = [a.steps(0) if problem.direction == "forward" else a.size for a in problem.axes]
    return problem.n * steps[0] * steps[1] * steps[2]


def _direct(problem: Problem) -> Config:
    channels = problem.ci if problem.direction == "grad_input" else problem.co
    block_m = _power_of_two(channels, 1, 32)
    block_n = _power_of_two(_positions(problem), 1, max(16, 1024 // block_m))
    shares = _shares(problem, block_n, problem.taps * problem.ci_group * ceil_div(channels, block_m), 132)
    return Config("direct", block_m, block_n, shares=shares)


def _gather(problem: Problem, device: Device) -> Config:
    rows, reduction = rows_and_reduction(problem)
    merge = mergeable(problem)
    for axis, merged in zip(problem.axes, merge):
        rows *= axis.stride if merged else 1
    floor = 64 if device.warpgroups else 16
    joined = join_factor(problem, merge)
    block_m = max(_power_of_two(rows, floor, 128), joined if merge[2] else 1)
    if joined > 1 and not merge[2]:
        block_m = min(block_m, 64)
    block_n = _power_of_two(_positions(problem), 16, 128)
    block_k = _power_of_two(reduction, 16, (64 if problem.item == 2 else 32) // split_factor(problem))
    block_k = max(block_k, 16)
    warps = 8 if block_m * block_n >= 128 * 128 else 4
    return Config("gather", block_m, block_n, block_k, warps, 3 if device.capability >= (8, 0) else 2, merge)


def _grad_weight(problem: Problem, device: Device) -> Config:
    floor = 64 if device.warpgroups else 16
    split = split_factor(problem)
    block_m = _power_of_two(problem.ci_group, floor, 128)
    block_n = _power_of_two(problem.co_group, 16, max(16, 128 // split))
    block_k = _power_of_two(_positions(problem), 16, (64 if problem.item == 2 else 32) // split)
    warps = 8 if block_m * block_n * split >= 128 * 128 else 4
    tiles = problem.taps // split * ceil_div(problem.ci_group, block_m) * ceil_div(problem.co_group, block_n) * problem.groups
    return Config("gather", block_m, block_n, max(16, block_k), warps, 3 if device.capability >= (8, 0) else 2,
                  shares=_shares(problem, block_k, max(1, tiles), device.sms))


def _shares(problem: Problem, block: int, programs: int, sms: int) -> int:
    """Enough programs for two waves, each with at least eight blocks of positions."""
    if problem.direction != "grad_weight":
        return 1
    return max(1, min(ceil_div(2 * sms, programs), _positions(problem) // (8 * block), 256))


def _shrink(config: Config) -> Config | None:
    """The next smaller config, or None."""
    if config.stages > 2:
        return replace(config, stages=config.stages - 1)
    if config.block_n > SMALLEST_DOT:
        return replace(config, block_n=config.block_n // 2)
    if config.block_m > SMALLEST_DOT:
        return replace(config, block_m=config.block_m // 2)
    return replace(config, block_k=config.block_k // 2) if config.block_k > SMALLEST_DOT else None
