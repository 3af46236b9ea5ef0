"""Problems to try kernels with: random ones, and real ones reduced to what Triton's interpreter can run."""

import math
import random
from dataclasses import replace
from typing import TypeVar

from .activations import Activation
from .problem import DIRECTIONS, LAYOUTS, PRECISIONS, Epilogue, Problem
from .shape import Shape

AnyShape = TypeVar("AnyShape", bound=Shape)
MOST_OUTPUTS, MOST_TAPS = 2000, 64  # of a random problem, per channel
ACTIVATIONS = (None, None, Activation("relu"), Activation("leaky_relu", (0.25,)), Activation("gelu"))


def problems(seed: int, n: int, dtypes: tuple[str, ...]) -> list[Problem]:
    """n random problems in every direction, layout and epilogue; the same for a seed."""
    rng = random.Random(f"{seed} how it is run")
    result = []
    for shape in shapes(seed, n):
        direction, layout, other = rng.choice(DIRECTIONS), rng.choice(LAYOUTS), rng.choice(LAYOUTS)
        epilogue = Epilogue(rng.random() < 0.5, rng.random() < 0.3, rng.choice(ACTIVATIONS))
        result.append(Problem(**shape.numbers, direction=direction, dtype=rng.choice(dtypes),
                              precision=rng.choice(PRECISIONS), x_layout=layout,
                              y_layout=layout if rng.random() < 0.6 else other,
                              w_minor=rng.choice(("tap", "co", "ci")),
                              epilogue=epilogue if direction == "forward" else Epilogue()))
    return result


def shapes(seed: int, n: int) -> list[Shape]:
    """n random layers, small ones, half of them such as PyTorch can express; the same for a seed."""
    rng, result = random.Random(seed), []
    while len(result) < n:
        if shape := _shape(rng):
            result.append(shape)
    return result


def _shape(rng: random.Random) -> Shape | None:
    """None where the draw has an empty output or is too large."""
    triple = lambda *values: tuple(rng.choice(values) for _ in range(3))
    groups = rng.choice((1, 1, 1, 2, 3))
    ci, co = (groups * rng.choice((1, 2, 3, 5, 8, 16, 17)) for _ in range(2))
    if rng.random() < 0.15:
        groups, co = ci, ci * rng.choice((1, 1, 2))
    in_size, kernel, stride = triple(1, 2, 3, 4, 5, 7), triple(1, 2, 3, 3, 4, 5), triple(1, 2, 2, 3, 4)
    if rng.random() < 0.25:
        kernel = stride
    dilation = triple(1, 2, 3, 4) if rng.random() < 0.3 else (1, 1, 1)
    full = uncropped(in_size, kernel, stride, dilation)
    if rng.random() < 0.5:
        padding = tuple(rng.randint(0, k) for k in kernel)
        extra = (rng.randrange(max(s, d)) for s, d in zip(stride, dilation))
        out_size = tuple(f - 2 * p + e for f, p, e in zip(full, padding, extra))
    else:
        padding = tuple(rng.randint(-3, k + 2) for k in kernel)
        out_size = tuple(max(1, f - p + rng.randint(-4, 4)) for f, p in zip(full, padding))
    if min(out_size) < 1 or math.prod(out_size) > MOST_OUTPUTS or math.prod(kernel) > MOST_TAPS:
        return None
    n = rng.choice((1, 1, 2, 3))
    return Shape(n, ci, co, in_size, out_size, kernel, stride, padding, dilation, groups)


def reduced(real: AnyShape) -> AnyShape:
    """One of the same class that the interpreter can run, with three different sizes where there were any."""
    kernel, stride = real.kernel, real.stride
    if kernel == stride:  # every k = s is one product; 32 ** 3 taps are too many for the reference
        kernel = stride = tuple(min(k, 8) for k in kernel)
    full = uncropped(real.in_size, real.kernel, real.stride, real.dilation)
    after = [o - f for o, f in zip(real.out_size, full)]
    for enough in range(8):  # a large crop needs more input for some output to remain
        in_size = tuple(min(i, small + enough) for i, small in zip(real.in_size, (2, 3, 4)))
        if min(_add(uncropped(in_size, kernel, stride, real.dilation), after)) > 0:
            break
    groups, ci, co = _small_channels(real)
    out_size = _add(uncropped(in_size, kernel, stride, real.dilation), after)
    return replace(real, n=min(real.n, 2), ci=ci, co=co, in_size=in_size, kernel=kernel, stride=stride, groups=groups,
                   out_size=out_size)


def smaller(problem: Problem) -> list[Problem]:
    """Problems smaller or simpler in one respect: a size halved, one group alone, a part of the epilogue gone."""
    p, found = problem, []
    after = [o - f for o, f in zip(p.out_size, uncropped(p.in_size, p.kernel, p.stride, p.dilation))]
    for i, size in enumerate(p.in_size):
        in_size = tuple(size // 2 if i == j else other for j, other in enumerate(p.in_size))
        out_size = _add(uncropped(in_size, p.kernel, p.stride, p.dilation), after)
        found += [replace(p, in_size=in_size, out_size=out_size)] * (size > 1 and min(out_size) > 0)
    found += [replace(p, n=p.n // 2)] * (p.n > 1)
    if p.groups > 1:
        found.append(replace(p, groups=1, ci=p.ci_group, co=p.co_group))
    found += [replace(p, ci=p.ci // 2)] * (p.ci_group > 1 and p.ci_group % 2 == 0)
    found += [replace(p, co=p.co // 2)] * (p.co_group > 1 and p.co_group % 2 == 0)
    without = dict(bias=False, residual=False, activation=None)
    return found + [replace(p, epilogue=replace(p.epilogue, **{name: value})) for name, value in without.items()
                    if getattr(p.epilogue, name) != value]


def uncropped(in_size, kernel, stride, dilation) -> tuple[int, int, int]:
    """What all taps of all inputs reach."""
    return tuple((i - 1) * s + (k - 1) * d + 1 for i, k, s, d in zip(in_size, kernel, stride, dilation))


def _small_channels(real: Shape) -> tuple[int, int, int]:
    """groups, ci, co: as divisible by powers of two as the real ones, up to 16, and in the same order."""
    small = lambda c: c if c <= 16 else {1: 17, 2: 18, 4: 20, 8: 24, 16: 16}[math.gcd(c, 16)]
    if real.groups > 1:
        groups = min(real.groups, 16 if real.groups % 16 == 0 else small(real.groups))
        return groups, groups * min(real.ci // real.groups, 16), groups * min(real.co // real.groups, 16)
    ci, co = small(real.ci), small(real.co)
    if ci == co == 16 and real.ci != real.co:
        ci, co = (32, 16) if real.ci > real.co else (16, 32)
    return 1, ci, co


def _add(a, b) -> tuple[int, ...]:
    return tuple(map(sum, zip(a, b)))
