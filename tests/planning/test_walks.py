"""Walks in numbers: which taps their products have, how rows, rings and copies are shaped, what they cost, and who walks."""

from collections import Counter
from dataclasses import replace
from itertools import product
from math import prod

import pytest

from triton_conv3dt.planning import costs, search, walk_memory, walk_tables, walk_tiles, walks
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.plan import plan
from triton_conv3dt.planning.terms import terms
from triton_conv3dt.problems import case
from triton_conv3dt.problems.layers import layers

H200 = Device.named("nvidia_h200")
NONE, W, WAYS = (False,) * 3, (False, False, True), (walk_tables.APART, walk_tables.TOGETHER, walk_tables.PADDED)
KERNELS = ("k3 p1", "k5 p2", "k3 s2 p1 op1", "k4 s2 p1", "k5 s2", "k2x4x3 s2x3x2", "k3 p2 d2", "k7x1x2 s1x1x2", "k9 s2 p3")


def place_read(sheets, run, along):
    """(residue, shift) of a run of rows, along h and along w."""
    sheet = sheets[run.sheet]
    down, below = divmod(run.row - sheet.row, sheet.pitch)
    assert not below and 0 <= down <= sheet.rows - (1 if along else 8) and 0 <= run.shift <= sheet.reach
    shift = sheet.shift + run.shift
    h = (shift + along // 2) // along if along else sheet.first + down
    return sheet.residue, h, sheet.residue_w, shift - h * along


def taps_met(problem, merge, way, lines=None, along=0):
    """(what is read, age, column, residue beside it, tap) of every product, and how often."""
    found, t = Counter(), walk_tables.tables(problem, merge, 1 if along else 8, way, 8, lines, along)
    slots = dict(enumerate(t["slots"])) if t["slots"] != tuple((i,) for i in range(problem.taps)) else None
    for number, group in enumerate(t["products"]):
        for bundle, (size, products) in enumerate(zip(t["bundles"], group)):
            for one in products:
                slot = one.slot
                for age in range(sum(t["bundles"][:bundle]), sum(t["bundles"][:bundle]) + size):
                    for column in range(t["live"][min(age, t["span"] - 1)]):
                        taps = slots[slot] if slots else (slot,)
                        *read, w = one.run.residue, *place_read(t["sheets"], one.run, along)
                        further = 0, max(0, t["second"])
                        found.update((number, *read, w - further[i > 0], age, column, i, tap) for i, tap in enumerate(taps) if tap >= 0)
                        slot += 1
    return found


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("direction", ("forward", "grad_input"))
def test_every_tap_is_met_once_however_ages_and_rows_lie(direction, kernel):
    """Ages side by side meet the taps that they meet apart, zeros beside them, and lines and runs of places what sheets do; all of these are
    those of the kernel."""
    problem = case.parse(f"{direction} ci16 co16 in6x6x12 {kernel} float16 channels_first")
    merges = walk_tiles._merges(problem, True) if direction == "forward" else [NONE] + [W] * (problem.stride[2] > 1)
    for merge in merges:
        apart = taps_met(problem, merge, walk_tables.APART)
        assert Counter(tap for *_, tap in apart.elements()) == Counter(range(problem.taps))
        for way, lines in product(WAYS, (None, (4, 8, 1, True), (8, 8, 1, False), (2, 16, 2, False))):
            if merge is not W or direction == "forward" or problem.stride[2] == 2 or not lines:  # residues in words are two
                assert taps_met(problem, merge, way, lines) == apart
            if lines and merge is not W:
                assert taps_met(problem, merge, way, lines, 60) == apart


def test_ages_lie_in_bundles_of_powers_of_two():
    bundles = lambda text, way: walk_tables.tables(case.parse(f"{text} float16 channels_first"), NONE, 8, way, 8)["bundles"]
    k3, k5, s2 = "forward ci16 co8 in8 k3 p1", "forward ci16 co8 in8 k5 p2", "grad_input ci8 co16 in8 k5 s2 p2 op1"
    assert [bundles(k3, way) for way in WAYS] == [(1, 1, 1), (1, 2), (4,)]
    assert [bundles(k5, way) for way in WAYS] == [(1,) * 5, (1, 4), (8,)]
    # Three steps by one residue along d, and two by the other: those that both take lie side by side.
    assert bundles(s2, walk_tables.TOGETHER) in ((1, 2), (2, 1))


def test_rows_leave_fewer_channels_unused():
    rows = lambda text, copied=True: list(walk_tiles._rows(case.parse(text), NONE, copied))
    assert rows("forward ci48 co8 in8 k3 float16 channels_first") == [64, 16]
    assert rows("forward ci64 co8 in8 k3 float16 channels_first") == [64]
    assert rows("forward ci24 co8 in8 k3 float32 tf32 channels_first") == [32, 8]
    assert rows("forward ci5 co8 in8 k3 float16 channels_first") == [16]
    assert rows("grad_input ci8 co24 in8 k3 s2 float16 channels_last", copied=False) == []


def test_copies_are_padded_and_pay_for_it():
    """An odd output of odd channels: rows end with the channels of a residue, and the stride divides height and width."""
    problem = case.parse("grad_input n2 ci16 co12 in4x7x9 k5 s2 float16 channels_first")
    apart, merged = (Config("walk", 16, 64, 16, 4, 2, merge, box=(4, 8, 8), copy=True) for merge in (NONE, W))
    assert fits(apart, problem, H200) is None and fits(merged, problem, H200) is None
    assert problem.out_size == (11, 17, 21)
    for config, channels in ((apart, 16), (merged, 12)):
        found = plan(problem, H200, config)
        copied = next(w for w in found.schedule.workspaces if w.name == "copied")
        assert copied.shape == (2, channels, 11, 18, 22)
        assert walk_memory.copied_bytes(problem, config) == 2 * 2 * (12 * 11 * 17 * 21 + channels * 11 * 18 * 22)
        assert f"padded to {channels} channels of 11x18x22" in str(found)
        packed = next(w for w in found.schedule.workspaces if w.name == "packed")
        passes = 2 * 2 * (prod(copied.shape) + prod(packed.shape)) / H200.bandwidth
        assert terms(found).passes == pytest.approx(passes)
    assert costs.cost(replace(apart, block_k=32), problem, H200) > costs.cost(apart, problem, H200)
    assert "may not end in the channels" in fits(replace(apart, block_k=8), problem, H200)


def test_a_ring_of_one_plane_costs_what_does_not_overlap():
    problem = case.parse("forward ci32 co32 in32x64x64 k3 p1 float16 channels_last")
    config = Config("walk", 32, 64, 32, 4, 2, box=(32, 8, 8), taps=(walk_tables.TOGETHER, *WAYS[:1] * 2))
    one = replace(config, stages=1)
    assert walks.shared_memory(problem, one) < walks.shared_memory(problem, config)
    alone = replace(H200, shared_memory=walks.shared_memory(problem, config))  # no second program, which would work meanwhile
    assert costs.cost(one, problem, alone) > costs.cost(config, problem, alone)
    assert 1 in walk_tiles._stages(config, problem, replace(H200, shared_memory=walks.shared_memory(problem, one)), False)
    assert 1 not in walk_tiles._stages(config, problem, alone, False)


K4_LAST = "n4 ci32 co32 in24x32x64 k4 s2 p1 float16 channels_last"


@pytest.mark.parametrize("direction, box", (("forward", (25, 8, 16)), ("grad_input", (24, 8, 8))))
def test_a_halo_along_w_is_fetched_once_for_all_taps(direction, box):
    """And asks less of L2 and of shared memory than a fetch for each shift does, by which the default reads no longer."""
    problem = case.parse(f"{direction} {K4_LAST}")
    found = search.default(problem, H200)
    assert found.path == "walk" and found.halo and not found.copy and found.box == box
    halo, rows = (terms(plan(problem, H200, config)) for config in (found, replace(found, halo=False)))
    assert halo.l2 < 0.7 * rows.l2 and halo.shared < 0.85 * rows.shared and halo.tensor == rows.tensor


def test_what_has_no_registers_beside_sums_is_copied_into_lines():
    """Which have room for as many places beside a patch as in it then; and what is written must leave some."""
    problem = case.parse("forward n2 ci64 co32 in48 k3 s2 p1 op1 float16 channels_last")
    loaded = Config("walk", 16, 128, 64, 8, 2, (True, False, False), box=(25, 8, 16), halo=True)
    copied = replace(loaded, block_m=32)
    assert [walks.walk(problem, config).copied for config in (loaded, copied)] == [False, True]
    assert walks.walk(problem, copied).rows > walks.walk(problem, loaded).rows and fits(copied, problem, H200) is None
    smaller = replace(copied, block_n=64, warps=4, box=(25, 8, 8))
    assert "no registers" in fits(smaller, problem, H200)
    assert "no registers" in fits(copied, case.parse(f"forward {case.format(problem).removeprefix('forward ')} residual"), H200)


@pytest.mark.parametrize("text, more", (
    (f"grad_input {K4_LAST.replace('k4', 'k3')}", dict(copy=True)), (f"grad_input {K4_LAST.replace('last', 'first')}", {}),
    (f"grad_input {K4_LAST.replace('float16', 'float32 tf32')}", {}), (f"grad_input {K4_LAST} y_alignment=4", {})))
def test_a_halo_along_w_is_that_of_whole_units(text, more):
    config = Config("walk", 32, 64, 32, 4, 2, box=(24, 8, 8), halo=True, **more)
    assert "whole 16 bytes" in fits(config, case.parse(text), H200)


def test_phases_along_w_that_are_written_together_need_no_zeros():
    """Merged and aligned, two phases of two taps each have three shifts; apart, their sums are written as one run all the same."""
    problem = case.parse(f"forward {K4_LAST.replace('last', 'first')}")
    found = search.default(problem, H200)
    merged = replace(found, merge=(True, False, True))
    assert found.path == "walk" and found.merge == (True, False, False) and walks.walk(problem, found).twins
    assert not walks.walk(problem, merged).twins and not walks.twins(replace(problem, y_layout="channels_last"), found)
    assert walks.written_run(problem, found, 8) == walks.written_run(problem, merged, 8) == 2
    assert walks.multiplied(problem, merged) == 1.5 * walks.multiplied(problem, found)
    assert not walks.twins(case.parse("forward ci32 co32 in8x32x32 k4 s3 p1 float16 channels_first"), found)


@pytest.mark.parametrize("text, merge, block_m, abreast, runs", (
    ("ci64 co32 k3 s2 p1 op1 float16 channels_last", (True, False, False), 16, 4, (9, 4)),
    ("ci32 co32 k4 s2 p1 float16 channels_last", (True, False, False), 8, 4, (16, 9)),
    ("ci16 co16 k3 s2 p1 op1 float32 channels_last", NONE, 16, 2, (18, 12)),
    ("ci64 co64 k3 s2 p1 op1 float16 channels_last", (True, False, False), 32, 1, (9, 9))))
def test_groups_that_registers_hold_together_read_a_run_once(text, merge, block_m, abreast, runs):
    """All groups, or as many as divide them; apart those whose sums leave too few registers, or that read shared memory as it lies."""
    problem = case.parse(f"forward in32 {text}")
    config = Config("walk", block_m, 64, min(32, problem.ci), 4, 2, merge, box=(9, 8, 8), halo=walk_memory.aligned(problem))
    walk, rows = walks.walk(problem, config), walks.walk(problem, replace(config, halo=False, copy=True))
    assert walk.abreast == abreast and rows.abreast == (1 if problem.item == 2 else abreast)
    apart = sum(len({p.run for bundle in group for p in bundle}) for group in walk.products)
    assert (apart, walks.runs(problem, walk)) == runs


@pytest.mark.parametrize("ways", (("programs", "columns", "programs"), ("rows", *WAYS[:1] * 2)))
def test_other_ways_are_refused(ways):
    problem = case.parse("forward ci32 co32 in32x64x64 k3 p1 float16 channels_last")
    assert "the taps of d alone" in fits(Config("walk", 32, 64, 32, 4, 2, box=(32, 8, 8), taps=ways), problem, H200)


def test_phases_that_begin_later_are_zeros_beside_others():
    """Apart they are left out, where that leaves a product eight columns."""
    problem = case.parse("forward ci32 co16 in8x16x16 k3 s2 p1 op1 float16 channels_last")
    live = lambda way, channels: walk_tables.tables(problem, (True, False, False), 8, way, channels)["live"]
    assert [live(way, 16) for way in WAYS] == [(2, 1), (2, 2), (2, 2)] and live(WAYS[0], 4) == (2, 2)
    one = "are no columns of a product", "forward ci32 co16 in1x16x16 k1x3x3 s1x2x2 p0x1x1 float16 channels_last"
    config = Config("walk", 16, 64, 32, 4, 2, box=(1, 8, 8), taps=(walk_tables.TOGETHER, *WAYS[:1] * 2))
    assert one[0] in fits(config, case.parse(one[1]), H200)


def test_few_channels_of_all_phases_are_columns():
    problem = case.parse("forward ci32 co1 in8x16x16 k4 s2 p1 float16 channels_last")
    merges = [merge for merge in walk_tiles._merges(problem, True) if list(walk_tiles._few(1, problem, merge))]
    assert merges == [(True, True, True)] and list(walk_tiles._few(3, problem, (True, False, True))) == [4, 2]
    config = Config("walk", 1, 64, 32, 4, 2, (True, True, True), box=(8, 8, 8))
    assert fits(config, problem, H200) is None
    assert "no product of 8" in fits(replace(config, merge=(True, False, True)), problem, H200)


@pytest.mark.parametrize("name, direction, most", (
    ("pcc_geo_infer512_0", "forward", 3), ("kb_1_70", "forward", 4), ("igev_train_2", "grad_input", 2.5), ("igev_infer_2", "grad_input", 2.5),
    ("igev_train_0", "forward", 3), ("torch_opbench_ic16_oc64_k3_s1", "grad_input", 3),
    ("torch_opbench_ic16_oc32_k3_s1", "grad_input", 3), ("torch_opbench_ic32_oc32_k5_s2", "forward", 3),
    ("pcc_geo_infer512_2", "forward", 5), ("wolny_resunet_up3", "grad_input", 3)))
def test_layers_that_read_every_tap_from_l2_walk(name, direction, most):
    problem = next(layer for layer in layers() if layer.name == name).problem(direction)
    found = plan(problem, H200, search.default(problem, H200))
    assert found.config.path == "walk" and terms(found).limit < most
    assert prod(found.schedule.main.grid) >= (80 if found.config.box[1] == 1 else 96)  # of 132 SMs; runs leave no places unused
