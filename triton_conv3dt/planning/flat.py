"""An input gradient whose taps are summed over beside the channels, so that few channels fill a step on tensor cores.

    dx[channel, i] = sum over r = (tap, output channel) of  w[channel, r] * dz[output channel, stride * i - padding + tap]

config.flat says of how many axes, w first, the taps are a part of r; those of the others are steps, as they are without. Of a
channels-first dz the taps run fastest in r, else its channels: neighbours in r are then neighbours in memory, of dz as of a
weight that lies in the same order. Nothing is split along w: what a position reads is its own.

With config.merge along w a position is a pair of neighbours along w, both among the rows: what both of them meet is read once, and
where only one does, the other's weight is a zero.
"""

from math import gcd, prod

from ..problems.geometry import Axis
from ..problems.problem import Problem

MOST_TAPS = 29  # of axes along which some place is outside, added up: the kernel keeps a bit for each
MOST_ADDRESSES = 32  # of single elements that a thread reads in a step
COSTS = 340, 70, 8.1, 3.9  # instructions of a warp: once, for each step, access and element (planning/issue.py)


def places(config) -> int:
    """Neighbours along w that are one position."""
    return 2 if config.flat and config.merge[2] else 1


def window(a: Axis, together: int) -> int:
    """Taps by which so many neighbours meet dz, counted from the first's."""
    return a.kernel + (together - 1) * a.stride


def halo(a: Axis, together: int = 1) -> bool:
    """Some tap meets a place of dz that is outside."""
    last = -(-a.size // together) * together - together
    return a.padding > 0 or last * a.stride - a.padding + (window(a, together) - 1) * a.dilation >= a.out


def together(problem: Problem, config) -> int:
    """Taps that are a part of the reduction."""
    d, h, _ = problem.kernel
    return prod((d, h, window(problem.axes[2], places(config)))[3 - config.flat:]) if config.flat else 1


def mergeable(problem: Problem) -> bool:
    """Whether pairs along w may be worth it: most of what one place meets, its neighbour meets, too, and both are written whole."""
    axis = problem.axes[2]
    return problem.x_layout == "channels_last" and axis.dilation == 1 and axis.size > 1 and axis.kernel >= max(5, 3 * axis.stride)


def reduction(problem: Problem, config) -> int:
    """What a product sums over by steps of block_k."""
    return (problem.ci_group if problem.direction == "forward" else problem.co_group) * together(problem, config)


def taps_first(problem: Problem, config) -> bool:
    """Taps run fastest, or there is one channel and it makes no difference."""
    return problem.y_layout == "channels_first" and not config.copy or problem.co_group == 1


def choices(problem: Problem, few: int) -> list[int]:
    """Of how many axes the taps may be worth it: where channels alone leave a step of so many empty, each axis that has taps."""
    if problem.direction != "grad_input" or problem.co_group >= few or problem.ci_group == 1:
        return []
    return [axes for axes in (1, 2, 3) if problem.kernel[3 - axes] > 1]


def gathered_run(problem: Problem, layout: str, alignment: int) -> int:
    """The run of dz along r: its channels, or its taps along w, which begin and end together with the width and with a stride."""
    if layout == "channels_last":
        return gcd(alignment, problem.co_group)
    axis = problem.axes[2]
    return gcd(alignment, axis.kernel, axis.stride, axis.padding, axis.out) if axis.dilation == 1 else 1


def weight_run(problem: Problem, config, minor: str, alignment: int) -> int:
    """The run of the weight along r, in the order that the kernel finds it in ("tap" or "co" side by side)."""
    if minor == "tap":
        return gcd(alignment, together(problem, config)) if taps_first(problem, config) and places(config) == 1 else 1
    return gcd(alignment, problem.co_group) if problem.y_layout == "channels_last" else 1


def at_once(problem: Problem, config) -> bool:
    """All of r is one step."""
    return config.block_k >= reduction(problem, config)


def addresses(problem: Problem, config) -> float:
    """Single elements of dz that a thread reads in a step of several, each with an address and a place of its own."""
    if at_once(problem, config) or gathered_run(problem, problem.y_layout, problem.y_run) > 1:
        return 0
    return config.block_k * config.block_n / (32 * config.warps)


def crowded(problem: Problem, config, device) -> bool:
    """Those and the accumulator leave hardly a register to the operands, which long steps and products without Hopper's hold there."""
    held = problem.wide or config.block_k * problem.item > 128 or device.capability != (9, 0)
    return held and addresses(problem, config) >= MOST_ADDRESSES // 2 and config.block_m * config.block_n >= 64 * 32 * config.warps


def features(problem: Problem, config, trips: float) -> tuple[float, float, float, float]:
    """What COSTS are multiplied by, for trips of the loop of a program. Where r is one step, its taps are known to the compiler and
    lanes are positions; else lanes are neighbours in r, and a thread knows few taps and many positions."""
    run, threads = gathered_run(problem, problem.y_layout, problem.y_run), 32 * config.warps
    accesses = config.block_k * config.block_n / run / threads
    lanes_are_positions = run == 1 and at_once(problem, config)
    positions = config.block_n / threads if lanes_are_positions else accesses / max(1, config.block_k / run / 32)
    each = 1 if lanes_are_positions or run > 1 else 2
    return 1 + positions / 8, trips, trips * each * accesses, config.block_m * config.block_n / threads


def instructions(problem: Problem, config, trips: float) -> float:
    """What a warp issues, about."""
    return sum(each * times for each, times in zip(COSTS, features(problem, config, trips)))


def fits(config, problem: Problem) -> str | None:
    """Why taps cannot be summed over beside the channels, or None."""
    if config.path != "gather" or problem.direction != "grad_input":
        return "taps are summed over beside the channels by the gather of an input gradient alone"
    if not 1 <= config.flat <= 3:
        return f"flat = {config.flat} is not a number of axes"
    if any(config.merge) and not (config.merge == (False, False, True) and mergeable(problem)):
        return "pairs of places are merged along w, of a channels-last dx whose neighbours meet much the same by taps of dilation 1"
    axes = *((axis, 1) for axis in problem.axes[:2]), (problem.axes[2], places(config))
    if (bits := sum(window(axis, n) for axis, n in axes if halo(axis, n))) > MOST_TAPS:
        return f"{bits} taps of axes with places outside are more than the {MOST_TAPS} that the kernel has bits for"
    if addresses(problem, config) > MOST_ADDRESSES:
        return f"addresses of {config.block_k}x{config.block_n} single elements leave {config.warps} warps without registers"
    return None
