"""The walking form, as compiled for Hopper: exact on integers, whatever its patches, phases, layouts and sizes; faults are found.

Gluon has no interpreter, so this is where its kernel is proved.
"""

import re
from dataclasses import replace
from math import prod
from unittest import mock

import pytest
import torch

import triton_conv3dt as t3
from triton_conv3dt.checking import trial_tensors
from triton_conv3dt.compiling.conflicts import conflicts
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import costs, lowering, search, terms, walk_memory, walk_reads, walk_tables, walk_tiles, walks
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from .cases import Cases, Failed
from .library import emulated
from .parts.problems import computed, run
from .parts.walks import CASES, K3, problem_and_config

HOPPER = Device.named("nvidia_h200")


@pytest.mark.parametrize("name", CASES)
def test_walks_are_exact(name):
    cases = run(*problem_and_config(name), HOPPER)
    assert (cases.done, cases.skipped) == (1, 0) and cases.kernels["walk"]
    assert cases.forms["wgmma"] and cases.forms["tensor copies"]


@pytest.mark.parametrize("w_minor", ("tap", "co", "ci"))
def test_weights_of_every_order(w_minor):
    problem, config = problem_and_config("stride 1")
    assert run(replace(problem, w_minor=w_minor), config, HOPPER).kernels["pack"] == (0 if w_minor == "ci" else 2)


def test_every_plane_is_fetched_once():
    """Rows of the patch and those beside it, for each shift along w: what walks.step_bytes promises, and no bank conflicts."""
    problem, config = problem_and_config("d merged")
    with emulated("nvidia_h200", exact=True, counting=True) as emulator:
        computed(problem, config, HOPPER)[1]()
        counted = next(launch for launch in emulator.launches if launch.name == "walk").summary()
    programs, steps = prod(lowering.grid(problem, config)), costs.loop_steps(config, problem)
    assert counted["tensor_bytes"] == steps * walks.step_bytes(problem, config) + programs * walks.weight_bytes(problem, config)
    assert counted["bank_conflict_factor"] == counted["sector_efficiency"] == 1.0


@pytest.mark.parametrize("name", ("nothing beside", "five beside", "runs"))
def test_lines_are_copied_once_and_read_without_conflicts(name):
    """No more than walks.step_bytes promises, zeros among it, and fragments that begin at any place."""
    problem, config = problem_and_config(f"as it lies, {name}" if name != "runs" else "as it lies, channels last")
    with emulated("nvidia_h200", exact=True, counting=True) as emulator:
        computed(problem, config, HOPPER)[1]()
        counted = next(launch for launch in emulator.launches if launch.name == "walk").summary()
    assert counted["bank_conflict_factor"] == 1.0
    copied, most = counted["bytes_asked"]["copy"], costs.loop_steps(config, problem) * walks.step_bytes(problem, config)
    assert problem.item * problem.n * problem.ci * prod(problem.in_size) <= copied <= most
    assert walks.walk(problem, config).run == (4 if name == "runs" else 1)


@pytest.mark.parametrize("name, most", (("as it lies", 1.15), ("as it lies, wide", 1.14), ("as it lies, gradient", 1.1), (
    "groups by twos", 1.2), ("a halo, odd channels", 1.1)))
def test_few_places_beside_a_patch_are_not_all_in_the_same_banks(name, most):
    """Those of half of the units are in others. The emulator counts no banks of copies, but their addresses tell."""
    problem, config = problem_and_config(name)
    with emulated("nvidia_h200", exact=True) as emulator:
        computed(problem, config, HOPPER)[1]()
        ptx = next(launch.ptx for launch in emulator.launches if launch.name == "walk")
    assert walks.walk(problem, config).copied and conflicts(ptx, terms.trips(launch.plan(problem, HOPPER, config))) < most


@pytest.mark.parametrize("name", ("16 bits as they lie, by twos", "16 bits as they lie, wide", "16 bits as they lie, gradient", "a run, by twos",
                                  "a run, gradient", "words", "words, wide"))
def test_16_bits_are_loaded_by_twos_into_banks_of_their_own(name):
    """Each pair of neighbours once, and what one fetch of a place meets; no more than walks.step_bytes promises. Of words the few places
    beside a patch are in rows of the same banks."""
    problem, config = problem_and_config(name)
    with emulated("nvidia_h200", exact=True, counting=True) as emulator:
        computed(problem, config, HOPPER)[1]()
        counted = next(launch for launch in emulator.launches if launch.name == "walk").summary()
    assert walks.walk(problem, config).run == 2 and counted["bank_conflict_factor"] <= (1.3 if name.startswith("words") else 1.1)
    _, _, channels, size, _ = walk_memory.read(problem)
    most = (costs.loop_steps(config, problem) + config.stages) * walks.step_bytes(problem, config)
    assert 2 * problem.n * channels * prod(size) <= counted["bytes_asked"]["load"] <= most


@pytest.mark.parametrize("name, way", (("a halo, wide", "load"), ("a halo, gradient", "load"), ("a halo, copied", "copy")))
def test_a_halo_is_read_once_by_whole_units(name, way):
    """Loaded where there are registers for it, else copied; no more than walks.step_bytes promises."""
    problem, config = problem_and_config(name)
    with emulated("nvidia_h200", exact=True, counting=True) as emulator:
        computed(problem, config, HOPPER)[1]()
        counted = next(launch for launch in emulator.launches if launch.name == "walk").summary()
    walk, (_, _, channels, size, _) = walks.walk(problem, config), walk_memory.read(problem)
    assert walk.run == 8 and walk.copied == (way == "copy") and counted["bank_conflict_factor"] < (1.2 if walk.copied else 1.02)
    most = (costs.loop_steps(config, problem) + config.stages) * walks.step_bytes(problem, config)
    assert 2 * problem.n * channels * prod(size) <= counted["bytes_asked"][way] <= most


@pytest.mark.parametrize("name, abreast, groups", (("a halo", 4, 4), ("twins", 2, 2), ("groups by twos", 2, 8), ("groups of unequal runs", 4, 4)))
def test_groups_abreast_read_a_run_once(name, abreast, groups):
    """As exactly as groups apart, which read it again."""
    problem, config = problem_and_config(name)

    def counted():
        walks.walk.cache_clear()
        walk = walks.walk(problem, config)
        assert len(walk.groups) == groups
        with emulated("nvidia_h200", exact=True, counting=True) as emulator:
            Cases(emulator).run(*computed(problem, config, HOPPER))
            found = next(launch for launch in emulator.launches if launch.name == "walk").summary()
        return walk.abreast, walks.runs(problem, walk), found["wavefronts"]

    together = counted()
    with mock.patch.object(walks, "_abreast", lambda *_: 1):
        apart = counted()
    walks.walk.cache_clear()
    assert (together[0], apart[0]) == (abreast, 1)
    assert together[1] < apart[1] and together[2] < apart[2]


@pytest.mark.parametrize("name", ("a halo, wide", "as it lies, phases apart"))
def test_runs_may_be_read_in_any_order(name):
    """What is added to first is so by a product of whichever run comes first."""
    problem, config = problem_and_config(name)
    walks.walk.cache_clear()
    with mock.patch.object(walks, "runs_of", lambda *given: tuple(turn[::-1] for turn in walk_tables.runs(*given))):
        cases = run(problem, config, HOPPER)
    walks.walk.cache_clear()
    assert (cases.done, cases.skipped) == (1, 0)


@pytest.mark.parametrize("name", ("16 bits as they lie, odd gradient", "a run, by twos", "a run, gradient",
                                  "a run with a halo, gradient", "as it lies, wide", "as it lies, gradient, channels last"))
def test_what_lies_outside_is_not_read(name):
    """What is asked of memory is the part of what the steps write that a plan says."""
    problem, config = problem_and_config(name)
    with emulated("nvidia_h200", exact=True, counting=True) as emulator:
        computed(problem, config, HOPPER)[1]()
        counted = next(launch for launch in emulator.launches if launch.name == "walk").summary()["bytes_asked"]
    steps = costs.loop_steps(config, problem)
    assert counted["load"] + counted["copy"] == round(steps * walks.step_bytes(problem, config) * walks.fetched(problem, config))


def test_neighbours_that_are_not_both_there_are_loaded_singly():
    """Of odd rows, of rows at odd addresses, and where the stride leaves a residue out."""
    run = lambda text, **more: walks.walk(replace(case.parse(text), **more), Config("walk", 8, 64, 16, 4, 2, box=(2, 8, 8))).run
    forward, gradient = (f"{direction} ci16 co16 in3x8x9 k3 s2 p1 op1 float16 channels_first" for direction in ("forward", "grad_input"))
    assert run(forward) == 1 and run(gradient) == 2
    assert run(forward.replace("x9", "x10")) == 2 and run(forward.replace("x9", "x10"), x_alignment=1) == 1
    assert run(gradient, y_alignment=1) == run(gradient.replace(" op1", " d2 op1")) == 1


@pytest.mark.parametrize("name", ("as it lies", "as it lies, gradient"))
def test_what_is_read_as_it_lies_is_rounded_as_a_copy_is(name):
    """The same bits, of values that TF32 has no room for; and what is cut off instead is noticed."""
    problem, config = problem_and_config(name)
    given = trial_tensors.integers(problem, "cpu")
    tensors = {name: torch.randn_like(getattr(given, name)) for name in ("x", "w", "y", "b", "residual") if getattr(given, name) is not None}

    def computed_with(config, edit=None):
        written = trial_tensors.written(problem)
        with emulated("nvidia_h200", exact=True) as emulator:
            emulator.edit = edit or emulator.edit
            out = torch.empty_like(getattr(given, written))
            launch.run(launch.bind(launch.plan(problem, HOPPER, config)), **tensors | {written: out})
        return out

    expected = computed_with(replace(config, copy=True))
    assert torch.equal(computed_with(config), expected)
    cut = computed_with(config, lambda ptx: re.sub(r"cvt\.rna\.tf32\.f32 (%\w+), (%\w+);", r"mov.b32 \1, \2;", ptx))
    assert not torch.equal(cut, expected)


def without_copies_waits(ptx):
    return re.sub(r"cp\.async\.wait_group\s+\w+;", "", ptx)


def test_copies_that_nobody_waits_for_are_found():
    problem, config = problem_and_config("as it lies")
    with emulated("nvidia_h200", exact=True, races=True) as emulator:
        emulator.edit = without_copies_waits
        with pytest.raises(Failed, match="wait|NaN|pending|wrong|differ"):
            Cases(emulator).run(*computed(problem, config, HOPPER))


def test_what_an_activation_needs_is_kept():
    """In training the value before the activation is written, too: the gradients are those of PyTorch."""
    x, w = torch.randn(1, 16, 3, 8, 9, dtype=torch.float16), torch.randn(16, 8, 3, 3, 3, dtype=torch.float16) / 8
    given = [t.requires_grad_() for t in (x, w)]
    reference = [t.detach().double().requires_grad_() for t in given]
    _, config = problem_and_config("activation")
    found = replace(config, block_m=8)
    with emulated("nvidia_h200", exact=True, races=True) as emulator, mock.patch.object(
            search, "default", lambda problem, device, constraints=None, ask=search.default: replace(found, copy=True) if (
                problem.direction == "forward") else ask(problem, device)):
        y = t3.conv_transpose3d(*given, None, 2, 1, 1, activation="silu", backend="triton")
        y.backward(torch.ones_like(y))
        assert "walk" in {launch.name for launch in emulator.launches} and not emulator.warnings()
    torch.nn.functional.silu(torch.nn.functional.conv_transpose3d(*reference, None, 2, 1, 1)).sum().backward()
    for ours, theirs in zip(given, reference):
        assert torch.allclose(ours.grad.double(), theirs.grad, rtol=1e-2, atol=2e-2)


def without_waits(ptx):
    return re.sub(r"wgmma\.wait_group\.sync\.aligned \d+;", "", ptx)


def without_barriers(ptx):
    """From the loop on: the copies that refill the ring then overtake those who still read it."""
    head, loop, rest = ptx.partition("wgmma.fence")
    return head + loop + re.sub(r"bar\.sync\s+0;", "", rest)


def other_neighbour(ptx):
    """One of the two places of a pair takes the other's channels."""
    return ptx.replace("0x7632", "0x5410")


@pytest.mark.parametrize("name", ("words", "words, odd channels"))
def test_a_residue_that_lies_elsewhere_is_noticed(name, monkeypatch):
    problem, config = problem_and_config(name)
    right = walks.walk
    monkeypatch.setattr(walks, "walk", lambda *asked: right(*asked)._replace(second=0))
    with pytest.raises(Failed, match="wrong|differ"):
        run(problem, config, HOPPER)


@pytest.mark.parametrize("name", ("a run", "a run, gradient", "a run, dilated"))
def test_rows_of_a_run_that_lie_too_near_are_noticed(name, monkeypatch):
    problem, config = problem_and_config(name)
    right = walk_reads.along
    monkeypatch.setattr(walk_reads, "along", lambda *asked: right(*asked) - 2)
    monkeypatch.setattr(walks, "walk", walks.walk.__wrapped__)
    with pytest.raises(Failed, match="wrong|differ"):
        run(problem, config, HOPPER)


WAITED = "wait|NaN|pending|wrong|differ"


@pytest.mark.parametrize("name, edit, found", (
    ("d merged", without_waits, WAITED), ("d merged", without_barriers, "warned|race|read|wrong"),
    ("two ages in one", without_waits, WAITED), ("padded ages", without_waits, WAITED), ("one stage", without_waits, WAITED),
    ("as it lies, dilated", without_waits, WAITED), ("as it lies, dilated", without_barriers, "warned|race|read|wrong"),
    ("16 bits as they lie, dilated", without_waits, WAITED),
    ("16 bits as they lie, dilated", without_barriers, "warned|race|read|wrong"),
    ("a halo", without_waits, WAITED), ("a halo", without_barriers, "warned|race|read|wrong"),
    ("a halo, dilated", without_waits, WAITED), ("a halo, dilated", without_barriers, "warned|race|read|wrong"),
    ("a halo, copied", without_barriers, "warned|race|read|wrong"), ("a halo, copied", without_copies_waits, WAITED),
    ("16 bits as they lie, dilated", other_neighbour, "wrong|differ"), ("16 bits as they lie, gradient", other_neighbour, "wrong|differ")))
def test_faults_are_found(name, edit, found):
    problem, config = problem_and_config(name)
    with emulated("nvidia_h200", exact=True, races=True) as emulator:
        emulator.edit = edit
        with pytest.raises(Failed, match=found):
            Cases(emulator).run(*computed(problem, config, HOPPER))


def test_candidates_fit_and_are_chosen_where_taps_overlap():
    problem = case.parse(f"forward ci32 co32 in32x64x64 {K3} float16 channels_last")
    assert search.default(problem, HOPPER).path == "walk"
    tried = [c for c in walk_tiles.tiles(problem, HOPPER, thorough=True) if fits(c, problem, HOPPER) is None]
    assert len(tried) > 20 and {c.stages for c in tried} == {2, 3}
    assert not list(walk_tiles.tiles(case.parse("forward ci32 co32 in32x64x64 k2 s2 float16"), HOPPER, thorough=True))
