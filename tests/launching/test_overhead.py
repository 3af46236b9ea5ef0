"""What a call launches, with which arguments, and what it costs on the host, with a GPU driver that is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMITS = {"k2s2 channels_first": 12, "depthwise channels_first": 12,  # times torch.empty_like, in the same process
          "k2s2 channels_last": 16, "k4s2p1 channels_last": 16}  # and with a tensor descriptor to make
DZ = ["make_dz", "sum_parts"]  # and the bias's gradient, by the same pass
KERNELS = {"k2s2 channels_first": ["gather", *DZ, "pack", "pair", "grad_weight"],
           "k2s2 channels_last": ["gather", *DZ, "gather", "grad_weight"],
           "k4s2p1 channels_last": ["gather", *DZ, "pair", "sum_parts", "walk_weight"],
           "depthwise channels_first": ["direct", *DZ, "direct", "grad_weight_direct"]}
SHARED = ("k4s2p1 channels_last", "depthwise channels_first")  # programs share the reduction of their weight gradient


@pytest.fixture(scope="module")
def measured():
    # Memory that is given back is kept, as a GPU's allocator keeps it: by a whim of malloc a call cost twice as much.
    kept = {name: str(2**30) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")}
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"} | kept
    program = Path(__file__).parents[1].joinpath("support", "stub_driver.py")
    result = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("layer", LIMITS)
def test_a_repeated_call_costs_little_on_the_host(measured, layer):
    ratio, limit = measured["ratios"][layer], LIMITS[layer]
    assert ratio <= limit, f"a call with a plan at hand costs {ratio:.1f} times torch.empty_like, at most {limit} allowed"


@pytest.mark.parametrize("layer", LIMITS)
def test_all_gradients_cost_little_on_the_host(measured, layer):
    """Four products and sums of three, none through Triton's jit function."""
    ratio = measured["backwards"][layer]
    assert ratio <= 40, f"gradients with plans at hand cost {ratio:.1f} times torch.empty_like, at most 40 allowed"


@pytest.mark.parametrize("layer", KERNELS)
def test_a_forward_is_one_launch_and_the_gradients_are_few(measured, layer):
    assert [name for name, _, _ in measured["launches"][layer]] == KERNELS[layer] + ["sum_parts"] * (layer in SHARED)


@pytest.mark.parametrize("layer", KERNELS)
def test_a_concatenation_is_one_tensor_and_one_copy_more(measured, layer):
    """Of the skip; and its gradients are those of the layer alone."""
    forward, backward, with_skip, its_backward = measured["operators"][layer]
    (allocate, size), kernel = forward
    assert with_skip == [[allocate, 2 * size], ["aten::copy_", 0], kernel]
    assert its_backward == backward and [name for name, *_ in backward if name in ("aten::copy_", "aten::clone")] == []


def test_arguments_of_a_pointer_launch(measured):
    _, grid, (x, w, y, b, residual, pre, parts, places, *rest) = measured["launches"]["k2s2 channels_first"][0]
    assert (x, w, y, b) == ([2, 64, 8, 8, 8], [64, 32, 2, 2, 2], [2, 32, 16, 16, 16], [32])
    assert residual is pre is parts is None
    assert places == 2 * 8**3 and rest[0] == [8, 8, 8] and rest[3:5] == [[8, 8, 8], [16, 16, 16]]
    assert rest[1:3] == [[-2**31] * 3, [9, 6, 3]]  # factors and shifts that divide by 512, by 64 and by 8
    assert rest[5:7] == [[64 * 512, 512, 64, 8, 1], [8, 32 * 8, 1, 64 * 32 * 8]]  # x; w by (row, reduction, tap, group)
    assert rest[7] == [32 * 4096, 4096, 256, 16, 1]
    block_m, block_n = tile(rest)
    assert grid == [places // block_n * (8 * 32 // block_m), 1, 1]


def tile(rest) -> tuple[int, int]:
    """m and n of TILE: the constants end with TILE, DOT, ACTIVATION, PARAMETERS, INDEX."""
    return rest[-5][0], rest[-5][1]


def test_overlapping_taps_read_boxes(measured):
    x = measured["launches"]["k4s2p1 channels_last"][0][2][0]
    assert x["shape"] == [2, 4, 16, 16, 64] and x["strides"] == [65536, 16384, 1024, 64, 1]
    one, *box, channels = x["block"]
    _, block_n = tile(measured["launches"]["k4s2p1 channels_last"][0][2])
    assert one == 1 and box[0] * box[1] * box[2] == block_n and channels <= 64


def test_the_input_gradient_reads_strided_boxes(measured):
    """dz [2, 128, 8, 32, 32] as [(n, d), h / 2, h % 2, w / 2, (w % 2, channel)], after the weight; and one row of a halo."""
    _, dz, row, *_ = measured["launches"]["k4s2p1 channels_last"][3][2]
    assert row["shape"] == dz["shape"] and row["block"] == [1, 1, *dz["block"][2:]]
    assert dz["shape"] == [2 * 8, 16, 2, 16, 2 * 128]
    assert dz["strides"] == [32 * 32 * 128, 2 * 32 * 128, 32 * 128, 2 * 128, 1]
    assert [dz["block"][0], dz["block"][2]] == [1, 1]


def test_shares_of_a_weight_gradient(measured):
    """As many parts as programs that share the reduction, and sum_parts adds them all."""
    for launches in map(measured["launches"].get, SHARED):
        name, grid, arguments = next(one for one in launches if one[0].startswith(("grad_weight", "walk_weight", "turn_weight")))
        shares, ci, taps, co = parts = arguments[3 if name == "walk_weight" else 2]
        _, sum_grid, summed = launches[-1]
        assert grid[1] == shares and summed[0] == parts and summed[2:4] == [ci * taps * co, shares]
        assert sum_grid == [-(-ci * taps * co // 512), 1, 1]
