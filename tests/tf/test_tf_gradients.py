"""Derivatives of conv3d_transpose: TensorFlow's recorded ones, every mode, vmap over either operand, torch.compile."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from tf_cases import assert_recorded, pattern, recorded_gradients
from triton_conv3dt.tf import Conv3DTranspose, conv3d_transpose

BACKENDS = ("triton", "torch")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def weighted(y):
    return (y * pattern("X", y.shape, y.dtype).to(y.device)).sum()


def first(layer, value, filter):
    return torch.autograd.grad(weighted(layer(value, filter)), (value, filter))


def second(layer, value, filter):
    y = layer(value, filter)
    gradients = torch.autograd.grad(weighted(y * y), (value, filter), create_graph=True)
    of_gradients = gradients[0].square().sum() + gradients[1].sum()
    return *gradients, *torch.autograd.grad(of_gradients, (value, filter))


def forward(layer, value, filter):
    tangents = pattern("F", value.shape, value.dtype), pattern("X", filter.shape, filter.dtype)
    return jvp(layer, (value.detach(), filter.detach()), tuple(t.to(value.device) for t in tangents))


@each_backend
@pytest.mark.parametrize("case", recorded_gradients(), ids=lambda case: case["id"])
def test_tensorflows_derivatives(case, backend, device):
    if backend == "triton" and device == "cpu" and case["value"]["dtype"] == "bfloat16":
        pytest.skip("the interpreter takes bfloat16 for 16-bit integers in products")
    value, filter = (pattern(fill, case[name]["shape"], getattr(torch, case[name]["dtype"])).to(device).requires_grad_()
                     for name, fill in (("value", "X"), ("filter", "F")))

    def layer(value, filter):
        return conv3d_transpose(value, filter, case["output_shape"], case["strides"], case["padding"], backend=backend)

    results = {"grads": first, "grads2": second, "jvp": forward}[case["kind"]](layer, value, filter)
    assert len(results) == len(case["results"])
    for result, expected in zip(results, case["results"]):
        assert_recorded(result, expected)


LAYERS = {  # shapes of value and filter, and the rest
    "same": ((1, 2, 1, 2, 1), (3, 1, 2, 1, 1), (1, 4, 1, 3, 1), dict(strides=(2, 1, 2))),
    "valid, channels first": ((1, 1, 2, 1, 2), (2, 1, 1, 2, 1), (1, 2, 4, 1, 2),
                              dict(strides=(1, 1, 2, 1, 1), padding="VALID", data_format="NCDHW")),
    "holes, dilated, groups": ((1, 2, 1, 1, 2), (2, 1, 1, 1, 2), (1, 4, 1, 1, 2), dict(strides=(3, 1, 1), dilations=2)),
}


def layer_of(name, device):
    value, filter, output_shape, rest = LAYERS[name]
    operands = [torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True) for shape in (value, filter)]
    return lambda value, filter, backend="triton": conv3d_transpose(value, filter, output_shape, **rest,
                                                                    backend=backend), operands


@pytest.mark.parametrize("name", LAYERS)
def test_every_order_and_mode(name, device):
    """TensorFlow's own bound for its numerical gradient is 5.5e-4; this is in fp64. The kernels' own second derivatives
    are those of test_autograd.py and, here, the recorded ones."""
    layer, operands = layer_of(name, device)
    gradcheck(layer, operands, fast_mode=True, check_forward_ad=True)
    by_pytorch = lambda *operands: layer(*operands, backend="torch")
    gradgradcheck(by_pytorch, operands, fast_mode=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("which", [(1, None), (None, 4)])
def test_vmap_over_either_operand(which, device):
    layer, (value, filter) = layer_of("same", device)
    along = lambda t, axis: t if axis is None else torch.stack([t, -2 * t, t + 1], axis)
    operands = [along(t.detach(), axis) for t, axis in zip((value, filter), which)]
    each = [[t if axis is None else t.select(axis, i) for t, axis in zip(operands, which)] for i in range(3)]
    for f in (layer, lambda v, f: grad(lambda v, f: layer(v, f).square().sum(), (0, 1))(v, f)):
        found = vmap(f, which)(*operands)
        expected = [f(*pair) for pair in each]
        for i, result in enumerate(found if isinstance(found, tuple) else (found,)):
            torch.testing.assert_close(result, torch.stack([e[i] if isinstance(e, tuple) else e for e in expected]))


def test_jacobians_agree(device):
    layer, (value, filter) = layer_of("same", device)
    one = lambda f: layer(value.detach(), f)
    torch.testing.assert_close(jacfwd(one)(filter.detach()), jacrev(one)(filter.detach()))


@each_backend
@pytest.mark.slow
def test_torch_compile_takes_the_operator(backend, device):
    def double(value, filter):
        n, d, h, w, _ = value.shape
        return conv3d_transpose(value, filter, [n, 2 * d, 2 * h, 2 * w, filter.shape[3]], 2, backend=backend)

    torch._dynamo.reset()
    fast = torch.compile(double, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in ((2, 2, 2), (1, 3, 2)):
        operands = [torch.randn(s, device=device, requires_grad=True) for s in ((2, *size, 2), (3, 3, 3, 2, 2))]
        y, expected = fast(*operands), double(*operands)
        assert torch.equal(y, expected) and y.stride() == expected.stride()
        dy = torch.randn_like(y)
        for found, gradient in zip(torch.autograd.grad(y, operands, dy), torch.autograd.grad(expected, operands, dy)):
            torch.testing.assert_close(found, gradient)
            assert found.stride() == gradient.stride()


@pytest.mark.parametrize("built, dynamic", [(False, True), (True, False)])
def test_torch_compile_takes_the_layer(built, dynamic, device):
    """One that is not built is built before it is traced, as PyTorch's lazy modules are."""
    layer = Conv3DTranspose(2, 3, 2, "same", activation="silu", bias_initializer="ones", activity_regularizer="l2",
                            backend="torch")
    inputs = torch.randn(1, 2, 3, 2, 3, device=device)
    if built:
        layer(inputs)
    torch._dynamo.reset()
    fast = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for x in (inputs, torch.randn(2, 3, 2, 2, 3, device=device)):
        y = fast(x)
        found = layer.losses[-1]
        assert torch.equal(y, layer(x))
        torch.testing.assert_close(found, layer.losses[-1])
    assert layer.built and layer.kernel.shape == (3, 3, 3, 2, 3)
