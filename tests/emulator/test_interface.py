"""The public interface as compiled, with autograd: every activation, bias, residual, concat=, out=, views, and sizes of 1."""

from collections import Counter
from itertools import product

import pytest
import torch

from triton_conv3dt.problems.activations import ACTIVATIONS

from .cases import Cases
from .driver import TARGETS
from .library import emulated
from .parts.interface import HOWS, LAYERS, VIEWS, chosen

DTYPES = torch.float16, torch.bfloat16, torch.float32
NAMES = (None, *ACTIVATIONS)
ran = {target: Counter() for target in TARGETS}


def combinations():
    """Every activation on each target; layers, views, dtypes and the rest in turn."""
    for t, target in enumerate(TARGETS):
        for i, activation in enumerate(NAMES):
            layer, view = tuple(LAYERS)[(3 * i + t) % len(LAYERS)], VIEWS[(i + 2 * t) % len(VIEWS)]
            yield target, layer, activation, view, DTYPES[(i + t) % 3], HOWS[(i // 3 + t) % 3 if i else 0]
    for target, view in product(TARGETS, VIEWS[:2]):
        yield target, "k3s2p1op1", None, view, DTYPES[0], "residual"
    yield "nvidia_h200", "k2s2", "relu", "channels_first", DTYPES[1], "out"
    yield "nvidia_a100", "k4s2p1", "relu", "channels_last", DTYPES[2], "plain"
    for target, activation in product(TARGETS, (None, "relu")):
        yield target, "ones", activation, "channels_first", DTYPES[0], "plain"
    skips = ("k2s2", "relu"), ("k122", "silu"), ("k3s2p1op1", None), ("depthwise k5", "relu")
    for t, target in enumerate(TARGETS):
        for i, (view, how) in enumerate(product(VIEWS[:2], HOWS[3:])):
            yield target, *skips[(i + t) % 4], view, DTYPES[(i + t) % 2], how


@pytest.mark.parametrize("target, layer, activation, view, dtype, how", list(combinations()), ids=str)
def test_layers(target, layer, activation, view, dtype, how):
    with emulated(target, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(*chosen(layer, activation, view, dtype, how))
    assert (cases.done, cases.skipped) == (1, 0)
    ran[target] += cases.kernels + cases.forms + cases.said


@pytest.mark.slow
def test_all_of_it_ran(request):
    if sum("test_layers" in item.nodeid for item in request.session.items) < len(list(combinations())):
        pytest.skip("a part of this file was chosen")
    for target in TARGETS:
        said = {f"activation {name}" for name in NAMES} | {f"how {how}" for how in HOWS}
        said |= {f"dtype {dtype}" for dtype in DTYPES}
        small = {"pack", "sum_parts", "make_dz"}
        assert not (said | small | {"gather", "direct", "layer ones"}) - set(ran[target])
    assert ran["nvidia_h200"]["walk"]
