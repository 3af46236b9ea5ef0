"""Programs that leave Python: exported, decomposed, traced, as ONNX. They hold the layer as one operator that runs the
kernels, and PyTorch's own convolution where somebody asks for that."""

import io
import types

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from triton_conv3dt import backends, conv_transpose3d, conv_transpose3d_sized, nn, tf

OURS, PYTORCHS = torch.ops.triton_conv3dt, torch.ops.aten


class Launched(TorchDispatchMode):
    """Notes which operators run, but for those that say how a tensor lies."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **kwargs or {})


class UNet(torch.nn.Module):
    """Down and up once, with a skip connection."""

    def __init__(self, backend):
        super().__init__()
        self.first, self.down = torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, 4, 2, 2)
        self.up = nn.ConvTranspose3d(4, 4, 2, 2, activation="leaky_relu", backend=backend)
        self.last = nn.ConvTranspose3d(8, 2, (1, 1, 2), (1, 1, 2), groups=2, backend=backend)

    def forward(self, x):
        skip = self.first(x).relu()
        return self.last(self.up(self.down(skip), concat=skip))


class Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.w, self.b = torch.nn.Parameter(torch.randn(2, 3, 2, 2, 2)), torch.nn.Parameter(torch.randn(3))

    def forward(self, x):
        return self.function(x, self.w, self.b)


def written(x, w, b):
    y = x.new_zeros(x.shape[0], 5, *(2 * s for s in x.shape[2:]))
    conv_transpose3d(x, w.detach(), b.detach(), 2, concat=y[:, :1] + 1, out=y[:, 1:5], backend="triton")
    return y


# Each may follow the layer in another way, or is another way to it.
FUNCTIONS = {
    "residual": lambda x, w, b: conv_transpose3d(x, w, b, 2, activation="silu", residual=x.new_ones(1).expand(
        x.shape[0], 3, *(2 * s for s in x.shape[2:])), backend="triton"),
    "callable": lambda x, w, b: conv_transpose3d(x, w, b, 2, activation=lambda z: z.sigmoid() * 2, backend="triton"),
    "concat": lambda x, w, b: conv_transpose3d(x[0], w, b, 2, activation=torch.relu, concat_first=True, backend="triton",
                                               concat=x.new_ones(1).expand(1, *(2 * s for s in x.shape[2:]))),
    "unbatched": lambda x, w, b: conv_transpose3d(x[0], w, b, 2, backend="triton"),
    "crop": lambda x, w, b: conv_transpose3d_sized(x, w, b, out_size=[2 * s for s in x.shape[2:]], stride=2,
                                                   padding=(0, 1, -1), activation="relu", backend="triton"),
    "tensorflow": lambda x, w, b: tf.conv3d_transpose(x.permute(0, 2, 3, 4, 1), w.permute(2, 3, 4, 1, 0), [
        x.shape[0], *(2 * s for s in x.shape[2:]), 3], strides=2, backend="triton"),
    "out": written,
}


def x_of(n=2, channels=1):
    return torch.randn(n, channels, 2, 4, 2)


def targets(program) -> set:
    return {node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("backend", ["triton", "auto"])
def test_a_decomposed_program_holds_pytorchs_convolution(backend, strict):
    net, x = UNet(backend), x_of()
    sizes = ({0: torch.export.Dim.DYNAMIC, 3: 2 * torch.export.Dim("half", min=2, max=8)},)
    exported = torch.export.export(net, (x,), strict=strict, dynamic_shapes=sizes)
    assert (OURS.conv_transpose3d.default in targets(exported)) == (backend == "triton")
    decomposed = exported.run_decompositions()
    assert not {op for op in targets(decomposed) if op.namespace != "aten"}
    convolutions = [node for node in decomposed.graph.nodes if node.target is PYTORCHS.convolution.default]
    assert [node.args[6] for node in convolutions] == [False, False, True, True], "transposed"
    expected = UNet("torch")
    expected.load_state_dict(net.state_dict())
    for size in ((3, 1, 2, 4, 2), (2, 1, 2, 6, 2)):
        x = torch.randn(size)
        torch.testing.assert_close(decomposed.module()(x), expected(x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_whatever_follows_the_layer_is_decomposed(name):
    net, x = Function(FUNCTIONS[name]), x_of(channels=2)
    decomposed = torch.export.export(net, (x,)).run_decompositions()
    assert PYTORCHS.convolution.default in targets(decomposed)
    assert not {op for op in targets(decomposed) if op.namespace != "aten"}
    torch.testing.assert_close(decomposed.module()(x), net(x))


def test_an_exported_program_runs_the_kernels():
    """So do its derivatives, after it was saved and loaded, and what the compiler makes of it."""
    net, x = UNet("triton"), x_of(1)
    file = io.BytesIO()
    torch.export.save(torch.export.export(net, (x,)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with Launched() as launched:
        y = loaded(x)
        y.sum().backward()
    assert [launched.names.count(f"triton_conv3dt::{name}") for name in ("forward_concat", "forward", "backward")] == [1, 1, 2]
    assert torch.equal(y, net(x))
    net(x).sum().backward()
    for (name, a), b in zip(net.named_parameters(), loaded.parameters()):
        assert torch.equal(a.grad, b.grad), name
    graphs = []
    torch._dynamo.reset()
    compiler = aot_autograd(fw_compiler=lambda graph, _: graphs.append(graph) or make_boxed_func(graph.forward))
    with torch.no_grad():
        assert torch.equal(torch.compile(loaded, backend=compiler, fullgraph=True)(x), y)
    assert {OURS.forward_concat.default, OURS.forward.default} <= {node.target for node in graphs[0].graph.nodes}


def test_whoever_decomposes_may_keep_the_operator():
    exported = torch.export.export(UNet("triton"), (x_of(),))
    table = torch.export.default_decompositions()
    del table[OURS.conv_transpose3d.default]
    assert OURS.conv_transpose3d.default in targets(exported.run_decompositions(table))


def onnx_result(program, x):
    session = pytest.importorskip("onnxruntime").InferenceSession(program.model_proto.SerializeToString())
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def test_onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    net, x = UNet("triton").eval(), x_of()
    program = torch.onnx.export(net, (x,), dynamo=True, verbose=False)
    assert [node.op_type for node in program.model.graph].count("ConvTranspose") == 2
    torch.testing.assert_close(onnx_result(program, x), net(x).detach(), rtol=1e-4, atol=1e-5)


def test_a_converted_dynunet_as_onnx():
    for package in ("onnx", "onnxscript", "onnxruntime", "monai"):
        pytest.importorskip(package)
    from monai.networks.nets import DynUNet

    net = DynUNet(3, 1, 2, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[2, 4, 8])
    net, x = net.eval(), torch.randn(1, 1, 8, 8, 8)
    expected = net(x).detach()
    assert len(nn.convert(net, backend="triton")) == 2
    program = torch.onnx.export(net, (x,), dynamo=True, verbose=False)
    assert [node.op_type for node in program.model.graph].count("ConvTranspose") == 2
    torch.testing.assert_close(onnx_result(program, x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend, tracing, triton", [
    ("auto", False, True), ("auto", True, False), ("triton", True, True)])
def test_a_trace_on_a_gpu_holds_pytorchs_operators(monkeypatch, backend, tracing, triton):
    monkeypatch.setattr(backends, "unsupported", lambda x, w: None)
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: tracing)
    x = types.SimpleNamespace(device=torch.device("cuda"))
    assert backends.takes_triton(backend, x, None) is triton


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("backend, ours", [("triton", True), ("auto", False)])
def test_a_trace_is_saved_and_runs(backend, ours):
    net, x, file = UNet(backend), x_of(1), io.BytesIO()
    expected = net(x)  # a call that is remembered, before it is traced
    traced = torch.jit.trace(net, x, check_trace=False)
    assert (traced.inlined_graph.findNode("triton_conv3dt::forward") is not None) is ours
    torch.jit.save(traced, file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(x), expected)
