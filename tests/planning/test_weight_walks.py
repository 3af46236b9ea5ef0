"""The walking weight gradient in numbers: what it refuses, which taps its programs have, what it fetches, and when it is chosen."""

from collections import Counter
from dataclasses import replace

import pytest

from triton_conv3dt.planning import search, weight_walk_tiles, weight_walks
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.constraints import parse
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.plan import plan
from triton_conv3dt.planning.terms import terms
from triton_conv3dt.problems.problem import Problem

H200 = Device.named("nvidia_h200")
LAYER = dict(n=2, ci=64, co=32, in_size=32, kernel=3, stride=2, padding=1, output_padding=1, layout="channels_last")
TOGETHER, APART = weight_walks.WAYS
WALK = Config("walk", 128, 32, 128, 8, 2, box=(1, 16, 8), taps=TOGETHER)
REFUSED = {  # what the layer has otherwise, what the config has, the device: the reason
    "Ampere": ({}, {}, "nvidia_a100", "does not walk: it takes Hopper"),
    "Blackwell": ({}, {}, "nvidia_b200", "does not walk: it takes Hopper"),
    "groups": ({"groups": 2}, {}, "nvidia_h200", "takes 16-bit tensors, one group and dilation 1"),
    "dilated taps": ({"dilation": 3, "padding": 3}, {}, "nvidia_h200", "takes 16-bit tensors, one group and dilation 1"),
    "misaligned channels": ({"ci": 28}, {}, "nvidia_h200", "one stride for all places and 16-byte alignment"),
    "copies": ({}, {"copy": True}, "nvidia_h200", "copies neither"),
    "an odd gradient": ({"output_padding": 0}, {}, "nvidia_h200", "whose height and width the stride divides"),
    "other taps": ({}, {"taps": ("columns",) * 3}, "nvidia_h200", "received columns, columns, columns"),
    "a narrow patch": ({}, {"box": (1, 32, 4)}, "nvidia_h200", "a patch is 1 x h x w places"),
    "a deep patch": ({}, {"box": (2, 8, 8)}, "nvidia_h200", "a patch is 1 x h x w places"),
    "many rows": ({}, {"block_m": 256}, "nvidia_h200", "64 rows for every 4 warps"),
    "few columns": ({"co": 48}, {}, "nvidia_h200", "block_n = 32 is not one of 16 to 64 that divide 48 channels"),
    "residues without taps": ({"kernel": (3, 1, 3), "padding": (1, 0, 1)}, {"taps": APART}, "nvidia_h200", "some have no tap"),
    "three stages": ({}, {"stages": 3}, "nvidia_h200", "one step ahead of its products"),
    "registers": ({"co": 64}, {"block_n": 64}, "nvidia_h200", "would take 320 registers of a thread"),
    "shared memory": ({"kernel": 4, "output_padding": 0}, {"block_n": 16, "block_k": 256, "box": (1, 32, 8), "taps": APART},
                      "nvidia_h200", "bytes of shared memory are needed"),
    "31 bits": ({"n": 2**26}, {}, "nvidia_h200", "than 31 bits can count"),
}
TAPS = {"k3s2p1": {}, "k4s2p1": dict(kernel=4, output_padding=0), "k5s2p2": dict(kernel=5, padding=2),
        "k5s3p2": dict(kernel=5, stride=3, padding=2, output_padding=2), "k3s1p1": dict(stride=1, output_padding=0),
        "k1x4x4": dict(kernel=(1, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1), output_padding=0),
        "k3s4": dict(stride=4, padding=0)}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name):
    layer, config, device, reason = REFUSED[name]
    problem, config, device = Problem.of_layer("grad_weight", **LAYER | layer), replace(WALK, **config), Device.named(device)
    assert reason in (fits(config, problem, device) or "it fits")
    with pytest.raises(ValueError, match="does not fit"):
        plan(problem, device, config)


@pytest.mark.parametrize("ci, block_m", ((64, 128), (32, 64), (128, 128), (16, 64)))
@pytest.mark.parametrize("ways", weight_walks.WAYS)
@pytest.mark.parametrize("name", TAPS)
def test_every_tap_has_one_program(name, ways, ci, block_m):
    """The taps of the grid's programs are those of the kernel, once each, and what they fetch is where their places are."""
    problem = Problem.of_layer("grad_weight", **LAYER | dict(ci=ci) | TAPS[name])
    config = replace(WALK, block_m=block_m, warps=block_m // 16, block_n=16, taps=ways)
    walk, (d, h, w) = weight_walks.walk(problem, config), problem.axes
    if walk.apart and h.kernel < h.stride:
        return
    programs = weight_walks.grid(problem, config, problem.in_size) // walk.column_tiles // walk.row_tiles
    found = Counter()
    for program in range(programs):
        first_h, rest = (program % h.stride, program // h.stride) if walk.apart else (0, program)
        first_d = rest // d.stride * d.stride * walk.planes + rest % d.stride
        for product in walk.products:
            fetch = next(f for f in reversed(walk.boxes) if f.row <= product.row)
            shift_h, residue_h = divmod(first_h - h.padding, h.stride) if walk.apart else (0, 0)
            tap_h = first_h + product.tap_h
            place = (fetch.shift_h + shift_h + product.row - fetch.row) * h.stride + fetch.residue_h + residue_h
            assert place == tap_h - h.padding
            assert fetch.shift_w * w.stride + fetch.residue_w == product.tap_w - w.padding
            for plane in range(walk.planes):
                found[first_d + plane * d.stride, tap_h, product.tap_w] += 1
    inside = {tap: n for tap, n in found.items() if all(k < a.kernel for k, a in zip(tap, problem.axes))}
    assert len(inside) == problem.taps and set(inside.values()) == {1}


@pytest.mark.parametrize("ci, co", ((16, 16), (32, 16), (32, 32), (64, 32), (64, 64), (128, 64), (128, 128)))
@pytest.mark.parametrize("name", ("k3s2p1", "k4s2p1"))
def test_defaults_come_near_the_roofline(name, ci, co):
    """No further from it than 2.2 by any resource, but for what shares cost beside the product."""
    problem = Problem.of_layer("grad_weight", **LAYER | dict(ci=ci, co=co, in_size=48) | TAPS[name])
    found = plan(problem, H200)
    assert max(terms(found).over.values()) < 2.2, (found.config, terms(found))
    assert found.config.path == "walk" or ci == 16


def test_whoever_may_not_walk_does_not():
    problem = Problem.of_layer("grad_weight", **LAYER)
    assert search.default(problem, H200).path == "walk"
    assert search.default(problem, H200, parse("walk")).path == search.default(problem, H200, parse("stages>1")).path == "gather"
    assert search.default(replace(problem, even=False), H200).path == "gather"


def test_candidates_fill_the_device():
    problem = Problem.of_layer("grad_weight", **LAYER)
    for config in weight_walk_tiles.tiles(problem, H200, thorough=True):
        assert config.shares <= weight_walks.steps(problem, config) // weight_walk_tiles.FEWEST
    assert any(c.path == "walk" and c.taps == APART for c in search.candidates(problem, H200))
