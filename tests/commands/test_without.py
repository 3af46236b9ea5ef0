"""Doing without a path or deep pipelines: every command takes it, and says what it does without."""

import shlex
import sys

import pytest

from triton_conv3dt import cli
from triton_conv3dt.checking import check
from triton_conv3dt.compiling import survey
from triton_conv3dt.measuring import bench, machine, results, selection, tune
from triton_conv3dt.planning import constraints, store
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.constraints import NONE, VARIABLE, parse
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case
from triton_conv3dt.problems.layers import select
from triton_conv3dt.worker import Failure, Worker

H200 = Device.named("nvidia_h200")
CASE = "forward n1 ci32 co16 in2x3x4 k2 s2 float16 channels_last"
pytestmark = pytest.mark.usefixtures("nothing_excluded")


def answer(capsys, *arguments) -> str:
    assert cli.main([*arguments]) == 0
    return capsys.readouterr().out


def test_explain(capsys):
    asked = ["explain", "--case", CASE.replace("in2x3x4", "in32"), "--device", "nvidia_h200"]
    assert "config    pair" in answer(capsys, *asked) and constraints.current() == NONE
    shown = answer(capsys, *asked, "--without", "pair", "stages>2")
    assert "without   pair,stages>2\n" in shown and "config    gather" in shown
    assert shown.endswith("--without 'pair,stages>2'\n"), "what it says about tuning is about the same"
    table = answer(capsys, "explain", "--layers", "nnunet_iso128_up4", "nnunet_iso128_up3", "--device", "nvidia_h200",
                   "--without", "gather,descriptor,pair")
    assert "without gather,descriptor,pair\n" in table and " direct " in table and " gather " not in table
    assert cli.main([*asked, "--without", "gather", "descriptor", "pair", "direct"]) == 1
    assert "error: nothing is left" in capsys.readouterr().err


def test_the_option_adds_to_the_environment(capsys, monkeypatch):
    monkeypatch.setattr(constraints, "_current", None)
    monkeypatch.setenv(VARIABLE, "descriptor")
    asked = ["explain", "--case", CASE, "--device", "nvidia_h200"]
    assert "without   descriptor\n" in answer(capsys, *asked)
    assert "without   descriptor,stages>2\n" in answer(capsys, *asked, "--without", "stages>2")
    monkeypatch.setattr(constraints, "_current", None)
    monkeypatch.setenv(VARIABLE, "tma")
    for command in (asked, ["check"], ["tune", "--dry-run"], ["bench", "--dry-run"], ["inspect", "--layers", "nnunet"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(command)
        assert stopped.value.code == 2 and f"{VARIABLE}='tma': expected words of gather" in capsys.readouterr().err
    assert f"environment  every call fails: {VARIABLE}='tma': expected" in answer(capsys, "info")


def test_info(capsys, monkeypatch):
    monkeypatch.setenv(VARIABLE, "stages>2")
    shown = answer(capsys, "info")
    assert f"{VARIABLE}=stages>2\n" in shown and "every call fails" not in shown


class Asked:
    """What a worker does without."""

    def constraints(self):
        return constraints.current()


def test_a_worker_does_without_the_same(monkeypatch):
    with constraints.using(parse("descriptor,stages>2")), Worker(Asked) as worker:
        assert worker.ask("constraints", seconds=60) == constraints.current() == parse("descriptor,stages>2")


def test_check_says_what_it_does_without(capsys, monkeypatch):
    """A failure is a line that replays it."""
    asked = []

    def checked(problems, *_):
        asked.append(constraints.current())
        yield problems[0], Failure("wrong result", "3 values")

    monkeypatch.setattr(check, "check", checked)
    assert cli.main(["check", "--quiet", "--case", CASE, "--without", "descriptor", "stages>2"]) == 1
    heading, line, _ = capsys.readouterr().out.splitlines()
    assert ", without descriptor,stages>2" in heading
    assert cli.main(shlex.split(line, comments=True)[1:]) == 1
    assert asked == [parse("descriptor,stages>2")] * 2


def test_inspect(monkeypatch, capsys):
    tasks = []
    monkeypatch.setattr(survey, "inspect", lambda given, *_: tasks.extend(given) or [])
    for extra in ([], ["--default"]):
        answer(capsys, "inspect", "--quiet", "--case", CASE, "--device", "nvidia_h200", "--without", "descriptor",
               *extra)
    assert [task.config.path for task in tasks] == ["gather"] * 2
    with pytest.raises(SystemExit):
        cli.main(["inspect", "--configs", "--without", "descriptor"])
    assert "it stands alone" in capsys.readouterr().err


def test_tune_tries_what_may_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "search_path", lambda: [tmp_path])
    problem = case.parse(CASE)
    store.save([store.Entry(problem, Config("descriptor", 64, 32, 32, stages=4))], H200, {}, tmp_path)
    tried = lambda: set(tune.jobs([problem], H200, tune.EFFORTS["full"])[0].candidates)
    free = tried()
    with constraints.using(without := parse("descriptor,stages>2")):
        assert tried() == {config for config in free if without.refuses(config) is None}
    assert store.lookup(problem, H200).config in free, "what is stored is tried, too"


@pytest.mark.parametrize("command", ("bench", "tune"))
def test_a_dry_run(capsys, command):
    shown = answer(capsys, command, "--case", CASE, "--dry-run", "--device", "nvidia_h200", "--without", "descriptor")
    assert "descriptor" not in shown


def test_a_journal_does_not_mix_what_was_decided():
    problem = case.parse(CASE)
    row = {"event": "result", "device": "nvidia_h200", "kernel": store.kernel_digest(), "case": case.format(problem),
           "candidates": None, "complete": True}
    rows, without = [row, row | {"without": "descriptor"}], parse("descriptor")
    for kept, excluded in ((rows[:1], NONE), (rows[1:], without)):
        assert results.Known(kept, H200, excluded).done(problem, 20)
        assert results.Known(rows, H200, excluded).result(problem) == kept[0]
        assert not results.Known(kept, H200, parse("stages>2")).done(problem, 20)
    assert not results.Known(rows[1:], H200).done(problem, 20)


def test_bench_says_what_runs(monkeypatch):
    setting, = selection.settings(select(["nnunet_iso128_up4"]), ["step"], ["float16"], ["channels_last"])
    free = bench.configs_of(setting, H200)
    assert [found.config.path for found in free] == ["pair", "onepass"]
    with constraints.using(parse("descriptor,onepass")):
        assert {found.config.path for found in bench.configs_of(setting, H200)} == {"gather"}
        monkeypatch.setattr(sys, "argv", ["", "bench", "--without", "stages>2"])
        assert machine.facts(H200)["command"] == (
            f"{VARIABLE}=descriptor,onepass triton-conv3dt bench --without 'stages>2'"), "it can be pasted"
