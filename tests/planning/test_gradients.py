"""dz: when it is made in channels_last, and how the pass that makes it is laid out."""

import pytest

from triton_conv3dt.planning import gradients
from triton_conv3dt.planning.constants import Memory
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.activations import Activation
from triton_conv3dt.problems.layers import select
from triton_conv3dt.problems.problem import Epilogue, Problem

H200 = Device.named("nvidia_h200")
FIRST, LAST = Memory(False, 8), Memory(True, 8)


def whole(name: str, activation: str | None = None) -> Problem:
    layer, = select([name])
    return gradients.of(Problem.of_shape(layer, "forward", layer.dtype, layer.layout, "tf32",
                                         epilogue=Epilogue(bias=True, activation=Activation.of(activation))))


@pytest.mark.parametrize("name, alone, behind_an_activation", (
    ("monai_unet_infer160_up1", True, True), ("monai_unet_train_up1", False, True), ("vista3d_sam_up", False, False),
    ("igev_train_1", False, False), ("gwcnet_train_1", False, True)))
def test_dz_is_channels_last_where_both_products_together_gain_by_it(name, alone, behind_an_activation):
    assert gradients.channels_last(whole(name), H200) is alone
    assert gradients.channels_last(whole(name, "relu"), H200) is behind_an_activation


def test_an_activation_needs_the_pass_anyway():
    """A gain that does not pay for a pass of its own."""
    found = [[gradients.channels_last(whole(name, activation), H200) for activation in (None, "relu")]
             for name in ("mednext_up1_res1x1", "igev_train_2", "igev_infer_2")]
    assert [False, True] in found and [True, False] not in found


def test_what_is_channels_last_stays_so():
    layer, = select(["nvidia_nnunet_up1"])
    assert not gradients.channels_last(gradients.of(layer.problem()), H200)


@pytest.mark.parametrize("memories, sums, tile", (
    (dict(dy=FIRST), True, (1, 4096)), (dict(dy=FIRST, saved=FIRST, dz=FIRST), False, (1, 1024)), (dict(dy=LAST), True, (64, 64)),
    (dict(dy=FIRST, saved=FIRST, dz=LAST), False, (64, 64))))
def test_a_chunk_is_a_run_of_what_lies_side_by_side(memories, sums, tile):
    schedule = gradients.make_dz(2, 96, (8, 16, 32), 3, memories, None, sums=sums, double=False, wide=False)
    product, *rest = schedule.launches
    assert (product.constants["BLOCK_C"], product.constants["BLOCK_P"]) == tile
    assert [launch.kernel for launch in rest] == ["sum_parts"] * sums and len(schedule.workspaces) == sums
    c, chunks, share, size = product.sizes
    shares, columns, _ = product.grid
    assert (c, size) == (96, (1, 1, 8 * 16 * 32)) and chunks == 2 * 8 * 16 * 32 // tile[1] and columns == -(-96 // tile[0])
    assert (shares - 1) * share < chunks <= shares * share and (sums or share == 1)


@pytest.mark.parametrize("axes, size", ((5, (1, 1, 2 * 3 * 60)), (4, (1, 1, 120)), (3, (1, 1, 60)), (2, (3, 1, 20)), (1, (3, 4, 5))))
def test_runs_are_of_the_axes_that_one_stride_steps_through(axes, size):
    product = gradients.make_dz(2, 3, (3, 4, 5), axes, dict(dy=FIRST, dz=FIRST), None, sums=False, double=False, wide=False).main
    c, chunks, share, counted = product.sizes
    assert counted == size and c == (1 if axes == 5 else 3)
    assert chunks == (1 if axes == 5 else 2 * 60 // size[2])
