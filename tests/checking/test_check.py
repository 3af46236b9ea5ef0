"""check: it finds what is wrong, says it so that it can be replayed, and runs without a GPU."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from triton_conv3dt import cli
from triton_conv3dt.checking import check, trial_tensors
from triton_conv3dt.checking.trial_tensors import Wrong
from triton_conv3dt.launching import launch
from triton_conv3dt.problems import case, sampling
from triton_conv3dt.problems.layers import layers
from triton_conv3dt.problems.problem import DIRECTIONS, LAYOUTS
from triton_conv3dt.worker import Failure

ROOT = Path(__file__).parents[2]
SMALL = "n2 ci8 co8 in2x3x2 k2 s2 float16 channels_first"
CASES = (f"forward {SMALL} bias relu", f"grad_input {SMALL}", f"grad_weight {SMALL}",
         "forward ci4 co8 in2x3x4 k3 s2 p1 g2 float32 ieee channels_last gelu keep_pre",
         "forward ci8 co8 in2x3x4 k3 s2 p1 op1 float16 channels_last y_layout=channels_first w_minor=ci")
DTYPES = check.INTERPRETER_DTYPES
INTERPRET = check.interpreted()


@pytest.mark.parametrize("text", CASES)
def test_right_results_pass(text):
    check.Checker(INTERPRET).check(check.prepared(case.parse(text), INTERPRET))


def spoil(how: str, tensors: dict, target) -> None:
    """What a faulty kernel might do after a good one."""
    if how == "value":
        target.view(-1)[3] += 1
    elif how == "unwritten":
        target.view(-1)[3] = float("nan")
    elif how == "before":
        target.as_strided((1,), (1,), target.storage_offset() - 1).fill_(1)
    elif how == "after":
        target.as_strided((1,), (1,), target.storage_offset() + target.numel()).fill_(1)
    else:  # a read one place beyond an operand, masked by a multiplication with zero
        read = next(tensors[name] for name in ("w", "x") if tensors[name] is not target)
        outside = read.as_strided((1,), (1,), read.storage_offset() + read.numel())
        target.view(-1)[0] += 0 * outside[0]


@pytest.mark.parametrize("how, kind", [("value", "wrong result"), ("unwritten", "wrong result"), ("before", "red zone"),
                                       ("after", "red zone"), ("read", "wrong result")])
@pytest.mark.parametrize("text", CASES[:3])
def test_faults_are_found(text, how, kind, monkeypatch):
    run = launch.run

    def faulty(record, **tensors):
        run(record, **tensors)
        spoil(how, tensors, tensors[trial_tensors.written(record.plan.problem)])

    monkeypatch.setattr(launch, "run", faulty)
    with pytest.raises(Wrong) as raised:
        check.Checker(INTERPRET).check(case.parse(text))
    assert raised.value.kind == kind


def test_a_failure_is_a_line_that_replays_it(monkeypatch, capsys):
    failure = Failure("wrong result", "3 of 64 values are wrong")
    asked = []

    def checked(problems, interpret, progress):
        asked.append(problems)
        yield from ((problem, failure if i == 1 else None) for i, problem in enumerate(problems))

    monkeypatch.setattr(check, "check", checked)
    assert cli.main(["check", "--n", "3", "--seed", "5"]) == 1
    heading, line, summary = capsys.readouterr().out.splitlines()
    assert line.endswith("# wrong result: 3 of 64 values are wrong") and summary == "3 problems: 1 wrong"
    assert "\x1b" not in line and "\r" not in line
    program, *pasted = shlex.split(line, comments=True)
    assert program == "triton-conv3dt"
    assert cli.main(pasted) == 0
    assert asked[1] == [asked[0][1]]
    assert capsys.readouterr().out.endswith("1 problem: all right\n")


def test_what_does_not_fit_into_memory_is_not_wrong(monkeypatch, capsys):
    failure = Failure("memory", "out of memory")
    monkeypatch.setattr(check, "check", lambda problems, *_: ((problem, failure) for problem in problems))
    assert cli.main(["check", "--case", CASES[0]]) == 0
    assert capsys.readouterr().out.endswith("0 problems: all right; 1 problem too large for this machine's memory\n")


def test_a_failure_is_shrunk():
    """To the smallest problem that fails alike; of every kind of step, within a bound of tries."""
    start = case.parse("forward n4 ci48 co32 in12x9x16 k3 s2 p1 op1 g2 float16 channels_last bias residual relu")
    asked = []

    def wrong(problem):
        asked.append(problem)
        if problem.ci_group >= 6 and problem.in_size[2] >= 4 and problem.epilogue.residual:
            return Failure("wrong result", f"in {case.format(problem)}")
        return Failure("compile", "too small") if problem.in_size[2] < 2 else None

    small, failure = check.shrunk(start, Failure("wrong result", "at first"), wrong)
    assert case.format(small) == "forward n1 ci6 co1 in1x1x4 k3 s2 p1 op1 float16 channels_last residual"
    assert failure.reason == f"in {case.format(small)}" and len(asked) <= check.MOST_TRIES
    assert all(min(problem.out_size) > 0 and case.parse(case.format(problem)) == problem for problem in asked)
    for kind in ("crash", "memory"):
        lost = Failure(kind, "no answer")
        assert check.shrunk(start, lost, lambda problem: pytest.fail("asked again")) == (start, lost)


def test_check_finds_its_own_interpreter():
    """From a process without TRITON_INTERPRET, as a user has it: the worker sets it."""
    if not INTERPRET:
        pytest.skip("there is a GPU")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"}
    asked = [sys.executable, "-m", "triton_conv3dt", "check", "--case", CASES[0], "--case", f"{SMALL} bfloat16".replace(
        "float16 ", "", 1), "--case", SMALL.replace("n2", "n0", 1)]
    result = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "in Triton's interpreter on the CPU, which shows wrong results and accesses but no races",
        "1 problem left out: Triton's interpreter computes products of bfloat16 wrongly",
        "1 problem left out: there is nothing to compute", "1 problem: all right"]


def test_a_process_that_cannot_run_kernels_says_why(monkeypatch, capsys):
    def refuse(self, interpret):
        raise RuntimeError("the worker process could not start: Triton is not installed")

    monkeypatch.setattr(check.Worker, "_start", lambda self: refuse(self, True))
    assert cli.main(["check", "--case", CASES[0]]) == 1
    assert "error: the worker process could not start: Triton is not installed" in capsys.readouterr().err


def test_random_problems():
    """The same for a seed, others for another; of every kind."""
    first = sampling.problems(3, 200, DTYPES)
    assert first == sampling.problems(3, 200, DTYPES) != sampling.problems(4, 200, DTYPES)
    assert {p.direction for p in first} == set(DIRECTIONS) and {p.dtype for p in first} == set(DTYPES)
    assert {p.x_layout for p in first} == {p.y_layout for p in first} == set(LAYOUTS)
    assert len({p.epilogue for p in first}) > 10 and len({p.w_minor for p in first}) == 3
    for problem in first:
        assert case.parse(case.format(problem)) == problem


def test_layers_are_reduced_for_the_interpreter_alone():
    for layer in layers():
        for direction in DIRECTIONS:
            problem = layer.problem(direction)
            small = check.prepared(problem, interpret=True)
            if small != problem:
                assert small.flops <= max(2 * check.MOST_WORK, problem.flops / 4) and not small.wide, layer
            assert (small.direction, small.dtype, small.x_layout) == (direction, problem.dtype, problem.x_layout)
            assert small.kernel == problem.kernel or problem.kernel == problem.stride
            assert check.prepared(problem, interpret=False) == problem
            assert check.prepared(small, interpret=True) == small, layer
    kept = case.parse(CASES[3])
    assert check.prepared(kept, True) == replace(kept, epilogue=replace(kept.epilogue, keep_pre=False))


@pytest.mark.parametrize("arguments, expected", [
    (["--n", "3", "--layers", "nnunet"], "--n cannot be combined with --layers"),
    (["--n", "0"], "a positive integer"),
    (["--layout", "channels_last"], "--layout cannot be combined with random problems"),
    (["--case", "ci4"], "lacks co, in, k"),
])
def test_refusals(capsys, arguments, expected):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["check", *arguments])
    assert stopped.value.code == 2 and expected in capsys.readouterr().err
