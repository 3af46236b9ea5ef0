"""A model with one layer and whatever follows it, compiled, and what is left of its graph beside our calls."""

import copy
import operator

import torch
import torch.nn.functional as F
from torch import nn

from triton_conv3dt import fusing
from triton_conv3dt.fusing.graph import CALLS

OURS = CALLS
OF_TUPLES = ("folded", "forward", "tag_activation_checkpoint")  # what gives several results
X, SKIP = (2, 4, 2, 3, 2), (2, 3, 4, 6, 4)


class Up(nn.Module):
    """A layer with parameters for what may follow it; `follow(self, y, skip)` says what does."""

    def __init__(self, follow, layer=None):
        super().__init__()
        self.layer = layer or nn.ConvTranspose3d(4, 3, 2, stride=2)
        self.norm, self.instance = nn.BatchNorm3d(3), nn.InstanceNorm3d(3, affine=True, track_running_stats=True)
        self.prelu, self.dropout, self.inplace = nn.PReLU(), nn.Dropout3d(0.5), nn.ReLU(inplace=True)
        for norm in (self.norm, self.instance):
            nn.init.uniform_(norm.running_mean), nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2), nn.init.uniform_(norm.bias)
        self.follow = follow

    def forward(self, x, skip):
        return self.follow(self, self.layer(x), skip)


def compiled(model, dynamic=False):
    """The compiled model, and the list of the graphs that its next backend was handed."""
    graphs = []

    def then(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch._dynamo.reset()
    fusing.clear()
    return torch.compile(model, backend=fusing.backend, options={"then": then}, fullgraph=True, dynamic=dynamic), graphs


def left(graphs) -> list[str]:
    """The names of what is computed beside our calls, in order; theirs is "layer"."""
    nodes = [node for graph in graphs for inner in graph.modules() if isinstance(inner, torch.fx.GraphModule)
             for node in inner.graph.nodes if node.op in ("call_function", "call_method")]
    nodes = [node for node in nodes
             if node.target is not operator.getitem or not str(node.args[0]).startswith(OF_TUPLES)]
    names = ["layer" if node.target in OURS else getattr(node.target, "__name__", node.target) for node in nodes]
    return [name for name in names if name not in ("folded", "item")]


def results(model, fast, operands):
    """The output and all gradients of a model, computed by `fast`."""
    operands = [t.clone().requires_grad_() for t in operands]
    y = fast(*operands)
    y.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()} | dict(enumerate(t.grad for t in operands))
    model.zero_grad()
    return {"y": y.detach()} | gradients


def check(model, expected_left, dynamic=False, tolerance=1e-4, dtype=torch.float32):
    """Compile a model; its results, gradients and buffers are the eager ones, and so many nodes are left."""
    model, operands = model.to(dtype), [torch.randn(shape, dtype=dtype) for shape in (X, SKIP)]
    eager = copy.deepcopy(model)
    expected = results(eager, eager, operands)
    fast, graphs = compiled(model, dynamic)
    found = results(model, fast, operands)
    assert left(graphs) == expected_left
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=tolerance, atol=tolerance, msg=lambda m: f"{key}: {m}")
    for a, b in zip(model.buffers(), eager.buffers()):
        torch.testing.assert_close(a, b)
    return fusing.report()


def all_of_it(self, y, skip):
    y = F.pad(self.dropout(self.norm(y)), (0,) * 6)
    y = F.elu(y + skip, 0.5)
    return torch.cat((skip, y), 1)
