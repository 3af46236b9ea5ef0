"""concat=: the result of the layer and a skip connection in one tensor, whatever they are, and its derivatives."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from triton_conv3dt import conv_transpose3d, nn
from triton_conv3dt.functional import conv_transpose3d_sized
from triton_conv3dt.launching import launch

LAST = torch.channels_last_3d
FORMATS = dict(channels_first=torch.contiguous_format, channels_last=LAST)
STRIDE = (1, 1, 2)
each_order = pytest.mark.parametrize("concat_first", [False, True], ids=["layer first", "skip first"])
each_backend = pytest.mark.parametrize("backend", ["triton", "torch"])


def operands(device, dtype=torch.float32, n=1, others=3, requires_grad=False, width=2):
    """x, w, b and a skip of others channels: small integers."""
    shapes = (n, 2, 1, 1, width), (2, 2, 1, 1, 2), (2,), (n, others, 1, 1, 2 * width)
    return [torch.randint(-3, 4, s, device=device).to(dtype).requires_grad_(requires_grad) for s in shapes]


def together(y, concat, concat_first):
    return torch.cat((concat, y) if concat_first else (y, concat), -4)


def layer(concat_first=False, backend="triton", **given):
    """The call with a skip, and the layer with torch.cat after it, as functions of the operands."""
    arguments = dict(stride=STRIDE, backend=backend) | given

    def ours(x, w, b, concat):
        return conv_transpose3d(x, w, b, concat=concat, concat_first=concat_first, **arguments)

    def theirs(x, w, b, concat):
        return together(conv_transpose3d(x, w, b, **arguments), concat, concat_first)

    return ours, theirs


@pytest.fixture
def launched(monkeypatch):
    """Of every forward with something to concatenate: the result's shape, and whether a pre-activation was kept."""
    found, forward = [], launch.forward

    def recorded(*args):
        y, pre = forward(*args)
        found.extend([(y.shape, pre is not None)] if len(args) > 15 and args[15] is not None else [])
        return y, pre

    monkeypatch.setattr(launch, "forward", recorded)
    return found


@each_order
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("n, dtype", [(2, torch.float16), (1, torch.float64)])
def test_the_bits_are_those_of_a_concatenation(device, memory_format, concat_first, n, dtype, launched):
    x, w, b, concat = operands(device, dtype, n, requires_grad=True)
    x = x.detach().contiguous(memory_format=memory_format).requires_grad_()
    ours, theirs = layer(concat_first, activation="relu")
    y, expected = ours(x, w, b, concat), theirs(x, w, b, concat)
    assert torch.equal(y, expected) and y.dtype == dtype and y.is_contiguous(memory_format=memory_format)
    assert launched == [(expected.shape, False)] and y._base is None
    dy = torch.randint_like(y, -3, 4)
    found = torch.autograd.grad(y, (x, w, b, concat), dy)
    assert all(map(torch.equal, found, torch.autograd.grad(expected, (x, w, b, concat), dy)))
    assert found[3]._base is dy  # a view
    assert torch.equal(expected, conv_transpose3d_sized(
        x, w, b, stride=STRIDE, padding=0, out_size=y.shape[2:], activation="relu", concat=concat,
        concat_first=concat_first, backend="triton"))


SKIPS = {
    "channels_last": lambda t: t.contiguous(memory_format=LAST),
    "a slice": lambda t: torch.stack((t, t), -1)[..., 1],
    "misaligned": lambda t: torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape),
    "expanded": lambda t: t[:, :, :, :, :1].expand(t.shape),
    "transposed": lambda t: t.transpose(1, 4).contiguous().transpose(1, 4),
    "no channels": lambda t: t[:, :0],
    "a narrower type": lambda t: t.half(),
    "integers": lambda t: t.long(),
    "a wider type": lambda t: t.double() + 1e-12,
    "complex": lambda t: t.cfloat(),
}


@each_order
@pytest.mark.parametrize("skip", SKIPS.values(), ids=SKIPS)
def test_any_skip(device, skip, concat_first):
    x, w, b, concat = operands(device, n=2)
    concat = skip(concat).detach()
    differentiable = [t.requires_grad_() for t in (x, w, concat) if not t.dtype == torch.long]
    ours, theirs = layer(concat_first, activation="tanh")
    y, expected = ours(x, w, b, concat), theirs(x, w, b, concat)
    assert y.dtype == expected.dtype and torch.equal(y, expected)
    dy = torch.randint_like(y.real, -3, 4).to(y.dtype)
    gradients = [torch.autograd.grad(result, differentiable, dy) for result in (y, expected)]
    for found, wanted in zip(*gradients):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)


@each_order
@each_backend
def test_unbatched_and_empty_batches(device, backend, concat_first):
    x, w, b, concat = operands(device, requires_grad=True)
    ours, theirs = layer(concat_first, backend, activation="relu")
    assert torch.equal(ours(x[0], w, b, concat[0]), theirs(x[0], w, b, concat[0]))
    y = ours(x[:0], w, b, concat[:0])
    assert y.shape == (0, 5, 1, 1, 4) and not torch.autograd.grad(y.sum(), w)[0].any()


@each_order
@pytest.mark.parametrize("activation", ["silu", torch.tanh, torch.nn.PReLU()], ids=["fused", "function", "module"])
def test_an_activation_is_applied_to_the_layer_alone(device, activation, concat_first):
    """Fused, with what its derivative needs kept; or called, and then the skip is concatenated."""
    activation = activation.to(device) if isinstance(activation, torch.nn.Module) else activation
    x, w, b, concat = operands(device, n=2, requires_grad=True)
    residual = torch.randint_like(concat[:, :2], -3, 4).requires_grad_()
    ours, theirs = layer(concat_first, activation=activation, residual=residual)
    y, expected = ours(x, w, b, concat), theirs(x, w, b, concat)
    assert torch.equal(y, expected)
    inputs, dy = (x, w, b, concat, residual), torch.randint_like(y, -3, 4)
    torch.testing.assert_close(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, inputs, dy))


@pytest.mark.parametrize("activation, backend, concat_first", [
    (activation, "torch", first) for activation in (None, "tanh", "silu") for first in (False, True)]
    + [("tanh", "triton", False), ("silu", "triton", True)])
def test_derivatives_of_every_order(device, activation, backend, concat_first):
    inputs = [(t / 4).requires_grad_() for t in operands(device, torch.float64, others=1, width=1)]
    ours, _ = layer(concat_first, backend, activation=activation)
    gradcheck(ours, inputs, fast_mode=True, check_forward_ad=True, check_batched_grad=backend == "triton")
    if backend == "torch" or activation == "silu":
        gradgradcheck(ours, inputs, fast_mode=True, check_fwd_over_rev=backend == "torch")


@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_only_what_is_asked_for_is_computed_and_kept(device, activation, launched, monkeypatch):
    names = []
    for name in ("grad_input", "grad_weight", "make_dz", "backward"):
        monkeypatch.setattr(launch, name, lambda *args, name=name, **kwargs: names.append(name))
    x, w, b, concat = operands(device)
    concat.requires_grad_()
    ours, _ = layer(activation=activation)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = ours(x, w, b, concat)
    assert torch.equal(torch.autograd.grad(y, concat, y)[0], concat) and not names and not saved
    assert launched == [(y.shape, False)]


@each_backend
@pytest.mark.parametrize("which", range(4), ids=("x", "w", "b", "skip"))
def test_forward_mode_with_one_tangent(device, backend, which):
    inputs = operands(device)
    ours, theirs = layer(which > 1, backend, activation=("tanh", "silu")[which % 2])
    with forward_ad.dual_level():
        inputs[which] = forward_ad.make_dual(inputs[which], torch.ones_like(inputs[which]))
        found, expected = (forward_ad.unpack_dual(call(*inputs)).tangent for call in (ours, theirs))
    torch.testing.assert_close(found, expected)


@each_order
def test_the_transforms_of_torch_func(device, concat_first, no_loop):
    inputs = operands(device)
    ours, theirs = layer(concat_first, activation="tanh")
    loss = lambda call: lambda *t: call(*t).pow(2).sum()
    close = torch.testing.assert_close
    each = lambda call: torch.func.grad(loss(call), (0, 1, 3))(*inputs)
    close(each(ours), each(theirs))
    gradient = lambda call: torch.func.grad(lambda skip: loss(call)(*inputs[:3], skip))
    close(*(torch.func.jvp(gradient(call), tuple(inputs[3:]), tuple(inputs[3:])) for call in (ours, theirs)))


@pytest.mark.parametrize("dims", [(0, None, None, 1), (None, 0, None, None), (None, None, None, 0), (0,) * 4], ids=str)
@each_order
def test_vmap(device, dims, concat_first, no_loop):
    many = [t if d is None else torch.stack((t, t + 1, 2 * t), d) for t, d in zip(operands(device), dims)]
    ours, theirs = layer(concat_first, activation="silu")
    torch.testing.assert_close(torch.vmap(ours, dims)(*many), torch.vmap(theirs, dims)(*many))
    gradient = lambda call: torch.vmap(torch.func.grad(lambda *t: call(*t).pow(2).sum(), 3), dims)(*many)
    torch.testing.assert_close(gradient(ours), gradient(theirs))


@pytest.mark.parametrize("backend, lower", [("triton", torch.float16), ("torch", torch.bfloat16)])
@pytest.mark.parametrize("skip", ["lower", torch.float32, torch.float64, torch.int32])
def test_autocast_promotes_as_for_a_concatenation(device, backend, lower, skip, launched):
    x, w, b, concat = operands(device)
    concat = concat.to(lower if skip == "lower" else skip)
    ours, theirs = layer(backend=backend, activation="relu")
    with torch.autocast(device, lower):
        y, expected = ours(x, w, b, concat), theirs(x, w, b, concat)
    assert y.dtype == expected.dtype and torch.equal(y, expected)
    assert len(launched) == (backend == "triton" and skip in ("lower", torch.int32))


@each_order
@each_backend
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_out_has_both(device, backend, memory_format, concat_first):
    x, w, b, concat = operands(device, n=2)
    ours, theirs = layer(concat_first, backend, activation="relu")
    expected = theirs(x, w, b, concat)
    buffer = torch.full((2, 9, 1, 1, 4), 7.0, device=device).contiguous(memory_format=memory_format)
    out = buffer[:, 2:7]
    given = dict(stride=STRIDE, activation="relu", concat_first=concat_first, backend=backend)
    for skip in (concat, concat.long(), out[:, :3] if concat_first else out[:, 2:]):  # the last is where it belongs
        out[:, 2:4].fill_(torch.nan) if skip is concat else None
        assert conv_transpose3d(x, w, b, concat=skip, out=out, **given) is out
        assert torch.equal(out, expected) and (buffer[:, :2] == 7).all() and (buffer[:, 7:] == 7).all()
    with pytest.raises(RuntimeError, match="some elements of concat and out refer to a single place"):
        conv_transpose3d(x, w, b, concat=out[:, 1:4], out=out, **given)
    residual = out[:, 3:] if concat_first else out[:, :2]
    before = residual.clone()
    conv_transpose3d(x, w, b, concat=concat, residual=residual, out=out, **given)
    alone = conv_transpose3d(x, w, b, STRIDE, activation="relu", residual=before)
    assert torch.equal(out, together(alone, concat, concat_first))
    with pytest.raises(RuntimeError, match="some elements of residual and out refer to a single place"):
        conv_transpose3d(x, w, b, concat=concat, residual=out[:, 2:4], out=out, **given)
    unbatched = torch.empty_like(out[0])
    conv_transpose3d(x[0], w, b, concat=concat[0], out=unbatched, **given)
    assert torch.equal(unbatched, expected[0])
    wide = torch.empty_like(out, dtype=torch.float64)
    conv_transpose3d(x, w, b, concat=concat.double(), out=wide, **given)
    assert torch.equal(wide, expected.double())


X, W = torch.ones(2, 4, 2, 2, 2), torch.ones(4, 3, 2, 2, 2)
SKIP, OUT = torch.ones(2, 5, 4, 4, 4), torch.empty(2, 8, 4, 4, 4)


@each_backend
@pytest.mark.parametrize("arguments, error, phrase", [
    (dict(concat=SKIP[..., :3]), RuntimeError, r"expected concat to have the shape of the layer's result, but for its "
     r"channels, \[2, 5, 4, 4, 4\], received \[2, 5, 4, 4, 3\].*crop or pad it"),
    (dict(concat=SKIP[:1]), RuntimeError, r"expected concat .* \[2, 5, 4, 4, 4\], received \[1, 5, 4, 4, 4\]"),
    (dict(concat=SKIP[0]), RuntimeError, r"expected concat .* \[2, any, 4, 4, 4\], received \[5, 4, 4, 4\]"),
    (dict(concat=SKIP.to("meta")), RuntimeError, "input is on cpu and concat is on meta"),
    (dict(concat=1.0), TypeError, "'concat' must be Tensor or None, not float"),
    (dict(concat=[SKIP]), TypeError, "'concat' must be Tensor or None, not list"),
    (dict(concat=SKIP, concat_first=SKIP), TypeError, "'concat_first' must be True or False, not Tensor"),
    (dict(concat=SKIP, concat_first=1), TypeError, "'concat_first' must be True or False, not int"),
    (dict(concat=SKIP, residual=OUT), RuntimeError, r"residual .* \[2, 3, 4, 4, 4\], received \[2, 8, 4, 4, 4\]"),
    (dict(concat=SKIP, out=OUT[:, :3]), RuntimeError, r"out to have the shape of the result, 3 channels of the "
     r"layer and 5 of concat, \[2, 8, 4, 4, 4\], received \[2, 3, 4, 4, 4\]"),
    (dict(concat=SKIP.double(), out=OUT), RuntimeError, "out has dtype torch.float32: it should be torch.float64"),
    (dict(concat=SKIP, out=OUT.double()), RuntimeError, "input has dtype torch.float32 and out has dtype"),
    (dict(concat=SKIP.clone().requires_grad_(), out=OUT), RuntimeError, "don't support automatic diff"),
])
def test_refusals(backend, arguments, error, phrase):
    conv_transpose3d(X, W, stride=2, concat=SKIP, concat_first=True, backend="torch")  # 1 is an equal key, and refused
    with pytest.raises(error, match=phrase):
        conv_transpose3d(X, W, stride=2, backend=backend, **arguments)


def compiled(function, dynamic):
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=dynamic)


@pytest.mark.parametrize("activation, lower, backend, dynamic", [
    ("silu", False, "triton", True), ("relu", True, "triton", False), ("relu", True, "torch", True)])
def test_compiled_whole(device, activation, lower, backend, dynamic):
    def step(x, w, b, concat):
        with torch.autocast(device, torch.float16 if backend == "triton" else torch.bfloat16, enabled=lower):
            x = x.contiguous(memory_format=LAST)
            return conv_transpose3d(x, w, b, STRIDE, activation=activation, concat=concat, concat_first=dynamic,
                                    backend=backend)

    fast = compiled(step, dynamic)
    for n, width in ((2, 2), (3, 4)):
        inputs = operands(device, n=n, width=width, requires_grad=True)
        y, expected = fast(*inputs), step(*inputs)
        assert torch.equal(y, expected) and y.stride() == expected.stride() and y.dtype == expected.dtype
        dy = torch.randint_like(y, -3, 4)
        for found, wanted in zip(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, inputs, dy)):
            torch.testing.assert_close(found, wanted)
            assert found.stride() == wanted.stride() or found.numel() == 0


@each_backend
def test_out_in_a_graph(device, backend):
    def into(x, w, b, concat):
        out = x.new_zeros(x.shape[0], 5, 1, 1, 2 * x.shape[4])
        return conv_transpose3d(x, w, b, STRIDE, concat=concat, out=out, backend=backend) + 1

    inputs = operands(device)
    assert torch.equal(compiled(into, True)(*inputs), into(*inputs))


class Up(torch.nn.Module):
    def __init__(self, device, backend):
        super().__init__()
        self.up = nn.ConvTranspose3d(2, 2, (1, 1, 2), STRIDE, activation="relu", backend=backend, device=device)

    def forward(self, x, skip):
        return self.up(x, concat=skip, concat_first=True)


@each_backend
def test_the_module_and_its_export(device, backend):
    module, (x, _, _, concat) = Up(device, backend), operands(device, n=2)
    expected = torch.cat((concat, module.up(x)), 1)
    assert torch.equal(module(x, concat), expected)
    dynamic = {0: torch.export.Dim.DYNAMIC, 4: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(module, (x, concat.half()), dynamic_shapes=(dynamic, dynamic))
    assert "promote" not in str(exported.graph)  # which other tools would not know
    called = {str(node.target) for node in exported.run_decompositions().graph.nodes if node.op == "call_function"}
    assert {"aten.convolution.default", "aten.cat.default"} < called and not [n for n in called if "triton" in n]
    x, _, _, concat = operands(device, n=3, width=4)
    assert torch.equal(exported.module()(x, concat.half()), module(x, concat))
