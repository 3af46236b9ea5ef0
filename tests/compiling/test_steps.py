"""The bound of a training step: what it compiles, and how the bounds of its kernels add up."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from triton_conv3dt import cli
from triton_conv3dt.compiling import steps, survey
from triton_conv3dt.planning.constraints import NONE
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

H200 = Device.named("nvidia_h200")
SMALL = case.parse("forward n2 ci64 co32 in16 k3 s2 p1 op1 float16 channels_first")
LARGE = case.parse("forward n2 ci64 co32 in64 k2 s2 float16 channels_last")
MICROSECOND = 1e-6


def compiled(tasks, limit=2.0, roofline=MICROSECOND):
    """Kernels of these tasks whose bounds are known."""
    bound = SimpleNamespace(limit=limit, roofline=roofline, as_json=dict)
    return [survey.Kernel(task, bound=bound, triton="0") for task in tasks]


def tasks(problem, bias=False):
    problem = replace(problem, epilogue=replace(problem.epilogue, bias=bias))
    return steps.tasks("layer", problem, H200, NONE, default=True)


def test_a_step_is_three_products_or_two_launches():
    assert [task.problem.direction for task in tasks(SMALL)] == ["forward", "grad_input", "grad_weight"]
    assert [task.problem.direction for task in tasks(LARGE)] == ["forward", "backward"]


@pytest.mark.parametrize("problem, bias, expected", [(SMALL, False, 6e-6), (LARGE, False, 4e-6), (LARGE, True, 4e-6)])
def test_bounds_add_up_over_the_roofline_of_the_step(problem, bias, expected):
    step, = steps.steps(compiled(tasks(problem, bias)))
    x, w, y = problem.n * 64 * problem.in_size[0]**3, 64 * 32 * problem.taps, problem.n * 32 * problem.out_size[0]**3
    moved = 2 * (x + w + y + x + w + y + x + w) / H200.bandwidth  # forward; x, w and dy are read, dx and dw written
    assert step.least == pytest.approx(max(moved, 3 * problem.flops / H200.rate_16bit))
    assert sum(step.seconds) == pytest.approx(expected) and step.limit == pytest.approx(expected / step.least)


def test_separate_gradients_read_dy_once_more_for_the_bias():
    step, = steps.steps(compiled(tasks(replace(SMALL, x_layout="channels_last", y_layout="channels_last"), bias=True)))
    assert sum(step.seconds) == pytest.approx(6e-6 + 2 * 2 * 32 * 32**3 / H200.bandwidth)
    assert "bias" in steps.line(step) and "2.00x" not in steps.line(step)


def test_a_weight_gradient_that_sums_dz_leaves_no_pass_for_the_bias():
    found = tasks(replace(SMALL, dtype="float32", in_size=(32,) * 3, out_size=(64,) * 3), bias=True)
    step, = steps.steps(compiled(found))
    assert found[-1].problem.epilogue.bias and found[-1].config.path == "walk" and not step.between


def test_a_step_without_one_of_its_kernels_says_why():
    first, *rest = compiled(tasks(SMALL))
    broken = replace(first, bound=None, failure="it broke\nhere")
    step, = steps.steps([broken, *rest])
    assert steps.line(step).endswith("FAILED it broke") and "limit" not in step.as_json()


def test_the_command(monkeypatch, capsys):
    monkeypatch.setattr(survey, "inspect", lambda tasks, jobs, progress: iter(compiled(tasks)))
    options = ["inspect", "--step", "--quiet", "--device", "h200", "--layers", "gwcnet_train_1", "nvidia_nnunet_up4"]
    assert cli.main(options) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    monkeypatch.setattr(survey.Kernel, "as_json", lambda self: {})
    assert cli.main([*options, "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["name"], len(one["kernels"])) for one in said] == [("gwcnet_train_1", 3), ("nvidia_nnunet_up4", 2)]
    with pytest.raises(SystemExit):
        cli.main(["inspect", "--step", "--case", "forward n2 ci64 co32 in16 k2 s2 float16 channels_first"])
    assert "--step is of whole layers" in capsys.readouterr().err
