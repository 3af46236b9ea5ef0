"""All gradients one after the other, as compiled: dz made as dy lies or in channels_last, with its sum for the bias."""

from itertools import product

import pytest
import torch

from triton_conv3dt.launching import launch
from triton_conv3dt.ops.autograd import dense_strides
from triton_conv3dt.planning import gradients
from triton_conv3dt.problems.activations import Activation

from .driver import TARGETS
from .library import emulated

DTYPES = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize("target, dtype, activation", [
    (target, DTYPES[(i + j) % 3], activation) for (i, target), (j, activation) in product(enumerate(TARGETS), enumerate((None, "relu")))])
def test_dz_in_either_layout_gives_the_same_gradients(target, dtype, activation, monkeypatch):
    n, ci, co, size = 2, 16, 24, (2, 3, 8)
    integers = lambda *shape: torch.randint(-2, 3, shape).to(dtype)
    x, w, dy = integers(n, ci, *size), integers(ci, co, 4, 4, 4), integers(n, co, *(2 * s for s in size))
    saved, found = integers(*dy.shape) if activation else None, []
    for last in (False, True):
        monkeypatch.setattr(launch, "_records", {})
        monkeypatch.setattr(gradients, "channels_last", lambda *_: last)
        with emulated(target, exact=True):
            found.append(launch.backward(dy, x, w, saved, True, dense_strides(w), (2,) * 3, (1,) * 3, (1,) * 3, 1, "tf32",
                                         Activation.of(activation)))
    assert all(torch.equal(ours, theirs) and ours.stride() == theirs.stride() for ours, theirs in zip(*found))
    dz = dy.double() * (saved > 0 if activation else 1)
    assert torch.equal(found[1][2].double(), dz.sum((0, 2, 3, 4)).to(dtype).double())
