"""The bound of a compiled kernel, on machine code and plans whose counts can be worked out by hand."""

from dataclasses import replace

import pytest

from triton_conv3dt.compiling import bounds
from triton_conv3dt.compiling.bounds import Bound, bound, count, execution, wavefronts
from triton_conv3dt.launching import launch
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.problem import BACKWARD, Problem

H200 = Device.named("nvidia_h200")
LAYER = dict(n=2, ci=64, co=32, in_size=16, kernel=2, stride=2, layout="channels_last")
WHOLE = Config("gather", 64, 128, 32, merge=(True, True, True), stages=3)


def listing(*parts) -> str:
    """What nvdisasm prints of instructions, each a text, and of labels, which end with a colon."""
    lines, place = ["\t.section .text.gather"], 0
    for part in parts:
        lines.append(part if part.endswith(":") else f"        /*{place:04x}*/                   {part} ;")
        place += 0 if part.endswith(":") else 16
    return "\n".join(lines)


LOOP = (".L_x_1:", "HGMMA.64x128x16.F32 R24, gdesc[UR4], R24", *["LDGSTS.E.128 [R1], [R2]"] * 3, *["IMAD R1, R2, R3, R4"] * 20,
        "@P1 BRA `(.L_x_1)")
SPIN = (".L_x_0:", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R2], R3", "@!P0 BRA `(.L_x_0)")
ALL = listing("MOV R1, c[0x0][0x28]", "IADD3 R2, R1, 0x1, RZ", *SPIN, *LOOP, "@!P2 STG.E.128 [R4], R8", "EXIT")


PTX = "mov.u32 %r1, %tid.x;\n shl.b32 %r2, %r1, 4;\n cp.async.cg.shared.global [ %r2 + 0 ], [ %rd1 + 0 ], 0x10, %r3;"


def test_loops_count_as_often_as_they_run_and_waiting_once():
    issued = lambda text: count(execution(text, 10))
    assert issued(ALL) == {"MOV": 1, "IADD3": 1, "SYNCS": 1, "BRA": 1 + 10, "HGMMA": 10, "LDGSTS": 30, "IMAD": 200, "STG": 1,
                           "EXIT": 1}
    two = listing(*LOOP, *(part.replace("L_x_1", "L_x_2") for part in LOOP))
    assert issued(two)["HGMMA"] == 10, "loops one after another share the trips"
    nested = listing(".L_x_3:", *LOOP, "@P2 BRA `(.L_x_3)")
    assert issued(nested)["IMAD"] == 200, "an inner loop is part of the outer one"
    behind = listing(*LOOP[:5], "@!P0 BRA `(.L_x_7)", ".L_x_8:", *LOOP[5:], "EXIT",
                     ".L_x_7:", SPIN[1], "@!P0 BRA `(.L_x_7)", "BRA `(.L_x_8)")
    assert issued(behind)["HGMMA"] == 10, "a wait behind the kernel goes back to where it was, and is no second loop"
    fetching = listing(".L_x_6:", *["UTMALDG.3D [UR8], [UR4]"] * 30, "@P3 BRA `(.L_x_6)", *LOOP)
    assert count(execution(fetching, 10, 7)) == {"UTMALDG": 210, "BRA": 7 + 10, "HGMMA": 10, "LDGSTS": 30, "IMAD": 200}
    assert issued(listing("@P1 BRA `(.L_x_9)", *["MOV R1, R2"] * 30, ".L_x_9:", "EXIT"))["MOV"] == 30, "forward: no loop"


def test_the_terms_of_a_product():
    plan = launch.plan(Problem.of_layer(**LAYER), H200, WHOLE)
    found = bound(plan, ALL, PTX)
    programs = (8 * 32 // 64) * (2 * 16**3 // 128)
    assert found.trips == 64 // 32
    instructions = 2 + 2 + 25 * 2 + 2
    assert found.instructions == instructions
    slots = 132 * 4 * 1.755e9
    assert found.issue == pytest.approx(instructions * programs * 4 / slots)
    assert found.integer == pytest.approx(2 * 40 * programs * 4 / slots), "IMAD; IADD3 is of the other pipe"
    assert found.l2 == pytest.approx(programs * 2 * 2 * 32 * (64 + 128) / 5.5e12)
    assert found.tensor == pytest.approx(2 * (8 * 32) * (2 * 16**3) * 64 / 989e12), "nothing is padded"
    moved = 2 * (2 * 64 * 16**3 + 2 * 32 * 32**3 + 64 * 32 * 8)
    assert found.dram == found.roofline == pytest.approx(moved / 4.8e12) and found.passes == 0


@pytest.mark.parametrize("text, clocks", [
    ("LDGSTS.E.BYPASS.LTC128B.128 [R1], [R2]", 4), ("LDGSTS.E [R1], [R2]", 1), ("STS.U16 [R1], R2", 1), ("LDS.64 R2, [R1]", 2),
    ("LDSM.16.MT88.4 R4, [R1]", 4), ("LDSM.16.M88.2 R4, [R1]", 2), ("STSM.16.M88.4 [R1], R4", 4), ("LDG.E.128 R4, [R1]", 0),
    # 64 rows and 128 columns by 32 bytes, shared by the 4 warps of a warpgroup; rows in registers are not read
    ("HGMMA.64x128x16.F32 R24, gdesc[UR4], R24, gsb0", (64 + 128) * 32 / 128 / 4),
    ("HGMMA.64x32x8.F32.TF32 R24, R4, gdesc[UR4], R24", 32 * 32 / 128 / 4), ("HMMA.16816.F32 R4, R8, R12, R4", 0),
    ("@P1 LDS R2, [R1]", 1), ("@!PT LDS RZ, [RZ]", 0)], ids=str)  # the last is issued before copies, and reads nothing
def test_what_holds_shared_memory(text, clocks):
    assert wavefronts(execution(listing(text), 1)) == clocks


def test_shared_memory_is_written_by_copies_and_read_by_products():
    problem = Problem.of_layer(**LAYER)
    found = bound(launch.plan(problem, H200, replace(WHOLE, path="descriptor")), ALL, PTX)
    program = (128 * 32 * 2 / 128 / 4 + 3 * 4 + (64 + 128) / 16) * 2  # the copy engine's box, the weight, one product; two steps
    assert found.wavefronts == pytest.approx(program) and found.conflicts == 1
    conflicting = bound(launch.plan(problem, H200, replace(WHOLE, path="descriptor")), ALL, PTX.replace("%r1, 4", "%r1, 5"))
    assert conflicting.conflicts == 2 and conflicting.wavefronts == pytest.approx(program + 3 * 4 * 2), "of the weight's copies"
    assert found.shared == pytest.approx(program * 4 * (8 * 32 // 64) * (2 * 16**3 // 128) / (132 * 1.755e9))
    pointers = bound(launch.plan(problem, H200, WHOLE), ALL, PTX)
    assert found.wavefronts - pointers.wavefronts == 2 * 128 * 32 * 2 / 128 / 4


def test_padding_is_multiplied_too():
    narrow = Problem.of_layer(**LAYER | dict(co=1))
    full, padded = (bound(launch.plan(p, H200, WHOLE), ALL, PTX).tensor for p in (Problem.of_layer(**LAYER), narrow))
    assert padded == pytest.approx(full / 4), "8 rows in a tile of 64, of which 32 channels fill four"


def test_passes_write_and_read_their_workspaces():
    first = Problem.of_layer(**LAYER | dict(layout="channels_first", kernel=4, padding=1))
    found = bound(launch.plan(first, H200, Config("gather", 64, 128, 32, stages=3)), ALL, PTX)
    assert found.passes == pytest.approx(2 * 2 * 64 * 32 * 64 / 4.8e12), "the packed weight"
    copied = bound(launch.plan(first, H200, Config("gather", 64, 128, 32, stages=3, copy=True)), ALL, PTX)
    assert copied.passes - found.passes == pytest.approx(2 * 2 * 2 * 64 * 16**3 / 4.8e12), "and the copied x"
    weights = Problem.of_layer("grad_weight", **LAYER)
    shares = bound(launch.plan(weights, H200, Config("gather", 64, 32, 32, stages=3, shares=5)), ALL, PTX)
    assert shares.passes == pytest.approx(2 * 5 * 4 * 64 * 32 * 8 / 4.8e12)


@pytest.mark.parametrize("direction, config, trips", [
    ("forward", Config("direct", 32, 64), 8 * 64 / 8), ("grad_input", Config("direct", 32, 64), 2 * 32),  # taps along h and w are unrolled
    ("grad_weight", Config("direct", 32, 64, shares=4), 2 * 16**3 / 64 / 4),
    ("grad_input", Config("gather", 64, 128, 32, stages=3), 8), (BACKWARD, Config("onepass", 64, 256, 32, 8, 2, shares=64), 4),
    ("grad_weight", Config("gather", 64, 32, 32, stages=3, shares=4), 2 * 16**3 / 32 / 4)], ids=str)
def test_trips_come_from_the_plan(direction, config, trips):
    found = bound(launch.plan(Problem.of_layer(direction, **LAYER), H200, config), ALL, PTX)
    assert found.trips == trips and (found.tensor > 0) == config.dense


def test_the_limit_is_the_worst_term_and_the_passes():
    found = Bound(roofline=2.0, instructions=1, trips=9, wavefronts=2, conflicts=1, issue=3.0, integer=5.0, shared=4.0, l2=4.0, tensor=1.0,
                  dram=2.0, passes=1.0)
    assert (found.limit, found.binds) == (3.0, "integer")
    said = {"dram": 1.0, "issue": 1.5, "shared": 2.0, "wavefronts": 2, "passes": 0.5, "binds": "integer"}
    assert found.as_json() | said == found.as_json()


def test_there_is_none_where_a_rate_is_not_known():
    problem = Problem.of_layer(**LAYER)
    assert bound(launch.plan(problem, Device.named("nvidia_l4"), replace(WHOLE, stages=2)), ALL, PTX) is None
    assert bound(launch.plan(replace(problem, dtype="float64"), H200, Config("direct", 32, 64)), ALL, PTX) is None
    a100 = bound(launch.plan(problem, Device.named("nvidia_a100"), WHOLE), ALL, PTX)
    assert a100.l2 == 0 and a100.limit >= 1, "its L2 is not known"
    assert set(PIPES := bounds.INTEGER & bounds.MULTIPLY) == set(), PIPES
