"""What launches kernels in tests: with which config and epilogue, and compared with the definition."""

from dataclasses import replace

import torch

from cases import CORPUS
from tolerances import assert_exact
from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch, tensors
from triton_conv3dt.ops.autograd import dense_strides
from triton_conv3dt.planning import constraints, search, weight_turns, weight_walks
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.constraints import NONE
from triton_conv3dt.planning.flat import mergeable
from triton_conv3dt.planning.taps import FOLDED, WAYS, copyable
from triton_conv3dt.problems.activations import Activation

# The interpreter keeps bfloat16 as 16-bit integers: its products are not those of the numbers, and it truncates.
SIXTEEN = (torch.float16, torch.bfloat16) if torch.cuda.is_available() else (torch.float16,) * 2
QUARTER = Activation.of(("leaky_relu", 0.25))  # exact in every dtype
RELU = Activation.of("relu")
EPILOGUES = ((True, False, None), (False, True, RELU), (True, True, QUARTER), (False, False, None), (True, True, RELU),
             (False, False, QUARTER), (False, True, None))  # bias, residual, activation
BY_NAME = {case.name: case for case in CORPUS}
DEFAULT, DENSE = search.default, constraints.parse("direct")


def use(monkeypatch, config):
    """From now on every problem is computed so."""
    monkeypatch.setattr(launch, "_records", {})
    chosen = config if callable(config) else lambda problem, device: config
    monkeypatch.setattr(search, "default", lambda problem, device, constraints: chosen(problem, device))


def planned_calls() -> list:
    """The calls of plans that are remembered, those of all gradients of a layer among them."""
    found = [r for each in launch._records.values() for r in (each.values() if isinstance(each, dict) else (each,))]
    return [r for r in found if getattr(r, "plan", None)]


def small(problem, device, constraints=NONE, shares=3) -> Config | None:
    """In place of search.one_pass: small tiles, and as many programs as shares."""
    size = lambda value: max(16, 1 << (value - 1).bit_length())
    config = Config("onepass", size(problem.ci), size(problem.co * problem.taps), 16, 4, 2, shares=shares)
    return config if fits(config, problem, device) is None else None


def check(direction, case, t, epilogue=(False, False, None), precision="ieee", out=None):
    """One launch with the tensors t of a case, against the truth; what was returned. By default few channels go without tensor
    cores; where eight or more are summed they are given them here all the same, or hardly a case would be."""
    summed = {"forward": case.ci, "grad_input": case.co}.get(direction, 0)
    dense = case.groups == 1 and summed >= 8 and t.x.dtype != torch.float64 and search.default is DEFAULT
    with constraints.using(DENSE if dense else constraints.current()):
        return _check(direction, case, t, epilogue, precision, out)


def _check(direction, case, t, epilogue, precision, out):
    geometry = case.geometry
    given = dict(**geometry, precision=precision)
    if direction == "forward":
        bias, residual, activation = epilogue
        inputs = t.x, t.w, t.b if bias else None, t.residual if residual else None
        result, _ = launch.forward(*inputs, **given, out_size=case.out_size, activation=activation, out=out)
        exact = reference.conv_transpose3d(*inputs, **geometry, out_size=case.out_size, activation=activation)
        like = t.x if out is None else out
    elif direction == "grad_input":
        result, like = launch.grad_input(t.dz, t.w, **given, in_size=case.in_size), t.dz
        exact = reference.grad_input(t.dz, t.w, **geometry, in_size=case.in_size)
    else:
        result = launch.grad_weight(t.x, t.dz, **given, kernel=case.kernel, strides=dense_strides(t.w))
        exact, like = reference.grad_weight(t.x, t.dz, **geometry, kernel=case.kernel), None
        assert result.stride() == dense_strides(t.w)
    assert_exact(result.cpu(), exact.cpu(), **places(direction, case))
    if like is not None and out is None:
        assert result.is_contiguous(memory_format=tensors.memory_format(like))
    return result


def places(direction, case) -> dict:
    return dict(stride=case.stride, padding=case.padding) if direction == "forward" else {}


def random_config(rng, paths=("gather", "descriptor", "direct")):
    """A chooser in place of search.default: small tiles of one of the paths, any merged axes that fit the problem."""
    def choose(problem, device):
        while True:
            path = rng.choice(paths)
            if path == "direct" and problem.direction == "grad_weight" and problem.taps > 27:
                continue  # a program for every tap and channel: more than the interpreter bears
            if path == "direct":
                tried = Config("direct", rng.choice((16, 32)), rng.choice((32, 64)))
            elif path == "walk" and problem.direction == "grad_weight":
                turned = not weight_walks.readable(problem)
                (high, wide), m = rng.choice(((8, 8), (4, 8), (8, 16), (16, 8))), rng.choice((64, 128))
                tried = Config("walk", m, rng.choice((16, 32)), high * wide, m // 16, 2, box=(1, high, wide),
                               taps=rng.choice(weight_walks.WAYS))
                if turned:
                    tried = replace(tried, block_m=rng.choice((8, 16, 32)), block_n=rng.choice((16, 32)), warps=rng.choice((4, 8)),
                                    taps=rng.choice(weight_turns.WAYS))
            elif path == "pair" and problem.direction == "grad_weight":
                tried = Config("pair", rng.choice((128, 256)), rng.choice((64, 128)), rng.choice((16, 32)), 4, rng.choice((2, 3)),
                               copy=rng.random() < 0.5, taps=tuple(rng.choice(WAYS) for _ in range(3)), cluster=rng.choice((2, 4)))
            else:
                blocks = (rng.choice((16, 32, 64)), rng.choice((16, 32)), rng.choice((16, 32)))
                merge = tuple(rng.random() < 0.5 for _ in range(3)) if problem.direction == "forward" else (False,) * 3
                d, h = rng.choice((1, 1, 2)), rng.choice((1, 2, 4))
                box = rng.choice(((d, h, blocks[1] // (d * h)), (0, 0, 0))) if path == "descriptor" else (0, 0, 0)
                tried = Config(path, *blocks, merge=merge, box=box)
                if path == "gather" and problem.direction == "grad_input":
                    axes = rng.choice((0, 0, 1, 2, 3))
                    tried = replace(tried, flat=axes, merge=(False, False, axes > 0 and rng.random() < 0.5 and mergeable(problem)))
                if problem.direction == "grad_weight":
                    copied = path == "gather" and copyable(problem) and rng.random() < 0.5
                    tried = replace(tried, taps=tuple(rng.choice((*WAYS, *FOLDED)) for _ in range(3)), copy=copied)
            shared = problem.direction == "grad_weight" or tried.flat
            tried = replace(tried, shares=rng.choice((1, 2, 5)) if shared else 1)
            if fits(tried, problem, device) is None:
                return tried
    return choose
