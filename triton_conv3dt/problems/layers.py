"""The transposed convolutions of real networks: what is tuned, measured and explained where no shape is given.

The data are in layers.json, one layer per line: a shape, how its network runs it, and what follows it there.
"""

import difflib
import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from .problem import Epilogue, Problem
from .shape import Shape

FILE = Path(__file__).with_name("layers.json")


@dataclass(frozen=True, kw_only=True)
class Layer(Shape):
    """A layer of a real network.

    out_size decides where output_padding is None: PyTorch's arguments cannot express that crop (TensorFlow's SAME).
    source: where the network is defined. followed_by: what the network does with the output, in words. mode: "train"
    or "infer". tags: what is special about it, "k=s" for instance.
    """

    name: str
    network: str
    source: str
    output_padding: tuple[int, int, int] | None
    bias: bool
    dtype: str
    layout: str
    followed_by: str
    mode: str
    tags: tuple[str, ...]

    def problem(self, direction: str = "forward", dtype: str | None = None, layout: str | None = None,
                precision: str | None = None) -> Problem:
        """One product of the layer, in the dtype and the layout of its network where none is given."""
        return Problem.of_shape(self, direction, dtype or self.dtype, layout or self.layout, precision or "tf32",
                          epilogue=Epilogue(bias=self.bias and direction == "forward"))

    @property
    def kind(self) -> str:
        """Kernel and stride, "k3s2" or "k1x2x2s1x2x2"."""
        short = lambda v: str(v[0]) if len(set(v)) == 1 else "x".join(map(str, v))
        return f"k{short(self.kernel)}s{short(self.stride)}"


@lru_cache(maxsize=None)
def layers() -> tuple[Layer, ...]:
    """All layers, in the order of the file: those of one network stand together."""
    exact = lambda value: tuple(value) if isinstance(value, list) else value
    return tuple(Layer(**{key: exact(value) for key, value in row.items()}) for row in json.loads(FILE.read_text()))


def select(patterns) -> tuple[Layer, ...]:
    """The layers that any of the patterns names, each once.

    A pattern is a layer's name, its network, a tag ("k=s", "depthwise") or a kind ("k3s2"), or the beginning of one;
    case, blanks and punctuation do not matter ("nnunet" is "nnU-Net v2"), * and ? stand for what they do in file names,
    and "all" for every layer.

    Raises:
        ValueError: a pattern names nothing; the message has what comes close.
    """
    chosen = set()
    for pattern in patterns:
        found = [layer for layer in layers() if pattern == layer.name] or \
            [layer for layer in layers() if pattern == "all" or any(_matches(word, pattern) for word in _words(layer))]
        if not found:
            raise ValueError(f"no layer, network or tag is called {pattern!r}{_close(pattern)}")
        chosen.update(found)
    return tuple(layer for layer in layers() if layer in chosen)


def _words(layer: Layer) -> tuple[str, ...]:
    return layer.name, layer.network, layer.kind, *layer.tags


def _plain(text: str) -> str:
    return re.sub(r"[\s_./()-]", "", text.lower())


def _matches(word: str, pattern: str) -> bool:
    pattern = _plain(pattern)
    glob = pattern if "*" in pattern or "?" in pattern else pattern + "*"
    return bool(pattern) and fnmatchcase(_plain(word), glob)


def _close(pattern: str) -> str:
    known = {_plain(part): part for layer in reversed(layers()) for part in (layer.name, layer.network, layer.kind)}
    close = difflib.get_close_matches(_plain(pattern), known, n=4, cutoff=0.5)
    return f"; did you mean {', '.join(repr(known[word]) for word in close)}?" if close else \
        "; `triton-conv3dt explain --layers all` lists them all"
