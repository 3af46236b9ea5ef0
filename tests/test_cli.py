"""The command line: what it prints, its exit codes, and that asking for help costs nothing."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from triton_conv3dt import cli

LAYER = ["explain", "--input", "2,64,8,8,8", "--channels", "32", "--kernel", "2", "--stride", "2"]
ROOT = Path(__file__).parents[1]


def refusal(capsys, *arguments) -> str:
    """The message of a command that must be refused for its options."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["info"], ["demo"], ["explain"]], ids=lambda c: " ".join(c) or "none")
def test_help_imports_nothing_heavy(command):
    script = ("import sys\nfrom triton_conv3dt.cli import main\n"
              f"try: main({[*command, '--help']})\nexcept SystemExit as stopped: assert stopped.code == 0\n"
              "assert not {'torch', 'triton', 'numpy', 'matplotlib', 'nibabel'} & set(sys.modules)")
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
                           timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert "usage: triton-conv3dt" in shown.stdout


def test_module_runs_and_reports_usage_errors():
    result = subprocess.run([sys.executable, "-m", "triton_conv3dt", "nonsense"], cwd=ROOT, capture_output=True,
                            text=True, timeout=60)
    assert result.returncode == 2
    assert "info" in result.stderr and "explain" in result.stderr and "demo" in result.stderr


@pytest.mark.parametrize("arguments, expected", [
    ([], "COMMAND"),
    (LAYER[:3] + LAYER[5:], "--channels"),
    ([*LAYER, "--input", "2,64,8"], "N,CI,D,H,W"),
    ([*LAYER, "--input", "2,64,8,0,8"], "'2,64,8,0,8'"),
    ([*LAYER, "--kernel", "2,2"], "three as D,H,W"),
    ([*LAYER, "--stride", "0"], "at least 1"),
    ([*LAYER, "--dtype", "half"], "float16"),
    ([*LAYER, "--layout", "nhwc"], "channels_last"),
    ([*LAYER, "--direction", "backward"], "grad_input"),
    ([*LAYER, "--device", "v100"], "nvidia_h200"),
    ([*LAYER, "--activation", "rellu"], "leaky_relu"),
    ([*LAYER, "--groups", "3"], "--groups 3 does not divide"),
    ([*LAYER, "--output-padding", "2"], "smaller than --stride"),
    ([*LAYER, "--padding", "9"], "no output"),
])
def test_refuses_with_what_would_work(capsys, arguments, expected):
    message = refusal(capsys, *arguments)
    assert expected in message and "usage:" in message


def test_info_names_versions_and_settings(capsys, monkeypatch):
    monkeypatch.setenv("TRITON_CONV3DT_FALLBACK", "error")
    assert cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    for fact in (metadata.version("torch"), "device", "interpreter", "TRITON_CONV3DT_FALLBACK=error", "configs"):
        assert fact in shown


@pytest.mark.parametrize("device", ["nvidia_h200", "nvidia_a100", "nvidia_t4"])
@pytest.mark.parametrize("direction", ["forward", "grad_input", "grad_weight"])
def test_explain_prints_the_plan_of_the_layer_asked_for(capsys, device, direction):
    from triton_conv3dt import launch
    from triton_conv3dt.device import Device
    from triton_conv3dt.problem import Problem

    problem = Problem.of_layer(direction, n=2, ci=64, co=32, in_size=(8, 16, 24), kernel=(1, 2, 2), stride=(1, 2, 2),
                               dtype="float16", layout="channels_last", bias=True, activation="relu")
    asked = ["explain", "--input", "2,64,8,16,24", "--channels", "32", "--kernel", "1,2,2", "--stride", "1,2,2",
             "--layout", "channels_last", "--bias", "--activation", "relu", "--direction", direction,
             "--device", device]
    assert cli.main(asked) == 0
    shown = capsys.readouterr().out
    assert shown == f"{launch.plan(problem, Device.named(device))}\n"
    assert device in shown


def test_explain_without_a_gpu_here_plans_for_a_common_one(capsys, monkeypatch):
    def absent(index=0):
        raise RuntimeError("no CUDA device is available")

    monkeypatch.setattr("triton_conv3dt.device.current", absent)
    assert cli.main(LAYER) == 0
    assert "nvidia_h200" in capsys.readouterr().out
