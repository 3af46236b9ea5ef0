"""What a weight gradient that turns what it reads adds up for the bias, of tiles of dz that products read anyway. A part of turn_weight.py.

Of the taps of a patch, those that are not shifted, one for every residue along h and w, are all of its dz, once. Their tiles are added as
they were read, line by line; which lines of them count, those whose tap along h is not shifted, is known when they are written. In Gluon."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.constexpr_function
def added_layout(WARPS):
    """[line // 8, place % 4, line % 8]: a thread has one line of a tile."""
    lanes = [[0, 1, 0], [0, 2, 0], [0, 0, 1], [0, 0, 2], [0, 0, 4]]
    return gl.DistributedLinearLayout([], lanes, [[1, 0, 0], [2, 0, 0]] + [[0, 0, 0]] * (WARPS // 8), [], [4, 4, 8])


@gluon.jit
def no_sums(TURN: gl.constexpr, WARPS: gl.constexpr):
    found = ()
    COUNT: gl.constexpr = TURN.adds
    for _ in gl.static_range(COUNT):
        found = found + (gl.zeros([4, 4, 8], gl.float32, added_layout(WARPS)),)
    return found


@gluon.jit
def of_a_thread(tile, WARPS: gl.constexpr):
    """The sums of a tile [h, line // 8, place, line % 8] over what each thread has of it."""
    HIGH: gl.constexpr = tile.shape[0]
    RUNS: gl.constexpr = tile.shape[2] // 4
    total = gl.sum(gl.sum(tile.reshape([HIGH, 4, RUNS, 4, 8]), 2), 0)
    return gl.convert_layout(total, added_layout(WARPS), assert_trivial=True)


@gluon.jit
def add_tile(added, tile, TO: gl.constexpr, DTYPE: gl.constexpr, TURN: gl.constexpr, WARPS: gl.constexpr):
    """The sums with those of a tile added to number TO of them, or as they are where that is -1."""
    COUNT: gl.constexpr = TURN.adds
    found = ()
    for i in gl.static_range(COUNT):
        if i != TO:
            found = found + (added[i],)
        elif DTYPE.primitive_bitwidth == 32:
            found = found + (added[i] + of_a_thread(tile, WARPS),)
        else:
            first, second = tile.to(gl.int16).to(DTYPE, bitcast=True), (tile >> 16).to(gl.int16).to(DTYPE, bitcast=True)
            found = found + (added[i] + of_a_thread(first.to(gl.float32) + second.to(gl.float32), WARPS),)
    return found


@gluon.jit
def write_sums(added, db_parts, row, co, AXIS_H: gl.constexpr, CO: gl.constexpr, TURN: gl.constexpr, WARPS: gl.constexpr):
    """Store the sum of every line that counts: db_parts[(row, residue along h), channel], none where row is -1."""
    LAYOUT: gl.constexpr = gl.SliceLayout(1, added_layout(WARPS))
    COUNT: gl.constexpr = TURN.adds
    FIRST: gl.constexpr = AXIS_H.padding * TURN.outputs // 32 * 32  # line of the first tile that is added
    line = gl.arange(0, 4, gl.SliceLayout(1, LAYOUT))[:, None] * 8 + gl.arange(0, 8, gl.SliceLayout(0, LAYOUT))[None, :] + FIRST
    for i in gl.static_range(COUNT):
        residue, channel = (line + 32 * i) // TURN.outputs - AXIS_H.padding, co + (line + 32 * i) % TURN.outputs
        live = (row >= 0) & (residue >= 0) & (residue < AXIS_H.stride) & (channel < CO)
        at = (gl.to_tensor(row).to(gl.int64) * AXIS_H.stride + residue) * CO + channel
        gl.store(db_parts + at, gl.sum(added[i], 1), mask=live)
