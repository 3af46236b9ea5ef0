"""PyTorch's operators on a CPU: fp16 and bf16 go through fp32 where that is faster, and nothing else changes."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from triton_conv3dt import conv_transpose3d
from triton_conv3dt.ops import composite

HALF = (torch.float16, torch.bfloat16)


class Products(TorchDispatchMode):
    """Notes the dtypes in which convolutions are computed, forward and backward."""

    def __enter__(self):
        self.dtypes = set()
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "convolution" in function.name():
            self.dtypes.add(args[0].dtype)
        return function(*args, **kwargs or {})


def operands(dtype, ci=4, co=4, groups=1, grad=False):
    generator = torch.Generator().manual_seed(1)
    shapes = (2, ci, 3, 2, 4), (ci, co // groups, 2, 2, 2), (co,), (2, co, 6, 4, 8)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for shape in shapes]


def layer(x, w, b, residual, groups=1):
    return conv_transpose3d(x, w, b, 2, groups=groups, residual=residual, activation="silu", backend="torch")


@pytest.mark.parametrize("ci, co, groups, native, wide", [
    (16, 32, 1, True, False), (15, 32, 1, True, True), (32, 15, 1, True, True), (64, 64, 2, True, False),
    (64, 32, 2, True, True), (32, 32, 32, True, True), (16, 32, 1, False, True)])
@pytest.mark.parametrize("dtype", HALF)
def test_what_is_computed_in_fp32(monkeypatch, dtype, ci, co, groups, native, wide):
    monkeypatch.setattr(composite, "_native", lambda asked: native)
    x, w, b, residual = operands(dtype, ci, co, groups, grad=True)
    with Products() as products:
        y = layer(x, w, b, residual, groups)
        y.sum().backward()
    assert products.dtypes == {torch.float32 if wide else dtype}
    assert {t.dtype for t in (y, x.grad, w.grad, b.grad, residual.grad)} == {dtype}


def test_what_oneDNN_multiplies(monkeypatch):
    for dtype in HALF:
        name = f"{str(dtype).removeprefix('torch.')}_on_cpu"
        for supported in (True, False):
            monkeypatch.setattr(composite.internals, name, lambda: supported)
            for enabled in (True, False):
                monkeypatch.setattr(torch.backends.mkldnn, "enabled", enabled)
                assert composite._native(dtype) == (supported and enabled)


@pytest.mark.parametrize("dtype", HALF)
def test_it_is_rounded_once(dtype):
    """At least as accurate as PyTorch, results and gradients; fp64 with the operands as they are is the measure."""
    tensors, errors = operands(dtype, grad=True), {}
    exact = [t.detach().double().requires_grad_() for t in tensors]
    plain = lambda x, w, b, residual: F.silu(F.conv_transpose3d(x, w, b, 2) + residual)
    expected = [z := plain(*exact), *torch.autograd.grad(z, exact, z.detach().to(dtype).double())]
    for name, function in {"ours": layer, "pytorch": plain}.items():
        y = function(*tensors)
        found = [y, *torch.autograd.grad(y, tensors, expected[0].detach().to(dtype))]
        errors[name] = [float((a.double() - e).detach().abs().max()) for a, e in zip(found, expected)]
    assert torch.equal(layer(*tensors), expected[0].to(dtype))
    assert all(a <= b for a, b in zip(errors["ours"], errors["pytorch"])), errors


def test_autocast_does_not_cast_back():
    tensors = operands(torch.float32)
    with torch.autocast("cpu", torch.float16), Products() as products:
        y = layer(*tensors)
    assert products.dtypes == {torch.float32} and y.dtype == torch.float16
    assert torch.equal(y, layer(*(t.half() for t in tensors)))


def test_it_compiles_and_has_every_derivative():
    tensors = operands(torch.float16, grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)(*tensors)
    eager = layer(*tensors)
    assert torch.equal(compiled, eager)
    for a, b in zip(torch.autograd.grad(compiled.sum(), tensors), torch.autograd.grad(eager.sum(), tensors)):
        assert torch.equal(a, b)
    first, = torch.autograd.grad(layer(*tensors).float().pow(2).sum(), tensors[1], create_graph=True)
    second, = torch.autograd.grad(first.sum(), tensors[0])
    _, tangent = torch.func.jvp(layer, tuple(tensors), tuple(map(torch.ones_like, tensors)))
    assert second.dtype == tangent.dtype == torch.float16 and second.isfinite().all() and tangent.any()


def test_programs_that_run_elsewhere_keep_their_dtype():
    class Net(torch.nn.Module):
        def forward(self, x, w, b):
            return conv_transpose3d(x, w, b, 2, backend="torch")

    tensors = tuple(operands(torch.float16)[:3])
    exported = torch.export.export(Net(), tensors)
    traced = torch.jit.trace(Net(), tensors, check_trace=False).inlined_graph
    assert [node.target for node in exported.graph.nodes if node.op == "call_function"] == [
        torch.ops.aten.conv_transpose3d.input]
    assert traced.findNode("aten::_convolution") and not traced.findNode("aten::to")
