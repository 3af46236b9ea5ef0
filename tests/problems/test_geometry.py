"""The integer mathematics of an axis against its definition: input i meets output o through tap k where
i * stride - padding + k * dilation == o. All small axes are tried."""

import itertools
from collections import Counter
from functools import lru_cache

import pytest

from triton_conv3dt.problems.geometry import Axis, ceil_div, output_size, power_of_two_divisor

SIZES, KERNELS, STRIDES, DILATIONS = range(1, 5), range(1, 6), range(1, 5), range(1, 4)
PADDINGS, EXTRAS = range(-2, 7), range(3)


@lru_cache(maxsize=None)
def axes(stride: int) -> tuple[Axis, ...]:
    """All axes of a stride that have an output: cropped on both sides or before only, and longer than their taps."""
    found = set()
    for size, kernel, dilation, padding, extra in itertools.product(SIZES, KERNELS, DILATIONS, PADDINGS, EXTRAS):
        both = output_size(size, kernel, stride, padding, extra, dilation)
        found |= {Axis(size, out, kernel, stride, padding, dilation) for out in (both, both + padding) if out > 0}
    assert len(found) > 1000
    return tuple(found)


def taps_of(axis: Axis) -> dict[int, set]:
    """The definition: the pairs (input, tap) of each output, with inputs that are not there as well."""
    pairs = {o: set() for o in range(axis.out)}
    reach = (axis.out + abs(axis.padding) + axis.kernel * axis.dilation) // axis.stride + 1
    for i, k in itertools.product(range(-reach, reach + axis.size), range(axis.kernel)):
        o = i * axis.stride - axis.padding + k * axis.dilation
        if o in pairs:
            pairs[o].add((i, k))
    return pairs


def inside(pairs, axis):
    return {(i, k) for i, k in pairs if 0 <= i < axis.size}


each_stride = pytest.mark.parametrize("stride", STRIDES)


@each_stride
def test_phases(stride):
    """The phases name every pair of every output once, and the outputs of all phases are all outputs."""
    for axis in axes(stride):
        expected = taps_of(axis)
        for origin in {0, axis.aligned_origin}:
            visited = Counter()
            for phase, t in itertools.product(axis.phases(origin), range(axis.steps(origin))):
                o = stride * t + phase.residue - origin
                if 0 <= o < axis.out:
                    visited[o] += 1
                    steps = range(phase.taps)
                    pairs = {(t + phase.offset - j * axis.input_step, phase.first + j * axis.tap_step) for j in steps}
                    assert pairs == expected[o], (axis, origin, phase, t)
            assert visited == Counter(range(axis.out)), (axis, origin)


@each_stride
def test_merged(stride):
    """One product for all phases: its existing taps are exactly those of the separate phases."""
    for axis in axes(stride):
        if axis.dilation != 1:
            with pytest.raises(ValueError, match="cannot be merged"):
                axis.merged(0)
            continue
        expected = taps_of(axis)
        for origin in {0, axis.aligned_origin}:
            m, used = axis.merged(origin), set()
            for r, t in itertools.product(range(stride), range(axis.steps(origin))):
                o = stride * t + r - origin
                taps = [(t + m.offset - j, m.first + r + stride * j) for j in range(m.taps)]
                existing = {(i, k) for i, k in taps if 0 <= k < axis.kernel}
                if 0 <= o < axis.out:
                    assert existing == expected[o], (axis, origin, m, r, t)
                used |= {(r, k) for _, k in taps}
            assert m.full == all(0 <= k < axis.kernel for _, k in used), (axis, origin, m)
            meets = [any(0 <= m.first + r + stride * j < axis.kernel for r in range(stride)) for j in range(m.taps)]
            assert all(meets), f"a step of {m} reads for nothing"


@each_stride
def test_split(stride):
    """The input gradient: input i meets output stride * (i + offset + j) + r through tap first + r + stride * j."""
    for axis in axes(stride):
        if axis.dilation != 1:
            continue
        m = axis.split()
        for i in range(axis.size):
            met = {(stride * (i + m.offset + j) + r, m.first + r + stride * j)
                   for j in range(m.taps) for r in range(stride)}
            expected = {(i * stride - axis.padding + k, k) for k in range(axis.kernel)}
            assert {(o, k) for o, k in met if 0 <= k < axis.kernel} == expected, (axis, m, i)


@each_stride
def test_counts(stride):
    """multiplications and exact against what the definition says."""
    for axis in axes(stride):
        expected = taps_of(axis)
        met = {o: inside(pairs, axis) for o, pairs in expected.items()}
        assert axis.multiplications() == sum(map(len, met.values())), axis
        one_each = sorted(i for pairs in met.values() for i, _ in pairs)
        assert axis.exact == (axis.dilation == 1 and axis.kernel == stride and axis.padding == 0
                              and one_each == sorted(list(range(axis.size)) * stride)
                              and all(len(pairs) == 1 for pairs in met.values())), axis
        reads = {i - o // stride for o in range(stride) for i, _ in full_period(axis, o)}
        assert axis.reads == reads, axis


def full_period(axis, o):
    """The pairs of output o, whether or not the axis is long enough to have it."""
    q = o + axis.padding
    return {((q - k * axis.dilation) // axis.stride, k) for k in range(axis.kernel)
            if (q - k * axis.dilation) % axis.stride == 0}


@each_stride
def test_output_size(stride):
    """Without padding, the output ends where the last tap of the last input falls."""
    for size, kernel, dilation in itertools.product(SIZES, KERNELS, DILATIONS):
        reached = max(i * stride + k * dilation for i in range(size) for k in range(kernel)) + 1
        for padding, extra in itertools.product(PADDINGS, EXTRAS):
            assert output_size(size, kernel, stride, padding, extra, dilation) == reached - 2 * padding + extra


@each_stride
def test_description_counts_all_phases(stride):
    for axis in axes(stride)[::17]:
        words = axis.describe()
        assert words.startswith(f"{axis.size} -> {axis.out}: {stride} phase")
        counted = Counter(p.taps for p in axis.phases())
        assert all(f"{n} with {taps} tap" in words for taps, n in counted.items())


def test_integers():
    for a, b in itertools.product(range(-20, 20), range(1, 6)):
        assert ceil_div(a, b) == min(q for q in range(-30, 30) if q * b >= a)
    for value, limit in itertools.product(range(65), (1, 2, 8, 16)):
        assert power_of_two_divisor(value, limit) == max(p for p in (1, 2, 4, 8, 16) if p <= limit and value % p == 0)
