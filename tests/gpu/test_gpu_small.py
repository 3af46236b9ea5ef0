"""On a GPU, first: small cases of every kernel. If these fail, nothing else needs to be looked at.

`make gpu-sanitize` runs them under compute-sanitizer.
"""

import pytest
import torch
from cases import CORPUS
from launched import small
from layouts import RedZone
from products import products
from tolerances import assert_exact

from triton_conv3dt.launching import launch
from triton_conv3dt.planning import search

pytestmark = pytest.mark.gpu
LAYOUTS = ("channels_first", "channels_last")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["k2s2", "k3s2p1op1", "two groups, k=s", "depthwise k3s2"])
def test_every_kernel(name, layout, monkeypatch):
    """Every kernel and every form of reading, on little memory."""
    case = next(case for case in CORPUS if case.name == name)
    t = case.tensors(torch.float16, layout, device="cuda")
    for actual, exact in products(case, t, "tf32"):
        assert_exact(actual.cpu(), exact)
    monkeypatch.setattr(launch, "_records", {})
    monkeypatch.setattr(search, "one_pass", small)
    dx, dw, db = launch.backward(t.dz, t.x, t.w, None, True, t.w.stride(), case.stride, case.padding, case.dilation,
                                 case.groups, "tf32", None)
    assert_exact(db.cpu(), t.dz.double().sum((0, 2, 3, 4)).cpu())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [case for case in CORPUS if 0 not in case.shapes.y], ids=str)
def test_the_surroundings_of_an_output_survive(case, layout):
    t = case.tensors(torch.float16, layout, device="cuda")
    around = f"concatenated_{layout}".replace("_channels_first", "")
    zone = RedZone(case.shapes.y, torch.float16, around, device="cuda")
    launch.forward(t.x, t.w, t.b, None, **case.geometry, out_size=case.out_size, activation=None, precision="tf32",
                   out=zone.view)
    zone.check()
