"""Conv3DTranspose against TensorFlow's layer: its recorded results, its tests and Keras's, and what it refuses."""

import itertools

import pytest
import torch

from tf_cases import assert_recorded, bias_pattern, decoded, error_of, kernel_pattern, of_kind, pattern, truth
from tolerances import assert_exact
from triton_conv3dt.tf import Conv3DTranspose

CASES = of_kind("layer")
SMOOTH = ("layer/activation-sigmoid", "layer/activation-silu", "layer/activation-elu", "layer/activation-softplus")
each_backend = pytest.mark.parametrize("backend", ["triton", "torch"])


def made(*args, inputs=(1, 2, 2, 2, 3), dtype=torch.float32, **kwargs):
    """A built layer."""
    layer = Conv3DTranspose(*args, **kwargs)
    layer(torch.randn(inputs, dtype=dtype))
    return layer


@each_backend
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_tensorflows_results_and_errors(case, backend, device):
    args = [decoded(v) for v in case["layer"]["args"]]
    kwargs = {name: decoded(v) for name, v in case["layer"]["kwargs"].items()}
    inputs = decoded(case["input"], device)
    if "error" in case:
        with pytest.raises(error_of(case)):
            Conv3DTranspose(*args, **kwargs, backend=backend)(inputs)
        return
    layer = Conv3DTranspose(*args, **kwargs, backend=backend)
    assert list(layer.compute_output_shape(tuple(inputs.shape))) == case["expected"]["shape"]
    y = layer(inputs)
    # TensorFlow's sigmoid in fp32 is 5e-5 off where it is small.
    assert_recorded(y, case["expected"], rtol=1e-4 if case["id"] in SMOOTH else 0.0)
    assert y.is_contiguous()


# TensorFlow's own tests of the layer, and Keras's: sizes and closed forms.

@pytest.mark.parametrize("kernel_size", [[3, 3, 3], 3])
def test_shapes_of_result_and_weights(kernel_size):
    layer = Conv3DTranspose(4, kernel_size, activation=torch.relu)
    y = layer(torch.rand(2, 5, 6, 7, 8))
    assert y.shape == (2, 7, 8, 9, 4) and layer.kernel.shape == (3, 3, 3, 4, 8) and layer.bias.shape == (4,)
    assert (y >= 0).all()


def test_channels_first(device):
    last = Conv3DTranspose(4, 3, 2, "same")
    first = Conv3DTranspose(4, 3, 2, "same", data_format="CHANNELS_FIRST", backend="triton").to(device)
    x = torch.randn(2, 2, 2, 2, 3)
    expected = last(x)
    first.set_weights(last.get_weights())
    y = first(x.permute(0, 4, 1, 2, 3).contiguous().to(device)).cpu()
    assert y.shape == (2, 4, 4, 4, 4) and first.input_spec.axes == {1: 3} and last.input_spec.axes == {-1: 3}
    torch.testing.assert_close(y.permute(0, 2, 3, 4, 1), expected)


def test_a_kernel_as_large_as_the_input():
    x = torch.rand(2, 5, 6, 7, 4)
    assert Conv3DTranspose(8, x.shape[1:4], padding="same")(x).shape == (2, 5, 6, 7, 8)


@pytest.mark.parametrize("strides, padding, shape", [
    ((2, 2, 2), "same", (2, 10, 12, 14, 4)), (2, "SAME", (2, 10, 12, 14, 4)), ((2, 1, 1), "Valid", (2, 11, 8, 9, 4)),
    ((1, 2, 1), "valid", (2, 7, 13, 9, 4)), ((1, 1, 5), "valid", (2, 7, 8, 35, 4))])
def test_strides(strides, padding, shape):
    layer = Conv3DTranspose(4, 3, strides, padding)
    assert layer(torch.rand(2, 5, 6, 7, 3)).shape == shape
    assert layer.compute_output_shape((None, 5, None, 7, 3)) == (None, shape[1], None, *shape[3:])


@pytest.mark.parametrize("filters, kernel, strides, padding, shape", [  # of Keras's test of the layer
    (5, 2, 2, "valid", (2, 16, 16, 16, 5)), (6, 2, 3, "same", (2, 24, 24, 24, 6)),
    (6, (2, 2, 3), (2, 1, 2), "valid", (2, 16, 9, 17, 6))])
def test_kerass_sizes(filters, kernel, strides, padding, shape):
    layer = Conv3DTranspose(filters, kernel, strides, padding)
    assert layer(torch.rand(2, 8, 8, 8, 4)).shape == shape
    assert len(layer.weights) == len(layer.trainable_weights) == 2 and not layer.non_trainable_weights


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_kerass_grid_of_output_paddings(padding, device):
    """Every kernel and stride up to 4 with every output_padding below the stride, along the last axis, by value."""
    checked = 0
    for k, s, extra in itertools.product(range(1, 5), range(1, 5), (None, 0, 1, 2, 3)):
        if extra is not None and (extra >= s or padding == "same" and k % 2 == 0 and extra == 0):
            with pytest.raises(ValueError, match="output_padding"):
                Conv3DTranspose(1, (1, 1, k), (1, 1, s), padding, output_padding=(0, 0, extra))
            continue
        layer = Conv3DTranspose(2, (1, 1, k), (1, 1, s), padding, kernel_initializer=kernel_pattern,
                                output_padding=None if extra is None else (0, 0, extra))
        x = pattern("X", (1, 1, 1, 3, 2))
        if extra is None:
            length = 3 * s + max(k - s, 0) if padding == "valid" else 3 * s
        else:
            length = 2 * s + (k if padding == "valid" else k % 2) + extra
        y = layer(x).detach()
        assert_exact(y, truth(x, layer.kernel.detach(), (1, 1, length), (1, 1, s), (1, 1, 1), padding.upper()))
        checked += 1
    assert checked > 30


def test_what_tensorflow_ignores_is_done(device):
    """dilation_rate together with strides, and groups."""
    layer = Conv3DTranspose(4, (2, 1, 3), (2, 1, 2), "same", dilation_rate=(3, 1, 2), groups=2, backend="triton",
                            kernel_initializer=kernel_pattern, bias_initializer=bias_pattern)
    x = pattern("X", (2, 2, 1, 3, 6))
    y = layer(x.to(device)).detach().cpu()
    assert layer.kernel.shape == (2, 1, 3, 2, 6) and y.shape == layer.compute_output_shape((2, 2, 1, 3, 6))
    expected = truth(x, layer.kernel.detach(), (4, 1, 6), (2, 1, 2), (3, 1, 2), "SAME", groups=2)
    assert_exact(y, expected + torch.arange(1, 5))
    valid = Conv3DTranspose(1, 2, 2, dilation_rate=3)
    assert valid(torch.rand(1, 2, 2, 2, 1)).shape == (1, 6, 6, 6, 1)  # 2 * 2 + (4 - 2)


def test_an_empty_input():
    layer = Conv3DTranspose(2, 3, 2, activation="relu", bias_initializer=bias_pattern)
    y = layer(torch.zeros(1, 0, 2, 2, 3))
    assert y.shape == (1, 1, 5, 5, 2) and torch.equal(y[0, 0, 0, 0], torch.tensor([1.0, 2]))  # 0 * 2 + (3 - 2)
    y.sum().backward()
    assert not layer.kernel.grad.any() and layer.bias.grad.tolist() == [25, 25]


# Refusals.

REFUSED = [
    ((2.7, 3), {}, TypeError, "filters must be a positive integer, received 2.7"),
    ((None, 3), {}, TypeError, "filters must be a positive integer, received None"),
    ((0, 3), {}, ValueError, "filters must be a positive integer, received 0"),
    ((2, "333"), {}, TypeError, "kernel_size must be an integer or a tuple of 3 integers"),
    ((2, None), {}, TypeError, "kernel_size"), ((2, 3.0), {}, TypeError, "kernel_size"),
    ((2, (1, 2)), {}, ValueError, r"The `kernel_size` argument must be a tuple of 3 integers. Received: \(1, 2\)"),
    ((2, (1, 2, 0)), {}, ValueError, "kernel_size must be 1 or more"),
    ((2, 3, (1, 2)), {}, ValueError, "The `strides` argument must be a tuple of 3 integers"),
    ((2, 3, 0), {}, ValueError, "strides must be 1 or more, received 0"),
    ((2, 3, 1, "causal"), {}, ValueError, "'valid' or 'same'. Received: 'causal'"),
    ((2, 3, 1, None), {}, TypeError, "padding must be 'valid' or 'same', received None"),
    ((2, 3), dict(data_format="NDHWC"), ValueError, "'channels_last' or 'channels_first'. Received: 'NDHWC'"),
    ((2, 3), dict(data_format=3), TypeError, "data_format"),
    ((2, 3), dict(activation="Relu"), ValueError, "Unknown activation function 'Relu'; known are"),
    ((2, 3), dict(activation=5), TypeError, "Could not interpret activation function identifier: 5"),
    ((2, 3), dict(activation=torch.nn.ReLU), TypeError, r'received the class ReLU: pass "relu" or an instance'),
    ((2, 3), dict(kernel_constraint=torch.nn.ReLU), TypeError, "kernel_constraint .* received the class"),
    ((2, 3), dict(activation=("relu", 1)), ValueError, "takes 0 parameters"),
    ((2, 3), dict(kernel_initializer="he"), ValueError, "kernel_initializer 'he' is not known; known are zeros, ones"),
    ((2, 3), dict(bias_initializer=0), TypeError, "bias_initializer must be None, a callable, a name or a pair"),
    ((2, 3), dict(kernel_initializer=("random_normal", {"std": 1})), ValueError, "takes mean, stddev, seed"),
    ((2, 3), dict(kernel_initializer=("zeros", 1)), ValueError, "takes no parameters"),
    ((2, 3), dict(kernel_regularizer="l3"), ValueError, "known are l1, l2, l1_l2"),
    ((2, 3), dict(kernel_constraint="radial"), ValueError, "known are max_norm, non_neg, unit_norm, min_max_norm"),
    ((2, 3), dict(foo=1), TypeError, "Keyword argument not understood: 'foo'"),
    ((2, 3), dict(_reuse=True), TypeError, "a layer shares its weights when the same object is called again"),
    ((2, 3), dict(dtype="int32"), ValueError, "dtype must be None, float16"),
    ((2, 3), dict(dtype=torch.int8), ValueError, "dtype must be"), ((2, 3), dict(dtype=3), TypeError, "dtype must be"),
    ((3, 3), dict(groups=2), ValueError, "groups must divide filters"),
    ((2, 3), dict(dilation_rate=0), ValueError, "dilation_rate must be 1 or more"),
    ((2, 3, 2), dict(output_padding=2), ValueError, "along depth it may be at most 1"),
    ((2, 4, 2, "same"), dict(output_padding=0), ValueError, r"\(I - 1\) \* 2, which no .* takes to I. It may be 1, or"),
    ((2, 4, 3, "same"), dict(output_padding=(1, 1, 0)), ValueError, "along width .* It may be 1 to 2, or None on all"),
    ((2, 2, 1, "same"), dict(output_padding=0), ValueError, "It may be None on all axes"),
    ((2, 3), dict(backend="cuda"), ValueError, "backend must be one of"),
    ((2, 3), dict(input_shape=(3, 3, 3)), ValueError, "Inputs should have rank 5"),
    ((2, 3), dict(input_shape=5), TypeError, "input_shape must be a tuple or list of 4 sizes, received 5"),
    ((2, 3), dict(batch_input_shape=(1, 3, 3, 3)), ValueError, "batch_input_shape must have 5 sizes, received 4"),
]


@pytest.mark.parametrize("args, kwargs, error, words", REFUSED, ids=lambda value: None)
def test_what_the_constructor_refuses(args, kwargs, error, words):
    with pytest.raises(error, match=words):
        Conv3DTranspose(*args, **kwargs)


@pytest.mark.parametrize("inputs, error, words", [
    (torch.ones(2, 2, 2, 3), ValueError, "Inputs should have rank 5"),
    (torch.ones(1, 2, 2, 2, 4), ValueError, r"expected axis -1 to have 3 channels, received 4 in \[1, 2, 2, 2, 4\]"),
    (torch.ones(1, 2, 2, 2, 3).double(), TypeError, "nothing is promoted"),
    (torch.ones(1, 2, 2, 2, 3).int(), TypeError, "dtype torch.int32"),
    ([[1.0]], TypeError, "received list"), (None, TypeError, "received NoneType")], ids=lambda value: None)
@pytest.mark.parametrize("built", [True, False])
def test_what_a_call_refuses(inputs, error, words, built):
    weights = [torch.ones(3, 3, 3, 2, 3), torch.ones(2)]
    layer = made(2, 3) if built else Conv3DTranspose(2, 3, dtype="float32", weights=weights)
    with pytest.raises(error, match=words if built or "axis -1" not in words else "must have the shape"):
        layer(inputs)


def test_other_refusals():
    with pytest.raises(ValueError, match="channel dimension of the inputs should be defined"):
        Conv3DTranspose(2, 3).build((1, 2, 2, 2, None))
    with pytest.raises(ValueError, match="rank 5"):
        Conv3DTranspose(2, 3).build((1, 2, 2, 3))
    with pytest.raises(ValueError, match="groups must divide the channels of the input, received 3"):
        Conv3DTranspose(2, 3, groups=2)(torch.ones(1, 2, 2, 2, 3))
    for shape in ((1, 2, 2, 3), (1, 2, 2, 2, 2, 3), (1, 2, 2, -2, 3)):
        with pytest.raises(ValueError, match="input_shape must h"):
            Conv3DTranspose(2, 3).compute_output_shape(shape)
    with pytest.raises(TypeError, match="input_shape must be a tuple or list"):
        Conv3DTranspose(2, 3).compute_output_shape(5)
