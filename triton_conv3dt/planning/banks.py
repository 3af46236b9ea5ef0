"""Bank conflicts of a pipeline's buffer, before anything is compiled: what search.py pays for them.

Single elements of 4 bytes are copied into a buffer with lanes along places. Where they go by registers to their product,
and no thread has two neighbours of these places, the compiler lays the buffer out as its threads count their elements,
along channels, and the lanes ask for few banks, there and back. Without a pipeline there is no such buffer. Wider copies,
and narrower elements, which are never copied so, are stored as they lie; and so is what a product takes as fragments.
"""

from ..problems.problem import Problem
from . import flat, lowering, taps
from .config import Config
from .device import Device

BANKS = 32
COPIED = 4  # bytes: the narrowest element that is copied asynchronously
WARPGROUP = 64  # rows of its products, which read their second operand from shared memory


def conflicting(config: Config, problem: Problem, device: Device) -> int:
    """Bytes whose time the conflicts of one step take beside what it moves: none without a pipeline."""
    split, threads = taps.split_factor(problem, config), BANKS * config.warps
    weights = problem.direction == "grad_weight"
    by_registers = split > 1 and not weights or device.warpgroups and config.block_m >= WARPGROUP
    if config.path != "gather" or config.stages == 1 or problem.item != COPIED or not by_registers:
        return 0
    if config.flat and (not flat.at_once(problem, config) or config.flat == 3):
        return 0  # lanes are along channels, or there is one step
    if weights:
        run, places, channels = taps.z_run(problem, config), config.block_k * split, config.block_n
    else:
        run, places, channels = source_run(config, problem), config.block_n * split, config.block_k
    if run > 1 or places > threads or places * channels <= threads:  # a thread has neighbours, or one element
        return 0
    return 2 * COPIED * places * channels * (max(1, min(BANKS, places) * min(BANKS, channels) // BANKS) - 1)


def source_run(config: Config, problem: Problem) -> int:
    """The run of what a forward or an input gradient gathers, a copy where there is one."""
    if config.copy:
        return 16 // problem.item
    layout, run = (problem.x_layout, problem.x_run) if problem.direction == "forward" else (problem.y_layout, problem.y_run)
    return lowering.gathered_run(problem, config, layout, run)
