"""Conv3DTranspose as a torch.nn.Module: building, state, copies, configs and names."""

import copy
import io
import pickle

import numpy
import pytest
import torch

from triton_conv3dt.tf import Conv3DTranspose


def made(*args, inputs=(1, 2, 2, 2, 3), dtype=torch.float32, **kwargs):
    """A built layer."""
    layer = Conv3DTranspose(*args, **kwargs)
    layer(torch.randn(inputs, dtype=dtype))
    return layer


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
    number = {"kernel": torch.tensor(1.0), "bias": torch.ones(2)}
    for state in (made(4, 3).state_dict(), made(2, 2).state_dict(), number):
        with pytest.raises(RuntimeError, match=r"kernel of layer \w+ must have the shape \(3, 3, 3, 2, \d\)"):
            layer.load_state_dict(state)
        assert not layer.built
    state = made(2, 3, use_bias=False).state_dict()
    with pytest.raises(RuntimeError, match='Missing key.*"bias"'):
        layer.load_state_dict(state)
    layer = Conv3DTranspose(2, 3, bias_initializer="ones")
    layer.load_state_dict(state, strict=False)
    assert layer.bias.tolist() == [1, 1] and torch.equal(layer.kernel, state["kernel"])


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


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_keeps_the_dtype_it_was_given(again):
    layer = again(Conv3DTranspose(2, 3, dtype="float64"))
    layer.build((1, 2, 2, 2, 3))
    assert layer.dtype == layer.bias.dtype == torch.float64
    later = again(Conv3DTranspose(2, 3, dtype="float64").half())
    assert later.dtype == torch.float16


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
        "name": "up", "trainable": True, "dtype": "float32", "filters": 2, "kernel_size": (3, 3, 3),
        "strides": (2, 2, 2), "padding": "same", "data_format": "channels_last", "groups": 1, "activation": "relu",
        "use_bias": True,
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


def test_forms_of_a_dtype():
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "bfloat16"}, "registered_name": None}
    assert Conv3DTranspose(2, 3, dtype=policy).dtype == torch.bfloat16
    for dtype in (numpy.dtype("float64"), numpy.float64, "double", torch.float64):
        assert Conv3DTranspose(2, 3, dtype=dtype).dtype == torch.float64


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
    layer.requires_grad_(True)
    assert layer.trainable
    layer.trainable = False
    layer.trainable = True
    assert all(p.requires_grad for p in layer.parameters()) and layer.non_trainable_weights == []


def test_representation():
    text = repr(Conv3DTranspose(2, 3, 2, "same", activation=torch.nn.GELU(), use_bias=False, groups=2))
    assert "2, kernel_size=(3, 3, 3), strides=(2, 2, 2), padding='same'" in text and "use_bias=False" in text
    assert "groups=2" in text and text.count("GELU") == 1
