"""Subclasses of Tensor, such as MONAI's MetaTensor, get the results and gradients of plain tensors."""

import contextlib
import copy

import pytest
import torch

from triton_conv3dt import conv_transpose3d, nn
from triton_conv3dt.tf import Conv3DTranspose

BACKENDS = ("triton", "auto")


class Bare(torch.Tensor):
    """Nothing of its own."""


class Meta(torch.Tensor):
    """What MONAI's is made of: attributes that follow every function, and methods that take less than PyTorch's."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs)
        given = next((a for a in args if isinstance(a, Meta)), None)
        if isinstance(result, Meta) and given is not None:
            result.note = getattr(given, "note", None)
        return result

    def new_empty(self, size, dtype=None, device=None, requires_grad=False):
        assert isinstance(size, tuple), f"size must be a tuple, received {size!r}"
        with torch._C.DisableTorchFunctionSubclass():
            plain = torch.Tensor.as_subclass(self, torch.Tensor)
            return plain.new_empty(size, dtype=dtype, device=device, requires_grad=requires_grad).as_subclass(Meta)

    def clone(self):
        return super().clone()


@pytest.fixture(params=["bare", "meta", "monai"])
def subclass(request):
    if request.param == "monai":
        return pytest.importorskip("monai.data").MetaTensor
    return {"bare": Bare, "meta": Meta}[request.param]


def in_subclass(t, subclass):
    """The values of t; in another's memory, so that gradients are its own."""
    return t.detach().clone().as_subclass(subclass).requires_grad_(t.requires_grad)


def operands(device):
    shapes = (2, 3, 1, 2, 1), (3, 2, 2, 2, 2), (2,), (2, 2, 2, 4, 2)
    return [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lowered", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("activation", ["relu", "silu", torch.nn.PReLU()], ids=str)
def test_results_and_gradients_are_those_of_plain_tensors(device, subclass, activation, lowered, backend):
    plain = operands(device)
    x, residual = (in_subclass(t, subclass) for t in (plain[0], plain[3]))
    context = torch.autocast(device, torch.float16) if lowered else contextlib.nullcontext()
    activation = activation.to(device) if isinstance(activation, torch.nn.Module) else activation
    layer = lambda x, residual: conv_transpose3d(x, *plain[1:3], 2, activation=activation, residual=residual,
                                                 backend=backend)
    with context:
        expected, y = layer(plain[0], plain[3]), layer(x, residual)
        with torch.no_grad():
            assert torch.equal(layer(x, residual).as_subclass(torch.Tensor), expected)
    assert type(y) is subclass and y.dtype == expected.dtype and torch.equal(y.as_subclass(torch.Tensor), expected)
    dy = torch.randn_like(expected)
    found = torch.autograd.grad(y, (x, *plain[1:3], residual), dy)
    for gradient, other in zip(found, torch.autograd.grad(expected, plain, dy)):
        assert torch.equal(gradient.as_subclass(torch.Tensor), other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_may_be_of_a_subclass(device, subclass, backend):
    plain = operands(device)[:3]
    ours = [in_subclass(t, subclass) for t in plain]
    second = []
    for tensors in (plain, ours):
        y = conv_transpose3d(*tensors, 2, activation="tanh", backend=backend)
        first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
        second.append(torch.autograd.grad(sum(g.square().sum() for g in first), tensors))
    for expected, found in zip(*second):
        torch.testing.assert_close(found.as_subclass(torch.Tensor), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_unbatched_and_out(device, subclass, backend):
    x, w, b, _ = (t.detach() for t in operands(device))
    expected = conv_transpose3d(x[0], w, b, 2, backend=backend)
    for kind in (subclass, torch.Tensor):
        buffer = in_subclass(torch.zeros(4, 2, 4, 2, device=device), kind)
        y = conv_transpose3d(in_subclass(x[0], subclass), w, b, 2, out=buffer[1:3], backend=backend)
        assert torch.equal(y.as_subclass(torch.Tensor), expected)
        assert torch.equal(buffer[1:3].as_subclass(torch.Tensor), expected) and not buffer[:1].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", ["x", "skip"])
def test_a_concatenation(device, subclass, which, backend):
    x, w, b, skip = operands(device)
    layer = lambda x, skip: conv_transpose3d(x, w, b, 2, activation="relu", concat=skip, backend=backend)
    expected = layer(x, skip)
    inputs = [in_subclass(t, subclass) if name == which else t for name, t in (("x", x), ("skip", skip))]
    y, dy = layer(*inputs), torch.randn_like(expected)
    assert type(y) is subclass and torch.equal(y.as_subclass(torch.Tensor), expected)
    for found, other in zip(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, (x, skip), dy)):
        assert torch.equal(found.as_subclass(torch.Tensor), other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensorflows_layer(device, subclass, backend):
    layer = Conv3DTranspose(2, 3, 2, "same", activation="relu", backend=backend)
    x = torch.randn(1, 1, 2, 2, 3, device=device)
    y = layer(in_subclass(x, subclass))
    assert type(y) is subclass and torch.equal(y.as_subclass(torch.Tensor), layer(x))


def dynunet():
    """The smallest of MONAI's that has two transposed convolutions."""
    nets = pytest.importorskip("monai.networks.nets")
    return nets.DynUNet(3, 1, 2, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[4, 8, 8])


def decoder():
    return torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3, 2, 1), torch.nn.ConvTranspose3d(2, 2, 2, 2), torch.nn.ReLU(),
                               torch.nn.ConvTranspose3d(2, 2, (1, 3, 3), 1, (0, 1, 1)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lowered", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("net", [decoder, dynunet])
def test_a_converted_network(device, subclass, net, lowered, backend):
    theirs = net().to(device)
    ours = copy.deepcopy(theirs)
    assert len(nn.convert(ours, backend=backend)) == 2
    x = torch.randn(1, 1, 4, 4, 8, device=device)  # so that two places are left where it is smallest
    y, expected = [], []
    for model, inputs, results in ((theirs, x, expected), (ours, in_subclass(x, subclass), y)):
        with torch.autocast(device, torch.float16, enabled=lowered):
            results.append(model(inputs))
        results[0].float().square().mean().backward()
        results.extend(p.grad for p in model.parameters())
    assert type(y[0]) is subclass
    tolerance = dict(rtol=2e-2, atol=2e-2) if lowered else dict(rtol=1e-4, atol=1e-5)
    for found, other in zip(y, expected):
        torch.testing.assert_close(found.as_subclass(torch.Tensor), other, **tolerance)
