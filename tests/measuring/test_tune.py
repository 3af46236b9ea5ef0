"""The tuner, with the interpreter for a GPU and a table for a clock: what it keeps, and what it survives."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import laboratories
from laboratories import DEFAULT, H200, OTHERS, PROBLEM
from processes import alive
from triton_conv3dt.measuring import results, tune
from triton_conv3dt.measuring.journal import Journal
from triton_conv3dt.measuring.precompile import Compilers, compile_one
from triton_conv3dt.measuring.results import Known
from triton_conv3dt.measuring.timing import Times
from triton_conv3dt.planning import configfile, search, store
from triton_conv3dt.problems import case
from triton_conv3dt.problems.problem import Problem
from triton_conv3dt.worker import Failure, Worker

ROOT = Path(__file__).parents[2]
NEAR = replace(PROBLEM, in_size=(2, 2, 4), out_size=(4, 4, 8))
OTHER = Problem.of_layer("grad_input", n=1, ci=16, co=8, in_size=(2, 2, 3), kernel=2, stride=2)
EFFORT = tune.Effort(None, 0.01)
MADE_WITH = {"triton_conv3dt": "test", "kernel": store.kernel_digest(), "triton": "3.7.1"}


class Answers:
    """A worker in this process that reads from tables: what a config's examination gives, what a comparison gives."""

    def __init__(self, examined=(), compared=()):
        self.examined, self.compared, self.asked = dict(examined), compared, []

    def ask(self, method, problem, what, seconds_of_timing, *, seconds):
        self.asked.append((method, problem, what))
        if method == "examine":
            answer = self.examined.get(what, 100.0)
            if isinstance(answer, BaseException):
                raise answer
            return answer if isinstance(answer, Failure) else laboratories.TableTimer.times(answer)
        if isinstance(self.compared, Failure):
            return self.compared
        compared = dict(self.compared)
        times = {name: compared.get(config, self.examined.get(config, 100.0)) for name, config in what.items()}
        return {name: value if isinstance(value, Times) else laboratories.TableTimer.times(value)
                for name, value in times.items()} | {"cudnn": laboratories.TableTimer.times(400.0)}

    def examined_configs(self):
        return [what for method, _, what in self.asked if method == "examine"]


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "tune.jsonl")


@pytest.fixture(autouse=True)
def only_these_configs(tmp_path, monkeypatch):
    """No config of the machine is looked up, and the default is one that can be told from the others."""
    monkeypatch.setenv("TRITON_CONV3DT_CONFIG_DIR", str(tmp_path / "configs"))
    monkeypatch.setattr(store, "search_path", lambda: [tmp_path / "configs"])


def job(problem=PROBLEM, others=OTHERS):
    return tune.Job(problem, lambda: (DEFAULT, *others))


def sweep(journal, worker, *, resume=True, **given):
    known = Known(journal.rows() if resume else [], H200)
    return tune.Sweep(H200, journal, worker, output=journal.path.parent / "configs", made_with=MADE_WITH, effort=EFFORT,
                      known=known, **given)


def stored(journal, folder="configs"):
    return {case.format(entry.problem): entry for path in store.files(journal.path.parent / folder)
            for _, entry in configfile.read(path)}


def outcomes(journal):
    return {configfile.config_of(row["config"]): row["outcome"]
            for row in journal.rows() if row["event"] == "candidate"}


def test_the_best_is_kept_with_what_it_was_compared_to(journal):
    worker = Answers({OTHERS[2]: 50.0, OTHERS[0]: 60.0})
    assert sweep(journal, worker).run([job()]) == tune.Summary(better=1)
    entry = stored(journal)[case.format(PROBLEM)]
    assert entry.config == OTHERS[2] and entry.made_with == MADE_WITH
    assert entry.measured == {"median": 50.0, "p20": 49.5, "p80": 50.5, "default": 100.0, "cudnn": 400.0}
    assert store.lookup(PROBLEM, H200).config == OTHERS[2]
    compared = worker.asked[-1]
    assert compared[0] == "compare" and list(compared[2].values()) == [OTHERS[2], OTHERS[0], OTHERS[1], DEFAULT]
    assert worker.examined_configs() == [DEFAULT, *OTHERS], "the default is examined first"


@pytest.mark.parametrize("compared", [
    {OTHERS[2]: 99.0}, {OTHERS[2]: Times(90.0, 70.0, 110.0, 7)},
    {OTHERS[2]: 90.0, DEFAULT: Times(100.0, 80.0, 125.0, 7)}, {OTHERS[2]: 130.0},
], ids=["two per cent", "its own noise", "the default's noise", "slower after all"])
def test_the_default_stays_unless_it_is_beaten_by_more_than_noise(journal, compared):
    assert sweep(journal, Answers({OTHERS[2]: 50.0}, compared)).run([job()]) == tune.Summary(kept=1)
    assert stored(journal) == {} and store.lookup(PROBLEM, H200) is None
    assert not journal.rows()[-1]["better"]


def test_choose_never_returns_a_loser():
    times = laboratories.TableTimer.times
    assert results.choose({"a": times(50.0), "b": times(40.0), "default": times(100.0)}) == "b"
    assert results.choose({"a": times(100.0), "default": times(100.0)}) == "default"
    assert results.choose({"b": times(40.0), "a": times(40.0)}) == "a", "ties are decided by name"


def test_a_near_entry_does_not_shadow_a_default_that_is_best(journal):
    """NEAR's entry would answer for PROBLEM, whose default was measured to be best: PROBLEM then gets its own."""
    worker = Answers({OTHERS[2]: 100.0})
    assert sweep(journal, worker).run([job()]).kept == 1 and stored(journal) == {}
    worker = Answers({OTHERS[2]: 50.0})
    assert sweep(journal, worker).run([job(), job(NEAR)]) == tune.Summary(better=1, kept=1)
    assert store.lookup(NEAR, H200).config == OTHERS[2] and store.lookup(PROBLEM, H200).config == DEFAULT


def test_failures_are_rows_and_the_sweep_goes_on(journal):
    failures = {OTHERS[0]: Failure("compile", "no"), OTHERS[1]: Failure("hang", "no answer in 90 s"),
                OTHERS[2]: Failure("wrong result", "1 of 8"), OTHERS[3]: 50.0}
    summary = sweep(journal, Answers(failures)).run([job()])
    assert summary.better == 1 and summary.failed == {"compile": 1, "hang": 1, "wrong result": 1}
    assert outcomes(journal) == {DEFAULT: "ok", OTHERS[0]: "compile", OTHERS[1]: "hang", OTHERS[2]: "wrong result",
                                 OTHERS[3]: "ok"}
    assert journal.rows()[1]["reason"] == "no" and stored(journal)[case.format(PROBLEM)].config == OTHERS[3]


def test_a_default_that_is_wrong_is_replaced(journal):
    sweep(journal, Answers({DEFAULT: Failure("wrong result", "all")})).run([job()])
    entry = stored(journal)[case.format(PROBLEM)]
    assert entry.config != DEFAULT and "default" not in entry.measured


def test_a_comparison_that_fails_is_made_again(journal):
    assert sweep(journal, Answers({OTHERS[2]: 50.0}, Failure("crash", "SIGSEGV"))).run([job()]) == tune.Summary(open=1)
    assert journal.rows()[-1]["outcome"] == "crash" and stored(journal) == {}
    worker = Answers({OTHERS[2]: 50.0})
    assert sweep(journal, worker).run([job()]).better == 1
    assert worker.examined_configs() == []


def test_a_problem_that_does_not_fit_into_memory_is_left(journal):
    full = Answers({DEFAULT: Failure("problem", "its operands cannot be made: 80 GiB")})
    assert sweep(journal, full).run([job(), job(OTHER)]) == tune.Summary(open=2)
    assert full.examined_configs() == [DEFAULT, DEFAULT]
    assert sweep(journal, full).run([job()]).open == 1 and len(full.asked) == 2


def test_a_path_that_costs_one_worker_after_another_is_left_out(journal):
    losing = Answers({config: Failure("illegal access", "CUDA error") for config in (DEFAULT, *OTHERS)})
    assert sweep(journal, losing).run([job()]).open == 1
    assert losing.examined_configs() == [DEFAULT, OTHERS[0]]
    assert set(outcomes(journal).values()) == {"illegal access", "left out"}
    assert "2 workers were lost by other configs of the gather path" in journal.rows()[-1]["reason"]
    problems = [job(replace(PROBLEM, n=n)) for n in range(2, 6)]
    losing.asked.clear()
    sweep(journal, losing).run(problems)
    assert len(losing.asked) == 6 and "none of its configs was right" in journal.rows()[-1]["reason"]
    some = Answers({OTHERS[0]: Failure("crash", "SIGSEGV"), OTHERS[1]: Failure("crash", "SIGSEGV")})
    assert sweep(journal, some).run([job(OTHER)]).kept == 1
    assert some.examined_configs() == [DEFAULT, *OTHERS[:2]]


def test_a_broken_device_ends_the_sweep(journal, monkeypatch):
    monkeypatch.setattr(tune, "LOST_IN_A_ROW", 3)
    monkeypatch.setattr(tune, "LOST_BY_PATH", (9, 9))
    worker = Answers({config: Failure("illegal access", "CUDA error") for config in (DEFAULT, *OTHERS)})
    with pytest.raises(tune.DeviceBroken, match="3 workers were lost.*CUDA error.*nvidia-smi"):
        sweep(journal, worker).run([job()])


def test_an_interrupt_loses_one_candidate_and_resuming_asks_nothing_twice(journal):
    interrupted = Answers({OTHERS[2]: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        sweep(journal, interrupted).run([job()])
    assert list(outcomes(journal)) == [DEFAULT, *OTHERS[:2]]
    worker = Answers({OTHERS[0]: 50.0})
    assert sweep(journal, worker).missing(job()) == 2
    assert sweep(journal, worker).run([job()]).better == 1
    assert worker.examined_configs() == list(OTHERS[2:])
    assert sweep(journal, worker).missing(job()) == 0
    again = Answers()
    assert sweep(journal, again).run([job()]).better == 1 and again.asked == []
    everything = Answers()
    sweep(journal, everything, resume=False).run([job()])
    assert everything.examined_configs() == [DEFAULT, *OTHERS]


def test_rows_of_other_kernels_and_devices_count_for_nothing(journal, monkeypatch):
    sweep(journal, Answers()).run([job()])
    known = Known(journal.rows(), H200)
    assert known.done(PROBLEM, None) and known.tried(PROBLEM, DEFAULT)
    monkeypatch.setattr(store, "kernel_digest", lambda: "another")
    for known in (Known(journal.rows(), replace(H200, name="nvidia_b200")), Known(journal.rows(), H200)):
        assert not known.done(PROBLEM, None) and known.tried(PROBLEM, DEFAULT) is None


def test_the_budget_ends_between_candidates_and_what_is_known_is_compared(journal, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(tune.time, "monotonic", lambda: clock[0])

    class Slow(Answers):
        def ask(self, method, *rest, seconds):
            assert seconds <= max(tune.SHORTEST_WATCH, 25.0 - clock[0])
            clock[0] += 10.0
            return super().ask(method, *rest, seconds=seconds)

    worker = Slow({OTHERS[0]: 50.0})
    assert sweep(journal, worker, deadline=25.0).run([job(), job(OTHER)]) == tune.Summary(better=1, open=1)
    assert worker.examined_configs() == [DEFAULT, *OTHERS[:2]]
    clock[0] = 0.0
    later = Answers({OTHERS[0]: 50.0, OTHERS[3]: 20.0})
    assert sweep(journal, later, deadline=1000.0).run([job()]).better == 1
    assert later.examined_configs() == list(OTHERS[2:]), "it goes on where the time ran out"
    assert stored(journal)[case.format(PROBLEM)].config == OTHERS[3]
    hung = Answers({DEFAULT: Failure("hang", "no answer in 20 s")})
    assert sweep(journal, hung, deadline=clock[0] + 5).run([job(OTHER)]).open == 1
    assert set(outcomes(journal).values()) == {"ok"}, "too little time is no hang"


def test_more_effort_looks_further(journal):
    quick, full = tune.Effort(3, 0.01), tune.Effort(None, 0.01)
    few = job(others=OTHERS[:2])

    def run(effort, todo):
        worker = Answers({OTHERS[3]: 50.0})
        tune.Sweep(H200, journal, worker, output=journal.path.parent / "configs", made_with=MADE_WITH, effort=effort,
                   known=Known(journal.rows(), H200)).run([todo])
        return worker.examined_configs()

    assert run(quick, few) == [DEFAULT, *OTHERS[:2]] and run(quick, few) == []
    assert run(full, job()) == list(OTHERS[2:]) and run(full, job()) == [] and run(quick, few) == []
    assert stored(journal)[case.format(PROBLEM)].config == OTHERS[3]


def test_a_config_that_was_stored_before_is_a_candidate_again(journal):
    assert tune.jobs([PROBLEM, PROBLEM], H200, tune.EFFORTS["quick"])[0].default == search.ranked(PROBLEM, H200)[0]
    assert len(tune.jobs([PROBLEM, PROBLEM], H200, tune.EFFORTS["quick"])) == 1
    odd = replace(DEFAULT, block_k=32, stages=2)
    store.save([configfile.Entry(PROBLEM, odd, {}, MADE_WITH)], H200, {}, journal.path.parent / "configs")
    assert odd in tune.jobs([PROBLEM], H200, tune.EFFORTS["quick"])[0].candidates


def test_shards_merge_into_what_one_sweep_would_have_stored(journal, tmp_path):
    times = {OTHERS[2]: 50.0}
    parts = [Journal(tmp_path / f"{i}.jsonl") for i in range(2)]
    for part, problem in zip(parts, (PROBLEM, OTHER)):
        part.append(results.session(H200, {"date": "2026-01-01 00:00 UTC"}))
        sweep(part, Answers(times)).run([job(problem)])
    whole = stored(journal)
    assert results.merge([part.path for part in parts], tmp_path / "merged") == {"nvidia_h200": 2}
    assert stored(journal, "merged") == whole
    before = {path: path.read_bytes() for path in store.files(tmp_path / "merged")}
    results.merge([part.path for part in reversed(parts)], tmp_path / "merged")
    assert before == {path: path.read_bytes() for path in store.files(tmp_path / "merged")}
    journal.append({"event": "bench"})
    with pytest.raises(ValueError, match="is no journal of tune"):
        results.merge([journal.path], tmp_path / "merged")


def test_real_workers_survive_every_kind_of_candidate(journal, monkeypatch):
    """The whole path: kernels in the interpreter in a process of its own, and a fault of each kind."""
    kinds = ("wrong result", "red zone", "crash", "illegal access", "compile", "hang", "resources")
    monkeypatch.setattr(tune, "LOST_BY_PATH", (9, 9))
    faulty = tuple(replace(DEFAULT, block_m=m, stages=s) for m in (16, 32) for s in (1, 2, 3, 4))
    faults = {str(config): kind for config, kind in zip(faulty, kinds)}
    best = faulty[len(kinds)]
    monkeypatch.setattr(tune, "WATCHDOG", 6.0)
    with Worker(laboratories.laboratory, {str(best): 50.0}, faults) as worker:
        assert sweep(journal, worker).run([job(others=faulty)]) == tune.Summary(better=1)
    assert outcomes(journal) == {DEFAULT: "ok", **dict(zip(faulty, kinds)), best: "ok"}
    assert all(row["reason"] for row in journal.rows() if row.get("outcome") not in ("ok", None))
    assert stored(journal)[case.format(PROBLEM)].config == best


SWEEP = """
import laboratories, test_tune
import sys; sys.path[:0] = ["tests/measuring", "tests/support", "."]
from pathlib import Path
from triton_conv3dt import store
from triton_conv3dt.measuring import results, tune
from triton_conv3dt.measuring.journal import Journal
from triton_conv3dt.worker import Worker
if __name__ == "__main__":
    folder, problem = Path(sys.argv[1]), getattr(test_tune, sys.argv[2])
    store.search_path = lambda: [folder / "configs"]
    journal = Journal(folder / "tune.jsonl")
    with Worker(laboratories.laboratory, {str(test_tune.OTHERS[2]): 50.0}, {}, float(sys.argv[3])) as worker:
        test_tune.sweep(journal, worker).run([test_tune.job(problem)])
"""


def start(folder, problem="PROBLEM", delay=0.0):
    return subprocess.Popen([sys.executable, "-c", SWEEP, str(folder), problem, str(delay)], cwd=ROOT,
                            env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
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
        compilers.submit(PROBLEM, OTHERS[0])
        os.kill(pids[0], signal.SIGKILL)
        assert compilers.wait(PROBLEM, OTHERS[0], 120) in (None, refused)
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


def test_what_was_compiled_ahead_is_what_is_launched(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, ROOT / "tests" / "support" / "precompiled.py"], capture_output=True, text=True,
                            timeout=300, env=environment | {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {"answers": [None, None], "ahead": 2, "later": []}
