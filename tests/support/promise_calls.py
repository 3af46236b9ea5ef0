"""Random layers on random memory, and configs for them: what promises are checked with."""

import random
from dataclasses import dataclass, replace
from math import prod

import torch

from triton_conv3dt.launching.tensors import empty, problem_of
from triton_conv3dt.planning import flat, search, taps
from triton_conv3dt.planning.config import Config, copyable, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.taps import FOLDED, WAYS
from triton_conv3dt.problems.activations import Activation
from triton_conv3dt.problems.problem import BACKWARD, DIRECTIONS, Epilogue, Problem
from triton_conv3dt.problems.sampling import uncropped
H200 = Device.named("nvidia_h200")


@dataclass
class Call:
    """A layer's tensors, which have no storage, and its geometry."""

    direction: str
    x: torch.Tensor
    w: torch.Tensor
    y: torch.Tensor
    residual: torch.Tensor | None
    stride: tuple
    padding: tuple
    dilation: tuple
    groups: int
    activation: Activation | None

    def problem(self) -> Problem:
        epilogue = Epilogue(residual=self.residual is not None, activation=self.activation)
        return problem_of(self.direction, self.x, self.w, self.y, epilogue, self.stride, self.padding, self.dilation,
                          self.groups, "tf32", self.residual)


def draw(rng: random.Random) -> Call:
    """A random layer on random memory."""
    direction = rng.choice((*DIRECTIONS, BACKWARD))
    dtypes = (torch.float16, torch.float16, torch.float32, torch.float64)
    dtype = rng.choice(dtypes if direction != BACKWARD else dtypes[:1])
    triple = lambda choose: tuple(choose() for _ in range(3))
    sizes = (lambda: rng.randint(1, 9), lambda: 8 * rng.randint(1, 16), lambda: rng.randint(1, 300),
             lambda: rng.randint(1, 3000))
    channels = (1, 2, 3, 4, 7, 8, 12, 16, 24, 32, 33, 64)
    groups = rng.choice((1, 1, 1, 1, 2, 3)) if direction != BACKWARD else 1
    ci, co = groups * rng.choice(channels), groups * rng.choice(channels)
    if rng.random() < 0.1 and direction != BACKWARD:
        groups, co = ci, ci * rng.choice((1, 1, 2))
    n, in_size = rng.choice((1, 1, 2, 3)), triple(lambda: rng.choice(sizes[:rng.randint(1, 4)])())
    in_size = tuple(1 if rng.random() < 0.15 else size for size in in_size)
    if rng.random() < 0.1:  # as many elements or positions as 31 bits hold, or a few more
        axis, most = rng.randrange(3), 2**31 // (n * rng.choice((1, ci, 2 * co, 8 * co)))
        others = prod(in_size) // in_size[axis]
        in_size = (*in_size[:axis], max(1, most // others + rng.randint(-1, 1)), *in_size[axis + 1:])
    stride = triple(lambda: rng.choice((1, 1, 2, 2, 2, 3, 4, 8)))
    kernel = triple(lambda: rng.choice((1, 2, 3, 4, 5, 8)))
    if rng.random() < 0.4 or direction == BACKWARD:
        kernel = stride
    dilated = rng.random() < 0.2 and direction != BACKWARD
    dilation = triple(lambda: rng.choice((1, 2, 3, 4, 6))) if dilated else (1, 1, 1)
    padding, out_size = (0, 0, 0), uncropped(in_size, kernel, stride, dilation)
    if rng.random() < 0.6 and direction != BACKWARD:
        padding = triple(lambda: rng.randint(0, 2)) if rng.random() < 0.7 else triple(lambda: rng.randint(-3, 9))
        extra = rng.choice((lambda: 0, lambda: rng.randint(0, 3), lambda: rng.randint(-9, 9)))
        out_size = tuple(max(1, o - 2 * p + extra()) for o, p in zip(out_size, padding))
    if n * max(ci * prod(in_size), co * prod(out_size)) > 2**36:  # what no memory holds
        return draw(rng)
    x = memory(rng, (n, ci, *in_size), dtype)
    y = memory(rng, (n, co, *out_size), dtype)
    w, residual, activation = memory(rng, (ci, co // groups, *kernel), dtype, spread=0.3), None, None
    if direction == "forward":
        y = memory(rng, y.shape, dtype, spread=0.5, expanded=0) if rng.random() < 0.3 else empty(y.shape, x)
        residual = memory(rng, y.shape, dtype) if rng.random() < 0.3 else None
    if direction == "grad_input":
        x = empty(x.shape, y)
    if direction == BACKWARD:
        activation = rng.choice((None, Activation.of("relu")))
    return Call(direction, x, w, y, residual, stride, padding, dilation, groups, activation)


def memory(rng: random.Random, shape: tuple, dtype, spread: float = 0.6, expanded: float = 0.05) -> torch.Tensor:
    """A tensor somewhere in memory, in some order; with probabilities of gaps and of expanded axes."""
    order = rng.choice(((0, 1, 2, 3, 4), (0, 1, 2, 3, 4), (0, 2, 3, 4, 1), (0, 2, 3, 4, 1), (2, 3, 4, 1, 0), None))
    order = order or rng.sample(range(5), 5)
    strides, step, gaps = [0] * 5, 1, rng.random() < spread
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis] + (rng.choice((0, 0, 0, 1, 2, 4, 8, 16)) if gaps else 0)
        if gaps and rng.random() < 0.05:
            step += rng.choice((1, 2, 8, 2**20, 2**29, 2**30, 2**31) if prod(shape) < 2**20 else (1, 2, 8))
    for axis in range(5):
        if shape[axis] == 1 and rng.random() < 0.3:
            strides[axis] = rng.choice((0, 1, 2, 3, 7, 8, 64, 2**32 + 1))
        if rng.random() < expanded:
            strides[axis] = 0
    if gaps and rng.random() < 0.05:  # as far as 31 bits reach, or a little farther
        axis = max(range(5), key=lambda i: strides[i] * (shape[i] > 1))
        if shape[axis] > 1:
            strides[axis] = max(strides[axis], 2**rng.randint(29, 31) // (shape[axis] - 1) + rng.randint(-8, 8))
    skipped = rng.choice((0, 1, 2, 3, 4, 8, 24)) if rng.random() < spread else 0
    return torch.empty(1, dtype=dtype, device="meta").as_strided(shape, strides, skipped)


def choose(rng: random.Random, problem: Problem) -> Config | None:
    """A config that fits: one that the search proposes, or any; no walk and no pair, whose promises tests/emulator sees kept."""
    kind = rng.random() if problem.direction != BACKWARD else 1
    if kind < 0.4:
        found = search.candidates(problem, H200) if kind < 0.002 else search.sensible(problem, H200)
        return rng.choice([config for config in found if config.path not in ("walk", "pair")])
    power = lambda low, high: 1 << rng.randint(low, high)
    for _ in range(16):
        shares = rng.choice((1, 2, 5, 64)) if problem.direction in ("grad_weight", BACKWARD) else 1
        blocks, stages = (power(4, 7), power(4, 8), power(4, 6)), rng.choice((1, 2, 3))
        if problem.direction == BACKWARD:
            least = lambda size: max(16, 1 << (size - 1).bit_length())
            tried = Config("onepass", least(problem.ci), least(problem.co * problem.taps), blocks[2], 16, stages,
                           shares=shares)
        elif problem.dtype == "float64" or rng.random() < 0.2:
            tried = Config("direct", power(0, 5), power(2, 10), shares=shares)
        else:
            merge = tuple(a.kernel % a.stride == 0 and rng.random() < 0.7 for a in problem.axes)
            path, box = rng.choice(("gather", "descriptor")), (0, 0, 0)
            if path == "descriptor" and rng.random() < 0.8:
                d, h = power(0, 1) if problem.direction == "forward" else 1, power(0, 2)
                blocks = power(4, 7), max(16, blocks[1]), power(3, 5) * 2
                box = (d, h, blocks[1] // (d * h))
            merge = merge if problem.direction == "forward" else (False,) * 3
            copy = (copyable(problem) or path == "gather" and taps.copyable(problem)) and rng.random() < 0.7
            tried = Config(path, *blocks, 8, stages, merge, shares, box, copy)
            if problem.direction == "grad_input":
                tried = replace(tried, flat=rng.choice((0, 0, 1, 2, 3)) if path == "gather" else 0, shares=rng.choice((1, 1, 2, 5)))
                tried = replace(tried, merge=(False, False, tried.flat > 0 and rng.random() < 0.7 and flat.mergeable(problem)))
            if problem.direction == "grad_weight" and path == "gather":
                tried = replace(tried, taps=tuple(rng.choice((*WAYS, *FOLDED)) for _ in range(3)))
        if fits(tried, problem, H200) is None:
            return tried
    return None
