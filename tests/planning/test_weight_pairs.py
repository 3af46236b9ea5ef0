"""The weight gradient of two programs in numbers: what it refuses, what is copied, what is fetched at once, and when it is chosen."""

from dataclasses import replace
from itertools import product
from math import prod

import pytest

from triton_conv3dt.planning import search, taps, weight_pair_tiles, weight_pairs
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.constraints import NONE, parse
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.plan import plan
from triton_conv3dt.planning.terms import terms
from triton_conv3dt.problems.problem import Problem

H200 = Device.named("nvidia_h200")
LAYER = dict(n=2, ci=256, co=128, in_size=32, kernel=3, stride=2, padding=1, output_padding=1, dtype="float32")
PAIR = Config("pair", 256, 256, 32, 8, 4, copy=True, taps=("columns", "crossed", "columns"))
PARTED, SMOOTH = replace(PAIR, copy=False), dict(stride=1, output_padding=0)
REFUSED = {  # what the layer has otherwise, what the config has, the device: the reason
    "Ampere": ({}, {}, "nvidia_a100", "they take Hopper, and Triton 3.7 or 3.8"),
    "Blackwell": ({}, {}, "nvidia_b200", "they take Hopper, and Triton 3.7 or 3.8"),
    "64 bits": ({"dtype": "float64"}, {}, "nvidia_h200", "that is TF32 or of 16 bits and channels-first, of one group"),
    "whole precision": ({"precision": "ieee"}, {}, "nvidia_h200", "TF32 or of 16 bits and channels-first, of one group"),
    "channels last": ({"layout": "channels_last"}, {}, "nvidia_h200", "TF32 or of 16 bits and channels-first, of one group"),
    "groups": ({"groups": 2}, {}, "nvidia_h200", "TF32 or of 16 bits and channels-first, of one group"),
    "no copy": (dict(stride=1, padding=0, output_padding=0), {"copy": False}, "nvidia_h200", "multiples of 16 bytes, or a copy has them"),
    "a copy of nothing": (SMOOTH, {}, "nvidia_h200", "for strides along w, and for rows that are misaligned"),
    "three residues": (dict(stride=3, output_padding=2), {"copy": False}, "nvidia_h200", "2 or 4 neighbours along w are parted"),
    "parted taps that are dilated": (dict(dilation=3), {"copy": False, "taps": ("columns",) * 3}, "nvidia_h200", "taps that are neighbours"),
    "few parted lines": ({}, {"copy": False, "block_n": 128}, "nvidia_h200", "received 64x128 for 8 warps"),
    "an unknown way": ({}, {"taps": ("rows",) * 3}, "nvidia_h200", "taps along d are programs, columns, crossed"),
    "crossed, dilated": ({"dilation": 3}, {}, "nvidia_h200", "their dilation is 3"),
    "many places": ({"n": 2**12}, {}, "nvidia_h200", "with 31 bits"),
    "few input channels": ({"ci": 24}, {}, "nvidia_h200", "16 or more input and 8 or more output channels"),
    "few output channels": ({"co": 12}, {}, "nvidia_h200", "not 256 and 12"),
    "few to be halved": ({"co": 24}, {"block_m": 128, "block_n": 512}, "nvidia_h200", "8 or more input and 16 or more output channels"),
    "warps without rows": ({}, {"block_m": 128}, "nvidia_h200", "received 64x256 for 8 warps"),
    "few columns": ({}, {"block_n": 16}, "nvidia_h200", "and 32 to 256 others"),
    "many columns": ({}, {"block_m": 64, "block_n": 1024, "warps": 4}, "nvidia_h200", "received 64x512 for 4 warps"),
    "an accumulator": ({}, {"block_m": 512}, "nvidia_h200", "without registers"),
    "a short step": ({}, {"block_k": 4}, "nvidia_h200", "no runs along w of 32, 16, 8"),
    "a short step of 16 bits": ({"dtype": "float16"}, {"block_k": 8}, "nvidia_h200", "no runs along w of 64, 32, 16, 8"),
    "crossed taps of planes": (dict(dtype="float16", in_size=20, kernel=2, padding=0, output_padding=0), {"copy": False},
                               "nvidia_h200", "are not crossed"),
    "one stage": ({}, {"stages": 1}, "nvidia_h200", "2 stages or more"),
    "many residues": ({"kernel": 34, "stride": 33, "padding": 0, "in_size": 2, "n": 1, "output_padding": 0},
                      {"taps": ("crossed",) * 3}, "nvidia_h200", "27 bits for residues"),
    "shared memory": ({}, {"block_k": 64}, "nvidia_h200", "bytes of shared memory are needed"),
}
CHUNKS = {  # what the layer has otherwise, ways, sides of a tile: shifts (d, h, w) and channels of a chunk of rows, and of columns
    "channels of a tile": ({}, "programs programs programs", (128, 64), (1, 1, 1, 128), (1, 1, 1, 64)),
    "crossed": (dict(ci=32, co=16), "crossed crossed crossed", (256, 128), (1, 1, 1, 32), (2, 2, 2, 16)),
    "crossed but for w": (dict(ci=32, co=16), "crossed crossed columns", (256, 128), (2, 2, 1, 32), (1, 1, 1, 16)),
    "three shifts": (dict(ci=64, co=64), "columns columns programs", (256, 256), (1, 1, 1, 256), (1, 1, 1, 64)),
    "four shifts": (dict(ci=64, co=32, kernel=4, output_padding=0), "programs columns columns", (128, 256), (1, 1, 1, 128), (1, 1, 2, 32)),
    "channels that are no power of two": (dict(ci=96, co=48), "crossed crossed crossed", (256, 128), (1, 1, 1, 32), (1, 1, 1, 16)),
    "dilated": (dict(co=32, dilation=2, padding=2), "columns columns programs", (256, 256), (1, 1, 1, 256), (1, 1, 1, 32)),
}
SHORT = dict(n=2, ci=128, co=64, in_size=(4, 8, 8), kernel=2, stride=2, dtype="float16")
FETCHED = {  # what the layer has otherwise, and the problem, ways, the box: planes, runs of x and of dz at once, boxes in a step
    "rows of 8": ({}, {}, "programs programs programs", (1, 8, 8), False, 8, 8, 2),
    "rows of 8, residues along h": ({}, {}, "programs columns programs", (1, 8, 8), False, 8, 8, 2),
    "rows of 8, residues along d": ({}, {}, "columns programs programs", (1, 8, 8), False, 8, 1, 9),
    "rows of 8, uneven": ({}, dict(even=False), "programs programs programs", (1, 8, 8), False, 8, 1, 9),
    "rows of 16, taps that overlap": (dict(in_size=(4, 8, 16), kernel=4, padding=1), {}, "programs programs programs", (1, 4, 16), False, 4, 4, 2),
    "rows of 16, crossed": (dict(in_size=(4, 8, 16), kernel=4, padding=1), {}, "programs crossed programs", (4, 1, 16), False, 4, 1, 5),
    "rows of 6": (dict(in_size=(4, 8, 6)), {}, "programs programs programs", (1, 8, 8), True, 1, 8, 9),
    "rows of 12, residues along h": (dict(in_size=(4, 8, 12)), {}, "programs columns programs", (1, 4, 16), True, 1, 1, 12),
    "rows of 5": (dict(in_size=(4, 8, 5)), {}, "programs programs programs", (1, 8, 8), True, 1, 1, 16),
    "rows of 12": (dict(in_size=(4, 8, 12)), {}, "programs programs programs", (1, 4, 16), True, 1, 4, 5),
}
COPIED = {  # what the layer has otherwise, whether dz is copied: the copies
    "k3s2": ({}, True, "y"), "k3s2 parted": ({}, False, ""), "k3s1": (SMOOTH, False, ""), "odd rows": (SMOOTH | dict(in_size=31), True, "xy"),
    "rows of 30": (dict(in_size=30), True, "xy"), "rows of 30 parted": (dict(in_size=30), False, "x"),
    "rows of 34 of dz": (dict(stride=1, padding=0, output_padding=0), True, "y")}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name):
    layer, config, device, reason = REFUSED[name]
    problem, config, device = Problem.of_layer("grad_weight", **LAYER | layer), replace(PAIR, **config), Device.named(device)
    assert reason in (fits(config, problem, device) or "it fits")
    with pytest.raises(ValueError, match="does not fit"):
        plan(problem, device, config)


@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_are_boxes(name):
    layer, ways, (m, n), rows, columns = CHUNKS[name]
    problem, config = Problem.of_layer("grad_weight", **LAYER | layer), replace(PAIR, block_m=m, block_n=n, taps=tuple(ways.split()))
    assert (weight_pairs.x_chunk(problem, config), weight_pairs.z_chunk(problem, config)) == (rows, columns)
    pair = weight_pairs.pair(problem, config)
    assert (pair.x_chunks, pair.z_chunks) == (m // prod(rows), n // prod(columns))


@pytest.mark.parametrize("name", COPIED)
def test_what_is_copied(name):
    """Only what no descriptor reads, and that in whole: the copy has every place of the tensor once, and few more."""
    layer, copy, copied = COPIED[name]
    problem = Problem.of_layer("grad_weight", **LAYER | layer)
    for ways in product(taps.WAYS, repeat=3):
        config = replace(PAIR, taps=ways, copy=copy)
        copies = weight_pairs.copies(problem, config)
        assert "".join(copies) == copied
        for name, (d, h, w) in copies.items():
            size = problem.in_size if name == "x" else problem.out_size
            assert (d.first, d.count, h.first, h.count) == (0, size[0], 0, size[1])
            assert -w.residues < w.first <= 0 and size[2] <= w.first + w.count < size[2] + 2 * w.residues and w.places % 4 == 0
            if name == "y":  # shift 0 is residue 0
                assert (weight_pairs.axes(problem, config)[2].z.first - w.first) % w.residues == 0


@pytest.mark.parametrize("name", FETCHED)
def test_what_is_fetched_at_once(name):
    """Planes where rows are no multiples of 16 bytes; all runs of a box where one chunk is all lines and rows are evenly apart."""
    layer, changed, ways, box, *expected = FETCHED[name]
    problem = replace(Problem.of_layer("grad_weight", **SHORT | layer), **changed)
    config = Config("pair", 128, 256, 64, 4, 3, taps=tuple(ways.split()))
    pair = weight_pairs.pair(problem, config)
    assert taps.box(problem, config) == pair.box == box and fits(config, problem, H200) is None
    assert [pair.flat, pair.x_runs, pair.z_runs, weight_pairs.fetches(problem, config)] == expected
    for kind in ("x lines", "dz lines"):  # a box for each run, or for so many of them
        strides = tuple(prod((kind == "x lines" and (128, *problem.in_size) or (64, *problem.out_size))[i:]) for i in range(5))
        shape, steps, block, parted, rounded = weight_pairs.described(problem, config, kind, strides)
        runs, lines = (pair.x_runs, 128 // pair.x_chunks) if kind == "x lines" else (pair.z_runs, 128 // pair.z_chunks)
        assert prod(block) == runs * lines * box[2] * (1 if kind == "x lines" else 2) and not rounded
        assert len(shape) == len(steps) == len(block) <= 5 and steps[-1] == 1 and not any(step % 8 for step in steps[:-1])


@pytest.mark.parametrize("ways", [*product(taps.WAYS, repeat=3)], ids=" ".join)
def test_shifts_ascend_and_have_their_taps(ways):
    problem, config = Problem.of_layer("grad_weight", **LAYER | dict(kernel=4)), replace(PAIR, taps=ways)
    for axis, (before, _), a in zip(weight_pairs.axes(problem, config), taps.weight_axes(problem, config), problem.axes):
        meets = lambda axis: sorted((axis.x.first + i * axis.x.move, axis.tap_first + i * axis.tap_row) for i in range(axis.x.count))
        assert meets(axis) == meets(before) and axis.x.move == axis.z.move == 1


@pytest.mark.parametrize("kernel, shifts", ((2, 1), (3, 2), (4, 2), (5, 3)))
@pytest.mark.parametrize("padding", (0, 1, 2))
def test_parted_shifts_have_every_tap(kernel, shifts, padding):
    """From the first tap on, two by two; crossed, each offset of x meets both residues."""
    problem = Problem.of_layer("grad_weight", **LAYER | dict(kernel=kernel, padding=padding, output_padding=0, in_size=33))
    for way in taps.WAYS:
        config = replace(PARTED, taps=("columns", "columns", way))
        axis, a = weight_pairs.axes(problem, config)[2], problem.axes[2]
        assert taps.parted(problem, config) == 2 and axis.x.count * axis.z.count * axis.programs in (shifts, shifts + (way == "crossed"))
        for i, j, r in product(range(axis.x.count), range(axis.z.count * axis.programs), range(2)):
            tap = axis.tap_first + i * axis.tap_row + j * axis.tap_column + r
            x, z = axis.x.first + i * axis.x.move, axis.z.first + j * axis.z.move + r  # of position 0
            assert z == 2 * x - a.padding + tap and (axis.guard or 0 <= tap < kernel)


@pytest.mark.parametrize("ci, co, kernel, stride", ((256, 128, 3, 2), (128, 64, 4, 2), (512, 256, 3, 2), (128, 128, 4, 2)))
def test_defaults_are_pairs_and_come_nearer(ci, co, kernel, stride):
    """L2 is asked for a fifth less, at least, and next to nothing is copied."""
    problem = Problem.of_layer("grad_weight", **LAYER | dict(ci=ci, co=co, kernel=kernel, stride=stride, output_padding=0))
    found, without = plan(problem, H200), plan(problem, H200, constraints=parse("pair,walk"))
    assert (found.config.path, without.config.path) == ("pair", "gather")
    assert terms(found).l2 < 0.8 * terms(without).l2 and terms(found).limit < 0.8 * terms(without).limit


def test_whoever_may_not_pair_does_not():
    problem = Problem.of_layer("grad_weight", **LAYER)
    for without in ("pair,walk", "descriptor", "stages>1"):
        assert search.default(problem, H200, parse(without)).path == "gather"
    assert search.default(problem, replace(H200, interpreted=True)).path == "gather"


def test_candidates_fit_and_fill_the_device():
    problem = Problem.of_layer("grad_weight", **LAYER)
    tiles = list(weight_pair_tiles.tiles(problem, H200, NONE, thorough=True))
    assert tiles and all(fits(config, problem, H200) is None for config in tiles)
    assert {config.cluster for config in tiles} == {2, 4} and len({config.taps for config in tiles}) > 2
    assert any(taps.tiles(problem, config) * config.shares > 56 for config in tiles)
    assert all(config.shares <= taps.boxes(problem, config) // weight_pair_tiles.FEWEST for config in tiles)
