"""The corpus: every transposed convolution that the tests ask about, and the tensors to ask with.

    CORPUS              degenerate and boundary problems, small enough for the interpreter
    sample(seed, n)     n random problems, always the same for a seed
    layer_classes()     one small problem for each distinct class of the layers of real networks
    case.tensors(...)   integer tensors of a problem, small enough for every partial sum to be exact in fp32
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace

import torch

from layouts import lay_out
from triton_conv3dt.problems import sampling
from triton_conv3dt.problems.layers import layers
from triton_conv3dt.problems.sampling import reduced, uncropped
from triton_conv3dt.problems.shape import Shape

EXACT = 2**24  # integers below it are exact in fp32, in any order of summation


@dataclass(frozen=True, kw_only=True)
class Case(Shape):
    """One layer, by name."""

    name: str

    def __str__(self):
        return self.name

    @property
    def geometry(self) -> dict:
        """The arguments that the forward and both gradients share."""
        return dict(stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)

    @property
    def output_padding(self) -> tuple[int, int, int] | None:
        """PyTorch's output_padding; None where its arguments cannot express this problem."""
        full = uncropped(self.in_size, self.kernel, self.stride, self.dilation)
        extra = tuple(o - f + 2 * p for o, f, p in zip(self.out_size, full, self.padding))
        fits = all(0 <= e < max(s, d) for e, s, d in zip(extra, self.stride, self.dilation))
        return extra if fits and min(self.padding) >= 0 else None

    @property
    def shapes(self) -> SimpleNamespace:
        return SimpleNamespace(x=(self.n, self.ci, *self.in_size), w=(self.ci, self.co // self.groups, *self.kernel),
                               b=(self.co,), y=(self.n, self.co, *self.out_size))

    def tensors(self, dtype=torch.float32, layout="channels_first", *, device="cpu", seed=0) -> SimpleNamespace:
        """x, w, b, residual and dz with integer values, such that all three products are exact in fp32.

        x, residual and dz are laid out as `layout` says (see lay_out), w as PyTorch would have it beside them.
        """
        generator = torch.Generator().manual_seed(seed)
        longest = max(max(self.ci, self.co) // self.groups * math.prod(self.kernel), self.n * math.prod(self.in_size))
        terms = longest + 2  # and bias and residual
        x_bound, w_bound = (15, 7) if 15 * 7 * terms < EXACT else (max(1, math.isqrt(EXACT // terms)),) * 2

        def integers(shape, bound):
            return torch.randint(-bound, bound + 1, shape, generator=generator).to(device=device, dtype=dtype)

        shapes = self.shapes
        w = integers(shapes.w, w_bound)
        if "channels_last" in layout:
            w = w.contiguous(memory_format=torch.channels_last_3d)
        return SimpleNamespace(
            w=w, b=integers(shapes.b, x_bound), x=lay_out(integers(shapes.x, x_bound), layout),
            residual=lay_out(integers(shapes.y, x_bound), layout), dz=lay_out(integers(shapes.y, w_bound), layout))


def case(name, *, ci=3, co=4, **shape) -> Case:
    """A Case; shape: what Shape.of takes."""
    return Case(name=name, **Shape.of(ci=ci, co=co, **shape).numbers)


CORPUS = (
    # the three classes that real networks are made of
    case("k2s2", n=2, ci=16, co=8, in_size=(2, 3, 5), kernel=2, stride=2),
    case("k3s2p1op1", n=2, ci=8, co=16, in_size=(3, 2, 5), kernel=3, stride=2, padding=1, output_padding=1),
    case("k4s2p1", n=1, ci=16, co=7, in_size=(2, 5, 3), kernel=4, stride=2, padding=1),
    # kernel against stride
    case("k1s1", n=3, ci=7, co=5, in_size=(2, 3, 7), kernel=1),
    case("k3s1p1", ci=4, co=3, in_size=(3, 5, 2), kernel=3, padding=1),
    case("k1s2 holes", n=2, in_size=(2, 3, 5), kernel=1, stride=2),
    case("k1s2 holes, output padded", in_size=(2, 3, 1), kernel=1, stride=2, output_padding=1),
    case("k2s3 holes", in_size=(3, 2, 4), kernel=2, stride=3),
    case("k3s4 holes, cropped", ci=16, co=16, in_size=(2, 3, 4), kernel=3, stride=4, padding=1, output_padding=3),
    case("k5s3", in_size=(2, 4, 3), kernel=5, stride=3, padding=2, output_padding=2),
    case("k5s2", ci=1, co=2, in_size=(3, 2, 4), kernel=5, stride=2, padding=2, output_padding=1),
    case("k4s4", ci=5, co=1, in_size=(1, 2, 3), kernel=4, stride=4),
    case("anisotropic k=s", ci=8, co=8, in_size=(3, 2, 4), kernel=(1, 2, 2), stride=(1, 2, 2)),
    case("anisotropic k=s, no power of two", ci=8, co=6, in_size=(2, 3, 3), kernel=(1, 3, 2), stride=(1, 3, 2)),
    case("anisotropic", in_size=(5, 3, 2), kernel=(3, 1, 4), stride=(1, 3, 2), padding=(1, 0, 2),
         output_padding=(0, 2, 1)),
    case("stride on one axis", in_size=(2, 3, 4), kernel=(3, 3, 4), stride=(1, 1, 2), padding=1),
    case("temporal only", n=2, in_size=(3, 2, 4), kernel=(4, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0)),
    # padding and output size
    case("padding beyond the kernel", in_size=(7, 5, 6), kernel=(2, 1, 3), stride=(2, 1, 2), padding=(3, 2, 4)),
    case("padding k-1", in_size=(5, 4, 3), kernel=(4, 3, 2), stride=(1, 2, 2), padding=(3, 2, 1)),
    case("k=s with output padding", in_size=(2, 3, 2), kernel=2, stride=2, output_padding=(1, 0, 1)),
    case("one output of many", ci=5, in_size=(2, 3, 4), kernel=3, stride=2, padding=(2, 3, 4), out_size=1),
    case("TF SAME k3", ci=8, co=8, in_size=(2, 3, 4), kernel=3, stride=2, out_size=(4, 6, 8)),
    case("TF SAME k5", in_size=(3, 2, 4), kernel=5, stride=2, padding=1, out_size=(6, 4, 8)),
    case("TF SAME, odd output", in_size=(2, 3, 4), kernel=3, stride=2, padding=1, out_size=(3, 5, 7)),
    case("negative padding", in_size=(2, 3, 2), kernel=2, stride=2, padding=(-1, -2, 0), out_size=(6, 9, 5)),
    case("output far beyond the taps", in_size=(1, 2, 3), kernel=2, stride=2, padding=(0, 1, -3), out_size=(9, 8, 17)),
    case("output before the taps", in_size=(3, 2, 2), kernel=2, stride=2, padding=(-5, 0, 0), out_size=(3, 4, 4)),
    case("all cropped before", in_size=(2, 2, 3), kernel=2, stride=2, padding=(9, 0, 0), out_size=(2, 4, 6)),
    # dilation
    case("dilated", in_size=(2, 3, 4), kernel=2, dilation=(2, 3, 1), padding=(0, 1, 0)),
    case("dilation shares a factor with stride", in_size=(3, 2, 4), kernel=3, stride=2, dilation=2, padding=(1, 2, 0)),
    case("dilation and stride coprime", in_size=(2, 3, 3), kernel=3, stride=(2, 3, 4), dilation=(3, 2, 3),
         padding=(1, 0, 2), output_padding=(2, 1, 3)),
    case("dilation a multiple of stride", in_size=(3, 4, 2), kernel=2, stride=2, dilation=4, output_padding=3),
    case("stride 4, dilation 6", in_size=(2, 1, 3), kernel=2, stride=4, dilation=6, padding=1),
    # the same with channels enough for tensor cores: some phases have no taps
    case("dense, dilation shares a factor with stride", ci=16, co=16, in_size=(3, 2, 4), kernel=3, stride=2, dilation=2,
         padding=(1, 2, 0)),
    case("dense, stride 4, dilation 6", ci=16, co=8, in_size=(2, 1, 3), kernel=2, stride=4, dilation=6, padding=1),
    case("dense, stride and dilation 2 along w", n=2, ci=16, co=16, in_size=(2, 3, 4), kernel=2, stride=(1, 2, 2),
         dilation=(3, 1, 2), padding=(0, 0, 1), output_padding=(0, 1, 1)),
    # axes of size 1, and long ones
    case("one input", n=2, ci=17, co=3, in_size=1, kernel=(4, 3, 2), stride=1),
    case("one input, stride 2", in_size=1, kernel=4, stride=2, padding=1),
    case("flat depth", in_size=(1, 7, 5), kernel=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
    case("flat height", in_size=(5, 1, 7), kernel=(2, 1, 2), stride=(2, 1, 2)),
    case("flat width", in_size=(7, 5, 1), kernel=(2, 2, 1), stride=(2, 2, 1)),
    case("long width", ci=2, co=2, in_size=(1, 2, 33), kernel=(1, 2, 4), stride=(1, 2, 2), padding=(0, 0, 1)),
    case("long depth", ci=2, co=2, in_size=(33, 2, 1), kernel=(3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0)),
    case("more positions than a tile", ci=3, co=2, in_size=(5, 7, 9), kernel=2, stride=2),
    # channels
    case("one channel", ci=1, co=1, in_size=(2, 3, 5), kernel=3, stride=2, padding=1),
    case("Cin 3", ci=3, co=16, in_size=(2, 3, 5), kernel=3, stride=2, padding=1),
    case("Cout 1", ci=16, co=1, in_size=(2, 3, 5), kernel=4, stride=2, padding=1),
    case("channels 17 and 7", ci=17, co=7, in_size=(2, 3, 4), kernel=2, stride=2),
    case("channels 65 and 33", n=1, ci=65, co=33, in_size=(1, 2, 3), kernel=2, stride=2),
    case("channels 20 and 12", n=2, ci=20, co=12, in_size=(3, 2, 4), kernel=3, stride=2, padding=1, output_padding=1),
    # groups
    case("two groups", n=2, ci=8, co=6, in_size=(2, 3, 4), kernel=3, stride=2, padding=1, groups=2),
    case("two groups, k=s", ci=32, co=32, in_size=(2, 3, 4), kernel=2, stride=2, groups=2),
    case("three groups of one", ci=3, co=6, in_size=(2, 3, 4), kernel=2, stride=2, groups=3),
    case("depthwise k3s2", n=2, ci=24, co=24, in_size=(2, 3, 4), kernel=3, stride=2, padding=1, groups=24),
    case("depthwise k5s2", ci=17, co=17, in_size=(3, 2, 4), kernel=5, stride=2, padding=2, groups=17),
    case("depthwise k=s", n=2, ci=7, co=7, in_size=(2, 3, 4), kernel=(1, 1, 2), stride=(1, 1, 2), groups=7),
    case("depthwise times two", ci=5, co=10, in_size=(2, 3, 4), kernel=3, stride=2, padding=1, groups=5),
    case("depthwise holes, dilated", ci=4, co=4, in_size=(2, 3, 4), kernel=2, stride=(3, 2, 1), dilation=2, groups=4),
    # batch
    case("empty batch", n=0, ci=8, co=8, in_size=(2, 3, 4), kernel=2, stride=2),
    case("empty batch, overlapping", n=0, in_size=(2, 3, 4), kernel=3, stride=2, padding=1),
    case("batch of three", n=3, ci=4, co=4, in_size=(1, 3, 2), kernel=2, stride=2, padding=(0, 1, 0)),
)


def sample(seed: int, n: int) -> list[Case]:
    """n random problems that the interpreter can run, half of them such as PyTorch can express."""
    return [Case(name=f"random-{seed}-{i}", **shape.numbers) for i, shape in enumerate(sampling.shapes(seed, n))]


@dataclass(frozen=True, kw_only=True)
class LayerClass(Case):
    """What layers of real networks have in common, and the memory format that they run in."""

    layout: str


@lru_cache(maxsize=None)
def layer_classes() -> tuple[LayerClass, ...]:
    """Each distinct class once: kernel, stride, crop, kind of groups, divisibility of the channels, size-1 axes."""
    seen = {}
    for layer in layers():
        small = LayerClass(name=layer.name, layout=layer.layout, **reduced(layer).numbers)
        seen.setdefault((*(small.numbers | dict(n=0)).values(), small.layout), small)
    return tuple(seen.values())
