"""The README keeps its word: its code runs, and what it names exists."""

import ast
import re
from math import prod
from pathlib import Path

import pytest

from triton_conv3dt.planning import search
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.plan import plan
from triton_conv3dt.problems import layers
from triton_conv3dt.problems.problem import BACKWARD

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
PAGES = ("README.md", "CONTRIBUTING.md", "docs/design.md", "docs/tensorflow.md", "docs/models.md", "docs/sharding.md",
         "benchmarks/README.md", "autotune_configs/README.md")
WRITTEN = {"bench.json", "check.txt", "report.md", "commands/NAME.py", "trainers/nnUNetTrainerTritonConv3dt.py",
           "configs/triton_conv3dt.json"}  # by commands, or by whoever adds one


def test_the_code_runs():
    namespace = {}
    for code in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["y"].shape == (2, 32, 32, 32, 32)


def test_the_bytes_of_an_up_block():
    """A concatenation reads and writes both halves, and ours the skip alone; PyTorch makes a slice contiguous first."""
    layer, = layers.select(["nnunet_iso128_up4"])
    h200, problem = Device.named("nvidia_h200"), layer.problem()
    y = problem.n * problem.co * 128**3 * problem.item
    assert not plan(problem, h200).schedule.workspaces
    backward = layer.problem(BACKWARD)
    one_pass = plan(backward, h200, search.one_pass(backward, h200))
    parts, = one_pass.schedule.workspaces
    separate = layer.problem("grad_input").bytes + layer.problem("grad_weight").bytes + y
    ours = backward.bytes + 2 * 4 * prod(parts.shape)  # its shares are written and read in fp32
    counted = [("PyTorch", problem.bytes + 4 * y, 2 * y + separate), ("this library", problem.bytes + 2 * y, ours)]
    stated = re.findall(r"^\| (PyTorch|this library): .* \| (\d+) \| (\d+) \|$", TEXT, flags=re.MULTILINE)
    assert stated == [(who, *(f"{n / 1e6:.0f}" for n in numbers)) for who, *numbers in counted]


@pytest.mark.parametrize("page", PAGES)
def test_files_it_names_exist(page):
    """Links, from where the page lies; paths of files, from the root, the package or the tests."""
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    named = re.findall(r"`((?:\w+/)*\w+\.(?:py|json|md|toml|txt))`", text)
    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    missing += [name for name in named if not any((ROOT / folder / name).exists() for folder in (".", "triton_conv3dt", "tests"))]
    assert (links or named) and set(missing) <= WRITTEN, missing


def test_every_promise_names_its_tests():
    section = TEXT[TEXT.index("## What you can rely on"):].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "held by" not in line]
    assert len(rows) > 20
    for row in rows:
        names = re.findall(r"`(\w+/test_\w+\.py)`", row.split(" | ")[-1])
        assert names and all((ROOT / "tests" / name).exists() for name in names), row


def test_environment_variables_are_those_that_are_read():
    used = set()
    for path in (ROOT / "triton_conv3dt").rglob("*.py"):
        strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        used |= {s for s in strings if isinstance(s, str) and re.fullmatch(r"TRITON_\w+", s)}
    section = TEXT[TEXT.index("## Environment variables"):].split("\n## ")[0]
    assert set(re.findall(r"`(TRITON_\w+)`", section)) == used
