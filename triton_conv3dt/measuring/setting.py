"""What is measured: a layer in one direction, dtype and layout, with what its network does to the result at once."""

from dataclasses import dataclass

from ..problems.layers import Layer
from ..problems.problem import DIRECTIONS, Activation, Problem
from .selection import STEP


@dataclass(frozen=True)
class After:
    """What a network does with the output at once, as far as it can be one pass with the layer."""

    activation: Activation | None = None
    residual: bool = False
    concat: str | None = None  # "first" or "last": where the output stands in the concatenation with a skip

    @staticmethod
    def of(layer: Layer) -> "After":
        """Read from the words of layers.json: only the first step counts, a normalisation ends it."""
        words = layer.followed_by.replace("(replicate pad if odd) ->", "").replace("(activation None) ->", "")
        step = words.strip().lower()
        if step.startswith("concat"):
            return After(concat="last" if step.startswith(("concat(skip", "concat(prev")) else "first")
        if step.startswith("+="):
            return After(residual=True)
        name = next((name for name in ("relu", "gelu") if step.startswith(name)), None)
        return After(activation=Activation.of(name))

    def __str__(self) -> str:
        words = ["residual"] * self.residual + [str(self.activation)] * bool(self.activation)
        return " + ".join(words + [f"concatenation, output {self.concat}"] * bool(self.concat)) or "nothing"


@dataclass(frozen=True)
class Setting:
    """What is measured: a layer in one direction ("step" is all of them), dtype and layout."""

    layer: Layer
    direction: str
    dtype: str
    layout: str

    @property
    def problem(self) -> Problem:
        """The layer's product in this direction; the forward one for a step."""
        direction = "forward" if self.direction == STEP else self.direction
        return self.layer.problem(direction, self.dtype, self.layout)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every product that is computed."""
        directions = DIRECTIONS if self.direction == STEP else (self.direction,)
        return tuple(self.layer.problem(direction, self.dtype, self.layout) for direction in directions)

    @property
    def after(self) -> After:
        return After.of(self.layer) if self.direction in ("forward", STEP) else After()

    def __str__(self) -> str:
        return f"{self.layer.name} {self.direction} {self.dtype} {self.layout}"
