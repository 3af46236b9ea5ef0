"""What tensor descriptors read of a channels-last tensor or a copy in it: boxes of its places, and whether they fit. Where dz is copied,
and when, is said here, too."""

from dataclasses import replace
from math import prod

from ..problems.problem import Problem, exceed_31_bits
from . import walk_memory
from .phases import rows_and_reduction
from .recall import recalled

LARGEST_BOX = 256  # places of a descriptor's box along one axis


def copyable(problem: Problem) -> bool:
    """What is gathered is channels-first, and its taps shift along w by single elements, or it is TF32, whose products want channels
    side by side: a copy in channels_last is read 16 bytes at a time, and as it lies."""
    axis = problem.axes[2]
    if problem.direction == "forward":
        shifted, layout, channels = len(axis.reads) > 1 or axis.padding % axis.stride > 0, problem.x_layout, problem.ci_group
    else:
        shifted, layout, channels = axis.kernel > axis.stride, problem.y_layout, problem.co_group
    worth = problem.direction != "grad_weight" and (shifted or problem.rounded)
    return worth and layout == "channels_first" and channels * problem.item % 16 == 0


def partable(problem: Problem) -> bool:
    """What is gathered may be copied for a pair: as `copyable` says, or a dz in channels_last whose strided boxes lie in one plane each;
    those of a copy with residues apart may be deep."""
    deep = problem.direction == "grad_input" and problem.stride != (1, 1, 1) and problem.y_layout == "channels_last"
    return copyable(problem) or deep and problem.co_group * problem.item % 16 == 0


@recalled
def seen(problem: Problem, config) -> Problem:
    """The problem as the product of an input gradient sees it, whose dz may be a copy in channels_last."""
    if problem.direction != "grad_input" or not config.copy or config.path == "walk":
        return problem
    return replace(problem, y_layout="channels_last", y_alignment=0, even=True)


def described(kind: str, problem: Problem, config, step: int) -> tuple[list[int], list[int], list[int]]:
    """Shape, strides and block of the descriptor of the gathered tensor, whose places lie step elements apart: "rows", "box" or
    "strided", as kernels/gather.py says, or "apart", as kernels/pair.py does."""
    channels, (d, h, w) = walk_memory.shape(problem, config)
    if kind == "rows":
        return [problem.n * d * h * w, channels], [step, 1], [config.block_n, config.block_k]
    if kind == "box":
        return ([problem.n, d, h, w, channels], [d * h * w * step, h * w * step, w * step, step, 1],
                [1, *config.box, config.block_k])
    sd, sh, sw = problem.stride
    if kind == "apart":
        places, line = [d // sd, h // sh, w // sw], w * step
        return ([problem.n * sd * sh, *places, (sw - 1) * step + channels],
                [places[0] * places[1] * line, places[1] * line, line, sw * step, 1], [1, *config.box, config.block_k])
    return ([problem.n * d, h // sh, sh, w // sw, (sw - 1) * step + channels],
            [h * w * step, sh * w * step, w * step, sw * step, 1], [1, config.box[1], 1, config.box[2], config.block_k])


def fits(config, problem: Problem) -> str | None:
    """Why the gathered tensor, as the product sees it, cannot be read by descriptor, or None."""
    forward = problem.direction == "forward"
    layout, run = (problem.x_layout, problem.x_run) if forward else (problem.y_layout, problem.y_run)
    if not config.copy and (layout != "channels_last" or run * problem.item < 16 or not problem.even):
        return "a descriptor reads channels_last tensors with one stride for all places and 16-byte alignment"
    reduction = rows_and_reduction(problem)[1]
    strided = not forward and problem.stride != (1, 1, 1)
    if (strided or problem.groups > 1) and reduction % config.block_k:
        return f"block_k = {config.block_k} does not divide {reduction} channels, and a box would read beyond them"
    sizes = problem.in_size if forward else problem.out_size
    places = max(problem.n * sizes[0] if strided else problem.n, *sizes) if any(config.box) else problem.n * prod(sizes)
    if exceed_31_bits(places):
        return f"{places} places in a row are more than a coordinate of 32 bits can count"
    if not any(config.box):
        if strided or not all(axis.reads_in_place for axis in problem.axes):
            return "neighbours in flat order are not what a tap reads; a box is needed"
        if config.block_n // config.ctas > LARGEST_BOX:
            return f"block_n = {config.block_n} is above {LARGEST_BOX * config.ctas}"
        return None
    if min(config.box) < 1 or config.box[0] * config.box[1] * config.box[2] != config.block_n:
        return f"a box of {'x'.join(map(str, config.box))} does not hold block_n = {config.block_n} places"
    if max(config.box) > LARGEST_BOX:
        return f"a box of {'x'.join(map(str, config.box))} is above {LARGEST_BOX} on an axis"
    apart = config.copy and config.path == "pair"
    if strided and not apart and (config.box[0] > 1 or any(a.out % a.stride for a in problem.axes[1:])):
        return "a strided box lies in one plane of an output whose height and width the stride divides"
    return None
