"""Faults planted into a kernel are found; without them nothing is said."""

import re
from contextlib import nullcontext
from itertools import product

import pytest
import torch

from .byhand import run_ptx
from .driver import emulating
from .kernels import add_kernel, describe, hinted, integers, multiplied, matmul_descriptors
from .machine import tensorcore
from .machine.faults import Fault
from .machine.shared import Shared


def test_a_wrong_hint_is_found(emulator):
    x, y = torch.zeros(4096, dtype=torch.float16), torch.zeros(1024, dtype=torch.float16)
    hinted[(1,)](x, y, 8, BLOCK=1024)
    with pytest.raises(Fault, match="misaligned access of 16 bytes"):
        hinted[(1,)](x, y, 3, BLOCK=1024)


def test_an_access_outside_is_found(emulator):
    x, y, out = torch.zeros(1000), torch.zeros(1000), torch.zeros(1000)
    with pytest.raises(Fault, match="outside every argument"):
        add_kernel[(2,)](x, y, out, 1001, BLOCK=512)
    with emulating(emulator.target, exact=True) as exact:
        with pytest.raises(Fault, match="outside the view"):
            add_kernel[(2,)](x, y, torch.zeros(2000)[500:1499], 1000, BLOCK=512)
        add_kernel[(2,)](x, y, torch.zeros(2000)[500:1500], 1000, BLOCK=512)
        assert not exact.warnings()
        add_kernel[(2,)](x[:999], y, out, 1000, BLOCK=512)
        assert any("read of" in text and "outside the view" in text for text in exact.warnings())


def faulty(emulator, edit, tile=(64, 64, 32, 4, 3), **options):
    """How a matmul whose PTX was edited is found out: a wrong result, a warning or a fault; "" if it is not."""
    a, b = integers((128, 256), torch.float16, seed=2), integers((256, 128), torch.float16, seed=3)
    with emulating(emulator.target, **options) as edited:
        edited.edit = edit
        try:
            c = multiplied(a, b, tile)
        except Fault as fault:
            return str(fault)
        ptx = edited.launches[-1].ptx
        assert edit(ptx) != ptx
        return "; ".join(edited.warnings()) if torch.equal(c, a.float() @ b.float()) else "wrong result"


def without(pattern, which=None):
    """An edit that removes all places of a pattern, or one of them."""
    def edit(ptx):
        places = list(re.finditer(pattern, ptx))
        for place in reversed(places if which is None else [places[which]]):
            ptx = ptx[:place.start()] + ptx[place.end():]
        return ptx
    return edit


def test_a_removed_wait_is_found(emulator):
    wait = r"cp\.async\.wait_group\s+\d+;"
    longer = lambda ptx: re.sub(r"(cp\.async\.wait_group\s+)(\d+);", lambda m: f"{m[1]}{int(m[2]) + 2};", ptx, count=1)
    assert faulty(emulator, lambda ptx: ptx + "\n") == ""
    assert faulty(emulator, without(wait)) != ""
    assert faulty(emulator, without(wait, 0)) != ""
    assert faulty(emulator, longer) != ""
    assert faulty(emulator, without(wait), copies="early") == ""  # why "late" is there


def test_removed_barriers_are_found(emulator):
    """Each but the first, which stands between two copies into different buffers and guards nothing."""
    multiplied(integers((128, 256), torch.float16), integers((256, 128), torch.float16), (64, 64, 32, 4, 3))
    count = len(re.findall(r"bar\.sync\s+0;", emulator.launches[-1].ptx))
    assert count >= 4
    for which in range(1, count):
        assert "race" in faulty(emulator, without(r"bar\.sync\s+0;", which), races=True), which


def test_missing_waits_of_wgmma_are_found(hopper):
    assert faulty(hopper, without(r"wgmma\.wait_group\.sync\.aligned \d+;")) != ""
    assert "fence.proxy.async" in faulty(hopper, without(r"fence\.proxy\.async\.shared::cta;"), races=True)


def test_a_triton_that_fences_no_copies_is_known(hopper, monkeypatch):
    """Its copies are not blamed on a kernel; what threads wrote by themselves still is."""
    monkeypatch.setattr(tensorcore, "FENCES_COPIES", False)
    unfenced = without(r"fence\.proxy\.async\.shared::cta;")
    assert faulty(hopper, unfenced, races=True) == ""
    right = Shared.note_write
    monkeypatch.setattr(Shared, "note_write", lambda *given, copied=False: right(*given))
    assert "fence.proxy.async" in faulty(hopper, unfenced, races=True)


def test_a_buffer_overwritten_too_early_is_found(hopper):
    """A wait that lets one product more go on: a copy lands where it still reads."""
    later = lambda ptx: re.sub(r"(wgmma\.wait_group\.sync\.aligned) 1;", r"\1 2;", ptx)
    modes = [dict(copies=copies, products=products) for copies, products in product(("early", "late"), repeat=2)]
    assert any(faulty(hopper, later, (64, 64, 32, 4, 3), **mode) for mode in modes)


@pytest.mark.parametrize("products", ("late", "early"))
@pytest.mark.parametrize("value, wrong", ((0, False), (7, True)))
def test_a_register_of_a_product_in_flight_is_found(products, value, wrong):
    """A register of the first operand, 0 like all of them, is written before the wait for its product, or after it."""
    written, wait = f"mov.b32 %r1, {value};", "wgmma.wait_group.sync.aligned 0;"
    body = """
        mov.b32 %r1, 0; mov.b32 %r2, 0; mov.b32 %r3, 0; mov.b32 %r4, 0; mov.b32 %r9, global_smem; mov.u32 %r8, %tid.x;
        shl.b32 %r7, %r8, 2; add.s32 %r7, %r9, %r7; st.shared.b32 [%r7], %r1; fence.proxy.async.shared::cta; bar.sync 0;
        bfe.u32 %r7, %r9, 4, 14; cvt.u64.u32 %rd1, %r7; or.b64 %rd1, %rd1, {2};
        wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {{%f0, %f1, %f2, %f3}}, {{%r1, %r2, %r3, %r4}}, %rd1, 0, 1, 1;
        wgmma.commit_group.sync.aligned; {0} {1}"""
    run = lambda *order: run_ptx(body.format(*order, 8 << 16 | 8 << 32), registers=".reg .b32 %f<4>;", threads=128,
                                 shared=512, products=products)
    run(wait, written)
    with pytest.raises(Fault, match="register of A was written") if wrong else nullcontext():
        run(written, wait)


def test_faults_of_tensor_copies_are_found(hopper):
    a, b = integers((128, 128), torch.float16), integers((128, 64), torch.float16, seed=1)

    def right(edit):
        with emulating("nvidia_h200") as emulator:
            emulator.edit = edit
            c = torch.full((128, 64), float("nan"), dtype=torch.float16)
            operands = [describe(t, (64, 64)) for t in (a, b, c)]
            matmul_descriptors[(2, 1)](*operands, 128, BM=64, BN=64, BK=64, STAGES=3, num_warps=4)
        return torch.equal(c, a @ b)

    assert right(None)
    expected = r"(expect_tx\.shared::cta\.b64 _, \[%r\d+\], )(\d+);"
    with pytest.raises(Fault, match="deadlock"):
        right(lambda ptx: re.sub(expected, lambda m: f"{m[1]}{int(m[2]) + 16};", ptx))
    waiting = r"mbarrier\.try_wait[^;]*;|@!complete bra\.uni waitLoop;"
    assert not right(lambda ptx: re.sub(waiting, "", ptx))
