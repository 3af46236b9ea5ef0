"""The walking weight gradient as compiled: exact on integers, early and late, with nothing to warn of."""

from dataclasses import replace

import pytest

from triton_conv3dt.planning import search, weight_walks
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from .cases import Cases, Failed
from .library import emulated
from .parts.problems import computed, mistaken, run, run_with, without

H200 = Device.named("nvidia_h200")
WAYS = dict(zip(("together", "apart"), weight_walks.WAYS))
NARROW, WIDE = Config("walk", 64, 16, 64, 4, 2, box=(1, 8, 8)), Config("walk", 128, 32, 128, 8, 2, box=(1, 16, 8))
WALKS = {  # layer, config, how taps along h are walked
    "k3s2p1": ("n2 ci64 co32 in3x9x10 k3 s2 p1 op1", WIDE, "together"),
    "k3s2p1 of few channels": ("n2 ci16 co16 in11x9x17 k3 s2 p1 op1", NARROW, "together"),
    "k3s2p1 of one plane": ("n3 ci24 co16 in1x5x9 k3 s2 p1 op1", NARROW, "together"),
    "k3s2p1 of no more than a step": ("n1 ci32 co16 in1x8x8 k3 s2 p1 op1", NARROW, "together"),
    "k3s2p1 of odd planes": ("n2 ci32 co16 in4x5x9 k3 s2 p1 op0x1x1", NARROW, "apart"),
    "k3s2p1 of many channels": ("n1 ci128 co64 in3x7x9 k3 s2 p1 op1", replace(WIDE, block_k=64, box=(1, 8, 8)), "together"),
    "k3s2p1 of 200 channels": ("n1 ci200 co48 in3x7x9 k3 s2 p1 op1", replace(WIDE, block_n=16), "together"),
    "k4s2p1": ("n2 ci64 co32 in3x9x10 k4 s2 p1", WIDE, "apart"),
    "k4s2p1 of few channels": ("n1 ci32 co16 in5x9x10 k4 s2 p1", replace(NARROW, block_k=128, box=(1, 8, 16)), "together"),
    "k5s2p2": ("n1 ci32 co16 in19x5x6 k5 s2 p2 op1", replace(WIDE, block_n=16, block_k=64, box=(1, 8, 8)), "together"),
    "k5s3p2": ("n1 ci16 co16 in5x5x6 k5 s3 p2 op2", NARROW, "apart"),
    "k1x4x4": ("n1 ci128 co64 in3x9x10 k1x4x4 s1x2x2 p0x1x1", WIDE, "apart"),
    "k3s1p1": ("n1 ci64 co16 in7x9x10 k3 s1 p1", replace(NARROW, block_m=128, warps=8), "together"),
    "k4x1x1": ("n2 ci64 co64 in9x4x4 k4x1x1 s2x1x1 p1x0x0", replace(NARROW, block_n=64, block_k=32, box=(1, 4, 8)), "together"),
    "k2s2p1": ("n1 ci16 co16 in5x9x10 k2 s2 p1", NARROW, "apart"),
    "k3s4": ("n1 ci16 co16 in3x5x6 k3 s4 p0 op1", NARROW, "together"),
}


def problem_of(layer: str, dtype: str):
    return case.parse(f"grad_weight {layer} {dtype} channels_last")


@pytest.mark.parametrize("shares", (1, 3))
@pytest.mark.parametrize("name", WALKS)
def test_walks(name, shares):
    layer, config, way = WALKS[name]
    problem = problem_of(layer, "bfloat16" if (len(name) + shares) % 2 else "float16")
    config = replace(config, taps=WAYS[way], shares=shares)
    assert fits(config, problem, H200) is None
    cases = run(problem, config, H200)
    assert (cases.done, cases.skipped) == (1, 0)
    assert cases.kernels["walk_weight"] and cases.forms["wgmma"] and cases.forms["tensor copies"]


def test_what_is_fetched():
    """The copies of a launch are those that its plan counts, where no patch reaches beyond the edge but by its halo."""
    problem = problem_of("n1 ci64 co32 in16x16x16 k3 s2 p1 op1", "float16")
    config = replace(WIDE, taps=WAYS["together"])
    with emulated(H200.name, counting=True) as emulator:
        Cases(emulator).run(*computed(problem, config, H200))
        launch, = (one for one in emulator.launches if one.name == "walk_weight")
    written = launch.summary()["tensor_bytes"]
    planned = weight_walks.step_bytes(problem, config) * weight_walks.loop_steps(problem, config, problem.in_size)
    assert 0.9 * planned < written < 1.1 * planned


def test_default():
    problem = problem_of("n2 ci64 co32 in48 k3 s2 p1 op1", "float16")
    assert search.default(problem, H200).path == "walk"


@pytest.mark.parametrize("pattern", (r"mbarrier\.try_wait[^;]*;|@!complete bra\.uni waitLoop;",
                                     r"wgmma\.wait_group\.sync\.aligned \d+;", r"bar\.sync\s+0;"))
def test_what_holds_steps_apart_is_needed(pattern):
    """Without waits for copies or for products, or without barriers, something is found."""
    layer, config, way = WALKS["k3s2p1 of few channels"]
    config = replace(config, taps=WAYS[way])
    with pytest.raises(Failed):
        run_with(without(pattern, "walk_weight"), problem_of(layer, "float16"), config, H200)


@pytest.mark.parametrize("field", ("shift_h", "shift_w", "residue_w", "row"))
def test_a_wrong_fetch_is_noticed(monkeypatch, field):
    layer, config, way = WALKS["k3s2p1 of few channels"]
    config = replace(config, taps=WAYS[way])
    right = weight_walks.walk
    monkeypatch.setattr(weight_walks, "walk", lambda *asked: mistaken(right(*asked), "boxes", field))
    with pytest.raises(Failed):
        run(problem_of(layer, "float16"), config, H200)
