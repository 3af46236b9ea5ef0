"""Nothing is timed unless somebody asks for it: `tune` and `bench` measure, and nothing else does."""

import ast
import time
from pathlib import Path

import pytest
import torch

import triton_conv3dt as t3
from cases import CORPUS
from triton_conv3dt.launching import launch
from triton_conv3dt.measuring import timing
from triton_conv3dt.planning import store

PACKAGE = Path(t3.__file__).parent
MAY_MEASURE = {"measuring.trial"}  # what tune and bench run in their workers
# A clock in the demo, which prints what its own calls took, and the budgets and estimates of what takes long.
MAY_READ_A_CLOCK = {"measuring.timing", "measuring.budget", "demo.upsample", "progress"}
# What names the kernels that ran, and what finds out whether the device still works.
ASKS = {"measuring.naming": {"synchronize", "profile"}, "measuring.trial": {"synchronize"}}
CLOCKS = ("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time", "elapsed_time", "Event",
          "do_bench", "do_bench_cudagraph", "autotune", "synchronize", "profile")
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def names(path):
    """Every name and attribute that a file uses."""
    return {node.id if isinstance(node, ast.Name) else node.attr for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, (ast.Name, ast.Attribute))}


@pytest.mark.parametrize("name", FILES)
def test_only_what_measures_reads_a_clock(name):
    used = names(FILES[name]) & set(CLOCKS)
    if name not in MAY_READ_A_CLOCK:
        assert used <= ASKS.get(name, set()), f"{name} uses {used}"


@pytest.mark.parametrize("name", FILES)
def test_a_timer_is_made_where_tune_and_bench_measure(name):
    if name not in MAY_MEASURE | {"measuring.timing"}:
        assert "EventTimer" not in names(FILES[name])


def test_the_library_runs_without_a_clock(monkeypatch, device):
    """Look-ups, plans, launches, derivatives: with every clock broken they work, so none is read."""
    def refuse(*args, **kwargs):
        raise AssertionError("something was timed")

    case = next(case for case in CORPUS if case.name == "k2s2")
    t = case.tensors(torch.float32, device=device)
    t3.conv_transpose3d(t.x, t.w, t.b, 2, backend="triton")  # compiling, the first time, may look at a clock of its own
    launch._records.clear()
    store._tables.clear()
    for clock in ("perf_counter", "monotonic", "process_time", "time"):
        monkeypatch.setattr(time, clock, refuse)
    monkeypatch.setattr(torch.cuda, "Event", refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    for method in ("device", "host", "wall", "__init__"):
        monkeypatch.setattr(timing.EventTimer, method, refuse)
    x, w = t.x.requires_grad_(), t.w.requires_grad_()
    y = t3.conv_transpose3d(x, w, t.b, 2, activation="relu", backend="triton")
    dx, dw = torch.autograd.grad(y, (x, w), torch.ones_like(y))
    assert dx.shape == x.shape and dw.shape == w.shape and launch._records
