"""The integer mathematics of one transposed convolution axis: output size, phases, taps, and what they read.

    y[o] = sum of x[i] * w[k] over all taps k and inputs i with  i * stride - padding + k * dilation == o

Gather form: write q = o + padding, r = q mod stride. The taps that reach o are {k : k * dilation = r (mod stride)}. With
g = gcd(stride, dilation) they exist only where g divides r, and step by stride / g from the smallest one; what they
read steps back by dilation / g. So an axis splits into `stride` phases, each a dense product, and no multiplication by
an inserted zero is ever done.

Outputs are counted as o = stride * t + r - origin with t = 0 .. steps - 1 and r = 0 .. stride - 1. origin = 0 aligns a
phase with the output (its stores start at multiples of the stride); origin = padding mod stride lines the taps of all
phases up, so that phases which read the same inputs can be merged into one product without waste.

Only integers here: no tensors, no devices.
"""

from dataclasses import dataclass
from functools import cached_property
from math import gcd


def output_size(size: int, kernel: int, stride: int, padding: int, output_padding: int, dilation: int) -> int:
    """Length of a transposed convolution's output axis, as torch.nn.ConvTranspose3d documents it."""
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two_divisor(value: int, limit: int) -> int:
    """The largest power of two that divides value, at most limit; limit itself for 0."""
    return min(limit, value & -value) if value else limit


@dataclass(frozen=True)
class Phase:
    """What one residue of the output reads: tap first + j * tap_step at input t + offset - j * input_step, j < taps."""

    residue: int
    taps: int
    first: int
    offset: int


@dataclass(frozen=True)
class Axis:
    """One axis of a transposed convolution: input size, output size, and the layer's numbers along it.

    padding is what is cropped before the output, any integer; what is cropped after follows from out.
    """

    size: int
    out: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Of integers, and so the same in every process; planning looks up what it knows of an axis thousands of times."""
        return hash((self.size, self.out, self.kernel, self.stride, self.padding, self.dilation))

    @property
    def common(self) -> int:
        return gcd(self.stride, self.dilation)

    @property
    def tap_step(self) -> int:
        return self.stride // self.common

    @property
    def input_step(self) -> int:
        return self.dilation // self.common

    @property
    def inverse(self) -> int:
        """The inverse of dilation / g modulo stride / g: it solves k * dilation = r (mod stride) for k."""
        return pow(self.input_step, -1, self.tap_step) if self.tap_step > 1 else 0

    @property
    def aligned_origin(self) -> int:
        """The origin at which tap k of a merged axis belongs to phase k mod stride, whatever the padding."""
        return self.padding % self.stride

    def steps(self, origin: int) -> int:
        """How many coarse places t cover the output."""
        return ceil_div(self.out + origin, self.stride)

    def phase(self, residue: int, origin: int = 0) -> Phase:
        q = residue - origin + self.padding
        if q % self.common:
            return Phase(residue, 0, 0, 0)
        first = (q // self.common * self.inverse) % self.tap_step
        taps = max(0, ceil_div(self.kernel - first, self.tap_step))
        return Phase(residue, taps, first, (q - first * self.dilation) // self.stride)

    def phases(self, origin: int = 0) -> list[Phase]:
        return [self.phase(r, origin) for r in range(self.stride)]

    def merged(self, origin: int) -> "Merged":
        """All phases in one product over the union of what they read. Needs dilation 1."""
        if self.dilation != 1:
            raise ValueError(f"phases of an axis with dilation {self.dilation} read different inputs and cannot be merged")
        q = self.padding - origin
        high = (self.stride - 1 + q) // self.stride
        low = -((self.kernel - 1 - q) // self.stride)
        return Merged(taps=high - low + 1, first=q - self.stride * high, offset=high, kernel=self.kernel, stride=self.stride)

    def split(self) -> "Merged":
        """The input gradient read backwards: dz at stride * (i + offset + j) + r meets tap first + r + stride * j."""
        low = -((self.padding + self.stride - 1) // self.stride)
        high = (self.kernel - 1 - self.padding) // self.stride
        return Merged(taps=max(0, high - low + 1), first=self.padding + self.stride * low, offset=low,
                      kernel=self.kernel, stride=self.stride)

    @cached_property
    def exact(self) -> bool:
        """Kernel equals stride and nothing is cropped or added: every output has one tap and every input is used."""
        return (self.kernel == self.stride and self.dilation == 1 and self.padding == 0
                and self.out == self.size * self.stride)

    @cached_property
    def reads(self) -> frozenset[int]:
        """The input offsets that the phases read, counted from an aligned output."""
        return frozenset(p.offset - j * self.input_step for p in self.phases() for j in range(p.taps))

    @cached_property
    def reads_in_place(self) -> bool:
        """Coarse step t reads input t and no other, and there are as many steps as inputs."""
        return self.reads <= {0} and self.padding % self.stride == 0 and self.steps(0) == self.size

    def multiplications(self) -> int:
        """Pairs (input, tap) that meet an output: what has to be computed along this axis."""
        lowest = lambda k: max(0, ceil_div(self.padding - k * self.dilation, self.stride))
        highest = lambda k: min(self.size - 1, (self.out - 1 + self.padding - k * self.dilation) // self.stride)
        return sum(max(0, highest(k) - lowest(k) + 1) for k in range(self.kernel))

    def describe(self) -> str:
        """The phases in words, one clause per distinct number of taps."""
        counts: dict[int, int] = {}
        for p in self.phases():
            counts[p.taps] = counts.get(p.taps, 0) + 1
        parts = [f"{n} with {taps} tap{'s' * (taps != 1)}" for taps, n in sorted(counts.items(), reverse=True)]
        return f"{self.size} -> {self.out}: {self.stride} phase{'s' * (self.stride != 1)} ({', '.join(parts)})"


@dataclass(frozen=True)
class Merged:
    """All phases of an axis at once: step j reads offset (+ or -) j, phase r meets tap first + r + stride * j.

    A tap outside 0 .. kernel - 1 does not exist; its weight is zero.
    """

    taps: int
    first: int
    offset: int
    kernel: int
    stride: int

    @property
    def full(self) -> bool:
        """Every (phase, step) has a tap: the merged product does no more than the separate ones."""
        return self.first == 0 and self.taps * self.stride == self.kernel
