"""Bank conflicts, told from PTX, where they can be worked out by hand; tests/emulator counts them as kernels run."""

import pytest

from triton_conv3dt.compiling.conflicts import conflicts

ONE, TWO, FOUR = "%r9", "{%r9, %r9}", "{%r9, %r9, %r9, %r9}"
EACH = "mov.u32 %r1, %tid.x;\n mul.lo.s32 %r2, %r1, {};\n "  # %r2: so many bytes from thread to thread
SWIZZLED = EACH.format(128) + "and.b32 %r3, %r1, 7;\n shl.b32 %r4, %r3, 4;\n xor.b32 %r2, %r2, %r4;\n "


@pytest.mark.parametrize("apart, stored, operand, factor", [
    (4, "b32", ONE, 1), (8, "b32", ONE, 2), (128, "b32", ONE, 32), (132, "b32", ONE, 1), (0, "b32", ONE, 1), (2, "b16", "%rs1", 1),
    (64, "b16", "%rs1", 16), (8, "v2.b32", TWO, 1), (16, "v2.b32", TWO, 2), (16, "v4.b32", FOUR, 1), (144, "v4.b32", FOUR, 1),
    (128, "v4.b32", FOUR, 8)])
def test_stores(apart, stored, operand, factor):
    assert conflicts(EACH.format(apart) + f"st.shared.{stored} [ %r2 + 0 ], {operand};", 1) == factor


def test_a_bit_may_be_taken_with_its_sign():
    """As a mask of the threads that have it: half of them lie in another bank."""
    masked = "bfe.s32 %r3, %r1, 4, 1;\n and.b32 %r4, %r3, 4;\n or.b32 %r2, %r2, %r4;\n "
    assert conflicts(EACH.format(128) + masked + "st.shared.b32 [%r2], %r9;", 1) == 16


@pytest.mark.parametrize("access", [
    "ld.shared.v4.b32 {%r5, %r6, %r7, %r8}, [%r2+4096];", "cp.async.cg.shared.global [ %r2 + 0 ], [ %rd7 + 0 ], 0x10, %r30;",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r2];",
    "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%r2], {%r5, %r6, %r7, %r8};"])
def test_rows_of_16_bytes_lie_apart_where_they_are_swizzled(access):
    assert conflicts(SWIZZLED + access, 1) == 1
    assert conflicts(EACH.format(128) + access, 1) == 8


def test_threads_that_take_no_part_are_not_served():
    first = EACH.format(128) + "setp.lt.u32 %p1, %r1, 8;\n "
    assert conflicts(first + "@%p1 st.shared.b32 [%r2], %r9;", 1) == 8
    assert conflicts(first + "@!%p1 st.shared.b32 [%r2], %r9;", 1) == 24
    assert conflicts(first + "@%p7 st.shared.b32 [%r2], %r9;", 1) == 32, "data decide: it may be all of them"


def test_what_is_in_a_loop_counts_as_often_as_it_runs():
    inside = "$L__BB0_2:\n st.shared.b32 [%r2+8192], %r9;\n add.s32 %r2, %r2, 4096;\n @%p2 bra $L__BB0_2;\n "
    text = EACH.format(128) + "st.shared.b32 [%r1], %r9;\n " + inside
    assert conflicts(text, 4) == (1 + 4 * 32) / (1 + 4)
    waiting = "$L__BB0_1:\n mbarrier.try_wait.parity.shared.b64 %p3, [%r8], %r7;\n @!%p3 bra $L__BB0_1;\n "
    assert conflicts(text + waiting, 4) == (1 + 4 * 32) / (1 + 4), "waiting is no loop of the source"
    assert conflicts(text + inside.replace("BB0_2", "BB0_3"), 4) == (1 + 4 * 32) / (1 + 4), "two loops share the trips"


def test_a_kernel_without_shared_memory_has_none():
    assert conflicts("mov.u32 %r1, %tid.x;\n st.global.b32 [%rd1], %r1;", 5) == 1
