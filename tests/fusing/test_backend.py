"""torch.compile(backend="triton_conv3dt"): what is fused, what is not, and that the numbers are the eager model's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from upblocks import SKIP, X, Up, all_of_it, check, compiled, left, results

import triton_conv3dt as t3
from triton_conv3dt import fusing
from triton_conv3dt.fusing import graph as graph_rewriting
from triton_conv3dt.fusing import patterns
from triton_conv3dt.problems import activations

WHOLE = {  # one call and nothing else
    "cat": lambda self, y, s: torch.cat((y, s), 1),
    "cat, the skip first": lambda self, y, s: torch.cat([s, y], dim=-4),
    "no affine": lambda self, y, s: F.batch_norm(y, self.norm.running_mean, self.norm.running_var),
    "by keywords": lambda self, y, s: F.leaky_relu(input=F.batch_norm(
        y, running_mean=self.norm.running_mean, running_var=self.norm.running_var, weight=self.norm.weight,
        bias=self.norm.bias, training=False), negative_slope=0.3),
    "twice normalised": lambda self, y, s: F.instance_norm(
        self.norm(y), self.instance.running_mean, self.instance.running_var, use_input_stats=False),
    "in place": lambda self, y, s: torch.concat((self.inplace(self.norm(y).add_(s)), s), 1),
    "add": lambda self, y, s: torch.add(s, y).sigmoid(),
    "pad by replication": lambda self, y, s: torch.cat((s, F.pad(y, (0,) * 6, "replicate")), 1),
    "all of it": all_of_it,
}


@pytest.mark.parametrize("follow", WHOLE.values(), ids=WHOLE)
def test_what_follows_becomes_part_of_the_call(follow):
    model = Up(follow).eval()
    rows = check(model, ["layer"])
    assert [row.name for row in rows] == ["layer"] and rows[0].fused
    assert rows[0].left == ("" if "cat" in rows[0].fused else "the graph ends")
    with torch.no_grad():
        operands, (fast, graphs) = (torch.randn(X), torch.randn(SKIP)), compiled(model)
        torch.testing.assert_close(fast(*operands), model(*operands), rtol=1e-4, atol=1e-4)
    assert left(graphs) == ["layer"]


ACTIVATIONS = [nn.ReLU(), nn.ReLU6(True), nn.LeakyReLU(0.2, True), nn.ELU(0.5), nn.SELU(), nn.Sigmoid(), nn.Tanh(),
               nn.Softplus(2, 10), nn.Hardsigmoid(), nn.Hardtanh(-0.5, 0.7), torch.exp, nn.GELU(), nn.GELU("tanh"),
               nn.SiLU(True), nn.Mish(), nn.Hardswish(), nn.Softsign()]


def test_every_activation_that_the_kernels_have():
    assert len(ACTIVATIONS) == len(activations.ACTIVATIONS)
    layers = [nn.ConvTranspose3d(4, 3, 2, stride=2) for _ in ACTIVATIONS]
    model = Up(lambda self, y, s: sum(f(m(self.x)).mean() for f, m in zip(ACTIVATIONS, layers)) * s)
    model.x, operands = torch.randn(X), (torch.randn(X), torch.randn(SKIP))
    fast, graphs = compiled(model)
    torch.testing.assert_close(fast(*operands), model(*operands))
    assert [len(row.fused) for row in fusing.report()] == [0] + [1] * len(ACTIVATIONS)
    assert set(left(graphs)) == {"layer", "mean", "add", "mul"}


LEFT = {  # what is left, why
    "prelu": (lambda self, y, s: self.prelu(y), ["layer", "prelu"], "the slope of prelu is a tensor"),
    "used twice": (lambda self, y, s: y.relu() + y, ["layer", "relu", "add"], "2 nodes use the result"),
    "added to itself": (lambda self, y, s: y + y, ["layer", "add"], "twice"),
    "joined with itself": (lambda self, y, s: torch.cat((y, y), 1), ["layer", "cat"], "twice"),
    "scaled": (lambda self, y, s: torch.add(y, s, alpha=2), ["layer", "add"], "scales what it adds"),
    "added, scaled": (lambda self, y, s: y.add(s, alpha=2), ["layer", "add"], "scales what it adds"),
    "broadcast": (lambda self, y, s: y + s[:1], ["layer", "getitem", "add"], "broadcasts"),
    "a number": (lambda self, y, s: y + 1, ["layer", "add"], "broadcasts"),
    "padded": (lambda self, y, s: F.pad(y, (1, 0)), ["layer", "pad"], "changes the size"),
    "three": (lambda self, y, s: torch.cat((y, s, s), 1), ["layer", "cat"], "more than two"),
    "another axis": (lambda self, y, s: torch.cat((y, s), 2), ["layer", "cat"], "not along the channels"),
    "wrong order": (lambda self, y, s: y.relu() + s, ["layer", "add"], "add comes after relu"),
    "mean": (lambda self, y, s: y.mean(2), ["layer", "mean"], "mean is not fused"),
    "into another": (lambda self, y, s: s.clone().add_(y), ["layer", "clone", "add_"], "changes the other"),
    "another's power": (lambda self, y, s: s.exp().pow(y), ["layer", "exp", "pow"], "another operand"),
    "returned": (lambda self, y, s: y, ["layer"], "the graph ends"),
    "another mode": (lambda self, y, s: _without_grad(y),
                     ["layer", "_set_grad_enabled", "relu", "_set_grad_enabled", "mul"], "2 nodes"),
}


def _without_grad(y):
    with torch.no_grad():
        mask = y.relu()
    return mask * y


@pytest.mark.parametrize("follow, expected, why", LEFT.values(), ids=LEFT)
def test_what_cannot_be_fused_stays_as_it_was(follow, expected, why):
    assert why in check(Up(follow).eval(), expected)[0].left


def test_an_active_dropout_stays():
    assert check(Up(lambda self, y, s: self.dropout(y) * 0), ["layer", "dropout3d", "mul"])[0].left == "dropout3d is active"


def changed_later(self, y, s):
    y.relu_()
    return torch.cat((y, s), 1)


def the_skip_is_changed(self, y, s):
    s = s.clone().relu_()
    return torch.cat((y, s), 1)


def seen_before_it_is_changed(self, y, s):
    first = y[:1]
    y.relu_()
    return torch.cat((y, s), 1).sum() * first


@pytest.mark.parametrize("follow, expected", [
    (changed_later, ["layer"]), (the_skip_is_changed, ["clone", "relu_", "layer"]),
    (seen_before_it_is_changed, ["layer", "getitem", "relu_", "cat", "sum", "mul"])])
def test_what_is_changed_in_place_is_read_at_its_time(follow, expected):
    check(Up(follow).eval(), expected)


def test_an_operand_that_is_written_to_is_read_before():
    def changed(x, w, skip):
        x = x.clone()
        y = F.conv_transpose3d(x, w, stride=2)
        x.zero_()
        return y + skip

    operands = torch.randn(X), torch.randn(4, 3, 2, 2, 2), torch.randn(SKIP)
    fast, graphs = compiled(changed)
    assert torch.equal(fast(*operands), changed(*operands))
    assert left(graphs) == ["clone", "layer", "zero_", "add"] and "zero_ writes to" in fusing.report()[0].left


def test_a_layer_by_keywords():
    def layer(x, w, b, skip):
        return torch.cat(dim=1, tensors=(F.conv_transpose3d(stride=2, bias=b, weight=w, input=x).tanh(), skip))

    operands = torch.randn(X), torch.randn(4, 3, 2, 2, 2), torch.randn(3), torch.randn(SKIP)
    fast, graphs = compiled(layer)
    torch.testing.assert_close(fast(*operands), layer(*operands))
    assert left(graphs) == ["layer"]
    complexes = [t.to(torch.complex64) for t in operands]
    torch.testing.assert_close(fast(*complexes), layer(*complexes))
    assert fusing.report()[1].left == "it is of torch.complex64"


@pytest.mark.parametrize("bias, groups", [(False, 1), (True, 2), (False, 4)])
def test_statistics_are_folded_into_any_layer(bias, groups):
    layer = nn.ConvTranspose3d(4, 4, (1, 3, 2), (1, 2, 2), (0, 1, 0), (0, 1, 0), groups, bias, 1)
    model = Up(lambda self, y, s: self.four(y).relu(), layer)
    model.four = nn.BatchNorm3d(4)
    nn.init.uniform_(model.four.running_mean), nn.init.uniform_(model.four.weight)
    check(model.eval(), ["layer"])


def ours(**arguments):
    return t3.nn.ConvTranspose3d(4, 3, 2, 2, **arguments)


@pytest.mark.parametrize("layer, follow, expected", [
    (ours(), all_of_it, ["layer"]),
    (ours(backend="triton"), all_of_it, ["layer"]),
    (ours(backend="triton", activation=("leaky_relu", 0.1)), lambda self, y, s: torch.cat((y, s), 1), ["layer"]),
    (ours(backend="triton", activation="silu"), lambda self, y, s: y + s, ["forward", "add"]),
    (ours(backend="triton"), lambda self, y, s: y.cos(), ["forward", "cos"]),
], ids=["pytorch", "kernels", "an activation that it has", "wrong order", "nothing to fuse"])
def test_this_packages_own_layer(device, layer, follow, expected):
    model = Up(follow, layer).eval()
    fast, graphs = compiled(model)
    operands = torch.randn(1, 4, 1, 2, 1), torch.randn(1, 3, 2, 4, 2)
    eager = copy.deepcopy(model)
    numbers, found = results(eager, eager, operands), results(model, fast, operands)
    assert [name.removesuffix(".default") for name in left(graphs)] == expected
    for key, value in found.items():
        if value is not None:
            torch.testing.assert_close(value, numbers[key], rtol=1e-3, atol=1e-3, msg=lambda m: f"{key}: {m}")


def test_what_was_to_be_pytorchs_is_known():
    """On a GPU, PyTorch's layer stays where this package itself called it: backend="torch", or the kernels cannot."""
    def then(graph, inputs):
        found.extend(graph_rewriting.asked_of_pytorch(node) for node in graph.graph.nodes if patterns.is_layer(node))
        return graph

    for layer in (ours(backend="torch"), nn.ConvTranspose3d(4, 3, 2, 2)):
        found = []
        torch._dynamo.reset()
        torch.compile(layer, backend=then)(torch.randn(X))
        assert found == [isinstance(layer, t3.nn.ConvTranspose3d)]


def test_another_normalisation_in_between():
    """As in GwcNet: relu(norm(layer(x)) + norm(conv(skip)))."""
    model = Up(lambda self, y, s: F.relu(self.norm(y) + self.other(s), inplace=True))
    model.other = nn.BatchNorm3d(3)
    assert check(model.eval(), ["batch_norm", "layer"])[0].fused == ("batch_norm", "add", "relu")
    check(model.train(), ["add_", "layer", "add_", "batch_norm", "add", "relu"])


def test_layers_of_each_other():
    model = Up(lambda self, y, s: torch.cat((s, F.silu(y + self.second(self.x))), 1).sin())
    model.second, model.x = nn.ConvTranspose3d(4, 3, 2, 2), torch.randn(X)
    rows = check(model, ["layer", "layer", "sin"])
    assert [row.fused for row in rows] == [("add", "silu", "cat"), ()]
    assert rows[1].left == "the call of another layer takes it"
