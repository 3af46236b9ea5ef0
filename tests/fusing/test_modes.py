"""torch.compile(backend="triton_conv3dt") with sizes that change, autocast and checkpoints; its options and words."""

import copy
import logging
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from upblocks import SKIP, X, Up, all_of_it, compiled, left, results

from triton_conv3dt import fusing


def test_sizes_may_change():
    model = Up(lambda self, y, s: torch.cat((F.elu(self.norm(y) + s, 0.5), s), 1)).eval()
    fast, graphs = compiled(model, True)
    for n, d in ((2, 2), (3, 4), (1, 3)):
        operands = torch.randn(n, 4, d, 3, 2), torch.randn(n, 3, 2 * d, 6, 4)
        torch.testing.assert_close(fast(*operands), model(*operands), rtol=1e-4, atol=1e-4)
    assert left(graphs) in (["layer"] * 2, ["layer"] * 3)  # one sample may be a case of its own


def test_unbatched():
    model = Up(lambda self, y, s: torch.cat((y.relu(), s), 0))
    operands = torch.randn(X[1:]), torch.randn(SKIP[1:])
    fast, graphs = compiled(model)
    assert torch.equal(fast(*operands), model(*operands)) and left(graphs) == ["layer"]


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "around"])
def test_autocast(inside):
    model = Up(lambda self, y, s: torch.cat((self.norm(y).relu(), self.layer(self.x)), 1)).eval()
    model.x, operands = torch.randn(X), (torch.randn(X), torch.randn(SKIP))

    def run(*operands):
        with torch.autocast("cpu", torch.bfloat16):
            return model(*operands)

    fast, graphs = compiled(run if inside else model)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = fast(*operands), model(*operands)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=3e-2, atol=3e-2)
    assert [name for name in left(graphs) if "autocast" not in name] == ["layer", "layer"]


def test_autocast_that_ends_in_between():
    def run(x, skip):
        with torch.autocast("cpu", torch.bfloat16):
            y = model.layer(x)
        return torch.cat((y, skip), 1)

    model, operands = Up(None), (torch.randn(X), torch.randn(SKIP).bfloat16())
    fast, graphs = compiled(run)
    torch.testing.assert_close(fast(*operands), run(*operands))
    assert left(graphs)[-1] == "cat" and "another mode of autocast" in fusing.report()[0].left


def test_checkpoints():
    block = Up(lambda self, y, s: torch.cat((y.relu(), s), 1))
    model = nn.Module()
    model.block, model.forward = block, lambda x, s: checkpoint(block, x, s, use_reentrant=False)
    operands = torch.randn(X), torch.randn(SKIP)
    expected = results(model, model.forward, operands)
    fast, graphs = compiled(model.forward)
    found = results(model, fast, operands)
    assert "layer" in left(graphs) and "cat" not in left(graphs)
    assert all(torch.allclose(found[key], value, atol=1e-5) for key, value in expected.items() if value is not None)


def test_what_was_fused_is_said(caplog):
    model = Up(all_of_it).eval()
    with caplog.at_level(logging.INFO, "triton_conv3dt"):
        compiled(model)[0](torch.randn(X), torch.randn(SKIP))
    assert [r.getMessage() for r in caplog.records if r.name == "triton_conv3dt"] == [
        "layer (ci4 co3 k2 s2, kernel = stride): one call with batch_norm, dropout3d, pad, add, elu, cat"]
    head, row = str(fusing.report()).splitlines()
    assert head.split("  ")[0] == "name" and "batch_norm, dropout3d, pad, add, elu, cat" in row
    fusing.clear()
    assert str(fusing.report()) == "no transposed 3-D convolution"


def test_a_mode_and_options_are_the_next_backends():
    seen = []

    def then(graph, inputs, **keywords):
        seen.append(keywords)
        return graph

    graph = torch.fx.symbolic_trace(lambda x: x)
    fusing.backend(graph, [], mode="max-autotune", options={"then": then, "a": 1})
    assert seen == [{"mode": "max-autotune", "options": {"a": 1}}]
    with pytest.raises(RuntimeError, match="Unexpected optimization option no_such_option"):
        fusing.backend(graph, [], options={"no_such_option": 1})


def test_pytorch_finds_it_by_its_name():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    name, value = re.search(r'\n\[project.entry-points.torch_dynamo_backends]\n(\w+) = "(.*)"\n', text).groups()
    assert name == "triton_conv3dt" and EntryPoint(name, value, "torch_dynamo_backends").load() is fusing.backend


@pytest.mark.slow
def test_inductor(monkeypatch):
    """By name, as a user has it; the entry point is there where the package was installed since it has one."""
    monkeypatch.setitem(torch._dynamo.backends.registry._BACKENDS, "triton_conv3dt",
                        EntryPoint("triton_conv3dt", "triton_conv3dt.fusing:backend", "torch_dynamo_backends"))
    torch._dynamo.reset()
    fusing.clear()
    model = Up(lambda self, y, s: all_of_it(self, y, s).sin()).eval()
    eager, operands = copy.deepcopy(model), (torch.randn(X), torch.randn(SKIP))
    fast = torch.compile(model, backend="triton_conv3dt", options={"epilogue_fusion": True}, fullgraph=True)
    found, expected = results(model, fast, operands), results(eager, eager, operands)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4)
    assert len(fusing.report()) == 1 and "cat" in fusing.report()[0].fused
