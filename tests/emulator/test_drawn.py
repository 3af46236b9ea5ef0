"""All gradients in one pass, the tests' corpus and random problems: a sample of what `make test-compiled` draws."""

import random
from collections import Counter

import pytest

from triton_conv3dt.planning.device import Device

from .cases import Cases, Skip
from .library import emulated
from .parts import PARTS

pytestmark = pytest.mark.slow
DEVICE = Device.named("nvidia_h200")
DRAWN = {"onepass": range(8), "corpus": range(12), "random": range(8)}  # part: numbers
ran = {part: Counter() for part in DRAWN}


@pytest.mark.parametrize("part, seed", [(part, seed) for part, seeds in DRAWN.items() for seed in seeds])
def test_drawn(part, seed):
    with emulated(DEVICE.name, exact=True) as emulator:
        cases = Cases(emulator)
        try:
            cases.run(*PARTS[part](random.Random(f"{part} {seed}"), DEVICE))
        except Skip:
            cases.skipped += 1
    assert cases.skipped or cases.kernels
    assert part != "onepass" or cases.kernels["backward"]
    ran[part] += cases.kernels + cases.forms + cases.said + Counter(done=cases.done)


@pytest.mark.slow
def test_all_of_it_ran(request):
    """Few are skipped. One pass: tiles of fewer than 64 rows do without warpgroups, so both forms are to be met."""
    if sum("test_drawn[" in item.nodeid for item in request.session.items) < sum(map(len, DRAWN.values())):
        pytest.skip("a part of this file was chosen")
    for part, numbers in DRAWN.items():
        assert ran[part]["done"] >= len(numbers) / 2, part
    said = {"dtype torch.float16", "dtype torch.bfloat16", "bias True", "layout channels_first", "layout channels_last"}
    assert not ({"wgmma", "mma.sync", "sum_parts"} | said) - set(ran["onepass"])
