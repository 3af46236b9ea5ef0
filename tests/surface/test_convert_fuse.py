"""convert(fuse=True): a Sequential computes what follows a layer in the layer's call, and nothing else changes."""

import copy
import pickle

import pytest
import torch
from torch import nn as theirs

from triton_conv3dt import nn
from triton_conv3dt.nn import chains

X = 2, 4, 2, 3, 2


class Block(theirs.Sequential):
    """As MONAI's Convolution: a subclass of Sequential with PyTorch's forward."""

    def __init__(self, *after, **arguments):
        super().__init__()
        self.add_module("conv", theirs.ConvTranspose3d(4, 3, 2, 2, **arguments))
        self.add_module("adn", theirs.Sequential(*after))


def norm(kind=theirs.BatchNorm3d, **arguments):
    made = kind(3, **arguments)
    theirs.init.uniform_(made.running_mean), theirs.init.uniform_(made.running_var, 0.5, 2)
    if made.affine:
        theirs.init.uniform_(made.weight, 0.5, 2), theirs.init.uniform_(made.bias)
    return made


@pytest.fixture
def calls(monkeypatch):
    """The activations of the calls that a Sequential makes for its modules."""
    made = []

    def call(*args, activation, **keywords):
        made.append(activation)
        return conv_transpose3d(*args, activation=activation, **keywords)

    conv_transpose3d = chains.conv_transpose3d
    monkeypatch.setattr(chains, "conv_transpose3d", call)
    return made


def results(model, x):
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters())]


FUSED = {
    "activation": ((theirs.LeakyReLU(0.2, inplace=True),), ("leaky_relu", 0.2)),
    "norm": ((norm(),), None),
    "all": ((norm(), theirs.Dropout3d(0.5), theirs.Identity(), theirs.GELU("tanh")), "gelu_tanh"),
    "two norms": ((norm(affine=False), norm(theirs.InstanceNorm3d, track_running_stats=True, affine=True)), None),
    "dropout that drops nothing": ((theirs.Dropout(0), theirs.Softplus()), ("softplus", 1, 20)),
}


@pytest.mark.parametrize("after, activation", FUSED.values(), ids=FUSED)
@pytest.mark.parametrize("bias", [True, False])
def test_what_follows_is_in_the_call(calls, after, activation, bias):
    model, x = copy.deepcopy(Block(*after, bias=bias)).eval(), torch.randn(X)
    expected, before, shown = results(copy.deepcopy(model), x), copy.deepcopy(model.state_dict()), repr(model)
    assert nn.convert(model, fuse=True) == ["conv"] and nn.convert(model, fuse=True) == []
    assert isinstance(model, Block) and repr(model) == shown
    for duplicate in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        calls.clear()
        for found, value in zip(results(duplicate, x), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4)
        assert calls == [activation]
        row, = nn.report(duplicate)
        assert row.fused == row.follows == tuple(type(m).__name__ for m in after) and "in a forward" in row.left
    assert list(model.state_dict()) == list(before)
    assert nn.revert(model) == ["conv"] and type(model) is Block and type(model.conv) is theirs.ConvTranspose3d
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert torch.equal(model(x), expected[0]) and len(calls) == 1


def test_new_weights_and_a_training_mode_are_heeded(calls):
    model, x = Block(norm(), theirs.ReLU()).eval(), torch.randn(X)
    nn.convert(model, fuse=True)
    other = Block(norm(), theirs.ReLU()).eval()
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(x), other(x))
    assert calls == ["relu"]
    torch.testing.assert_close(model.train()(x), other.train()(x))  # computed from this batch
    torch.testing.assert_close(model.adn[0].running_var, other.adn[0].running_var)
    assert calls == ["relu"] and "BatchNorm3d is in training mode" in str(nn.report(model))
    torch.testing.assert_close(model.eval()(x), other.eval()(x))
    assert calls == ["relu"] * 2


def test_statistics_that_train_are_refused():
    model = Block(norm(), theirs.ReLU())
    with pytest.raises(RuntimeError, match=r"model.eval\(\) first"):
        nn.convert(model, fuse=True)
    assert type(model.conv) is theirs.ConvTranspose3d and type(model) is Block
    assert nn.convert(model) == ["conv"] and nn.convert(Block(theirs.ReLU()), fuse=True) == ["conv"]


def test_hooks_and_modules_that_are_called_by_themselves(calls):
    model, x, seen = Block(norm(), theirs.ReLU()).eval(), torch.randn(X), []
    nn.convert(model, fuse=True)
    y = model.adn(model.conv(x))
    assert calls == [] and torch.equal(y, model.adn[1](model.adn[0](model.conv(x))))
    for module in (model.conv, model.adn, model.adn[0], model.adn[1]):
        handle = module.register_forward_hook(lambda *_: seen.append(1))
        torch.testing.assert_close(model(x), y)
        handle.remove()
    assert len(seen) == 4 and calls == [None]  # the normalisation alone, where the activation had the hook
    model.adn[1] = theirs.Tanh()
    torch.testing.assert_close(model(x), model.adn(model.conv(x)))
    assert calls[-1] == "tanh"


LEFT = {
    "PReLU": ((theirs.PReLU(),), "the slope of PReLU is a tensor"),
    "instance": ((theirs.InstanceNorm3d(3), theirs.ReLU()), "InstanceNorm3d needs the mean and variance"),
    "group": ((theirs.GroupNorm(3, 3),), "GroupNorm needs the mean and variance"),
    "convolution": ((theirs.Conv3d(3, 3, 1),), "Conv3d is not fused"),
}


@pytest.mark.parametrize("after, why", LEFT.values(), ids=LEFT)
def test_what_stays_is_said(calls, after, why):
    model, x = Block(*after), torch.randn(X)
    expected = model(x)
    nn.convert(model, fuse=True)
    assert type(model) is Block and torch.equal(model(x), expected) and calls == []
    assert nn.report(model)[0].left.startswith(why)


def test_what_could_be_fused_is_said():
    model = theirs.ModuleDict({"up": Block(theirs.ReLU()), "last": theirs.ConvTranspose3d(4, 4, 3, groups=4)})
    assert str(nn.report(model)) == "\n".join((
        "name     layer                                          what follows  fused  why not more",
        "up.conv  ci4 co3 k2 s2, kernel = stride                 ReLU                 convert(model, fuse=True) fuses it",
        "last     ci4 co4 k3 s1 g4, depthwise, overlapping taps                       it is not converted"))
    assert nn.convert(model) == ["up.conv", "last"] and nn.convert(model, fuse=True) == ["up.conv"]
    assert str(nn.report(theirs.ReLU())) == "no transposed 3-D convolution"


def test_several_layers_of_one_sequential(calls):
    model = theirs.Sequential(*(m for _ in range(2) for m in (theirs.ConvTranspose3d(4, 4, 1), theirs.ReLU())))
    assert nn.convert(model) == ["0", "2"] and nn.convert(model, fuse=True) == ["0", "2"]
    model(torch.randn(X))
    assert calls == ["relu", "relu"] and nn.revert(model) == ["0", "2"] and type(model) is theirs.Sequential


def test_a_sequential_in_another_is_reported_by_what_runs():
    model = theirs.Sequential(Block(theirs.ReLU()), theirs.Conv3d(3, 3, 1))
    assert nn.convert(model, fuse=True) == ["0.conv"] and type(model) is theirs.Sequential
    row, = nn.report(model)
    assert (row.follows, row.fused, row.left) == (("ReLU", "Conv3d"), ("ReLU",), "Conv3d is not fused")


def test_order_and_input_are_those_of_the_modules(calls):
    late = theirs.Sequential(theirs.ConvTranspose3d(4, 3, 2), theirs.ReLU(), norm(), theirs.ReLU()).eval()
    x = torch.randn(X)
    expected = late(x)
    nn.convert(late, fuse=True)
    assert torch.equal(late(x), expected) and "BatchNorm3d comes too late" in nn.report(late)[0].left
    own = theirs.Sequential(nn.ConvTranspose3d(4, 3, 2, activation="tanh"), theirs.ReLU()).eval()
    expected = own(x)
    nn.convert(own, fuse=True)
    assert torch.equal(own(x), expected) and nn.report(own)[0].left == "ReLU is a second activation"
    model = Block(norm()).eval()
    nn.convert(model, fuse=True)
    with pytest.raises(ValueError, match="expected 5D input"):
        model(x[0])


def test_autocast_widens_as_it_would(calls):
    model, x = Block(theirs.Softplus()), torch.randn(X)
    nn.convert(model, fuse=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = model(x), model.adn(model.conv(x))
    assert torch.equal(y, expected) and y.dtype == expected.dtype and calls == []


def test_it_compiles():
    model, x = Block(norm(), theirs.Dropout(0.5), theirs.ELU()).eval(), torch.randn(X)
    expected = model(x)
    nn.convert(model, fuse=True)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), expected)


def test_monai():
    blocks = pytest.importorskip("monai.networks.blocks", reason="MONAI is not installed; pip install monai")
    model = blocks.Convolution(3, 4, 3, strides=2, is_transposed=True, norm="batch", act="ELU", dropout=0.1).eval()
    x = torch.randn(X)
    expected = model(x)
    assert nn.convert(model, fuse=True) == ["conv"] and nn.report(model)[0].fused == ("BatchNorm3d", "Dropout", "ELU")
    torch.testing.assert_close(model(x), expected)
