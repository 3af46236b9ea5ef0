"""What was compiled and spilled, by a version of Triton or for a device, is no default of it; .ci/compilers compiles them."""

import pytest

from triton_conv3dt.planning import search
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.layers import layers

CROSSED = ("columns", "columns", "crossed")
SPILLED = {  # layer, direction, device, versions: the config
    "a loop that is unrolled": ("viddiff_up2", "forward", "nvidia_a100", ((3, 6), (3, 9)), Config(
        "gather", 128, 128, 32, 8, 3, (False, True, False), copy=True)),
    "addresses of a tile that is turned": ("nnunet_toothfairy2_up0", "grad_weight", "nvidia_a100", ((3, 6),), Config(
        "gather", 64, 32, 128, 4, 3)),
    "masks of both operands": ("kb_2_77", "grad_weight", "nvidia_b200", ((3, 7),), Config(
        "gather", 128, 256, 32, 8, 3, shares=7, copy=True, taps=CROSSED)),
    "many lanes": ("mednext_k3_up1_dw", "grad_input", "nvidia_b200", ((3, 6), (3, 7)), Config("direct", 1, 1024, warps=1)),
    "many columns": ("mednext_k5_up1_dw", "forward", "nvidia_b200", ((3, 9),), Config("direct", 1, 1024, warps=1)),
    "single elements of fp32": ("pcc_geo_train64_2", "forward", "nvidia_b200", ((3, 6),), Config("direct", 1, 512, warps=1)),
}


@pytest.mark.parametrize("name", SPILLED)
def test_what_spilled_is_no_default(name, monkeypatch):
    layer, direction, device, versions, config = SPILLED[name]
    problem = {one.name: one for one in layers()}[layer].problem(direction)
    for version in versions:
        monkeypatch.setattr(search, "gluon", lambda: version)
        assert config not in search.sensible(problem, Device.named(device))


def test_a_version_whose_assembler_unrolls_nothing_keeps_its_default(monkeypatch):
    layer, direction, device, _, config = SPILLED["a loop that is unrolled"]
    monkeypatch.setattr(search, "gluon", lambda: (3, 7))
    assert search.default({one.name: one for one in layers()}[layer].problem(direction), Device.named(device)) == config
