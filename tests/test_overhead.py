"""What a call costs on the host, and what it launches, with a GPU driver that is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("overhead")
LIMIT = 12  # times torch.empty_like, in the same process


@pytest.fixture(scope="module")
def measured():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"}
    program = Path(__file__).with_name("stub_driver.py")
    result = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_a_forward_is_one_launch(measured, layout):
    # 2 * 8**3 places in tiles of 128, 8 phases * 32 channels in tiles of 128 rows
    assert measured[layout]["launches"] == [["gather", [8 * 2, 1, 1]]]


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_a_repeated_call_costs_little_on_the_host(measured, layout):
    ratio = measured[layout]["ratio"]
    assert ratio <= LIMIT, f"a call with a plan at hand costs {ratio:.1f} times torch.empty_like, at most {LIMIT} is allowed"
