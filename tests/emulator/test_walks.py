"""The walking form, as compiled for Hopper: exact on integers, whatever its patches, phases, layouts and sizes; faults are found.

Gluon has no interpreter, so this is where its kernel is proved.
"""

import re
from dataclasses import replace
from math import prod
from unittest import mock

import pytest
import torch

import triton_conv3dt as t3
from triton_conv3dt.checking import trial_tensors
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import costs, lowering, search, walk_memory, walk_tiles, walks
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from .cases import Cases, Failed
from .library import emulated
from .parts.problems import computed, run

HOPPER = Device.named("nvidia_h200")
LIES = dict(copy=False)  # TF32 that is rounded in registers
HALO = dict(copy=False, halo=True)  # 16 bits channels-last, in lines
D, W, DW, ALL, NONE = (True, False, False), (False, False, True), (True, False, True), (True,) * 3, (False,) * 3
TOGETHER, PADDED = (dict(taps=(way, "programs", "programs"), stages=1) for way in ("columns", "crossed"))
K3, K4 = "k3 s2 p1 op1", "k4 s2 p1"
CASES = {  # the problem; block_m, box, merge, and what else a config says
    "d merged": (f"forward n2 ci32 co16 in5x9x11 {K3} float16 channels_last bias", (16, (4, 8, 8), D)),
    "residual": (f"forward ci16 co16 in3x8x9 {K3} bfloat16 channels_last bias residual", (16, (4, 8, 8), DW)),
    "activation": (f"forward ci16 co16 in3x8x9 {K3} float16 channels_last bias residual leaky_relu(0.25)", (16, (4, 8, 8), D)),
    "a series": (f"forward ci16 co8 in3x8x10 {K3} float32 tf32 channels_first bias elu(1.0)", (8, (4, 8, 8), W)),
    "channels first": (f"forward ci16 co24 in4x5x12 {K3} float16 channels_first bias residual", (16, (2, 4, 16), W)),
    "tf32": (f"forward n2 ci40 co20 in3x9x9 {K3} float32 tf32 channels_first bias", (8, (4, 8, 8), DW)),
    "tf32, channels last": (f"forward ci24 co12 in3x8x9 {K3} float32 tf32 channels_last bias", (8, (4, 8, 8), D)),
    "full phases": (f"forward ci32 co16 in3x6x10 {K4} bfloat16 channels_last", (8, (2, 8, 8), ALL)),
    "phases apart": (f"forward ci16 co8 in3x6x10 {K4} float16 channels_last", (8, (3, 8, 8), NONE)),
    "stride 1": ("forward ci16 co24 in5x9x10 k3 p1 float16 channels_last", (16, (3, 8, 8), NONE, dict(stages=3))),
    "three steps a place": ("forward ci24 co8 in4x7x9 k5 s2 p2 op1 bfloat16 channels_last bias", (8, (3, 8, 8), D)),
    "blocks of channels": (f"forward ci72 co16 in3x5x9 {K3} float16 channels_last", (16, (4, 8, 8), D)),
    "two warpgroups": (f"forward n2 ci16 co32 in3x9x20 {K3} float16 channels_last", (32, (2, 8, 16), D)),
    "one plane": ("forward n3 ci16 co16 in1x8x8 k1x4x4 s1x2x2 p0x1x1 float16 channels_last", (16, (1, 8, 8), W)),
    "dilated": ("forward ci16 co16 in4x6x9 k3 p2 d2 float16 channels_last", (16, (2, 8, 8), NONE)),
    "stride 3": ("forward ci16 co8 in3x4x9 k4 s3 p1 float16 channels_first", (8, (2, 8, 8), NONE)),
    "gradient": (f"grad_input n2 ci32 co16 in5x9x10 {K3} float16 channels_last", (32, (4, 8, 8), NONE)),
    "gradient, channels first": (
        f"grad_input ci24 co48 in4x6x12 {K3} float16 channels_first", (8, (2, 4, 16), NONE, dict(stages=3))),
    "gradient, tf32": (f"grad_input ci16 co24 in3x6x9 {K3} float32 tf32 channels_first", (16, (2, 8, 8), NONE)),
    "gradient, stride 1": ("grad_input ci16 co16 in4x9x9 k3 p1 bfloat16 channels_last", (16, (2, 8, 16), NONE)),
    "gradient, k5": ("grad_input ci16 co16 in3x6x8 k5 s2 p2 op1 bfloat16 channels_last", (16, (3, 8, 8), NONE)),
    "one stage": ("forward n2 ci32 co16 in4x9x10 k3x3x5 p1x1x2 float32 tf32 channels_first", (8, (3, 8, 8), NONE, dict(stages=1))),
    "one stage, phases apart": (f"forward ci16 co8 in5x6x10 {K4} float16 channels_last", (8, (3, 8, 8), NONE, dict(stages=1))),
    "one stage, residues": (f"grad_input ci16 co32 in5x9x10 {K3} bfloat16 channels_last", (16, (3, 8, 8), NONE, dict(stages=1))),
    "half rows": (f"forward ci64 co16 in4x5x9 {K3} float16 channels_last", (16, (4, 8, 8), D, dict(block_k=32))),
    "quarter rows": (f"forward ci48 co16 in4x5x9 {K3} float16 channels_last", (16, (4, 8, 8), D, dict(block_k=16))),
    "half rows, tf32": ("forward ci24 co16 in4x9x9 k3 p1 float32 tf32 channels_first", (16, (3, 8, 8), NONE, dict(block_k=16))),
    "quarter rows, tf32": ("forward ci24 co16 in4x9x9 k3 p1 float32 tf32 channels_last", (16, (3, 8, 8), NONE, dict(block_k=8))),
    "odd channels": ("forward n2 ci5 co8 in4x6x9 k3 p1 bfloat16 channels_first bias", (8, (2, 8, 8), NONE)),
    "odd channels, tf32": (f"forward ci10 co8 in4x6x9 {K3} float32 tf32 channels_last", (8, (2, 8, 8), D)),
    "gradient, half rows": (f"grad_input ci16 co64 in4x6x9 {K3} float16 channels_last", (16, (2, 8, 8), NONE, dict(block_k=32))),
    "gradient, padded channels": (
        f"grad_input n2 ci16 co24 in3x6x9 {K4} float16 channels_first", (16, (2, 8, 8), NONE, dict(block_k=32))),
    "gradient, odd channels": ("grad_input n2 ci8 co7 in3x6x9 k4x3x4 s2x1x2 p1 bfloat16 channels_last", (8, (2, 8, 8), NONE)),
    "gradient, padded size": ("grad_input n2 ci16 co16 in4x6x9 k3 s2 p1 bfloat16 channels_last", (16, (2, 8, 8), NONE)),
    "gradient, padded size, tf32": ("grad_input n2 ci8 co8 in3x5x9 k5 s2x3x2 float32 tf32 channels_first", (8, (2, 8, 8), NONE)),
    "gradient, merged residues": (f"grad_input n2 ci16 co8 in4x6x10 {K4} float16 channels_first", (16, (3, 8, 8), W)),
    "gradient, merged odd residues": ("grad_input n2 ci8 co5 in3x6x9 k3x4x5 s2x2x3 p1 bfloat16 channels_last", (8, (2, 8, 8), W)),
    "gradient, merged rows": ("grad_input ci16 co24 in3x6x9 k3x3x4 s2 float32 tf32 channels_first", (16, (2, 8, 8), W, dict(stages=1))),
    "two ages in one": ("forward n2 ci16 co16 in5x9x10 k3 p1 float16 channels_last", (16, (3, 8, 8), NONE, TOGETHER)),
    "four ages in one": ("forward ci16 co8 in7x6x9 k5 p2 float32 tf32 channels_first bias", (8, (7, 8, 8), NONE, TOGETHER)),
    "padded ages": ("forward ci16 co8 in5x6x9 k3x5x3 p1 bfloat16 channels_last", (8, (4, 8, 8), NONE, PADDED)),
    "eight ages in one": ("forward ci8 co8 in9x6x9 k7x3x3 p2 float16 channels_first bias", (8, (5, 8, 8), NONE, PADDED)),
    "ages of merged phases": (
        "forward ci16 co8 in4x6x10 k5x3x3 s1x2x2 p1 float16 channels_last", (8, (4, 8, 8), (False, True, True), TOGETHER)),
    "ages of phases apart": (f"forward ci16 co8 in5x6x10 {K4} float16 channels_last", (8, (3, 8, 8), NONE, TOGETHER)),
    "gradient, ages in one": ("grad_input ci16 co16 in6x9x9 k3 p1 bfloat16 channels_first", (16, (6, 8, 8), NONE, TOGETHER)),
    "gradient, ages of residues": ("grad_input ci8 co16 in5x6x8 k5 s2 p1 float32 tf32 channels_first", (8, (4, 8, 8), NONE, TOGETHER)),
    "gradient, padded ages of residues": (f"grad_input ci16 co16 in5x6x8 {K4} float16 channels_last", (16, (4, 8, 8), NONE, PADDED)),
    "one channel": ("forward n2 ci16 co1 in5x6x9 k4 s2 p1 float32 tf32 channels_last bias", (1, (3, 8, 8), ALL, TOGETHER)),
    "one channel, odd taps": ("forward ci16 co1 in3x6x9 k5 s2 p1 float16 channels_first", (1, (2, 8, 8), ALL)),
    "three channels": ("forward ci16 co3 in3x6x9 k4x5x5 s1x2x2 p1 bfloat16 channels_first bias", (4, (2, 8, 8), (False, True, True))),
    "three channels last": ("forward ci16 co3 in3x6x9 k3 s2 p1 op1 float16 channels_last bias residual", (4, (2, 8, 8), ALL)),
    "one of two channels": ("forward ci32 co2 in3x4x6 k9 s2 p4 op1 float32 tf32 channels_last bias", (1, (3, 8, 8), ALL, TOGETHER)),
    "two of three channels": ("forward n2 ci16 co3 in3x4x9 k5 s2 p2 op1 float16 channels_first bias", (2, (2, 8, 8), ALL)),
    "gradient, odd depth": ("grad_input n2 ci16 co16 in3x6x8 k2x3x3 s2 p1 op1 float16 channels_last", (16, (2, 8, 8), NONE)),
    "as it lies": (f"forward n2 ci32 co16 in4x9x11 {K3} float32 tf32 channels_first bias residual", (16, (3, 8, 8), DW, LIES)),
    "as it lies, channels last": (
        f"forward n2 ci20 co8 in4x5x9 {K3} float32 tf32 channels_last leaky_relu(0.25)", (8, (3, 8, 8), D, LIES)),
    "as it lies, phases apart": (f"forward ci5 co8 in3x6x10 {K4} float32 tf32 channels_first", (8, (3, 8, 8), NONE, LIES)),
    "as it lies, wide": (f"forward ci16 co8 in3x9x20 {K3} float32 tf32 channels_first", (8, (2, 8, 16), DW, LIES | dict(stages=3))),
    "as it lies, alone": ("forward n2 ci64 co8 in4x9x9 k3 p1 float32 tf32 channels_first", (8, (2, 8, 8), NONE, LIES | dict(stages=1))),
    "as it lies, gradient": ("grad_input n2 ci16 co24 in3x5x9 k3 s2 p1 float32 tf32 channels_first", (16, (2, 8, 8), NONE, LIES)),
    "as it lies, gradient, channels last": (
        "grad_input n2 ci8 co7 in3x5x9 k4x3x5 s2x3x2 p1 float32 tf32 channels_last", (8, (2, 8, 8), NONE, LIES)),
    "as it lies, gradient, runs": (
        "grad_input n2 ci16 co24 in3x6x9 k3x3x4 s2 p1 float32 tf32 channels_last", (16, (3, 8, 8), NONE, LIES)),
    "as it lies, five beside": (
        "forward n2 ci16 co8 in4x9x10 k3x2x6 p1 float32 tf32 channels_first", (8, (3, 8, 8), NONE, LIES | TOGETHER)),
    "as it lies, three beside": ("forward ci24 co8 in3x9x20 k3x3x4 p1 float32 tf32 channels_last", (8, (2, 4, 16), NONE, LIES | PADDED)),
    "as it lies, dilated": ("forward ci16 co16 in4x6x19 k3 p4 d4 float32 tf32 channels_first", (16, (2, 8, 8), NONE, LIES)),
    "16 bits as they lie": (f"forward n2 ci32 co16 in4x9x11 {K3} float16 channels_first bias residual", (16, (3, 8, 8), DW, LIES)),
    "16 bits as they lie, by twos": (f"forward n2 ci40 co8 in4x9x14 {K4} bfloat16 channels_first", (8, (3, 8, 8), D, LIES)),
    "16 bits as they lie, wide": (f"forward ci16 co8 in3x9x22 {K3} float16 channels_first", (8, (2, 8, 16), DW, LIES | dict(stages=3))),
    "16 bits as they lie, odd channels": (f"forward ci5 co8 in3x6x10 {K4} float16 channels_first", (8, (3, 8, 8), NONE, LIES)),
    "16 bits as they lie, one stage": (
        "forward n2 ci64 co8 in4x9x9 k3 p1 bfloat16 channels_first", (8, (2, 8, 8), NONE, LIES | dict(stages=1))),
    "16 bits as they lie, ages": ("forward ci16 co8 in4x9x10 k3x2x6 p1 float16 channels_first", (8, (3, 8, 8), NONE, LIES | TOGETHER)),
    "16 bits as they lie, blocks": (
        "forward ci48 co8 in3x9x20 k3x3x4 p1 float16 channels_first", (8, (2, 4, 16), NONE, LIES | PADDED | dict(block_k=16))),
    "16 bits as they lie, dilated": ("forward ci16 co16 in4x6x18 k3 p4 d4 float16 channels_first", (16, (2, 8, 8), NONE, LIES)),
    "16 bits as they lie, nothing beside": (
        "forward ci40 co8 in5x9x17 k3x3x1 p1x1x0 float16 channels_first", (8, (5, 8, 16), NONE, LIES)),
    "16 bits as they lie, gradient": (
        "grad_input n2 ci16 co24 in3x5x9 k3 s2 p1 op1 float16 channels_first", (16, (2, 8, 8), NONE, LIES)),
    "16 bits as they lie, odd gradient": ("grad_input n2 ci16 co24 in3x5x9 k3 s2 p1 float16 channels_first", (16, (2, 8, 8), NONE, LIES)),
    "16 bits as they lie, gradient of stride 1": (
        "grad_input ci16 co16 in4x9x10 k3 p1 bfloat16 channels_first", (16, (2, 8, 16), NONE, LIES | dict(stages=1))),
    "16 bits as they lie, gradient of stride 3": (
        "grad_input n2 ci8 co7 in3x5x8 k4x3x5 s2x3x3 p1 float16 channels_first", (8, (2, 8, 8), NONE, LIES)),
    "16 bits as they lie, gradient, blocks": (
        f"grad_input n2 ci8 co32 in3x9x10 {K4} bfloat16 channels_first", (8, (3, 8, 8), NONE, LIES | dict(block_k=16, stages=1))),
    "a halo": (f"forward n2 ci32 co16 in4x9x11 {K3} float16 channels_last bias residual", (16, (3, 8, 8), D, HALO)),
    "a halo, odd channels": (f"forward n2 ci40 co12 in3x9x13 {K4} bfloat16 channels_last", (16, (2, 8, 8), DW, HALO)),
    "a halo, wide": (f"forward ci16 co8 in3x9x22 {K3} float16 channels_last", (8, (2, 8, 16), DW, HALO | dict(stages=3))),
    "a halo, ages": ("forward ci16 co8 in4x9x10 k3x2x6 p1 float16 channels_last", (8, (3, 8, 8), NONE, HALO | TOGETHER)),
    "a halo, blocks": ("forward ci48 co8 in3x9x20 k3x3x4 p1 float16 channels_last", (8, (2, 4, 16), NONE, HALO | PADDED | dict(block_k=16))),
    "a halo, dilated": ("forward ci16 co16 in4x6x19 k3 p4 d4 float16 channels_last", (16, (2, 8, 8), NONE, HALO)),
    "a halo, nothing beside": ("forward ci40 co8 in5x9x17 k3x3x1 p1x1x0 float16 channels_last", (8, (5, 8, 16), NONE, HALO)),
    "a halo, gradient": (f"grad_input n2 ci16 co24 in3x5x9 {K3} float16 channels_last", (16, (2, 8, 8), NONE, HALO)),
    "a halo, odd gradient": ("grad_input n2 ci16 co24 in3x5x9 k3 s2 p1 bfloat16 channels_last", (16, (2, 8, 8), NONE, HALO)),
    "a halo, gradient of stride 1": (
        "grad_input ci16 co16 in4x9x10 k3 p1 bfloat16 channels_last", (16, (2, 8, 16), NONE, HALO | dict(stages=1))),
    "a halo, gradient of stride 3": (
        "grad_input n2 ci8 co8 in3x5x8 k4x3x5 s2x3x3 p1 float16 channels_last", (8, (2, 8, 8), NONE, HALO)),
    "a halo, gradient, blocks": (f"grad_input n2 ci8 co32 in3x9x10 {K4} float16 channels_last", (8, (3, 8, 8), NONE, HALO | dict(block_k=16))),
    "a halo, copied": (f"forward n2 ci64 co24 in3x9x19 {K3} float16 channels_last bias", (32, (3, 8, 16), D, HALO)),
    "a halo, copied, odd channels": (f"forward n2 ci56 co32 in2x6x11 {K3} bfloat16 channels_last", (32, (3, 16, 8), D, HALO | dict(stages=1))),
    "a halo, copied, two beside": (
        "forward ci40 co32 in3x6x9 k3x2x5 s2 p1x0x2 op1 float16 channels_last", (32, (3, 8, 16), D, HALO | dict(stages=1))),
    "twins": (f"forward n2 ci24 co12 in3x9x11 {K4} float16 channels_first bias residual leaky_relu(0.25)", (16, (2, 8, 8), (True, True, False), LIES)),
    "twins, channels last": (f"forward ci16 co8 in4x6x10 {K3} bfloat16 channels_last y_layout=channels_first", (8, (3, 8, 8), D, HALO)),
    "as it lies, nothing beside": ("forward ci40 co8 in5x9x17 k3x3x1 p1x1x0 float32 tf32 channels_first", (8, (5, 8, 16), NONE, LIES)),
}


def problem_and_config(name):
    text, (block_m, box, merge, *more) = CASES[name]
    problem = case.parse(text)
    places, copy = box[1] * box[2], not walk_memory.as_it_is(problem) or walk_memory.beside(problem, merge) > 1
    more = dict(*more)
    given = dict(block_k=walk_memory.row_channels(problem, merge, copy or more.get("halo", False))[0], stages=2, copy=copy) | more
    return problem, Config("walk", block_m, places, warps=places // 16, merge=merge, box=box, **given)


@pytest.mark.parametrize("name", CASES)
def test_walks_are_exact(name):
    cases = run(*problem_and_config(name), HOPPER)
    assert (cases.done, cases.skipped) == (1, 0) and cases.kernels["walk"]
    assert cases.forms["wgmma"] and cases.forms["tensor copies"]


@pytest.mark.parametrize("w_minor", ("tap", "co", "ci"))
def test_weights_of_every_order(w_minor):
    problem, config = problem_and_config("stride 1")
    assert run(replace(problem, w_minor=w_minor), config, HOPPER).kernels["pack"] == (0 if w_minor == "ci" else 2)


def test_every_plane_is_fetched_once():
    """Rows of the patch and those beside it, for each shift along w: what walks.step_bytes promises, and no bank conflicts."""
    problem, config = problem_and_config("d merged")
    with emulated("nvidia_h200", exact=True, counting=True) as emulator:
        computed(problem, config, HOPPER)[1]()
        counted = next(launch for launch in emulator.launches if launch.name == "walk").summary()
    programs, steps = prod(lowering.grid(problem, config)), costs.loop_steps(config, problem)
    assert counted["tensor_bytes"] == steps * walks.step_bytes(problem, config) + programs * walks.weight_bytes(problem, config)
    assert counted["bank_conflict_factor"] == counted["sector_efficiency"] == 1.0


@pytest.mark.parametrize("name", ("nothing beside", "five beside", "runs"))
def test_lines_are_copied_once_and_read_without_conflicts(name):
    """No more than walks.step_bytes promises, zeros among it, and fragments that begin at any place."""
    problem, config = problem_and_config(f"as it lies, {name}" if name != "runs" else "as it lies, channels last")
    with emulated("nvidia_h200", exact=True, counting=True) as emulator:
        computed(problem, config, HOPPER)[1]()
        counted = next(launch for launch in emulator.launches if launch.name == "walk").summary()
    assert counted["bank_conflict_factor"] == 1.0
    copied, most = counted["bytes_asked"]["copy"], costs.loop_steps(config, problem) * walks.step_bytes(problem, config)
    assert problem.item * problem.n * problem.ci * prod(problem.in_size) <= copied <= most
    assert walks.walk(problem, config).run == (4 if name == "runs" else 1)


@pytest.mark.parametrize("name", ("16 bits as they lie, by twos", "16 bits as they lie, wide", "16 bits as they lie, gradient"))
def test_16_bits_are_loaded_by_twos_into_banks_of_their_own(name):
    """Each pair of neighbours once, and what one fetch of a place meets; no more than walks.step_bytes promises."""
    problem, config = problem_and_config(name)
    with emulated("nvidia_h200", exact=True, counting=True) as emulator:
        computed(problem, config, HOPPER)[1]()
        counted = next(launch for launch in emulator.launches if launch.name == "walk").summary()
    assert walks.walk(problem, config).run == 2 and counted["bank_conflict_factor"] < 1.1
    _, _, channels, size, _ = walk_memory.read(problem)
    most = (costs.loop_steps(config, problem) + config.stages) * walks.step_bytes(problem, config)
    assert 2 * problem.n * channels * prod(size) <= counted["bytes_asked"]["load"] <= most


@pytest.mark.parametrize("name, way", (("a halo, wide", "load"), ("a halo, gradient", "load"), ("a halo, copied", "copy")))
def test_a_halo_is_read_once_by_whole_units(name, way):
    """Loaded where there are registers for it, else copied; no more than walks.step_bytes promises."""
    problem, config = problem_and_config(name)
    with emulated("nvidia_h200", exact=True, counting=True) as emulator:
        computed(problem, config, HOPPER)[1]()
        counted = next(launch for launch in emulator.launches if launch.name == "walk").summary()
    walk, (_, _, channels, size, _) = walks.walk(problem, config), walk_memory.read(problem)
    assert walk.run == 8 and walk.copied == (way == "copy") and counted["bank_conflict_factor"] < (1.2 if walk.copied else 1.02)
    most = (costs.loop_steps(config, problem) + config.stages) * walks.step_bytes(problem, config)
    assert 2 * problem.n * channels * prod(size) <= counted["bytes_asked"][way] <= most


def test_neighbours_that_are_not_both_there_are_loaded_singly():
    """Of odd rows, of rows at odd addresses, and where the stride leaves a residue out."""
    run = lambda text, **more: walks.walk(replace(case.parse(text), **more), Config("walk", 8, 64, 16, 4, 2, box=(2, 8, 8))).run
    forward, gradient = (f"{direction} ci16 co16 in3x8x9 k3 s2 p1 op1 float16 channels_first" for direction in ("forward", "grad_input"))
    assert run(forward) == 1 and run(gradient) == 2
    assert run(forward.replace("x9", "x10")) == 2 and run(forward.replace("x9", "x10"), x_alignment=1) == 1
    assert run(gradient, y_alignment=1) == run(gradient.replace(" op1", " d2 op1")) == 1


@pytest.mark.parametrize("name", ("as it lies", "as it lies, gradient"))
def test_what_is_read_as_it_lies_is_rounded_as_a_copy_is(name):
    """The same bits, of values that TF32 has no room for; and what is cut off instead is noticed."""
    problem, config = problem_and_config(name)
    given = trial_tensors.integers(problem, "cpu")
    tensors = {name: torch.randn_like(getattr(given, name)) for name in ("x", "w", "y", "b", "residual") if getattr(given, name) is not None}

    def computed_with(config, edit=None):
        written = trial_tensors.written(problem)
        with emulated("nvidia_h200", exact=True) as emulator:
            emulator.edit = edit or emulator.edit
            out = torch.empty_like(getattr(given, written))
            launch.run(launch.bind(launch.plan(problem, HOPPER, config)), **tensors | {written: out})
        return out

    expected = computed_with(replace(config, copy=True))
    assert torch.equal(computed_with(config), expected)
    cut = computed_with(config, lambda ptx: re.sub(r"cvt\.rna\.tf32\.f32 (%\w+), (%\w+);", r"mov.b32 \1, \2;", ptx))
    assert not torch.equal(cut, expected)


def without_copies_waits(ptx):
    return re.sub(r"cp\.async\.wait_group\s+\w+;", "", ptx)


def test_copies_that_nobody_waits_for_are_found():
    problem, config = problem_and_config("as it lies")
    with emulated("nvidia_h200", exact=True, races=True) as emulator:
        emulator.edit = without_copies_waits
        with pytest.raises(Failed, match="wait|NaN|pending|wrong|differ"):
            Cases(emulator).run(*computed(problem, config, HOPPER))


def test_what_an_activation_needs_is_kept():
    """In training the value before the activation is written, too: the gradients are those of PyTorch."""
    x, w = torch.randn(1, 16, 3, 8, 9, dtype=torch.float16), torch.randn(16, 8, 3, 3, 3, dtype=torch.float16) / 8
    given = [t.requires_grad_() for t in (x, w)]
    reference = [t.detach().double().requires_grad_() for t in given]
    _, config = problem_and_config("activation")
    found = replace(config, block_m=8)
    with emulated("nvidia_h200", exact=True, races=True) as emulator, mock.patch.object(
            search, "default", lambda problem, device, constraints=None, ask=search.default: replace(found, copy=True) if (
                problem.direction == "forward") else ask(problem, device)):
        y = t3.conv_transpose3d(*given, None, 2, 1, 1, activation="silu", backend="triton")
        y.backward(torch.ones_like(y))
        assert "walk" in {launch.name for launch in emulator.launches} and not emulator.warnings()
    torch.nn.functional.silu(torch.nn.functional.conv_transpose3d(*reference, None, 2, 1, 1)).sum().backward()
    for ours, theirs in zip(given, reference):
        assert torch.allclose(ours.grad.double(), theirs.grad, rtol=1e-2, atol=2e-2)


def without_waits(ptx):
    return re.sub(r"wgmma\.wait_group\.sync\.aligned \d+;", "", ptx)


def without_barriers(ptx):
    """From the loop on: the copies that refill the ring then overtake those who still read it."""
    head, loop, rest = ptx.partition("wgmma.fence")
    return head + loop + re.sub(r"bar\.sync\s+0;", "", rest)


def other_neighbour(ptx):
    """One of the two places of a pair takes the other's channels."""
    return ptx.replace("0x7632", "0x5410")


WAITED = "wait|NaN|pending|wrong|differ"


@pytest.mark.parametrize("name, edit, found", (
    ("d merged", without_waits, WAITED), ("d merged", without_barriers, "warned|race|read|wrong"),
    ("two ages in one", without_waits, WAITED), ("padded ages", without_waits, WAITED), ("one stage", without_waits, WAITED),
    ("as it lies, dilated", without_waits, WAITED), ("as it lies, dilated", without_barriers, "warned|race|read|wrong"),
    ("16 bits as they lie, dilated", without_waits, WAITED),
    ("16 bits as they lie, dilated", without_barriers, "warned|race|read|wrong"),
    ("a halo, dilated", without_waits, WAITED), ("a halo, dilated", without_barriers, "warned|race|read|wrong"),
    ("a halo, copied", without_barriers, "warned|race|read|wrong"), ("a halo, copied", without_copies_waits, WAITED),
    ("16 bits as they lie, dilated", other_neighbour, "wrong|differ"), ("16 bits as they lie, gradient", other_neighbour, "wrong|differ")))
def test_faults_are_found(name, edit, found):
    problem, config = problem_and_config(name)
    with emulated("nvidia_h200", exact=True, races=True) as emulator:
        emulator.edit = edit
        with pytest.raises(Failed, match=found):
            Cases(emulator).run(*computed(problem, config, HOPPER))


def test_candidates_fit_and_are_chosen_where_taps_overlap():
    problem = case.parse(f"forward ci32 co32 in32x64x64 {K3} float16 channels_last")
    assert search.default(problem, HOPPER).path == "walk"
    tried = [c for c in walk_tiles.tiles(problem, HOPPER, thorough=True) if fits(c, problem, HOPPER) is None]
    assert len(tried) > 20 and {c.stages for c in tried} == {2, 3}
    assert not list(walk_tiles.tiles(case.parse("forward ci32 co32 in32x64x64 k2 s2 float16"), HOPPER, thorough=True))
