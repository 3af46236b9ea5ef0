"""Offsets of 64 bits: when they are needed, and that nothing is multiplied in 32 bits then. Elements lie far apart in memory of
which a few pages are touched. What cannot be reached so, counts of positions, test_compile_sizes.py looks for in the kernels."""

import random

import pytest
import torch
from cases import case
from launched import small, use
from tolerances import assert_exact

from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch
from triton_conv3dt.launching.tensors import problem_of, reach
from triton_conv3dt.planning import search
from triton_conv3dt.planning.config import Config
from triton_conv3dt.problems.problem import DIRECTIONS, OVERHANG, Epilogue, Problem

pytestmark = pytest.mark.usefixtures("overflow")
LIMIT = 2**31 - OVERHANG  # the most that 31 bits leave room for
FAR = 2**30  # elements between neighbours: the third is 2**31 away, 2**31 in front where that wraps

# Products whose stride is a constant count their steps in 32 bits; one pass takes no other layers.
CASES = {"one phase": case("one phase", ci=3, co=3, in_size=(1, 2, 3), kernel=(3, 2, 2)),
         "phases": case("phases", ci=3, co=3, in_size=(1, 2, 2), kernel=(3, 2, 2), stride=(1, 2, 2))}
WHOLE = case("whole", ci=3, co=3, in_size=(3, 2, 2), kernel=(1, 2, 2), stride=(1, 2, 2))
PATHS = {"gather": Config("gather", 16, 16, 16, stages=2), "direct": Config("direct", 4, 32)}


@pytest.fixture(scope="module")
def memory():
    """Half precision, as much as offsets of 31 bits reach, before an element and behind."""
    try:
        return torch.empty(2**32 + 2**26, dtype=torch.float16, device="cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError as error:
        pytest.skip(f"no 8 GiB of address space: {error}")


@pytest.fixture
def far(memory):
    """A function that lays a tensor's values out with the neighbours along an axis FAR apart."""
    taken = iter(range(2**31, 2**31 + 2**26, 2**20))

    def lay_out(t, axis):
        strides = list(t.contiguous().stride())
        strides[axis] = FAR if t.shape[axis] > 1 else 1
        return memory.as_strided(t.shape, strides, next(taken)).copy_(t)
    return lay_out


@pytest.mark.parametrize("axis", (1, 2), ids=("channels", "depth"))
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_products_of_what_lies_far_apart(direction, name, path, axis, far, device, monkeypatch):
    case, chosen = CASES[name], []
    use(monkeypatch, lambda problem, device: chosen.append(problem) or PATHS[path])
    t = case.tensors(torch.float16, device=device)
    x, w, dz, given = far(t.x, axis), far(t.w, 0), far(t.dz, axis), dict(**case.geometry, precision="ieee")
    if direction == "forward":
        out, residual = far(torch.zeros_like(t.dz), axis), far(t.residual, axis)
        found, _ = launch.forward(x, w, None, residual, **given, out_size=case.out_size, activation=None, out=out)
        exact = reference.conv_transpose3d(t.x, t.w, None, t.residual, **case.geometry, out_size=case.out_size)
    elif direction == "grad_input":
        found = launch.grad_input(dz, w, **given, in_size=case.in_size)
        exact = reference.grad_input(t.dz, t.w, **case.geometry, in_size=case.in_size)
    else:
        found = launch.grad_weight(x, dz, **given, kernel=case.kernel, strides=t.w.stride())
        exact = reference.grad_weight(t.x, t.dz, **case.geometry, kernel=case.kernel)
    assert_exact(found.cpu(), exact.cpu())
    assert [problem.wide for problem in chosen] == [True]


@pytest.mark.parametrize("axis", (1, 2), ids=("channels", "depth"))
def test_one_pass_over_what_lies_far_apart(axis, far, device, monkeypatch):
    asked = []
    monkeypatch.setattr(launch, "_records", {})
    monkeypatch.setattr(search, "one_pass",
                        lambda problem, device, constraints: asked.append(problem) or small(problem, device))
    t = WHOLE.tensors(torch.float16, device=device)
    dx, dw, db = launch.backward(far(t.dz, axis), far(t.x, axis), far(t.w, 0), None, True, t.w.stride(), WHOLE.stride,
                                 WHOLE.padding, WHOLE.dilation, 1, "tf32", None)
    assert_exact(dx.cpu(), reference.grad_input(t.dz, t.w, **WHOLE.geometry, in_size=WHOLE.in_size).cpu())
    assert_exact(dw.cpu(), reference.grad_weight(t.x, t.dz, **WHOLE.geometry, kernel=WHOLE.kernel).cpu())
    assert_exact(db.cpu(), t.dz.double().sum((0, 2, 3, 4)).cpu())
    assert [problem.wide for problem in asked] == [True] and launch._records


def meta(*shape, strides=None):
    t = torch.empty(shape, dtype=torch.float16, device="meta")
    return t if strides is None else t.as_strided(shape, strides)


def asked(x, y, kernel=(1, 1, 1), stride=(1, 1, 1), residual=None, w=None) -> Problem:
    w = meta(x.shape[1], y.shape[1], *kernel) if w is None else w
    return problem_of("forward", x, w, y, Epilogue(residual=residual is not None), stride, (0, 0, 0), (1, 1, 1), 1, "tf32",
                      residual)


ONE = (1, 1, 1, 1, 1)
BOUNDARIES = {  # what has so many elements, or is counted so often, in a problem that is otherwise small
    "x": lambda n: asked(meta(1, 1, 1, 1, n), meta(*ONE)),
    "x of many channels": lambda n: asked(meta(1, n, 1, 1, 1), meta(*ONE)),
    "y, twice": lambda n: asked(meta(*ONE), meta(1, 1, 1, 1, n // 2), stride=(4, 4, 4)),
    "the weight": lambda n: asked(meta(*ONE), meta(*ONE), kernel=(1, 1, n)),
    "x in memory": lambda n: asked(meta(1, 2, 1, 1, 1, strides=(1, n - 1, 1, 1, 1)), meta(*ONE)),
    "y in memory, twice": lambda n: asked(meta(*ONE), meta(1, 2, 1, 1, 1, strides=(1, n // 2 - 1, 1, 1, 1))),
    "the weight in memory": lambda n: asked(meta(1, 2, 1, 1, 1), meta(*ONE), w=meta(2, *ONE[1:], strides=(n - 1, 1, 1, 1, 1))),
    "the residual in memory, twice": lambda n: asked(
        meta(*ONE), meta(1, 2, 1, 1, 1), residual=meta(1, 2, 1, 1, 1, strides=(1, n // 2 - 1, 1, 1, 1))),
    "x expanded": lambda n: asked(meta(*ONE).expand(1, 1, 1, 1, n), meta(*ONE)),
    "places of x, split along w": lambda n: asked(meta(1, 1, 1, n // 2, 1), meta(*ONE), stride=(1, 1, 2)),
    "places of y, joined along w": lambda n: asked(meta(*ONE), meta(1, 1, n // 4, 1, 1), stride=(1, 1, 4)),
}


@pytest.mark.parametrize("what", BOUNDARIES)
def test_where_31_bits_end(what):
    assert not BOUNDARIES[what](LIMIT).wide
    assert BOUNDARIES[what](LIMIT + 4).wide


def test_a_layer_is_wide_where_its_tensors_are():
    """Problem.of_layer, which has no tensors, and problem_of decide alike, on either side of the boundary."""
    rng, wide = random.Random(0), set()
    for _ in range(300):
        n, ci, co = (rng.choice((1, 2, 3, 16)) for _ in range(3))
        stride = tuple(rng.choice((1, 2, 3)) for _ in range(3))
        kernel = tuple(rng.choice((1, 2, 3)) for _ in range(3))
        area = max(1, LIMIT // (n * max(ci, 2 * co * stride[0] * stride[1] * stride[2])))
        in_size = (1024, 1024, max(1, area // 2**20 + rng.randint(-1, 1)))
        layer = Problem.of_layer(n=n, ci=ci, co=co, in_size=in_size, kernel=kernel, stride=stride)
        found = asked(meta(n, ci, *in_size), meta(n, co, *layer.out_size), kernel, stride)
        assert found.wide == layer.wide, layer
        wide.add(found.wide)
    assert wide == {True, False}


def test_an_expanded_gradient_reaches_as_far_as_its_positions():
    """The gradient of a sum is one element; counting its positions takes as many bits as if it were dense."""
    assert reach(meta(*ONE).expand(1, 1, 2048, 1024, 1024)) == 2**31
    assert reach(meta(2, 1, 1, 1, 1, strides=(2**31, 1, 1, 1, 1))) == 2**31 + 1
