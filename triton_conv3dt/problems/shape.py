"""The numbers of one layer, as a value: what every problem, every known layer and every test case begins with."""

from dataclasses import dataclass, fields
from functools import cached_property
from math import prod

from .geometry import Axis, output_size


@dataclass(frozen=True)
class Shape:
    """The sizes of a layer: x is [n, ci, *in_size], y [n, co, *out_size], w [ci, co / groups, *kernel].

    padding is the crop before the output, any integers; what is cropped or added after it follows from out_size.
    """

    n: int
    ci: int
    co: int
    in_size: tuple[int, int, int]
    out_size: tuple[int, int, int]
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int] = (1, 1, 1)
    padding: tuple[int, int, int] = (0, 0, 0)
    dilation: tuple[int, int, int] = (1, 1, 1)
    groups: int = 1

    @staticmethod
    def of(*, n=1, ci, co, in_size, kernel, stride=1, padding=0, output_padding=0, dilation=1, groups=1,
           out_size=None) -> "Shape":
        """In the terms of torch.nn.ConvTranspose3d; one integer stands for three.

        out_size overrides output_padding: it can say what PyTorch's arguments cannot.
        """
        triple = lambda v: tuple(v) if isinstance(v, (tuple, list)) else (v,) * 3
        in_size, kernel, stride, padding, dilation = map(triple, (in_size, kernel, stride, padding, dilation))
        out_size = triple(out_size) if out_size is not None else \
            tuple(map(output_size, in_size, kernel, stride, padding, triple(output_padding), dilation))
        return Shape(n, ci, co, in_size, out_size, kernel, stride, padding, dilation, groups)

    @property
    def numbers(self) -> dict[str, object]:
        """What makes another value of the same layer."""
        return {field.name: getattr(self, field.name) for field in fields(Shape)}

    @cached_property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        return tuple(map(Axis, self.in_size, self.out_size, self.kernel, self.stride, self.padding, self.dilation))

    @cached_property
    def ci_group(self) -> int:
        return self.ci // self.groups

    @cached_property
    def co_group(self) -> int:
        return self.co // self.groups

    @cached_property
    def taps(self) -> int:
        return prod(self.kernel)

    @cached_property
    def exact(self) -> bool:
        """Kernel equals stride, nothing cropped: one dense product, x and y read and written once."""
        return all(axis.exact for axis in self.axes)

    @property
    def flops(self) -> int:
        """Multiply-adds that meet an output, twice."""
        return 2 * self.n * prod(axis.multiplications() for axis in self.axes) * self.ci * self.co_group
