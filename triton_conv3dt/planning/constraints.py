"""What may be used to compute a problem: which paths, and pipelines of how many stages.

Compilers and drivers have got kernels wrong, those with tensor descriptors and deep pipelines above all. Whoever meets
one does without it, by $TRITON_CONV3DT_WITHOUT or a tool's --without, until it is mended.
"""

import os
import re
from contextlib import contextmanager
from typing import NamedTuple

from .config import PATHS, Config

VARIABLE = "TRITON_CONV3DT_WITHOUT"
WORDS = f"{', '.join(PATHS)}, and stages>N for pipelines of more than N stages"


class Constraints(NamedTuple):
    """What is not to be used: these paths, and pipelines of more stages (None: of any number). A part of cache keys, so
    it is cheap to hash; false where nothing is excluded."""

    without: frozenset[str] = frozenset()
    most_stages: int | None = None

    def __bool__(self) -> bool:
        return bool(self.without) or self.most_stages is not None

    def __str__(self) -> str:
        """As `parse` reads it; "" where nothing is excluded."""
        stages = [] if self.most_stages is None else [f"stages>{self.most_stages}"]
        return ",".join([path for path in PATHS if path in self.without] + stages)

    def union(self, other: "Constraints") -> "Constraints":
        """What both exclude, together."""
        given = [most for most in (self.most_stages, other.most_stages) if most is not None]
        return Constraints(self.without | other.without, min(given, default=None))

    def refuses(self, config: Config) -> str | None:
        """Why a config may not be used, or None."""
        if config.path in self.without:
            return f"the {config.path} path is excluded by {str(self)!r}"
        if config.path in ("walk", "pair") and "descriptor" in self.without:
            return f"the {config.path} path reads by tensor descriptor, which is excluded by {str(self)!r}"
        if self.most_stages is not None and config.stages > self.most_stages:
            return f"a pipeline of {config.stages} stages is excluded by {str(self)!r}"
        return None

    def stages(self, choices: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the numbers of stages that may be used; the most that may where none of them may."""
        if self.most_stages is None:
            return choices
        return tuple(n for n in choices if n <= self.most_stages) or (self.most_stages,)


NONE = Constraints()


def parse(text: str) -> Constraints:
    """The constraints of a text: words separated by commas or spaces, each a path or stages>N.

    Raises:
        ValueError: a word is neither.
    """
    found = NONE
    for word in filter(None, re.split(r"[\s,]+", text)):
        stages = re.fullmatch(r"stages>([0-9]+)", word)
        if word not in PATHS and not stages:
            hint = "; a shell takes > for itself: quote it, 'stages>2'" if word == "stages" else ""
            raise ValueError(f"expected words of {WORDS}, received {word!r}{hint}")
        if stages and int(stages[1]) < 1:
            raise ValueError(f"{word!r} leaves nothing: a pipeline has at least 1 stage")
        found = found.union(Constraints(most_stages=int(stages[1])) if stages else Constraints(frozenset((word,))))
    return found


_current: Constraints | None = None


def current() -> Constraints:
    """What calls and tools do without now: what `using` says, else $TRITON_CONV3DT_WITHOUT, which is read once.

    Raises:
        ValueError: the variable is malformed.
    """
    global _current
    if _current is None:
        text = os.environ.get(VARIABLE, "")
        try:
            _current = parse(text)
        except ValueError as error:
            raise ValueError(f"{VARIABLE}={text!r}: {error}") from None
    return _current


@contextmanager
def using(constraints: Constraints):
    """In here these are the current constraints, for every thread: a backward pass runs in threads of PyTorch's own."""
    global _current
    before, _current = _current, constraints
    try:
        yield
    finally:
        _current = before
