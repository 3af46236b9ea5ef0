"""PyTorch's own activations, given as functions or modules: fused where nobody could tell, else applied as they are."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules import module as torch_module

from triton_conv3dt import conv_transpose3d, nn
from triton_conv3dt.launching import launch
from triton_conv3dt.ops import activations
from triton_conv3dt.problems.activations import ACTIVATIONS
from triton_conv3dt.tf import Conv3DTranspose

OTHER_PARAMETERS = (
    torch.nn.LeakyReLU(0.2), torch.nn.ELU(0.5), torch.nn.ELU(2), torch.nn.Softplus(2.0, 3.0), torch.nn.GELU("tanh"),
    torch.nn.Hardtanh(-2.0, 0.5), torch.nn.ReLU(inplace=True), torch.nn.Hardswish(inplace=True))
KNOWN = (*activations.FUNCTIONS, *(kind() for kind in activations.MODULES), *OTHER_PARAMETERS)


class Mine(torch.nn.ReLU):
    def forward(self, z):
        return super().forward(z) + 1


def with_forward():
    module = torch.nn.ReLU()
    module.forward = lambda z: z + 1
    return module


def learning():
    module = torch.nn.LeakyReLU()
    module.negative_slope = torch.nn.Parameter(torch.tensor(0.5))
    return module


APPLIED = {"subclass": Mine(), "another forward": with_forward(), "unknown": torch.nn.PReLU(), "lambda": lambda z: z + 1,
           "partial": functools.partial(F.leaky_relu, negative_slope=0.5),
           "sequential": torch.nn.Sequential(torch.nn.ReLU())}


@pytest.fixture
def fused(monkeypatch):
    """The activations that the kernels were launched with."""
    seen, forward = [], launch.forward
    monkeypatch.setattr(launch, "forward", lambda *args: seen.append(args[10]) or forward(*args))
    return seen


def operands(device):
    """Such that the result has values on both sides of every kink."""
    x = torch.linspace(-8, 8, 16, dtype=torch.float64, device=device).view(1, 1, 2, 2, 4)
    return x.requires_grad_(), torch.tensor([1.0, 1.1], dtype=torch.float64, device=device).view(1, 2, 1, 1, 1)


def written(activation) -> str:
    return str(activation) if isinstance(activation, torch.nn.Module) else activation.__name__


@pytest.mark.parametrize("activation", KNOWN, ids=written)
def test_pytorchs_own_are_fused(device, fused, activation):
    x, w = operands(device)
    y = conv_transpose3d(x, w, activation=activation, backend="triton")
    expected = activation(F.conv_transpose3d(x, w))
    torch.testing.assert_close(y, expected)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=device).view(y.shape)
    torch.testing.assert_close(torch.autograd.grad(y, x, dy), torch.autograd.grad(expected, x, dy))
    assert len(fused) == 1 and (fused[0] is None) == isinstance(activation, torch.nn.Identity)


def test_every_name_has_a_function_or_a_module():
    modules = (entry.name for entries in activations.MODULES.values() for entry in entries)
    assert {*activations.FUNCTIONS.values(), *modules} == {*ACTIVATIONS, "identity"}


@pytest.mark.parametrize("activation", APPLIED.values(), ids=APPLIED)
def test_what_is_somebodys_own_is_applied(device, fused, activation):
    x, w = operands(device)
    activation = activation.double() if isinstance(activation, torch.nn.PReLU) else activation
    y = conv_transpose3d(x, w, activation=activation, backend="triton")
    torch.testing.assert_close(y, activation(F.conv_transpose3d(x, w)))
    assert fused == [None]


def test_a_parameter_that_learns_is_no_constant(device, fused):
    x, w = operands(device)
    activation = learning()
    # PyTorch's own LeakyReLU does not take one either, and says so.
    with pytest.raises(TypeError, match="leaky_relu"):
        conv_transpose3d(x, w, activation=activation, backend="triton")
    assert fused == [None]


HOOKS = ("register_forward_pre_hook", "register_forward_hook", "register_full_backward_pre_hook",
         "register_full_backward_hook", "register_module_forward_hook")


@pytest.mark.parametrize("register", HOOKS)
@pytest.mark.parametrize("layer", ["function", "module", "tf"])
def test_a_hook_is_not_skipped(device, fused, layer, register):
    """Even where the same call was fused before."""
    activation, calls = torch.nn.ReLU(), []
    x, w = operands(device)
    layer = {"function": lambda x: conv_transpose3d(x, w, activation=activation, backend="triton"),
             "module": nn.ConvTranspose3d(1, 2, 1, activation=activation, backend="triton", dtype=x.dtype, device=device),
             "tf": Conv3DTranspose(2, 1, data_format="channels_first", activation=activation, backend="triton"),
             }[layer]
    first = layer(x)
    hook = lambda module, *_: calls.append(module) if module is activation else None
    handle = getattr(activation, register, None) or getattr(torch_module, register)
    handle = handle(hook)
    try:
        y = layer(x)
        y.sum().backward()
    finally:
        handle.remove()
    torch.testing.assert_close(y, first)
    layer(x)
    assert calls == [activation] and [a and a.name for a in fused] == ["relu", None, "relu"]


def test_a_parameter_may_change_between_calls(device):
    x, w = operands(device)
    activation = torch.nn.LeakyReLU(0.25)
    for slope in (0.25, 0.5):
        activation.negative_slope = slope
        y = conv_transpose3d(x, w, activation=activation, backend="triton")
        assert torch.equal(y, conv_transpose3d(x, w, activation=("leaky_relu", slope), backend="triton"))


@pytest.mark.parametrize("make", [
    lambda activation: conv_transpose3d(torch.ones(1, 2, 2, 2, 2), torch.ones(2, 2, 1, 1, 1), activation=activation),
    lambda activation: nn.ConvTranspose3d(2, 2, 1, activation=activation),
    lambda activation: Conv3DTranspose(2, 1, activation=activation)], ids=["function", "module", "tf"])
def test_a_class_is_refused(make):
    with pytest.raises(TypeError, match=r'received the class ReLU: pass "relu" or an instance, nn.ReLU\(\)'):
        make(torch.nn.ReLU)
    with pytest.raises(TypeError, match=r"received the class Mine: pass an instance, Mine\(\)"):
        make(Mine)


def test_a_fused_module_stays_a_submodule(device, fused):
    activation = torch.nn.LeakyReLU(0.2)
    layer = nn.ConvTranspose3d(1, 2, 1, activation=activation, backend="triton", device=device)
    layer(torch.ones(1, 1, 2, 2, 2, device=device))
    assert dict(layer.named_children()) == {"activation": activation} and "LeakyReLU" in repr(layer)
    assert fused[0].parameters == (0.2,)
