"""What a sweep goes through, and in which order: after any budget the layers that weigh most are done."""

from collections.abc import Iterable, Sequence

from ..problems.layers import Layer
from ..problems.problem import DIRECTIONS, Problem

STEP = "step"  # forward and every gradient: a whole training step of a layer
MEASURED = (*DIRECTIONS, STEP)
OURS, CUDNN, CUDNN_LAST, COMPILED, MATMUL, JAX = PEERS = (
    "triton_conv3dt", "cudnn", "cudnn_channels_last", "torch.compile", "matmul", "jax")
OWN = "own"  # the dtype or the layout in which a layer's network runs it


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
