"""torch.compile takes whole functions with the layer in them, and the result is the eager one."""

import pytest
import torch

from triton_conv3dt import backends, conv_transpose3d, nn
from triton_conv3dt.functional import conv_transpose3d_sized

SIZES = ((2, 2, 2), (1, 3, 2), (3, 2, 4))


def plain(x, w, b):
    return conv_transpose3d(x, w, b, 2, 1, 1, backend=BACKEND)


def channels_last(x, w, b):
    return conv_transpose3d(x.to(memory_format=torch.channels_last_3d), w, b, 2, activation=("leaky_relu", 0.2),
                            backend=BACKEND)


def from_the_pre_activation(x, w, b):
    return conv_transpose3d(x, w, b, (1, 2, 1), activation="silu", residual=x.new_ones(1).expand(
        x.shape[0], 2, x.shape[2] + 1, 2 * x.shape[3], x.shape[4] + 1), backend=BACKEND)


def a_callable(x, w, b):
    return conv_transpose3d(x, w, b, activation=lambda z: z.sigmoid() * 2, backend=BACKEND)


def unbatched(x, w, b):
    return conv_transpose3d(x[0], w, b, 2, backend=BACKEND)


def sized(x, w, b):
    out_size = tuple(2 * s for s in x.shape[2:])
    return conv_transpose3d_sized(x, w, b, stride=2, padding=(0, 1, 0), out_size=out_size, backend=BACKEND)


def autocast(x, w, b):
    with torch.autocast(x.device.type, torch.float16):
        return conv_transpose3d(x, w, b, 2, activation="relu", backend=BACKEND)


def compiled(function, dynamic):
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=dynamic)


@pytest.fixture(autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setitem(globals(), "BACKEND", getattr(request, "param", "triton"))


FUNCTIONS = plain, channels_last, from_the_pre_activation, a_callable, unbatched, sized, autocast


@pytest.mark.parametrize("function, backend, dynamic", [
    *((function, "triton", True) for function in FUNCTIONS), *((function, "torch", True) for function in FUNCTIONS),
    (from_the_pre_activation, "triton", False)], indirect=["backend"])
def test_results_and_gradients_are_the_eager_ones(device, function, dynamic):
    fast = compiled(function, dynamic)
    for size in SIZES:
        shapes = (2, 2, *size), (2, 2, 2, 2, 2), (2,)
        operands = [torch.randn(s, device=device, requires_grad=True) for s in shapes]
        expected, y = function(*operands), fast(*operands)
        assert torch.equal(y, expected) and y.stride() == expected.stride() and y.dtype == expected.dtype
        dy = torch.randn_like(y)
        for found, gradient in zip(torch.autograd.grad(y, operands, dy), torch.autograd.grad(expected, operands, dy)):
            torch.testing.assert_close(found, gradient)
            assert found.stride() == gradient.stride()


@pytest.mark.parametrize("dynamic", [False, True])
def test_out_is_written_in_a_graph(device, dynamic):
    def concatenated(x, w, b):
        buffer = torch.zeros(x.shape[0], 5, *(2 * s for s in x.shape[2:]), device=x.device)
        conv_transpose3d(x, w, b, 2, activation="relu", out=buffer[:, 1:3], backend=BACKEND)
        return buffer + 1

    fast = compiled(concatenated, dynamic)
    for size in SIZES:
        operands = [torch.randn(s, device=device) for s in ((2, 2, *size), (2, 2, 2, 2, 2), (2,))]
        assert torch.equal(fast(*operands), concatenated(*operands))


@pytest.mark.parametrize("activation", ["relu", torch.nn.LeakyReLU(0.2), torch.nn.PReLU()], ids=str)
def test_the_module(device, activation):
    module = nn.ConvTranspose3d(2, 3, 2, 2, activation=activation, backend=BACKEND, device=device)
    fast, x = compiled(module, None), torch.randn(1, 2, 2, 3, 2, device=device)
    assert torch.equal(fast(x), module(x)) and torch.equal(fast(x, (5, 6, 4)), module(x, (5, 6, 4)))


def test_a_fallback_warns_while_it_is_compiled(monkeypatch):
    monkeypatch.setattr(backends, "_warned", set())
    fast = compiled(lambda: backends._fall_back("of the test"), None)
    with pytest.warns(UserWarning, match="falls back to PyTorch: of the test"):
        fast()


def test_export_with_a_dynamic_size(device):
    module = nn.ConvTranspose3d(2, 3, 2, 2, activation="silu", backend=BACKEND, device=device)
    x = torch.randn(2, 2, 2, 3, 2, device=device)
    sizes = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(module, (x,), dynamic_shapes=sizes).module()
    x = torch.randn(3, 2, 4, 3, 2, device=device)
    assert torch.equal(exported(x), module(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace(device):
    module = nn.ConvTranspose3d(2, 3, 2, 2, activation="silu", backend=BACKEND, device=device)
    x = torch.randn(2, 2, 2, 3, 2, device=device)
    traced = torch.jit.trace(module, (x,))
    assert torch.equal(traced(x), module(x))
