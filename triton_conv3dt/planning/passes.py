"""What is launched, as values, the launches beside a product (other orders of what it reads, and sums), and what products have in common.

No tensors and no Triton here: tensors are names, and so are types and activations.
"""

from dataclasses import dataclass
from math import gcd, prod

from ..problems.geometry import ceil_div, power_of_two_divisor
from ..problems.problem import Activation, Problem
from . import lanes, lowering, taps
from .config import Config
from .constants import CopiedAxis

BLOCK = 1024  # elements per program of an elementwise kernel
SUMMED = 512  # of one that adds shares: so few that loads of many shares have registers


@dataclass(frozen=True)
class Workspace:
    """Memory that lives for one call. dtype is that of the operands where none is named."""

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str | None = None


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    tensors: names, in the kernel's order; None for one that is left out. sizes: integers, and tuples (d, h, w), after them.
    strides: tuples that follow, each the strides of a tensor by its name, some of them (name, one of binding.SELECTIONS, what
    that needs), or plain integers. constants: what specialises the kernel, by parameter. described: as what the first tensors
    are read by a tensor descriptor, each a reading of lowering.described, for a problem and a config. ctas: programs of a cluster.
    """

    kernel: str
    grid: tuple[int, int, int]
    tensors: tuple[str | None, ...]
    sizes: tuple[int | tuple[int, int, int], ...]
    strides: tuple[str | tuple, ...]
    constants: dict[str, object]
    purpose: str
    warps: int = 4
    stages: int = 1
    described: tuple[tuple[str, Problem, Config], ...] = ()
    ctas: int = 1

    def __str__(self) -> str:
        return self.purpose


@dataclass(frozen=True)
class Schedule:
    """Every launch of a call, in order, and the memory that they need beside the operands."""

    operands: tuple[str, ...]
    launches: tuple[Launch, ...]
    workspaces: tuple[Workspace, ...] = ()

    @property
    def main(self) -> Launch:
        """The product: the one launch that is neither a copy before it nor a sum after it."""
        return next(launch for launch in self.launches if launch.kernel in PRODUCTS)


PRODUCTS = ("gather", "walk", "walk_weight", "turn_weight", "pair", "pair_weight", "direct", "grad_weight", "grad_weight_direct",
            "backward", "make_dz")


def copy(p: Problem, name: str, padded: tuple[int, tuple[int, int, int]] | None = None,
         apart: tuple[int, int] = (1, 1)) -> tuple[Launch, Workspace]:
    """x, or dz ("y"), in channels_last, and the memory of the copy. padded: its channels and size, where it has more than what
    is copied, zeros. apart: so many residues along d and h of each sample lie one after another."""
    given, layout, run = ((p.ci, p.in_size), p.x_layout, p.x_run) if name == "x" else ((p.co, p.out_size), p.y_layout, p.y_run)
    channels, size = padded or given
    block_c, block_p = (64, 64) if p.item == 2 else (32, 64)
    places, limit = p.n * prod(size), 16 // p.item
    block_c = min(block_c, 1 << max(0, channels - 1).bit_length())
    why = "rounded to TF32" if p.rounded else "its taps shift along w by single elements" if layout == "channels_first" else (
        "places with channels of their own")
    why += f", padded to {channels} channels of {'x'.join(map(str, size))}" * ((channels, size) != given)
    why += ", residues along d and h one after another" * (prod(apart) > 1)
    return Launch(
        "to_channels_last", (ceil_div(places, block_p), ceil_div(channels, block_c), 1), (name, "copied"),
        (places, channels, size, *given), (name,),
        dict(X_RUN=gcd(run, size[2]) if layout == "channels_first" else 1,
             C_RUN=gcd(power_of_two_divisor(channels, limit), block_c), ROUND=p.rounded, PADDED=(channels, size) != given,
             APART=apart, BLOCK_C=block_c, BLOCK_P=block_p, INDEX=index(p)),
        f"copy {'x' if name == 'x' else 'dz'} to channels_last ({why})"), channels_last("copied", (p.n, channels, *size))


def to_residues(p: Problem, axes: list[CopiedAxis], name: str) -> tuple[Launch, Workspace]:
    """x, or dz ("y"), as a weight gradient reads a copy: rounded, as taps.py or weight_pairs.py says; and the memory of the copy."""
    channels, size, run = (p.ci, p.in_size, p.x_run) if name == "x" else (p.co, p.out_size, p.y_run)
    what = "x" if name == "x" else "dz"
    first, count, residues, _ = zip(*axes)
    block_h, block_w = _tile(*count[1:])
    w, shape, copied = axes[2], (p.n, channels, *(axis.size for axis in axes)), f"copied_{what}"
    return Launch(
        "to_residues", (p.n * channels * count[0] * ceil_div(count[1], block_h), ceil_div(w.count, block_w), 1), (name, copied),
        (channels, first, count, tuple(axis.places for axis in axes), size), (name, copied),
        dict(RESIDUES=residues, X_RUN=gcd(run, w.first, w.count, size[2]) if w.residues == 1 else 1,
             C_RUN=gcd(taps.RUN, w.count, w.size) if w.residues == 1 else 1, ROUND=p.rounded, BLOCK_H=block_h, BLOCK_W=block_w,
             INDEX=index(p)),
        f"copy {what}" + ", rounded to TF32" * p.rounded + ", residue after residue" * any(n > 1 for n in residues),
    ), Workspace(copied, shape, lowering.dense_strides(shape, "channels_first"))


def _tile(high: int, wide: int) -> tuple[int, int]:
    """Sides (h, w) of the tiles of a plane that an elementwise kernel takes the fewest instructions for: what a program begins with
    is worth that of about a thousand elements."""
    tried = [(1 << i, 1 << j) for i in range(7) for j in range(5, 9) if BLOCK <= 1 << i + j <= 4 * BLOCK]
    return min(tried, key=lambda tile: ceil_div(high, tile[0]) * ceil_div(wide, tile[1]) * (tile[0] * tile[1] + BLOCK))


def pack(p: Problem, minor: str, rounded: bool = False, slots: tuple[int, ...] | None = None, channels: int = 0) -> Launch:
    """w as [ci, tap, co]; or as [co, tap, ci], for input channels side by side. rounded: to TF32, as what it meets. slots: the taps in
    another order, -1 for zeros. channels: so many lie side by side, zeros beyond those of w; 0 for no more."""
    taps = p.taps if slots is None else len(slots)
    live, outer = (p.ci, p.co_group) if minor == "ci" else (p.co_group, p.ci)
    inner = channels or live
    size = outer * inner * taps
    purpose = "input channels side by side" if minor == "ci" else "output channels side by side"
    purpose += ", rounded to TF32 as what it meets" if rounded else " (none for a weight in channels_last_3d)" if minor == "co" else ""
    return Launch(
        "pack", (ceil_div(size, BLOCK), 1, 1), ("w", "packed"), (size, inner, live, taps, *p.kernel[1:]), ("w",),
        dict(ROUND=rounded, CI_INNER=minor == "ci", SLOTS=slots, BLOCK=BLOCK), f"pack the weight, {purpose}")


def packed(p: Problem, minor: str, slots: tuple[int, ...] | None = None, channels: int = 0) -> Workspace:
    """The memory of a packed weight."""
    kernel = p.kernel if slots is None else (len(slots), 1, 1)
    if minor == "co":
        return channels_last("packed", (p.ci, channels or p.co_group, *kernel))
    co, ci, *taps = lowering.dense_strides((p.co_group, channels or p.ci, *kernel), "channels_last")
    return Workspace("packed", (channels or p.ci, p.co_group, *kernel), (ci, co, *taps))


def channels_last(name: str, shape: tuple[int, ...]) -> Workspace:
    return Workspace(name, shape, lowering.dense_strides(shape, "channels_last"))


def divisions(size: tuple[int, int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Factors and shifts by which a flat index is divided to have its sample, plane and row."""
    return tuple(zip(*(division(max(1, prod(size[i:]))) for i in range(3))))


def division(count: int) -> tuple[int, int]:
    """What `quotient` of kernels/tiles.py divides numbers of 31 bits by count with: a factor of 32 bits, as a signed number, and a shift."""
    shift = (count - 1).bit_length()
    factor = ceil_div(1 << 31 + shift, count)  # too large by less than 1 / count of itself times 2**shift, so no quotient is
    return factor - (1 << 32), shift


def index(p: Problem) -> str:
    return "int64" if p.wide else "int32"


def sum_weights(p: Problem, shares: int, target: str = "w", tap_minor: bool = False) -> Launch:
    """dw from its shares, in order; tap_minor: as parts_of has them."""
    size = p.ci * p.taps * p.co_group
    return Launch("sum_parts", (ceil_div(size, SUMMED), 1, 1), ("parts", target),
                  (size, shares, p.co_group, p.taps, *p.kernel[1:]), (target,), dict(TAP_MINOR=tap_minor, BLOCK=SUMMED),
                  f"sum_parts, {shares} share{'s' * (shares > 1)} in order")


def shares_to(p: Problem, c: Config) -> tuple:
    """Where a weight gradient is written, and its strides: shares of it, or w where one share is the result."""
    return ("w", ("w", "one share")) if lowering.writes_whole(p, c) else ("parts", "parts")


def with_sums(p: Problem, c: Config, product: Launch, copies=(), memory=()) -> tuple[list, list]:
    """A weight gradient after what it reads copies of, and the sum of its parts."""
    if lowering.writes_whole(p, c):
        return [*copies, product], [*memory]
    parts = taps.parts(p, c)
    return [*copies, product, sum_weights(p, parts)], [*memory, parts_of(p, parts)]


def sum_biases(co: int, shares: int, source: str, target: str) -> Launch:
    """db from shares [shares, co], in order."""
    return Launch("sum_parts", (ceil_div(co, SUMMED), 1, 1), (source, target), (co, shares, co, 1, 1, 1), ((0, 1, 0, 0, 0),),
                  dict(TAP_MINOR=False, BLOCK=SUMMED), f"sum_parts of db, {shares} share{'s' * (shares > 1)} in order")


def parts_of(p: Problem, shares: int, tap_minor: bool = False) -> Workspace:
    """Shares of dw, [shares, ci, co, tap] with the output channels side by side, or the taps."""
    ci, co = p.ci, p.co_group
    steps = (p.taps, 1) if tap_minor else (1, co)
    return Workspace("parts", (shares, ci, co, p.taps), (ci * co * p.taps, co * p.taps, *steps), accumulator(p))


def accumulator(p: Problem) -> str:
    return "float64" if p.dtype == "float64" else "float32"


def product_constants(p: Problem, c: Config) -> dict[str, object]:
    """What every product is specialised on."""
    return dict(zip(("AXIS_D", "AXIS_H", "AXIS_W"), lowering.axis_constants(p, c))) | dict(INDEX=index(p))


def lane_constants(p: Problem, c: Config) -> dict[str, object]:
    """What products without tensor cores are specialised on besides."""
    reads_h, reads_w = lanes.reads(p, c)
    return dict(LANES=lanes.lanes(p, c), READS_H=reads_h, READS_W=reads_w, ACC=accumulator(p))


def activation_constants(parameter: str, activation: Activation | None) -> dict[str, object]:
    """An activation, by name, and its two parameters."""
    parameters = (*(activation.parameters if activation else ()), 0.0, 0.0)[:2]
    return {parameter: activation.name if activation else None, "PARAMETERS": parameters}


def offset_width(p: Problem) -> str:
    return f"{64 if p.wide else 32}-bit offsets"
