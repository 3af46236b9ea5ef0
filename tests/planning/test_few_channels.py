"""Large kernels of few output channels: what their products read once for several positions, or taps."""

from dataclasses import replace
from itertools import product

import pytest

from triton_conv3dt.launching.launch import plan
from triton_conv3dt.planning import taps
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.search import sensible
from triton_conv3dt.planning.terms import terms
from triton_conv3dt.problems.problem import Problem

H200 = Device.named("nvidia_h200")


def layer_of(kernel, co):
    return dict(n=1, ci=32, co=co, in_size=64, kernel=kernel, stride=2, padding=kernel // 2, output_padding=1, dtype="float32",
                layout="channels_last")


@pytest.mark.parametrize("dtype", ("float32", "float16"))
@pytest.mark.parametrize("kernel, co", ((9, 1), (9, 3), (9, 4), (5, 4), (5, 2)))
def test_few_columns_are_those_of_neighbours(kernel, co, dtype):
    """By the default of a weight gradient of few output channels, which would read each of its columns for one position. A kernel
    needs bits for shifts that may leave dz alone, however many stay inside."""
    layer = layer_of(kernel, co) | dict(dtype=dtype)
    problem = Problem.of_layer("grad_weight", **layer)
    config = plan(problem, H200).config
    assert {*config.taps} & {*taps.FOLDED} and config.block_m >= 128 and (taps.reading(problem, config) == "row") == (dtype == "float32")
    assert taps.shifts(problem, replace(config, taps=("columns", "columns", "by four"))) == 3 * (kernel - 2)
    assert not any({*c.taps} & {*taps.FOLDED} for c in sensible(replace(problem, co=16), H200))
    assert not any({*c.taps} & {*taps.FOLDED} for c in sensible(problem, Device.named("nvidia_a100")))


@pytest.mark.parametrize("kernel, co", ((7, 1), (7, 4), (9, 2), (9, 4)))
def test_large_kernels_of_few_channels_read_little(kernel, co):
    """Forward by walks of a part of the output channels each, where the weights of all do not fit; backward with their taps among the channels,
    pairs along w of a single one: L2 is asked for less than six times what memory is."""
    layer = layer_of(kernel, co)
    forward, gradient = (plan(Problem.of_layer(direction, **layer), H200) for direction in ("forward", "grad_input"))
    assert forward.config.path == "walk" and (forward.config.block_m < co or co == 1)
    assert co > 1 or gradient.config.flat > 1 and gradient.config.merge[2]
    assert max(terms(forward).limit, terms(gradient).limit) < 6


@pytest.mark.parametrize("way", (*taps.WAYS, *taps.FOLDED))
@pytest.mark.parametrize("kernel, stride, padding, size", ((9, 2, 3, 7), (5, 2, 2, 8), (4, 3, 1, 5), (3, 1, 1, 1), (2, 4, 0, 6)))
def test_each_place_meets_each_tap_once(way, kernel, stride, padding, size):
    """And what is said never to be outside is not."""
    layer = dict(n=1, ci=4, co=4, in_size=size, kernel=kernel, stride=stride, padding=padding, output_padding=0, layout="channels_last")
    problem = Problem.of_layer("grad_weight", **layer)
    (axis, positions), a, met = taps.weight_axis(problem.axes[2], way, 1), problem.axes[2], []
    place = lambda shifts, t, i: shifts.step * t + shifts.first + i * shifts.move
    for t, i, j in product(range(positions), range(axis.x.count), range(axis.z.count * axis.programs)):
        tap = axis.tap_first + i * axis.tap_row + j * axis.tap_column
        inside = [0 <= place(shifts, t, k) < size for shifts, k, size in ((axis.x, i, a.size), (axis.z, j, a.out))]
        for shifts, k, here in zip((axis.x, axis.z), (i, j), inside):
            assert here or shifts.halo and not shifts.sure[0] <= k < shifts.sure[1]
        if 0 <= tap < kernel and all(inside):
            assert place(axis.z, t, j) == stride * place(axis.x, t, i) - padding + tap
            met.append((place(axis.x, t, i), tap))
    assert axis.guard or all(0 <= tap < kernel for _, tap in met)
    assert sorted(met) == [(i, k) for i in range(size) for k in range(kernel) if 0 <= stride * i - padding + k < a.out]
