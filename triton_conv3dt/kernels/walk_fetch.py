"""How a walk fetches: weights once, and of every plane the rows that a patch meets, by boxes, by copies of elements (walk_turn.py), or by
registers (walk_lines.py). In Gluon."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere.async_copy import commit_group, wait_group
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from .gluon_names import barrier, load_box, rows_at, rows_of, seen_as, stage_of
from .walk_lines import load_plane, store_plane
from .walk_turn import copy_sheet, tail_of


@gluon.constexpr_function
def sheet_of(WALK, i):
    return WALK.sheets[i]


@gluon.constexpr_function
def row_of_sheet(WALK, i):
    return WALK.sheets[i].row


@gluon.constexpr_function
def loaded(WALK):
    """Whether what is read passes by registers on its way into lines, too: no copy is as narrow as 16 bits."""
    return WALK.turned and not WALK.copied


@gluon.jit
def here(value):
    """Zero, of a value that is none below zero, but not to the compiler, which would compute what it is added to early, before the
    loop even, and keep all of it in registers."""
    return gl.inline_asm_elementwise("shr.s32 $0, $1, 31;", "=r,r", [value], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def fetch_weights(w, weights, ready, first, WALK: gl.constexpr, BYTES: gl.constexpr):
    """All slots [columns, channels] of a program, block after block, several at once: the last of a block may come twice."""
    SLOTS: gl.constexpr = len(WALK.slots)
    BLOCKS: gl.constexpr = WALK.blocks
    WHOLE: gl.constexpr = SLOTS // WALK.together
    LAST: gl.constexpr = SLOTS - WALK.together
    EACH: gl.constexpr = WALK.together * WALK.columns // 8  # rows of a fetch
    FETCHES: gl.constexpr = (SLOTS + WALK.together - 1) // WALK.together
    mbarrier.expect(ready, FETCHES * WALK.together * WALK.blocks * WALK.columns * WALK.channels * BYTES)
    for block in gl.static_range(BLOCKS):
        rows = stage_of(weights, block, BLOCKS)
        for i in range(WHOLE):
            target = seen_as(rows_of(rows, i, EACH, WHOLE), w.dtype, w.block_type.shape, w.layout)
            load_box(w, [i * WALK.together, first, block * WALK.channels], ready, target)
        if FETCHES > WHOLE:
            target = seen_as(rows_at(rows, LAST * WALK.columns // 8, EACH), w.dtype, w.block_type.shape, w.layout)
            load_box(w, [LAST, first, block * WALK.channels], ready, target)


@gluon.jit
def fetch_sheet(patch, line, rows, ready, plane, h, w, channel, x_w, wanted, ROW: gl.constexpr, S: gl.constexpr, WALK: gl.constexpr):
    """The rows of one sheet, from a row of a stage on: the patch, and singly those beyond it."""
    HIGH: gl.constexpr = WALK.high
    ROWS: gl.constexpr = S.rows
    column = S.residue_w * x_w + channel
    target = seen_as(rows_at(rows, ROW, HIGH), patch.dtype, patch.block_type.shape, patch.layout)
    load_box(patch, [plane, h + S.first, S.residue, w + S.shift, column], ready, target, wanted)
    for i in gl.static_range(HIGH, ROWS):
        target = seen_as(rows_at(rows, ROW + i, 1), line.dtype, line.block_type.shape, line.layout)
        load_box(line, [plane, h + (S.first + i), S.residue, w + S.shift, column], ready, target, wanted)


@gluon.jit
def begin_plane(patch, ring, wanted, n, t, h, w, x_size, x_stride, RESIDUE: gl.constexpr, EARLY: gl.constexpr, WALK: gl.constexpr,
                AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, WARPS: gl.constexpr):
    """What of a plane is loaded before it is stored, if that is when: EARLY, ahead of products that it is not for, or after them."""
    if loaded(WALK) and EARLY == WALK.early:
        d = t * AXIS_D.in_step + WALK.residues[RESIDUE]
        zero = here(gl.maximum(d, 0)) if WALK.crowded else 0
        return load_plane(patch, wanted & (d >= 0) & (d < x_size[0]), n, d, h, w, zero, x_size, x_stride, WALK, AXIS_H.in_step,
                          AXIS_W.in_step, WARPS)
    else:
        return ()


@gluon.jit
def fetch_plane(begun, patch, line, ring, ready, slot, wanted, n, t, h, w, x_size, x_stride, RESIDUE: gl.constexpr, WALK: gl.constexpr,
                AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, WARPS: gl.constexpr):
    """The rows of a plane, residue RESIDUE of place t, for the patch that begins at (h, w), into a slot of the ring; nothing unless
    wanted, or zeros. begun: what begin_plane made of it."""
    BLOCKS: gl.constexpr = WALK.blocks
    SHEETS: gl.constexpr = len(WALK.sheets)
    RUN: gl.constexpr = WALK.run
    BITS: gl.constexpr = ring.dtype.primitive_bitwidth
    rows = stage_of(ring, slot, WALK.stages, tail_of(WALK))
    if loaded(WALK):
        begun += begin_plane(patch, ring, wanted, n, t, h, w, x_size, x_stride, RESIDUE, False, WALK, AXIS_D, AXIS_H, AXIS_W, WARPS)
        store_plane(begun, rows, WALK, AXIS_W.in_step, WARPS)
    else:
        d = t * AXIS_D.in_step + WALK.residues[RESIDUE]
        plane = gl.where((d >= 0) & (d < x_size[0]), n * x_size[0] + d, -1)  # another sample's plane is outside, too
        if not WALK.turned:
            mbarrier.expect(ready.index(slot), BLOCKS * WALK.rows * WALK.wide * WALK.channels * (BITS // 8), wanted)
        for block in gl.static_range(BLOCKS):
            for i in gl.static_range(SHEETS):
                zero = here(gl.maximum(plane, 0))
                there = rows[0], rows[1] + zero
                if WALK.turned:
                    zero = zero if WALK.crowded else 0
                    place = patch + gl.multiple_of(n * x_stride[0] + d * x_stride[2], RUN)
                    copy_sheet(place, there, wanted & (plane >= 0), h, w, block * WALK.channels, zero, x_size, x_stride,
                               block * WALK.rows + row_of_sheet(WALK, i), i, WALK, AXIS_H.in_step, AXIS_W.in_step, WARPS)
                else:
                    fetch_sheet(patch, line, there, ready.index(slot), plane, h + zero, w + zero, block * WALK.channels,
                                gl.cast(x_stride[4], gl.int32), wanted, block * WALK.rows + row_of_sheet(WALK, i), sheet_of(WALK, i), WALK)
        if WALK.turned:
            commit_group()


@gluon.jit
def await_plane(ready, number, WALK: gl.constexpr, BITS: gl.constexpr):
    """Until plane `number` of a program can be read."""
    STAGES: gl.constexpr = WALK.stages
    if WALK.turned:
        if not loaded(WALK):
            wait_group(STAGES - 1)
        barrier()
    else:
        mbarrier.wait(ready.index(number % STAGES), number // STAGES % 2)
