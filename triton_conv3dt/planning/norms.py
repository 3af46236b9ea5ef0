"""The pass that normalises what a layer wrote, as the values of planning/passes.py."""

from ..problems.activations import Activation
from ..problems.geometry import ceil_div
from .passes import BLOCK, Launch, Schedule, activation_constants


def normalise(n: int, c: int, places: int, activation: Activation | None, *, eps: float, batch: bool, channels_last: bool,
              scaled: bool, shifted: bool, double: bool, wide: bool) -> Schedule:
    """z from y [n, c, places], dense, and the statistics of the batch or of each sample."""
    block_c = min(64, 1 << (c - 1).bit_length()) if channels_last else 1
    block_p = BLOCK // block_c
    tensors = "y", "z", "mean", "variance", "scale" if scaled else None, "shift" if shifted else None
    constants = dict(EPS=eps, BATCH=batch, LAST=channels_last, **activation_constants("ACTIVATION", activation),
                     BLOCK_C=block_c, BLOCK_P=block_p, ACC="float64" if double else "float32",
                     INDEX="int64" if wide else "int32")
    grid = n * ceil_div(c, block_c) * ceil_div(places, block_p), 1, 1
    return Schedule(("y", "z", "mean", "variance", "scale", "shift"), (
        Launch("normalise", grid, tensors, (places, c), (), constants, f"normalise, grid {grid}"),))
