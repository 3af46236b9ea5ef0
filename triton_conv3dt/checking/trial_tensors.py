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
    """An output to be written in place: `view` starts as NaN, among elements that nobody may touch.

    Args:
        shape, strides: of the view, in elements; no two of its places are one.
        before, after: elements of the surroundings, beside the GUARD on either side, which changes no alignment.
    """

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, device="cpu", *,
                 before: int = 0, after: int = 0):
        count = sum((size - 1) * stride for size, stride in zip(shape, strides)) + 1 if 0 not in shape else 0
        start, size = GUARD + before, before + count + after + 2 * GUARD
        self._bytes = torch.full((size * dtype.itemsize,), PATTERN, dtype=torch.uint8, device=device)
        self._dense, self._pattern = count == math.prod(shape), self._bytes[:dtype.itemsize].clone().view(dtype)
        self._around = self._bytes[:start * dtype.itemsize], self._bytes[(start + count) * dtype.itemsize:]
        self.view = self._bytes.view(dtype).as_strided(shape, strides, start)
        self.view.fill_(math.nan)

    def check(self, expected: torch.Tensor | None = None, ulps: float = 0.0) -> None:
        """Compare what was written with what should have been, rounded once to the output's dtype; without `expected`,
        see that every value was written.

        Raises:
            Wrong: the surroundings changed, a value is beyond so many units in the last place, or one is still NaN.
        """
        if damaged := self._damaged():
            around = len(self._bytes) - self.view.nbytes
            raise Wrong("red zone", f"{damaged} of the {around} bytes around the output were overwritten")
        if expected is None:
            if missing := int(self.view.isnan().sum()):
                raise Wrong("wrong result", f"{missing} of {self.view.numel()} values are NaN: not written, or "
                                            "computed from NaN")
            return
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

    def _damaged(self) -> int:
        """How many bytes outside the view have changed."""
        if self._dense:
            return sum(int((part != PATTERN).sum()) for part in self._around)
        written = self.view.clone()  # what lies between its places is seen when they are like it
        self.view.copy_(self._pattern.expand(self.view.shape))
        damaged = int((self._bytes != PATTERN).sum())
        self.view.copy_(written)
        return damaged


def red_zone(problem: Problem, device) -> RedZone:
    """A red-zoned output of a problem."""
    name = written(problem)
    shape = shapes(problem)[name]
    return RedZone(shape, dense_strides(shape, layout_of(problem, name)), DTYPES[problem.dtype], device)


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
