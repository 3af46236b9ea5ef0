"""Which walks of a weight gradient are worth trying, and how long they take: what search.py asks of weight_walks."""

from itertools import product
from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import weight_walks
from .config import Config, shared_memory, walking
from .device import Device

THREADS = 256  # of an SM, that may have all registers that a thread can
PATCHES = [(high, wide) for high in (2, 4, 8, 16, 32) for wide in (8, 16, 32) if 32 <= high * wide <= 256]
FEWEST = 4  # steps of a program, or shares cost more than they save
SETTLING = 2.5e-7  # seconds of a step in which an SM waits, where it has no other program


def tiles(problem: Problem, device: Device, thorough: bool):
    """Configs of a walk, some of which may not fit."""
    if not device.walks or all(a.kernel <= a.stride for a in problem.axes):
        return  # nothing overlaps: what is fetched once anyway takes no halo
    size = problem.in_size[1:]
    # Patches that leave few places unused, and fetch few rows beside their own.
    waste = lambda box: prod(ceil_div(n, side) * side for n, side in zip(size, box)) * (1 + 0.5 / box[0])
    patches = sorted(PATCHES, key=waste)[:8 if thorough else 4]
    columns = [n for n in (64, 32, 16) if n < 2 * problem.co]
    ways = weight_walks.WAYS[:1 if problem.stride[1] == 1 else 2]
    for (high, wide), block_m, block_n, taps in product(patches, (128, 64), columns, ways):
        config = Config("walk", block_m, block_n, high * wide, block_m // 16, 2, box=(1, high, wide), taps=taps)
        if weight_walks.fits(config, problem, device):
            continue
        for n in shares(config, problem, device, (1, 2, 4) if thorough else (1, 2)):
            yield config.but(shares=n)


def shares(config: Config, problem: Problem, device: Device, waves: tuple[float, ...]):
    """Programs that share the steps of either walk: what fills the device so many times."""
    programs, most = walking(problem).grid(problem, config, problem.in_size), walking(problem).steps(problem, config) // FEWEST
    filled = resident(config, problem, device) * device.sms
    return dict.fromkeys(max(1, min(int(n * filled) // programs, most, 256)) for n in waves)


def resident(config: Config, problem: Problem, device: Device) -> int:
    """Programs that share an SM."""
    return max(1, min(device.shared_memory // shared_memory(config, problem), THREADS // (32 * config.warps)))


def time(config: Config, problem: Problem, device: Device, shared_rate: float, cache_rate: float, clock: float) -> float:
    """Seconds of one program: its steps, bound by what takes longest of each. Rates are those of one SM."""
    w, clock = weight_walks.walk(problem, config), device.clock or clock
    fetches = w.planes + len(w.boxes) + len(w.rows)
    issued = config.warps * (200 + 25 * fetches + 3 * len(w.products) * config.block_k // 16)
    tensor = 2 * weight_walks.multiplied(problem, config) * device.sms / (device.rate_16bit or 1e15)
    shared = weight_walks.shared_bytes(problem, config) / (128 * clock if device.clock else shared_rate)
    cache = weight_walks.step_bytes(problem, config) * weight_walks.fetched(problem, config) / cache_rate
    alone = SETTLING if resident(config, problem, device) == 1 else 0.0
    steps = ceil_div(weight_walks.steps(problem, config), config.shares)
    return steps * (max(tensor, shared, cache, issued / (4 * clock)) + alone)
