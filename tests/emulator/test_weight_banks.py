"""Weight gradients whose tiles are read, copied and written in an order in which no lanes meet in a bank, as compiled: exact on integers."""

import re

import pytest

from triton_conv3dt.checking.trial_tensors import Wrong
from triton_conv3dt.compiling.conflicts import conflicts
from triton_conv3dt.planning import taps
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from .cases import Cases
from .library import emulated
from .machine.faults import Fault
from .parts.problems import computed

HOPPER, AMPERE = "nvidia_h200", "nvidia_a100"
MOST = 1.2  # wavefronts over their least

ALIKE = {  # layer, tile, runs of x and dz: tiles of one shape, whichever has single elements; x as large as what is written; channels last
    "n2 ci32 co20 in3x4x8 k3 s1 p1 float32 tf32 channels_first": (Config("gather", 32, 32, 32, 4, 3, taps=("programs", "crossed", "columns")), 4, 1),
    "ci40 co40 in2x4x8 k3 s2 p1 op1 float32 tf32 channels_first": (Config("gather", 32, 32, 32, 4, 3, copy=True), 4, 1),
    "ci24 co48 in3x4x8 k3 s1 p0 float32 tf32 channels_first": (Config("gather", 64, 64, 32, 4, 3, taps=("columns", "columns", "crossed")), 1, 2),
    "ci16 co32 in4x4x8 k3 s1 p0 float32 tf32 channels_first": (Config("gather", 64, 32, 32, 4, 3, taps=("crossed",) * 3), 1, 2),
    "n2 ci32 co32 in3x4x4 k5 s2 p1 float32 tf32 channels_last": (Config("gather", 64, 64, 32, 4, 3, taps=("columns", "columns", "crossed")), 4, 4),
    "ci20 co36 in3x3x5 k3 s2 p1 float32 tf32 channels_last": (Config("gather", 32, 64, 32, 4, 3, taps=("columns", "programs", "columns")), 4, 4)}


def exact(layer, config, target, meets=MOST):
    """A weight gradient as compiled: exact, without a race, and no bank is asked for more than its share."""
    problem, device = case.parse(f"grad_weight {layer}"), Device.named(target)
    assert fits(config, problem, device) is None
    with emulated(target, exact=True, races=True) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, config, device))
        ptx = next(launch.ptx for launch in emulator.launches if launch.name == "grad_weight")
    assert cases.done == 1 and cases.forms["cp.async"]
    assert conflicts(ptx, 8) < meets, conflicts(ptx, 8)


@pytest.mark.parametrize("target", (AMPERE, HOPPER))
@pytest.mark.parametrize("layer", ALIKE)
def test_tiles_of_one_shape_and_channels_side_by_side(layer, target):
    """Products of Hopper's warpgroups take from shared memory what registers turn, which is another matter."""
    config, x_run, z_run = ALIKE[layer]
    problem = case.parse(f"grad_weight {layer}")
    assert (taps.x_run(problem, config), taps.z_run(problem, config)) == (x_run, z_run)
    exact(layer, config, target, MOST if target == AMPERE or config.block_m < taps.WARPGROUP else 16)


PARTED = {  # layer, tile: runs of 4 and of 8, places that end within a box and in its midst, lines that are none
    "n2 ci32 co20 in3x4x8 k4 s4 float32 tf32": Config("gather", 64, 16, 32, 4, 3, taps=("programs", "columns", "programs")),
    "ci20 co16 in2x5x6 k4 s4 float32 tf32": Config("gather", 32, 32, 32, 4, 3, shares=2),
    "n2 ci32 co5 in2x3x8 k2x2x8 s2x2x8 float32 tf32": Config("gather", 32, 16, 32, 4, 3, taps=("columns", "columns", "programs")),
    "ci128 co16 in4x4x8 k8 s8 float32 tf32": Config("gather", 128, 16, 32, 8, 3),
    "n2 ci64 co16 in2x5x6 k4 s4 float16": Config("gather", 64, 32, 64, 4, 3, taps=("programs", "columns", "programs")),
    "ci24 co40 in3x3x8 k1x4x4 s1x4x4 bfloat16": Config("gather", 32, 16, 64, 2, 3),
    "ci48 co3 in2x4x32 k4x8x8 s4x8x8 bfloat16": Config("gather", 64, 16, 64, 4, 3, taps=("columns", "columns", "programs"), shares=2),
    "ci128 co12 in2x5x7 k2x2x8 s2x2x8 p1x0x0 float16": Config("gather", 128, 16, 64, 8, 3, taps=("columns", "columns", "programs"))}


@pytest.mark.parametrize("target", (AMPERE, HOPPER))
@pytest.mark.parametrize("layer", PARTED)
def test_what_is_parted_into_four_or_eight(layer, target):
    """Of 16 bits, what a product of Hopper's warpgroups is stored for, and what of eight parts a wide tile of Ampere's reads, may meet."""
    config, half = PARTED[layer], "float16" in layer
    assert taps.turned(case.parse(f"grad_weight {layer}"), config)
    exact(layer, config, target, 1.4 if half and config.block_m >= taps.WARPGROUP else MOST)


@pytest.mark.parametrize("layer", (next(iter(ALIKE)), next(iter(PARTED))))
def test_a_removed_wait_is_noticed(layer):
    problem, config = case.parse(f"grad_weight {layer}"), PARTED[layer] if layer in PARTED else ALIKE[layer][0]
    with emulated(AMPERE, exact=True, races=True) as emulator:
        emulator.edit = lambda ptx: re.sub(r"cp\.async\.wait_group\s+\d+;", "", ptx) if ".entry grad_weight" in ptx else ptx
        with pytest.raises((Wrong, Fault)):
            computed(problem, config, Device.named(AMPERE))[1]()
