"""The tuner, with tables for a worker and a clock: what it examines, what it keeps, and how it goes on."""

from dataclasses import replace

import pytest

import trials
import tuned
from trials import DEFAULT, H200, OTHERS, PROBLEM
from triton_conv3dt.measuring import budget, results, tune
from triton_conv3dt.measuring.asking import DeviceBroken
from triton_conv3dt.measuring.budget import Budget
from triton_conv3dt.measuring.journal import Journal
from triton_conv3dt.measuring.results import Known
from triton_conv3dt.measuring.timing import Times
from triton_conv3dt.planning import configfile, search, store
from triton_conv3dt.problems import case
from triton_conv3dt.worker import Failure
from tuned import MADE_WITH, NEAR, OTHER, Answers, job, outcomes, stored, sweep


@pytest.fixture
def journal(tmp_path, monkeypatch):
    return tuned.journal_in(tmp_path, monkeypatch)


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
    times = trials.TableTimer.times
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
    with pytest.raises(DeviceBroken, match="3 workers were lost.*CUDA error.*nvidia-smi"):
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
    monkeypatch.setattr(budget.time, "monotonic", lambda: clock[0])

    class Slow(Answers):
        def ask(self, method, *rest, seconds):
            assert seconds <= max(tune.SHORTEST_WATCH, 25.0 - clock[0])
            clock[0] += 10.0
            return super().ask(method, *rest, seconds=seconds)

    worker = Slow({OTHERS[0]: 50.0})
    assert sweep(journal, worker, budget=Budget(25.0)).run([job(), job(OTHER)]) == tune.Summary(better=1, open=1)
    assert worker.examined_configs() == [DEFAULT, *OTHERS[:2]]
    clock[0] = 0.0
    later = Answers({OTHERS[0]: 50.0, OTHERS[3]: 20.0})
    assert sweep(journal, later, budget=Budget(1000.0)).run([job()]).better == 1
    assert later.examined_configs() == list(OTHERS[2:]), "it goes on where the time ran out"
    assert stored(journal)[case.format(PROBLEM)].config == OTHERS[3]
    hung = Answers({DEFAULT: Failure("hang", "no answer in 20 s")})
    assert sweep(journal, hung, budget=Budget(5.0)).run([job(OTHER)]).open == 1
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
