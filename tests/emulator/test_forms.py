"""Every kernel of a product, in every form of reading and layout, as compiled for two GPUs: exact on integers."""

import random
from collections import defaultdict
from dataclasses import replace

import pytest

from triton_conv3dt.compiling.conflicts import conflicts
from triton_conv3dt.planning import flat, lanes, lowering, search, taps
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from .cases import Cases
from .library import emulated
from .parts.problems import computed

HOPPER, AMPERE = "nvidia_h200", "nvidia_a100"
DIRECTIONS, LAYOUTS = ("forward", "grad_input", "grad_weight"), ("channels_first", "channels_last")
DTYPES = ("float16", "bfloat16", "float32 tf32", "float32 ieee")
LAYERS = {  # small, but with whole tiles, edges, and phases of different lengths
    "k1": "n2 ci32 co32 in2x4x8 k1", "k2s2": "ci32 co16 in3x4x8 k2 s2", "k3s2p1": "ci32 co24 in2x3x8 k3 s2 p1 op1",
    "k4s2p1": "ci16 co32 in2x4x8 k4 s2 p1"}
DESCRIBED = [("forward", "rows", "k2s2", "channels_last"), ("forward", "box", "k3s2p1", "channels_first"),
             ("forward", "box", "k4s2p1", "channels_last"), ("grad_input", "rows", "k1", "channels_last"),
             ("grad_input", "strided", "k4s2p1", "channels_last")]  # direction, form, layer, layout
ran = defaultdict(set)


def combinations():
    """Target, direction, form, layer, layout, dtype: the layers and dtypes in turn, each form with each dtype."""
    for target in (HOPPER, AMPERE):
        for i, direction in enumerate(DIRECTIONS):
            for j, layout in enumerate(LAYOUTS):
                for form, dtype in (("pointers", DTYPES[(2 * i + j) % 4]), ("direct", DTYPES[(2 * i + j + 1) % 4])):
                    layer = (*LAYERS, "k3s2p1")[(i + 3 * j + (form == "direct")) % 5]
                    yield target, direction, form, layer, layout, dtype
    for direction, form, layer, layout in DESCRIBED:
        for dtype in DTYPES[:3]:
            yield HOPPER, direction, form, layer, layout, dtype


def form_of(problem, config):
    """How a config reads: as lowering says it, or "direct"."""
    return lowering.reading(problem, config) if config.dense else "direct"


def chosen(problem, device, form, rng):
    """A config of this form: tiles not far larger than the problem; wide and pipelined where there are such."""
    found = [c for c in search.candidates(problem, device)
             if c.path != "pair" and form_of(problem, c) == form and c.block_m * c.block_n <= 64 * 128]
    wide = [c for c in found if c.block_m >= 64 and c.warps >= 4 and c.stages > 1]
    return rng.choice(wide or found)


@pytest.mark.parametrize("target, direction, form, layer, layout, dtype", list(combinations()))
def test_products(target, direction, form, layer, layout, dtype):
    device, epilogue = Device.named(target), " bias residual relu" if direction == "forward" else ""
    problem = case.parse(f"{direction} {LAYERS[layer]} {dtype} {layout}{epilogue}")
    config = chosen(problem, device, form, random.Random(f"{layer} {dtype}"))
    with emulated(target, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, config, device))
    assert (cases.done, cases.skipped) == (1, 0)
    ran[target].update(cases.kernels, cases.forms)
    ran[target, form].add(dtype)
    ran[target, form, "PTX"].update(cases.forms)


@pytest.mark.parametrize("path, box", (("descriptor", (1, 4, 8)), ("gather", (0, 0, 0))))
@pytest.mark.parametrize("w_minor, block_k", (("tap", 16), ("co", 32), ("ci", 16)))
def test_tf32_of_a_copied_x(w_minor, block_k, path, box):
    """Several products a step, none of which may read registers that the next step writes."""
    problem = replace(case.parse("forward ci32 co64 in2x3x8 k3 s2 p1 op1 float32 tf32 channels_first"), w_minor=w_minor)
    config = Config(path, 64, 32, block_k, 4, 3, box=box, copy=True)
    with emulated(HOPPER, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, config, Device.named(HOPPER)))
    assert cases.done == 1 and cases.forms["wgmma"]


@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32 tf32"))
@pytest.mark.parametrize("path, box, target", (
    ("descriptor", (1, 4, 8), HOPPER), ("gather", (0, 0, 0), HOPPER), ("gather", (0, 0, 0), AMPERE)))
def test_a_copied_dz(path, box, target, dtype):
    """Taps shift a channels-first dz by single elements: it is read in channels_last, and fp32 was rounded before."""
    problem = case.parse(f"grad_input n2 ci24 co32 in2x4x8 k3 s2 p1 op1 {dtype} channels_first")
    config = Config(path, 64, 32, 16, 4, 3, box=box, copy=True)
    with emulated(target, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, config, Device.named(target)))
    assert cases.done == 1 and cases.kernels["to_channels_last"] and cases.kernels["pack"]
    assert cases.forms["tensor copies" if path == "descriptor" else "cp.async"]


TURNED = {  # layer, tile: runs of four, of two and of one, channels that end within a step, places within a tile; parted and shared
    "forward n2 ci64 co16 in3x5x8 k2 s2 bias float32 tf32": Config("gather", 128, 64, 32, 4, 3, merge=(True,) * 3),
    "forward ci20 co16 in3x5x6 k2 s2 float32 tf32": Config("gather", 128, 64, 16, 4, 2, merge=(True,) * 3),
    "grad_input n2 ci64 co24 in3x5x8 k2 s2 float32 tf32": Config("gather", 64, 64, 32, 4, 3),
    "grad_input n2 ci64 co40 in2x4x6 k2 s2 float32 tf32": Config("gather", 64, 32, 16, 4, 3, shares=3),
    "grad_input n2 ci64 co24 in3x5x8 k3 s2 p1 op1 float32 tf32": Config("gather", 64, 64, 32, 4, 3),
    "grad_input ci32 co40 in3x3x6 k4 s2 p1 float16": Config("gather", 32, 64, 16, 4, 3),
    "grad_input n2 ci32 co24 in3x4x8 k3 s2 float32 tf32": Config("gather", 32, 64, 16, 4, 3),
    "grad_input ci24 co20 in2x3x5 k3x2x4 s2x2x4 p1x0x0 float32 tf32": Config("gather", 32, 16, 32, 4, 3),
    "forward ci24 co64 in6x5x4 k4x1x1 s2x1x1 p1x0x0 float32 tf32": Config("gather", 64, 64, 32, 4, 3, merge=(True, False, False)),
    "grad_input ci32 co24 in3x5x8 k2x2x4 s2x2x4 float32 tf32": Config("gather", 32, 32, 16, 4, 3),
    "grad_input n2 ci64 co40 in3x5x8 k2 s2 float16": Config("gather", 64, 64, 32, 4, 3),
    "grad_input ci24 co24 in3x5x6 k2 s2 bfloat16": Config("gather", 32, 16, 16, 4, 3),
    "grad_input ci32 co32 in3x4x8 k1x2x4 s1x2x4 float16": Config("gather", 32, 64, 32, 4, 3, shares=2)}


@pytest.mark.parametrize("target", (HOPPER, AMPERE))
@pytest.mark.parametrize("layer", TURNED)
def test_runs_that_go_by_registers(layer, target):
    """TF32 is turned there, and neighbours of both are parted; no bank is asked for much more than its share."""
    problem, config = case.parse(layer), TURNED[layer]
    with emulated(target, exact=True, races=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, config, Device.named(target)))
        ptx = next(launch.ptx for launch in emulator.launches if launch.name == "gather")
    assert cases.done == 1 and cases.forms["wgmma" if target == HOPPER and config.block_m >= 64 else "mma.sync"]
    short = target == HOPPER and problem.rounded and config.block_k == 16  # of which two rows share a line
    assert conflicts(ptx, 8) < (1.6 if short else 1.2)


@pytest.mark.parametrize("direction, merge", (("forward", (True,) * 3), ("grad_input", (False,) * 3)))
@pytest.mark.parametrize("target", (HOPPER, AMPERE))
def test_the_last_positions_are_whole_runs(target, direction, merge):
    """120 positions are no multiple of 16, which is all that Triton sees of a number, but of 8: 16 bytes are moved at once."""
    problem = case.parse(f"{direction} ci64 co64 in3x5x8 k2 s2 float16 channels_first")
    with emulated(target, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, Config("gather", 64, 64, 32, 4, 3, merge=merge), Device.named(target)))
        ptx = next(launch.ptx for launch in emulator.launches if launch.name == "gather")
    assert cases.done == 1
    assert all(" 0x10," in line for line in ptx.splitlines() if "cp.async.c" in line and "shared" in line)
    assert all(".v4.b32" in line for line in ptx.splitlines() if "st.global" in line)


@pytest.mark.parametrize("shares", (2, 5))
@pytest.mark.parametrize("layout, path, box", (
    ("channels_first", "gather", (0, 0, 0)), ("channels_last", "gather", (0, 0, 0)), ("channels_last", "descriptor", (1, 4, 8))))
@pytest.mark.parametrize("dtype", ("float16", "float32 tf32"))
def test_programs_that_share_the_steps_of_a_tile(dtype, layout, path, box, shares):
    """27 taps of two chunks of channels, among programs of which some have fewer steps."""
    problem = case.parse(f"grad_input n2 ci24 co64 in2x4x8 k3 s2 p1 op1 {dtype} {layout}")
    with emulated(HOPPER, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, Config(path, 32, 32, 32, 4, 3, shares=shares, box=box), Device.named(HOPPER)))
    assert cases.done == 1 and cases.kernels["sum_parts"]


@pytest.mark.parametrize("layer, axes, block_k, copy", (
    ("n2 ci64 co1 in2x4x5 k3 s2 p1 op1", 3, 32, False), ("ci64 co2 in2x3x8 k4 s2 p1", 2, 32, False),
    ("ci80 co5 in2x3x5 k3 s2 p1", 3, 32, False), ("n2 ci32 co1 in2x3x5 k3x3x8 s2x2x2 p1x1x3", 3, 32, False), ("n2 ci64 co3 in2x3x8 k2x4x8 s2x4x8", 2, 32, False),
    ("ci32 co8 in2x3x8 k4 s2 p1", 2, 64, True), ("ci64 co4 in3x3x4 k3 p2 d2", 1, 16, False)))
@pytest.mark.parametrize("i, layout", list(enumerate(LAYOUTS)))
@pytest.mark.parametrize("target", (HOPPER, AMPERE))
def test_taps_among_channels(target, i, layout, layer, axes, block_k, copy):
    """r in one step or in several, of one program or two, runs of channels and of taps, single elements, in every order of the weight."""
    device, order = Device.named(target), ("tap", "co", "ci", "tap")
    kinds = ("float16", "float32 tf32", "bfloat16", "float32 ieee")
    problem = replace(case.parse(f"grad_input {layer} {kinds[(axes + i) % 4]} {layout}"), w_minor=order[(axes + i) % 4])
    config = Config("gather", 64 if "64" in layer or "80" in layer else 32, 64, block_k, 4, 3, flat=axes, shares=1 + (axes + i) % 2)
    config = replace(config, copy=copy and layout == "channels_first", merge=(False, False, flat.mergeable(problem)))
    assert fits(config, problem, device) is None
    with emulated(target, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, config, device))
    assert cases.done == 1 and cases.forms["mma.sync" if target == AMPERE else "wgmma" if config.block_m == 64 or config.merge[2] else "mma.sync"] \
        or problem.precision == "ieee"


@pytest.mark.parametrize("layer, tile, ways", (
    ("n2 ci64 co32 in3x4x8 k3 s2 p1 op1", (64, 32, 32), ("programs", "columns", "programs")),
    ("ci16 co24 in3x5x9 k4 s2 p3", (64, 32, 16), ("columns", "crossed", "columns")),
    ("ci32 co16 in2x4x8 k2 s2 g2", (32, 16, 32), ("crossed", "programs", "columns")),
    ("n2 ci24 co16 in3x4x7 k1x3x3 s1x3x1 p0x1x2 d1x1x2", (64, 64, 32), ("programs", "crossed", "columns"))))
@pytest.mark.parametrize("target", (HOPPER, AMPERE))
def test_weight_gradients_of_copies(target, layer, tile, ways):
    """x and dz are rounded before, and dz lies residue after residue."""
    problem = case.parse(f"grad_weight {layer} float32 tf32 channels_first")
    config = Config("gather", *tile, 4, 3, shares=2, copy=True, taps=ways)
    with emulated(target, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, config, Device.named(target)))
    assert cases.done == 1 and cases.kernels["to_residues"] == 4 and cases.forms["cp.async"]
    assert cases.forms["wgmma"] == 2 * (target == HOPPER and tile[0] == 64)


@pytest.mark.parametrize("layer, tile, ways", (
    ("n2 ci32 co1 in3x5x6 k9x3x9 s2 p3x1x4", (128, 128, 16, 8), ("columns", "by two", "by four")),
    ("ci16 co3 in2x6x5 k5 s2 p2 op1", (64, 64, 16, 4), ("crossed", "by two", "by four")),
    ("n2 ci24 co2 in3x4x7 k3x5x4 s1x2x3 p1x2x0 g2", (32, 64, 16, 4), ("by four", "programs", "by two"))))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("target", (HOPPER, AMPERE))
def test_weight_gradients_of_neighbours(target, layout, layer, tile, ways):
    """Neighbours are one position, whole or not; single elements of few columns are read in one row, with lanes along places."""
    single = (layout == "channels_last") == (target == HOPPER)
    kind = "float32 tf32" if single != layer.startswith("ci16") else "bfloat16"
    device, problem = Device.named(target), case.parse(f"grad_weight {layer} {kind} {layout}")
    config = Config("gather", *tile, 3, shares=2, taps=ways)
    if taps.split_factor(problem, config) > 1:
        config = replace(config, taps=(*ways[:2], "columns"))
    assert fits(config, problem, device) is None
    with emulated(target, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, config, device))
    assert cases.done == 1 and cases.forms["wgmma" if target == HOPPER and tile[0] >= 64 else "mma.sync"]


@pytest.mark.parametrize("layout, w_minor, merge", (
    ("channels_first", "tap", (False, True, True)), ("channels_first", "co", (True, True, False)),
    ("channels_last", "co", (True, True, True)), ("channels_last", "ci", (True, False, True))))
@pytest.mark.parametrize("target", (HOPPER, AMPERE))
def test_merged_phases_of_unequal_taps(target, layout, w_minor, merge):
    """A tap that some rows lack is masked, in whole runs of channels."""
    problem = replace(case.parse(f"forward ci32 co16 in2x3x8 k3 s2 p1 op1 float16 {layout}"), w_minor=w_minor)
    with emulated(target, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, Config("gather", 64, 32, 16, 4, 3, merge), Device.named(target)))
    assert cases.done == 1 and cases.forms["cp.async"]


@pytest.mark.parametrize("target, block, layer", (
    (HOPPER, 512, "n2 ci2 co2 in2x5x16 k5x3x5 s2 p2x1x2 float16"), (AMPERE, 1024, "ci2 co2 in3x8x12 k7x5x3 s2 p3x2x1 op1 float32 ieee"),
    (HOPPER, 256, "ci2 co2 in3x5x8 k3 s1 p1 bfloat16")))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_columns_of_lanes(direction, layout, target, block, layer):
    """Neighbours along w share what they read, of which what is always inside has no mask; with and without planes among lanes."""
    problem, config = case.parse(f"{direction} {layer} g2 {layout}"), Config("direct", 2, block, warps=1)
    assert lanes.lanes(problem, config).columns > 1
    with emulated(target, exact=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, config, Device.named(target)))
    assert cases.done == 1


@pytest.mark.slow
def test_all_of_it_ran(request):
    """What is promised above really ran: kernels by name, and how they read and multiply by their PTX."""
    if sum("test_products" in item.nodeid for item in request.session.items) < len(list(combinations())):
        pytest.skip("a part of this file was chosen")
    kernels = {"gather", "direct", "grad_weight", "grad_weight_direct", "sum_parts", "to_channels_last"}
    assert ran[HOPPER] >= kernels | {"wgmma", "cp.async", "tensor copies"}
    assert ran[AMPERE] >= kernels - {"to_channels_last"} | {"mma.sync", "cp.async", "ldmatrix"}
    assert "wgmma" not in ran[AMPERE] and "tensor copies" not in ran[AMPERE]
    for form in ("rows", "box", "strided"):
        assert ran[HOPPER, form] == set(DTYPES[:3]) and "tensor copies" in ran[HOPPER, form, "PTX"]
    for target in (HOPPER, AMPERE):
        assert ran[target, "pointers"] == ran[target, "direct"] == set(DTYPES)
