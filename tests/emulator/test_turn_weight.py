"""The walking weight gradient that turns what it reads as compiled: exact on integers, early and late, in either layout."""

import re
from dataclasses import replace

import pytest

from triton_conv3dt.planning import costs, search, weight_turns
from triton_conv3dt.planning.config import Config, fits, sums_bias
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from .cases import Cases, Failed
from .library import emulated
from .parts.problems import computed, mistaken, run, run_with, without

H200 = Device.named("nvidia_h200")
ALL, ONE = weight_turns.WAYS
TALL, WIDE = Config("walk", 32, 16, 64, 4, 2, box=(1, 8, 8), taps=ALL), Config("walk", 32, 32, 64, 8, 2, box=(1, 4, 16), taps=ALL)
TF32, FIRST, LAST = "float32 tf32", "channels_first", "channels_last"
WALKS = {  # layer, how it is stored, config
    "k3s2p1": ("n2 ci16 co32 in3x9x10 k3 s2 p1 op1", f"{TF32} {FIRST}", TALL),
    "k3s2p1, eight warps": ("n1 ci64 co32 in4x5x17 k3 s2 p1 op1", f"{TF32} {FIRST}", replace(WIDE, block_n=64)),
    "k3s2p1, a tap along d each": ("n2 ci16 co32 in4x9x10 k3 s2 p1 op1", f"{TF32} {FIRST}", replace(TALL, taps=ONE)),
    "k3s2p1, channels last": ("n1 ci32 co32 in5x9x10 k3 s2 p1 op1", f"{TF32} {LAST}", WIDE),
    "k3s2p1 of odd channels": ("n2 ci19 co41 in3x5x9 k3 s2 p1 op1", f"{TF32} {FIRST}", TALL),
    "k3s2p1 of odd channels, last": ("n1 ci19 co21 in3x5x9 k3 s2 p1 op1", f"{TF32} {LAST}", replace(TALL, block_m=16)),
    "k3s2p1 of many channels": ("n1 ci32 co64 in2x5x9 k3 s2 p1", f"{TF32} {FIRST}",
                                replace(WIDE, block_m=64, block_n=16, block_k=32, box=(1, 4, 8))),
    "k4s2p1": ("n1 ci32 co16 in3x9x10 k4 s2 p1", f"{TF32} {FIRST}", replace(TALL, block_m=16)),
    "k5s2p1": ("n1 ci16 co16 in3x6x10 k5 s2 p1", f"{TF32} {LAST}", replace(TALL, block_m=16, taps=ONE)),
    "k5s2p0": ("n1 ci16 co32 in3x4x17 k5 s2", f"{TF32} {FIRST}", replace(WIDE, block_n=16)),
    "k3s1p0": ("n2 ci16 co32 in4x9x10 k3", f"{TF32} {FIRST}", TALL),
    "k3s1p1 of one plane": ("n2 ci32 co32 in1x9x10 k3 p1", f"{TF32} {LAST}", WIDE),
    "k1x4x4": ("n1 ci32 co32 in3x5x9 k1x4x4 s1x2x2 p0x1x1", f"{TF32} {FIRST}", TALL),
    "k4x1x1": ("n1 ci32 co32 in5x4x4 k4x1x1 s2x1x1 p1x0x0", f"{TF32} {FIRST}", replace(TALL, block_n=32)),
    "k3s4": ("n1 ci16 co16 in3x5x6 k3 s4 p0 op1", f"{TF32} {FIRST}", replace(TALL, block_m=16)),
    "k2s3p1": ("n1 ci16 co32 in4x5x6 k2x3x2 s3x2x3 p1 op1", f"{TF32} {FIRST}", TALL),
    "a wide patch": ("n1 ci16 co32 in2x3x40 k3 s2 p1 op1", f"{TF32} {FIRST}", replace(TALL, box=(1, 2, 16), block_k=32)),
    "16 bits k4s2p1": ("n2 ci32 co16 in3x9x10 k4 s2 p1", f"float16 {FIRST}", replace(TALL, block_m=16, block_n=32)),
    "16 bits k4s2p1 of odd rows": ("n1 ci16 co32 in3x5x9 k4 s2 p1", f"bfloat16 {FIRST}", replace(WIDE, block_n=16, warps=4)),
    "16 bits k4s2p3": ("n1 ci32 co16 in5x6x8 k4 s2 p3", f"float16 {FIRST}", replace(TALL, block_m=16, block_n=32)),
    "16 bits k4s2p0": ("n2 ci16 co32 in3x5x8 k4 s2", f"float16 {FIRST}", replace(WIDE, block_n=16, box=(1, 8, 8))),
    "16 bits k3s2p1": ("n2 ci16 co32 in3x5x9 k3 s2 p1 op1", f"bfloat16 {FIRST}", TALL),
    "16 bits k3s2p1, eight warps": ("n1 ci48 co48 in2x5x17 k3 s2 p1 op1", f"float16 {FIRST}", WIDE),
    "16 bits of eight channels": ("n2 ci16 co8 in3x9x10 k4 s2 p1", f"float16 {FIRST}", replace(TALL, block_m=8)),
    "16 bits of eight channels, wide": ("n1 ci16 co8 in3x5x33 k4 s2 p1", f"bfloat16 {FIRST}", replace(TALL, block_m=8, box=(1, 2, 32))),
    "eight channels of five": ("n1 ci16 co5 in3x5x17 k3 s2 p1 op1", f"{TF32} {FIRST}", replace(WIDE, block_m=8)),
    "eight channels, last": ("n2 ci16 co16 in3x9x10 k5 s2 p2 op1", f"{TF32} {LAST}", replace(TALL, block_m=8, taps=ONE)),
    "few lines of stride 1": ("n2 ci16 co16 in4x9x10 k3 p1", f"{TF32} {FIRST}", replace(TALL, block_m=16)),
    "16 bits k5s2p2": ("n1 ci16 co32 in4x5x6 k5 s2 p2 op1", f"bfloat16 {FIRST}", replace(WIDE, block_n=16)),
}


NOT_SUMMED = ("16 bits k4s2p3", "k5s2p0", "k3s4", "k2s3p1")  # places of dz without a tap that is not shifted, or beyond all patches


def problem_of(name, more=""):
    layer, stored, config = WALKS[name]
    return case.parse(f"grad_weight {layer} {stored}{more}"), config


@pytest.mark.parametrize("name", WALKS)
def test_walks(name):
    """Of layers with a bias, whose sum of dz is looked at where it is had on the way."""
    problem, config = problem_of(name, " bias")
    config = replace(config, shares=1 + 2 * (len(name) % 2))
    assert fits(config, problem, H200) is None and sums_bias(config, problem) is (name not in NOT_SUMMED)
    cases = run(problem, config, H200)
    assert (cases.done, cases.skipped) == (1, 0)
    assert cases.kernels["turn_weight"] and cases.forms["wgmma"] and cases.forms["cp.async"]


@pytest.mark.parametrize("name", NOT_SUMMED)
def test_sums_that_would_lack_something_are_not_taken(name, monkeypatch):
    problem, config = problem_of(name, " bias")
    monkeypatch.setattr(weight_turns, "sums", lambda problem, config: problem.epilogue.bias)
    monkeypatch.setattr(weight_turns, "walk", weight_turns.walk.__wrapped__)
    with pytest.raises((Failed, AssertionError)):
        run(problem, config, H200)


@pytest.mark.parametrize("name", ("k3s2p1", "16 bits k4s2p1"))
@pytest.mark.parametrize("fault", ("a tile is left out", "lines of another tap", "one row for all shares"))
def test_a_wrong_sum_for_the_bias_is_noticed(name, fault, monkeypatch):
    problem, config = problem_of(name, " bias")
    problem = case.parse(re.sub(r"in\d+x\d+x\d+", "in3x8x8", case.format(problem)))  # of whole patches
    right, rows = weight_turns.walk, weight_turns.sum_rows
    if fault == "a tile is left out":
        fewer = lambda groups: tuple(group._replace(adds=(-1, group.adds[1])) for group in groups)
        monkeypatch.setattr(weight_turns, "walk", lambda *asked: right(*asked)._replace(groups=fewer(right(*asked).groups)))
    elif fault == "lines of another tap":
        monkeypatch.setattr(weight_turns, "_adds", lambda *asked: range(1))
        monkeypatch.setattr(weight_turns, "walk", right.__wrapped__)
    else:
        monkeypatch.setattr(weight_turns, "sum_rows", lambda *asked: rows(*asked) // 2)
    with pytest.raises(Failed):
        run(problem, replace(config, shares=2), H200)


def test_16_bits_of_two_layouts():
    """x in channels_last beside a gradient in channels_first."""
    problem = replace(case.parse(f"grad_weight n1 ci32 co16 in3x6x8 k4 s2 p1 float16 {FIRST}"), x_layout=LAST)
    assert run(problem, replace(TALL, block_m=16, block_n=32), H200).done == 1


def test_offsets_of_64_bits():
    problem, config = problem_of("k3s2p1")
    assert run(replace(problem, wide=True), config, H200).done == 1


@pytest.mark.parametrize("name", ("k3s2p1", "k3s2p1, channels last", "16 bits k4s2p1", "k3s1p0"))
def test_what_is_read(name):
    """Copies and loads are those that the plan counts, where no patch reaches beyond the edge but by its halo."""
    problem, config = problem_of(name)
    problem = replace(problem, n=1)
    problem = case.parse(re.sub(r"in\d+x\d+x\d+", "in6x16x16", case.format(problem)))
    with emulated(H200.name, counting=True) as emulator:
        Cases(emulator).run(*computed(problem, config, H200))
        launch, = (one for one in emulator.launches if one.name == "turn_weight")
    asked, planned = launch.summary()["bytes_asked"], costs.loop_steps(config, problem) * costs.step_bytes(config, problem)
    turn = weight_turns.walk(problem, config)  # for which every shift of x is loaded, though L1 has what two of them share
    shared = (len(turn.shifts) * turn.wide - (turn.wide + turn.shifts[-1] - turn.shifts[0])) * turn.high * config.block_n
    planned += costs.loop_steps(config, problem) * problem.item * shared
    assert 0.7 * planned < asked["copy"] + asked["load"] < 1.02 * planned, "zeros are not read, and nothing is read twice"


@pytest.mark.parametrize("pattern", (r"cp\.async\.wait_group\s+(0x)?0;", r"wgmma\.wait_group\.sync\.aligned \d+;",
                                     r"bar\.sync\s+0;", r"fence\.proxy\.async[^;]*;"))
def test_what_holds_steps_apart_is_needed(pattern):
    """Without waits for copies or for products, without barriers or fences, something is found."""
    problem, config = problem_of("k3s2p1")
    with pytest.raises(Failed):
        run_with(without(pattern, "turn_weight"), problem, config, H200)


@pytest.mark.parametrize("field", ("residue", "first"))
def test_a_wrong_sheet_is_noticed(monkeypatch, field):
    problem, config = problem_of("k3s2p1")
    right = weight_turns.walk
    monkeypatch.setattr(weight_turns, "walk", lambda *asked: mistaken(right(*asked), "sheets", field))
    with pytest.raises(Failed):
        run(problem, config, H200)


@pytest.mark.parametrize("fault", ("a wrong shift", "the other residue", "patches of x alone"))
def test_a_wrong_shift_of_words_is_noticed(monkeypatch, fault):
    problem, config = problem_of("16 bits k4s2p0")
    right = weight_turns.walk
    wrong = {"a wrong shift": lambda turn: turn._replace(shifts=(0, 2)),
             "the other residue": lambda turn: turn._replace(products=(turn.products[0]._replace(residues=(1, 1)), *turn.products[1:])),
             "patches of x alone": lambda turn: turn}[fault]
    monkeypatch.setattr(weight_turns, "walk", lambda *asked: wrong(right(*asked)))
    if fault == "patches of x alone":
        monkeypatch.setattr(weight_turns, "_places", lambda problem: problem.in_size[1:])
    with pytest.raises(Failed):
        run(problem, config, H200)


def test_default():
    for stored in (f"{TF32} {FIRST}", f"{TF32} {LAST}", f"float16 {FIRST}"):
        assert search.default(case.parse(f"grad_weight n2 ci32 co32 in48 k4 s2 p1 {stored}"), H200).path == "walk"
