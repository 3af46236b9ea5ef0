"""The module: PyTorch's parameters, state and behaviour."""

import copy
import io
import pickle
import re

import pytest
import torch

from triton_conv3dt import conv_transpose3d, nn

ARGUMENTS = [
    ((2, 4, 3), {}),
    ((2, 4, (1, 2, 3), 2, (0, 1, 1), 1), dict(bias=False)),
    ((4, 2, 2), dict(stride=(1, 2, 2), padding=1, output_padding=(0, 1, 0), groups=2, dilation=(2, 1, 1))),
    ((2, 2, 2), dict(dtype=torch.float64)),
]


def twins(arguments, keywords, **ours):
    """PyTorch's module and ours, made from the same random numbers."""
    torch.manual_seed(1)
    theirs = torch.nn.ConvTranspose3d(*arguments, **keywords)
    after = torch.rand(())
    torch.manual_seed(1)
    module = nn.ConvTranspose3d(*arguments, **keywords, **ours)
    assert torch.equal(torch.rand(()), after)
    return theirs, module


@pytest.mark.parametrize("arguments, keywords", ARGUMENTS)
def test_parameters_state_and_result_are_pytorchs(arguments, keywords):
    theirs, ours = twins(arguments, keywords)
    assert isinstance(ours, torch.nn.ConvTranspose3d)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, arguments[0], 2, 3, 2, dtype=ours.weight.dtype)
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours(x[0]), theirs(x[0]))


@pytest.mark.parametrize("arguments, keywords", ARGUMENTS[:3])
def test_the_kernels_compute_the_module(device, arguments, keywords):
    theirs, ours = (m.to(device) for m in twins(arguments, keywords, backend="triton"))
    x = torch.randn(1, arguments[0], 2, 3, 2, device=device)
    torch.testing.assert_close(ours(x), theirs(x))
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("size", [(4, 6, 4), (5, 7, 4), (2, 3, 5, 7, 5)])
def test_output_size(size):
    theirs, ours = twins((2, 3, 2), dict(stride=2))
    x = torch.randn(2, 2, 2, 3, 2)
    assert torch.equal(ours(x, size), theirs(x, size)) and torch.equal(ours(x, output_size=list(size)), theirs(x, size))


@pytest.mark.parametrize("size", [(3, 6, 4), (4, 6, 6), (4, 6)])
def test_an_impossible_output_size_is_refused_as_by_pytorch(size):
    theirs, ours = twins((2, 3, 2), dict(stride=2))
    x = torch.randn(2, 2, 2, 3, 2)
    with pytest.raises(Exception) as expected:
        theirs(x, size)
    with pytest.raises(expected.type, match=re.escape(str(expected.value))):
        ours(x, size)


def test_what_follows_the_layer():
    ours = nn.ConvTranspose3d(2, 3, 2, stride=2, activation=("leaky_relu", 0.1))
    x, residual = torch.randn(1, 2, 2, 2, 2), torch.randn(1, 3, 4, 4, 4)
    expected = conv_transpose3d(x, ours.weight, ours.bias, 2, residual=residual, activation=("leaky_relu", 0.1))
    assert torch.equal(ours(x, residual=residual), expected)
    with torch.no_grad():
        buffer = torch.zeros(1, 5, 4, 4, 4)
        ours(x, residual=residual, out=buffer[:, 1:4])
    assert torch.equal(buffer[:, 1:4], expected) and not buffer[:, :1].any() and not buffer[:, 4:].any()


def test_an_activation_with_parameters_is_a_submodule():
    ours = nn.ConvTranspose3d(2, 3, 2, activation=torch.nn.PReLU())
    assert list(ours.state_dict()) == ["weight", "bias", "activation.weight"]
    x = torch.randn(1, 2, 2, 2, 2)
    assert torch.equal(ours(x), ours.activation(conv_transpose3d(x, ours.weight, ours.bias)))


@pytest.mark.parametrize("keywords, error", [
    (dict(padding_mode="reflect"), ValueError), (dict(groups=3), ValueError), (dict(activation="reloo"), ValueError),
    (dict(activation=1), TypeError), (dict(precision="tf64"), ValueError), (dict(backend="cudnn"), ValueError)])
def test_wrong_arguments_are_refused_when_the_module_is_made(keywords, error):
    with pytest.raises(error):
        nn.ConvTranspose3d(2, 4, 2, **keywords)


def test_it_prints_what_it_is():
    assert repr(nn.ConvTranspose3d(2, 4, 2)) == repr(torch.nn.ConvTranspose3d(2, 4, 2))
    ours = nn.ConvTranspose3d(2, 4, 2, activation=("elu", 0.5), precision="ieee", backend="torch")
    assert repr(ours) == ("ConvTranspose3d(2, 4, kernel_size=(2, 2, 2), stride=(1, 1, 1), activation=('elu', 0.5), "
                          "precision='ieee', backend='torch')")


@pytest.mark.parametrize("duplicate", [
    copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)),
    lambda m: (f := io.BytesIO(), torch.save(m, f), f.seek(0), torch.load(f, weights_only=False))[-1]],
    ids=["deepcopy", "pickle", "torch.save"])
def test_it_is_copied_and_stored(duplicate):
    ours = nn.ConvTranspose3d(2, 3, 2, 2, activation="relu", precision="ieee", backend="torch")
    other, x = duplicate(ours), torch.randn(1, 2, 2, 2, 2)
    assert type(other) is nn.ConvTranspose3d and repr(other) == repr(ours) and other.weight is not ours.weight
    assert torch.equal(other(x), ours(x))


def test_memory_formats(device):
    ours = nn.ConvTranspose3d(4, 4, 2, stride=2, backend="triton", device=device)
    x = torch.randn(1, 4, 2, 2, 2, device=device)
    expected = ours(x)
    ours.to(memory_format=torch.channels_last_3d)
    assert ours.weight.is_contiguous(memory_format=torch.channels_last_3d)
    y = ours(x.to(memory_format=torch.channels_last_3d))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert ours.weight.grad.stride() == ours.weight.stride()


def test_a_lazy_layer_becomes_the_layer():
    lazy, eager = nn.LazyConvTranspose3d(3, 2, 2, activation="relu", precision="ieee"), nn.ConvTranspose3d(2, 3, 2, 2)
    assert isinstance(lazy, torch.nn.LazyConvTranspose3d) and "precision='ieee'" in repr(lazy)
    x = torch.randn(1, 2, 2, 2, 2)
    assert lazy(x).shape == eager(x).shape and type(lazy) is nn.ConvTranspose3d
    lazy.load_state_dict(eager.state_dict())
    assert torch.equal(lazy(x), eager(x).relu())
    with pytest.raises(ValueError, match="backend must be one of"):
        nn.LazyConvTranspose3d(3, 2, backend="cudnn")
