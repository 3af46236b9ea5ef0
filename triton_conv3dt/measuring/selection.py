"""What a sweep goes through, and in which order: after any budget the layers that weigh most are done.

tune goes through problems, bench through settings: layers with what their networks do to the result at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..problems.layers import Layer
from ..problems.problem import DIRECTIONS, Activation, Problem

STEP = "step"  # forward and every gradient: a whole training step of a layer
MEASURED = (*DIRECTIONS, STEP)
OURS, CUDNN, CUDNN_LAST, COMPILED, MATMUL, JAX = PEERS = (
    "triton_conv3dt", "cudnn", "cudnn_channels_last", "torch.compile", "matmul", "jax")
OWN = "own"  # the dtype or the layout in which a layer's network runs it


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


def by_weight(layers: Iterable[Layer]) -> list[Layer]:
    """The layer of each network that moves the most bytes, then the second of each, and so on; then, in the same way,
    shapes of benchmarks and of bug reports."""
    networks: dict[str, list[Layer]] = {}
    for layer in layers:
        networks.setdefault(layer.network, []).append(layer)
    ranked = {layer: rank for own in networks.values()
              for rank, layer in enumerate(sorted(own, key=_weight, reverse=True))}
    return sorted(ranked, key=lambda layer: (_made_up(layer), ranked[layer], -_weight(layer)))


def directions_of(layer: Layer, asked: Sequence[str] | None, known: Sequence[str] = DIRECTIONS) -> Sequence[str]:
    """The directions asked for; without any, those that the layer's network runs: an inference has no gradients."""
    return asked or (known if layer.mode == "train" else known[:1])


def problems(layers: Iterable[Layer], directions: Sequence[str] | None = None, dtypes: Sequence[str] = (OWN,),
             layouts: Sequence[str] = (OWN,)) -> list[Problem]:
    """The products of layers, each once, the layers by weight."""
    found = (layer.problem(direction, _own(dtype, layer.dtype), _own(layout, layer.layout))
             for layer in by_weight(layers) for dtype in dtypes for layout in layouts
             for direction in directions_of(layer, directions))
    return list(dict.fromkeys(found))


def settings(layers: Iterable[Layer], directions: Sequence[str] | None = None, dtypes: Sequence[str] = (OWN,),
             layouts: Sequence[str] = (OWN,)) -> list[Setting]:
    """The settings of layers, each once, the layers by weight."""
    found = (Setting(layer, direction, _own(dtype, layer.dtype), _own(layout, layer.layout))
             for layer in by_weight(layers) for dtype in dtypes for layout in layouts
             for direction in directions_of(layer, directions, MEASURED))
    return list(dict.fromkeys(found))


def peers_of(setting: Setting, names: Sequence[str]) -> list[str]:
    """Those of the peers that a setting is measured with; whether they can run here shows later."""
    gradient = setting.direction in ("grad_input", "grad_weight")
    skipped = {COMPILED, MATMUL, JAX} if gradient else set()
    skipped |= set() if setting.problem.exact else {MATMUL}
    return [name for name in names if name not in skipped]


def shard(items: Sequence, part: tuple[int, int]) -> list:
    """The i-th of n parts, i from 1, each as heavy as the others when the items are in order of weight."""
    i, n = part
    return list(items[i - 1::n])


def _made_up(layer: Layer) -> bool:
    return "public benchmark" in layer.tags or "issue shape" in layer.network


def _own(asked: str, own: str) -> str:
    return own if asked == OWN else asked


def _weight(layer: Layer) -> int:
    return layer.problem().bytes
