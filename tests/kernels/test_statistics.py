"""Mean and variance that the layer's launch leaves, whatever its tile, and the pass that normalises."""

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from launched import use

from triton_conv3dt.kernels import gather, statistics
from triton_conv3dt.launching import binding, launch, tensors
from triton_conv3dt.planning import config, lowering
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.activations import Activation
from triton_conv3dt.problems.problem import Epilogue, Problem

LAST, FIRST = torch.channels_last_3d, torch.contiguous_format
K2S2, K3S2 = ((2, 2, 2), (2, 2, 2), (0, 0, 0)), ((1, 3, 2), (1, 2, 1), (0, 1, 0))  # kernel, stride, padding
GATHER = Config("gather", 32, 16, 16)
TILES = {  # memory format, geometry, groups, config: samples of 27 places, which no tile divides
    "phases in rows": (FIRST, K2S2, 1, replace(GATHER, merge=(True,) * 3)),
    "phases in rows, last": (LAST, K2S2, 1, replace(GATHER, merge=(True,) * 3)),
    "phases in programs": (FIRST, K2S2, 1, GATHER),
    "some of each, cropped": (LAST, K3S2, 1, replace(GATHER, merge=(False, True, False))),
    "phases two by two": (LAST, ((3, 3, 1), (2, 2, 1), (1, 0, 0)), 1, Config("gather", 16, 16, 16, merge=(True, True, False))),
    "groups": (FIRST, K3S2, 2, replace(GATHER, merge=(False, True, False))),
    "rows by descriptor": (LAST, K2S2, 1, Config("descriptor", 32, 16, 16)),
    "boxes by descriptor": (LAST, K3S2, 1, Config("descriptor", 32, 32, 16, box=(2, 4, 4))),
    "lanes": (FIRST, K3S2, 1, Config("direct", 4, 64)),
    "lanes, last": (LAST, K2S2, 1, Config("direct", 16, 32)),
    "lanes of groups": (LAST, K3S2, 2, Config("direct", 8, 32)),
}


def run(form, statistics, device="cpu", offset=0, dtype=torch.float16, **given):
    """The result of a layer and its statistics, all integers; and those by PyTorch, in fp64."""
    memory_format, (kernel, stride, padding), groups, chosen = form
    ci, co = 8 if chosen.dense else 2, 8 if chosen.block_m == 16 else 6
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randint(-2, 3, size, generator=generator).to(device, dtype)
    x, w = draw(2, ci, 3, 3, 3).contiguous(memory_format=memory_format), draw(ci, co // groups, *kernel)
    size = tuple((i - 1) * s - 2 * p + k for i, s, p, k in zip(x.shape[2:], stride, padding, kernel))
    given = dict(out_size=size, stride=stride, padding=padding, dilation=(1, 1, 1), groups=groups, precision="ieee",
                 activation=None) | given
    y, _, *moments = launch.forward(x, w, draw(co) + offset, None, **given, statistics=statistics)
    return y, moments, tensors.statistics_of(y.double(), statistics)


def assert_near(found, exact, bound=1e-6):
    for a, b in zip(found, exact):
        assert a.shape == b.shape and (a - b).abs().max() <= bound * max(1, b.abs().max().item())


@pytest.mark.parametrize("form, statistics", [
    (form, statistics) for i, form in enumerate(TILES.values()) for statistics in ("instance", "batch")[i % 2:i % 2 + 1]]
    + [(TILES["phases in rows"], "batch")], ids=[*TILES, "of the batch"])
def test_every_tile(device, monkeypatch, form, statistics):
    use(monkeypatch, form[-1])
    _, found, exact = run(form, statistics, device, activation=Activation.of("relu"))
    assert_near(found, exact)


@pytest.mark.parametrize("name", ["phases in rows, last", "lanes of groups"])
def test_a_large_mean_costs_the_variance_nothing(device, monkeypatch, name):
    use(monkeypatch, TILES[name][-1])
    _, found, exact = run(TILES[name], "instance", device, offset=2**13, dtype=torch.float32)
    assert_near(found, exact)


@triton.jit
def forgets_what_tiles_differ(parts, mean, variance, CO, SHARES, SAMPLES, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    count, total, squares = 0.0, 0.0, 0.0
    for i in range(SAMPLES * SHARES):
        p = parts + ((i // SHARES * CO + row) * SHARES + i % SHARES) * 3
        count, total, squares = count + tl.load(p), total + tl.load(p + 1), squares + tl.load(p + 2)
    tl.store(mean + row, total / count)
    tl.store(variance + row, squares / count)


@triton.jit
def all_lines(sums, PHASES: tl.constexpr, PHASE_MINOR: tl.constexpr):
    if PHASES == 1:
        return sums
    else:
        return tl.sum(sums.reshape(PHASES, sums.shape[0] // PHASES), axis=0)


@triton.jit
def across_samples(i_tile, size, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    return i_tile * BLOCK, 2 * size[0] * size[1] * size[2]


FAULTS = {
    "tiles differ": ("phases in programs", lambda patch: patch.setitem(binding.load(), "combine", forgets_what_tiles_differ)),
    "phases of another channel": ("phases in rows", lambda patch: patch.setattr(
        statistics, "by_channel", all_lines)),
    "tiles across samples": ("phases in programs", lambda patch: patch.setattr(gather, "in_sample", across_samples)),
    "a share too many": ("phases in programs", lambda patch: patch.setattr(
        lowering, "statistics_shares", lambda p, c, right=lowering.statistics_shares: right(p, c) + 1)),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a fault might corrupt a GPU")
@pytest.mark.parametrize("form, fault", FAULTS.values(), ids=FAULTS)
def test_faults_are_noticed(monkeypatch, form, fault):
    use(monkeypatch, TILES[form][-1])
    fault(monkeypatch)
    _, found, exact = run(TILES[form], "instance")
    with pytest.raises(AssertionError):
        assert_near(found, exact)


def test_a_path_may_have_no_statistics(monkeypatch):
    problem = Problem.of_layer(n=1, ci=16, co=16, in_size=4, kernel=2, stride=2)
    wanted, device = replace(problem, epilogue=Epilogue(statistics="batch")), Device.named("nvidia_h200")
    assert str(wanted.epilogue) == "statistics of the batch" and config.fits(GATHER, wanted, device) is None
    monkeypatch.setattr(config, "STATISTICS", ("direct",))
    assert "no statistics" in config.fits(GATHER, wanted, device) and config.fits(GATHER, problem, device) is None


@pytest.mark.parametrize("memory_format", [FIRST, LAST], ids=["first", "last"])
@pytest.mark.parametrize("kind", ["instance", "batch"])
@pytest.mark.parametrize("dtype, affine, activation", [
    (torch.float16, torch.float32, None), (torch.float32, None, "leaky_relu"), (torch.float64, torch.float64, "silu")])
def test_the_pass_that_normalises(device, memory_format, kind, dtype, affine, activation):
    y = (3 + torch.randn(2, 70, 3, 5, 4, device=device)).to(dtype).contiguous(memory_format=memory_format)
    mean, variance = tensors.statistics_of(y, kind)
    scale, shift = (None, None) if affine is None else torch.randn(2, 70, device=device, dtype=affine)
    found = launch.normalise(y, mean, variance, scale, shift, 1e-3, Activation.of(activation))
    batch = kind == "batch"
    function = torch.nn.functional.batch_norm if batch else torch.nn.functional.instance_norm
    wide = [t if t is None else t.double() for t in (scale, shift)]
    exact = function(y.double(), None, None, *wide, True, eps=1e-3)
    exact = exact if activation is None else getattr(torch.nn.functional, activation)(exact)
    assert found.dtype == dtype and found.is_contiguous(memory_format=memory_format)
    assert (found.double() - exact).abs().max() <= 8 * torch.finfo(dtype).eps * exact.abs().max()
