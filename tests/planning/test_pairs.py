"""Clusters in numbers: how a tile is parted between programs, what they read, when they are refused, and who is computed so."""

from dataclasses import replace
from math import prod

import pytest

from triton_conv3dt.planning import costs, lowering, pair_issue, pair_tiles, pairs, search
from triton_conv3dt.planning.config import Config, fits, shared_memory
from triton_conv3dt.planning.constraints import NONE as NO_CONSTRAINTS
from triton_conv3dt.planning.constraints import parse
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.plan import plan
from triton_conv3dt.planning.terms import terms
from triton_conv3dt.problems import case
from triton_conv3dt.problems.layers import layers

H200, NONE, ALL = Device.named("nvidia_h200"), (False,) * 3, (True,) * 3
PLANES = Config("pair", 256, 256, 64, 8, 3, ALL)
LINES = Config("pair", 128, 256, 32, 8, 3, box=(1, 16, 16))
WHOLE, PARTED = "forward n2 ci256 co128 in16 k2 s2 float16 channels_first", "grad_input n2 ci128 co64 in16 k2 s2 float16 channels_first"


@pytest.mark.parametrize("block, dimensions, programs, expected", (
    ((256, 64), (0,), 2, (0,)), ((512, 64), (0,), 4, (0, 0)), ((1, 2, 8, 16, 32), (1, 2, 3), 4, (2, 1)),
    ((1, 1, 4, 64, 32), (1, 2, 3), 4, (2, 2)), ((1, 1, 2, 128, 32), (1, 2, 3), 4, (3, 2)), ((4, 2, 32, 16), (0, 1), 4, (0, 0))))
def test_the_outermost_positions_are_parted(block, dimensions, programs, expected):
    """Programs have runs of positions in their order: the highest bit of their number is that of the outermost side."""
    config = replace(LINES, cluster=programs, block_n=128 * programs)
    assert pairs.parted(config, dimensions, [block[i] for i in dimensions]) == expected
    assert pairs.parted(config, (), ()) == (-1,) * (programs.bit_length() - 1)


@pytest.mark.parametrize("cluster, tile, ratio", ((2, 256, 2 / 3), (4, 512, 1 / 2)))
def test_what_a_cluster_shares_is_read_once(cluster, tile, ratio):
    """Beside a tile of 256 by 128 of one program, as many sums of each."""
    problem = case.parse(WHOLE)
    alone, pair = Config("gather", 256, 128, 64, 8, 3, ALL), replace(PLANES, block_n=tile, cluster=cluster)
    assert costs.read_bytes(pair, problem) == pytest.approx(ratio * costs.read_bytes(alone, problem))
    assert terms(plan(problem, H200, pair)).l2 == pytest.approx(ratio * terms(plan(problem, H200, alone)).l2)


@pytest.mark.parametrize("text, taps", (("k3 s2 p1 op1", 2), ("k4 s2 p1", 2), ("k5 s2 p2 op1", 3), ("k2 s2", 1)))
def test_neighbours_are_parted_from_the_first_tap_on(text, taps):
    """Taps of an even kernel come in pairs, whatever the padding; of an odd one the last has no neighbour."""
    problem = case.parse(f"grad_input n2 ci64 co32 in8x8x16 {text} float16 channels_first")
    axis = lowering.axis_constants(problem, replace(LINES, block_m=64))[2]
    assert (axis.taps, axis.tap_step, axis.move, axis.offset) == (taps, 2, 2, -problem.padding[2])


REFUSED = {  # problem, device, config: the reason
    "Ampere": (WHOLE, "nvidia_a100", PLANES, "has no clusters whose programs share"),
    "groups": ("forward ci64 co64 in8 k2 s2 g2 float16 channels_last", "nvidia_h200", PLANES, "a pair takes one group"),
    "shares of half a chunk": (PARTED, "nvidia_h200", replace(LINES, shares=3), "3 shares of whole chunks of"),
    "shares of a forward": (WHOLE, "nvidia_h200", replace(PLANES, shares=2), "shares are those of a grad_weight, or of a"),
    "fp32": ("forward ci64 co64 in8 k2 s2 float32 ieee channels_last", "nvidia_h200", PLANES, "multiplies 16 bits or TF32"),
    "narrow rows": (WHOLE, "nvidia_h200", replace(PLANES, block_k=8), "does not make rows of 128, 64 or 32 bytes"),
    "positions": (WHOLE, "nvidia_h200", replace(PLANES, block_n=2048), "2048 positions are not a product of 64 for every warpgroup"),
    "two products by registers": (PARTED, "nvidia_h200", replace(LINES, block_n=512, box=(1, 32, 16)), "two or four of what passes by no registers"),
    "three programs": (WHOLE, "nvidia_h200", replace(PLANES, cluster=8, block_n=1024), "8 programs, two or four"),
    "one stage": (WHOLE, "nvidia_h200", replace(PLANES, stages=1), "a ring of one stage"),
    "many sums": (WHOLE, "nvidia_h200", replace(PLANES, block_m=512), "leaves 8 warps without registers"),
    "many fragments": (PARTED, "nvidia_h200", replace(LINES, block_k=64), "leave the sums no registers"),
    "a copy of what needs none": (WHOLE, "nvidia_h200", replace(PLANES, copy=True), "no copy in channels_last helps"),
    "merged gradient": (PARTED, "nvidia_h200", replace(LINES, merge=ALL), "phases along d cannot be merged"),
    "planes of shifted taps": ("forward ci64 co64 in8 k3 s2 p1 float16", "nvidia_h200", replace(PLANES, merge=(False, False, True)),
                               "whose taps do not shift positions"),
    "planes that begin anywhere": ("forward ci64 co64 in3x3x3 k2 s2 float16", "nvidia_h200", PLANES, "begin at multiples of 16 bytes"),
    "lines that begin anywhere": ("grad_input ci64 co64 in8x8x6 k2 s2 float16", "nvidia_h200", LINES, "whose rows are multiples of 16 bytes"),
    "channels of another sample": ("grad_input n2 ci64 co48 in8 k2 s2 float16", "nvidia_h200", LINES, "would read those of another sample"),
    "lines of no width": (PARTED, "nvidia_h200", replace(LINES, box=(1, 4, 64)), "in lines of 128, 64 or 32 bytes"),
    "a box of one row": (PARTED, "nvidia_h200", replace(LINES, box=(16, 1, 16)), "parted between 2 programs: along h"),
    "an odd height": ("grad_input n2 ci64 co64 in8 k3x3x2 s2 p1x1x0 float16", "nvidia_h200", LINES, "the stride divides its height"),
    "rows of few channels": ("forward ci64 co12 in8 k3 s2 p1 float16 channels_last", "nvidia_h200",
                             Config("pair", 64, 128, 64, 4, 3, ALL, box=(2, 8, 8)), "boxes of the weight have 8 rows"),
    "many phases": ("forward ci64 co16 in8 k4x8x8 s4x8x8 float16", "nvidia_h200", replace(PLANES, block_m=128),
                    "256 phases of a channel are no power of two of at most 128"),
    "many phases, channels last": ("forward ci64 co16 in8 k8x4x4 s8x4x4 float16 channels_last w_minor=tap", "nvidia_h200", PLANES,
                                   "64 rows of a tile are written at once"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    text, device, config, reason = REFUSED[name]
    assert reason in (fits(config, case.parse(text), Device.named(device)) or "fits")


def test_candidates_fit_or_say_why_and_keep_to_shared_memory():
    for text in (WHOLE, PARTED, "forward n2 ci64 co64 in8x8x16 k3 s2 p1 op1 float32 tf32 channels_first"):
        problem = case.parse(text)
        tried = list(pair_tiles.tiles(problem, H200, search._merges(problem, True), NO_CONSTRAINTS, True))
        kept = [config for config in tried if fits(config, problem, H200) is None]
        assert len(kept) > 10 and all(shared_memory(config, problem) <= H200.shared_memory for config in kept)
        assert {config.cluster for config in kept} == {2, 4}


def test_large_products_are_computed_by_clusters():
    """Which L2 bound, and shared memory now, the order of the store counted; without descriptors, and on devices without clusters, they
    are as before."""
    named = {layer.name: layer for layer in layers()}
    for name, direction, most in (("nnunet_autopet192_up2", "forward", 1.3), ("nnunet_autopet192_up2", "grad_input", 1.3),
                                  ("tats_up0", "forward", 1.8), ("genesis_up1", "grad_input", 1.3)):
        problem = named[name].problem(direction)
        found = plan(problem, H200)
        assert found.config.path == "pair" and terms(found).limit < most and terms(found).over["l2"] < min(most, 1.2), name
        assert plan(problem, H200, constraints=parse("descriptor")).config.path == "gather"
        assert plan(problem, Device.named("nvidia_a100")).config.path == "gather"


@pytest.mark.parametrize("channels, block_k, stages", ((32, 32, 2), (64, 64, 2), (88, 32, 3), (128, 64, 2), (192, 64, 3), (272, 16, 4), (320, 64, 4)))
def test_a_forward_in_place_has_room_for_its_steps_and_no_more(channels, block_k, stages):
    """All at once, where four stages hold them; channels are filled up where that takes fewer steps, which are few enough to be written one
    after the other."""
    found = plan(case.parse(f"forward n2 ci{channels} co32 in32 k2 s2 float16 channels_first"), H200).config
    assert (found.path, found.block_k, found.stages) == ("pair", block_k, stages)
    steps = lambda channels: case.parse(f"forward n2 ci{channels} co32 in32 k2 s2 float16 channels_first")
    assert pair_issue.in_line(steps(channels), found) and not pair_issue.in_line(steps((pair_issue.FEW + 1) * block_k), found)


def test_memory_bound_forwards_leave_warps_time():
    """Estimated: what compiled code issues is in the record of limits."""
    named = {layer.name: layer for layer in layers()}
    for name in ("nnunet_iso128_up3", "nvidia_nnunet_up4", "primus_m_dec2", "sammed3d_up1", "unetr_enc2_1", "vnet_up3"):
        found = terms(plan(named[name].problem("forward"), H200))
        assert found.limit < 1.01 and found.issue / found.roofline < 0.5, name


def test_the_grid_counts_clusters():
    problem = case.parse(WHOLE)
    found = plan(problem, H200, replace(PLANES, block_n=512, cluster=4)).schedule.main
    assert found.ctas == 4 and prod(found.grid) == 2 * 16**3 // 512 * 8 * 128 // 256
