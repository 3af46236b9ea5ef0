"""The tensors of what is tried, and whether what somebody computed from them is right: the truth is the definition's.

Of a problem that a config computes, integers, whose result is known to the bit, and normal numbers to time it on; of a
setting that peers compute, each rounding in its own way, normal numbers and how far from the truth a result is."""

from dataclasses import dataclass

import torch

from ..checking import reference, trial_tensors
from ..checking.trial_tensors import Operands
from ..problems.problem import Problem
from ..worker import failure
from .selection import STEP, After, Setting

# The RMS error that rounding the inputs and the result explains, over the RMS of the result, several times.
LIMITS = {"float16": 4e-3, "bfloat16": 2e-2, "float32": 4e-3, "float64": 1e-12}


class Unprepared(Exception):
    """A problem cannot be tried, whatever the config: its operands do not fit into memory, for instance."""

    kind = "problem"


@dataclass
class ExactTensors:
    """Integer operands of a problem and their true result, and normal numbers to time it on."""

    integers: Operands
    truth: torch.Tensor
    normals: Operands


def exact_tensors(problem: Problem, device) -> ExactTensors:
    """What a config of a problem is tried with.

    Raises:
        Unprepared: they cannot be made. (A context that was lost raises what it raises.)
    """
    try:
        integers = trial_tensors.integers(problem, device)
        return ExactTensors(integers, trial_tensors.truth(problem, integers), trial_tensors.normals(problem, device))
    except Exception as error:
        found = failure(error)
        if found.lost:
            raise
        raise Unprepared(f"its operands cannot be made: {found.reason}") from error


@dataclass
class Tensors:
    """x, w, b, the gradient dy of the layer's result, and what the network adds or concatenates."""

    x: torch.Tensor
    w: torch.Tensor
    b: torch.Tensor | None
    dy: torch.Tensor
    skip: torch.Tensor | None

    def to(self, layout: str) -> "Tensors":
        """The same values in another memory format."""
        move = lambda t: t if t is None or t.dim() != 5 else t.contiguous(memory_format=memory_format(layout))
        return Tensors(*map(move, (self.x, self.w, self.b, self.dy, self.skip)))


def memory_format(layout: str) -> torch.memory_format:
    """What PyTorch calls a layout."""
    return torch.channels_last_3d if layout == "channels_last" else torch.contiguous_format


def tensors(setting: Setting, device) -> Tensors:
    """Normal numbers for a setting."""
    given = trial_tensors.normals(setting.layer.problem("forward", setting.dtype, setting.layout), device)
    skip = torch.randn_like(given.y) if setting.after.concat or setting.after.residual else None
    return Tensors(given.x, given.w, given.b, given.y, skip)


def error(setting: Setting, given: Tensors, result) -> float:
    """The RMS error of a result against the definition, over the RMS of the truth; the worst of a step's results."""
    wide = torch.float32 if given.x.numel() + given.dy.numel() > 2**27 and setting.dtype != "float64" else torch.float64
    if setting.direction in ("grad_input", "grad_weight"):
        exact = trial_tensors.exact(setting.problem, Operands(given.x, given.w, given.dy, None, None), wide)
        return _rms(result, exact)
    results = result if setting.direction == STEP else (result,)
    return max(_rms(*pair) for pair in zip(results, _truth(setting, given, results[0], wide)))


def upstream(after: After, dy):
    """The gradient of the whole result: that of a concatenation is twice as large."""
    return torch.cat([dy, dy], dim=1) if after.concat else dy


def concatenate(after: After, y, skip):
    if not after.concat:
        return y
    skip = skip.to(y.dtype)
    return torch.cat([y, skip] if after.concat == "first" else [skip, y], dim=1)


def parts(after: After, result, co: int):
    """The layer's own channels of a result, and those of the skip."""
    if not after.concat:
        return result, None
    first, second = result[:, :co], result[:, co:]
    return (first, second) if after.concat == "first" else (second, first)


def _truth(setting: Setting, given: Tensors, result, dtype):
    """What a forward or a step should have returned, one after another. A kinked activation is differentiated at the
    result that is judged: on which side of the kink a rounded value falls is no error."""
    p, after = setting.problem, setting.after
    geometry = dict(stride=p.stride, padding=p.padding, dilation=p.dilation, groups=p.groups, dtype=dtype)
    residual = given.skip if after.residual else None
    z = reference.conv_transpose3d(given.x, given.w, given.b, residual, out_size=p.out_size, **geometry)
    y = reference.activation(z, after.activation.name, after.activation.parameters) if after.activation else z
    yield concatenate(after, y, given.skip)
    dz = given.dy.to(dtype)
    if after.activation:
        kinked = after.activation.derivative_from == "output"
        saved = parts(after, result, p.co)[0].to(dtype) if kinked else z
        dz = dz * reference.activation_derivative(saved, after.activation.name, after.activation.parameters)
    yield reference.grad_input(dz, given.w, in_size=p.in_size, **geometry)
    yield reference.grad_weight(given.x, dz, kernel=p.kernel, **geometry)
    if given.b is not None:
        yield dz.sum((0, 2, 3, 4))


def _rms(actual, exact) -> float:
    scale = exact.double().square().mean().sqrt().clamp(min=1e-300)
    return ((actual.to(exact.dtype) - exact).double().square().mean().sqrt() / scale).item()
