"""Write docs/api.md from the docstrings of the public names: `make docs`."""

import ast
import inspect
import re
import textwrap
import types
from pathlib import Path

import triton_conv3dt as t3

PAGE = Path(__file__).parent / "api.md"
HEAD = """\
# API

Generated from the docstrings by `make docs`. The variables that set constraints and folders of configs are in the
[README](../README.md#environment-variables); how a TensorFlow model is ported, in [tensorflow.md](tensorflow.md); how volumes are split over
ranks, in [sharding.md](sharding.md).

"""
SECTION = re.compile(r"(Args|Keyword arguments|Returns|Raises):$")
ITEM = re.compile(r"([\w.]+(?:, [\w.]+)*): (.+)")
MEMBERS = (types.FunctionType, classmethod, property)
WIDTH = 100  # of a signature


def page() -> str:
    names = list(public_names())
    contents = [f"- [`{name}`](#{name.lower().replace('.', '')})" for name, _ in names]
    return HEAD + "\n\n".join(["\n".join(contents), *(entry(name, thing) for name, thing in names)]) + "\n"


def public_names():
    """(dotted name, function or class) of everything that the package promises, from `__all__` or the source."""
    for name in t3.__all__:
        thing = getattr(t3, name)
        if not inspect.ismodule(thing):
            yield f"{t3.__name__}.{name}", thing
            continue
        for inner in getattr(thing, "__all__", vars(thing)):
            own = getattr(vars(thing)[inner], "__module__", "").startswith(thing.__name__)
            if own and not inner.startswith("_"):
                yield f"{t3.__name__}.{name}.{inner}", vars(thing)[inner]


def entry(name: str, thing) -> str:
    """The Markdown of a function, or of a class with its own methods and properties."""
    short = name.rpartition(".")[2]
    if not inspect.isclass(thing):
        return f"## `{name}`\n\n{signature(short, thing)}\n\n{markdown(thing.__doc__)}"
    parts = [f"## `{name}`", signature(short, thing.__init__), markdown(thing.__doc__)]
    for member, value in members(thing).items():
        function = getattr(value, "__func__", value)  # of a classmethod
        shown = [] if isinstance(value, property) else [signature(member, function)]
        parts += [f"### `{short}.{member}`", *shown, markdown(value.__doc__)]
    return "\n\n".join(parts)


def members(thing: type) -> dict:
    """The methods and properties that this package gives a class and describes, its own before its bases'."""
    found = {}
    for base in thing.__mro__:
        if base.__module__.startswith(t3.__name__):
            for name, value in vars(base).items():
                if not name.startswith("_") and isinstance(value, MEMBERS) and value.__doc__:
                    found.setdefault(name, value)
    return found


def signature(name: str, function) -> str:
    """As it stands in the source, whose text no version of Python or PyTorch changes, without self."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    node.args.args = [a for a in node.args.args if a.arg not in ("self", "cls")]
    returns = f"\0->\0{ast.unparse(node.returns)}" if node.returns else ""
    text = f"{name}({ast.unparse(node.args)}){returns}".replace("'", '"')
    text = re.sub(r"(?<=[=\[])\([^()]*\)", lambda pair: pair[0].replace(" ", "\0"), text)  # a default stays in one line
    text = text.replace(": ", ":\0").replace(" | ", "\0|\0")  # and so does an annotation
    lines = textwrap.wrap(text, WIDTH, subsequent_indent=" " * (len(name) + 1), break_long_words=False,
                          break_on_hyphens=False)
    return "\n".join(["```python", *lines, "```"]).replace("\0", " ")


def markdown(docstring: str) -> str:
    """A docstring in Google's style; what stands under Args, Returns and Raises becomes a list."""
    parts = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        block = block.splitlines()
        if SECTION.match(block[0]):
            heading = block.pop(0)
            body = textwrap.dedent("\n".join(block)).splitlines()
            items = [body] if heading == "Returns:" else hanging(body)  # one thing is returned
            parts += [f"**{heading[:-1]}**", "\n".join(map(item, items))]
        elif block[0].startswith("    "):
            parts.append("\n".join(["```text", *textwrap.dedent("\n".join(block)).splitlines(), "```"]))
        else:
            parts.append(" ".join(map(str.strip, block)))
    return "\n\n".join(parts)


def hanging(lines: list[str]) -> list[list[str]]:
    """Items of a list, as lines, each of which begins where a line is not indented."""
    items = []
    for line in lines:
        if not line.startswith(" "):
            items.append([])
        items[-1].append(line)
    return items


def item(lines: list[str]) -> str:
    text = " ".join(map(str.strip, lines))
    match = ITEM.fullmatch(text)
    if match is None:
        return f"- {text}"
    names = ", ".join(f"`{name}`" for name in match[1].split(", "))
    return f"- {names}: {match[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print("docs/api.md has been written.")
