"""All gradients one after the other, as compiled: dz made as dy lies or in channels_last, with its sum for the bias."""

from itertools import product

import pytest
import torch

from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch
from triton_conv3dt.ops.autograd import dense_strides
from triton_conv3dt.planning import gradients, search, weight_turns
from triton_conv3dt.planning.config import Config
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


@pytest.mark.parametrize("geometry, dtype, once", (((3, 2, 1, 1), torch.float32, True), ((4, 2, 1, 0), torch.float16, True),
                                                   ((3, 2, 0, 0), torch.float32, False)))
def test_dy_is_read_once_more_for_the_bias_only_where_the_weight_gradient_does_not_sum_it(geometry, dtype, once, monkeypatch):
    kernel, stride, padding, extra = geometry
    n, ci, co, size = 1, 32, 16, (3, 8, 8)
    walk, others = Config("walk", 16, 32, 64, 8, 2, box=(1, 8, 8), taps=weight_turns.WAYS[0]), search.default
    monkeypatch.setattr(search, "default", lambda p, *asked: walk if p.direction == "grad_weight" else others(p, *asked))
    monkeypatch.setattr(gradients, "channels_last", lambda *_: False)
    integers = lambda *shape: torch.randint(-2, 3, shape).to(dtype)
    x, w = integers(n, ci, *size), integers(ci, co, *(kernel,) * 3)
    dy = integers(n, co, *((s - 1) * stride - 2 * padding + kernel + extra for s in size))
    monkeypatch.setattr(launch, "_records", {})
    with emulated("nvidia_h200", exact=True) as emulator:
        _, dw, db = launch.backward(dy, x, w, None, True, dense_strides(w), (stride,) * 3, (padding,) * 3, (1,) * 3, 1, "tf32", None)
        names = [one.name for one in emulator.launches]
    assert "turn_weight" in names and ("make_dz" not in names) is once
    assert torch.equal(db.double(), dy.double().sum((0, 2, 3, 4)).to(dtype).double())
    given = dict(kernel=(kernel,) * 3, stride=(stride,) * 3, padding=(padding,) * 3, dilation=(1,) * 3, groups=1)
    assert torch.equal(dw.double(), reference.grad_weight(x.double(), dy.double(), **given).to(dtype).double())
