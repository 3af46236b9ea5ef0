"""Every kernel compiles whatever its run-time integers are, multiplies no stride in 32 bits where offsets have 64, and divides
by nothing that may be 0. The interpreter specialises on no value and hides all three."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compile_sizes import NAMES, Arithmetic

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def faults(tmp_path_factory, request) -> dict:
    """What is wrong with each row that is asked for; in a process of its own, as this one may interpret."""
    asked = [item.callspec.params["name"] for item in request.session.items
             if getattr(item, "originalname", "") == "test_integers_of_every_kind"]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": str(ROOT)}
    program = ROOT / "tests" / "support" / "compile_sizes.py"
    result = subprocess.run([sys.executable, program, *(name for name in NAMES if name in asked)], env=environment,
                            capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    return dict(map(json.loads, result.stdout.splitlines()))


@pytest.mark.parametrize("name", (*NAMES, "kernels without a row"))
def test_integers_of_every_kind(faults, name):
    assert not faults[name], "\n".join(faults[name])


@pytest.mark.parametrize("lines, factors, doubtful", (
    (("%0 = tt.splat %x : i32 -> tensor<4xi32>", "%1 = arith.muli %c, %0 : tensor<4xi32>"), {"%x", "%c"}, 0),
    (("%0 = arith.extsi %x : i32 to i64", "%1 = arith.muli %0, %0 : i64"), set(), 0),
    (("%p = tt.get_program_id x : i32", "%1 = arith.divsi %x, %p : i32"), set(), 1),
    (("%p = tt.get_program_id x : i32", "%c = arith.constant 1 : i32", "%1 = arith.maxsi %p, %c : i32",
      "%2 = arith.remsi %x, %1 : i32"), set(), 0),
    (("%c = arith.constant 0 : i32", "%1 = arith.remsi %x, %c : i32"), set(), 1)))
def test_what_is_looked_for_is_found(lines, factors, doubtful):
    text = "tt.func public @kernel(%x: i32 loc(1)) {\n" + "\n".join(f"  {line} loc(1)" for line in lines)
    found = Arithmetic(text)
    assert found.factors == factors and len(found.doubtful) == doubtful
