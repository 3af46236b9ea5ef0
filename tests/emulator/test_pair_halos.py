"""Clusters whose steps fetch rows along h for all taps along h: exact in the emulator, in every form that they read."""

from dataclasses import replace

import pytest

from triton_conv3dt.planning import halos
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from .cases import Failed
from .parts.problems import run, run_with
from .test_pairs import FAULTS, without

HOPPER = Device.named("nvidia_h200")
NONE, W, H, HW = (False,) * 3, (False, False, True), (False, True, False), (False, True, True)
EPILOGUE = "bias residual leaky_relu(0.25)"

CASES = {  # problem, columns, rows and places along w of one program, merged axes, a copy first, channels of a step;
    # and planes of a cluster, if more than one
    "boxes, k3": ("grad_input n2 ci16 co40 in2x9x11 k3 p1 bfloat16 channels_last", 16, (8, 8), NONE, False, 64),
    "boxes, k5": ("grad_input n1 ci24 co32 in2x17x9 k3x5x3 p1x2x1 float32 tf32 channels_first", 32, (16, 8), NONE, True, 32),
    "boxes, w and d, two chunks": ("grad_input n1 ci16 co72 in3x7x33 k2x3x4 p0x1x2 float16 channels_last", 16, (4, 16), NONE, False, 32),
    "boxes, dilated": ("grad_input n1 ci16 co32 in2x10x9 k1x3x3 p0x2x2 d1x2x2 float16 channels_last", 16, (8, 8), NONE, False, 32),
    "forward": (f"forward n2 ci40 co24 in2x9x11 k3 p1 bfloat16 channels_last {EPILOGUE}", 32, (8, 8), NONE, False, 64),
    "forward, k5": ("forward n1 ci16 co16 in2x17x9 k3x5x5 p1x2x2 float32 tf32 channels_first bias", 16, (16, 8), NONE, True, 16),
    "forward, h merged": (f"forward n1 ci32 co16 in2x9x10 k3 s2 p1 op1 float16 channels_last {EPILOGUE}", 32, (8, 8), H, False, 32),
    "forward, hw merged": ("forward n2 ci32 co16 in2x5x8 k4 s2 p1 float32 tf32 channels_first bias", 64, (8, 8), HW, True, 32),
    "planes": (f"forward n2 ci24 co24 in5x9x11 k3 p1 float16 channels_last {EPILOGUE}", 32, (8, 8), NONE, False, 32, 2),
    "planes, lines": ("grad_input n1 ci16 co16 in3x9x20 k3x5x3 p1x2x1 float32 tf32 channels_first", 16, (8, 8), NONE, False, 16, 2),
    "padded, k3": ("grad_input n2 ci16 co32 in2x9x9 k3 s2 p1 float32 tf32 channels_first", 16, (8, 8), NONE, True, 32),
    "padded, k5": ("grad_input n1 ci24 co32 in2x7x9 k5 s2 float16 channels_first", 32, (8, 8), NONE, True, 32),
    "padded, k5 s3": ("grad_input n1 ci16 co32 in2x7x8 k5x5x4 s3 p1 float32 tf32 channels_first", 16, (8, 8), NONE, True, 32),
    "padded, planes": ("grad_input n2 ci16 co32 in3x7x8 k4x5x3 s2 p1 float32 tf32 channels_first", 16, (8, 8), NONE, True, 32, 2),
    "apart, of channels last": ("grad_input n2 ci16 co32 in3x8x7 k5 s2 p1 op1x1x0 float32 tf32 channels_last", 16, (8, 8), NONE, True, 32, 2),
    "padded, s1x2x3": ("grad_input n2 ci16 co32 in3x7x8 k3x4x5 s1x2x3 p1 bfloat16 channels_first", 16, (8, 8), NONE, True, 32, 2),
    "strided, k3": ("grad_input n2 ci24 co32 in2x9x10 k3 s2 p1 op1 float16 channels_last", 32, (8, 8), NONE, False, 32),
    "strided, k4": ("grad_input n1 ci48 co64 in2x9x9 k4 s2 p1 bfloat16 channels_last", 64, (8, 8), NONE, False, 64),
    "strided, k5": ("grad_input n1 ci16 co32 in2x17x9 k3x5x5 s2 p1x2x2 op1 float32 tf32 channels_first", 16, (16, 8), NONE, True, 32),
    "strided, k7": ("grad_input n1 ci16 co16 in2x7x9 k1x7x3 s1x3x2 p0x2x1 op0x0x1 float16 channels_last", 16, (8, 8), NONE, False, 16),
    "lines, k3": ("grad_input n2 ci16 co32 in2x9x40 k3 p1 float16 channels_first", 16, (4, 32), NONE, False, 32),
    "lines of TF32, k5": ("grad_input n2 ci16 co16 in2x9x24 k3x5x5 p1x2x2 float32 tf32 channels_first", 16, (8, 8), NONE, False, 16),
    "forward, lines of TF32, k3": (f"forward n1 ci16 co24 in2x9x20 k3 p1 float32 tf32 channels_first {EPILOGUE}", 32, (8, 16), NONE, False, 16),
    "forward, lines, hw merged": ("forward n1 ci32 co16 in2x6x24 k4 s2 p1 bfloat16 channels_first bias", 64, (4, 16), HW, False, 32),
    "strided lines, k3": ("grad_input n2 ci40 co32 in2x9x20 k3 s2 p1 op1 float16 channels_first", 64, (8, 8), NONE, False, 32),
    "strided lines, k4": ("grad_input n1 ci32 co16 in2x9x20 k4 s2 p1 bfloat16 channels_first", 32, (4, 16), NONE, False, 16),
    "strided lines of TF32, k4": ("grad_input n2 ci32 co16 in1x9x24 k3x4x4 s1x2x2 p1 float32 tf32 channels_first", 32, (16, 8), NONE, False, 16),
    "strided lines of TF32, k5": ("grad_input n1 ci16 co16 in2x9x20 k3x5x5 s2 p1x2x2 op1 float32 tf32 channels_first", 16, (8, 8), NONE, False, 16),
}


def problem_and_config(name, cluster=2):
    text, columns, (high, wide), merge, copy, block_k, *deep = CASES[name]
    places, (planes,) = high * wide, deep or (1,)
    return case.parse(text), Config("pair", columns, places * cluster, block_k, places // 16, 3, merge, copy=copy, cluster=cluster, halo=True,
                                    box=(planes, high, wide * cluster // planes))


@pytest.mark.parametrize("cluster", (2, 4))
@pytest.mark.parametrize("name", CASES)
def test_halos_are_exact(name, cluster):
    cases = run(*problem_and_config(name, cluster), HOPPER)
    assert (cases.done, cases.skipped) == (1, 0) and cases.kernels["pair"]
    assert cases.forms["wgmma"] and cases.forms["tensor copies"]


@pytest.mark.parametrize("halo", (True, False))
@pytest.mark.parametrize("name", ("strided, k4", "strided lines of TF32, k5", "boxes, w and d, two chunks"))
def test_offsets_of_64_bits(name, halo):
    """Of tensors with more elements than 31 bits can count, which nobody has here."""
    problem, config = problem_and_config(name)
    cases = run(replace(problem, wide=True), replace(config, halo=halo), HOPPER)
    assert (cases.done, cases.skipped) == (1, 0) and cases.kernels["pair"]


@pytest.mark.parametrize("name", ("strided, k5", "strided lines of TF32, k5"))
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(name, fault):
    problem, config = problem_and_config(name)
    edit, found = FAULTS[fault]
    with pytest.raises(Failed, match=found):
        run_with(edit, problem, config, HOPPER)


def test_a_wait_that_leaves_products_of_the_step_before_is_found():
    """As many may be under way as the step has taps, and no more: the next step's copies overwrite what the others read."""
    problem, config = problem_and_config("strided, k5")
    with pytest.raises(Failed, match="warned|race|NaN|wrong|differ|flight"):
        run_with(without(r"(wgmma\.wait_group\.sync\.aligned) [23];", r"\1 6;"), problem, config, HOPPER)


@pytest.mark.parametrize("broken", (
    lambda band: band._replace(taps=tuple((row + 1, tap) for row, tap in band.taps)), lambda band: band._replace(first=band.first + 1),
    lambda band: band._replace(residue=1 - band.residue), lambda band: band._replace(halo=max(0, band.halo - 1))))
def test_other_rows_are_noticed(broken, monkeypatch):
    problem, config = problem_and_config("strided, k5")
    monkeypatch.setattr(halos, "_bands", lambda *given, bands=halos._bands: tuple(map(broken, bands(*given))))
    with pytest.raises(Failed):
        run(problem, config, HOPPER, races=True)
