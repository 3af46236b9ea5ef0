"""All gradients in one pass over memory, and the tests' corpus, as compiled: a sample of what `make test-compiled` draws."""

import random

import pytest

from triton_conv3dt.planning.device import Device

from .cases import Cases, Skip
from .library import emulated
from .parts import PARTS

DEVICE = Device.named("nvidia_h200")
DRAWN = {"onepass": range(8), "corpus": range(12), "random": range(8)}  # part: numbers


@pytest.mark.parametrize("part, seed", [(part, seed) for part, seeds in DRAWN.items() for seed in seeds])
def test_drawn(part, seed):
    with emulated(DEVICE.name, exact=True) as emulator:
        cases = Cases(emulator)
        try:
            cases.run(*PARTS[part](random.Random(f"{part} {seed}"), DEVICE))
        except Skip:
            cases.skipped += 1
    assert cases.skipped or cases.kernels
    if part == "onepass":
        assert cases.kernels["backward"] and cases.forms["wgmma"] and not cases.skipped
