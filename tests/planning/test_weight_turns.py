"""The walking weight gradient that turns what it reads, in numbers: what it refuses, which taps its products have, and when it is chosen."""

from collections import Counter
from dataclasses import replace

import pytest

from triton_conv3dt.planning import search, weight_turn_tiles, weight_turns, weight_walk_tiles
from triton_conv3dt.planning.config import Config, fits, sums_bias
from triton_conv3dt.planning.constraints import parse
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.plan import plan
from triton_conv3dt.planning.terms import terms
from triton_conv3dt.problems.problem import Epilogue, Problem

H200 = Device.named("nvidia_h200")
LAYER = dict(n=2, ci=64, co=32, in_size=32, kernel=3, stride=2, padding=1, output_padding=1, dtype="float32")
ALL, ONE = weight_turns.WAYS
WALK, HALF = Config("walk", 32, 32, 64, 8, 2, box=(1, 4, 16), taps=ALL), dict(dtype="float16")
REFUSED = {  # what the layer has otherwise, what the config has, the device: the reason
    "Ampere": ({}, {}, "nvidia_a100", "does not walk: it takes Hopper"),
    "Blackwell": ({}, {}, "nvidia_b200", "does not walk: it takes Hopper"),
    "fp32": ({"precision": "ieee"}, {}, "nvidia_h200", "takes 16-bit or TF32 tensors, one group and dilation 1"),
    "groups": ({"groups": 2}, {}, "nvidia_h200", "takes 16-bit or TF32 tensors, one group and dilation 1"),
    "dilated taps": ({"dilation": 3, "padding": 3}, {}, "nvidia_h200", "takes 16-bit or TF32 tensors, one group and dilation 1"),
    "16 bits of an odd width": (HALF | {"output_padding": 0}, {}, "nvidia_h200", "rows of an even width"),
    "16 bits of single places": (HALF | {"stride": 1, "output_padding": 0}, {}, "nvidia_h200", "words of a 16-bit gradient that are two residues"),
    "copies": ({}, {"copy": True}, "nvidia_h200", "copies neither"),
    "other taps": ({}, {"taps": ("columns",) * 3}, "nvidia_h200", "received columns, columns, columns"),
    "a narrow patch": ({}, {"box": (1, 16, 4)}, "nvidia_h200", "a patch is 1 x h x w places"),
    "a deep patch": ({}, {"box": (2, 4, 8)}, "nvidia_h200", "a patch is 1 x h x w places"),
    "a small patch": (HALF, {"box": (1, 2, 8), "block_k": 16}, "nvidia_h200", "a patch is 1 x h x w places"),
    "many warps": ({}, {"warps": 16}, "nvidia_h200", "4 or 8 warps and 2 stages"),
    "three stages": ({}, {"stages": 3}, "nvidia_h200", "4 or 8 warps and 2 stages"),
    "few channels": ({}, {"block_m": 4}, "nvidia_h200", "8 to 128 output channels"),
    "few columns": ({}, {"block_n": 8}, "nvidia_h200", "16 to 256 input channels"),
    "a stride that is no power of two": ({"stride": 3}, {}, "nvidia_h200", "rows of dz that are read at once lie 3 apart"),
    "taps that reach far": ({"kernel": (1, 1, 31), "padding": 0, "stride": 1, "output_padding": 0}, {"box": (1, 8, 8)}, "nvidia_h200",
                            "taps along w reach further than the 8 places"),
    "registers": ({}, {"warps": 4}, "nvidia_h200", "sums and places of x would take 176 registers of a thread, 170 are left"),
    "shared memory": ({}, {"box": (1, 16, 16), "block_k": 256, "block_n": 16}, "nvidia_h200", "bytes of shared memory are needed"),
}
TAPS = {"k3s2p1": {}, "k4s2p1": dict(kernel=4, output_padding=0), "k5s2p2": dict(kernel=5, padding=2), "k3s1p1": dict(stride=1, output_padding=0),
        "k1x4x4": dict(kernel=(1, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1), output_padding=0), "k3s4": dict(stride=4, padding=0),
        "k2x3x2": dict(kernel=(2, 3, 2), stride=(3, 2, 3), padding=1, output_padding=1)}
STORED = [(name, 4) for name in TAPS] + [(name, 2) for name in TAPS if name not in ("k3s1p1", "k3s4", "k2x3x2")]  # words are two residues


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name, monkeypatch):
    layer, config, device, reason = REFUSED[name]
    monkeypatch.setattr(weight_turns, "REGISTERS", 170 if name == "registers" else weight_turns.REGISTERS)
    problem, config, device = Problem.of_layer("grad_weight", **LAYER | layer), replace(WALK, **config), Device.named(device)
    assert reason in (fits(config, problem, device) or "it fits")
    with pytest.raises(ValueError, match="does not fit"):
        plan(problem, device, config)


@pytest.mark.parametrize("block_m", (8, 16, 32, 64))
@pytest.mark.parametrize("ways", weight_turns.WAYS)
@pytest.mark.parametrize("name, item", STORED)
def test_every_tap_has_one_sum(name, item, ways, block_m):
    """The taps of the grid's programs are those of the kernel, once for each line, and what is multiplied is where their places are."""
    problem = Problem.of_layer("grad_weight", **LAYER | TAPS[name] | (HALF if item == 2 else {}))
    config = replace(WALK, block_m=block_m, taps=ways)
    turn, (d, h, w) = weight_turns.walk(problem, config), problem.axes
    found = Counter()
    for group in turn.groups:
        for product in turn.products[group.product:group.product + group.count]:
            assert product.halves == group.halves
            for i, taps in enumerate(product.taps):
                for sheet, half, offset, residue, k in zip(group.sheets, group.halves, group.offsets, product.residues, taps):
                    place = (turn.sheets[sheet].first + offset + turn.shifts[product.shift + i]) * w.stride
                    assert k < 0 or place + (residue if item == 2 else turn.sheets[sheet].residue) == k - w.padding
                    assert 0 <= offset <= turn.sheets[sheet].places - turn.wide <= turn.pitch - turn.wide
                    for line in range(32 * half, 32 * half + 32) if k >= 0 else ():
                        found[line // block_m, k, line % block_m] += 1
                        assert (turn.high - 1) * h.stride + line // block_m < turn.height
    inside = {tap: n for tap, n in found.items() if tap[0] < h.kernel}
    assert len(inside) == h.kernel * w.kernel * block_m and set(inside.values()) == {1}
    programs = weight_turns.grid(problem, config, problem.in_size) // turn.output_tiles // turn.input_tiles
    along = [p // d.stride * d.stride * turn.planes + p % d.stride + j * d.stride for p in range(programs) for j in range(turn.planes)]
    assert sorted(k for k in along if k < d.kernel) == list(range(d.kernel))


@pytest.mark.parametrize("block_m", (8, 16, 32, 64))
@pytest.mark.parametrize("name, item", STORED)
def test_tiles_that_are_summed_for_the_bias_are_all_of_dz_once(name, item, block_m):
    """Of every channel and residue along h and w, one line of one tile that is not shifted; the lines that count are in sums."""
    problem = Problem.of_layer("grad_weight", **LAYER | TAPS[name] | (HALF if item == 2 else {}), bias=True)
    config = replace(WALK, block_m=block_m)
    turn, (d, h, w) = weight_turns.walk(problem, config), problem.axes
    assert sums_bias(config, problem) is (turn.adds > 0) is (name not in ("k3s4", "k2x3x2"))
    first, found = h.padding * block_m // 32, Counter()
    for group in turn.groups if turn.adds else ():
        for sheet, half, offset, to in zip(group.sheets, group.halves, group.offsets, group.adds):
            if to >= 0:
                assert turn.sheets[sheet].first + offset == 0 and half == first + to and to < turn.adds
                found.update((line // block_m - h.padding, residue, line % block_m) for line in range(32 * half, 32 * half + 32)
                             for residue in (range(w.stride) if item == 2 else (turn.sheets[sheet].residue,)))
    counted = {place: n for place, n in found.items() if 0 <= place[0] < h.stride}
    assert set(counted.values()) <= {1} and len(counted) in (0, h.stride * w.stride * block_m)


def test_only_a_walk_that_was_asked_sums_for_the_bias():
    problem = Problem.of_layer("grad_weight", **LAYER, bias=True)
    found, other = plan(problem, H200, WALK), plan(problem, H200, Config("gather", 64, 64, 16))
    assert found.schedule.operands == ("x", "w", "y", "db") and found.schedule.launches[-1].tensors == ("sums", "db")
    assert other.schedule.operands == plan(replace(problem, epilogue=Epilogue()), H200, WALK).schedule.operands == ("x", "w", "y")


@pytest.mark.parametrize("ci, co", ((16, 16), (32, 16), (32, 32), (64, 32), (64, 64), (128, 64)))
@pytest.mark.parametrize("name", ("k3s2p1", "k4s2p1", "k3s1p1"))
def test_defaults_come_near_the_roofline(name, ci, co):
    """No further from it than 2.2 by any resource, but for what shares cost beside the product."""
    problem = Problem.of_layer("grad_weight", **LAYER | dict(ci=ci, co=co, in_size=48) | TAPS[name])
    found = plan(problem, H200)
    few = co < 32 and name == "k3s1p1"  # of which half of the lines are zeros
    assert max(terms(found).over.values()) < (3.5 if few else 2.2), (found.config, terms(found))


def test_eight_channels_may_be_eight_lines():
    """Of so few a tile has taps along h of four rows, and both residues are a product where taps shift x alike."""
    problem = Problem.of_layer("grad_weight", **LAYER | TAPS["k4s2p1"] | HALF | dict(ci=16, co=8, in_size=48))
    found = plan(problem, H200)
    assert found.config.path == "walk" and terms(found).over["shared"] < 2
    turn = weight_turns.walk(problem, replace(found.config, block_m=8))
    assert [(p.residues, p.taps) for p in turn.products] == [((0, 1), ((1, 2),)), ((0, 0), ((3, -1),)), ((1, 1), ((0, -1),))]


def test_taps_of_neighbouring_shifts_are_columns_of_one_product():
    """Lines of 16 bits are read once for all taps along w, and each residue of them is multiplied by what few products can have."""
    problem = Problem.of_layer("grad_weight", **LAYER | TAPS["k5s2p2"] | HALF)
    turn = weight_turns.walk(problem, replace(WALK, block_m=64))
    assert turn.shifts == (-1, 0, 1) and len(turn.groups) == 5
    assert [(p.residues[0], p.shift, len(p.taps)) for p in turn.products[:3]] == [(0, 0, 2), (0, 2, 1), (1, 0, 2)]


def test_patches_of_words_have_all_of_dz():
    """Where taps reach beyond x, or what they reach is cut off, patches along w are of what there is of dz."""
    for padding, words in ((0, 33), (1, 32), (3, 30)):
        problem = Problem.of_layer("grad_weight", **LAYER | HALF | dict(kernel=4, padding=padding, output_padding=0))
        assert weight_turns.sizes(problem, replace(WALK, box=(1, 8, 8)))[2] == -(-words // 8)


def test_whoever_may_not_walk_does_not():
    problem = Problem.of_layer("grad_weight", **LAYER)
    assert search.default(problem, H200).path == "walk"
    assert search.default(problem, H200, parse("walk")).path != "walk"
    assert search.default(problem, Device.named("nvidia_a100")).path == "gather"


def test_candidates_fit_and_have_steps():
    problem = Problem.of_layer("grad_weight", **LAYER)
    found = list(weight_turn_tiles.tiles(problem, H200, thorough=True))
    assert found and all(fits(config, problem, H200) is None for config in found)
    assert all(config.shares <= weight_turns.steps(problem, config) // weight_walk_tiles.FEWEST for config in found)
    assert not list(weight_turn_tiles.tiles(replace(problem, kernel=(2, 2, 2)), H200, thorough=True)), "nothing overlaps"
