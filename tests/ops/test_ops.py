"""The contract of the operators: schemas, fake results, autograd registration, vmap, autocast, `out`."""

import itertools

import pytest
import torch
from torch.library import opcheck

from triton_conv3dt import conv_transpose3d
from triton_conv3dt.launching import launch
from triton_conv3dt.ops import autograd

OPS = torch.ops.triton_conv3dt
GEOMETRY = ((2, 1, 2), (1, 0, -1), (1, 1, 1), 2, None)  # stride, padding, dilation, groups, precision
SHAPES = dict(x=(2, 2, 2, 2, 2), w=(2, 1, 2, 1, 2), b=(2,), residual=(2, 2, 2, 2, 3))
IN_SIZE, OUT_SIZE, KERNEL = SHAPES["x"][2:], SHAPES["residual"][2:], SHAPES["w"][2:]


def operand(name, device, channels_last=False, requires_grad=False):
    t = torch.randn(SHAPES[name], device=device)
    return (t.to(memory_format=torch.channels_last_3d) if channels_last else t).requires_grad_(requires_grad)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("activation, keep_pre", [(None, False), ("relu", False), ("silu", False), ("tanh", True)])
def test_the_contract_of_forward(device, channels_last, activation, keep_pre):
    x, w, residual = (operand(name, device, channels_last, True) for name in ("x", "w", "residual"))
    opcheck(OPS.forward, (x, w, operand("b", device, requires_grad=True), residual, OUT_SIZE, *GEOMETRY, activation, (),
                          keep_pre))
    opcheck(OPS.forward, (x.detach(), w.detach(), None, None, OUT_SIZE, *GEOMETRY, activation, (), keep_pre))


def test_the_contract_of_the_exported_operator(device):
    x, w, residual = (operand(name, device, requires_grad=True) for name in ("x", "w", "residual"))
    for concat in (None, torch.randn(2, 3, *OUT_SIZE, device=device, requires_grad=True)):
        opcheck(OPS.conv_transpose3d, (x, w, None, residual, concat, True, OUT_SIZE, *GEOMETRY, "silu", ()))


@pytest.mark.parametrize("concat_first, activation, keep_pre", [(False, "silu", True), (True, "tanh", False)])
def test_the_contract_of_forward_concat(device, concat_first, activation, keep_pre):
    x, w, b, residual = (operand(name, device, concat_first and name != "b", True) for name in SHAPES)
    concat = torch.randn(2, 3, *OUT_SIZE, device=device, dtype=torch.float16, requires_grad=True)
    opcheck(OPS.forward_concat, (x, w, b, residual, concat, concat_first, OUT_SIZE, *GEOMETRY, activation, (), keep_pre))


def test_the_contract_of_statistics_and_the_norm(device):
    x, w, b, residual = (operand(name, device, name != "b", True) for name in SHAPES)
    opcheck(OPS.forward_statistics, (x, w, b, residual, OUT_SIZE, *GEOMETRY, "silu", (), False, "batch"))
    opcheck(OPS.normalise, (residual, torch.zeros(2, 2, device=device), torch.ones(2, 2, device=device), b, None, 1e-5,
                            "tanh", ()))


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_contract_of_the_other_operators(device, channels_last):
    x, w, dz, saved = (operand(name, device, channels_last, True) for name in ("x", "w", "residual", "residual"))
    opcheck(OPS.grad_input, (dz, w, IN_SIZE, *GEOMETRY))
    opcheck(OPS.grad_weight, (x, dz, KERNEL, w.stride(), *GEOMETRY))
    opcheck(OPS.grad_bias, (dz,))
    for bias, kept, activation in ((True, None, None), (False, saved.detach(), "tanh")):
        opcheck(OPS.backward, (dz.detach(), x.detach(), w.detach(), kept, bias, w.stride(), *GEOMETRY, activation, ()))
    opcheck(OPS.activation_grad, (dz, saved, "tanh", ()))
    with torch.no_grad():
        out = torch.zeros(2, 5, *OUT_SIZE, device=device)[:, 1:3]
        opcheck(OPS.forward_out, (x.detach(), w.detach(), None, None, out, OUT_SIZE, *GEOMETRY, "relu", ()))


@pytest.mark.parametrize("size", [(2, 4, 3, 4, 5), (1, 1, 3, 4, 5), (2, 1, 1, 4, 1), (0, 4, 3, 1, 5), (1, 4, 1, 1, 1)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed", "expanded"])
def test_fake_results_have_the_strides_of_real_ones(device, size, layout):
    def lay_out(t):
        return {"contiguous": t, "channels_last": t.to(memory_format=torch.channels_last_3d), "sliced": t[..., 1:],
                "transposed": t.transpose(1, 4), "expanded": t[..., :1].expand(t.shape)}[layout]

    x = lay_out(torch.randn(size, device=device))
    w = torch.randn(x.shape[1], 2, 2, 2, 2, device=device)
    geometry = ((2, 2, 2), (0, 0, 0), (1, 1, 1), 1, None)
    dz = lay_out(torch.randn(x.shape[0], 2, *(2 * s for s in x.shape[2:]), device=device))
    out_size = tuple(2 * s for s in x.shape[2:])
    calls = [(OPS.forward, (x, w, None, None, out_size, *geometry, "silu", (), True)),
             (OPS.forward_concat, (x, w, None, None, dz[:, :1, :out_size[0], :out_size[1], :1].expand(-1, 3, *out_size), True,
                                   out_size, *geometry, "silu", (), True)),
             (OPS.activation_grad, (torch.randn(dz.shape, device=device), dz, "relu", ()))]
    if dz.shape[2:] == out_size:
        calls += [(OPS.grad_input, (dz, w, tuple(x.shape[2:]), *geometry)),
                  (OPS.grad_weight, (x, dz, (2, 2, 2), w.stride(), *geometry)),
                  (OPS.backward, (dz, x, w, None, True, w.stride(), *geometry, None, ()))]
    mode = torch._subclasses.FakeTensorMode()
    for operator, arguments in calls:
        real = operator(*arguments)
        with mode:
            fake = operator(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments))
        for r, f in zip(*((result if isinstance(result, tuple) else (result,)) for result in (real, fake))):
            assert r.shape == f.shape and r.stride() == f.stride() and r.dtype == f.dtype and r.device == f.device


def test_the_two_ways_to_an_operator_agree(device):
    """Past the dispatcher, and through it."""
    x, w, b, residual = (operand(name, device, requires_grad=True) for name in SHAPES)
    arguments = (x, w, b, residual, OUT_SIZE, *GEOMETRY, "silu", (), True)
    direct, dispatched = autograd.forward(*arguments), OPS.forward(*arguments)
    assert all(map(torch.equal, direct, dispatched))
    sums = [sum(t.pow(2).sum() for t in result) for result in (direct, dispatched)]
    assert all(map(torch.equal, *(torch.autograd.grad(s, (x, w, b, residual)) for s in sums)))


def test_what_must_see_the_operator_sees_it(device):
    x, w = operand("x", device), operand("w", device)

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function.name())
            return function(*args, **(kwargs or {}))

    names = []
    with Names():
        conv_transpose3d(x, w, groups=2, backend="triton")
    assert "triton_conv3dt::forward" in names
    with torch.profiler.profile() as profile:
        conv_transpose3d(x, w, groups=2, backend="triton")
    assert "triton_conv3dt::forward" in {event.key for event in profile.key_averages()}


def test_a_negated_view_is_read_as_what_it_means(device):
    w = operand("w", device)
    x = torch.randn(SHAPES["x"], device=device, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    torch.testing.assert_close(conv_transpose3d(x, w, groups=2, backend="triton"),
                               conv_transpose3d(x.resolve_neg(), w, groups=2, backend="triton"))


def each(function, dims, operands, i):
    return function(*(t if d is None else t.select(d, i) for t, d in zip(operands, dims)))


def check_vmap(function, dims, operands, batch=3):
    results = torch.vmap(function, dims)(*operands)
    for i in range(batch):
        torch.testing.assert_close(results[i], each(function, dims, operands, i))


def batched(name, device, dim, batch=3):
    return operand(name, device) if dim is None else torch.stack([operand(name, device) for _ in range(batch)], dim)


@pytest.mark.parametrize("dims", [d for d in itertools.product((None, 0, -1), repeat=2) if d != (None, None)], ids=str)
def test_vmap_over_either_operand(device, dims, no_loop):
    x, w, dz = (batched(name, device, dim) for name, dim in zip(("x", "w", "residual"), (*dims, dims[0])))
    check_vmap(lambda x, w: autograd.forward(x, w, None, None, OUT_SIZE, *GEOMETRY, "silu", (), False)[0], dims, (x, w))
    check_vmap(lambda dz, w: autograd.grad_input(dz, w, IN_SIZE, *GEOMETRY), dims, (dz, w))
    second = batched("residual", device, dims[1])
    check_vmap(lambda dy, y: autograd.activation_grad(dy, y, "tanh", ()), dims, (dz, second))
    x = batched("x", device, dims[1])
    strides = operand("w", device).stride()
    check_vmap(lambda dz, x: autograd.grad_weight(x, dz, KERNEL, strides, *GEOMETRY), dims, (dz, x))


@pytest.mark.parametrize("dims", [(0, None, None, 0), (None, None, 0, None), (None, None, None, 0), (0, 0, 0, 0)])
def test_vmap_with_an_epilogue(device, dims, no_loop):
    tensors = [batched(name, device, dim) for name, dim in zip(SHAPES, dims)]
    for i in (0, 1):
        check_vmap(lambda *t: autograd.forward(*t, OUT_SIZE, *GEOMETRY, "silu", (), True)[i], dims, tensors)
    check_vmap(autograd.grad_bias, (1,), (batched("residual", device, 1),))


def test_gradients_of_every_sample(device, no_loop):
    xs, w = batched("x", device, 0), operand("w", device)
    gradient = torch.func.grad(lambda w, x: conv_transpose3d(x, w, groups=2, activation="tanh", backend="triton").sum())
    check_vmap(gradient, (None, 0), (w, xs))


def test_autocast_of_the_operator_itself(device):
    x, w, b, residual = (operand(name, device) for name in SHAPES)
    arguments = (OUT_SIZE, *GEOMETRY, None, (), False)
    with torch.autocast(device, torch.float16):
        y, _ = OPS.forward(x, w, b, residual, *arguments)
        out = torch.empty_like(y)
        OPS.forward_out(x, w, b, residual, out, *arguments[:-1])
    expected, _ = OPS.forward(x.half(), w.half(), b.half(), residual.half(), *arguments)
    assert torch.equal(y, expected) and torch.equal(out, expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_out_may_be_a_slice_of_a_concatenation(device, channels_last):
    x, w, b = (operand(name, device, channels_last and name != "b") for name in ("x", "w", "b"))
    expected = conv_transpose3d(x, w, b, 2, groups=2, backend="torch")
    buffer = torch.full((2, 7, *expected.shape[2:]), 7.0, device=device)
    buffer = buffer.to(memory_format=torch.channels_last_3d) if channels_last else buffer
    view = buffer[:, 2:4]
    assert conv_transpose3d(x, w, b, 2, groups=2, out=view, backend="triton") is view
    torch.testing.assert_close(buffer[:, 2:4], expected)
    assert (buffer[:, :2] == 7).all() and (buffer[:, 4:] == 7).all()


def test_out_counts_as_written(device):
    x, w = operand("x", device), operand("w", device)
    out = torch.ones(2, 2, 3, 2, 3, device=device, requires_grad=True).sin()
    loss = out.sin()  # keeps out
    with torch.no_grad():
        conv_transpose3d(x, w, groups=2, out=out.detach(), backend="triton")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()
    with torch.inference_mode():
        conv_transpose3d(x, w, groups=2, out=torch.empty(2, 2, 3, 2, 3, device=device), backend="triton")


@pytest.mark.parametrize("which", ["x", "w", "b", "residual", "out"])
def test_out_has_no_derivatives(device, which):
    tensors = {name: operand(name, device, requires_grad=name == which) for name in SHAPES}
    out = operand("residual", device, requires_grad=which == "out")
    for call in (autograd.forward_out, OPS.forward_out):
        with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
            call(*tensors.values(), out, OUT_SIZE, *GEOMETRY, None, ())
        with torch.no_grad():
            call(*tensors.values(), out, OUT_SIZE, *GEOMETRY, None, ())


def test_out_may_lie_between_what_is_read_but_not_on_it(device):
    w = torch.randn(2, 2, 1, 1, 1, device=device)
    buffer = torch.randn(1, 6, 2, 3, 2, device=device)
    for channels_last in (False, True):
        buffer = buffer.to(memory_format=torch.channels_last_3d) if channels_last else buffer
        expected = conv_transpose3d(buffer[:, :2], w)
        conv_transpose3d(buffer[:, :2], w, out=buffer[:, 3:5], backend="triton")
        torch.testing.assert_close(buffer[:, 3:5], expected)
        for backend in ("triton", "torch"):
            with pytest.raises(RuntimeError, match="some elements of input and out"):
                conv_transpose3d(buffer[:, :2], w, out=buffer[:, 1:3], backend=backend)
            with pytest.raises(RuntimeError, match="some elements of residual and out"):
                conv_transpose3d(buffer[:, :2], w, residual=buffer[:, 3:5], out=buffer[:, 2:4], backend=backend)


def test_out_may_be_the_residual(device):
    x, w, b, _ = (operand(name, device) for name in SHAPES)
    residual = torch.randn(2, 2, 3, 2, 3, device=device)
    expected = conv_transpose3d(x, w, b, groups=2, residual=residual, activation="relu")
    conv_transpose3d(x, w, b, groups=2, residual=residual, out=residual, activation="relu", backend="triton")
    torch.testing.assert_close(residual, expected)


def test_a_device_without_kernels_is_refused_with_the_reason(device, monkeypatch):
    monkeypatch.setattr(launch, "unsupported", lambda x, w: "of the test")
    with pytest.raises(RuntimeError, match="triton_conv3dt::forward cannot run on .*: of the test"):
        OPS.forward(operand("x", device), operand("w", device), None, None, OUT_SIZE, *GEOMETRY, None, (), False)
