"""The house: which file may import which, and what must never be in a kernel."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "triton_conv3dt"
ORDER = (  # a file imports only from files above it
    "geometry", "problem", "case", "layers", "sampling", "device", "config", "constraints", "lowering", "launches", "search",
    "configfile", "store", "plan", "explain", "kernels", "tensors", "binding", "launch", "ready", "reference", "arguments",
    "composite", "library", "vmap", "ops", "activations", "functional", "tf", "nn", "machinecode", "inspect", "progress", "worker",
    "inspection", "operands", "check", "measuring", "figure", "demo", "commands", "cli", "__main__", "__init__",
)
MEASURING = (  # and so in measuring/
    "__init__", "timing", "journal", "machine", "selection", "setting", "truth", "peers", "naming", "results", "laboratory",
    "precompile", "trace", "tune", "bench", "records", "measurements", "plots", "report",
)
FORBIDDEN = {  # what a file must not import even inside a function; {} where `import torch` inside one is fine
    "geometry": {"torch", "triton", "numpy", "os"}, "problem": {"torch", "triton", "numpy", "os"},
    "config": {"torch", "triton", "os", "time"}, "constraints": {"torch", "triton", "time"},
    "kernels": {"torch", "numpy", "os"}, "reference": {"triton", "triton_conv3dt", "numpy"}, "activations": {"triton"},
    "functional": {"triton"}, "nn": {"triton"}, "tf": {"triton"},
}
ALL_FILES = sorted(PACKAGE.rglob("*.py"))
KERNEL_FILES = [path for path in ALL_FILES if path.parent.name == "kernels"]


def unit(path: Path) -> str:
    """The place of a file in ORDER: its name, or that of its folder."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def dotted(node) -> str:
    """a.b.c of an attribute chain, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    base = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return base and f"{base}.{node.attr}"


def inner_imports(path: Path):
    """(unit, line) of everything of the package that a file imports, at any depth."""
    inside = len(path.relative_to(PACKAGE).parts) - 1
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("triton_conv3dt")):
            module = node.module or ""
            if not node.level:
                module = module.partition(".")[2]
            if inside and node.level == 1:  # from its own folder
                continue
            for name in [module.partition(".")[0]] if module else [alias.name for alias in node.names]:
                yield name, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                head, _, rest = alias.name.partition(".")
                if head == "triton_conv3dt":
                    yield rest.partition(".")[0] or "__init__", node.lineno


def outer_imports(path: Path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    assert unit(path) in ORDER, f"{path.name} has no place in ORDER: put it below all that it imports"
    place = ORDER.index(unit(path))
    for name, line in inner_imports(path):
        if name.startswith("__"):
            continue  # `from . import __version__`
        assert name in ORDER, f"{path.name}:{line} imports {name}, which has no place in ORDER"
        assert ORDER.index(name) < place, f"{path.name}:{line} imports {name}, which stands below it"


@pytest.mark.parametrize("path", sorted((PACKAGE / "measuring").glob("*.py")), ids=lambda path: path.name)
def test_imports_go_one_way_in_measuring(path):
    place = MEASURING.index(path.stem)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                assert MEASURING.index(name) < place, f"{path.name}:{node.lineno} imports {name}, which stands below it"


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_do_not_know_what_is_not_theirs(path):
    assert not FORBIDDEN.get(unit(path), set()) & set(outer_imports(path))
    if unit(path) == "reference":
        assert not list(inner_imports(path)), "the oracle shares nothing with what it judges"


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_tuned_or_read_from_the_environment_behind_the_users_back(path):
    module = tree(path)
    for node in ast.walk(module):
        assert dotted(node) not in ("triton.autotune", "triton.heuristics"), f"{path.name}:{node.lineno}"
    at_import = [node for node in module.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    for node in (inner for outer in at_import for inner in ast.walk(outer)):
        assert dotted(node) not in ("os.environ", "os.getenv"), f"{path.name}:{node.lineno} reads it at import"


@pytest.mark.parametrize("path", KERNEL_FILES, ids=lambda path: path.name)
def test_kernels_are_plain_jit_functions(path):
    allowed = (ast.FunctionDef, ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    for node in tree(path).body:
        assert isinstance(node, allowed), f"{path.name}:{node.lineno}: {type(node).__name__} in a kernel file"
        if isinstance(node, ast.FunctionDef):
            decorators = [dotted(decorator) for decorator in node.decorator_list]
            assert decorators == ["triton.jit"], f"{path.name}:{node.lineno} {node.name} has {decorators}"


@pytest.mark.parametrize("path", KERNEL_FILES, ids=lambda path: path.name)
def test_masked_loads_say_what_they_find_outside(path):
    """Lanes that a mask switches off are undefined without `other`; the interpreter makes them zero."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and dotted(node.func) == "tl.load":
            keywords = {keyword.arg for keyword in node.keywords}
            masked = "mask" in keywords or len(node.args) > 1
            assert not masked or "other" in keywords or len(node.args) > 2, f"{path.name}:{node.lineno}"
