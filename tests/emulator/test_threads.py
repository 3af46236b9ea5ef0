"""Threads that exchange, part, meet and wait for what never comes."""

import pytest
import torch

from .byhand import run_ptx
from .machine.faults import Deadlock

EXCHANGES = (
    "shfl.sync.bfly.b32 %r3, %r2, 5, 31, -1;", "shfl.sync.up.b32 %r3, %r2, 3, 0, -1;",
    "shfl.sync.down.b32 %r3, %r2, 3, 31, -1;",
    "shfl.sync.idx.b32 %r3, %r2, 7, 31, -1;", "shfl.sync.bfly.b32 %r3, %r2, 1, 0x1c1f, -1;",
    "setp.lt.u32 %p1, %r1, 5; vote.sync.ballot.b32 %r3, %p1, -1;", "elect.sync %r3|%p1, -1; selp.b32 %r3, 1, 0, %p1;",
    "shfl.sync.idx.b32 %r3|%p1, %r2, 1, 0x1c03, -1;")


def test_shuffles_votes_and_elections():
    out = torch.zeros(8, 64, dtype=torch.int32)
    lines = ["mov.u32 %r1, %tid.x; ld.param.b64 %rd1, [p_0]; mad.wide.s32 %rd2, %r1, 4, %rd1; mul.lo.s32 %r2, %r1, 3;"]
    for i, text in enumerate(EXCHANGES):
        lines.append(f"{text} st.global.b32 [%rd2+{i * 256}], %r3;")
    run_ptx("\n".join(lines), out, threads=64)
    t = torch.arange(64)
    lane, warp = t % 32, t // 32 * 32
    assert torch.equal(out[0], ((lane ^ 5) + warp).int() * 3)
    assert torch.equal(out[1], (torch.where(lane >= 3, lane - 3, lane) + warp).int() * 3)
    assert torch.equal(out[2], (torch.where(lane + 3 <= 31, lane + 3, lane) + warp).int() * 3)
    assert torch.equal(out[3], (7 + warp).int() * 3)
    assert torch.equal(out[4], ((lane ^ 1) + warp).int() * 3)
    assert out[5].tolist() == [31] * 32 + [0] * 32
    assert out[6].tolist() == ([1] + [0] * 31) * 2
    assert torch.equal(out[7], (lane // 4 * 4 + 1 + warp).int() * 3)


def test_threads_part_and_meet():
    """Loops of different length in every thread, a barrier in the middle, exits at different times."""
    out = torch.zeros(256, dtype=torch.int32)
    run_ptx("""
        mov.u32 %r1, %tid.x; mov.u32 %r9, %ctaid.x; mad.lo.s32 %r10, %r9, 64, %r1;
        ld.param.b64 %rd1, [p_0]; mad.wide.s32 %rd2, %r10, 4, %rd1;
        mov.b32 %r2, 0; mov.b32 %r3, 0; and.b32 %r4, %r10, 15; mov.b32 %r20, global_smem; mad.lo.s32 %r21, %r1, 4, %r20;
    $LOOP:
        setp.ge.s32 %p1, %r2, %r4; @%p1 bra $DONE;
        add.s32 %r3, %r3, %r2; add.s32 %r2, %r2, 1; bra.uni $LOOP;
    $DONE:
        st.shared.b32 [%r21], %r3;
        bar.sync 0;
        setp.eq.s32 %p2, %r4, 3; @%p2 ret;
        xor.b32 %r5, %r1, 1; mad.lo.s32 %r6, %r5, 4, %r20; ld.shared.b32 %r7, [%r6];
        st.global.b32 [%rd2], %r7;
    """, out, grid=(4, 1, 1), threads=64, shared=256, races=True)
    n = torch.arange(256) & 15
    total = n * (n - 1) // 2
    want = total[torch.arange(256) ^ 1]
    want[n == 3] = 0
    assert torch.equal(out, want.int())


def test_deadlocks_are_found():
    with pytest.raises(Deadlock):
        run_ptx("""mov.b32 %r1, global_smem; mov.u32 %r2, %tid.x; setp.eq.u32 %p1, %r2, 0;
            @%p1 mbarrier.init.shared::cta.b64 [%r1], 1; bar.sync 0;
            { .reg .pred complete;
            waitLoop: mbarrier.try_wait.parity.shared::cta.b64 complete, [%r1], 0; @!complete bra.uni waitLoop; }""",
                shared=64)
    with pytest.raises(Deadlock):
        run_ptx("mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 3; @%p1 bra $L1; bar.sync 0; bra.uni $L2; "
                "$L1: bar.sync 1; $L2:")


def test_unknown_is_refused():
    with pytest.raises(NotImplementedError, match="vabsdiff4"):
        run_ptx("vabsdiff4.u32.u32.u32 %r1, %r2, %r3, %r4;")
