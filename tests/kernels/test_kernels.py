"""Every launch against the definition. Integers: the exact result rounded once, bit for bit, whatever the tile,
the layout, the path or the dtype. Here without a GPU the kernels run in Triton's interpreter."""

import math
import random
from dataclasses import replace

import pytest
import torch

from cases import CORPUS, layer_classes, sample
from launched import BY_NAME, DENSE, EPILOGUES, QUARTER, RELU, SIXTEEN, check, random_config, use
from layouts import LAYOUTS, RedZone, lay_out
from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import search
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.problem import DIRECTIONS, PRECISIONS, Problem

FORMATS = ("channels_first", "channels_last")
EXOTIC = tuple(layout for layout in LAYOUTS if layout not in FORMATS)
SETTINGS = tuple((FORMATS[i % 2], dtype) for i, dtype in enumerate(  # of one test in turn, so that all are met
    (torch.float32, torch.float16, torch.float16, torch.float32, SIXTEEN[1], SIXTEEN[1])))
GATHERED = ("k2s2", "k3s2p1op1", "k4s2p1")
DIRECT = ("two groups", "depthwise k3s2")
RANDOM = sample(7, 12)[4:]
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def numbered(items):
    """Each with its place, which decides what else it is combined with."""
    return [pytest.param(i, item, id=str(item)) for i, item in enumerate(items)]


def in_turn(i, direction):
    """A layout, a dtype, an epilogue and a precision; neighbours in the corpus, and directions, get others."""
    i += DIRECTIONS.index(direction)
    return (*SETTINGS[i % len(SETTINGS)], EPILOGUES[i % len(EPILOGUES)], PRECISIONS[i % len(PRECISIONS)])


@each_direction
@pytest.mark.parametrize("i, case", numbered(CORPUS))
def test_corpus(i, case, direction, device):
    layout, dtype, epilogue, precision = in_turn(i, direction)
    check(direction, case, case.tensors(dtype, layout, device=device), epilogue, precision)


@pytest.mark.parametrize("name", [case.name for case in CORPUS if case.name.startswith("dense, ")])
def test_tensor_cores_meet_phases_without_taps(name):
    """What the corpus asks of the forward, in case the choice of paths changes."""
    case, device = BY_NAME[name], Device.named("nvidia_h200")
    problem = Problem.of_shape(case)
    assert search.default(problem, device, DENSE).dense
    assert any(phase.taps == 0 for axis in problem.axes for phase in axis.phases())


@each_direction
@pytest.mark.parametrize("i, layer", numbered(layer_classes()))
def test_layers_of_networks(i, layer, direction, device):
    """Each class of real layers in the layout it was found in; the directions take turns, large kernels run forward."""
    turn = i % len(DIRECTIONS) if math.prod(layer.kernel) <= 64 else 0
    if turn != DIRECTIONS.index(direction):
        pytest.skip("another direction's turn")
    check(direction, layer, layer.tensors(in_turn(i, direction)[1], layer.layout, device=device), EPILOGUES[i % 7])


@each_direction
@pytest.mark.parametrize("i, case", numbered(RANDOM))
def test_random_problems(i, case, direction, device):
    layout, dtype, epilogue, precision = in_turn(i, direction)
    check(direction, case, case.tensors(dtype, layout, device=device), epilogue, precision)


VIEWED = ("k2s2", "k3s2p1op1", *DIRECT)


@each_direction
@pytest.mark.parametrize("layout", EXOTIC)
@pytest.mark.parametrize("name", VIEWED)
def test_strides(name, layout, direction, device):
    """Views of every kind, among NaN that must not be read; the directions take turns."""
    if (EXOTIC.index(layout) + VIEWED.index(name) + DIRECTIONS.index(direction)) % 2:
        pytest.skip("another direction's turn")
    dtype = (torch.float16, torch.float32)[EXOTIC.index(layout) % 2]
    check(direction, BY_NAME[name], BY_NAME[name].tensors(dtype, layout, device=device), (True, True, RELU))


@pytest.mark.parametrize("name", ("k2s2", "two groups"))
def test_mixed_formats(name, device):
    """x, residual, dz and the weight need not agree on a memory format."""
    case = BY_NAME[name]
    first, last = (case.tensors(torch.float16, layout, device=device) for layout in FORMATS)
    first.residual, last.residual, last.w, first.w = last.residual, first.residual, first.w, last.w
    check("forward", case, first, (True, True, RELU))
    check("forward", case, last, (True, True, RELU))
    first.dz, last.dz = last.dz, first.dz
    check("grad_weight", case, first)
    check("grad_weight", case, last)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "expanded"])
@pytest.mark.parametrize("name", ("k2s2", "k3s2p1op1", "two groups", "TF SAME, odd output"))
def test_writes_into_out_and_nothing_else(name, layout, device):
    case = BY_NAME[name]
    i = LAYOUTS.index(layout) + len(name)
    dtype = (torch.float16, torch.float32)[i % 2]
    zone = RedZone(case.shapes.y, dtype, layout, device=device)
    check("forward", case, case.tensors(dtype, FORMATS[i // 2 % 2], device=device), EPILOGUES[i % 7], out=zone.view)
    zone.check()


@each_direction
@pytest.mark.parametrize("name, layout", [("k2s2", "channels_first"), ("two groups", "channels_last"),
                                          *(("k3s2p1op1", layout) for layout in FORMATS)])
def test_float64(layout, name, direction, device):
    case = BY_NAME[name]
    check(direction, case, case.tensors(torch.float64, layout, device=device), (True, True, QUARTER))


WEIGHTS = {
    "contiguous": lambda w: w.contiguous(),
    "channels_last_3d": lambda w: w.contiguous(memory_format=torch.channels_last_3d),
    "input channels last": lambda w: w.permute(2, 3, 4, 1, 0).contiguous().permute(4, 3, 0, 1, 2),
    "sliced": lambda w: lay_out(w, "sliced"),
    "misaligned": lambda w: lay_out(w, "misaligned"),
}


@each_direction
@pytest.mark.parametrize("order", WEIGHTS)
@pytest.mark.parametrize("i, name", enumerate(("k2s2", "k3s2p1op1", "anisotropic k=s, no power of two", "two groups")))
def test_weights(i, name, order, direction, device):
    """In every order; the weight's gradient and the others take turns."""
    if ((list(WEIGHTS).index(order) + i) % 2 == 0) != (direction == "grad_weight"):
        pytest.skip("another direction's turn")
    case = BY_NAME[name]
    t = case.tensors(torch.float16, FORMATS[len(name) % 2], device=device)
    t.w = WEIGHTS[order](t.w)
    check(direction, case, t)


@pytest.mark.parametrize("view", ("strided", "expanded", "misaligned"))
@pytest.mark.parametrize("name", ("k2s2", *DIRECT))
def test_biases(name, view, device):
    case = BY_NAME[name]
    t = case.tensors(torch.float16, device=device)
    t.b = {"strided": torch.stack((t.b, t.b + 1), 1)[:, 0], "expanded": t.b[:1].expand(t.b.shape),
           "misaligned": torch.cat((t.b[:1] + 1, t.b))[1:]}[view]
    assert view == "misaligned" or not t.b.is_contiguous()
    check("forward", case, t, (True, False, None))


@pytest.mark.parametrize("direction", DIRECTIONS[:2])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("path", ("gather", "descriptor", "default"))
@pytest.mark.parametrize("name", ("k2s2", "k3s2p1op1", "k4s2p1", "k3s4 holes, cropped", "TF SAME k3"))
def test_nan_stays_among_its_neighbours(name, path, layout, direction, device, monkeypatch):
    """Where phases of unequal taps are merged, a tap that does not exist is a zero, which does not keep NaN away: from no
    farther than a coarse position beyond its own taps, and from no other sample."""
    case = replace(BY_NAME[name], ci=16, co=16)
    t = case.tensors(torch.float32, layout, device=device)
    if path != "default":
        rng = random.Random(f"{name} {layout} {direction}")
        described = layout == "channels_last" and not any(o % s for o, s in zip(case.out_size, case.stride))
        use(monkeypatch, random_config(rng, paths=(path if described else "gather",)))
    rng = random.Random(f"{name} {direction}")
    for tensor in (t.x, t.dz):
        for value in (math.nan, math.inf):
            tensor[tuple(rng.randrange(size) for size in tensor.shape)] = value
    given, beyond = dict(**case.geometry), [s - 1 for s in case.stride]  # a coarse position, on either side
    around = given | dict(padding=[p + b for p, b in zip(case.padding, beyond)], groups=1)
    ones = torch.ones(1, 1, *(k + 2 * b for k, b in zip(case.kernel, beyond)))
    reached = lambda tensor: (~tensor.cpu().isfinite()).any(1, keepdim=True)
    if direction == "forward":
        found, _ = launch.forward(t.x, t.w, None, None, **given, out_size=case.out_size, activation=None, precision="ieee")
        exact = reference.conv_transpose3d(t.x.cpu(), t.w.cpu(), **given, out_size=case.out_size)
        most = reference.conv_transpose3d(reached(t.x), ones, **around, out_size=case.out_size)
    else:
        found = launch.grad_input(t.dz, t.w, **given, in_size=case.in_size, precision="ieee")
        exact = reference.grad_input(t.dz.cpu(), t.w.cpu(), **given, in_size=case.in_size)
        most = reference.grad_input(reached(t.dz), ones, **around, in_size=case.in_size)
    lost = ~found.cpu().isfinite()
    assert (lost | exact.isfinite()).all(), "a value that is not finite got lost"
    assert not (lost & (most == 0)).any() and (most == 0).any(), "it reached too far"
    assert torch.equal(found.cpu()[~lost].double(), exact[~lost]), "what is finite is exact"


def test_a_residual_out_of_a_huge_tensor(device, overflow):
    """Offsets are as wide as the farthest of all operands asks for."""
    case = BY_NAME["batch of three"]
    t = case.tensors(torch.float16, device=device)
    apart = torch.empty(2**31 + 2**16, dtype=torch.float16, device=device)  # of which a few pages are touched
    strides = (2**30, *t.residual.stride()[1:])
    t.residual = apart.as_strided(t.residual.shape, strides).copy_(t.residual)
    check("forward", case, t, (True, True, RELU))


def test_nothing_to_compute(device):
    """Sizes of zero: results of the right shape, zeros where a sum is over nothing."""
    case = BY_NAME["empty batch"]
    t = case.tensors(torch.float32, device=device)
    assert check("forward", case, t).numel() == 0 == check("grad_input", case, t).numel()
    assert not check("grad_weight", case, t).any()
    none = replace(BY_NAME["k2s2"], ci=0)
    t = none.tensors(torch.float32, device=device)
    assert check("forward", none, t, (True, False, None)).shape == none.shapes.y
    assert check("grad_weight", none, t).numel() == 0 == math.prod(none.shapes.x)
