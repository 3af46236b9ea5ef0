"""A worker outlives nothing, and whatever becomes of it is an answer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import trials
from processes import alive
from triton_conv3dt.worker import Failure, Worker, failure

ROOT = Path(__file__).parents[2]


class Parrot:
    def pid(self):
        return os.getpid()

    def sleep(self, seconds):
        time.sleep(seconds)

    def kill(self, signal_number):
        os.kill(os.getpid(), signal_number)

    def leave(self, code):
        os._exit(code)

    def fail(self, kind):
        getattr(trials, f"_{kind}")()

    def break_device(self):
        self.broken = True
        raise ValueError("not a word of the device")

    def synchronize(self):
        if hasattr(self, "broken"):
            raise RuntimeError("CUDA error: some error that stays")


@pytest.mark.slow
def test_a_worker_answers_is_lost_and_is_replaced():
    with Worker(Parrot) as worker:
        first = worker.ask("pid", seconds=60)
        assert first != os.getpid() and worker.ask("pid", seconds=60) == first
        answer = worker.ask("sleep", 1000, seconds=0.2)
        assert answer == Failure("hang", "no answer in 0 s") and answer.lost
        second = worker.ask("pid", seconds=60)
        assert second not in (first, os.getpid()) and not alive(first)
        ended = "the worker process ended: "
        assert worker.ask("kill", signal.SIGSEGV, seconds=60) == Failure("crash", ended + "killed by SIGSEGV")
        assert worker.ask("leave", 7, seconds=60) == Failure("crash", ended + "exit status 7")
        illegal = worker.ask("fail", "illegal_access", seconds=60)
        assert illegal.kind == "illegal access" and illegal.lost
        third = worker.ask("pid", seconds=60)
        compiling = worker.ask("fail", "compile", seconds=60)
        assert compiling.kind == "compile" and not compiling.lost and "not a kernel" in compiling.reason
        assert worker.ask("pid", seconds=60) == third, "a failure that harms nobody keeps the worker"
        broken = worker.ask("break_device", seconds=60)
        assert broken.kind == "illegal access" and "not a word" in broken.reason and "error that stays" in broken.reason
        third = worker.ask("pid", seconds=60)
        os.kill(third, signal.SIGINT)
        assert worker.ask("pid", seconds=60) == third, "Ctrl-C is the parent's to decide"
    assert not alive(third)


@pytest.mark.parametrize("kind", ["compile", "resources", "memory", "illegal access"])
def test_errors_are_told_apart(kind):
    with pytest.raises(Exception) as raised:
        getattr(trials, "_" + kind.replace(" ", "_"))()
    assert failure(raised.value).kind == kind


def test_an_unexpected_error_says_where():
    try:
        int("x")
    except ValueError as error:
        found = failure(error)
    assert found.kind == "error" and "ValueError" in found.reason and "test_worker.py" in found.reason


def test_a_worker_that_cannot_start_says_why():
    with Worker(trials.broken) as worker, pytest.raises(RuntimeError, match="OSError: no device answers"):
        worker.ask("examine", seconds=60)


def test_a_worker_ends_with_its_parent():
    script = ("import sys, os; sys.path[:0] = ['tests/commands', 'tests/support', '.']\n"
              "from test_worker import Parrot\n"
              "from triton_conv3dt.worker import Worker\n"
              "if __name__ == '__main__':\n"
              "    worker = Worker(Parrot)\n"
              "    print(worker.ask('pid', seconds=60), flush=True)\n"
              "    worker.ask('sleep', 1000, seconds=1000)\n")
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)
