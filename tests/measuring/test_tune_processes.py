"""The tuner among processes: real workers, with the interpreter for a GPU, that fail, and a sweep that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import trials
import tuned
from processes import alive
from trials import DEFAULT, H200, OTHERS, PROBLEM
from triton_conv3dt.measuring import tune
from triton_conv3dt.measuring.precompile import Compilers, compile_one
from triton_conv3dt.problems import case
from triton_conv3dt.worker import Worker
from tuned import NEAR, Answers, job, outcomes, stored, sweep

ROOT = Path(__file__).parents[2]


@pytest.fixture
def journal(tmp_path, monkeypatch):
    return tuned.journal_in(tmp_path, monkeypatch)


@pytest.mark.slow
def test_real_workers_survive_every_kind_of_candidate(journal, monkeypatch):
    """The whole path: kernels in the interpreter in a process of its own, and a fault of each kind."""
    kinds = ("wrong result", "red zone", "crash", "illegal access", "compile", "hang", "resources")
    monkeypatch.setattr(tune, "LOST_BY_PATH", (9, 9))
    faulty = tuple(replace(DEFAULT, block_m=m, stages=s) for m in (16, 32) for s in (1, 2, 3, 4))
    faults = {str(config): kind for config, kind in zip(faulty, kinds)}
    best = faulty[len(kinds)]
    monkeypatch.setattr(tune, "WATCHDOG", 6.0)
    with Worker(trials.trial, {str(best): 50.0}, faults) as worker:
        assert sweep(journal, worker).run([job(others=faulty)]) == tune.Summary(better=1)
    assert outcomes(journal) == {DEFAULT: "ok", **dict(zip(faulty, kinds)), best: "ok"}
    assert all(row["reason"] for row in journal.rows() if row.get("outcome") not in ("ok", None))
    assert stored(journal)[case.format(PROBLEM)].config == best


SWEEP = """
import sys; sys.path[:0] = ["tests/support", "."]
from pathlib import Path
import trials, tuned
from triton_conv3dt.measuring.journal import Journal
from triton_conv3dt.planning import store
from triton_conv3dt.worker import Worker
if __name__ == "__main__":
    folder, problem = Path(sys.argv[1]), getattr(tuned, sys.argv[2])
    store.search_path = lambda: [folder / "configs"]
    journal = Journal(folder / "tune.jsonl")
    with Worker(trials.trial, {str(tuned.OTHERS[2]): 50.0}, {}, float(sys.argv[3])) as worker:
        tuned.sweep(journal, worker).run([tuned.job(problem)])
"""


def start(folder, problem="PROBLEM", delay=0.0):
    return subprocess.Popen([sys.executable, "-c", SWEEP, str(folder), problem, str(delay)], cwd=ROOT,
                            env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(journal, how):
    process = start(journal.path.parent, delay=0.5)
    deadline = time.monotonic() + 60
    while len(journal.rows()) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(how)
    process.wait(10)
    known = list(outcomes(journal))
    assert 2 <= len(known) < 1 + len(OTHERS), "it was stopped in the middle"
    worker = Answers({OTHERS[2]: 50.0})
    assert sweep(journal, worker).run([job()]).better == 1
    assert known + worker.examined_configs() == [DEFAULT, *OTHERS], "one candidate at most is examined twice"
    assert stored(journal)[case.format(PROBLEM)].config == OTHERS[2]


@pytest.mark.slow
def test_two_sweeps_at_once_share_a_journal_and_the_config_files(journal):
    processes = [start(journal.path.parent, problem) for problem in ("PROBLEM", "NEAR")]
    for process in processes:
        assert process.wait(120) == 0, process.stderr.read()
    rows = journal.rows()
    for problem in (PROBLEM, NEAR):
        mine = [row["event"] for row in rows if row["case"] == case.format(problem)]
        assert mine == ["candidate"] * (1 + len(OTHERS)) + ["result"]
    assert {name: entry.config for name, entry in stored(journal).items()} == {
        case.format(PROBLEM): OTHERS[2], case.format(NEAR): OTHERS[2]}


def test_compiling_ahead_says_what_fails_and_survives_its_pool(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    compilers = Compilers(H200, processes=1)
    try:
        assert compilers.wait(PROBLEM, DEFAULT, 1.0) is None, "what was never begun is left to the worker"
        compilers.submit(PROBLEM, DEFAULT)
        compilers.submit(PROBLEM, DEFAULT)
        refused = compilers.wait(PROBLEM, DEFAULT, 120)
        assert refused.kind == "compile" and "TRITON_INTERPRET" in refused.reason
        pids = list(compilers._pool._processes)
        os.kill(pids[0], signal.SIGSTOP)  # it must not answer before it is lost
        compilers.submit(PROBLEM, OTHERS[0])
        os.kill(pids[0], signal.SIGKILL)
        assert compilers.wait(PROBLEM, OTHERS[0], 120) is None
        compilers.submit(PROBLEM, OTHERS[1])
        assert compilers.wait(PROBLEM, OTHERS[1], 120) == refused
        pids = list(compilers._pool._processes)
    finally:
        compilers.close()
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))
    assert compile_one(PROBLEM, H200, replace(DEFAULT, warps=3)).kind == "compile"


@pytest.mark.slow
def test_what_was_compiled_ahead_is_what_is_launched(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, ROOT / "tests" / "support" / "precompiled.py"], capture_output=True,
                            text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {"answers": [None, None], "ahead": 2, "later": []}
