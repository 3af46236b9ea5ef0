"""All gradients of a kernel = stride layer in one pass: what it computes, and when it is taken."""

import random
from dataclasses import replace

import pytest
import torch
from cases import case
from layouts import lay_out
from tolerances import assert_exact, assert_smooth

import triton_conv3dt as t3
from launched import small
from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch
from triton_conv3dt.launching.tensors import memory_format
from triton_conv3dt.ops.autograd import dense_strides
from triton_conv3dt.planning import gradients, passes, search, weight_launches
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.activations import Activation
from triton_conv3dt.problems.problem import Problem

H200 = Device.named("nvidia_h200")
CASES = (
    case("k2s2", n=2, ci=16, co=8, in_size=(2, 3, 5), kernel=2, stride=2),
    case("flat", n=2, ci=5, co=3, in_size=(3, 2, 4), kernel=(1, 2, 2), stride=(1, 2, 2)),
    case("wide", ci=8, co=4, in_size=(1, 2, 3), kernel=(1, 1, 8), stride=(1, 1, 8)),
    case("pointwise", n=3, ci=7, co=17, in_size=(2, 3, 4), kernel=1),
    case("one place", ci=20, co=12, in_size=1, kernel=2, stride=2),
)
ACTIVATIONS = (None, "relu", ("leaky_relu", 0.25))


@pytest.fixture
def taken(monkeypatch):
    """One pass is taken wherever it fits; a list of the problems it was asked for."""
    asked = []
    monkeypatch.setattr(launch, "_records", {})
    monkeypatch.setattr(search, "one_pass", lambda problem, *given: asked.append(problem) or small(problem, *given))
    return asked


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("layout", ("channels_first", "channels_last", "concatenated", "sliced_channels_last"))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_exact(case, layout, activation, device, taken):
    t = case.tensors(torch.float16, layout, device=device)
    activation = Activation.of(activation)
    saved = None
    if activation:
        y, pre = launch.forward(t.x, t.w, t.b, None, case.out_size, case.stride, case.padding, case.dilation, 1, "tf32",
                                activation, None, True)
        saved = y if activation.derivative_from == "output" else pre
        t.dz = torch.empty_strided(saved.shape, saved.stride(), dtype=saved.dtype, device=device).copy_(t.dz)
    dx, dw, db = launch.backward(t.dz, t.x, t.w, saved, True, dense_strides(t.w), case.stride, case.padding,
                                 case.dilation, 1, "tf32", activation)
    dz = launch.activation_grad(t.dz, saved, activation) if activation else t.dz
    assert_exact(dx.cpu(), reference.grad_input(dz, t.w, **case.geometry, in_size=case.in_size).cpu())
    assert_exact(dw.cpu(), reference.grad_weight(t.x, dz, **case.geometry, kernel=case.kernel).cpu())
    assert_exact(db.cpu(), dz.double().sum((0, 2, 3, 4)).cpu())
    assert dx.is_contiguous(memory_format=memory_format(dz)) and dw.stride() == dense_strides(t.w)
    assert len(taken) == 1


def test_divisions_are_exact():
    """By any number of places, of every index that 31 bits can count: beside multiples, where a quotient would slip, and at the end."""
    rng, last = random.Random(11), 2**31 - 1
    counts = {1, 2, 3, 5, 7, 641, 2**16 + 1, 2**30, 2**30 + 1, last - 1, last, *(rng.randrange(1, 2 << rng.randrange(1, 31)) for _ in range(500))}
    for count in counts:
        magic, shift = passes.division(count)
        assert -2**31 <= magic < 2**31 and 0 <= shift < 32
        multiples = {rng.randrange(0, last // count + 1) * count for _ in range(20)} | {last // count * count}
        for index in {0, 1, last - 1, last} | {index + i for index in multiples for i in (-1, 0, 1) if 0 <= index + i <= last}:
            assert 2 * index * (magic % 2**32) >> 32 + shift == index // count, (index, count)


def quotients_too_small(patch):
    right = passes.division
    patch.setattr(passes, "division", lambda count: (right(count)[0], right(count)[1] + 1))


def shares_in_another_order(patch):
    right = weight_launches.sum_weights
    patch.setattr(weight_launches, "sum_weights", lambda *given, tap_minor: right(*given, tap_minor=not tap_minor))


def sums_of_other_residues(patch):
    right = weight_launches.sum_biases
    patch.setattr(weight_launches, "sum_biases", lambda co, shares, *names: right(co, shares - 1, *names))


FAULTS = (quotients_too_small, shares_in_another_order, sums_of_other_residues)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a fault might hang or corrupt a GPU")
@pytest.mark.parametrize("layout", ("channels_first", "channels_last"))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_noticed(fault, layout, device, taken, monkeypatch):
    test_gradients_are_exact(CASES[0], layout, None, device, taken)
    monkeypatch.setattr(launch, "_records", {})
    taken.clear()
    fault(monkeypatch)
    with pytest.raises((AssertionError, IndexError, ValueError)):
        test_gradients_are_exact(CASES[0], layout, None, device, taken)


@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("layout", ("channels_first", "concatenated", "sliced"))
def test_one_dz_in_channels_last_for_both_products(layout, activation, bias, device, monkeypatch):
    """The gradients that a dz as it is gives, laid out alike; both products are told of the layout."""
    layer = case("k4s2p1", n=2, ci=8, co=16, in_size=(2, 3, 4), kernel=4, stride=2, padding=1)
    activation, given = Activation.of(activation), []
    t = layer.tensors(torch.float16, layout, device=device)
    saved = torch.randint(-2, 3, t.dz.shape, device=device).half() if activation else None
    arguments = (t.dz, t.x, t.w, saved, bias, dense_strides(t.w), *layer.geometry.values(), "tf32", activation)
    problem_of = launch.problem_of
    monkeypatch.setattr(launch, "problem_of", lambda *them, **more: given.append(problem_of(*them, **more)) or given[-1])
    found = []
    for last in (False, True):
        monkeypatch.setattr(launch, "_records", {})
        monkeypatch.setattr(gradients, "channels_last", lambda *_: last)
        found.append(launch.backward(*arguments))
        products = [problem for problem in given if problem.direction in ("grad_input", "grad_weight")]
        assert [problem.y_layout for problem in products[-2:]] == ["channels_last" if last else "channels_first"] * 2
    for ours, theirs in zip(*found):
        assert (ours is theirs is None) or torch.equal(ours, theirs) and ours.stride() == theirs.stride()
    slope = reference.activation_derivative(saved.double(), activation.name, activation.parameters) if activation else 1
    dz = t.dz.double() * slope
    assert not bias or torch.equal(found[1][2].double(), dz.half().double().sum((0, 2, 3, 4)))


@pytest.mark.parametrize("needs_bias", (True, False))
@pytest.mark.parametrize("activation", ("relu", "gelu", "softplus"))
def test_autograd_takes_it(activation, needs_bias, device, taken, monkeypatch):
    """The same gradients as by separate products, whose launches do not happen."""
    t = CASES[0].tensors(torch.float16, device=device)
    leaves = [v.div(8).requires_grad_() for v in (t.x, t.w, t.b)][:3 if needs_bias else 2]
    y = t3.conv_transpose3d(*leaves, stride=2, activation=activation, backend="triton")
    separate = torch.autograd.grad(y, leaves, t.dz, create_graph=True)  # somebody may differentiate these
    assert not taken
    monkeypatch.setattr(launch, "grad_input", None)
    monkeypatch.setattr(launch, "grad_weight_and_bias", None)
    for ours, theirs in zip(torch.autograd.grad(y, leaves, t.dz), separate):
        assert_smooth(ours, theirs.detach().double())
    assert len(taken) == 1


@pytest.mark.parametrize("activation, layout, concat_first", (
    (None, "channels_last", False), ("relu", "channels_first", True), ("gelu", "channels_last", True)))
def test_autograd_takes_it_from_its_part_of_a_concatenation(activation, layout, concat_first, device, taken):
    """The same bits as from a gradient of its own, read where it lies."""
    t = CASES[0].tensors(torch.float16, layout, device=device)
    leaves = [v.div(8).requires_grad_() for v in (t.x, t.w, t.b)]
    alone = t3.conv_transpose3d(*leaves, stride=2, activation=activation, backend="triton")
    separate = torch.autograd.grad(alone, leaves, t.dz)
    skip = lay_out(torch.ones_like(alone), layout)
    y = t3.conv_transpose3d(*leaves, stride=2, activation=activation, concat=skip, concat_first=concat_first, backend="triton")
    dy = torch.cat((skip, t.dz) if concat_first else (t.dz, skip), 1)
    assert all(map(torch.equal, torch.autograd.grad(y, leaves, dy), separate)) and len(taken) == 2


def test_a_compiled_step_takes_it(device, taken):
    """The compiler sees one operator, which decides when it runs."""
    t = CASES[0].tensors(torch.float16, device=device)
    leaves = [v.requires_grad_() for v in (t.x, t.w, t.b)]

    def layer(x, w, b):
        return t3.conv_transpose3d(x, w, b, 2, activation="relu", backend="triton")

    y = torch.compile(layer, backend="aot_eager", fullgraph=True)(*leaves)
    compiled = torch.autograd.grad(y, leaves, t.dz)
    assert len(taken) == 1
    eager = torch.autograd.grad(layer(*leaves), leaves, t.dz, create_graph=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(compiled, eager))


@pytest.mark.parametrize("why", ("no weight gradient", "residual", "fp32", "cropped", "other strides than saved"))
def test_autograd_does_without(why, device, taken):
    case = replace(CASES[0], padding=(1, 0, 0), out_size=(2, 6, 10)) if why == "cropped" else CASES[0]
    t = case.tensors(torch.float32 if why == "fp32" else torch.float16, device=device)
    x, w, residual = t.x.requires_grad_(), t.w.requires_grad_(why != "no weight gradient"), None
    if why == "residual":
        residual = t.residual.requires_grad_()
    y = t3.conv_transpose3d(x, w, None, 2, (1, 0, 0) if why == "cropped" else 0, residual=residual, activation="relu",
                            backend="triton")
    dy = lay_out(t.dz, "channels_last") if why.startswith("other") else t.dz
    y.backward(dy)
    assert x.grad is not None and not [p for p in taken if small(p, H200)]


def test_the_number_of_programs_changes_no_bit_of_integers(device, monkeypatch):
    t = CASES[0].tensors(torch.float16, device=device)
    results = []
    for shares in (1, 2, 5):
        monkeypatch.setattr(launch, "_records", {})
        monkeypatch.setattr(search, "one_pass", lambda *given: small(*given, shares=shares))
        results.append(launch.backward(t.dz, t.x, t.w, None, True, t.w.stride(), (2, 2, 2), (0, 0, 0), (1, 1, 1), 1,
                                       "tf32", None))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


LAYER = dict(n=2, ci=64, co=32, in_size=64, kernel=2, stride=2)


@pytest.mark.parametrize("device, changed, expected", (
    ("nvidia_h200", {}, True), ("nvidia_b200", {}, True), ("nvidia_h200", {"layout": "channels_last"}, True),
    ("nvidia_a100", {}, False),  # operands by registers: it would spill
    ("nvidia_h200", {"in_size": 8}, False),  # too few places for the programs
    ("nvidia_h200", {"ci": 320, "co": 256}, False), ("nvidia_h200", {"dtype": "float32"}, False),
    ("nvidia_h200", {"kernel": 3}, False), ("nvidia_h200", {"groups": 2}, False), ("nvidia_h200", {"padding": 1}, False)))
def test_where_it_is_the_default(device, changed, expected):
    problem, device = Problem.of_layer("backward", **LAYER | changed), Device.named(device)
    config = search.one_pass(problem, device)
    assert (config is not None) == expected
    assert config is None or fits(config, problem, device) is None and config.shares == device.sms


@pytest.mark.parametrize("config, direction, reason", (
    (Config("gather", 64, 256, 32), "backward", "does not compute backward"),
    (Config("onepass", 64, 256, 32), "grad_input", "does not compute grad_input"),
    (Config("onepass", 32, 256, 32, 8), "backward", "32x256 does not hold 64 input channels by 256 columns"),
    (Config("onepass", 64, 256, 32, 4), "backward", "without registers"),
    (Config("onepass", 64, 256, 128, 8, 3), "backward", "bytes of shared memory")))
def test_refusals_say_why(config, direction, reason):
    assert reason in fits(config, Problem.of_layer(direction, **LAYER), H200)
