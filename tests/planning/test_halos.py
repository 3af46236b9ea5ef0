"""Halos along h in numbers: which rows a step of a cluster fetches, for which taps, what that saves, and when it cannot be."""

from dataclasses import replace
from math import prod

import pytest

from triton_conv3dt.planning import costs, halos, lowering, pair_tiles, pairs, search, walk_memory
from triton_conv3dt.planning.config import Config, fits, shared_memory
from triton_conv3dt.planning.constants import Band
from triton_conv3dt.planning.constraints import NONE as NO_CONSTRAINTS
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.plan import plan
from triton_conv3dt.planning.terms import terms
from triton_conv3dt.problems import case
from triton_conv3dt.problems.layers import layers

H200, NONE, H = Device.named("nvidia_h200"), (False,) * 3, (False, True, False)
HALO = Config("pair", 32, 256, 32, 8, 3, box=(1, 16, 16), halo=True)
LAST, FIRST = "float32 tf32 channels_last", "float32 tf32 channels_first"
K5, K5S2 = f"grad_input n2 ci32 co32 in16x32x32 k5 p2 {LAST}", f"grad_input n2 ci32 co32 in16x32x32 k5 s2 p2 op1 {LAST}"


@pytest.mark.parametrize("text, merge, expected", (
    ("grad_input ci16 co16 in8 k3 p1", NONE, [(0, -1, 2, ((0, 0), (1, 1), (2, 2)))]),
    ("grad_input ci16 co16 in8 k5 s2 p2 op1", NONE, [(0, -1, 2, ((0, 0), (1, 2), (2, 4))), (1, -1, 1, ((0, 1), (1, 3)))]),
    ("grad_input ci16 co16 in8 k4 s2 p1", NONE, [(0, 0, 1, ((0, 1), (1, 3))), (1, -1, 1, ((0, 0), (1, 2)))]),
    ("grad_input ci16 co16 in8 k3 s2 p1 op1", NONE, [(0, 0, 0, ((0, 1),)), (1, -1, 1, ((0, 0), (1, 2)))]),
    ("grad_input ci16 co16 in8 k3 p2 d2", NONE, [(0, -2, 4, ((0, 0), (2, 1), (4, 2)))]),
    ("forward ci16 co16 in8 k3 p1", NONE, [(0, -1, 2, ((2, 0), (1, 1), (0, 2)))]),
    ("forward ci16 co16 in8 k4 s2 p1", H, [(0, -1, 1, ((1, 0), (0, 2)))]),
    ("forward ci16 co16 in8 k3 s2 p1 op1", H, [(0, -1, 1, ((1, 0), (0, 2)))])))
def test_a_band_has_the_rows_of_all_taps_of_a_residue(text, merge, expected):
    assert halos.bands(case.parse(text), replace(HALO, merge=merge)) == tuple(Band(*band) for band in expected)


@pytest.mark.parametrize("text", (K5, K5S2, K5S2.replace("k5", "k3x4x5 d1"), f"forward n1 ci32 co32 in8x32x32 k3 p1 {LAST}"))
def test_taps_read_what_the_kernel_would_have_fetched(text):
    """Of every tap once: the place that it reads of row h of the tile, as axis constants have it."""
    problem = case.parse(text)
    axis, found = lowering.axis_constants(problem, HALO)[1], halos.bands(problem, HALO)
    read = {tap: axis.in_step * (band.first + row) + band.residue for band in found for row, tap in band.taps}
    assert read == {axis.first + j * axis.tap_step: axis.offset + j * axis.move for j in range(axis.taps)}
    assert all(0 <= row <= band.halo for band in found for row, _ in band.taps) and halos.count(problem, HALO) == len(found)


@pytest.mark.parametrize("text, rows, of", ((K5, 20, 80), (K5S2, 35, 80)))
def test_rows_are_fetched_once_for_all_their_taps(text, rows, of):
    """So many rows instead of the box anew for every tap; and as many weights and products."""
    problem, anew = case.parse(text), replace(HALO, halo=False)
    places = lambda config: costs.read_bytes(config, problem) - costs.loop_steps(config, problem) * halos.taps(problem, config) * 32 * 32 * 4
    assert places(HALO) / places(anew) == pytest.approx(rows / of)
    with_halo, without = (terms(plan(problem, H200, config)) for config in (HALO, anew))
    assert with_halo.tensor == pytest.approx(without.tensor) and with_halo.l2 < 0.6 * without.l2


def test_what_a_step_fills_is_in_shared_memory():
    """Rows and weights of the largest band, in every stage."""
    problem = case.parse(K5S2)
    assert halos.most(problem, HALO) == (3, 2) and (halos.taps(problem, HALO), halos.rows(problem, HALO)) == (2.5, 1.5)
    assert pairs.stage_bytes(problem, HALO) == 128 * (18 * 8 + 3 * 32) and pairs.written_bytes(problem, HALO) == 128 * (17.5 * 8 + 2.5 * 32)
    assert pairs.step_bytes(problem, HALO) == 128 * (17.5 * 16 + 2.5 * 32)
    assert shared_memory(HALO, problem) - shared_memory(replace(HALO, stages=2), problem) == pairs.stage_bytes(problem, HALO)


@pytest.mark.parametrize("text, config, kind, block, parted", (
    (K5, HALO, "box", [1, 1, 4, 16, 32], (3,)),
    (K5, replace(HALO, block_n=512, box=(2, 16, 16), cluster=4), "box", [1, 2, 4, 16, 32], (3, 1)),
    (K5S2, HALO, "strided", [1, 1, 1, 16, 32], (3,)),
    (K5.replace("last", "first"), replace(HALO, box=(2, 16, 8)), "lines", [2, 4, 32, 8], (0,)),
    (K5S2.replace("last", "first"), HALO, "strided lines", [1, 1, 1, 32, 32], (4,))))
def test_programs_part_planes_and_rows(text, config, kind, block, parted):
    """Halos overlap along h, so that no box of a cluster could part them there; further rows come by boxes of as many as divide all."""
    problem = case.parse(text)
    assert fits(config, problem, H200) is None and pairs.reading(problem, config) == kind
    step = (1, 32) if kind in pairs.LINES else 32
    *_, of_halo, halved, rounded = pairs.described(problem, config, "halo", step)
    whole = pairs.described(problem, config, kind, step)
    assert (of_halo, halved) == (block, parted) and (halved, rounded) == whole[3:]
    assert prod(whole[2]) // prod(of_halo) == 16 // halos.together(problem, config)


def test_copies_are_padded_to_whole_strides():
    """So that rows and places of a residue end where the tensor ends; a walk pads channels, too."""
    problem = case.parse(f"grad_input n2 ci16 co12 in4x8x9 k5 s2 {FIRST}")
    config = replace(HALO, block_k=32, copy=True)
    assert problem.out_size == (11, 19, 21) and walk_memory.shape(problem, config) == (12, (12, 20, 22))
    assert walk_memory.shape(problem, replace(config, path="gather")) == (12, (11, 19, 21))
    problem = case.parse(f"grad_input n2 ci16 co32 in4x8x9 k5 s2 {FIRST}")
    assert fits(config, problem, H200) is None and "whose height and width" in fits(replace(config, path="descriptor", halo=False), problem, H200)
    assert pairs.described(problem, config, "apart", 32)[0] == [8, 6, 10, 11, 64]
    assert plan(problem, H200, config).schedule.workspaces[0].shape == (2, 32, 12, 20, 22)


def test_dz_in_channels_last_may_be_copied_for_deep_boxes():
    """Of a small volume, whose planes leave programs of a cluster nothing to part."""
    problem, deep = case.parse(f"grad_input n8 ci32 co32 in8x8x8 k5 s2 p1 op1 {LAST}"), replace(HALO, warps=4, block_n=128, box=(2, 8, 8))
    assert fits(replace(deep, copy=True), problem, H200) is None and "lies in one plane" in fits(deep, problem, H200)
    assert "no copy" in fits(replace(deep, copy=True), case.parse(K5), H200)
    launch = plan(problem, H200, replace(deep, copy=True)).schedule.launches[0]
    assert launch.kernel == "to_channels_last" and launch.constants["APART"] == (2, 2) and launch.constants["PADDED"] is False


REFUSED = {  # problem, config: the reason
    "a gather": (K5, Config("gather", 32, 64, 32, halo=True), "keeps no halo in a grad_input"),
    "a weight gradient": (K5.replace("grad_input", "grad_weight"), replace(HALO, taps=("crossed",) * 3), "keeps no halo in a grad_weight"),
    "planes": ("forward n2 ci64 co64 in8 k2 s2 float16 channels_first", Config("pair", 128, 256, 64, 8, 3, (True,) * 3, halo=True), "that of boxes"),
    "phases apart": (f"forward ci32 co32 in16 k4 s2 p1 {LAST}", HALO, "phases along h have taps of their own"),
    "one tap": (K5.replace("k5 p2", "k3x1x3 p1x0x1"), HALO, "1 taps along h are not two to 7"),
    "many taps": (K5.replace("k5 p2", "k1x9x1 p0x4x0"), HALO, "9 taps along h are not two to 7"),
    "planes of a stride": (K5S2.replace("last", "first"), replace(HALO, box=(2, 8, 16)), "do not part the planes"),
    "narrow rows": (K5, replace(HALO, box=(1, 32, 8)), "in 8 places along w"),
    "more planes than programs": (K5, replace(HALO, box=(4, 8, 8)), "do not part the planes"),
    "wide forward": (f"forward n1 ci64 co8 in512x512x2048 k1 {LAST}", replace(HALO, halo=False), "offsets of 64 bits where it writes the boxes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_keep_a_halo_is_refused(name):
    text, config, reason = REFUSED[name]
    assert reason in (fits(config, case.parse(text), H200) or "fits")


def test_candidates_with_halos_fit():
    for text in (K5, K5S2, K5S2.replace("last", "first"), f"forward n2 ci64 co64 in8x16x16 k3 p1 {FIRST}"):
        problem = case.parse(text)
        tried = [c for c in pair_tiles.tiles(problem, H200, search._merges(problem, True), NO_CONSTRAINTS, True) if c.halo]
        kept = [config for config in tried if fits(config, problem, H200) is None]
        assert len(kept) > 10 and all(shared_memory(config, problem) <= H200.shared_memory for config in kept)
        assert {config.cluster for config in kept} == {2, 4} and all("a halo along h" in str(config) for config in kept)


def test_layers_whose_gathered_tensor_dominates_keep_one():
    """What L2 bound, many times over the roofline, is bound by less."""
    named = {layer.name: layer for layer in layers()}
    for name, direction, most in (("torch_opbench_ic16_oc64_k5_s1", "grad_input", 3.8), ("torch_opbench_ic16_oc64_k5_s2", "grad_input", 7.1),
                                  ("pcc_geo_infer512_1", "grad_input", 3), ("kb_2_77", "grad_input", 1.8), ("kb_2_3", "grad_input", 2.8),
                                  ("grnet_dconv9", "grad_input", 2.7), ("kb_2_77", "forward", 2.8)):
        found = plan(named[name].problem(direction), H200)
        assert found.config.halo and terms(found).limit < most, (name, terms(found).limit)
    whole = named["nnunet_autopet192_up2"].problem("grad_input")
    assert not plan(whole, H200).config.halo and not any(config.halo for config in search.candidates(whole, H200))
