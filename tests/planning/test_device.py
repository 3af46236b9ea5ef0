"""A GPU that is here is planned for as the same GPU that is not here: what bounds are counted of is what runs."""

from types import SimpleNamespace

import pytest
import torch

from triton_conv3dt.planning import configfile, device, explain, search, store
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.device import KNOWN, Device
from triton_conv3dt.planning.plan import plan
from triton_conv3dt.problems.problem import Problem

H200 = Device.named("nvidia_h200")
LAYER = dict(n=2, ci=32, co=16, in_size=(12, 20, 46), kernel=4, stride=2, padding=1, dtype="float16")


@pytest.fixture
def present(monkeypatch):
    """Make a driver report a GPU; returns what `current` makes of it."""

    def report(name, capability, sms, shared_memory):
        properties = SimpleNamespace(name=name, major=capability[0], minor=capability[1], multi_processor_count=sms,
                                     shared_memory_per_block_optin=shared_memory)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        device.current.cache_clear()
        return device.current()

    yield report
    device.current.cache_clear()


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
def test_a_known_gpu_that_is_here_has_the_figures_of_its_name(known, present):
    reported = {"nvidia_rtx_4090": "NVIDIA GeForce RTX 4090", "nvidia_rtx_5090": "NVIDIA GeForce RTX 5090"}.get(known.name, known.name)
    assert present(reported, known.capability, known.sms, known.shared_memory) == known


def test_what_the_driver_counts_goes_before_the_table(present):
    fewer = present("NVIDIA H200", (9, 0), 66, 200000)
    assert (fewer.name, fewer.sms, fewer.shared_memory, fewer.l2) == ("nvidia_h200", 66, 200000, H200.l2) and fewer.rates_of is None


def test_an_unknown_gpu_is_planned_for_as_its_like_is(present):
    """The same processor by another name takes the same configs; one of half the SMs has half of everything that SMs share."""
    same = present("NVIDIA GH200 480GB", (9, 0), 132, 232448)
    assert (same.name, same.rates_of) == ("nvidia_gh200_480gb", "nvidia_h200")
    for direction in ("forward", "grad_input", "grad_weight"):
        problem = Problem.of_layer(direction, **LAYER)
        assert search.default(problem, same) == search.default(problem, H200)
    half = present("NVIDIA H100 PCIe", (9, 0), 66, 232448)
    assert (half.bandwidth, half.rate_16bit, half.rate_tf32, half.l2, half.clock) == (
        H200.bandwidth / 2, H200.rate_16bit / 2, H200.rate_tf32 / 2, H200.l2 / 2, H200.clock)
    assert present("NVIDIA L40S", (8, 9), 142, 101376).rates_of == "nvidia_rtx_4090"  # of the two, the one of more alike size
    assert present("NVIDIA GB300", (10, 3), 160, 232448).rates_of == "nvidia_b200"


def test_borrowed_rates_are_said(present):
    problem = Problem.of_layer("forward", **LAYER)
    borrowed = explain.text(plan(problem, present("NVIDIA GH200 480GB", (9, 0), 132, 232448)))
    assert "nvidia_gh200_480gb, capability 9.0, 132 SMs; its rates are taken to be, by SM, those of nvidia_h200\n" in borrowed
    assert "us by these rates" in borrowed
    own = explain.text(plan(problem, H200))
    assert "taken to be" not in own and "us by the vendor's rates" in own


def test_a_file_speaks_of_the_same_device(tmp_path, present):
    problem = Problem.of_layer("forward", **LAYER)
    for here in (H200, present("NVIDIA GH200 480GB", (9, 0), 132, 232448)):
        path, = store.save([store.Entry(problem, Config("gather", 32, 16, 16))], here, {}, tmp_path)
        assert configfile.device_of(path) == here
