"""Input gradients whose taps are summed over beside their few channels: exact in every order, whatever is outside."""

import math
import random
from dataclasses import replace

import pytest
import torch

from launched import use
from triton_conv3dt.checking import reference, trial_tensors
from triton_conv3dt.checking.trial_tensors import Wrong
from triton_conv3dt.kernels import flat
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import lowering
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

H200 = Device.named("nvidia_h200")
LAYERS = ("ci20 co1 in3x4x5 k3 s2 p1 op1", "n2 ci16 co3 in2x3x4 k2x4x4 s2x4x4", "ci17 co2 in3x4x5 k4 s2 p1",
          "ci8 co8 in2x2x3 k3x2x4 s2 p1x0x1", "ci16 co5 in3x3x5 k3 s1 p2 d2",
          "ci16 co1 in2x3x3 k9x5x8 s2 p3", "ci12 co6 in3x3x3 k3 s2 p1 g2", "n3 ci16 co3 in1x3x4 k1x3x5 s1x2x1 p0x1x2")


def computed(text: str, config: Config, w_minor: str = "tap") -> None:
    """A problem, with this config, among NaN that must not be read."""
    problem = replace(case.parse(f"grad_input {text}"), w_minor=w_minor)
    given, zone = trial_tensors.integers(problem, "cpu"), trial_tensors.red_zone(problem, "cpu")
    launch.run(launch.bind(launch.plan(problem, H200, config)), x=zone.view, w=given.w, y=given.y)
    zone.check(trial_tensors.truth(problem, given), trial_tensors.ulps(problem))


@pytest.mark.parametrize("axes", (1, 2, 3))
@pytest.mark.parametrize("layout", ("channels_first", "channels_last"))
@pytest.mark.parametrize("i, layer", list(enumerate(LAYERS)))
def test_exact(i, layer, layout, axes):
    """r in one step and in several, also of several programs; weights in every order."""
    rng = random.Random(f"{layer} {layout} {axes}")
    text = f"{layer} {('float16', 'float32')[(i + axes) % 2]} {layout}"
    for w_minor, block_k in zip(rng.sample(("tap", "co", "ci"), 3), (16, 32, 64)):
        for copy in (False, True):
            config = Config("gather", rng.choice((16, 32)), 32, block_k, 4, 2, flat=axes, copy=copy, shares=rng.choice((1, 1, 2, 5)))
            for merged in (False, True):
                config = replace(config, merge=(False, False, merged))
                if fits(config, case.parse(f"grad_input {text}"), H200) is None:
                    computed(text, config, w_minor)


@pytest.mark.parametrize("layout", ("channels_first", "channels_last"))
def test_offsets_of_64_bits(layout, monkeypatch):
    text = f"ci17 co2 in3x4x5 k4 s2 p1 float16 {layout}"
    right = case.parse
    monkeypatch.setattr(case, "parse", lambda given: replace(right(given), wide=True))
    computed(text, Config("gather", 32, 32, 32, 4, 2, flat=2, shares=2))


def test_pairs_share_what_they_read():
    """Of every third layer above pairs along w fit, odd widths among them; fewer steps then have more rows."""
    config = Config("gather", 32, 32, 32, 4, 2, (False, False, True), flat=3)
    fitting = [layer for layer in LAYERS if fits(config, case.parse(f"grad_input {layer} float16 channels_last"), H200) is None]
    assert fitting == [LAYERS[5], LAYERS[7]]
    for layer in fitting:
        assert "pairs" in fits(config, case.parse(f"grad_input {layer} float16 channels_first"), H200)


@pytest.mark.parametrize("axes, block_k", ((1, 16), (2, 32), (3, 64)))
@pytest.mark.parametrize("layout", ("channels_first", "channels_last"))
@pytest.mark.parametrize("layer", LAYERS[:5])
def test_nan_reaches_its_own_taps_alone(layer, layout, axes, block_k, monkeypatch):
    use(monkeypatch, Config("gather", 32, 32, block_k, 4, 2, flat=axes))
    p = case.parse(f"grad_input {layer} float32 ieee {layout}")
    given, rng = trial_tensors.integers(p, "cpu"), random.Random(layer)
    dz = given.y.clone(memory_format=torch.preserve_format)
    geometry = dict(stride=p.stride, padding=p.padding, dilation=p.dilation, groups=1)
    for value in (math.nan, math.inf):
        dz[tuple(rng.randrange(size) for size in dz.shape)] = value
    found = launch.grad_input(dz, given.w, **geometry, in_size=p.in_size, precision="ieee")
    reached = (~dz.isfinite()).any(1, keepdim=True).double()
    most = reference.grad_input(reached, torch.ones(1, 1, *p.kernel).double(), **geometry, in_size=p.in_size) > 0
    exact, lost = reference.grad_input(dz, given.w, **geometry, in_size=p.in_size), ~found.isfinite()
    assert (lost | exact.isfinite()).all(), "a value that is not finite got lost"
    assert not (lost & ~most).any() and not most.all(), "it reached too far"
    assert torch.equal(found[~lost].double(), exact[~lost]), "what is finite is exact"


def no_guard(patch):
    right = lowering.axis_constants
    patch.setattr(lowering, "axis_constants", lambda p, c: [axis._replace(guard=False) for axis in right(p, c)])


def no_edge(patch):
    right = lowering.axis_constants
    patch.setattr(lowering, "axis_constants", lambda p, c: [axis._replace(edge=False) for axis in right(p, c)])


def a_share_less(patch):
    right = lowering.grid
    patch.setattr(lowering, "grid", lambda p, c: (*right(p, c)[:2], right(p, c)[2] - 1))


def no_halo(patch):
    right = lowering.axis_constants
    patch.setattr(lowering, "axis_constants", lambda p, c: [axis._replace(halo=False) for axis in right(p, c)])


def a_tap_less(patch):
    right = lowering.axis_constants
    patch.setattr(lowering, "axis_constants", lambda p, c: [axis._replace(flat=max(1, axis.flat - 1)) for axis in right(p, c)])


def bits_of_one_axis(patch):
    right = flat.bits_outside
    patch.setattr(flat, "bits_outside", lambda place, size, axis, first: right(place, size, axis, 0))


FAULTS = {"halo not masked": no_halo, "a tap left out": a_tap_less,
          "bits of another axis": bits_of_one_axis, "a share left out": a_share_less}


PAIRED = {"taps of a neighbour's": no_guard, "a neighbour outside": no_edge, "bits of another axis": bits_of_one_axis}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a fault might hang or corrupt a GPU")
@pytest.mark.parametrize("name", PAIRED)
def test_a_fault_of_pairs_is_noticed(name, monkeypatch):
    text = f"{LAYERS[5]} float16 channels_last"
    config = Config("gather", 32, 32, 32, 4, 2, (False, False, True), flat=3)
    computed(text, config)
    PAIRED[name](monkeypatch)
    with pytest.raises((AssertionError, IndexError, ValueError, Wrong)):
        computed(text, config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a fault might hang or corrupt a GPU")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed(name, monkeypatch):
    text, config = f"{LAYERS[2]} float16 channels_last", Config("gather", 32, 32, 32, 4, 2, flat=3, shares=2)
    computed(text, config)
    FAULTS[name](monkeypatch)
    with pytest.raises((AssertionError, IndexError, ValueError, Wrong)):
        computed(text, config)
