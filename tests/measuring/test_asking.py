"""A worker is given its time, or what is left of the budget; who had less is not judged, and whoever breaks all is told."""

import pytest

from triton_conv3dt.measuring import budget
from triton_conv3dt.measuring.asking import Asker, DeviceBroken, OutOfTime, told
from triton_conv3dt.measuring.budget import Budget
from triton_conv3dt.worker import Failure

HANG = Failure("hang", "no answer in time")


class Answers:
    """A worker in this process: its answers in turn, and how long it was given for each."""

    def __init__(self, *answers):
        self.answers, self.given = list(answers), []

    def ask(self, method, *arguments, seconds):
        self.given.append(seconds)
        return self.answers.pop(0)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    return now


def test_a_budget_is_spent_when_its_time_is_up(clock):
    some, none = Budget(90.0), Budget()
    assert not some.spent
    clock[0] += 89.0
    assert not some.spent
    clock[0] += 1.0
    assert some.spent and not none.spent


def test_a_wait_is_of_the_usual_length_until_the_budget_nears_its_end(clock):
    some, waits = Budget(100.0), []
    for passed in (0.0, 50.0, 25.0, 20.0, 10.0):
        clock[0] += passed
        waits.append(some.wait(60.0, 30.0))
    assert [(wait.seconds, wait.short) for wait in waits] == [
        (60.0, False), (50.0, True), (30.0, True), (30.0, True), (30.0, True)]
    assert [wait.passed for wait in waits] == [105.0, 55.0, 30.0, 10.0, 0.0]
    endless = Budget().wait(60.0, 30.0)
    assert (endless.seconds, endless.short) == (60.0, False)


def test_only_who_was_given_its_time_hangs(clock):
    worker = Answers(HANG, HANG, Failure("crash", "killed"), "answer")
    asker = Asker(worker, Budget(70.0), (60.0, 30.0))
    assert asker.ask("check") == HANG
    clock[0] += 35.0
    with pytest.raises(OutOfTime) as raised:
        asker.ask("check")
    assert raised.value.failure == HANG
    assert asker.ask("check").kind == "crash", "that needs no time"
    assert asker.ask("check") == "answer" and worker.given == [60.0, 35.0, 35.0, 35.0]


def test_workers_lost_one_after_another_are_the_devices_fault():
    lost, wrong = Failure("illegal access", "CUDA error"), Failure("wrong result", "1 of 8")
    asker = Asker(Answers(lost, wrong, lost, lost), Budget(), (60.0, 30.0), most_lost=2)
    assert [asker.ask("examine") for _ in range(3)] == [lost, wrong, lost], "a worker that answers is none that is lost"
    with pytest.raises(DeviceBroken, match="2 workers were lost one after another.*CUDA error.*nvidia-smi"):
        asker.ask("examine")
    patient = Asker(Answers(*[lost] * 20), Budget(), (60.0, 30.0))
    assert [patient.ask("check") for _ in range(20)] == [lost] * 20


def test_a_failure_is_told_by_its_kind_and_its_reason():
    assert told(HANG) == {"outcome": "hang", "reason": "no answer in time"}
