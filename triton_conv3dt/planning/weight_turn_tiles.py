"""Which walks of a weight gradient that turn what they read are worth trying, and how long they take: what search.py asks of
weight_turns."""

from itertools import product

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import weight_turns
from .config import Config, shared_memory
from .device import Device
from .weight_walk_tiles import resident, shares

PATCHES = [(high, wide) for high in (2, 4, 8, 16) for wide in (8, 16, 32) if 32 <= high * wide <= 256]
TRIED, MOST = 6, 24  # tiles of a default, and of a tuner
STEP, TIMES = 240, 1.1  # instructions of a warp in every step, and what the others are more than counted
SETTLING = 2e-7  # seconds of a step in which an SM waits, where it has no other program


def tiles(problem: Problem, device: Device, thorough: bool):
    """Configs of a walk that fit, those that are expected to take the least time for a place first."""
    if not device.pairs or all(a.kernel <= a.stride for a in problem.axes):
        return  # nothing overlaps: what is read once anyway takes no halo
    found = []
    # Of few output channels twice as many as there are may be what lines are read of.
    outputs = [n for n in (8, 16, 32, 64, 128) if (n >= 16 or problem.co <= n) and n < max(2 * problem.co, 33)]
    inputs = [n for n in (16, 32, 64, 128) if n < 2 * problem.ci]
    for (high, wide), block_m, block_n, warps, way in product(PATCHES, outputs, inputs, (4, 8), weight_turns.WAYS):
        config = Config("walk", block_m, block_n, high * wide, warps, 2, box=(1, high, wide), taps=way)
        if weight_turns.fits(config, problem, device) or shared_memory(config, problem) > device.shared_memory:
            continue
        steps = weight_turns.loop_steps(problem, config, problem.in_size)
        found.append((steps * _step(config, problem, device), config))
    for _, config in sorted(found, key=lambda one: one[0])[:MOST if thorough else TRIED]:
        yield from (config.but(shares=n) for n in shares(config, problem, device, (0.25, 0.5, 1, 2, 4) if thorough else (0.25, 0.5, 1, 2)))


def _step(config: Config, problem: Problem, device: Device) -> float:
    """Seconds of a step on an SM that has one program, and gets its part of what L2 hands out in a second."""
    clock = device.clock or 1.5e9
    tensor = 2 * weight_turns.multiplied(problem, config) / ((device.rate_16bit if problem.item == 2 else device.rate_tf32) or 1e14)
    shared = weight_turns.shared_bytes(problem, config) / (128 * clock)
    issued = config.warps * (STEP + TIMES * weight_turns.instructions(problem, config)) / (4 * clock)
    read = weight_turns.step_bytes(problem, config) * weight_turns.fetched(problem, config) / (device.l2 or 5e12)
    return max(tensor * device.sms, shared, issued, read * device.sms)


def time(config: Config, problem: Problem, device: Device, shared_rate: float, cache_rate: float, clock: float) -> float:
    """Seconds of one program: its steps, bound by what takes longest of each. Rates are those of one SM."""
    alone = SETTLING if resident(config, problem, device) == 1 else 0.0
    steps = ceil_div(weight_turns.steps(problem, config), config.shares)
    return steps * (_step(config, problem, device) + alone)
