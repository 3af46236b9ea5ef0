"""Any config computes the same, by every form of reading, with offsets of any width, and always the same bits."""

import random
from dataclasses import replace

import pytest
import torch
import triton.language as tl

from cases import CORPUS
from launched import BY_NAME, EPILOGUES, RELU, check, random_config, use
from triton_conv3dt.kernels import tiles
from triton_conv3dt.launching import launch, tensors
from triton_conv3dt.planning import search
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.problems.problem import DIRECTIONS

each_direction = pytest.mark.parametrize("direction", DIRECTIONS)


@each_direction
@pytest.mark.parametrize("layout", ("channels_first", "channels_last"))
@pytest.mark.parametrize("name", ("k2s2", "k3s2p1op1", "k4s2p1", "k3s4 holes, cropped", "TF SAME, odd output", "channels 17 and 7",
                                  "two groups, k=s"))
def test_any_config_computes_the_same(name, layout, direction, device, monkeypatch):
    rng = random.Random(f"{name} {layout} {direction}")
    use(monkeypatch, random_config(rng))
    t = BY_NAME[name].tensors(torch.float16, layout, device=device)
    check(direction, BY_NAME[name], t, (True, True, RELU))


@each_direction
@pytest.mark.parametrize("layout", ("channels_first", "channels_last"))
@pytest.mark.parametrize("name", ("k3s2p1op1", "TF SAME, odd output", "channels 17 and 7"))
@pytest.mark.skipif(torch.cuda.is_available(), reason="what is compiled keeps its constants")
def test_tiles_without_runs_are_turned_and_turned_back(name, layout, direction, device, monkeypatch):
    """As Triton 3.6 would have them, which lays threads along the first of two axes that have none."""
    monkeypatch.setattr(tiles, "FIRST_OF_EQUALS", tl.constexpr(True))
    case, flat = BY_NAME[name], direction == "grad_input"
    t = case.tensors(torch.float32, layout, device=device)
    for config in [Config("gather", 32, 16, 16)] + [Config("gather", 16, 32, 16, flat=2)] * flat:
        use(monkeypatch, config)
        check(direction, case, t, (True, True, RELU))


def described():
    """The corpus with channels enough for a descriptor, wherever one can see what is gathered."""
    for case in CORPUS:
        groups = case.groups if case.groups == 2 else 1
        wide = replace(case, ci=16 * groups, co=16 * groups, groups=groups)
        if case.n:
            yield wide, "forward"
            if not any(out % s for out, s in zip(case.out_size[1:], case.stride[1:])):
                yield wide, "grad_input"


@pytest.mark.parametrize("i, asked", [pytest.param(i, asked, id=f"{asked[0]}, {asked[1]}")
                                      for i, asked in enumerate(described()) if i % 3 == 0])
def test_descriptors(i, asked, device, monkeypatch):
    """Every form of descriptor, of dense tensors and of channel slices, whose margins are NaN: a third of the corpus, since
    tests/emulator runs them as compiled."""
    (case, direction), used = asked, []
    choose = random_config(random.Random(i), paths=("descriptor",))
    use(monkeypatch, lambda problem, device: used.append(choose(problem, device)) or used[-1])
    layout = ("channels_last", "concatenated_channels_last")[i % 2]
    dtype = (torch.float16, torch.float32)[i // 2 % 2]
    check(direction, case, case.tensors(dtype, layout, device=device), EPILOGUES[i % 7])
    assert [config.path for config in used] == ["descriptor"]


@pytest.mark.parametrize("i, case", [pytest.param(i, case, id=case.name) for i, case in enumerate(CORPUS)
                                     if case.n and case.groups < 3 and case.taps <= 64 and i % 3 != 2 and case.in_size != (1, 1, 1)])
def test_weight_gradients_of_copies(i, case, device, monkeypatch):
    """Any way to walk the taps, of copies of dense tensors and of channel slices, whose margins are NaN."""
    choose, used, layout = random_config(random.Random(i), paths=("gather",)), [], ("channels_first", "concatenated")[i % 2]
    case = replace(case, ci=4 * case.groups, co=16 * case.groups)

    def copying(problem, device):
        tried = replace(choose(problem, device), copy=True)
        used.append(tried if fits(tried, problem, device) is None else copying(problem, device))
        return used[-1]

    use(monkeypatch, copying)
    check("grad_weight", case, case.tensors(torch.float32, layout, device=device), precision="tf32")
    assert used and all(config.copy for config in used)


def test_what_is_not_finite_stays_with_its_taps(device, monkeypatch):
    """Boxes that reach beyond the last position read what a copied dz has there, of another residue: it does not count."""
    use(monkeypatch, Config("gather", 16, 16, 16, copy=True))
    case = replace(BY_NAME["k2s2"], in_size=(2, 2, 13), out_size=(4, 4, 26))
    t = case.tensors(torch.float32, device=device)
    finite = check("grad_weight", case, t, precision="tf32")
    t.dz[..., 1::2] = float("nan")
    found = launch.grad_weight(t.x, t.dz, **case.geometry, precision="tf32", kernel=case.kernel, strides=t.w.stride())
    assert torch.equal(found[..., 0], finite[..., 0]) and found[..., 1].isnan().all()


@each_direction
@pytest.mark.parametrize("name", ("k3s2p1op1", "two groups"))
def test_offsets_of_64_bits(name, direction, device, monkeypatch):
    monkeypatch.setattr(launch, "_records", {})
    monkeypatch.setattr(tensors, "extent", lambda t: 2**31)
    check(direction, BY_NAME[name], BY_NAME[name].tensors(torch.float32, device=device))


@each_direction
@pytest.mark.parametrize("name", ("k3s2p1op1", "depthwise k3s2"))
def test_two_runs_are_equal(name, direction, device, monkeypatch):
    """With data whose sum depends on the order, and with the reduction over positions shared."""
    case, default = BY_NAME[name], search.default
    shared = lambda problem: problem.direction == "grad_weight"
    use(monkeypatch, lambda problem, device: replace(default(problem, device), shares=3 if shared(problem) else 1))
    t = case.tensors(torch.float32, device=device)
    for tensor in (t.x, t.w, t.dz):
        tensor.copy_(torch.randn(tensor.shape))
    given = dict(**case.geometry, precision="ieee")
    run = {"forward": lambda: launch.forward(t.x, t.w, t.b, None, **given, out_size=case.out_size, activation=None)[0],
           "grad_input": lambda: launch.grad_input(t.dz, t.w, **given, in_size=case.in_size),
           "grad_weight": lambda: launch.grad_weight(t.x, t.dz, **given, kernel=case.kernel, strides=t.w.stride()),
           }[direction]
    assert torch.equal(run(), run())
    assert torch.equal(launch.grad_bias(t.dz), launch.grad_bias(t.dz))
