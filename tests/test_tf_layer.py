"""Conv3DTranspose against TensorFlow's layer: recorded results, its tests and Keras's, and life as a torch.nn.Module."""

import copy
import io
import itertools
import math
import pickle

import numpy
import pytest
import torch

from tf_cases import assert_recorded, bias_pattern, decoded, error_of, kernel_pattern, of_kind, pattern, truth
from tolerances import assert_exact
from triton_conv3dt import launch
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


# Building.

def test_nothing_is_built_before_the_first_call():
    layer = Conv3DTranspose(2, 3)
    assert not layer.built and layer.weights == [] and layer.losses == [] and layer.dtype is None
    assert layer.has_uninitialized_params()
    with pytest.raises(ValueError, match="isn't built"):
        layer.count_params()
    with pytest.raises(ValueError, match="No name available for layer scope"):
        layer.scope_name
    layer(torch.randn(1, 2, 2, 2, 3, dtype=torch.float64))
    assert layer.built and not layer.has_uninitialized_params() and layer.dtype == torch.float64
    assert layer.count_params() == 27 * 6 + 2 and layer.input_spec == (5, {-1: 3}) and layer.graph is None
    layer.build((None, 7, 7, 7, 3))  # changes nothing
    with pytest.raises(ValueError, match="built for 3 channels"):
        layer.build((None, 7, 7, 7, 4))


@pytest.mark.parametrize("prepare, dtype", [
    (lambda layer: layer, torch.float32), (lambda layer: layer.double(), torch.float64),
    (lambda layer: layer.to(torch.bfloat16), torch.bfloat16)])
def test_building_by_shape(prepare, dtype):
    layer = prepare(Conv3DTranspose(2, 3))
    layer.build((None, None, None, None, 5))
    assert layer.kernel.shape == (3, 3, 3, 2, 5) and layer.kernel.dtype == dtype
    layer(torch.randn(1, 2, 2, 2, 5, dtype=dtype))


def test_a_shape_given_to_the_constructor():
    assert Conv3DTranspose(2, 3, input_shape=(4, 4, 4, 3)).kernel.shape == (3, 3, 3, 2, 3)
    layer = Conv3DTranspose(2, 3, batch_input_shape=(None, 6, None, None, None), data_format="channels_first")
    assert layer.kernel.shape == (3, 3, 3, 2, 6)


def test_an_optimizer_made_before_the_weights():
    layer = Conv3DTranspose(1, 2, bias_initializer="ones")
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer(torch.ones(1, 1, 1, 1, 1)).sum().backward()
    optimizer.step()
    assert layer.bias.tolist() == [1 - 8]


def test_a_lower_precision_of_autocast_is_not_kept(device):
    layer = Conv3DTranspose(2, 2, 2)
    with torch.autocast(device, torch.bfloat16):
        y = layer(torch.randn(1, 2, 2, 2, 3, dtype=torch.bfloat16, device=device))
    assert layer.kernel.dtype == torch.float32 and y.dtype == torch.bfloat16


def test_an_initializer_that_fails_leaves_nothing_half_built():
    layer = Conv3DTranspose(2, 3, bias_initializer=lambda shape, dtype: torch.zeros(3))
    with pytest.raises(ValueError, match=r"bias_initializer was called with the shape \(2,\) and returned \(3,\)"):
        layer(torch.ones(1, 2, 2, 2, 3))
    assert not layer.built and layer.has_uninitialized_params()


# A torch.nn.Module.

def test_state_of_a_built_layer_into_one_that_is_not():
    layer = made(2, 3, dtype=torch.float64)
    other = torch.nn.Sequential(Conv3DTranspose(2, 3))
    other.load_state_dict(torch.nn.Sequential(layer).state_dict())
    assert list(layer.state_dict()) == ["kernel", "bias"] and other[0].built and other[0].dtype == torch.float64
    x = torch.randn(1, 2, 2, 2, 3, dtype=torch.float64)
    assert torch.equal(other(x), layer(x))


def test_a_state_that_does_not_fit():
    layer = Conv3DTranspose(2, 3)
    for state in (made(4, 3).state_dict(), made(2, 2).state_dict(), made(2, 3, use_bias=False).state_dict(),
                  {"kernel": torch.tensor(1.0), "bias": torch.ones(2)}):
        with pytest.raises(RuntimeError, match="kernel|bias"):
            layer.load_state_dict(state)
        assert not layer.built


def test_a_state_of_nothing():
    Conv3DTranspose(2, 3).load_state_dict(Conv3DTranspose(2, 3).state_dict())


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies(again, built):
    layer = Conv3DTranspose(2, 3, activation="softmax", kernel_regularizer=("l2", 0.1), activity_regularizer="l1",
                            kernel_constraint="non_neg")
    x = torch.randn(1, 2, 2, 2, 3)
    if built:
        layer(x)
    other = again(layer)
    other(x)
    if built:
        assert torch.equal(other(x), layer(x)) and other.kernel is not layer.kernel
    assert len(other.losses) == 2 and other.name == layer.name
    torch.optim.SGD(other.parameters(), lr=1.0).step()


def test_saving_with_torch(tmp_path):
    layer, buffer = made(2, 3, 2, "same", activation="relu"), io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    x = torch.randn(1, 2, 2, 2, 3)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), layer(x))


def test_config():
    layer = Conv3DTranspose(2, (1, 2, 3), 2, "SAME", activation=("leaky_relu", 0.1), use_bias=False, dilation_rate=2,
                            kernel_initializer="he_normal", kernel_regularizer=("l2", 0.1), trainable=False, name="up",
                            dtype="float64", output_padding=1)
    config = layer.get_config()
    other = Conv3DTranspose.from_config(config)
    assert other.get_config() == config and config["padding"] == "same" and config["dtype"] == "float64"
    assert Conv3DTranspose(2, 3).get_config()["activation"] == "linear"


def test_a_config_of_tensorflow():
    config = {
        "name": "up", "trainable": True, "dtype": "float32", "filters": 2, "kernel_size": (3, 3, 3), "strides": (2, 2, 2),
        "padding": "same", "data_format": "channels_last", "groups": 1, "activation": "relu", "use_bias": True,
        "kernel_initializer": {"class_name": "VarianceScaling", "config": {
            "scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal", "seed": None}},
        "bias_initializer": {"class_name": "Zeros", "config": {}},
        "kernel_regularizer": {"class_name": "L2", "config": {"l2": 0.5}}, "bias_regularizer": None,
        "activity_regularizer": None,
        "kernel_constraint": {"class_name": "MaxNorm", "config": {"max_value": 2, "axis": [0, 1, 2, 3]}},
        "bias_constraint": None, "output_padding": None}
    layer = Conv3DTranspose.from_config(config)
    assert layer(torch.randn(1, 2, 2, 2, 3)).shape == (1, 4, 4, 4, 2)
    torch.testing.assert_close(layer.losses[0], 0.5 * layer.kernel.square().sum())


def test_names_are_numbered_like_tensorflows():
    layers = [made(1, 1, name="numbered") for _ in range(2)]
    assert [layer.name for layer in layers] == ["numbered", "numbered"]
    assert [layer.scope_name for layer in layers] == ["numbered", "numbered_1"]
    one, two = Conv3DTranspose(1, 1), Conv3DTranspose(1, 1, name="")
    assert one.name.startswith("conv3d_transpose_") and int(two.name.split("_")[-1]) == int(one.name.split("_")[-1]) + 1
    assert Conv3DTranspose(1, 1, _scope="decoder/up").scope_name == "decoder/up"


def test_trainable():
    layer = Conv3DTranspose(2, 3, trainable=False, kernel_regularizer="l2")
    layer(torch.randn(1, 2, 2, 2, 3))
    assert not any(p.requires_grad for p in layer.parameters()) and len(layer.non_trainable_weights) == 2
    assert len(layer.losses) == 1  # as in TensorFlow
    layer.trainable = True
    assert all(p.requires_grad for p in layer.parameters()) and layer.non_trainable_weights == []


def test_representation():
    text = repr(torch.nn.Sequential(Conv3DTranspose(2, 3, 2, "same", activation=torch.nn.GELU(), use_bias=False, groups=2)))
    assert "2, kernel_size=(3, 3, 3), strides=(2, 2, 2), padding='same'" in text and "use_bias=False" in text
    assert "groups=2" in text and text.count("GELU") == 1


# Activations.

def test_a_known_activation_is_one_launch(monkeypatch, device):
    names = []
    for name in ("forward", "activation_grad", "grad_bias"):
        monkeypatch.setattr(launch, name, lambda *args, f=getattr(launch, name), n=name, **k: names.append(n) or f(*args, **k))
    for activation in ("relu", torch.relu, ("leaky_relu", 0.2), "swish"):
        with torch.no_grad():
            Conv3DTranspose(2, 2, 2, activation=activation, backend="triton")(torch.randn(1, 1, 1, 2, 3, device=device))
    assert names == ["forward"] * 4


KERAS = {  # by Keras's own formulas
    "relu": lambda z: z.clamp(min=0), "relu6": lambda z: z.clamp(0, 6), "leaky_relu": lambda z: torch.where(z > 0, z, 0.2 * z),
    "elu": lambda z: torch.where(z > 0, z, z.exp() - 1),
    "selu": lambda z: 1.05070098 * torch.where(z > 0, z, 1.67326324 * (z.exp() - 1)),
    "gelu": lambda z: 0.5 * z * (1 + torch.erf(z / math.sqrt(2))), "silu": lambda z: z / (1 + (-z).exp()),
    "swish": lambda z: z / (1 + (-z).exp()), "softplus": lambda z: torch.log1p(z.exp()), "softsign": lambda z: z / (1 + z.abs()),
    "sigmoid": lambda z: 1 / (1 + (-z).exp()), "hard_sigmoid": lambda z: (0.2 * z + 0.5).clamp(0, 1),
    "hard_silu": lambda z: z * (z + 3).clamp(0, 6) / 6, "hard_swish": lambda z: z * (z + 3).clamp(0, 6) / 6,
    "hard_tanh": lambda z: z.clamp(-1, 1), "tanh": torch.tanh, "exponential": torch.exp, "linear": lambda z: z,
    "mish": lambda z: z * torch.tanh(torch.log1p(z.exp())), "softmax": lambda z: z.exp() / z.exp().sum(-1, keepdim=True),
    "log_softmax": lambda z: z - z.exp().sum(-1, keepdim=True).log(), "log_sigmoid": lambda z: -torch.log1p((-z).exp()),
    "celu": lambda z: z.clamp(min=0) + (z.exp() - 1).clamp(max=0), "squareplus": lambda z: 0.5 * (z + (z**2 + 4).sqrt()),
    "soft_shrink": lambda z: z.sign() * (z.abs() - 0.5).clamp(min=0), "hard_shrink": lambda z: z * (z.abs() > 0.5),
    "tanh_shrink": lambda z: z - z.tanh(), "sparse_sigmoid": lambda z: (0.5 * (z + 1)).clamp(0, 1),
    "sparse_plus": lambda z: torch.where(z >= 1, z, 0.25 * (z + 1).clamp(min=0) ** 2),
    "glu": lambda z: z[..., :2] / (1 + (-z[..., 2:]).exp()),
}


@pytest.mark.parametrize("name", KERAS)
def test_kerass_activations(name):
    layer = Conv3DTranspose(4, 1, activation=name, kernel_initializer="ones", bias_initializer=bias_pattern)
    x = torch.linspace(-8, 4, 13, dtype=torch.float64).view(1, 13, 1, 1, 1)
    torch.testing.assert_close(layer(x), KERAS[name](x + torch.arange(1, 5)), rtol=1e-8, atol=1e-12)


def test_sparsemax():
    """Of a hand: [0.5, 0.3, -1] is projected to where the first two share what they exceed 1 by."""
    layer = Conv3DTranspose(3, 1, activation="sparsemax", kernel_initializer="zeros",
                            bias_initializer=lambda shape, dtype: torch.tensor([0.5, 0.3, -1.0]))
    torch.testing.assert_close(layer(torch.ones(1, 1, 1, 1, 1)).flatten(), torch.tensor([0.6, 0.4, 0.0]))


def test_softplus_in_fp64_is_no_straight_line_at_25():
    layer = Conv3DTranspose(1, 1, activation="softplus", kernel_initializer="ones")
    x = torch.full((1, 1, 1, 1, 1), 25.0, dtype=torch.float64)
    assert layer(x).item() == math.log1p(math.exp(25.0)) != 25.0


def test_a_callable_sees_the_result_in_data_format(device):
    shapes = []
    for data_format in ("channels_last", "channels_first"):
        layer = Conv3DTranspose(2, 2, data_format=data_format, activation=lambda z: shapes.append(tuple(z.shape)) or -z)
        layer(torch.ones(1, 3, 3, 3, 3))
    assert shapes == [(1, 4, 4, 4, 2), (1, 2, 4, 4, 4)]


# Initializers.

SHAPE = (3, 2, 2, 40, 60)  # fan_in counts the 40 filters


@pytest.mark.parametrize("name, variance, limit", [
    ("glorot_uniform", 2 / (12 * 100), math.sqrt(6 / (12 * 100))), (None, 2 / (12 * 100), math.sqrt(6 / (12 * 100))),
    ("glorot_normal", 2 / (12 * 100), None), ("he_normal", 2 / (12 * 40), None), ("HeNormal", 2 / (12 * 40), None),
    ("he_uniform", 2 / (12 * 40), math.sqrt(6 / (12 * 40))), ("lecun_normal", 1 / (12 * 40), None),
    ("lecun_uniform", 1 / (12 * 40), math.sqrt(3 / (12 * 40))), ("random_normal", 0.05**2, None),
    ("random_uniform", 0.1**2 / 12, 0.05), ("truncated_normal", (0.05 * 0.87962566) ** 2, 0.1),
    (("random_normal", {"stddev": 0.2}), 0.2**2, None), (("truncated_normal", 0.0, 0.2), (0.2 * 0.87962566) ** 2, 0.4),
    (("variance_scaling", 3.0, "fan_out", "untruncated_normal"), 3 / (12 * 60), None),
    ({"class_name": "VarianceScaling", "config": {"scale": 1.5, "mode": "fan_avg", "distribution": "uniform"}},
     1.5 / (12 * 50), math.sqrt(4.5 / (12 * 50)))], ids=str)
def test_the_spread_of_an_initializer(name, variance, limit):
    layer = Conv3DTranspose(SHAPE[3], SHAPE[:3], kernel_initializer=name, batch_input_shape=(None,) * 4 + (SHAPE[4],))
    kernel = layer.kernel.detach()
    assert kernel.var().item() == pytest.approx(variance, rel=0.03) and abs(kernel.mean()) < 4 * math.sqrt(variance / 28800)
    if limit is not None:
        assert 0.98 * limit < kernel.abs().max() <= limit


def test_constants_and_the_bias():
    assert made(8, 3).bias.tolist() == [0] * 8
    assert made(2, 1, kernel_initializer="ones").kernel.unique().tolist() == [1]
    assert made(2, 1, kernel_initializer=("constant", 2.5)).kernel.unique().tolist() == [2.5]
    bias = made(10000, 1, bias_initializer=None).bias.detach()  # glorot_uniform, as documented
    limit = math.sqrt(6 / 20000)
    assert 0.99 * limit < bias.abs().max() <= limit and bias.var().item() == pytest.approx(limit**2 / 3, rel=0.05)


@pytest.mark.parametrize("filters, channels", [(4, 6), (1, 30)])
def test_orthogonal(filters, channels):
    layer = Conv3DTranspose(filters, (2, 2, 2), kernel_initializer=("orthogonal", {"gain": 2.0}), dtype="float64",
                            batch_input_shape=(None,) * 4 + (channels,))
    flat = layer.kernel.detach().reshape(-1, channels) / 2
    product = flat.T @ flat if len(flat) >= channels else flat @ flat.T
    torch.testing.assert_close(product, torch.eye(len(product), dtype=torch.float64))


def test_seeds():
    kernels = [made(2, 3, kernel_initializer={"class_name": "GlorotUniform", "config": {"seed": seed}}).kernel
               for seed in (1, 1, 2)]
    assert torch.equal(kernels[0], kernels[1]) and not torch.equal(kernels[0], kernels[2])
    for _ in range(2):
        torch.manual_seed(3)
        kernels.append(made(2, 3).kernel)
    assert torch.equal(kernels[3], kernels[4])


def test_an_initializer_may_return_an_array():
    layer = made(2, 1, kernel_initializer=lambda shape, dtype: numpy.full(shape, 3.0), dtype=torch.float16)
    assert layer.kernel.dtype == torch.float16 and layer.kernel.unique().tolist() == [3]


def test_weights_given_to_the_constructor():
    kernel, bias = numpy.ones((1, 1, 1, 2, 3), "float32"), numpy.zeros(2, "float32")
    layer = Conv3DTranspose(2, 1, weights=[kernel, bias])
    assert layer(torch.ones(1, 1, 1, 1, 3)).flatten().tolist() == [3, 3]


# Regularizers.

def test_losses(device):
    layer = Conv3DTranspose(2, 3, kernel_regularizer="l2", bias_regularizer=lambda b: b.sum(), bias_initializer="ones",
                            activity_regularizer=lambda y: y.abs().sum(), activation=("leaky_relu", 0.5), backend="torch")
    layer.build((None, None, None, None, 3))
    assert len(layer.losses) == 2
    y = layer(torch.randn(2, 2, 2, 2, 3))
    kernel_loss, bias_loss, activity_loss = layer.losses
    torch.testing.assert_close(kernel_loss, 0.01 * layer.kernel.square().sum())
    assert bias_loss == 2
    torch.testing.assert_close(activity_loss, y.abs().sum() / 2)  # the activated output, per sample
    layer(torch.randn(2, 2, 2, 2, 3))
    assert len(layer.losses) == 3
    sum(layer.losses).backward()
    assert layer.kernel.grad.any()


@pytest.mark.parametrize("spec, value", [("l1", 0.06), ("L2", 0.14), ("l1_l2", 0.2), (("l1", 2), 12), (("l2", 0.5), 7),
                                         ({"class_name": "L1L2", "config": {"l1": 1.0, "l2": 2.0}}, 34)], ids=str)
def test_the_named_regularizers(spec, value):
    layer = Conv3DTranspose(3, 1, bias_regularizer=spec, bias_initializer=bias_pattern, input_shape=(1, 1, 1, 1))
    assert layer.losses[0].item() == pytest.approx(value)


# Constraints.

@pytest.mark.parametrize("spec, expected", [
    ("non_neg", [0, 4, 0]), (("max_norm", 2.5), [-1.5, 2, 0]), ("unit_norm", [-0.6, 0.8, 0]), ("MaxNorm", [-1.2, 1.6, 0]),
    (("min_max_norm", 6.0, 8.0), [-3.6, 4.8, 0]), (("min_max_norm", {"min_value": 6, "max_value": 8, "rate": 0.5}), [-3.3, 4.4, 0]),
    (("max_norm", {"max_value": 9, "axis": 0}), [-3, 4, 0]), (lambda w: w + 1, [-2, 5, 1])], ids=str)
def test_constraints_follow_the_step_of_an_optimizer(spec, expected):
    """The step itself sets the bias to [-3, 4, 0], of norm 5."""
    layer = Conv3DTranspose(3, 1, bias_constraint=spec, input_shape=(1, 1, 1, 1))
    layer.bias.grad = torch.tensor([3.0, -4, 0])
    torch.optim.SGD(layer.parameters(), lr=1.0).step()
    torch.testing.assert_close(layer.bias.detach(), torch.tensor(expected, dtype=torch.float32))


def test_constraints_wait_for_the_optimizer_of_their_weight():
    layer = made(2, 2, kernel_constraint="non_neg", kernel_initializer=("constant", -1.0))
    assert layer.kernel_constraint(torch.tensor([-1.0])).item() == 0
    layer(torch.randn(1, 2, 2, 2, 3)).sum().backward()
    assert (layer.kernel < 0).all()  # a call changes nothing
    other = torch.nn.Parameter(torch.ones(1))
    other.grad = torch.ones(1)
    torch.optim.SGD([other], lr=0.1).step()
    assert (layer.kernel < 0).all()
    layer.kernel.grad = None
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert (layer.kernel < 0).all()  # without a gradient, TensorFlow's optimizers leave a weight alone as well
    layer.kernel.grad = torch.zeros_like(layer.kernel)
    torch.optim.Adam(layer.parameters(), lr=0.1).step()
    assert not layer.kernel.any()


def test_constraints_of_a_copy():
    layer = copy.deepcopy(made(1, 1, bias_constraint="non_neg"))
    layer.bias.grad = torch.ones(1)
    torch.optim.SGD(layer.parameters(), lr=1.0).step()
    assert layer.bias.item() == 0


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
    ((2, 3), dict(activation=("relu", 1)), ValueError, "takes 0 parameters"),
    ((2, 3), dict(kernel_initializer="he"), ValueError, "kernel_initializer 'he' is not known; known are zeros, ones"),
    ((2, 3), dict(bias_initializer=0), TypeError, "bias_initializer must be None, a callable, a name or a pair"),
    ((2, 3), dict(kernel_initializer=("random_normal", {"std": 1})), ValueError, "takes mean, stddev, seed"),
    ((2, 3), dict(kernel_initializer=("zeros", 1)), ValueError, "takes no parameters"),
    ((2, 3), dict(kernel_regularizer="l3"), ValueError, "known are l1, l2, l1_l2"),
    ((2, 3), dict(kernel_constraint="radial"), ValueError, "known are max_norm, non_neg, unit_norm, min_max_norm"),
    ((2, 3), dict(foo=1), TypeError, "Keyword argument not understood: 'foo'"),
    ((2, 3), dict(_reuse=True), TypeError, "a layer shares its weights when the same object is called again"),
    ((2, 3), dict(dtype="int32"), ValueError, "dtype must be None or one of float16"),
    ((2, 3), dict(dtype=torch.int8), ValueError, "dtype must be"), ((2, 3), dict(dtype=3), TypeError, "dtype must be"),
    ((3, 3), dict(groups=2), ValueError, "groups must divide filters"),
    ((2, 3), dict(dilation_rate=0), ValueError, "dilation_rate must be 1 or more"),
    ((2, 3, 2), dict(output_padding=2), ValueError, "along depth it may be at most 1"),
    ((2, 4, 2, "same"), dict(output_padding=0), ValueError, r"\(I - 1\) \* 2, which no convolution takes to I. It may be 1 to 1"),
    ((2, 2, 1, "same"), dict(output_padding=0), ValueError, "It may be None on all axes"),
    ((2, 3), dict(backend="cuda"), ValueError, "backend must be one of"),
    ((2, 3), dict(input_shape=(3, 3, 3)), ValueError, "Inputs should have rank 5"),
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
    layer = made(2, 3) if built else Conv3DTranspose(2, 3, dtype="float32", weights=[torch.ones(3, 3, 3, 2, 3), torch.ones(2)])
    with pytest.raises(error, match=words):
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
