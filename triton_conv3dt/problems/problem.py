"""What is asked: one product of one layer, as a value. It knows no device and no tile."""

from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from .activations import Activation
from .geometry import ceil_div, power_of_two_divisor
from .shape import Shape

DIRECTIONS = ("forward", "grad_input", "grad_weight")
BACKWARD = "backward"  # all gradients in one pass, where a kernel can
LAYOUTS = ("channels_first", "channels_last")
PRECISIONS = ("tf32", "tf32x3", "ieee")
OVERHANG = 2**20  # positions that tiles and shares may count beyond the last one; config.fits sees to it
ITEM_SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


def exceed_31_bits(*counts: int) -> bool:
    """Whether indices need 64 bits for so many elements or positions, and for what tiles count beyond them."""
    return max(counts) + OVERHANG > 2**31


@dataclass(frozen=True)
class Epilogue:
    """What is done to the accumulator before its one rounding: bias, then residual, then activation."""

    bias: bool = False
    residual: bool = False
    activation: Activation | None = None
    keep_pre: bool = False  # also write the value before the activation
    statistics: str | None = None  # also mean and variance of what is written, of each "instance" or of the "batch"

    def __str__(self) -> str:
        parts = ["bias"] * self.bias + ["residual"] * self.residual
        parts += [str(self.activation)] if self.activation else []
        parts += ["pre-activation kept"] * self.keep_pre
        return " + ".join(parts + [f"statistics of the {self.statistics}"] * bool(self.statistics)) or "none"


@dataclass(frozen=True)
class Problem(Shape):
    """One product of a layer: forward, grad_input or grad_weight; or backward, the two gradients and the bias's at once.

    Sizes are the layer's, whatever the direction: y stands for dz, too. A layout says which axis of a tensor has stride
    1; an alignment is the largest power of two (in elements, at most 16 bytes) that divides the tensor's address and
    every stride but the unit one; 0 stands for what a dense tensor of these sizes has.
    """

    direction: str = "forward"
    dtype: str = "float16"
    precision: str = "tf32"
    x_layout: str = "channels_first"
    y_layout: str = "channels_first"
    # How w lies in memory: "tap" (contiguous), "co" (as channels_last_3d), "ci" (TF's), "other", or "scattered": there is not
    # even one stride from tap to tap.
    w_minor: str = "tap"
    epilogue: Epilogue = field(default_factory=Epilogue)
    x_alignment: int = 0
    y_alignment: int = 0
    w_alignment: int = 0
    r_alignment: int = 0  # of the residual, in the layout of y; 1 where it has another
    wide: bool = False  # offsets into some tensor, or counts of positions, exceed 31 bits: see is_wide
    # One stride steps through all places of the gathered tensor (x forward, dz of grad_input, both of grad_weight); where that is
    # channels-first, 1 through those of each channel, which begin at multiples of 16 bytes and follow each other evenly; of a weight
    # gradient, whose samples are whole planes of dz apart.
    even: bool = True

    @staticmethod
    def of_layer(direction="forward", *, dtype="float16", layout="channels_first", w_minor=None, bias=False,
                 activation=None, residual=False, statistics=None, precision="tf32", **shape) -> "Problem":
        """The problem of a layer with dense tensors in one layout; shape: what Shape.of takes."""
        return Problem.of_shape(Shape.of(**shape), direction, dtype, layout, precision, w_minor=w_minor,
                          epilogue=Epilogue(bias, residual, Activation.of(activation), statistics=statistics))

    @staticmethod
    def of_shape(layer: Shape, direction="forward", dtype="float16", layout="channels_first", precision="tf32", *,
                 w_minor=None, epilogue=Epilogue()) -> "Problem":
        """The same of a layer that is a value already."""
        x, w, y = (layer.n * layer.ci * prod(layer.in_size), layer.ci * layer.co_group * layer.taps,
                   layer.n * layer.co * prod(layer.out_size))
        return Problem(**layer.numbers, direction=direction, dtype=dtype, precision=precision, x_layout=layout,
                       y_layout=layout, w_minor=w_minor or ("co" if layout == "channels_last" else "tap"),
                       epilogue=epilogue,
                       wide=Problem.is_wide(layer.n, layer.in_size, layer.out_size, layer.stride, x, w, y))

    @staticmethod
    def is_wide(n, in_size, out_size, stride, x: int, w: int, y: int, residual: int = 0) -> bool:
        """Whether offsets need 64 bits, given how many elements x, w, y and a residual have or span in memory, whichever
        is more. Kernels count positions of x, or of y by its stride, in units of the stride along w at most.
        """
        places = max(prod(in_size), prod(ceil_div(size + s - 1, s) for size, s in zip(out_size, stride)))
        return exceed_31_bits(x, w, 2 * y, 2 * residual, n * places * stride[2])

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Of integers, and so the same in every process, as that of an axis."""
        e, number = self.epilogue, lambda text: int.from_bytes(text.encode(), "big")
        return hash((*self.numbers.values(), self.x_alignment, self.y_alignment, self.w_alignment, self.r_alignment, self.wide, self.even,
                     e.bias, e.residual, e.keep_pre, e.activation is None, e.statistics is None,
                     *map(number, (self.direction, self.dtype, self.precision, self.x_layout, self.y_layout, self.w_minor))))

    @cached_property
    def item(self) -> int:
        return ITEM_SIZES[self.dtype]

    @cached_property
    def x_run(self) -> int:
        """Elements of x that may be read at once: its alignment, settled."""
        return self.x_alignment or self._dense_run(self.x_layout, self.ci, self.in_size[2])

    @cached_property
    def y_run(self) -> int:
        """Elements of y, or dz, that may be moved at once."""
        return self.y_alignment or self._dense_run(self.y_layout, self.co, self.out_size[2])

    @cached_property
    def r_run(self) -> int:
        """Elements of the residual that may be read at once, in the layout of y."""
        return self.r_alignment or self._dense_run(self.y_layout, self.co, self.out_size[2])

    @cached_property
    def rounded(self) -> bool:
        """The operands of the products are fp32 that tensor cores read as tf32: rounded first, or they are cut off."""
        return self.dtype == "float32" and self.precision == "tf32"

    def _dense_run(self, layout: str, channels: int, width: int) -> int:
        return power_of_two_divisor(channels if layout == "channels_last" else width, 16 // self.item)

    @cached_property
    def bytes(self) -> int:
        """Bytes of x, w and y (and what the epilogue reads), each moved once; of all gradients at once those of x and w, too."""
        x, y = self.n * self.ci * prod(self.in_size), self.n * self.co * prod(self.out_size)
        w = self.ci * self.co_group * self.taps
        extra = y * (self.epilogue.residual + self.epilogue.keep_pre)
        if self.direction == BACKWARD:
            extra += x + w + y * (self.epilogue.activation is not None)
        return self.item * (x + y + w + extra)

    @cached_property
    def flops(self) -> int:
        """Those of a layer's product, or of the two that all gradients at once are."""
        return super().flops * (2 if self.direction == BACKWARD else 1)

    def __str__(self) -> str:
        triple = lambda v: str(v[0]) if len(set(v)) == 1 else "x".join(map(str, v))
        words = [self.direction, f"[{self.n}, {self.ci}, {'x'.join(map(str, self.in_size))}]",
                 f"-> [{self.n}, {self.co}, {'x'.join(map(str, self.out_size))}]", f"k{triple(self.kernel)}",
                 f"s{triple(self.stride)}", f"p{triple(self.padding)}"]
        words += [f"d{triple(self.dilation)}"] * (self.dilation != (1, 1, 1)) + [f"g{self.groups}"] * (self.groups > 1)
        words += [self.dtype] + [self.precision] * (self.dtype == "float32")
        words += [self.x_layout] if self.x_layout == self.y_layout else [f"{self.x_layout} to {self.y_layout}"]
        return " ".join(words)
