"""What is beside a product: the bias's gradient, activations in the epilogue, and their gradients."""

import pytest
import torch

from launched import BY_NAME, SIXTEEN
from layouts import LAYOUTS, lay_out
from tolerances import assert_exact, assert_smooth
from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch, tensors
from triton_conv3dt.problems.activations import ACTIVATIONS, Activation


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (*SIXTEEN, torch.float32, torch.float64))
def test_grad_bias(dtype, layout, device):
    for shape in ((3, 37, 2, 7, 9), (2, 1, 1, 1, 3), (0, 5, 2, 2, 2), (1, 3, 4, 0, 2)):
        dz = lay_out(torch.randint(-7, 8, shape).to(device=device, dtype=dtype), layout)
        db = launch.grad_bias(dz)
        assert db.dtype == dtype and db.shape == shape[1:2]
        assert_exact(db.cpu(), dz.double().sum((0, 2, 3, 4)).cpu())


def fractions(shape, dtype, device, bound=4):
    """Multiples of a quarter, exact in every dtype and in every sum of a few products."""
    return (torch.randint(-bound, bound + 1, shape) / 4).to(device=device, dtype=dtype)


@pytest.mark.parametrize("i, name", enumerate(ACTIVATIONS))
@pytest.mark.parametrize("case", [BY_NAME["k2s2"], BY_NAME["two groups"]], ids=str)
def test_activation_and_what_is_kept_for_it(case, i, name, device):
    """y comes from the accumulator, not from the rounded pre-activation beside it; every activation in both dtypes."""
    activation, shapes, dtype = Activation.of(name), case.shapes, (torch.float16, torch.float32)[(i + (case.groups > 1)) % 2]
    x, w, b, residual = (fractions(shape, dtype, device, bound=2) for shape in vars(shapes).values())
    x = x.contiguous(memory_format=torch.channels_last_3d) if dtype == torch.float16 else x
    given = dict(**case.geometry, out_size=case.out_size)
    y, pre = launch.forward(x, w, b, residual, **given, activation=activation, precision="ieee", keep_pre=True)
    z = reference.conv_transpose3d(x, w, b, residual, **given).cpu()
    assert_exact(pre.cpu(), z)
    assert pre.stride() == y.stride()
    assert_smooth(y.cpu(), reference.activation(z, name, activation.parameters), stride=case.stride)
    alone, nothing = launch.forward(x, w, b, residual, **given, activation=activation, precision="ieee")
    assert nothing is None and torch.equal(alone, y)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.float32))
def test_activation_grad(dtype, name, device):
    activation, shape = Activation.of(name), (2, 5, 3, 4, 7)
    for i, layout in enumerate(LAYOUTS):
        saved = lay_out(fractions(shape, dtype, device, bound=24), LAYOUTS[(i + i // 2) % 2])
        if activation.derivative_from == "output":
            saved = reference.activation(saved, name, activation.parameters)
        dy = lay_out(fractions(shape, dtype, device), layout)
        dz = launch.activation_grad(dy, saved, activation)
        assert dz.dtype == dtype and dz.is_contiguous(memory_format=tensors.memory_format(saved))
        slope = reference.activation_derivative(saved.double(), name, activation.parameters)
        assert_smooth(dz.cpu(), (dy.double() * slope).cpu())
    empty = torch.empty((0, *shape[1:]), dtype=dtype, device=device)
    assert launch.activation_grad(empty, empty, activation).shape == empty.shape
