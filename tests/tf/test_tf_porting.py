"""From TensorFlow and PyTorch and back: weights, layers, and a net that trains in step with PyTorch's."""

import itertools
import re
from pathlib import Path

import numpy
import pytest
import torch

from tf_cases import bias_pattern, kernel_pattern, pattern, truth
from tolerances import assert_exact
from triton_conv3dt.tf import Conv3DTranspose, from_torch, load_tf_weights, to_torch

DOCUMENT = Path(__file__).parents[2] / "docs" / "tensorflow.md"


def arrays(dtype="float32"):
    """kernel and bias as a TensorFlow layer's get_weights gives them."""
    kernel = kernel_pattern((3, 2, 1, 2, 4), torch.float64).numpy().astype(dtype)
    return [kernel, numpy.array([1, 2], dtype)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("built", [True, False])
def test_weights_of_tensorflow(built, dtype):
    layer = Conv3DTranspose(2, (3, 2, 1), 2, "same")
    if built:
        layer(torch.ones(1, 1, 1, 1, 4, dtype=getattr(torch, dtype)))
    assert load_tf_weights(layer, arrays(dtype)) is layer
    assert layer.built and layer.dtype == getattr(torch, dtype)
    assert all(map(numpy.array_equal, layer.get_weights(), arrays()))
    layer.get_weights()[1][:] = 7  # a copy
    assert layer.bias.tolist() == [1, 2]
    x = pattern("X", (1, 2, 2, 1, 4), layer.dtype)
    expected = truth(x, layer.kernel.detach(), (4, 4, 2), (2, 2, 2), (1, 1, 1), "SAME")
    assert_exact(layer(x).detach(), expected + torch.tensor([1.0, 2]))


def test_weights_come_in_the_dtype_of_the_layer():
    layer = load_tf_weights(Conv3DTranspose(2, (3, 2, 1), dtype="float64"), arrays())
    assert layer.dtype == torch.float64 and layer.kernel.is_contiguous() and layer.kernel.requires_grad


def test_weights_in_bfloat16_come_as_float32():
    class OfAnExtension(numpy.ndarray):  # as ml_dtypes, which numpy alone has not
        dtype = type("dtype", (), {"name": "bfloat16"})()

    kernel, bias = arrays()
    layer = load_tf_weights(Conv3DTranspose(2, (3, 2, 1), dtype=torch.bfloat16), [kernel.view(OfAnExtension), bias])
    assert layer.dtype == torch.bfloat16 and [w.dtype.name for w in layer.get_weights()] == ["float32"] * 2


@pytest.mark.parametrize("weights, error, words", [
    (arrays()[:1], ValueError, r"takes 2 weights, \[kernel, bias\], received 1"),
    (arrays()[0], ValueError, "received ndarray"), (None, ValueError, "received NoneType"),
    ([arrays()[0].transpose(0, 1, 2, 4, 3), arrays()[1]], ValueError,
     r"\(3, 2, 1, 2, 2\), received one of \(3, 2, 1, 4, 2\)"),
    ([arrays()[0], numpy.ones(3)], ValueError, r"bias of layer up must have the shape \(2,\), received one of \(3,\)"),
    ([arrays()[0][0], arrays()[1]], ValueError, "kernel of layer up must have the shape"),
    ([arrays()[0], "ab"], TypeError, "bias must be an array or a tensor, received str")], ids=lambda value: None)
@pytest.mark.parametrize("built", [True, False])
def test_weights_that_do_not_fit_change_nothing(weights, error, words, built):
    layer = Conv3DTranspose(2, (3, 2, 1), name="up")
    if built:
        layer(torch.ones(1, 1, 1, 1, 4))
        words = words.replace("1, 2, 2", "1, 2, 4")
    before = layer.get_weights()
    with pytest.raises(error, match=words):
        load_tf_weights(layer, weights)
    assert layer.built == built and all(map(numpy.array_equal, layer.get_weights(), before))


def test_weights_for_another_layer():
    with pytest.raises(TypeError, match="must be a triton_conv3dt.tf.Conv3DTranspose, received ConvTranspose3d"):
        load_tf_weights(torch.nn.ConvTranspose3d(4, 2, 3), arrays())


GEOMETRIES = list(itertools.product(range(1, 6), range(1, 4), (1, 2), ("valid", "same"), (None, 0, 1, 2)))


def test_every_layer_that_pytorch_can_express_and_no_other():
    """One axis of every geometry: what is converted computes the same, what is refused crops more at the end."""
    converted = refused = 0
    for k, s, d, padding, extra in GEOMETRIES:
        try:
            layer = Conv3DTranspose(2, (1, 1, k), (1, 1, s), padding, dilation_rate=(1, 1, d), dtype="float64",
                                    output_padding=None if extra is None else (0, 0, extra),
                                    bias_initializer=bias_pattern)
        except ValueError:
            continue
        x = torch.randn(2, 1, 1, 4, 3, dtype=torch.float64)
        expected, covered = layer(x), (k - 1) * d + 1
        cropped = 3 * s + covered - expected.shape[3]
        if padding == "same" and cropped > 0 and cropped % 2:
            refused += 1
            words = f"crops {cropped // 2} before and {cropped // 2 + 1} after along width"
            with pytest.raises(ValueError, match=words):
                to_torch(layer)
            continue
        converted += 1
        module = to_torch(layer)
        assert type(module) is torch.nn.ConvTranspose3d
        torch.testing.assert_close(module(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1), expected)
        again = from_torch(module)
        torch.testing.assert_close(again(x), expected)
    assert converted > 60 and refused > 20


def test_every_module_that_tensorflow_can_express_and_no_other():
    converted = refused = 0
    for k, s, d, p in itertools.product(range(1, 5), range(1, 4), (1, 2), range(0, 3)):
        for extra in range(max(s, d)):
            module = torch.nn.ConvTranspose3d(2, 3, (1, 1, k), (1, 1, s), (0, 0, p), (0, 0, extra), dilation=(1, 1, d),
                                              dtype=torch.float64)
            out = 3 * s - 2 * p + (k - 1) * d + 1 + extra
            if out < 1:
                continue
            x = torch.randn(1, 2, 1, 1, 4, dtype=torch.float64)
            try:
                layer = from_torch(module, "channels_first")
            except ValueError as error:
                refused += 1
                assert "cannot express" in str(error)
                valid, same = p == 0 and extra < s, extra == 0 or p == 0
                assert not valid and not (same and 3 * s < out <= 4 * s)
                continue
            converted += 1
            torch.testing.assert_close(layer(x), module(x))
    assert converted > 40 and refused > 40


def test_from_torch_keeps_what_the_module_is():
    module = torch.nn.ConvTranspose3d(4, 6, (1, 2, 2), (1, 2, 2), groups=2, bias=False).requires_grad_(False).eval()
    layer = from_torch(module, activation="relu", name="up")
    x = torch.randn(1, 4, 2, 3, 2)
    torch.testing.assert_close(layer(x.permute(0, 2, 3, 4, 1)), module(x).relu().permute(0, 2, 3, 4, 1))
    assert not layer.trainable and not layer.training and not layer.use_bias and layer.kernel.shape == (1, 2, 2, 3, 4)
    assert layer.name == "up" and layer.kernel.data_ptr() != module.weight.data_ptr()


def test_refused_conversions():
    with pytest.raises(ValueError, match=r"crops \(1, 1, 1\) before the output and \(0, 0, 0\) after it"):
        from_torch(torch.nn.ConvTranspose3d(2, 2, 3, 2, 1, 1))  # what SAME is not
    with pytest.raises(TypeError, match="must be a torch.nn.ConvTranspose3d, received Linear"):
        from_torch(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="isn't built"):
        to_torch(Conv3DTranspose(2, 3))
    with pytest.raises(ValueError, match="has the activation 'relu' and torch.nn.ConvTranspose3d has none"):
        to_torch(Conv3DTranspose(2, 3, activation="relu", input_shape=(2, 2, 2, 2)))


# A net.

class UNet(torch.nn.Module):
    """up(channels in, channels out, kernel, stride, padding) makes what upsamples [N, C, D, H, W] by the stride."""

    def __init__(self, up, levels, width, stride):
        super().__init__()
        conv = lambda ci, co, stride=1: torch.nn.Conv3d(ci, co, 3, stride, 1, dtype=torch.float64)
        widths = [(2 * width * 2**i, width * 2**i) for i in range(levels)]  # of the lower level and its own
        self.down = torch.nn.ModuleList([conv(1, width), *(conv(own, lower, stride) for lower, own in widths)])
        kinds = (stride, stride, "valid"), (4, stride, "same")
        self.up = torch.nn.ModuleList([up(*pair, *kind) for pair, kind in zip(widths, kinds)])
        self.join = torch.nn.ModuleList([conv(2 * own, own) for _, own in widths])
        self.last = conv(width, 1)

    def forward(self, x):
        skips = []
        for layer in self.down:
            x = layer(x).tanh()
            skips.append(x)
        skips.pop()
        for up, join in reversed(list(zip(self.up, self.join))):
            x = join(torch.cat([skips.pop(), up(x)], 1)).tanh()
        return self.last(x)


def trained(net, steps, size):
    """The losses of so many steps of training on a cube."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    x = torch.randn(1, 1, size, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.to(net.last.weight.device)
    losses = []
    for _ in range(steps):
        loss = (net(x) - x.roll(1, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("backend, levels, width, stride", [("torch", 2, 2, 2), ("triton", 1, 1, (1, 2, 2))])
@pytest.mark.slow
def test_a_unet_trains_in_step_with_pytorchs(backend, levels, width, stride, device):
    """To the last bits: the order of summation is all that differs."""
    def ours(ci, co, kernel, stride, padding):
        layer = Conv3DTranspose(co, kernel, stride, padding, data_format="channels_first", dtype="float64",
                                kernel_initializer="he_normal", backend=backend)
        layer.build((None, ci, None, None, None))
        return layer

    net = UNet(ours, levels, width, stride)
    theirs = UNet(lambda *_: torch.nn.Identity(), levels, width, stride)
    theirs.up = torch.nn.ModuleList(map(to_torch, net.up))
    rest = {name: w for name, w in net.state_dict().items() if not name.startswith("up")}
    theirs.load_state_dict(rest, strict=False)
    net, theirs = net.to(device), theirs.to(device)
    losses, expected = trained(net, 50, 2**levels), trained(theirs, 50, 2**levels)
    numpy.testing.assert_allclose(losses, expected, rtol=1e-12)
    assert losses[-1] < 0.5 * losses[0]
    for layer, module in zip(net.up, theirs.up):
        torch.testing.assert_close(layer.kernel.permute(4, 3, 0, 1, 2), module.weight, rtol=1e-9, atol=1e-12)


# The document.

def test_the_code_of_the_document_runs():
    namespace = {}
    for code in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL):
        exec(compile(code, DOCUMENT.name, "exec"), namespace)
