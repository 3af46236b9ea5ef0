"""The README keeps its word: its code runs, and what it names exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
PAGES = ("README.md", "CONTRIBUTING.md", "docs/design.md", "docs/tensorflow.md", "docs/models.md", "benchmarks/README.md",
         "autotune_configs/README.md")
WRITTEN = {"bench.json", "check.txt", "report.md", "commands/NAME.py"}  # by commands, or by whoever adds one


def test_the_code_runs():
    namespace = {}
    for code in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["y"].shape == (2, 32, 32, 32, 32)


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
