"""What a terminal shows of something that takes long, and what a file does."""

import sys
from types import SimpleNamespace

import pytest

from triton_conv3dt import progress
from triton_conv3dt.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


def test_a_file_gets_a_line_now_and_then_with_what_is_left(clock, capsys):
    bar = Progress(100, every=30)
    for i in range(100):
        bar.step(f"step {i}")
        clock.now += 1.0
    bar.close()
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["[32/100] step 31 (about 1 min 9 s left)", "[63/100] step 62 (about 38 s left)",
                     "[94/100] step 93 (about 7 s left)"]


def test_few_steps_get_a_line_each(clock, capsys):
    bar = Progress(3)
    for name in "abc":
        bar.step(name)
        clock.now += 1.5
    assert capsys.readouterr().err == "[3/3] c\n"


def test_steps_that_are_not_taken_do_not_count(clock, capsys):
    bar = Progress(100, every=1)
    bar.skip(90)
    clock.now = 10.0
    bar.step("a")
    assert capsys.readouterr().err == "[1/10] a\n"


def test_quiet_shows_nothing_but_what_is_said(clock, capsys):
    bar = Progress(2, quiet=True, every=1)
    clock.now = 100.0
    bar.step("a")
    bar.say("found")
    bar.close()
    assert capsys.readouterr() == ("found\n", "")


def test_a_terminal_gets_a_bar_with_the_time_that_is_left(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    bar = Progress(4)
    for name in "abc":
        bar.step(name)
    bar.say("found")
    bar.close()
    shown = capsys.readouterr()
    assert "2/4  c" in shown.err.replace("\r", "\n") and "<" in shown.err and shown.out == "found\n"


@pytest.mark.parametrize("seconds, text", [
    (0.4, "0 s"), (12, "12 s"), (60, "1 min"), (510, "8 min 30 s"), (3600, "1 h"), (4800, "1 h 20 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
