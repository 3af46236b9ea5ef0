"""Two programs of a cluster that compute a tile together: exact in the emulator, in every form that they read and write."""

import re
from dataclasses import replace

import pytest
import torch

from triton_conv3dt.checking import trial_tensors
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import pair_issue, pairs
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from .cases import Failed
from .library import emulated
from .parts.problems import run, run_with

HOPPER = Device.named("nvidia_h200")
ALL, NONE, W, HW = (True,) * 3, (False,) * 3, (False, False, True), (False, True, True)
EPILOGUE = "bias residual leaky_relu(0.25)"
MOST_CONFLICTS = 1.2  # wavefronts over their least

CASES = {  # problem, columns and positions of a tile, merged axes, box, a copy first
    "planes": ("forward n2 ci72 co16 in3x5x8 k2 s2 float16 channels_first", 128, 256, ALL, None, False),
    "planes, epilogue": (f"forward n2 ci40 co13 in2x4x6 k2 s2 float16 channels_first {EPILOGUE}", 64, 128, ALL, None, False),
    "planes, few columns": ("forward n1 ci24 co6 in2x4x4 k1x2x2 s1x2x2 bfloat16 channels_first bias", 16, 128, ALL, None, False),
    "planes, more phases than lines": ("forward n2 ci24 co3 in2x4x8 k4x8x8 s4x8x8 float16 channels_first bias", 256, 128, ALL, None, False),
    "planes, phases of two programs": (f"forward n2 ci24 co6 in2x4x8 k2x8x8 s2x8x8 bfloat16 channels_first {EPILOGUE}", 128, 128, ALL, None, False),
    "planes, a ring": ("forward n2 ci72 co16 in3x5x8 k2 s2 float16 channels_first bias", 64, 128, ALL, None, False, 16),
    "planes, a loop": ("forward n1 ci536 co8 in2x4x4 k1x2x2 s1x2x2 float16 channels_first bias", 32, 128, ALL, None, False, 16),
    "rows": ("forward n2 ci72 co16 in3x5x7 k2 s2 float16 channels_last", 128, 256, ALL, None, False),
    "rows, epilogue": (f"forward n3 ci40 co24 in2x5x3 k2 s2 bfloat16 channels_last {EPILOGUE}", 64, 128, ALL, None, False),
    "rows, a ring": (f"forward n2 ci72 co16 in3x5x7 k2 s2 bfloat16 channels_last {EPILOGUE}", 128, 128, ALL, None, False, 16),
    "rows of TF32": ("forward n2 ci36 co8 in3x5x4 k2 s2 float32 tf32 channels_last bias", 64, 128, ALL, None, False),
    "rows of a copy": ("forward n2 ci36 co16 in3x5x4 k2 s2 float32 tf32 channels_first bias", 128, 128, ALL, None, True),
    "pointwise": ("forward n2 ci64 co40 in3x5x4 k1 float32 tf32 channels_first", 64, 256, NONE, None, True),
    "boxes": ("forward n2 ci40 co16 in3x5x9 k3 s2 p1 float16 channels_last", 64, 128, ALL, (2, 8, 8), False),
    "boxes, w merged": (f"forward n1 ci72 co24 in3x6x9 k3 s2 p1 op1 float32 tf32 channels_first {EPILOGUE}", 16, 128, W, (1, 8, 16), True),
    "boxes, hw merged": ("forward n2 ci32 co16 in2x5x8 k4 s2 p1 float32 tf32 channels_first", 64, 256, HW, (2, 8, 16), True),
    "boxes, phases apart": ("forward n1 ci64 co32 in3x5x6 k3x4x5 s1x2x2 p1 float16 channels_last", 32, 128, NONE, (1, 8, 16), False),
    "boxes, stride 1": ("forward n2 ci40 co24 in4x5x9 k3 p1 bfloat16 channels_last bias", 32, 128, NONE, (2, 8, 8), False),
    "gradient": ("grad_input n2 ci40 co64 in3x4x5 k2 s2 float16 channels_last", 64, 128, NONE, (1, 8, 16), False),
    "gradient, overlapping": ("grad_input n1 ci24 co32 in3x5x6 k3 s2 p1 op1 float32 tf32 channels_first", 32, 128, NONE, (1, 8, 16), True),
    "gradient, wide": ("grad_input n1 ci96 co32 in2x9x16 k4 s2 p1 float32 tf32 channels_last", 128, 256, NONE, (1, 16, 16), False),
    "gradient, stride 1": ("grad_input n2 ci16 co40 in4x5x9 k3 p1 bfloat16 channels_last", 16, 128, NONE, (2, 8, 8), False),
    "lines": ("forward n2 ci32 co16 in3x5x16 k3 s2 p1 op1 float16 channels_first", 64, 256, W, (2, 4, 32), False, 32),
    "lines of TF32": (f"forward n2 ci16 co16 in3x5x8 k3 s2 p1 op1 float32 tf32 channels_first {EPILOGUE}", 32, 128, W, (2, 8, 8), False, 16),
    "lines of TF32, kernel = stride": ("forward n2 ci48 co16 in2x3x4 k2 s2 float32 tf32 channels_first", 128, 256, ALL, (2, 16, 8), False, 16),
    "lines of TF32, a ring": ("forward n2 ci48 co16 in2x3x4 k2 s2 float32 tf32 channels_first", 128, 256, ALL, (2, 16, 8), False, 8),
    "lines, stride 1": ("forward n1 ci40 co24 in3x5x24 k3x1x5 p1x0x2 bfloat16 channels_first", 32, 128, NONE, (1, 4, 32), False, 32),
    "strided lines": ("grad_input n2 ci64 co32 in3x5x8 k2 s2 float16 channels_first", 64, 256, NONE, (1, 16, 16), False, 32),
    "strided lines, deep": ("grad_input n2 ci64 co32 in5x4x8 k2 s2 bfloat16 channels_first", 64, 128, NONE, (4, 4, 8), False, 32),
    "strided lines, overlapping": ("grad_input n2 ci40 co32 in3x5x16 k3 s2 p1 op1 float16 channels_first", 64, 256, NONE, (2, 8, 16), False, 16),
    "strided lines of TF32": ("grad_input n2 ci24 co32 in3x5x8 k3 s2 p1 op1 float32 tf32 channels_first", 32, 128, NONE, (2, 8, 8), False, 16),
    "strided lines of TF32, k4": ("grad_input n2 ci32 co16 in3x4x8 k1x4x4 s1x2x2 p0x1x1 float32 tf32 channels_first", 32, 256, NONE, (2, 8, 16), False, 16),
    "strided lines, four residues": ("grad_input n2 ci32 co32 in2x4x8 k2x4x4 s2x4x4 bfloat16 channels_first", 32, 128, NONE, (2, 8, 8), False, 16),
    "strided lines of TF32, eight residues": ("grad_input n1 ci40 co8 in2x4x4 k2x2x8 s2x2x8 float32 tf32 channels_first", 16, 128, NONE, (8, 4, 4), False, 8),
    "gradient, lines of TF32, stride 1": ("grad_input n2 ci16 co16 in3x5x8 k3 p1 float32 tf32 channels_first", 16, 128, NONE, (2, 8, 8), False, 16),
}


def problem_and_config(name, cluster=2):
    text, block_m, block_n, merge, box, copy, *block_k = CASES[name]
    problem = case.parse(text)
    return problem, Config("pair", block_m, block_n, *(block_k or [pairs.ROW // problem.item]), block_n // 16 // cluster, 3, merge,
                           box=box or (0, 0, 0), copy=copy, cluster=cluster)


def assert_exact(problem, config):
    """The result is, and banks of shared memory hardly conflict."""
    cases = run(problem, config, HOPPER, counting=True)
    assert (cases.done, cases.skipped) == (1, 0) and cases.kernels["pair"]
    assert cases.forms["wgmma"] and cases.forms["tensor copies"]
    counted, = (one.summary() for one in cases.emulator.launches if one.name == "pair")
    assert counted["bank_conflict_factor"] <= MOST_CONFLICTS


def test_the_plan_knows_which_steps_the_kernel_writes_one_after_the_other():
    from triton_conv3dt.kernels import pair

    assert pair.FEW.value == pair_issue.FEW


@pytest.mark.parametrize("name", CASES)
def test_pairs_are_exact(name):
    assert_exact(*problem_and_config(name))


@pytest.mark.parametrize("dtype, split, line", [(dtype, split, line) for dtype, splits in (
    ("float16", (2, 8)), ("bfloat16", (4,)), ("float32 tf32", (1, 2, 4, 8))) for split in splits for line in (32, 64, 128)[split == 8:]])
def test_lines_of_every_width_are_parted_without_conflicts(dtype, split, line):
    """However wide lines are swizzled, and however many neighbours stand between two positions."""
    item = 4 if "float32" in dtype else 2
    wide = line // item // split
    stride = "k1x2x3 p0x0x1" if split == 1 else f"k1x2x{split} s1x2x{split}"
    problem = case.parse(f"grad_input n2 ci16 co32 in2x8x{max(wide, 16 // item)} {stride} {dtype} channels_first")
    config = Config("pair", 16, 128, 64 // item // (1 + split // 8), 4, 2, box=(1, 128 // wide, wide), cluster=2)
    assert_exact(problem, config)


@pytest.mark.parametrize("name", [name for name, (_, _, positions, *_) in CASES.items() if positions == 256])
def test_clusters_of_four_are_exact(name):
    cases = run(*problem_and_config(name, 4), HOPPER)
    assert (cases.done, cases.skipped) == (1, 0) and cases.kernels["pair"]


@pytest.mark.parametrize("products", (2, 4))
@pytest.mark.parametrize("name", ("planes, few columns", "planes, a ring", "rows", "rows of TF32", "boxes", "gradient, wide"))
def test_warpgroups_of_several_products_are_exact(name, products):
    problem, config = problem_and_config(name)
    assert_exact(problem, replace(config, block_m=min(128 // products, config.block_m), block_n=128 * products, warps=4, box=(
        *config.box[:2], config.box[2] * (128 * products // config.block_n))))


@pytest.mark.parametrize("name, block_k, shares, halo", (
    ("gradient", 16, 4, False), ("gradient, wide", 16, 2, True), ("gradient, wide", 8, 4, False), ("strided lines", 16, 2, False),
    ("strided lines of TF32, k4", 8, 2, False), ("gradient, lines of TF32, stride 1", 8, 2, False)))
def test_clusters_have_shares_of_the_channels_of_a_gradient(name, block_k, shares, halo):
    problem, config = problem_and_config(name)
    cases = run(problem, replace(config, block_k=block_k, shares=shares, halo=halo), HOPPER)
    assert (cases.done, cases.skipped) == (1, 0) and cases.kernels["pair"] and cases.kernels["sum_parts"]


@pytest.mark.parametrize("w_minor", ("tap", "co", "ci"))
@pytest.mark.parametrize("name", ("planes", "rows", "gradient"))
def test_weights_of_every_order(name, w_minor):
    """Read as they are where kernel = stride, or where what is summed over lies side by side; else packed."""
    problem, config = problem_and_config(name)
    problem = replace(problem, w_minor=w_minor)
    if (name, w_minor) == ("planes", "co"):  # whose phases are not neighbours, as a channels-first output wants them
        assert "one launch reads the weight" in fits(config, problem, HOPPER)
        return
    as_it_is = w_minor == ("co" if name == "gradient" else "ci") or name != "gradient" and w_minor == "tap" or (name, w_minor) == ("rows", "co")
    assert (run(problem, config, HOPPER).kernels["pack"] == 0) == as_it_is


@pytest.mark.parametrize("name", ("lines of TF32", "strided lines of TF32"))
def test_the_copy_engine_rounds(name, monkeypatch):
    """Values that TF32 has no room for come out as from a copy that is rounded, but for ties, which the engine rounds to even; what is
    not rounded is noticed."""
    problem, config = problem_and_config(name)
    given = trial_tensors.integers(problem, "cpu")
    torch.manual_seed(5)
    tensors = {name: torch.randn_like(getattr(given, name)) for name in ("x", "w", "y", "b", "residual") if getattr(given, name) is not None}
    written = trial_tensors.written(problem)

    def computed_with(config):
        with emulated("nvidia_h200", exact=True):
            out = torch.empty_like(getattr(given, written))
            launch.run(launch.bind(launch.plan(problem, HOPPER, config)), **tensors | {written: out})
        return out

    copied, described = computed_with(Config("gather", 32, 32, 32, copy=True)), pairs.described
    close = lambda: (computed_with(config) - copied).abs().mean() < 1e-4 * copied.abs().mean()
    assert close()
    monkeypatch.setattr(pairs, "described", lambda *given: (*described(*given)[:-1], False))
    launch._records.clear()
    assert not close()


def without(pattern, put=""):
    return lambda ptx: re.sub(pattern, put, ptx)


WAITED = "wait|NaN|pending|wrong|differ|flight"
FAULTS = {  # what is planted, and how it is found
    "no waits for products": (without(r"wgmma\.wait_group\.sync\.aligned \d+;"), WAITED),
    "no waits for copies": (without(r"mbarrier\.try_wait[^;]*;", "setp.eq.u32 complete, 0, 0;"), WAITED + "|arrivals|has left"),
    "a program that does not wait for the others": (without(r"barrier\.cluster\.(arrive|wait)\.aligned;"), "warned|race|deadlock|cluster"),
    "weights for one program": (without(r"(mov\.b16\s+%rs\d+), 3;", r"\1, 1;"), "deadlock|wait|NaN|poison"),
}


@pytest.mark.parametrize("name", ("boxes", "strided lines, overlapping", "planes", "planes, a loop"))
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(name, fault):
    problem, config = problem_and_config(name)
    edit, found = FAULTS[fault]
    with pytest.raises(Failed, match=found):
        run_with(edit, problem, config, HOPPER)


@pytest.mark.parametrize("name", ("boxes", "planes, a ring", "rows, a ring", "lines of TF32, a ring"))
def test_a_slot_that_is_filled_again_too_early_is_found(name):
    """The first barrier of a cluster, after which its programs may write to one another, is kept."""
    kept = iter(("arrive", "wait"))
    edit = lambda ptx: re.sub(r"barrier\.cluster\.(?:arrive|wait)\.aligned;", lambda found: found[0] if next(kept, None) else "", ptx)
    with pytest.raises(Failed, match="warned|race"):
        run_with(edit, *problem_and_config(name), HOPPER)
