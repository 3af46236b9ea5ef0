"""Normalisation by the result's own statistics, as in training, becomes one call with the layer, once and rightly."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from upblocks import X, Up, check, compiled, left, results

import triton_conv3dt as t3
from triton_conv3dt import fusing


def with_module(module, then=lambda self, y, s: y):
    """A model whose layer is followed by a module, and that by a function."""
    model = Up(lambda self, y, s: then(self, self.after(y), s))
    model.after = module
    return model


WHOLE = {  # the model, what is left beside one call, and what is fused with it
    "batch": (with_module(nn.BatchNorm3d(3), lambda self, y, s: F.leaky_relu(y, 0.1, inplace=True)), ["add_", "layer"],
              ("batch_norm", "leaky_relu")),
    "instance": (with_module(nn.InstanceNorm3d(3), lambda self, y, s: y.relu()), ["layer"], ("instance_norm", "relu")),
    "instance, affine and tracked": (with_module(nn.InstanceNorm3d(3, affine=True, track_running_stats=True)),
                                     ["layer"], ("instance_norm",)),
    "nothing tracked, in eval mode": (with_module(nn.BatchNorm3d(3, track_running_stats=False)).eval(), ["layer"],
                                      ("batch_norm",)),
    "no affine, another momentum": (with_module(nn.BatchNorm3d(3, affine=False, momentum=0.5, eps=0.1)),
                                    ["add_", "layer"], ("batch_norm",)),
    "in eval mode first": (Up(lambda self, y, s: F.silu(F.instance_norm(
        F.batch_norm(y, self.norm.running_mean, self.norm.running_var)))), ["layer"],
        ("batch_norm", "instance_norm", "silu")),
}


@pytest.mark.parametrize("model, expected, fused, dynamic", [(*row, False) for row in WHOLE.values()]
                         + [(*WHOLE["batch"], True)], ids=[*WHOLE, "of any size"])
def test_the_norm_is_part_of_the_call(model, expected, fused, dynamic):
    # A bias before its norm has a gradient of zero, and in fp32 what rounding leaves of it is of any size.
    rows = check(copy.deepcopy(model), expected, dynamic, dtype=torch.float64)
    assert rows[0].fused == fused and rows[0].left == "the graph ends"


LEFT = {  # what follows a batch norm in training; what is left, and why
    "cat": (lambda self, y, s: torch.cat((self.norm(y), s), 1), ["add_", "layer", "cat"],
            "cat comes after batch_norm by the statistics of the result"),
    "added": (lambda self, y, s: F.relu(self.norm(y) + s), ["add_", "layer", "add", "relu"], "add comes after batch_norm"),
    "added before": (lambda self, y, s: self.norm(y + s), ["layer", "add_", "batch_norm"], "batch_norm comes after add"),
    "twice": (lambda self, y, s: self.norm(F.instance_norm(y)), ["layer", "add_", "batch_norm"],
              "batch_norm comes after instance_norm"),
    "used twice": (lambda self, y, s: self.norm(y) * y, ["layer", "add_", "batch_norm", "mul"], "2 nodes use the result"),
    "seen in between": (lambda self, y, s: read_in_between(self, y), ["add_", "layer", "clone", "relu", "add"],
                        "clone may read what batch_norm would write later"),
}


def read_in_between(self, y):
    y = self.norm(y)
    seen = self.norm.running_mean.clone()
    return y.relu() + seen.view(1, 3, 1, 1, 1)


@pytest.mark.parametrize("follow, expected, why", LEFT.values(), ids=LEFT)
def test_what_is_left(follow, expected, why):
    if "clone" in expected:
        expected = ["add_", "layer", "clone", "relu", "view", "add"]
    assert why in check(Up(follow), expected, dtype=torch.float64)[0].left


def test_a_cumulative_average_is_renewed_once_in_each_step():
    model = with_module(nn.BatchNorm3d(3, momentum=None))
    eager = copy.deepcopy(model)
    torch._dynamo.reset(), fusing.clear()
    fast = torch.compile(model, backend=fusing.backend, options={"then": "aot_eager"})
    for _ in range(3):
        operands = torch.randn(X), None
        torch.testing.assert_close(fast(*operands), eager(*operands), rtol=1e-4, atol=1e-4)
    for a, b in zip(model.buffers(), eager.buffers()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", [nn.BatchNorm3d, nn.InstanceNorm3d])
def test_the_kernels_own_layer(device, kind):
    model = with_module(kind(3, affine=True, track_running_stats=True), lambda self, y, s: y.relu())
    model.layer = t3.nn.ConvTranspose3d(4, 3, 2, 2, backend="triton")
    model, operands = model.to(device), (torch.randn(1, 4, 1, 2, 1, device=device), torch.zeros((), device=device))
    eager = copy.deepcopy(model)
    expected, (fast, graphs) = results(eager, eager, operands), compiled(model)
    found = results(model, fast, operands)
    assert left(graphs) == ["add_"] * (kind is nn.BatchNorm3d) + ["layer"]
    for key, value in found.items():
        if value is not None:
            torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-3, msg=lambda m: f"{key}: {m}")
    for a, b in zip(model.buffers(), eager.buffers()):
        torch.testing.assert_close(a, b)
