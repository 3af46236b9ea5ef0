"""What a problem is expected to cost with a config, before anything is compiled or timed.

The costs are a model's, in seconds; they rank configs and prune a tuner's work, and no more is claimed of them.
"""

from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import banks, flat, halos, lanes, lowering, pair_issue, pairs, taps, walk_memory, walk_tiles, weight_tiles
from .config import Config, join_factor, seen, shared_memory, shares_steps, walking
from .device import REGISTERS, Device
from .recall import recalled

LAUNCH = 3e-6  # of one more kernel
LATENCY = 1.6e-6  # of a program's first load, and of its last store
STEP = 3e-8  # barriers and bookkeeping of one step of a pipelined loop
MEET = 6e-8  # of the programs of a cluster in each step, beside it
WAIT = 4e-7  # of a step without a pipeline, for what it loads
SHARED_RATE = 2.2e11  # bytes/s that tensor cores can read from one SM's shared memory
CACHE_RATE = 5.5e10  # bytes/s from the second-level cache to one SM of all, where a device does not say
CACHE_PORT = 64  # bytes that one SM takes from there in a clock, however few others ask
CLOCK = 1.5e9  # instructions/s that a scheduler issues
ISSUING = 0.78  # of its clocks, a scheduler whose few warps wait for what they load
EXPOSED = 0.5  # of the time in which L2 hands out what all programs read: what nothing hides
IN_FLIGHT = 7e-7  # seconds that a byte of DRAM is under way: what must be in flight to keep the memory busy
WARP_BY_WARP = 0.6  # what is left of the rate where too few rows for a warpgroup are multiplied warp by warp
PRODUCTS = {"tf32": 1, "tf32x3": 3.5, "ieee": 12}  # time of an fp32 product by precision


def cost(config: Config, problem: Problem, device: Device) -> float:
    """Expected seconds of a problem with a config that fits, every launch included."""
    bandwidth = device.bandwidth or 1e12
    extra = 0.0
    if config.copy or config.path == "pair" and problem.direction == "grad_weight":
        weights = problem.direction == "grad_weight"
        sizes = weight_tiles.copied_bytes(config, problem) if weights else [walk_memory.copied_bytes(problem, config)]
        extra += sum(LAUNCH + size / bandwidth for size in sizes)
    if lowering.packs(problem, config):
        extra += LAUNCH + 2 * problem.item * problem.ci * problem.co_group * problem.taps / bandwidth
    if problem.direction == "grad_weight" and not lowering.writes_whole(problem, config):
        extra += LAUNCH + 8 * taps.parts(problem, config) * problem.ci * problem.co_group * problem.taps / bandwidth
    if shares_steps(config, problem):
        extra += LAUNCH + 8 * config.shares * problem.n * problem.ci * prod(problem.in_size) / bandwidth
    problem = seen(problem, config)
    programs = prod(lowering.grid(problem, config))
    if not config.dense:
        issued = lanes.instructions(problem, config) * programs * config.warps
        slots = min(programs * config.warps, 4 * device.sms) * ISSUING  # an instruction a clock each
        return extra + max(issued / slots / CLOCK, problem.bytes / bandwidth) + LATENCY
    l2, cache, sms = device.l2 or float("inf"), CACHE_RATE, device.sms // config.ctas  # a cluster counts as one, with as many SMs
    if device.l2 and device.clock:
        cache = min(CACHE_PORT * device.clock * config.ctas, device.l2 / min(programs, sms))
    extra += EXPOSED * read_bytes(config, problem) / l2
    if config.path == "walk":
        walked = ceil_div(programs, device.sms) * (walk_tiles.time(config, problem, device, SHARED_RATE, cache, CLOCK) + LATENCY)
        return extra + max(problem.bytes / bandwidth / 0.92, walked) + LATENCY
    steps, tile = loop_steps(config, problem), step_bytes(config, problem)
    resident = _resident(config, problem, device)
    in_flight = min(programs / sms, resident) * tile * max(1, min(config.stages, ceil_div(steps, programs)))
    memory = problem.bytes / bandwidth / min(0.92, in_flight / (bandwidth / sms * IN_FLIGHT))
    own = steps / programs * _step_time(config, problem, device, tile, cache)
    if config.flat or config.path == "pair" and problem.direction != "grad_weight":
        counted = flat if config.flat else pair_issue
        own = max(own, counted.instructions(problem, config, steps / programs) * config.warps / 4 / CLOCK)
    work = ceil_div(programs, sms) * own
    # One after another, each waiting for its first tile.
    alone = WAIT * steps / programs if config.stages == 1 else 0.0
    chain = ceil_div(programs, sms * resident) * (LATENCY + own + alone)
    return extra + max(memory, work, chain) + LATENCY


def read_bytes(config: Config, problem: Problem) -> float:
    """Bytes that all programs of a product on tensor cores read: in their steps and, by a walk, of the weight before them."""
    read = loop_steps(config, problem) * step_bytes(config, problem)
    if config.path == "walk":
        walks, programs = walking(problem), prod(lowering.grid(problem, config))
        read = read * walks.fetched(problem, config) + programs * walks.weight_read(problem, config)
    return read


@recalled
def loop_steps(config: Config, problem: Problem) -> int:
    """Steps of the loops of all programs together."""
    problem = seen(problem, config)
    if config.path == "walk":
        return walking(problem).loop_steps(problem, config, lowering.steps(problem, config))
    if problem.direction == "grad_weight":
        return prod(lowering.grid(problem, config)) * ceil_div(taps.boxes(problem, config), config.shares)
    # A tap belongs to one phase; where phases are merged, all of them take every step.
    constants = lowering.axis_constants(problem, config)
    together = (None, halos.count(problem, config), None)
    loops = prod(n or (c.taps if c.taps >= 0 else axis.kernel) for n, c, axis in zip(together, constants, problem.axes))
    programs = prod(lowering.grid(problem, config)) // prod(c.phases for c in constants)
    return programs * ceil_div(loops * ceil_div(flat.reduction(problem, config), config.block_k), config.shares)


@recalled
def step_bytes(config: Config, problem: Problem) -> float:
    """Bytes that one step loads, on average where steps differ."""
    if config.path == "walk":
        return walking(problem).step_bytes(problem, config)
    if config.path == "pair" and problem.direction != "grad_weight":
        return pairs.step_bytes(seen(problem, config), config)
    split = taps.split_factor(seen(problem, config), config)
    rows = config.block_m if problem.direction == "grad_weight" else config.block_m * split
    return problem.item * config.block_k * (rows + config.block_n * split)


def _step_time(config: Config, problem: Problem, device: Device, tile: int, cache: float) -> float:
    products = PRODUCTS[problem.precision] if problem.dtype == "float32" else 1
    if problem.direction == "grad_weight":
        return weight_tiles.step_time(config, problem, device, tile, products, cache) + STEP / 3
    rate = (device.rate_16bit if problem.item == 2 else device.rate_tf32) or 1e14
    if device.warpgroups and config.block_m < banks.WARPGROUP:
        rate *= WARP_BY_WARP
    split, item = taps.split_factor(problem, config), problem.item
    if config.path == "pair":
        multiplied = 2 * config.block_m * config.block_n * config.block_k // config.ctas * halos.taps(problem, config)
        shared = pairs.read_bytes(problem, config) + pairs.written_bytes(problem, config)
        return max(multiplied * products / rate * device.sms, shared / SHARED_RATE, tile / cache) + MEET
    flops = 2 * config.block_m * config.block_n * config.block_k * split
    # Each warpgroup's 64 rows read all of the second operand.
    shared = item * config.block_k * split * (config.block_m + ceil_div(config.block_m, 64) * config.block_n)
    narrow = 1.0
    if config.path == "gather":  # addresses and masks; and a thread's loads may be narrower than 16 bytes
        narrow = 1.15 * (1.0 if config.flat else max(1.0, 8 / (item * banks.source_run(config, problem))))
        narrow *= banks.MASKED if banks.masked(config, problem) else 1.0
        shared += banks.conflicting(config, problem, device)
    return max(flops * products / rate * device.sms, shared / SHARED_RATE, tile * narrow / cache) + STEP


def _resident(config: Config, problem: Problem, device: Device) -> int:
    """Programs that share an SM."""
    threads = 32 * config.warps
    parted = taps.split_factor(problem, config) if problem.direction == "grad_weight" else 1
    accumulators = config.block_m * config.block_n // config.ctas * parted
    if join_factor(problem, config.merge) > 1 and not config.merge[2]:
        accumulators *= 2
    registers = min(255, 48 + accumulators // threads)
    return max(1, min(device.shared_memory // shared_memory(config, problem), REGISTERS // (registers * threads),
                      2048 // threads, 32))
