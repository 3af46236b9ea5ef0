"""Mean and variance that the compiled kernels leave, and the pass that normalises, in every dtype; bfloat16 as it is rounded."""

import pytest
import torch

import triton_conv3dt as t3
from triton_conv3dt.launching.tensors import statistics_of

from .cases import Cases
from .library import emulated
from .parts.interface import LAYERS, tensors

H200, A100 = "nvidia_h200", "nvidia_a100"


@pytest.mark.parametrize("target, case", [
    (H200, ("k2s2", "channels_first", torch.bfloat16, "instance")),
    (H200, ("k3s2p1op1", "channels_last", torch.bfloat16, "batch")),
    (A100, ("k122", "misaligned", torch.float32, "instance")),
    (A100, ("k3 from 3", "channels_last", torch.bfloat16, "batch")),
    (A100, ("one to one", "channels_first", torch.float64, "instance"))], ids=str)
def test_statistics_and_the_norm(target, case):
    with emulated(target, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(dict(case=str(case)), lambda: check(*case))
    assert (cases.done, cases.skipped) == (1, 0)
    assert {"combine", "normalise"} < set(cases.kernels)


def check(layer, view, dtype, kind):
    x, w, b, *_ = tensors(LAYERS[layer], view, dtype, 16)
    geometry = LAYERS[layer][5:]
    plain = t3.conv_transpose3d(x, w, b, *geometry, backend="triton")
    y, *found = t3.conv_transpose3d(x, w, b, *geometry, backend="triton", statistics=kind)
    assert torch.equal(y, plain), "y has other bits than without statistics"
    for name, moment, exact in zip(("mean", "variance"), found, statistics_of(plain.double(), kind)):
        assert (moment - exact).abs().max() <= 1e-6 * exact.abs().max(), f"the {name} is {moment} and not {exact}"
    scale, shift = torch.linspace(0.5, 2, y.shape[1]), torch.linspace(-1, 1, y.shape[1])
    z = t3.conv_transpose3d_norm(x, w, b, *geometry, norm=kind, norm_weight=scale, norm_bias=shift, activation="relu",
                                 backend="triton")
    function = torch.nn.functional.batch_norm if kind == "batch" else torch.nn.functional.instance_norm
    exact = function(y.double(), None, None, scale.double(), shift.double(), True).relu()
    assert (z - exact).abs().max() <= 4 * torch.finfo(dtype).eps * max(1, exact.abs().max()), "not what the norm gives"
