"""What make does on a GPU, by a Python that only notes what it is asked: every step, in order, within its limits."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gpu_runner
from triton_conv3dt.commands import sweep
from triton_conv3dt.problems.layers import select

ROOT = Path(__file__).parents[2]
READY = "-m triton_conv3dt info --require-gpu"  # what every target asks first
STUB = """#!/bin/sh
echo "$@" >>"$LOG"
case "$*" in
  *device.current*) echo nvidia_fake ;;
  *"$FAILS"*) exit 1 ;;
  *" check "*) echo 100 problems: all right ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Run make in a copy of the Makefile with a Python that only notes what it is asked."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    python = tmp_path / "python"
    python.write_text(STUB)
    python.chmod(0o755)

    def run(*arguments, fails="nothing fails"):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "OUT"))}
        result = subprocess.run(["make", *arguments, f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True,
                                env=environment | {"LOG": str(tmp_path / "log"), "FAILS": fails}, timeout=60)
        log = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
        (tmp_path / "log").unlink(missing_ok=True)
        return result, log.splitlines()

    return run


def test_make_gpu_does_everything_within_ten_minutes_into_one_folder(make, tmp_path):
    result, log = make("gpu")
    assert result.returncode == 0, result.stderr
    commands = [line.split()[2] for line in log if line.startswith("-m triton_conv3dt")]
    assert commands == ["info", "check", "tune", "bench", "bench", "report"] and log[0] == READY
    out = "benchmarks/results/nvidia_fake"
    assert (tmp_path / out / "check.txt").read_text() == "100 problems: all right\n"
    assert f"--journal {out}/tune.jsonl --output autotune_configs" in log[3] and "--resume" in log[3]
    assert f"--output {out}" in log[4] and "--resume" in log[4] and log[6].endswith(f"report {out}")
    recipe = (ROOT / "Makefile").read_text().partition("\ngpu:")[2].partition("\n\n")[0]
    limits = [int(limit) for limit in re.findall(r"\$\(LIMIT\) (\d+)", recipe)]
    budgets = [sweep.budget(text) for text in re.findall(r"--budget (\w+)", recipe)]
    assert len(limits) == 5 and sum(limits) <= 570 and len(budgets) == 3
    assert all(budget + 45 <= limit for budget, limit in zip(budgets, limits[1:4])), "budgets end before limits do"
    few = re.search(r"^FEW \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert len(select(few)) == len(few)
    again, same = make("gpu")
    assert again.returncode == 0 and same == log


def test_make_gpu_goes_on_after_a_step_that_fails_and_says_so(make):
    result, log = make("gpu", "OUT=results", "LAYERS=nnunet k3s2", fails=" tune ")
    assert result.returncode != 0 and "failed: tune" in result.stderr
    assert [line.split()[2] for line in log] == ["info", "check", "tune", "bench", "bench", "report"]
    assert "--layers nnunet k3s2 " in log[2]


def test_make_gpu_takes_journals_along(make, tmp_path):
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "tune.jsonl").write_text("{}\n")
    make("gpu", "OUT=results", "FROM=before")
    assert (tmp_path / "results" / "tune.jsonl").read_text() == "{}\n"


def test_make_gpu_test_hands_parts_and_options_on(make):
    result, log = make("gpu-test", "PARTS=small corpus", "OUT=there", "ARGS=-k 'a or b'")
    assert result.returncode == 0, result.stderr
    assert log == [READY, "tests/support/gpu_runner.py --output there --part small --part corpus -- -k a or b"]
    assert make("gpu-test")[1] == [READY, "tests/support/gpu_runner.py --output build/gpu-test --"]
    assert make("gpu-test", fails="gpu_runner")[0].returncode != 0


def test_make_gpu_sanitize_compiles_first(make, tmp_path, monkeypatch):
    sanitizer = tmp_path / "compute-sanitizer"
    sanitizer.write_text('#!/bin/sh\necho "$@" >>"$LOG"\n')
    sanitizer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    result, log = make("gpu-sanitize", fails="gpu_runner")
    assert result.returncode == 0
    assert log[:2] == [READY, "tests/support/gpu_runner.py --output build/gpu-test --part small"]
    assert [line.split()[1] for line in log[2:]] == ["memcheck", "initcheck", "synccheck"]
    assert all("-m pytest -m gpu --require-gpu tests/gpu/test_gpu_small.py" in line for line in log[2:])
    small = next(part for part in gpu_runner.PARTS if part.name == "small")
    limits = re.findall(r"\$\(LIMIT\) (\d+) compute-sanitizer", (ROOT / "Makefile").read_text())
    assert small.limit + 3 * int(limits[0]) <= 580


@pytest.mark.parametrize("target", ["gpu", "gpu-test", "gpu-sanitize"], ids="make {}".format)
def test_where_something_is_missing_nothing_is_begun(make, tmp_path, monkeypatch, target):
    (tmp_path / "compute-sanitizer").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    result, log = make(target, fails="--require-gpu")
    assert result.returncode != 0 and log == [READY] and not (tmp_path / "benchmarks").exists()


def test_make_gpu_without_a_gpu_says_so():
    environment = {name: value for name, value in os.environ.items()
                   if name != "TRITON_INTERPRET" and not name.startswith("MAKE")}
    result = subprocess.run(["make", "gpu", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True,
                            timeout=60, env=environment | {"CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode != 0 and not result.stdout
    assert re.fullmatch("error: no CUDA device is available;.*\nmake: .*\n", result.stderr)
