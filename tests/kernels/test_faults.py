"""The tests of the kernels notice what they are there for: each deliberate fault fails the check that passes without it."""

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from cases import CORPUS
from launched import check, use
from layouts import RedZone
from triton_conv3dt.checking import trial_tensors
from triton_conv3dt.checking.trial_tensors import Wrong
from triton_conv3dt.kernels import gather, grad_weight, reduce
from triton_conv3dt.kernels.turned import parted
from triton_conv3dt.launching import binding, launch
from triton_conv3dt.planning import lanes, lowering, passes, weight_launches
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.case import parse

BY_NAME = {case.name: case for case in CORPUS}
BY_NAME["long sums"] = replace(BY_NAME["more positions than a tile"], n=8)
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a fault might hang or corrupt a GPU")
GATHER, SHARED, DIRECT = Config("gather", 32, 32, 16), Config("gather", 32, 32, 16, shares=3), Config("direct", 16, 32)
MERGED = Config("gather", 32, 32, 16, merge=(True, False, True))
DIRECT_SHARES, COLUMNS = replace(DIRECT, shares=3), Config("direct", 2, 256, warps=1)
CROSSED = replace(GATHER, taps=("crossed", "columns", "crossed"))
NEIGHBOURS = replace(GATHER, taps=("by two", "by four", "columns"))
COPIES = replace(GATHER, taps=("columns", "crossed", "programs"), copy=True)
BOXES = Config("descriptor", 32, 32, 16, box=(2, 4, 4))
PLANES = Config("descriptor", 32, 32, 16, box=(1, 4, 8))


@triton.jit
def everywhere(place, size):
    return place == place


@triton.jit
def runs_in_half(LINES: tl.constexpr, PLACES: tl.constexpr, TURNED: tl.constexpr):
    return parted(LINES, PLACES, (TURNED[0] // 2, TURNED[1] * 2, TURNED[2]))


@triton.jit
def pack_without_swap(w, packed, SIZE, INNER, LIVE, TAPS, KH, KW, w_stride, ROUND: tl.constexpr, CI_INNER: tl.constexpr,
                      SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(packed + index, tl.load(w + index, mask=index < SIZE, other=0.0), mask=index < SIZE)


def constant(**changes):
    """A fault in the numbers of an axis that a kernel is specialised on, each as a function of those that are right."""
    def install(patch):
        right = lowering.axis_constants
        changed = lambda axis: axis._replace(**{name: change(axis) for name, change in changes.items()})
        patch.setattr(lowering, "axis_constants", lambda p, c: [changed(axis) for axis in right(p, c)])
    return install


def strides(change):
    """A fault in the strides of a product, (x, w by (row, reduction, tap, group), y, residual)."""
    def install(patch):
        right = binding.numbers_of

        def wrong(launch, tensors):
            numbers, sizes = right(launch, tensors), len(launch.sizes)
            return (*numbers[:sizes], *change(numbers[sizes:])) if launch.kernel == "gather" else numbers
        patch.setattr(binding, "numbers_of", wrong)
    return install


def read(change):
    """A fault in what the lanes of the direct path read along h and w."""
    def install(patch):
        right = lanes.reads
        patch.setattr(lanes, "reads", lambda p, c: tuple(r._replace(**change(r)) for r in right(p, c)))
    return install


def one_share_less(patch):
    right = lowering.grid
    patch.setattr(lowering, "grid", lambda p, c: (right(p, c)[0], right(p, c)[1] - 1, right(p, c)[2]))


def rows_of_boxes_too_long(patch):
    right = lowering.described

    def wrong(kind, problem, config, step):
        shape, strides, block = right(kind, problem, config, step)
        return shape, [*strides[:2], strides[2] + 16, *strides[3:]], block
    patch.setattr(lowering, "described", wrong)


def quotients_too_small(patch):
    right = passes.division
    patch.setattr(passes, "division", lambda count: (right(count)[0], right(count)[1] + 1))


def copies(change):
    """A fault in where the copies of a weight gradient begin or how they lie, in the launches that make them alone."""
    def install(patch):
        right = passes.to_residues
        patch.setattr(weight_launches, "to_residues", lambda p, axes, name: right(p, [change(axis) for axis in axes], name))
    return install


def residues_elsewhere(patch):
    """As a copy is made, its residues are neighbours."""
    right = passes.to_residues

    def wrong(p, axes, name):
        made, memory = right(p, axes, name)
        return replace(made, constants=made.constants | dict(RESIDUES=(1, 1, 1))), memory
    patch.setattr(weight_launches, "to_residues", wrong)


def parted_otherwise(patch):
    patch.setattr(grad_weight, "parted", runs_in_half)


def kernel(name, fault):
    return lambda patch: patch.setitem(binding.load(), name, fault)


def parts_in_half(patch):
    patch.setitem(binding.DTYPES, "float32", torch.float16)


FAULTS = {  # the fault, and a check that must notice: case, direction, layout, config
    "halo not masked": (constant(halo=lambda axis: False), "k3s2p1op1", "forward", "sliced", GATHER),
    "halo of dz not masked": (constant(halo=lambda axis: False), "k3s2p1op1", "grad_input", "sliced", GATHER),
    "edge not masked": (constant(edge=lambda axis: False), "TF SAME, odd output", "forward", "sliced", GATHER),
    "offset by one": (constant(offset=lambda axis: axis.offset + 1), "k4s2p1", "forward", "channels_last", GATHER),
    "last tap left out": (constant(taps=lambda axis: axis.taps - 1), "k3s2p1op1", "grad_input", "channels_last", GATHER),
    "taps that do not exist": (constant(guard=lambda axis: False), "k3s2p1op1", "grad_input", "channels_first", GATHER),
    "taps that do not exist, merged": (constant(guard=lambda axis: False), "k3s2p1op1", "forward", "channels_last", MERGED),
    "stride ignored": (constant(z=lambda axis: axis.z._replace(step=1)), "k2s2", "grad_weight", "channels_last", GATHER),
    "halo of x not masked": (constant(x=lambda axis: axis.x._replace(halo=False)), "k3s2p1op1", "grad_weight", "sliced", CROSSED),
    "boxes not masked": (constant(x=lambda axis: axis.x._replace(edge=False)), "k2s3 holes", "grad_weight", "sliced", GATHER),
    "taps crossed wrongly": (constant(tap_row=lambda axis: 1), "k4s2p1", "grad_weight", "channels_last", CROSSED),
    "neighbours that meet the same taps": (constant(tap_row=lambda axis: 0), "k4s2p1", "grad_weight", "channels_last", NEIGHBOURS),
    "taps that do not exist of neighbours": (constant(guard=lambda axis: False), "k3s2p1op1", "grad_weight", "channels_last", NEIGHBOURS),
    "shifts taken for sure": (constant(z=lambda axis: axis.z._replace(sure=(0, axis.z.sure[1]))), "k3s2p1op1", "grad_weight", "sliced",
                              NEIGHBOURS),
    "neighbours that are none": (constant(x=lambda axis: axis.x._replace(halo=False)), "k3s2p1op1", "grad_weight", "sliced", NEIGHBOURS),
    "residues of a copy taken for neighbours": (constant(z=lambda axis: axis.z._replace(residues=1)), "k3s2p1op1", "grad_weight",
                                                "channels_first", COPIES),
    "what is parted in another order": (parted_otherwise, "k4s4", "grad_weight", "channels_first", GATHER),
    "residues of a copy in another order": (residues_elsewhere, "k4s2p1", "grad_weight", "channels_first", COPIES),
    "a copy that begins elsewhere": (copies(lambda axis: axis._replace(first=axis.first + 1)), "k3s2p1op1", "grad_weight",
                                     "channels_first", COPIES),
    "a copy without zeros around it": (lambda patch: patch.setattr(reduce, "inside", everywhere), "k3s2p1op1", "grad_weight", "sliced",
                                       COPIES),
    "dilation ignored": (constant(dilation=lambda axis: 1), "dilation and stride coprime", "forward", "channels_first",
                         DIRECT),
    "height and width swapped": (strides(lambda s: ((*s[0][:3], s[0][4], s[0][3]), *s[1:])), "k2s2", "forward", "channels_first",
                                 GATHER),
    "groups share a weight": (strides(lambda s: (s[0], (*s[1][:3], 0), *s[2:])), "two groups, k=s", "forward", "channels_last", GATHER),
    "dz taken for contiguous": (strides(lambda s: ((8 * 8 * 8 * 8, 8 * 8 * 8, 64, 8, 1), *s[1:])), "k2s2", "grad_input",
                                "sliced", GATHER),
    "a share left out": (one_share_less, "k2s2", "grad_weight", "channels_last", SHARED),
    "shares rounded to half": (parts_in_half, "long sums", "grad_weight", "channels_last", replace(SHARED, block_k=128)),
    "rows of a box too long": (rows_of_boxes_too_long, "k3s4 holes, cropped", "forward", "channels_last", BOXES),
    "another sample's plane": (lambda patch: patch.setattr(gather, "inside", everywhere), "k3s2p1op1", "grad_input",
                               "channels_last", PLANES),
    "a lane reads beside its place": (read(lambda r: dict(offset=tuple(o + 1 for o in r.offset))), "depthwise k3s2", "forward",
                                      "channels_last", DIRECT),
    "taps in the wrong order": (read(lambda r: dict(tap=r.tap[::-1])), "depthwise k3s2", "grad_input", "channels_first", DIRECT),
    "phases in the wrong order": (read(lambda r: dict(line=r.line[::-1])), "depthwise k3s2", "forward", "channels_first", DIRECT),
    "dw in the wrong order": (read(lambda r: dict(tap=r.tap[::-1])), "depthwise k3s2", "grad_weight", "channels_last", DIRECT),
    "lanes beyond the halo": (constant(halo=lambda axis: False), "depthwise k5s2", "forward", "sliced", DIRECT),
    "lanes beyond the edge": (constant(edge=lambda axis: False), "depthwise k3s2", "forward", "sliced", DIRECT),
    "lanes of dz beyond the halo": (constant(halo=lambda axis: False), "depthwise k3s2", "grad_weight", "sliced", DIRECT),
    "lanes of x beyond the edge": (constant(edge=lambda axis: False), "depthwise k3s2", "grad_weight", "sliced", DIRECT),
    "a halo taken for what is inside": (read(lambda r: dict(inside=(True,) * len(r.inside))), "depthwise k5s2", "forward", "sliced",
                                        COLUMNS),
    "columns in the wrong order": (read(lambda r: dict(line=r.line[::-1])), "depthwise k5s2", "grad_input", "channels_first", COLUMNS),
    "columns of x in the wrong order": (read(lambda r: dict(line=r.line[::-1])), "depthwise k5s2", "grad_weight", "channels_first",
                                        COLUMNS),
    "a direct share left out": (one_share_less, "depthwise k3s2", "grad_weight", "channels_last", DIRECT_SHARES),
    "quotients too small": (quotients_too_small, "k2s2", "forward", "channels_first", replace(GATHER, merge=(True,) * 3)),
    "weight packed as it was": (kernel("pack", pack_without_swap), "k3s2p1op1", "forward", "channels_first", GATHER),
}


def run(case, direction, layout, config, patch):
    use(patch, config)
    t = case.tensors(torch.float32 if config.copy else torch.float16, layout)
    zone = RedZone(case.shapes.y, torch.float16, layout) if direction == "forward" and layout == "sliced" else None
    check(direction, case, t, (True, False, None), "tf32" if config.copy else "ieee", out=zone and zone.view)
    if zone:
        zone.check()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed(name, monkeypatch):
    install, case, direction, layout, config = FAULTS[name]
    run(BY_NAME[case], direction, layout, config, monkeypatch)
    install(monkeypatch)
    with pytest.raises((AssertionError, IndexError, ValueError, Wrong)):
        run(BY_NAME[case], direction, layout, config, monkeypatch)


def test_a_tap_that_does_not_exist_is_noticed(monkeypatch):
    """Only around the gradient, where it is written."""
    problem = parse("grad_weight ci8 co4 in3x2x5 k3 s2 p1 op1 float16 channels_last")
    given, zone = trial_tensors.integers(problem, "cpu"), trial_tensors.red_zone(problem, "cpu")

    def written():
        call = launch.bind(launch.plan(problem, Device.named("nvidia_h200"), CROSSED))
        launch.run(call, given.x, zone.view, given.y)
        zone.check(trial_tensors.truth(problem, given))

    written()
    constant(guard=lambda axis: False)(monkeypatch)
    with pytest.raises(Wrong, match="around the output"):
        written()
