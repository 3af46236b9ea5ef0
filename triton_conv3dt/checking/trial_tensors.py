"""Tensors to try a problem with: its operands, the exact result, and an output whose surroundings must survive.

Integers, chosen so that every sum is exact in fp32 in any order, say whether a result is right without a tolerance.
Normal numbers are for timing: the power a GPU draws, and so its clock, depends on the values.
"""

import math
from dataclasses import dataclass

import torch

from ..launching.tensors import DTYPES
from ..planning.lowering import dense_strides
from ..problems.problem import Problem
from . import reference

X_BOUND, W_BOUND = 15, 7
LARGEST_SUM = 2**15  # eight standard deviations of any sum stay below it: exact in fp32, and finite in fp16
PATTERN, GUARD = 0x5A, 256  # what surrounds an output, and how many elements of it stand on either side
SMOOTH_ULPS = 4  # of the dtype, for activations that are not exact on integers


class Wrong(Exception):
    """A result that is not what it should be. kind: "wrong result" or "red zone"."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


@dataclass
class Operands:
    """The tensors of a problem's layer: x, w, y (or its gradient), and what the epilogue adds."""

    x: torch.Tensor
    w: torch.Tensor
    y: torch.Tensor
    b: torch.Tensor | None
    residual: torch.Tensor | None


def shapes(problem: Problem) -> dict[str, tuple[int, ...]]:
    """The shapes of x, w, y and b."""
    p = problem
    return {"x": (p.n, p.ci, *p.in_size), "w": (p.ci, p.co_group, *p.kernel), "y": (p.n, p.co, *p.out_size),
            "b": (p.co,)}


def written(problem: Problem) -> str:
    """Which tensor of the layer the problem computes (or the gradient of which)."""
    return {"forward": "y", "grad_input": "x", "grad_weight": "w"}[problem.direction]


def layout_of(problem: Problem, name: str) -> str:
    """How x, w or y of a problem lies in memory: a layout, or "ci" for a weight of neighbouring input channels."""
    if name == "w":
        return {"tap": "channels_first", "co": "channels_last", "ci": "ci"}.get(problem.w_minor, "channels_first")
    return problem.x_layout if name == "x" else problem.y_layout


def integers(problem: Problem, device, seed: int = 0) -> Operands:
    """Operands of small integers."""
    terms = {"forward": problem.taps * problem.ci_group, "grad_input": problem.taps * problem.co_group,
             "grad_weight": problem.n * math.prod(problem.in_size)}[problem.direction] + 2  # and bias and residual
    x_bound, w_bound = X_BOUND, W_BOUND
    largest = lambda: 8 * _deviation(x_bound) * _deviation(w_bound) * math.sqrt(terms)
    while largest() > LARGEST_SUM and (x_bound, w_bound) != (1, 1):
        x_bound, w_bound = max(1, x_bound - 2), max(1, w_bound - 1)
    bounds = {"x": x_bound, "w": w_bound, "y": w_bound, "b": x_bound}
    return _operands(problem, device, seed, lambda name, shape, generator: torch.randint(
        -bounds[name], bounds[name] + 1, shape, generator=generator, device=device, dtype=torch.int8))


def normals(problem: Problem, device, seed: int = 0) -> Operands:
    """Operands from a normal distribution."""
    return _operands(problem, device, seed, lambda name, shape, generator: torch.randn(
        shape, generator=generator, device=device, dtype=torch.float32))


def exact(problem: Problem, given: Operands, dtype=None) -> torch.Tensor:
    """The result of a problem, computed in `dtype` by the definition (fp32, or fp64 for fp64, where none is given):
    for integers it is the truth."""
    dtype = dtype or (torch.float64 if problem.dtype == "float64" else torch.float32)
    geometry = dict(stride=problem.stride, padding=problem.padding, dilation=problem.dilation, groups=problem.groups,
                    dtype=dtype)
    if problem.direction == "forward":
        return reference.conv_transpose3d(given.x, given.w, given.b, given.residual, out_size=problem.out_size,
                                          activation=problem.epilogue.activation, **geometry)
    if problem.direction == "grad_input":
        return reference.grad_input(given.y, given.w, in_size=problem.in_size, **geometry)
    return reference.grad_weight(given.x, given.y, kernel=problem.kernel, **geometry)


def truth(problem: Problem, integers: Operands) -> torch.Tensor:
    """What the result on integers must be, within ulps(problem): in fp32 that of a smooth activation would lose digits.
    """
    return exact(problem, integers, torch.float64 if ulps(problem) else None)


class RedZone:
    """An output to be written in place: `view` starts as NaN, between bytes that nobody may touch."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, layout: str, device):
        count, guard = math.prod(shape), GUARD * dtype.itemsize
        self._bytes = torch.full((count * dtype.itemsize + 2 * guard,), PATTERN, dtype=torch.uint8, device=device)
        self._before, self._after = self._bytes[:guard], self._bytes[-guard:]
        self.view = self._bytes[guard:-guard].view(dtype).as_strided(shape, dense_strides(shape, layout), GUARD)
        self.view.fill_(math.nan)

    def check(self, expected: torch.Tensor, ulps: float = 0.0) -> None:
        """Compare what was written with what should have been, rounded once to the output's dtype.

        Raises:
            Wrong: the surroundings changed, or a value is beyond so many units in the last place.
        """
        damaged = sum(int((part != PATTERN).sum()) for part in (self._before, self._after))
        if damaged:
            raise Wrong("red zone", f"{damaged} of the {2 * len(self._before)} bytes around the output were "
                                    "overwritten")
        expected = expected.to(self.view.dtype)
        wrong = self.view != expected
        if ulps:
            room = ulps * torch.finfo(self.view.dtype).eps * expected.float().abs().clamp(min=1)
            wrong &= ~((self.view.float() - expected.float()).abs() <= room)
        count = int(wrong.sum())
        if count:
            first = wrong.reshape(-1).to(torch.uint8).argmax()  # nonzero() would need 40 bytes for each wrong value
            at = tuple(int(i) for i in torch.unravel_index(first, wrong.shape))
            missing = int(self.view.isnan().sum())
            nans = f", {missing} of them NaN" if missing else ""
            raise Wrong("wrong result", f"{count} of {wrong.numel()} values are wrong{nans}; the first at {list(at)}: "
                                        f"{self.view[at].item()!r}, expected {expected[at].item()!r}")


def red_zone(problem: Problem, device) -> RedZone:
    """A red-zoned output of a problem."""
    name = written(problem)
    return RedZone(shapes(problem)[name], DTYPES[problem.dtype], layout_of(problem, name), device)


def ulps(problem: Problem) -> float:
    """How far a correct result on integers may be from the truth: not at all, but after a smooth activation."""
    activation = problem.epilogue.activation
    return 0.0 if activation is None or activation.name in ("relu", "relu6", "hardtanh") else SMOOTH_ULPS


def _operands(problem: Problem, device, seed: int, draw) -> Operands:
    generator, dtype = torch.Generator(device).manual_seed(seed), DTYPES[problem.dtype]

    def tensor(name, shape, layout):
        values = draw(name, shape, generator)
        return torch.empty_strided(shape, dense_strides(shape, layout), dtype=dtype, device=device).copy_(values)

    size, epilogue = shapes(problem), problem.epilogue
    x, w, y = (tensor(name, size[name], layout_of(problem, name)) for name in ("x", "w", "y"))
    return Operands(x, w, y, draw("b", size["b"], generator).to(dtype) if epilogue.bias else None,
                    tensor("y", size["y"], problem.y_layout) if epilogue.residual else None)


def _deviation(bound: int) -> float:
    """The standard deviation of the integers -bound to bound."""
    return math.sqrt(bound * (bound + 1) / 3)
