"""The README keeps its word: its code runs, and what it names exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()


def test_the_code_runs():
    namespace = {}
    for code in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["y"].shape == (2, 32, 32, 32, 32)


def test_files_it_names_exist():
    named = re.findall(r"\b(?:tests/)?test_\w+\.py\b", TEXT)
    named += re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "tests" / name).exists(), name


def test_environment_variables_are_those_that_are_read():
    used = set()
    for path in (ROOT / "triton_conv3dt").rglob("*.py"):
        strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        used |= {s for s in strings if isinstance(s, str) and re.fullmatch(r"TRITON_\w+", s)}
    section = TEXT[TEXT.index("## Environment variables"):].split("\n## ")[0]
    assert set(re.findall(r"`(TRITON_\w+)`", section)) == used
