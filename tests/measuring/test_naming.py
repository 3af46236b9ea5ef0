"""Which kernels ran is asked of another process than the one that times, and is no reason to lose a time."""

import os

import pytest
import torch

import trials
from measured import Answers, run, setting
from triton_conv3dt.measuring import naming, peers
from triton_conv3dt.measuring.journal import Journal
from triton_conv3dt.measuring.naming import Names, Profiler
from triton_conv3dt.measuring.selection import CUDNN, CUDNN_LAST, OURS
from triton_conv3dt.worker import Failure, Worker


class Asked:
    """A worker in this process that gives one answer, or raises it."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def ask(self, method, *arguments, seconds):
        self.asked.append((method, *arguments))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "bench.jsonl")


@pytest.fixture
def profiled(monkeypatch):
    """The calls that were profiled; the profiler sees one kernel of each."""
    seen = []
    monkeypatch.setattr(naming, "kernels", lambda call: seen.append(call) or ["a_kernel"])
    return seen


def test_a_peer_is_profiled_when_it_has_run_once(profiled, monkeypatch):
    ran = []
    monkeypatch.setattr(peers, "build", lambda name, *_: lambda: ran.append((name, len(profiled))))
    named = Profiler("cpu").kernels(setting(), [CUDNN, OURS])
    assert named == {name: {"kernels": ["a_kernel"]} for name in (CUDNN, OURS)}
    assert ran == [(CUDNN, 0), (OURS, 1)] and len(profiled) == 2


def test_a_profiler_that_sees_nothing_says_so():
    """As one does on a machine without a GPU, or where the driver forbids counters."""
    if torch.cuda.is_available():
        pytest.skip("there is something to see")
    row = Profiler("cpu").kernels(setting("norm"), [CUDNN])[CUDNN]
    assert row["kernels"] == [] and row["kernels_unknown"].startswith("the profiler ")


@pytest.mark.slow
def test_names_come_from_a_process_where_nothing_is_timed(journal, monkeypatch):
    """The trial, which times, has nothing that profiles; whoever profiles lives elsewhere."""
    with Worker(trials.trial) as trial, Worker(trials.profiler) as profiler:
        run(journal, trial, [setting("norm")], (CUDNN,), Names(profiler))
        row = journal.rows()[-1]["peers"]
        assert row[CUDNN]["cold"]["median"] == 100.0 and "kernels" in row[CUDNN]
        assert trial._process.pid != profiler._process.pid != os.getpid()
        answer = trial.ask("kernels", setting("norm"), [CUDNN], seconds=60)
        assert isinstance(answer, Failure) and "no attribute 'kernels'" in answer.reason


def test_those_who_were_timed_are_named_and_only_then(journal):
    known = {name: {"kernels": ["k1", "k2"]} for name in (OURS, CUDNN_LAST)}
    worker, profiler = Answers({CUDNN: {"outcome": "wrong result", "reason": "1 of 2"}}), Asked(known)
    profiler.asked = worker.asked  # one after the other
    run(journal, worker, [setting("norm")], (OURS, CUDNN, CUDNN_LAST), Names(profiler))
    assert [name for name, *_ in worker.asked] == ["card", "check", "check", "check", "measure", "kernels"]
    assert worker.asked[-1][2] == [OURS, CUDNN_LAST]
    row = journal.rows()[-1]["peers"]
    assert row[OURS]["kernels"] == ["k1", "k2"] and "kernels" not in row[CUDNN]


@pytest.mark.parametrize("answer, questions", [
    (Failure("hang", "no answer in 30 s"), 1), (Failure("crash", "the worker process ended"), 1),
    (RuntimeError("the worker process could not start"), 1), (Failure("memory", "CUDA out of memory"), 2)])
def test_unknown_names_cost_no_time_and_are_said(journal, answer, questions):
    """Whoever was lost is not waited for again; who had no room is."""
    profiler = Asked(answer)
    run(journal, Answers(), [setting("norm"), setting("relu")], kernels=Names(profiler))
    assert len(profiler.asked) == questions
    reason = answer.reason if isinstance(answer, Failure) else str(answer)
    for row in journal.rows()[1:]:
        for peer in row["peers"].values():
            assert peer["kernels"] == [] and peer["kernels_unknown"] == reason
            assert peer["cold"]["median"] == 100.0, "the times are kept"
