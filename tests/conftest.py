"""Before any test: the interpreter where there is no GPU, fixed seeds, poisoned memory. After all: an honest line."""

import os
import random
import sys
from dataclasses import replace

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU and "EMULATOR_REPORTS" not in os.environ:  # the emulator runs what is compiled
    assert "triton" not in sys.modules, "Triton was imported before it could be told to interpret"
    os.environ["TRITON_INTERPRET"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the processes share the cores

import quick_interpreter  # noqa: E402
from triton.runtime.interpreter import interpreter_builder  # noqa: E402

from triton_conv3dt.planning import constraints, store  # noqa: E402

# Half of the interpreter's time went into looking for overflow in every sum; `overflow` does where offsets are large.
interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)
if os.environ.get("TRITON_INTERPRET") == "1":
    quick_interpreter.install()

pytest_plugins = ("gpu_journal",)
PACKAGE = "triton_conv3dt"
POISONED = ((torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (torch.Tensor, "new_empty"),
            (torch.Tensor, "new_empty_strided"))
MISSING_GPU = "no CUDA device"
HEAVY = ("compiling", "emulator", "planning")  # rooms of which some files take minutes: first, or one process ends with them alone
FEW = 2  # parameter sets of a test that --quick keeps
gpu_tests = {"met": 0, "run": 0}
left_out = {"parameter sets": 0, "slow tests": 0}  # by --quick


def pytest_addoption(parser):
    parser.addoption("--require-gpu", action="store_true", help="fail the tests that need a GPU where there is none")
    parser.addoption("--quick", action="store_true",
                     help=f"run every test, but for the slow ones, with at most {FEW} of its parameter sets")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.path.parent.name not in HEAVY)
    if not config.getoption("--quick"):
        return
    kept = _quick(items)
    config.hook.pytest_deselected(items=list(set(items).difference(kept)))
    items[:] = kept
    if hasattr(config, "workeroutput"):  # of pytest-xdist
        config.workeroutput["left_out"] = left_out


def _quick(items):
    """Of every test a few parameter sets, evenly spread, the first and the last among them."""
    tests = {}
    for item in items:
        if item.get_closest_marker("slow"):
            left_out["slow tests"] += 1
        else:
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = [sets[place * (len(sets) - 1) // (FEW - 1)] for sets in tests.values() for place in range(FEW)]
    kept = list(dict.fromkeys(kept))
    left_out["parameter sets"] = len(items) - left_out["slow tests"] - len(kept)
    return kept


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Every worker of pytest-xdist has left out the same."""
    left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not HAS_GPU:
        if item.config.getoption("--require-gpu"):
            pytest.fail(f"{MISSING_GPU}, and --require-gpu was given", pytrace=False)
        pytest.skip(MISSING_GPU)


def pytest_runtest_logreport(report):
    if "gpu" in report.keywords:
        gpu_tests["met"] += report.when == "setup"
        gpu_tests["run"] += report.when == "call" and not report.skipped


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--quick"):
        terminalreporter.write_line(f"--quick left out {' and '.join(f'{n} {what}' for what, n in left_out.items())}")
    device = torch.cuda.get_device_name() if HAS_GPU else "no device"
    terminalreporter.write_line(f"GPU tests: {gpu_tests['run']} of {gpu_tests['met']} run ({device})")


@pytest.fixture
def device() -> str:
    """Where kernels can run: a GPU, or the CPU by way of the interpreter."""
    return "cuda" if HAS_GPU else "cpu"


@pytest.fixture
def no_loop(capfd, recwarn):
    """PyTorch vmaps nothing in a loop for want of a rule: it says so in a warning or, in places, on stderr alone."""
    yield
    said = [str(warning.message) for warning in recwarn] + [capfd.readouterr().err]
    assert not any("not yet implemented the batching rule" in text for text in said)


@pytest.fixture(autouse=True)
def seeds():
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    """What this machine's user or a contributor has tuned decides no test."""
    monkeypatch.setattr(store, "search_path", lambda: [])


@pytest.fixture
def nothing_excluded():
    """What the environment excludes decides none of the tests that use this."""
    with constraints.using(constraints.NONE):
        yield


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Uninitialised memory that the package asks for holds NaN (integers: 0x7f in every byte), never a lucky zero."""
    for owner, name in POISONED:
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))


def _poisoned(allocate):
    def allocate_and_fill(*args, **kwargs):
        t = allocate(*args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] == PACKAGE and kwargs.get("out") is None:
            t.fill_(_poison_value(t.dtype))
        return t

    return allocate_and_fill


def _poison_value(dtype: torch.dtype):
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return True if dtype == torch.bool else int.from_bytes(b"\x7f" * dtype.itemsize, "little")


@pytest.fixture
def overflow(monkeypatch):
    """Sums and products of 32 bits that overflow in the interpreter are errors."""
    monkeypatch.setattr(interpreter_builder, "options", replace(interpreter_builder.options, sanitize_overflow=True))
