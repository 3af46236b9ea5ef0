"""Which pairs of programs are worth trying for a weight gradient, and how long their steps take: what search.py and costs.py ask of
weight_pairs."""

from collections import Counter
from itertools import product

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import taps, weight_pairs
from .config import Config, fits
from .device import Device

SIDES = ((256, 256, 8, 2), (128, 512, 8, 2), (512, 128, 8, 2), (256, 128, 8, 2), (128, 256, 4, 2), (128, 128, 4, 2), (128, 64, 4, 2),
         (256, 512, 8, 4), (512, 256, 8, 4), (256, 256, 4, 4), (128, 512, 4, 4), (128, 256, 4, 4))  # and warps, and programs
DEPTHS = {4: ((32, 4), (64, 3), (32, 3), (64, 2)), 2: ((64, 6), (64, 4), (32, 6), (64, 3))}  # positions of a step, and stages, by bytes
MOST_WAYS = 4  # of taps that are tried of tiles of one shape
FEWEST = 8  # steps of a program, or shares cost more than they save
STEP, FETCH = 130, 32  # instructions of a warp in each step, and for each fetch
MASKED = 3  # instructions for 4 bytes of what is parted, of which some become zeros
SETTLING, ISSUED = 300, 50  # clocks of a step until the programs have met, and then for each fetch, one after the other
SUM = 3e-6  # seconds of another kernel, which adds shares
ARRIVAL = 8e-7  # seconds until the first of what is asked for is there
CLOCK, PORT, SHARED = 1.5e9, 64, 128  # Hz of an SM that does not say, and bytes a clock: those that come from L2, and of shared memory


def tiles(problem: Problem, device: Device, constraints, thorough: bool):
    """Configs of pairs that fit: those whose steps and copies take the least time, if clusters fill the device."""
    if not device.pairs or problem.direction != "grad_weight" or not taps.pairable(problem):
        return
    found = []
    for copy in (False, True):
        ways = (taps.ways(axis, problem.stride[2] if i == 2 and not copy else 1) for i, axis in enumerate(problem.axes))
        walked = (Config("pair", 1, 1, taps=way, copy=copy) for way in product(*ways))
        readable = [config for config in walked if not weight_pairs.unreadable(problem, config)]
        for config, (m, n, warps, programs) in product(readable, SIDES):
            tile = config.but(block_m=m, block_n=n, warps=warps, cluster=programs)
            if _idle(problem, tile):
                continue
            for depth, stages in DEPTHS[problem.item]:
                tried = tile.but(block_k=depth, stages=stages)
                if tried.stages in constraints.stages((stages,)) and fits(tried, problem, device) is None:
                    seconds = _seconds(problem, tried, device, (1, 2, 4) if thorough else (1, 2))
                    found.append((min(seconds.values()), tried, list(seconds)))
    found.sort(key=lambda tile: tile[0])
    best, ways = {}, Counter()  # the fastest of those that differ in their steps alone, and how many of each shape
    for _, tried, shares in found:
        shape = tried.block_m, tried.block_n, tried.warps, tried.cluster, tried.copy
        if (shape, tried.taps) not in best and ways[shape] < MOST_WAYS:
            best[shape, tried.taps] = tried, shares
            ways[shape] += 1
    for tried, shares in [tile[1:] for tile in found][:40] if thorough else list(best.values())[:16]:
        yield from (tried.but(shares=n) for n in shares)


def _idle(problem: Problem, config: Config) -> bool:
    """Half of the rows or columns of a tile are beyond the last, and a smaller tile is tried, too."""
    rows, columns = taps.lines(problem, config)
    return config.block_m >= max(256, 2 * rows) or config.block_n >= max(256, 2 * columns * taps.parted(problem, config))


def _seconds(problem: Problem, config: Config, device: Device, waves: tuple[int, ...]) -> dict[int, float]:
    """How many programs may share the positions of a tile, as many as fill a wave or more, or one; and about how long each takes."""
    tiles, boxes, programs = taps.tiles(problem, config), taps.boxes(problem, config), config.ctas
    most, at_once, bandwidth = boxes // FEWEST, device.sms // programs, device.bandwidth or 1e12
    wanted = (shares for n in waves for shares in (n * at_once // tiles, ceil_div(n * at_once, tiles)))
    step = time(config, problem, device, (device.l2 or 5e12) / at_once)
    copied = sum(weight_pairs.copied_bytes(problem, config)) / bandwidth
    found = {}
    for shares in (*(max(1, min(shares, most, 256)) for shares in wanted), 1):
        summed = (SUM + 8 * shares * problem.ci * problem.co * problem.taps / bandwidth) * (shares > 1)
        found[shares] = ceil_div(tiles * shares, at_once) * ceil_div(boxes, shares) * step + copied + summed
    return found


def time(config: Config, problem: Problem, device: Device, cache: float) -> float:
    """Seconds of a step of a cluster, which reads so many bytes of L2 in a second: tensor cores, shared memory, L2 and the way from there
    to each program, instructions, or fetches, which are asked for one after the other and arrive some time later."""
    m, n, k, clock = config.block_m, config.block_n, config.block_k, device.clock or CLOCK
    written, asked = weight_pairs.written_bytes(problem, config), weight_pairs.fetches(problem, config)
    tensor = 2 * m * n * k / ((device.rate_16bit if problem.item == 2 else device.rate_tf32) or 1e14) * device.sms / config.ctas
    shared = (written + weight_pairs.read_bytes(problem, config)) / (SHARED * clock)
    way = max(problem.item * k * (m + n) / cache, written / (PORT * clock))
    parted = weight_pairs.own(problem, config)[1] * k * problem.item // 128 if taps.parted(problem, config) > 1 else 0
    if weight_pairs.flat(problem, config):
        parted *= MASKED
    issued = (config.warps * (STEP + FETCH * asked) + parted) / (4 * clock)
    return max(tensor, shared, way, issued, (SETTLING + ISSUED * asked) / clock, (ARRIVAL + written / (PORT * clock)) / (config.stages - 1))
