"""A problem as one line of text: to print, to keep in files, and to paste back as `--case '...'`.

    forward n2 ci64 co32 in64 k3 s2 p1 op1 float16 channels_first bias leaky_relu(0.01)

Words stand in any order; a size is one integer, or three as DxHxW. What is left out is forward, n1, s1, p0, op0, d1,
g1, float16, tf32, channels_first and no epilogue. `out` is the output size where no op gives it. What tensors that are
not dense change is said by the field of Problem: w_minor=ci, x_alignment=1; and so are statistics=instance or =batch.
`parse(format(problem)) == problem`.
"""

import re
from dataclasses import replace

from .activations import ACTIVATIONS, ALIASES, Activation
from .geometry import output_size
from .problem import DIRECTIONS, ITEM_SIZES, LAYOUTS, PRECISIONS, Problem
from .shape import Shape

EXAMPLE = "forward n2 ci64 co32 in64 k2 s2 float16 channels_first bias"
COUNTS = {"n": "n", "ci": "ci", "co": "co", "g": "groups"}
SIZES = {"in": "in_size", "k": "kernel", "s": "stride", "p": "padding", "op": "output_padding", "out": "out_size",
         "d": "dilation"}
LEAST = {"n": 0, "p": None, "op": 0}  # of every other number 1
CHOICES = {"direction": DIRECTIONS, "dtype": tuple(ITEM_SIZES), "precision": PRECISIONS, "layout": LAYOUTS}
FLAGS = ("bias", "residual", "keep_pre")
ALIGNMENTS = (0, 1, 2, 4, 8, 16)
FIELDS = {"y_layout": LAYOUTS, "w_minor": ("tap", "co", "ci", "other", "scattered"), "x_alignment": ALIGNMENTS,
          "y_alignment": ALIGNMENTS, "w_alignment": ALIGNMENTS, "r_alignment": ALIGNMENTS, "wide": (False, True),
          "even": (True, False)}
VALUES = FIELDS | {"statistics": ("instance", "batch")}
NUMBER = re.compile(r"(ci|co|in|out|op|[nkspdg])(-?\d+(?:x-?\d+x-?\d+)?)")
FUSED = re.compile(r"(\w+?)(?:\(([^()]*)\))?")


def format(problem: Problem) -> str:
    """The line of a problem."""
    p, e, extra = problem, problem.epilogue, output_padding(problem)
    words = [p.direction, f"n{p.n}", f"ci{p.ci}", f"co{p.co}", f"in{_short(p.in_size)}", f"k{_short(p.kernel)}"]
    words += [f"{word}{_short(value)}" for word, value, usual in (
        ("s", p.stride, 1), ("p", p.padding, 0), ("op", extra or (0,) * 3, 0), ("d", p.dilation, 1))
        if value != (usual,) * 3]
    words += [f"out{_short(p.out_size)}"] * (extra is None) + [f"g{p.groups}"] * (p.groups != 1)
    words += [p.dtype] + [p.precision] * (p.dtype == "float32" or p.precision != "tf32") + [p.x_layout]
    words += [flag for flag in FLAGS if getattr(e, flag)] + [str(e.activation).replace(" ", "")] * bool(e.activation)
    words += [f"statistics={e.statistics}"] * bool(e.statistics)
    dense = _dense(p)
    words += [f"{name}={getattr(p, name)}" for name in FIELDS if getattr(p, name) != getattr(dense, name)]
    return " ".join(words)


def parse(text: str) -> Problem:
    """The problem that a line describes.

    Raises:
        ValueError: a word is not understood, stands twice or is missing, or there is no such layer.
    """
    given, flags, rare = {}, set(), {}
    for word in text.split():
        name, value = _word(word)
        if name in given or name in rare or name in flags:
            raise ValueError(f"{name} is said twice in case {text!r}")
        if name in FLAGS:
            flags.add(name)
        else:
            (rare if name in VALUES else given)[name] = value
    missing = [word for word in ("ci", "co", "in", "k") if (COUNTS | SIZES)[word] not in given]
    if missing:
        raise ValueError(f"case {text!r} lacks {', '.join(missing)}; a case looks like {EXAMPLE!r}")
    problem = Problem.of_layer(**given, **{flag: True for flag in flags - {"keep_pre"}})
    if "out_size" not in given:
        given_extra = given.get("output_padding", (0, 0, 0))
        if any(e >= max(s, d) and e > 0 for e, s, d in zip(given_extra, problem.stride, problem.dilation)):
            raise ValueError(f"op{_short(given_extra)} in case {text!r} must be below the stride or the dilation")
    elif "output_padding" in given:
        raise ValueError(f"case {text!r} says both op and out: one of them gives the output size")
    if problem.ci % problem.groups or problem.co % problem.groups:
        raise ValueError(f"g{problem.groups} in case {text!r} does not divide ci{problem.ci} and co{problem.co}")
    if min(problem.out_size) < 1:
        raise ValueError(f"case {text!r} has no output: its size would be {_short(problem.out_size)}")
    epilogue = replace(problem.epilogue, keep_pre="keep_pre" in flags, statistics=rare.pop("statistics", None))
    return replace(problem, epilogue=epilogue, **rare)


def output_padding(layer: Shape) -> tuple[int, int, int] | None:
    """PyTorch's output_padding; None where its arguments cannot express this output size or this crop."""
    p = layer
    full = map(output_size, p.in_size, p.kernel, p.stride, p.padding, (0,) * 3, p.dilation)
    extra = tuple(out - size for out, size in zip(p.out_size, full))
    fits = all(e == 0 or 0 < e < max(s, d) for e, s, d in zip(extra, p.stride, p.dilation))
    return extra if fits and min(p.padding) >= 0 else None


def _word(word: str) -> tuple[str, object]:
    """What a word sets, and to what."""
    for name, choices in CHOICES.items():
        if word in choices:
            return name, word
    if word in FLAGS:
        return word, True
    name, equals, value = word.partition("=")
    if equals and name in VALUES:
        for choice in VALUES[name]:
            if value == str(choice):
                return name, choice
        raise ValueError(f"{word!r} in a case: {name} is one of {', '.join(map(str, VALUES[name]))}")
    if match := NUMBER.fullmatch(word):
        return _number(word, *match.groups())
    match = FUSED.fullmatch(word)
    if match and match[1] in {*ACTIVATIONS, *ALIASES}:
        return "activation", _activation(word, *match.groups())
    raise ValueError(f"{word!r} is not a word of a case, such as {EXAMPLE!r}; activations are {', '.join(ACTIVATIONS)}")


def _number(word: str, name: str, digits: str) -> tuple[str, object]:
    values, least = tuple(map(int, digits.split("x"))), LEAST.get(name, 1)
    if least is not None and min(values) < least:
        raise ValueError(f"{word!r} in a case: {name} must be at least {least}")
    if name in COUNTS:
        if len(values) > 1:
            raise ValueError(f"{word!r} in a case: {name} is one integer")
        return COUNTS[name], values[0]
    return SIZES[name], values * (3 // len(values))


def _activation(word: str, name: str, parameters: str | None) -> Activation | None:
    try:
        return Activation.of((name, tuple(map(float, parameters.split(",")))) if parameters else name)
    except ValueError as error:
        raise ValueError(f"{word!r} in a case: {error}") from None


def _dense(p: Problem) -> Problem:
    """The problem of the same layer with dense tensors in the layout of x."""
    return Problem.of_shape(p, p.direction, layout=p.x_layout)


def _short(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))
