"""Which tiles of a weight gradient on tensor cores are worth trying, and how long one step takes. A part of search.py."""

from itertools import product
from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import banks, taps, weight_pair_tiles, weight_pairs
from .config import SMALLEST_DOT, Config
from .device import Device


def tiles(problem: Problem, device: Device, thorough: bool):
    """Ways of the taps and tiles for them, as configs: those that read and multiply the least for a position."""
    yield from _tiles(problem, device, thorough, False)
    if taps.copyable(problem):
        yield from _tiles(problem, device, thorough, True)


def _tiles(problem: Problem, device: Device, thorough: bool, copied: bool):
    walked = Config("gather", SMALLEST_DOT, SMALLEST_DOT, SMALLEST_DOT, copy=copied)
    split, found = taps.split_factor(problem, walked), []
    # What passes through registers between load and product leaves accumulators half of them; but for pairs of 16 bits in long
    # rows, whose columns are few beside 256 rows, where each tap is a program and none takes masks.
    halves = problem.wide or split > 1 or problem.item == 4 and not device.warpgroups
    pairs = device.warpgroups and split == 2 and problem.item == 2 and problem.exact and problem.in_size[2] % 8 == 0 and not problem.wide
    choices = [taps.ways(axis, split if i == 2 else 1) for i, axis in enumerate(problem.axes)]
    if device.warpgroups and split == 1:
        choices = [ways + folds for ways, folds in zip(choices, taps.folds(problem, walked))]
    memory, tensor = (device.l2 or 5e12) / problem.item, (device.rate_16bit if problem.item == 2 else device.rate_tf32) or 1e14
    for ways in product(*choices):
        walked = walked.but(taps=ways)
        if taps.shifts(problem, walked) > taps.MOST_SHIFTS:
            continue
        (rows, columns), together = taps.lines(problem, walked), prod(taps.FOLDED.get(way, 1) for way in ways)
        for block_m in _powers(rows, 256):
            for block_n in _powers(columns, max(SMALLEST_DOT, 256 // split)):
                wide = not halves or pairs and block_m == 256 and set(ways) == {"programs"}
                if block_m * block_n * split > (128 if wide else 64) * 256:
                    continue
                tried = walked.but(block_m=block_m, block_n=block_n)
                if together > 1 and problem.item == 2 and block_m * block_n > 128 * 128 and taps.z_run(problem, tried) == 1:
                    continue  # by steps so long that single elements leave no registers
                count, small = taps.tiles(problem, tried) / together, device.warpgroups and block_m < 64
                read = count * (block_m + block_n * split) / memory
                multiplied = 2 * count * block_m * block_n * split / tensor * (1.6 if small else 1)
                found.append((max(read, multiplied) + 0.3 * min(read, multiplied), count, tried))
    found.sort(key=lambda tile: tile[:2])
    return [tile[2] for tile in found[:40 if thorough else 10]]


def _powers(lines: int, most: int) -> list[int]:
    """Sides of a tile: powers of two up to the one that holds all lines, largest first."""
    largest = max(SMALLEST_DOT, min(most, 1 << (lines - 1).bit_length()))
    return [largest >> i for i in range(largest.bit_length()) if largest >> i >= SMALLEST_DOT]


def scattered(problem: Problem, config: Config) -> bool:
    """Whether the addresses of copies that a thread reads do not follow from a few: x is read by single elements, too, or the columns
    of a thread, 8 apart, are of channels that the compiler cannot tell, or they are many, of short rows or of many channels."""
    many = config.block_n > 128 and (problem.in_size[2] % 8 > 0 or problem.co_group > 64)
    return taps.x_run(problem, config) == 1 or problem.co_group % 16 > 0 or many


def step_time(config: Config, problem: Problem, device: Device, tile: int, products: float, cache: float) -> float:
    """Seconds of a step on one SM, which loads `tile` bytes: tensor cores, shared memory, the cache, or instructions.

    products: time of a product over that of one of tensor cores. cache: bytes/s from L2 to an SM. The numbers of instructions
    are fitted to what the compiler makes.
    """
    if config.path == "pair":
        return weight_pair_tiles.time(config, problem, device, cache)
    rate = (device.rate_16bit if problem.item == 2 else device.rate_tf32) or 1e14
    m, n, k = config.block_m, config.block_n * taps.split_factor(problem, config), config.block_k
    group = device.warpgroups and m >= 64
    tensor = 2 * m * n * k * products / rate * device.sms * (1.0 if group or not device.warpgroups else 1.6)
    shared = tile + problem.item * k * (ceil_div(n, 256) * m + ceil_div(m, 64 if group else 16 * config.warps) * n)
    loads = m * k / taps.x_run(problem, config) + n * k / taps.z_run(problem, config)
    shared += banks.conflicting(config, problem, device)
    issued = 5 * loads / 32 + 150 * config.warps
    if problem.rounded and not config.copy:
        issued += (m + n) * k / 32 * 2.5
    elif taps.split_factor(problem, config) > 1:
        issued += n * k / 32
    if not group:
        issued += m * n * k * problem.item / (16 * 8 * 32) * 1.6
    clock = device.clock or 1.5e9
    return max(tensor, shared / (128 * clock), tile / cache, issued / (4 * clock))


def copied_bytes(config: Config, problem: Problem) -> list[int]:
    """What each launch that copies for a weight gradient reads and writes of memory."""
    if config.path == "pair":
        return weight_pairs.copied_bytes(problem, config)
    read = problem.ci * prod(problem.in_size), problem.co * prod(problem.out_size)
    return [problem.item * (problem.n * one + copy) for one, copy in zip(read, taps.copied_elements(problem, config))]
