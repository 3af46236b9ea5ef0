"""Bank conflicts of a pipeline's buffer, before anything is compiled: what costs.py pays for them.

Single elements of 4 bytes are copied into a buffer with lanes along places. Where they go by registers to their product,
and no thread has two neighbours of these places, the compiler lays the buffer out as its threads count their elements,
along channels, and the lanes ask for few banks, there and back. Without a pipeline there is no such buffer. Wider copies
are stored as they lie. But products of TF32 want what they sum over side by side: what is loaded in runs across that is turned on its
way by registers. What is gathered is then read in an order in which no lanes meet (lowering.turned); else, pipeline or not, each byte
costs about TURNED times its own. Narrower elements are never copied so, and fragments are taken as they lie.
"""

from ..problems.problem import Problem
from . import flat, lowering, taps
from .config import Config
from .device import Device
from .taps import WARPGROUP

BANKS = 32
MASKED = 1.25  # what a step takes where each thread has masks for neighbours that are parted, counted in kernels of A100
COPIED = 4  # bytes: the narrowest element that is copied asynchronously
TURNED = 16  # counted in kernels of H200: 10 to 20, more with more warps; half of it where neighbours are split


def conflicting(config: Config, problem: Problem, device: Device) -> int:
    """Bytes whose time the conflicts of one step take beside what it moves."""
    split, threads = taps.split_factor(problem, config), BANKS * config.warps
    weights = problem.direction == "grad_weight"
    by_registers = split > 1 and not weights or device.warpgroups and config.block_m >= WARPGROUP
    if weights and config.copy:  # nothing passes through registers
        return 0
    if config.path != "gather" or problem.item != COPIED or not by_registers:
        return 0
    if config.flat and (not flat.at_once(problem, config) or config.flat == 3):
        return 0  # lanes are along channels, or there is one step
    if not weights:
        turned = (TURNED // split) * (not config.copy and lays_places_side_by_side(problem) and not lowering.turned(problem, config))
        return _of_a_tile(source_run(config, problem), config.block_n * split, config.block_k, config.stages, threads, turned)
    turned = TURNED * (problem.y_layout == "channels_last")  # x is taken from registers
    x = _of_a_tile(taps.x_run(problem, config), config.block_k, config.block_m, config.stages, threads, 0)
    if taps.reading(problem, config) == "row":
        return x
    return x + _of_a_tile(taps.z_run(problem, config), config.block_k * split, config.block_n, config.stages, threads, turned)


def masked(config: Config, problem: Problem) -> bool:
    """Whether runs of what is gathered are parted and turned, and some places are outside."""
    parted = problem.rounded and taps.split_factor(problem, config) > 1 and lowering.turned(problem, config) and source_run(config, problem) > 1
    return bool(parted) and any(axis.halo for axis in lowering.axis_constants(problem, config))


def _of_a_tile(run: int, places: int, channels: int, stages: int, threads: int, turned: int) -> int:
    """turned: what a byte costs of runs that lie across what a product sums over, 0 of others."""
    if run > 1:
        return turned * COPIED * places * channels
    if stages == 1 or places > threads or places * channels <= threads:  # a thread has neighbours, or one element
        return 0
    return 2 * COPIED * places * channels * (max(1, min(BANKS, places) * min(BANKS, channels) // BANKS) - 1)


def lays_places_side_by_side(problem: Problem) -> bool:
    """What a forward or an input gradient gathers is channels-first."""
    return (problem.x_layout if problem.direction == "forward" else problem.y_layout) == "channels_first"


def source_run(config: Config, problem: Problem) -> int:
    """The run of what a forward or an input gradient gathers, a copy where there is one."""
    if config.copy:
        return 16 // problem.item
    layout, run = (problem.x_layout, problem.x_run) if problem.direction == "forward" else (problem.y_layout, problem.y_run)
    return lowering.gathered_run(problem, config, layout, run)
