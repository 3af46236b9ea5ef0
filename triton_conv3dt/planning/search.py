"""Which configs are worth trying for a problem, what each is expected to cost, and so the default.

Pure functions of problem, device and constraints: nothing is timed here and no file is read. The costs are a model's, in
seconds; they rank configs and prune a tuner's work, and no more is claimed of them.
"""

from dataclasses import replace
from itertools import product
from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import banks, lanes, lowering, readings, taps, walk_tiles, walks, weight_tiles
from .config import SMALLEST_DOT, Config, copyable, fits, join_factor, rows_and_reduction, seen, shared_memory, walking
from .constraints import NONE, VARIABLE, Constraints
from .device import Device

LAUNCH = 3e-6  # of one more kernel
LATENCY = 1.6e-6  # of a program's first load, and of its last store
STEP = 3e-8  # barriers and bookkeeping of one step of a pipelined loop
WAIT = 4e-7  # of a step without a pipeline, for what it loads
SHARED_RATE = 2.2e11  # bytes/s that tensor cores can read from one SM's shared memory
CACHE_RATE = 5.5e10  # bytes/s from the second-level cache to one SM
CLOCK = 1.5e9  # instructions/s that a scheduler issues
EXPOSED = 0.3  # of the time in which L2 hands out what all programs read: what nothing hides, of the dearest of shared resources
IN_FLIGHT = 7e-7  # seconds that a byte of DRAM is under way: what must be in flight to keep the memory busy
WARP_BY_WARP = 0.6  # what is left of the rate where too few rows for a warpgroup are multiplied warp by warp
PRODUCTS = {"tf32": 1, "tf32x3": 3.5, "ieee": 12}  # time of an fp32 product by precision


def default(problem: Problem, device: Device, constraints: Constraints = NONE) -> Config:
    """The config for a problem that nobody has tuned: the cheapest of a few sensible ones.

    Raises:
        ValueError: the constraints leave none; the message says which path would do.
    """
    return min(sensible(problem, device, constraints), key=lambda config: cost(config, problem, device))


def sensible(problem: Problem, device: Device, constraints: Constraints = NONE) -> list[Config]:
    """The few configs that the default is chosen from; at least one, and all fit. Raises as `default` does."""
    found = list(_tried(problem, device, constraints, thorough=False))
    if not found:
        paths = dict.fromkeys([*(config.path for config in sensible(problem, device)), "direct"])
        raise ValueError(f"nothing is left that computes {problem} on {device.name} without {constraints}: allow "
                         f"{' or '.join(paths)} again ({VARIABLE}, --without), or take backend=\"torch\"")
    return found


def candidates(problem: Problem, device: Device, constraints: Constraints = NONE) -> list[Config]:
    """Every config worth trying, in a fixed order; all fit."""
    return list(dict.fromkeys(_tried(problem, device, constraints, thorough=True)))


def ranked(problem: Problem, device: Device, constraints: Constraints = NONE) -> list[Config]:
    """The candidates, cheapest first: the default leads. Raises as `default` does."""
    first = default(problem, device, constraints)
    rest = sorted((c for c in candidates(problem, device, constraints) if c != first),
                  key=lambda c: cost(c, problem, device))
    return [first, *rest]


def one_pass(problem: Problem, device: Device, constraints: Constraints = NONE) -> Config | None:
    """The config for all gradients at once, a problem of direction "backward"; None where separate products are better or
    alone may be used."""
    tiles = lambda block_k: ceil_div(_positions(problem), block_k)
    block_m, block_n = _power_of_two(problem.ci, 64, 256), _power_of_two(problem.co * problem.taps, SMALLEST_DOT, 1024)
    warps = 8 if block_m * block_n >= 64 * 128 else 4
    narrow = problem.item * min(problem.x_run, problem.y_run) < 16  # whose many addresses spill beside so many sums
    pipelines = ((64, 3), (64, 2), (32, 3), (32, 2))
    for block_k, stages in pipelines[2:] if narrow and block_m * block_n >= 64 * 256 else pipelines:
        # Each program should have a few tiles to overlap, or the shares cost more than they save.
        config = Config("onepass", block_m, block_n, block_k, warps, stages, shares=min(device.sms, tiles(block_k)))
        refused = constraints.refuses(config) or fits(config, problem, device)
        if refused is None and tiles(block_k) >= 4 * device.sms:
            return config
    return None


def cost(config: Config, problem: Problem, device: Device) -> float:
    """Expected seconds of a problem with a config that fits, every launch included."""
    bandwidth = device.bandwidth or 1e12
    extra = 0.0
    if config.copy:
        copied = weight_tiles.copied_bytes(config, problem) if problem.direction == "grad_weight" else [walks.read_bytes(problem)]
        extra += sum(LAUNCH + 2 * size / bandwidth for size in copied)
    if lowering.packs(problem, config):
        extra += LAUNCH + 2 * problem.item * problem.ci * problem.co_group * problem.taps / bandwidth
    if problem.direction == "grad_weight" and not lowering.writes_whole(problem, config):
        extra += LAUNCH + 8 * config.shares * problem.ci * problem.co_group * problem.taps / bandwidth
    problem = seen(problem, config)
    programs = prod(lowering.grid(problem, config))
    if not config.dense:
        issued = lanes.instructions(problem, config) * programs * config.warps
        slots = min(programs * config.warps, 4 * device.sms)  # an instruction a clock each
        return extra + max(issued / slots / CLOCK, problem.bytes / bandwidth) + LATENCY
    if config.path == "walk":
        walked = ceil_div(programs, device.sms) * (walk_tiles.time(config, problem, device, SHARED_RATE, CACHE_RATE, CLOCK) + LATENCY)
        return extra + max(problem.bytes / bandwidth / 0.92, walked) + LATENCY
    steps, tile = loop_steps(config, problem), step_bytes(config, problem)
    extra += EXPOSED * steps * tile / (device.l2 or CACHE_RATE * device.sms)
    resident = _resident(config, problem, device)
    in_flight = min(programs / device.sms, resident) * tile * max(1, min(config.stages, ceil_div(steps, programs)))
    memory = problem.bytes / bandwidth / min(0.92, in_flight / (bandwidth / device.sms * IN_FLIGHT))
    own = steps / programs * _step_time(config, problem, device, tile)
    work = ceil_div(programs, device.sms) * own
    # One after another, each waiting for its first tile.
    alone = WAIT * steps / programs if config.stages == 1 else 0.0
    chain = ceil_div(programs, device.sms * resident) * (LATENCY + own + alone)
    return extra + max(memory, work, chain) + LATENCY


def loop_steps(config: Config, problem: Problem) -> int:
    """Steps of the loops of all programs together."""
    problem = seen(problem, config)
    if config.path == "walk":
        return walking(problem).loop_steps(problem, config, lowering.steps(problem, config))
    if problem.direction == "grad_weight":
        return prod(lowering.grid(problem, config)) * ceil_div(taps.boxes(problem, config), config.shares)
    # A tap belongs to one phase; where phases are merged, all of them take every step.
    constants = lowering.axis_constants(problem, config)
    loops = prod(c.taps if c.taps >= 0 else axis.kernel for c, axis in zip(constants, problem.axes))
    programs = prod(lowering.grid(problem, config)) // prod(c.phases for c in constants)
    return programs * loops * ceil_div(rows_and_reduction(problem)[1], config.block_k)


def step_bytes(config: Config, problem: Problem) -> int:
    """Bytes that one step loads."""
    if config.path == "walk":
        return walking(problem).step_bytes(problem, config)
    split = taps.split_factor(seen(problem, config), config)
    rows = config.block_m if problem.direction == "grad_weight" else config.block_m * split
    return problem.item * config.block_k * (rows + config.block_n * split)


def _step_time(config: Config, problem: Problem, device: Device, tile: int) -> float:
    products = PRODUCTS[problem.precision] if problem.dtype == "float32" else 1
    if problem.direction == "grad_weight":
        return weight_tiles.step_time(config, problem, device, tile, products, CACHE_RATE) + STEP / 3
    rate = (device.rate_16bit if problem.item == 2 else device.rate_tf32) or 1e14
    if device.warpgroups and config.block_m < banks.WARPGROUP:
        rate *= WARP_BY_WARP
    split, item = taps.split_factor(problem), problem.item
    flops = 2 * config.block_m * config.block_n * config.block_k * split
    # Each warpgroup's 64 rows read all of the second operand.
    shared = item * config.block_k * split * (config.block_m + ceil_div(config.block_m, 64) * config.block_n)
    narrow = 1.0
    if config.path == "gather":  # addresses and masks; and a thread's loads may be narrower than 16 bytes
        narrow = 1.15 * max(1.0, 8 / (item * banks.source_run(config, problem)))
        shared += banks.conflicting(config, problem, device)
    return max(flops * products / rate * device.sms, shared / SHARED_RATE, tile * narrow / CACHE_RATE) + STEP


def _resident(config: Config, problem: Problem, device: Device) -> int:
    """Programs that share an SM."""
    threads = 32 * config.warps
    accumulators = config.block_m * config.block_n * (taps.split_factor(problem, config) if problem.direction == "grad_weight" else 1)
    if join_factor(problem, config.merge) > 1 and not config.merge[2]:
        accumulators *= 2
    registers = min(255, 48 + accumulators // threads)
    return max(1, min(device.shared_memory // shared_memory(config, problem), 65536 // (registers * threads),
                      2048 // threads, 32))


def _tried(problem: Problem, device: Device, constraints: Constraints, thorough: bool):
    """Configs that fit and may be used: a few sensible ones, or all that may be worth timing. Where nothing is excluded
    there is always one."""
    fewest = min(rows_and_reduction(problem))
    narrow = problem.groups > 1 and fewest < SMALLEST_DOT
    few = problem.direction != "grad_weight" and fewest <= SMALLEST_DOT  # either may be better
    direct = problem.dtype == "float64" or narrow
    allowed, found = lambda config: constraints.refuses(config) is None, False
    if thorough or not direct or "direct" in constraints.without:
        shapes = _weight_gradients if problem.direction == "grad_weight" else _products
        for config in filter(allowed, shapes(problem, device, constraints, thorough)):
            if fits(config, problem, device) is None:
                found = True
                yield config
        copied = Config("gather", 16, 16, copy=True)
        if problem.direction == "grad_input" and copyable(problem):
            of_a_copy = (replace(c, copy=True) for c in _products(seen(problem, copied), device, constraints, thorough))
            yield from (c for c in filter(allowed, of_a_copy) if fits(c, problem, device) is None)
        for config in filter(allowed, walk_tiles.tiles(problem, device, thorough)):
            if fits(config, problem, device) is None:
                found = True
                yield config
    if direct or few or thorough or not found:
        yield from filter(allowed, _direct(problem, device, thorough))


def _products(problem: Problem, device: Device, constraints: Constraints, thorough: bool):
    """Tiles of a forward or an input gradient on tensor cores."""
    rows, reduction = rows_and_reduction(problem)
    wide = (64 if problem.item == 2 else 32) // taps.split_factor(problem)
    stages, most = (2, 3, 4, 5) if thorough else (3, 4), 256 if thorough or device.warpgroups else 128
    for merge in _merges(problem, thorough):
        merged = prod(a.stride for a, m in zip(problem.axes, merge) if m) * rows
        joined = join_factor(problem, merge)
        for block_m in _around(merged, max(SMALLEST_DOT, joined if merge[2] else 1), most, thorough, fewest=most // 64):
            for block_n in _around(_positions(problem), SMALLEST_DOT, 256, thorough, fewest=4):
                read = list(readings.readings(problem, device, merge, block_n, thorough))
                for block_k in _around(reduction, SMALLEST_DOT, 2 * wide if thorough else wide, thorough):
                    for warps in _warps(block_m * block_n * (2 if joined > 1 and not merge[2] else 1), thorough):
                        for path, box, copy in read:
                            config = Config(path, block_m, block_n, block_k, warps, 1, merge, box=box, copy=copy)
                            for n_stages in constraints.stages(_stages(config, problem, device, stages)):
                                yield replace(config, stages=n_stages)


def _weight_gradients(problem: Problem, device: Device, constraints: Constraints, thorough: bool):
    """Tiles of a weight gradient on tensor cores, and how many programs share a reduction."""
    wide = 64 if problem.item == 2 else 32
    stages = (2, 3, 4) if thorough else (3,)
    for tile in weight_tiles.tiles(problem, device, thorough):
        accumulators = tile.block_m * tile.block_n * taps.split_factor(problem, tile)
        longest = 2 * wide if accumulators <= 4096 else wide
        if accumulators > 128 * 128 and not device.warpgroups:
            longest = wide // 2  # fragments of both operands stand in registers beside so many
        for block_k in _around(_positions(problem), SMALLEST_DOT, longest, thorough):
            for warps in _warps(accumulators, thorough):
                tried = replace(tile, block_k=block_k, warps=warps)
                many = accumulators >= 4096 * warps and taps.z_run(problem, tried) == 1
                if many and (block_k > 16 and not tried.copy or tried.copy and weight_tiles.scattered(problem, tried)):
                    continue  # addresses of single elements leave such an accumulator no registers
                programs = taps.tiles(problem, tried) * problem.groups
                for n_stages in constraints.stages(_stages(tried, problem, device, stages)):
                    for shares in _shares(problem, block_k, programs, device.sms, thorough):
                        yield replace(tried, stages=n_stages, shares=shares)


def _stages(config: Config, problem: Problem, device: Device, pipelined: tuple[int, ...]) -> tuple[int, ...]:
    """How many stages may be worth it: one, too, where the banks of a pipeline's buffers conflict more."""
    conflicts = [banks.conflicting(replace(config, stages=n), problem, device) for n in (1, 2)]
    return (*pipelined, 1) if conflicts[1] > conflicts[0] else pipelined


def _direct(problem: Problem, device: Device, thorough: bool):
    """Channels and places of a program without tensor cores, as many lanes as threads or a few times as many."""
    weights = problem.direction == "grad_weight"
    channels, rows = problem.ci if problem.direction == "grad_input" else problem.co, rows_and_reduction(problem)[0]
    last = (problem.x_layout if problem.direction == "grad_input" else problem.y_layout) == "channels_last"
    most = 64 if last else 1 if weights else 8
    counts = {_power_of_two(channels if last else min(channels, rows & -rows), 1, n)
              for n in ((4, 16, most) if thorough else (2, most))}
    counts |= {1} if thorough else set()
    if not last and not weights and prod(lowering.steps(problem, Config("direct", 1, 1))[1:]) < 32:
        counts |= {16}  # lanes that a small volume leaves idle take other channels
    found = []
    for block_m, warps, values in product(sorted(counts), (1, 2, 4, 8) if thorough else (1,) if weights else (1, 4), (1, 2, 4, 8)):
        shape = Config("direct", block_m, 1, warps=warps)
        threads = max(1, 32 * warps * values * (1 if weights else lanes.lanes(problem, shape).shared) // block_m)
        for config in (replace(shape, block_n=threads * lines) for lines in (1, 2, 4, 8)):
            fewer = config.block_n <= 2 * _power_of_two(_positions(problem), 1, 8192)
            kept = values == 1 or lanes.registers(problem, config, values) <= lanes.MOST_REGISTERS
            if fewer and kept and lanes.lanes(problem, config).lines * threads == config.block_n:
                found.append(config)
    for config in found or [Config("direct", 1, 32, warps=1)]:
        tiles = lowering.grid(problem, config)[0]
        for shares in _shares(problem, config.block_n, tiles, device.sms * 4 // config.warps, thorough):
            yield replace(config, shares=shares)


def _merges(problem: Problem, thorough: bool):
    """Which axes have their phases among the rows: all where kernel = stride, else whatever the cost says. Phases of unequal
    taps multiply zeros, and read what they share once."""
    if problem.direction != "forward":
        return [(False, False, False)]
    able = [a.stride > 1 and a.dilation == 1 for a in problem.axes]
    whole = tuple(able)
    if not thorough and all(a.stride == 1 or (m and a.kernel == a.stride) for a, m in zip(problem.axes, able)):
        if problem.y_layout == "channels_last" or (w := problem.axes[2]).stride == 1 or (
                w.aligned_origin == 0 and w.stride & (w.stride - 1) == 0):
            return [whole]
    return list(product(*((False, True) if m else (False,) for m in able)))


def _around(value: int, low: int, high: int, thorough: bool, fewest: int = 2):
    """Powers of two up to the one that holds value, largest first: all between low and high, or a few."""
    largest = _power_of_two(value, low, high)
    sizes = [largest >> i for i in range(largest.bit_length()) if largest >> i >= low]
    return sizes if thorough else sizes[:fewest]


def _warps(accumulators: int, thorough: bool):
    sensible = 8 if accumulators >= 128 * 128 else 4
    return (2, 4, 8) if thorough else (sensible,)


def _shares(problem: Problem, block: int, programs: int, sms: int, thorough: bool):
    """Programs that share a reduction: as many as fill a wave or two, or begin another, each with at least eight blocks of
    positions; or one."""
    if problem.direction != "grad_weight":
        return (1,)
    blocks = _positions(problem) // (8 * block)
    waves = (1, 2, 4) if thorough else (1, 2)
    wanted = (shares for n in waves for shares in (n * sms // programs, ceil_div(n * sms, programs)))
    return dict.fromkeys((*(max(1, min(shares, blocks, 256)) for shares in wanted), 1))


def _positions(problem: Problem) -> int:
    """Places that a product runs over; those of a forward counted without merging."""
    return problem.n * prod(a.steps(0) if problem.direction == "forward" else a.size for a in problem.axes)


def _power_of_two(value: int, low: int, high: int) -> int:
    return max(low, min(high, 1 << max(0, value - 1).bit_length()))
