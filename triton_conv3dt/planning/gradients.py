"""dz, the gradient before the activation, as what follows a layer's output asks for it: the pass that makes it and sums it for the bias
on the way, as the values of planning/passes.py, and the layout in which the products read it.
"""

from dataclasses import replace
from math import prod

from ..problems.activations import Activation
from ..problems.geometry import ceil_div, power_of_two_divisor
from ..problems.problem import BACKWARD, Epilogue, Problem
from . import costs, search
from .config import Config, sums_bias
from .constants import Memory
from .constraints import NONE, Constraints
from .device import Device
from .passes import BLOCK, Launch, Schedule, Workspace, activation_constants, sum_biases

SHARES = 512  # of the places, at most, whose sums are added up by one program
PROGRAMS = 4096  # enough to keep every memory busy
CHUNK = 4096  # elements of a chunk where programs are few, as they sum, or where it is read along one axis and written along another
CHANNELS = 64  # of a chunk, at most, of those that lie side by side
OPERANDS = "dy", "saved", "dz", "db"  # what a caller brings; None for what there is not


def make_dz(n: int, c: int, sizes: tuple[int, int, int], axes: int, memories: dict[str, Memory], activation: Activation | None, *,
            sums: bool, double: bool, wide: bool, most_places: int = CHUNK) -> Schedule:
    """dz = dy * derivative(saved), and db, its sum over all places, where sums.

    axes: how many of the last of (n, *sizes) one stride steps through in every tensor; 5 if through all, whatever is a channel. memories:
    how each tensor that there is lies; of dy alone nothing is made, and dy is what is summed.
    """
    n, c, *sizes = (n, c, *sizes) if axes < 5 else (1, 1, 1, 1, n * c * prod(sizes))
    outer, places = (n, *sizes)[:max(0, 4 - axes)], prod((n, *sizes)[-axes:])
    block_c, block_p = _tile(c, min(places, most_places), {memory.last for memory in memories.values()}, sums)
    chunks, columns = prod(outer) * ceil_div(places, block_p), ceil_div(c, block_c)
    share = ceil_div(chunks, min(SHARES, max(1, PROGRAMS // columns))) if sums else 1
    shares, accumulator = ceil_div(chunks, share), "float64" if double else "float32"
    grid, given = (shares, columns, 1), [memories.get(name) for name in OPERANDS[:3]]
    constants = dict(
        LIVE=(power_of_two_divisor(c, min(16, block_c)), power_of_two_divisor(places, min(16, block_p))),
        **dict(zip("GSO", given)), **activation_constants("DERIVATIVE", activation), BLOCK_C=block_c, BLOCK_P=block_p, ACC=accumulator,
        INDEX="int64" if wide else "int32")
    tensors = *(name if memory else None for name, memory in zip(OPERANDS, given)), "parts" if sums else None
    strides = tuple((name, "runs", axes) if memory else (0,) * 5 for name, memory in zip(OPERANDS, given))
    what = " and ".join(["dz"] * ("dz" in memories) + ["its sum for the bias"] * sums)
    product = Launch("make_dz", grid, tensors, (c, chunks, share, (*(*outer, 1, 1, 1)[1:3], places)), strides, constants,
                     f"make_dz: {what}" + f", of {activation}" * (activation is not None) + f", grid {grid}")
    if not sums:
        return Schedule(OPERANDS, (product,))
    return Schedule(OPERANDS, (product, sum_biases(c, shares, "parts", "db")), (Workspace("parts", (shares, c), (c, 1), accumulator),))


def _tile(c: int, places: int, lasts: set[bool], sums: bool) -> tuple[int, int]:
    """Channels and places of a chunk: the most of what lies side by side."""
    channels, places = (1 << max(0, size - 1).bit_length() for size in (c, places))
    size = CHUNK if sums or len(lasts) > 1 else BLOCK
    if True in lasts:
        block_c = min(channels, CHANNELS)
        return block_c, min(places, size // block_c)
    block_p = min(places, size)
    return min(channels, size // block_p), block_p


def of(forward: Problem) -> Problem:
    """All gradients of a layer."""
    bias, activation = forward.epilogue.bias, forward.epilogue.activation
    return replace(forward, direction=BACKWARD, epilogue=Epilogue(bias, activation=activation))


def channels_last(problem: Problem, device: Device, constraints: Constraints = NONE) -> bool:
    """Whether dz is better in channels_last than as dy is, for all gradients of a problem of direction "backward", one after the other:
    products that read it so may save more than the pass costs, which an activation needs anyway."""
    if problem.y_layout == "channels_last":
        return False
    bandwidth = device.bandwidth or 1e12
    size = problem.item * problem.n * problem.co * prod(problem.out_size)
    as_it_is = _chosen(problem, device, constraints)
    summed = any(sums_bias(config, product) for product, config in as_it_is)
    apart = 0.0 if problem.epilogue.activation else (problem.epilogue.bias - summed - 2) * size / bandwidth - costs.LAUNCH
    return _seconds(as_it_is, device) + apart > _seconds(_chosen(in_channels_last(problem), device, constraints), device)


def in_channels_last(problem: Problem) -> Problem:
    """A problem whose dz a pass has made, and summed for the bias."""
    return replace(problem, y_layout="channels_last", y_alignment=0, even=True, epilogue=Epilogue())


def products(problem: Problem) -> list[Problem]:
    """The two products of all gradients. Where no pass makes dz, that of the weight may sum it for the bias on the way."""
    summed = Epilogue(bias=problem.epilogue.bias and problem.epilogue.activation is None)
    return [replace(problem, direction="grad_input", epilogue=Epilogue()), replace(problem, direction="grad_weight", epilogue=summed)]


def _chosen(problem: Problem, device: Device, constraints: Constraints) -> list[tuple[Problem, Config]]:
    return [(p, search.default(p, device, constraints)) for p in products(problem)]


def _seconds(chosen: list[tuple[Problem, Config]], device: Device) -> float:
    return sum(costs.cost(config, product, device) for product, config in chosen)
