"""The house: which room may know which, how long a file may be, and what must never be in a kernel."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "triton_conv3dt"
TOOLS = ("progress", "worker")  # whoever works long may use them; of the rooms they know the constraints on plans alone
LOOSE = ("files", "tools")  # rooms without a folder
# Bottom up: a room imports only from rooms above it in this table, and only from those that it names.
ROOMS = {  # room: what it answers, and from which others it may import
    "files": ("how does a file stay whole?", ()),
    "problems": ("what is asked?", ()),
    "planning": ("what will run on this device, with which tile, and why?", ("files", "problems")),
    "kernels": ("the device code", ()),
    "launching": ("how do tensors reach a kernel?", ("problems", "planning", "kernels")),
    "tools": ("how far is it, and what if a process is lost?", ("planning",)),
    "checking": ("is it right?", ("problems", "planning", "launching", "tools")),
    "ops": ("what is the operator, and what are its derivatives?", ("problems", "launching", "checking")),
    "sharding": ("what does a rank do for its part of a volume?", ("problems", "launching", "ops")),
    "surface": ("what may a user write?", ("problems", "launching", "checking", "ops", "sharding")),
    "compiling": ("what did the compiler make of it, for a GPU that is not here?",
                  ("files", "problems", "planning", "launching", "tools")),
    "measuring": ("how fast is it?",
                  ("files", "problems", "planning", "launching", "tools", "checking", "ops", "surface", "compiling")),
    "demo": ("what does it look like?", ("problems", "planning", "launching", "tools", "surface")),
    "commands": ("what may be typed?",
                 ("problems", "planning", "launching", "tools", "checking", "compiling", "measuring", "demo")),
}
HOUSED = {  # what is not named as its room
    **dict.fromkeys(("functional", "backends", "norm", "nn", "distributed", "fusing", "tf", "__init__"), "surface"),
    "cli": "commands", "__main__": "commands", **dict.fromkeys(TOOLS, "tools")}
FORBIDDEN = {  # what a file or room must not import, even inside a function
    "problems": {"torch", "triton", "numpy", "os"}, "planning/config": {"torch", "triton", "os", "time"},
    "planning/constraints": {"torch", "triton", "time"},
    **{f"planning/{name}": {"torch", "triton", "os", "time"} for name in ("launches", "weight_launches", "passes")},
    "kernels": {"torch", "numpy", "os"}, "checking/reference": {"triton", "triton_conv3dt", "numpy"}, "ops": {"triton"},
    "surface": {"triton"},
}
LONGEST_FILE, LONGEST_FUNCTION = 320, 60  # lines; a kernel is as long as it is
ALL_FILES = sorted(PACKAGE.rglob("*.py"))
KERNEL_FILES = [path for path in ALL_FILES if path.parent.name == "kernels"]
each_file = pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


def table() -> str:
    """ROOMS, as CONTRIBUTING.md shows it."""
    names = {room: f"`{room}/`" for room in ROOMS} | {
        "tools": ", ".join(f"`{name}.py`" for name in TOOLS), "surface": "`functional.py`, `norm.py`, `backends.py`, `nn/`, `distributed.py`, `fusing/`, `tf/`",
        "files": "`files.py`",
        "commands": "`commands/`, `cli.py`"}
    rows = (f"| {names[room]} | {answers} | {', '.join(known) or 'nothing'} |" for room, (answers, known) in ROOMS.items())
    return "\n".join(("| room | answers | may import from |", "|---|---|---|", *rows))


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def room_of(module: tuple[str, ...]) -> str:
    return HOUSED.get(module[0], module[0])


MODULES = {module_of(path): path for path in ALL_FILES}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def dotted(node) -> str:
    """a.b.c of an attribute chain, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    base = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return base and f"{base}.{node.attr}"


def inner_imports(path: Path):
    """(module, line) of everything of the package that a file imports, at any depth."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            named = [alias.name.split(".") for alias in node.names]
            yield from ((tuple(rest) or ("__init__",), node.lineno) for head, *rest in named if head == PACKAGE.name)
        if not isinstance(node, ast.ImportFrom) or not (node.level or node.module.split(".")[0] == PACKAGE.name):
            continue
        base = (*here[:-node.level], *(node.module or "").split(".")) if node.level else node.module.split(".")[1:]
        base = tuple(part for part in base if part)
        for alias in node.names:
            found = (*base, alias.name) if (*base, alias.name) in MODULES else base or ("__init__",)
            if alias.name != "__version__":
                yield found, node.lineno


def outer_imports(path: Path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


@each_file
def test_rooms_know_what_the_table_says(path):
    room = room_of(module_of(path))
    assert room in ROOMS, f"{room} has no place in the table:\n{table()}"
    for module, line in inner_imports(path):
        other = room_of(module)
        if other != room:
            assert other in ROOMS[room][1], f"{path.name}:{line} imports {'.'.join(module)}, of {other}:\n{table()}"


def test_rooms_are_in_their_order():
    for place, (room, (_, known)) in enumerate(ROOMS.items()):
        assert list(known) == [other for other in list(ROOMS)[:place] if other in known], f"{room}:\n{table()}"


def test_no_file_leads_back_to_itself():
    finished, under_way = set(), []

    def visit(module):
        if module in finished:
            return
        assert module not in under_way, " -> ".join(".".join(step) for step in [*under_way, module])
        under_way.append(module)
        for other, _ in inner_imports(MODULES[module]):
            visit(other)
        finished.add(under_way.pop())

    for module in MODULES:
        visit(module)
    assert finished == set(MODULES)


def test_the_table_is_the_one_that_contributors_read():
    assert table() in (ROOT / "CONTRIBUTING.md").read_text(), f"CONTRIBUTING.md should hold this table:\n\n{table()}"


def test_every_room_says_what_it_is():
    folders = {path.parent for path in ALL_FILES} - {PACKAGE}
    for folder in folders:
        said = ast.get_docstring(tree(folder / "__init__.py"))
        assert said and said.splitlines()[0].endswith("."), f"{folder.name}/__init__.py says nothing"
    assert {room_of((folder.name,)) for folder in folders} | set(LOOSE) == set(ROOMS)


@pytest.mark.parametrize("path", [*ALL_FILES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "examples").rglob("*.py"))],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_FILE
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef) and path not in KERNEL_FILES:
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{path.name}:{node.lineno} {node.name} is long"


@each_file
def test_files_do_not_know_what_is_not_theirs(path):
    module = module_of(path)
    forbidden = FORBIDDEN.get("/".join(module), set()) | FORBIDDEN.get(room_of(module), set())
    assert not forbidden & set(outer_imports(path))
    if module == ("checking", "reference"):
        assert not list(inner_imports(path)), "the oracle shares nothing with what it judges"


@each_file
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
            assert decorators in (["triton.jit"], ["gluon.jit"], ["gluon.constexpr_function"]), f"{path.name}:{node.lineno} {node.name} has {decorators}"


@pytest.mark.parametrize("path", KERNEL_FILES, ids=lambda path: path.name)
def test_masked_loads_say_what_they_find_outside(path):
    """Lanes that a mask switches off are undefined without `other`; the interpreter makes them zero."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and dotted(node.func) == "tl.load":
            keywords = {keyword.arg for keyword in node.keywords}
            masked = "mask" in keywords or len(node.args) > 1
            assert not masked or "other" in keywords or len(node.args) > 2, f"{path.name}:{node.lineno}"
