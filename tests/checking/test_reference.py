"""The truth, against a second one: torch.nn.functional and autograd in fp64."""

import pytest
import torch
import torch.nn.functional as F

from cases import CORPUS, layer_classes, sample
from triton_conv3dt.checking import reference
from triton_conv3dt.problems.activations import ACTIVATIONS, Activation

PROBLEMS = (*CORPUS, *layer_classes(), *sample(seed=0, n=60))
EXPRESSIBLE = [case for case in PROBLEMS if case.output_padding is not None]
PARAMETERS = [Activation.of(name) for name in ACTIVATIONS] + [Activation.of(spec) for spec in (
    ("leaky_relu", 0.0), ("leaky_relu", 0.25), ("leaky_relu", -0.5), ("elu", 0.5), ("elu", -1.5), ("elu", 0.0),
    ("softplus", 2.0, 3.0), ("softplus", -0.5, 20.0), ("hardtanh", -2.0, 0.5))]
INF, NAN = float("inf"), float("nan")


def through_padding(x, w, case):
    """PyTorch's uncropped layer, then zeros all around, then the window that was asked for."""
    whole = F.conv_transpose3d(x, w, None, case.stride, 0, 0, case.groups, case.dilation)
    room = max(*map(abs, case.padding), *case.out_size)
    whole = F.pad(whole, (room,) * 6)
    for axis, (before, size) in enumerate(zip(case.padding, case.out_size)):
        whole = whole.narrow(axis + 2, room + before, size)
    return whole


@pytest.mark.parametrize("case", PROBLEMS, ids=str)
def test_agrees_with_torch_and_autograd(case):
    """Integers: both must be exact, so they must be equal."""
    t = case.tensors(torch.float64)
    x, w = t.x.requires_grad_(), t.w.requires_grad_()
    y = through_padding(x, w, case)
    dx, dw = torch.autograd.grad(y, (x, w), t.dz)
    ours = reference.conv_transpose3d(x.detach(), w.detach(), out_size=case.out_size, **case.geometry)
    assert torch.equal(ours, y)
    assert torch.equal(reference.grad_input(t.dz, w.detach(), in_size=case.in_size, **case.geometry), dx)
    assert torch.equal(reference.grad_weight(x.detach(), t.dz, kernel=case.kernel, **case.geometry), dw)


@pytest.mark.parametrize("case", EXPRESSIBLE, ids=str)
def test_means_what_torch_means_by_its_arguments(case):
    t = case.tensors(torch.float64)
    theirs = F.conv_transpose3d(t.x, t.w, t.b, case.stride, case.padding, case.output_padding, case.groups,
                                case.dilation)
    assert torch.equal(reference.conv_transpose3d(t.x, t.w, t.b, out_size=case.out_size, **case.geometry), theirs)


def test_outputs_without_a_tap_get_the_epilogue():
    case = next(case for case in CORPUS if case.name == "negative padding")
    t = case.tensors(torch.float64)
    y = reference.conv_transpose3d(t.x, t.w, t.b, t.residual, out_size=case.out_size, **case.geometry,
                                   activation=Activation.of("sigmoid"))
    assert torch.equal(y[:, :, 0], torch.sigmoid(t.b.view(-1, 1, 1) + t.residual[:, :, 0]))
    assert torch.equal(y[..., -1], torch.sigmoid(t.b.view(-1, 1, 1) + t.residual[..., -1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_computes_in_the_type_that_is_asked_for(dtype):
    case = CORPUS[0]
    t = case.tensors(dtype)
    arguments = dict(out_size=case.out_size, **case.geometry)
    exact = reference.conv_transpose3d(t.x, t.w, t.b, t.residual, **arguments)
    short = reference.conv_transpose3d(t.x, t.w, t.b, t.residual, dtype=torch.float32, **arguments)
    assert exact.dtype == torch.float64 and short.dtype == torch.float32
    assert torch.equal(short, exact.float())


def points(dtype=torch.float64):
    """Around every kink and on it, both signs, small and large, and NaN."""
    kinks = torch.tensor([-6, -3, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 6, 20, 40], dtype=dtype)
    small = torch.logspace(-30, 0, 31, dtype=dtype)
    return torch.cat([torch.linspace(-12, 12, 97, dtype=dtype), kinks, kinks + 1e-3, kinks - 1e-3, small, -small,
                      torch.tensor([-0.0, 30, -30, 100, -100, 1e4, -1e4, 1e30, -1e30, NAN], dtype=dtype)])


def of_each(function, z):
    """One element at a time: at NaN, torch's vector code differs from its scalar code and from CUDA's."""
    return torch.cat([function(element) for element in z.unbind()])


@pytest.mark.parametrize("activation", PARAMETERS, ids=str)
def test_derivative_is_that_of_torch(activation):
    def slope(element):
        z = element.reshape(1).requires_grad_()
        return torch.autograd.grad(reference.activation(z, activation.name, activation.parameters), z)[0]

    z = points()
    saved = z
    if activation.derivative_from == "output":
        saved = of_each(lambda v: reference.activation(v.reshape(1), activation.name, activation.parameters), z)
    ours = reference.activation_derivative(saved, activation.name, activation.parameters)
    theirs = of_each(slope, z)
    rtol = 1e-7 if activation.name == "hardsigmoid" else 1e-12  # torch has hardsigmoid's 1/6 in fp32 only
    torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("activation", PARAMETERS, ids=str)
def test_derivative_can_be_differentiated_again(activation):
    """By finite differences, away from kinks; constants have the gradient zero, not none."""
    saved = torch.tensor([0.11, 0.37, 0.62, 0.93], dtype=torch.float64, requires_grad=True)
    derivative = lambda s: reference.activation_derivative(s, activation.name, activation.parameters)
    assert torch.autograd.gradcheck(derivative, saved)
    for special in (NAN, INF, -INF, 0.0, 1e30):
        saved = torch.full((1,), special, dtype=torch.float64, requires_grad=True)
        (second,) = torch.autograd.grad(derivative(saved), saved)
        assert second.isfinite() or not abs(special) < INF, f"at {special}: {second}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("activation", PARAMETERS, ids=str)
def test_derivative_stays_finite_and_in_its_type(activation, dtype):
    info = torch.finfo(dtype)
    z = torch.tensor([info.max, info.min, info.max**0.5, info.tiny, -info.tiny, 0.0, 12.0, -12.0], dtype=dtype)
    saved = z
    if activation.derivative_from == "output":
        saved = reference.activation(z, activation.name, activation.parameters)
    derivative = reference.activation_derivative(saved, activation.name, activation.parameters)
    assert derivative.dtype == dtype
    assert (derivative.isfinite() | ~saved.isfinite()).all(), derivative


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_defaults_are_those_of_torch(name):
    z, given = points(), ACTIVATIONS[name].defaults
    value = reference.activation(z, name, given)
    torch.testing.assert_close(reference.activation(z, name), value, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(reference.activation_derivative(z, name),
                               reference.activation_derivative(z, name, given), rtol=0, atol=0, equal_nan=True)
