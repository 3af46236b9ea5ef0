"""Faults planted into the PTX of the library's own kernels are reported; the same launches without them are not."""

import re
from unittest import mock

import pytest

from triton_conv3dt.checking import trial_tensors
from triton_conv3dt.planning import search
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from .library import emulated
from .machine.faults import Fault
from .parts import problems
from .parts.problems import computed

POINTERS = ("forward n2 ci64 co32 in4x4x8 k2 s2 bias channels_last", "gather")
DESCRIPTORS = ("forward n2 ci128 co64 in4x4x8 k2 s2 channels_last", "descriptor")


def run(target, problem, path, edit=None, main="gather"):
    """Run a problem with a pipelined config of this path, its main kernel's PTX edited; the emulator."""
    device, problem = Device.named(target), case.parse(problem)
    config = next(c for c in search.candidates(problem, device)
                  if (c.path, c.block_m, c.block_n, c.block_k, c.warps, c.stages) == (path, 64, 64, 32, 4, 3))
    with emulated(target, exact=True, races=True) as emulator:
        emulator.edit = (lambda ptx: edit(ptx) if f".entry {main}" in ptx else ptx) if edit else None
        computed(problem, config, device)[1]()
    return emulator


def found(target, problem, path, edit):
    """What is reported where the PTX is edited, after it was right as it is."""
    right = run(target, problem, path)
    assert not right.warnings()
    ptx = next(launch.ptx for launch in right.launches if launch.name == "gather")
    assert edit(ptx) != ptx, "nothing was planted"
    try:
        return "; ".join(run(target, problem, path, edit).warnings())
    except (Fault, trial_tensors.Wrong) as error:  # whatever else there is would be a fault of the emulator
        return f"{type(error).__name__}: {error}"


def without(pattern, which=slice(None)):
    """An edit that removes some of the places of a pattern."""
    def edit(ptx):
        for place in reversed(list(re.finditer(pattern, ptx))[which]):
            ptx = ptx[:place.start()] + ptx[place.end():]
        return ptx
    return edit


@pytest.mark.parametrize("target", ("nvidia_h200", "nvidia_a100"))
def test_a_removed_wait_for_copies(target):
    assert found(target, *POINTERS, without(r"cp\.async\.wait_group\s+\d+;")).startswith("Wrong")


@pytest.mark.parametrize("target", ("nvidia_h200", "nvidia_a100"))
def test_a_removed_barrier(target):
    assert "race" in found(target, *POINTERS, without(r"bar\.sync\s+0;", slice(1, None)))


def test_a_removed_wait_for_runs_that_are_turned():
    problem = "forward n2 ci64 co32 in4x4x8 k2 s2 float32 tf32"
    assert found("nvidia_h200", problem, "gather", without(r"cp\.async\.wait_group\s+\d+;")).startswith("Wrong")


def test_a_removed_wait_for_products():
    assert found("nvidia_h200", *POINTERS, without(r"wgmma\.wait_group\.sync\.aligned \d+;"))


def test_a_removed_wait_for_tensor_copies():
    assert found("nvidia_h200", *DESCRIPTORS, without(r"mbarrier\.try_wait[^;]*;|@!complete bra\.uni waitLoop;"))


@pytest.mark.parametrize("direction", ("forward", "grad_input", "grad_weight"))
@pytest.mark.parametrize("target", ("nvidia_h200", "nvidia_a100"))
def test_a_false_alignment(target, direction):
    """Hints that promise 16 bytes, of tensors whose places lie no multiple of that apart."""
    device, problem = Device.named(target), case.parse(f"{direction} n2 ci64 co32 in4x4x8 k2 s2 channels_last")
    config = next(c for c in search.candidates(problem, device) if c.path == "gather")
    with emulated(target, exact=True, races=True) as emulator:
        computed(problem, config, device)[1]()
    assert not emulator.warnings()
    with (emulated(target, exact=True, races=True), mock.patch.object(problems, "_among_nan", padded),
          pytest.raises(Fault, match="misaligned")):
        computed(problem, config, device)[1]()


def padded(t):
    """A channels_last tensor of the same values with four elements more between its places."""
    if t is None or t.dim() < 5:
        return t
    n, c, *sizes = t.shape
    return t.new_zeros(n, *sizes, c + 4)[..., :c].permute(0, 4, 1, 2, 3).copy_(t)
