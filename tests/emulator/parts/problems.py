"""Problems with configs: those of real layers with any candidate, and the library's own random ones."""

import itertools
import re
from dataclasses import replace
from functools import lru_cache
from math import prod

from triton_conv3dt.checking import trial_tensors
from triton_conv3dt.checking.check import _among_nan
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import lowering, search
from triton_conv3dt.planning.config import sums_bias
from triton_conv3dt.problems import case, sampling

from ..cases import Cases, Skip
from ..library import emulated

LAYERS = (
    "n2 ci64 co32 in4x6x8 k2 s2", "ci128 co64 in4x4x8 k2 s2", "n2 ci32 co16 in3x6x8 k1x2x2 s1x2x2",
    "ci28 co42 in3x5x7 k2 s2", "n2 ci84 co3 in2x5x9 k2 s2", "n2 ci32 co32 in3x6x8 k3 s2 p1 op1",
    "ci28 co24 in3x5x8 k3 s2 p1 op1", "ci64 co64 in4x6x8 k4 s2 p1",
    "n2 ci42 co20 in3x5x6 k4 s2 p1", "n2 ci16 co16 in3x4x16 k1x4x4 s1x2x2 p0x1x1", "ci32 co16 in4x6x8 k3 p1",
    "n2 ci64 co48 in4x4x8 k1", "ci16 co24 in3x4x5 k5 s3 p2 op2", "ci32 co16 in2x4x4 k4 s4",
    "n2 ci64 co32 in3x4x8 k2 s2 g2",
    "ci64 co64 in3x4x8 k3 s2 p1 op1 g2", "n2 ci32 co32 in4x5x8 k5 s2 p2 op1 g32", "ci28 co28 in4x5x8 k3 p1 g28",
    "ci64 co3 in3x4x5 k3 s2 p1 op1", "n2 ci32 co1 in3x4x6 k4 s2 p1", "ci16 co8 in3x4x6 k4 s2 p1",
    "ci3 co16 in4x5x8 k4 s2 p1", "ci16 co16 in4x5x8 k3 p2 d2", "ci24 co3 in2x4x8 k4x8x8 s4x8x8", "ci16 co8 in2x3x8 k2x8x8 s2x8x8")
DTYPES = ("float16", "bfloat16", "float32 tf32", "float32 tf32", "float32 tf32x3", "float32 ieee")
LARGEST_TILE = {True: 64 * 64, False: 128 * 128}  # ieee or not: larger ones say nothing more of so small layers
MOST_WARPS = 4096  # of a launch


def configs(rng, device):
    """A layer with one of its candidates."""
    direction = rng.choice(("forward", "grad_input", "grad_weight"))
    words = [direction, rng.choice(LAYERS), rng.choice(DTYPES), rng.choice(("channels_first", "channels_last"))]
    words += ["bias"] * (direction == "grad_weight" and rng.random() < 0.5)
    if direction == "forward":
        words += itertools.compress(("bias", "residual"), (rng.random() < 0.5, rng.random() < 0.3))
        words += [rng.choice(("", "relu", "leaky_relu(0.01)"))]
    problem = replace(case.parse(" ".join(words)), w_minor=rng.choice(("tap", "co", "ci")))
    largest = LARGEST_TILE[problem.dtype == "float32" and problem.precision == "ieee"]
    found = [c for c in candidates(problem, device) if c.block_m * c.block_n <= largest] or candidates(problem, device)
    # Small tiles are the many; drawn evenly, warpgroups and descriptors would hardly be met.
    wide = [c for c in found if c.block_m >= 64 and c.warps >= 4 and c.dense]
    described, walks, pairs = [c for c in wide if c.path == "descriptor"], *([c for c in found if c.path == path] for path in ("walk", "pair"))
    copies = [c for c in found if c.copy and direction == "grad_weight"]
    pools = found, wide, described, walks, pairs, copies, [c for c in found if c.flat]
    return computed(problem, rng.choice(rng.choice([pool for pool in pools if pool])), device)


def random(rng, device):
    """A problem as `check` draws it, with its default or any other config."""
    problem, = sampling.problems(rng.randrange(2**31), 1, ("float16", "bfloat16", "float32"))
    problem = replace(problem, epilogue=replace(problem.epilogue, keep_pre=False))
    if 0 in (problem.n, problem.ci, problem.co):
        raise Skip("nothing to compute")
    config = search.default(problem, device) if rng.random() < 0.5 else rng.choice(candidates(problem, device))
    return computed(problem, config, device)


@lru_cache(maxsize=None)
def candidates(problem, device):
    """Those of a problem, remembered, but for what takes minutes: a program for each tap and channel."""
    warps = {c: prod(lowering.grid(problem, c)) * c.warps for c in search.candidates(problem, device)}
    return [c for c, count in warps.items() if count <= max(MOST_WARPS, min(warps.values()))]


def run(problem, config, device, **options) -> Cases:
    """The case of a problem and a config, run on the emulator of a device; what it counted."""
    with emulated(device.name, exact=True, **options) as emulator:
        cases = Cases(emulator)
        cases.run(*computed(problem, config, device))
    return cases


def run_with(fault, problem, config, device) -> Cases:
    """The same of kernels with a fault in their PTX, races looked for: what was planted should be found."""
    with emulated(device.name, exact=True, races=True) as emulator:
        emulator.edit, cases = fault, Cases(emulator)
        cases.run(*computed(problem, config, device))
    return cases


def without(pattern: str, kernel: str):
    """An edit of PTX that leaves out what matches, of one kernel."""
    return lambda ptx: re.sub(pattern, "", ptx) if f".entry {kernel}" in ptx else ptx


def mistaken(value, name: str, field: str):
    """A value whose first of those of a name says 1 for 0 in a field, or 0 for 1."""
    first, *others = getattr(value, name)
    return value._replace(**{name: (first._replace(**{field: 1 - getattr(first, field)}), *others)})


def computed(problem, config, device):
    """The case of a problem that is computed with a config, as `check` judges it."""
    def call():
        given, zone = trial_tensors.integers(problem, "cpu"), trial_tensors.red_zone(problem, "cpu")
        truth = trial_tensors.truth(problem, given)
        tensors = {name: _among_nan(getattr(given, name)) for name in ("x", "w", "y", "b", "residual")}
        db = trial_tensors.RedZone((problem.co,), (1,), zone.view.dtype) if sums_bias(config, problem) else None
        tensors |= {"b": db.view} if db else {}
        try:
            bound = launch.bind(launch.plan(problem, device, config))
        except ValueError as error:
            raise Skip(str(error)) from error
        launch.run(bound, **tensors | {trial_tensors.written(problem): zone.view})
        zone.check(truth, trial_tensors.ulps(problem))
        if db:
            db.check(given.y.double().sum((0, 2, 3, 4)))

    return dict(problem=case.format(problem), config=repr(config)), call
