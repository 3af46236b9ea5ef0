"""The runner of the GPU tests, on tests that need none: whatever becomes of a part, its file says so."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gpu_runner
from gpu_runner import PARTS, Outcome, Part

TESTS = Path(__file__).parent
CONFTEST = """
pytest_plugins = ("gpu_journal",)

def pytest_addoption(parser):
    parser.addoption("--require-gpu", action="store_true")

def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: all of these")
"""
BAD = """
import os, signal, time
import pytest
from pathlib import Path

pytestmark = pytest.mark.gpu

def test_passes():
    assert os.environ["OMP_NUM_THREADS"] == "1"

def test_fails():
    assert 1 + 1 == 3

def test_loses_the_context():
    Path(__file__).with_name("first").write_text(str(os.getpid()))
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

def test_goes_on_elsewhere():
    assert Path(__file__).with_name("first").read_text() != str(os.getpid())

def test_dies(trying):
    trying("config 7")
    os.kill(os.getpid(), signal.SIGSEGV)

def test_hangs(trying):
    trying("config 8")
    trying("config 9")
    time.sleep(1000)

def test_skips():
    pytest.skip("needs 40 GiB")
"""
SLOW = """
import pytest
import time

@pytest.mark.gpu
@pytest.mark.parametrize("seconds", (0, 1000, 0, 0))
def test_takes(seconds, trying):
    trying(f"{seconds} s")
    time.sleep(seconds)

def test_of_the_cpu():
    assert False
"""


@pytest.fixture(autouse=True)
def handler():
    """What handles SIGTERM is as before after a test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def folder(tmp_path):
    """Where sample tests are."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_gpu_bad.py").write_text(BAD)
    (tmp_path / "test_gpu_slow.py").write_text(SLOW)
    return tmp_path


def by_name(tests):
    return {test.partition("::")[2]: outcome for test, outcome in tests.items()}


def summary(folder, name):
    return json.loads((folder / "out" / f"{name}.jsonl").read_text().splitlines()[-1])


@pytest.mark.slow
def test_what_breaks_a_process_breaks_one_test(folder, capsys):
    """A lost context, a crash and a hang: the next test runs in a new process, and each is told apart."""
    part = Part("bad", limit=120, each=5, processes=1, folder=folder)
    assert gpu_runner.main(["--output", str(folder / "out")], (part,)) == 1
    rows = [json.loads(line) for line in (folder / "out" / "bad.jsonl").read_text().splitlines()]
    tests, reasons = map(by_name, gpu_runner.became(rows))
    assert tests == dict(
        test_passes="passed", test_fails="failed", test_loses_the_context="failed", test_goes_on_elsewhere="passed",
        test_dies="crashed", test_hangs="crashed", test_skips="skipped")
    assert "an illegal memory access" in reasons["test_loses_the_context"]
    assert reasons["test_dies"].endswith("while trying config 7")
    assert reasons["test_hangs"].endswith("while trying config 9")
    assert rows[0]["event"] == "session" and rows[0]["torch"] and summary(folder, "bad") == rows[-1]
    assert rows[-1]["counts"] == dict(passed=2, failed=2, crashed=2, skipped=1) and not rows[-1]["good"]
    assert "time.sleep" in rows[-1]["printed"] or "test_hangs" in rows[-1]["printed"], "where it hung"
    said = capsys.readouterr().out
    assert "bad: 2 passed, 1 skipped, 2 failed, 2 crashed in" in said and "1 skipped: needs 40 GiB" in said
    assert "test_gpu_bad.py::test_fails: assert (1 + 1) == 3" in said and "0 of 1 parts are good, not bad" in said


class Impatient(subprocess.Popen):
    """The limit of a part ends as soon as its test that sleeps has begun."""

    def wait(self, timeout=None):
        Impatient.group = self.pid
        journal = Path(self.args[self.args.index("--journal") + 1])
        while timeout and not (journal.exists() and "1000 s" in journal.read_text()):
            assert self.poll() is None, "it ended by itself"
            time.sleep(0.05)
        if timeout:
            assert len(members(self.pid)) > 1
            raise self.reason
        return super().wait()


@pytest.mark.parametrize("reason, said, code", [
    (subprocess.TimeoutExpired("pytest", 60), "the limit of 60 s", 1), (KeyboardInterrupt(), "Ctrl-C", 130)])
def test_a_part_that_is_stopped_leaves_what_it_had_done(folder, capsys, monkeypatch, reason, said, code):
    Impatient.reason = reason
    monkeypatch.setattr(gpu_runner.subprocess, "Popen", Impatient)
    part = Part("slow", limit=60, each=500, processes=1, folder=folder)
    assert gpu_runner.main(["--output", str(folder / "out")], (part, )) == code
    found = summary(folder, "slow")
    assert found["stopped"] == said and not found["good"]
    assert found["counts"] == {"passed": 1, "unfinished": 1, "not begun": 2}
    assert [test.partition("[")[2] for test in found["unfinished"]] == ["1000]"]
    assert f"stopped by {said}" in (shown := capsys.readouterr().out) and "while trying 1000 s" in shown
    deadline = time.monotonic() + 10
    while members(Impatient.group) and time.monotonic() < deadline:  # what was killed takes a moment
        time.sleep(0.05)
    assert not members(Impatient.group), "nothing of it is left"


def members(group: int) -> list[str]:
    """The processes of a group that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:  # it has just ended
            continue
        state, _, own = rest.split()[:3]
        found += [name] * (int(own) == group and state != "Z")
    return found


@pytest.mark.parametrize("code, options, good", [(2, ["-k", "x"], False), (5, [], False), (5, ["-k", "x"], True)])
def test_what_pytest_says_is_shown_where_it_ran_no_test(folder, capsys, monkeypatch, code, options, good):
    """It could not collect, or there was nothing to collect; which is right where -k leaves nothing."""
    printing = [sys.executable, "-c", f"print('No module named this'); raise SystemExit({code})"]
    started = subprocess.Popen
    monkeypatch.setattr(gpu_runner.subprocess, "Popen", lambda command, **given: started(printing, **given))
    part = Part("bad", limit=60, each=5, folder=folder)
    assert gpu_runner.main(["--output", str(folder / "out"), "--", *options], (part,)) == (0 if good else 1)
    assert summary(folder, "bad")["good"] == good
    assert ("No module named this" in (summary(folder, "bad")["error"] or "")) != good
    assert ("No module named this" in capsys.readouterr().out) != good


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """Run main with parts that end as a table says; the names in the order in which they ran."""
    def run(table, *arguments):
        names = []

        def part_run(part, folder, options):
            names.append(part.name)
            outcome = table.get(part.name, "passed")
            return Outcome(part, 1.0, {"test_a": outcome}, {"test_a": "why"}, *options)

        monkeypatch.setattr(gpu_runner, "run", part_run)
        return gpu_runner.main(["--output", str(tmp_path), *arguments]), names

    return run


def test_parts_run_in_order_and_measuring_is_not_fatal(ran, capsys):
    order = ["small", "configs", "onepass", "graphs", "corpus", "large", "measuring"]
    assert ran({}) == (0, order)
    assert "7 of 7 parts are good; everything is in" in capsys.readouterr().out
    assert ran({"measuring": "failed"}) == (0, order)
    shown = capsys.readouterr().out
    assert "measuring: 1 failed in 1 s (not fatal)" in shown and "6 of 7 parts are good, not measuring" in shown
    for outcome in ("failed", "crashed", "unfinished", "not begun"):
        assert ran({"small": outcome}) == (1, order), "the other parts run, and the whole has failed"
    assert ran({"large": "skipped"}) == (0, order)
    assert ran({}, "--part", "corpus", "--part", "small") == (0, ["small", "corpus"])
    assert ran({}, "--part", "small", "--", "the limit")[0] == 1
    assert ran({}, "--", "Ctrl-C") == (130, ["small"])
    with pytest.raises(SystemExit) as refused:
        ran({}, "--part", "smal")
    assert refused.value.code == 2 and "'small'" in capsys.readouterr().err


def test_without_what_runs_tests_it_says_so(ran, capsys, monkeypatch):
    monkeypatch.setattr(gpu_runner.importlib.util, "find_spec", lambda name: None if name == "xdist" else name)
    with pytest.raises(SystemExit) as refused:
        ran({})
    assert refused.value.code == 1
    assert "this Python lacks pytest-xdist: pip install pytest-xdist" in capsys.readouterr().err


def test_parts_are_the_files_there_are_and_together_stay_below_ten_minutes():
    assert {part.file for part in PARTS} == set(TESTS.glob("test_gpu_*.py"))
    assert sum(part.limit for part in PARTS) <= 580 and all(part.each <= part.limit for part in PARTS)
    assert len(PARTS) + 1 <= 8, "one file each"
    assert [part.name for part in PARTS if not part.fatal] == ["measuring"] == [PARTS[-1].name]
    for part in PARTS:
        assert "\npytestmark = pytest.mark.gpu\n" in part.file.read_text(), "the rest would not be chosen"


def test_an_interrupt_of_whoever_started_it_stops_it(ran):
    ran({})
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
