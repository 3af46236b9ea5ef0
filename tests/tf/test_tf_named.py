"""What Conv3DTranspose takes by name: activations, initializers, regularizers, constraints."""

import copy
import math

import numpy
import pytest
import torch

from tf_cases import bias_pattern
from triton_conv3dt.launching import launch
from triton_conv3dt.tf import Conv3DTranspose


def made(*args, inputs=(1, 2, 2, 2, 3), dtype=torch.float32, **kwargs):
    """A built layer."""
    layer = Conv3DTranspose(*args, **kwargs)
    layer(torch.randn(inputs, dtype=dtype))
    return layer


# Activations.

def test_a_known_activation_is_one_launch(monkeypatch, device):
    names = []
    for name in ("forward", "make_dz"):
        product = getattr(launch, name)
        monkeypatch.setattr(launch, name, lambda *args, n=name, f=product, **k: names.append(n) or f(*args, **k))
    for activation in ("relu", torch.relu, ("leaky_relu", 0.2), "swish"):
        with torch.no_grad():
            Conv3DTranspose(2, 2, 2, activation=activation, backend="triton")(torch.randn(1, 1, 1, 2, 3, device=device))
    assert names == ["forward"] * 4


def test_torchs_functions_are_applied_once():
    x = torch.randn(1, 2, 2, 2, 1)
    for activation in (torch.tanh, torch.sigmoid, torch.relu, torch.nn.functional.relu):
        layer = Conv3DTranspose(1, 1, activation=activation, kernel_initializer="ones")
        torch.testing.assert_close(layer(x), activation(x))


KERAS = {  # by Keras's own formulas
    "relu": lambda z: z.clamp(min=0), "relu6": lambda z: z.clamp(0, 6),
    "leaky_relu": lambda z: torch.where(z > 0, z, 0.2 * z),
    "elu": lambda z: torch.where(z > 0, z, z.exp() - 1),
    "selu": lambda z: 1.05070098 * torch.where(z > 0, z, 1.67326324 * (z.exp() - 1)),
    "gelu": lambda z: 0.5 * z * (1 + torch.erf(z / math.sqrt(2))), "silu": lambda z: z / (1 + (-z).exp()),
    "swish": lambda z: z / (1 + (-z).exp()), "softplus": lambda z: torch.log1p(z.exp()),
    "softsign": lambda z: z / (1 + z.abs()),
    "sigmoid": lambda z: 1 / (1 + (-z).exp()), "hard_sigmoid": lambda z: (0.2 * z + 0.5).clamp(0, 1),
    "hard_silu": lambda z: z * (z + 3).clamp(0, 6) / 6, "hard_swish": lambda z: z * (z + 3).clamp(0, 6) / 6,
    "hard_tanh": lambda z: z.clamp(-1, 1), "tanh": torch.tanh, "exponential": torch.exp, "linear": lambda z: z,
    "mish": lambda z: z * torch.tanh(torch.log1p(z.exp())),
    "softmax": lambda z: z.exp() / z.exp().sum(-1, keepdim=True),
    "log_softmax": lambda z: z - z.exp().sum(-1, keepdim=True).log(), "log_sigmoid": lambda z: -torch.log1p((-z).exp()),
    "celu": lambda z: z.clamp(min=0) + (z.exp() - 1).clamp(max=0),
    "squareplus": lambda z: 0.5 * (z + (z**2 + 4).sqrt()),
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
    assert kernel.var().item() == pytest.approx(variance, rel=0.03)
    assert abs(kernel.mean()) < 4 * math.sqrt(variance / kernel.numel())
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


def test_an_initializer_runs_on_the_device_of_the_weights():
    layer = Conv3DTranspose(2, 1, kernel_initializer="zeros", bias_initializer=lambda shape, dtype: torch.ones(shape))
    for name, shape in (("kernel", (1, 1, 1, 2, 3)), ("bias", (2,))):
        assert layer._initial(name, shape, torch.float32, torch.device("meta")).device.type == "meta"


def test_weights_given_to_the_constructor():
    kernel, bias = numpy.ones((1, 1, 1, 2, 3), "float32"), numpy.zeros(2, "float32")
    layer = Conv3DTranspose(2, 1, weights=[kernel, bias])
    for _ in range(2):  # the second time they are still there
        with pytest.raises(ValueError, match=r"kernel of layer \w+ must have the shape \(1, 1, 1, 2, 4\)"):
            layer(torch.ones(1, 1, 1, 1, 4))
        assert not layer.built
    assert layer(torch.ones(1, 1, 1, 1, 3, dtype=torch.float64)).flatten().tolist() == [3, 3]
    assert layer.dtype == torch.float64


# Regularizers.

def test_losses():
    layer = Conv3DTranspose(2, 3, kernel_regularizer="l2", bias_regularizer=lambda b: b.sum(), bias_initializer="ones",
                            activity_regularizer=lambda y: y.abs().sum(), activation=("leaky_relu", 0.5))
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
    ("non_neg", [0, 4, 0]), ("unit_norm", [-0.6, 0.8, 0]), ("MaxNorm", [-1.2, 1.6, 0]),
    (("max_norm", 2.5), [-1.5, 2, 0]), (("min_max_norm", 6.0, 8.0), [-3.6, 4.8, 0]),
    (("min_max_norm", {"min_value": 6, "max_value": 8, "rate": 0.5}), [-3.3, 4.4, 0]),
    (("max_norm", {"max_value": 9, "axis": 0}), [-3, 4, 0]), (lambda w: w + 1, [-2, 5, 1])],
    ids=lambda value: "callable" if callable(value) else str(value))
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
