"""What the emulator counts of small launches, beside what a bound counts of their machine code, and the plan of their bytes.

PTX is not machine code: the assembler merges some instructions and makes a score of a division, and the weight's gradient
has one in fourteen: the band is wide. It would show a loop that a bound counts once.
"""

import random
import re
from math import prod

import pytest
import triton

from triton_conv3dt.compiling import bounds, machinecode
from triton_conv3dt.compiling.compile import compile_plan
from triton_conv3dt.compiling.conflicts import Program, wavefronts
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import costs, terms
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from .conftest import CACHE
from .library import emulated
from .parts.problems import computed
from .test_forms import AMPERE, DTYPES, HOPPER, LAYERS, chosen

pytestmark = pytest.mark.slow
ROWS = [(target, direction, form, layer, layout, DTYPES[i % 3]) for i, (target, direction, form, layer, layout) in enumerate((
    *((target, direction, "pointers", layer, layout) for target in (HOPPER, AMPERE)
      for direction, layer in (("forward", "k2s2"), ("grad_input", "k2s2"), ("forward", "k3s2p1"), ("grad_weight", "k2s2"))
      for layout in ("channels_first", "channels_last")),
    *((HOPPER, direction, form, layer, "channels_last") for direction, form, layer in (
        ("forward", "rows", "k1"), ("forward", "rows", "k2s2"), ("forward", "box", "k3s2p1"), ("forward", "box", "k4s2p1"),
        ("grad_input", "rows", "k1"), ("grad_input", "strided", "k2s2"), ("grad_input", "strided", "k4s2p1")))))]
LEAST, MOST = 0.35, 1.6  # instructions of PTX, but for moves, by those of machine code; 0.46 to 1.47 with Triton 3.7.1


@pytest.fixture
def assembled(monkeypatch):
    """A Triton cache whose kernels are assembled."""
    monkeypatch.setattr(triton.knobs.cache, "dir", str(CACHE) + "-assembled")


def ran(target, problem, config):
    """The product's launch, counted, in a plan with this config."""
    with emulated(target, counting=True) as emulator:
        computed(problem, config, Device.named(target))[1]()
    return emulator


def assert_conflicts(launched):
    """Each access of shared memory that ran took the wavefronts that its PTX tells; the emulator counts no banks of copies. How
    often each ran is left out: a step that the compiler peeled off the loop ran once, and the loop that much less."""
    program, counted = Program(launched.ptx), launched.counters.by_instruction
    lines = [(line, op) for line, op in program.accesses() if line + 1 in counted and not op.startswith("cp.")]
    assert lines or not found_shared(counted)
    for line, op in lines:
        parts = [wavefronts(*part) for part in program.parts(line, op)]
        _, _, taken, least = counted[line + 1]
        assert sum(parts) / len(parts) == pytest.approx(taken / least), op


def found_shared(counted) -> bool:
    """Whether an access of shared memory was counted."""
    return any(re.search(r": (ld|st|ldmatrix|stmatrix)\..*shared", text) for text, *_ in counted.values())


@pytest.mark.parametrize("target, direction, form, layer, layout, dtype", ROWS)
def test_instructions_and_bytes(target, direction, form, layer, layout, dtype, request):
    device, problem = Device.named(target), case.parse(f"{direction} {LAYERS[layer]} {dtype} {layout}")
    config = chosen(problem, device, form, random.Random(layer))
    plan = launch.plan(problem, device, config)
    emulator = ran(target, problem, config)
    launched, = (one for one in emulator.launches if one.name == plan.schedule.main.kernel)
    found = launched.summary()
    assert_conflicts(launched)
    programs = prod(plan.schedule.main.grid)
    request.getfixturevalue("assembled")
    machine = bounds.count(bounds.execution(machinecode.listing(compile_plan(plan))[1], terms.trips(plan))).total()
    moved = found["classes"].get("move", 0)  # which the assembler does by giving another register its name
    ratio = (found["warp_instructions"] - moved) / (programs * config.warps * machine)
    read = found["tensor_bytes"] + found["bytes_asked"]["copy"] + found["bytes_asked"]["load"]
    planned = programs * terms.trips(plan) * costs.step_bytes(config, problem)
    print(f"RATIO {target} {direction} {form} {layer} {layout} {dtype}: {ratio:.2f} {read / planned:.2f} {config}")
    assert LEAST < ratio < MOST
    assert read <= 1.05 * planned, "masked places are not read, and nothing is read twice"
    if form in ("rows", "box", "strided"):
        assert found["tensor_bytes"] == pytest.approx(programs * terms.described_bytes(plan))
