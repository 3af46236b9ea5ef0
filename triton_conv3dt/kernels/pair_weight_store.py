"""How pairs of programs write a weight gradient. A part of pair_weight.py."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .gluon_names import halves

OWN, ALIVE, NEVER = gl.constexpr(27), gl.constexpr(29), gl.constexpr(30)  # bits that every line of x has and every one of dz needs, and that none has


@gluon.constexpr_function
def parts_of(PAIR, side):
    """For each bit of a program's number whether it halves the rows (side 0) or columns (1), dimension 0, or -1."""
    return tuple(0 if other == side else -1 for other in PAIR.halved)


@gluon.constexpr_function
def lines_layout(PAIR, side, WARPS):
    return gl.BlockedLayout([1], [32], [WARPS], [0], **halves(1, parts_of(PAIR, side)))


@gluon.constexpr_function
def is_halved(PAIR, side):
    return side in PAIR.halved


@gluon.constexpr_function
def line_order(PAIR, bits):
    """By which bits of a line of dz, of its last three, the lanes of a load differ, lane by lane: such that lanes that load at once are
    apart in the banks, as rows of 128, 64 or 32 bytes are permuted."""
    return {128: (4, 2, 1), 64: (1, 4, 2), 32: (1, 2, 4)}[PAIR.box[2] * PAIR.split * bits // 8]


@gluon.jit
def line_parts(line, CHANNELS: gl.constexpr, D: gl.constexpr, H: gl.constexpr, W: gl.constexpr):
    """The shift (d, h, w) and the channel of a line; beyond the last line, d is D.count or more."""
    channel, rest = line % CHANNELS, line // CHANNELS
    w, rest = rest % W.count, rest // W.count
    return rest // H.count, rest % H.count, w, channel


@gluon.jit
def write(tile, residue, out, x_line, z_line, tap, p_stride, AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr,
          CI: gl.constexpr, CO: gl.constexpr, PAIR: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """Store the sums of a tile, of one residue along w where they are parted, by offsets of 32 bits, which have room for those of a share.

    What lines have to say is worked out once for all threads, by eights, which have one shift as channels come in multiples of 8.
    """
    M: gl.constexpr = PAIR.m // 8
    N: gl.constexpr = PAIR.n // PAIR.split // 8
    PARTED: gl.constexpr = PAIR.split > 1
    BIT_H: gl.constexpr = AXIS_D.z.count * AXIS_D.guard
    BIT_W: gl.constexpr = BIT_H + AXIS_H.z.count * AXIS_H.guard
    x, z = 8 * gl.arange(0, M, lines_layout(PAIR, 0, WARPS)), 8 * gl.arange(0, N, lines_layout(PAIR, 1, WARPS))
    if is_halved(PAIR, 0):
        x = interleaved(x, M * 4, PAIR.channels[0] // 2)
    if is_halved(PAIR, 1):
        z = interleaved(z, N * 4, PAIR.channels[1] // 2)
    d, h, w, ci = line_parts(x_line + x, CI, AXIS_D.x, AXIS_H.x, AXIS_W.x)
    tap_d, tap_h = AXIS_D.tap_first + d * AXIS_D.tap_row, AXIS_H.tap_first + h * AXIS_H.tap_row
    tap_w = AXIS_W.tap_first + w * AXIS_W.tap_row
    has = (d < AXIS_D.x.count).to(gl.int32) << ALIVE | residue << OWN  # such that nothing of one residue is kept for the next
    has |= meets(tap_d, tap[0], AXIS_D, 0) | meets(tap_h, tap[1], AXIS_H, BIT_H)
    has |= meets(tap_w + residue, tap[2], AXIS_W, BIT_W)
    x_at = ci * p_stride[1] + ((tap_d * AXIS_H.kernel + tap_h) * AXIS_W.kernel + tap_w) * p_stride[3]
    d, h, w, co = line_parts(z_line + z, CO, AXIS_D.z, AXIS_H.z, AXIS_W.z)
    needs = gl.where(d < AXIS_D.z.count, 1 << ALIVE, 1 << NEVER)
    needs |= one_of(d, AXIS_D, 0) | one_of(h, AXIS_H, BIT_H) | one_of(w, AXIS_W, BIT_W)
    tap_d, tap_h = (tap[0] + d) * AXIS_D.tap_column, (tap[1] + h) * AXIS_H.tap_column
    tap_w = (tap[2] + w) * AXIS_W.tap_column + residue
    z_at = co * p_stride[2] + ((tap_d * AXIS_H.kernel + tap_h) * AXIS_W.kernel + tap_w) * p_stride[3]

    tile = tile.reshape([N, 8, M, 8] if PARTED else [M, 8, N, 8])
    L: gl.constexpr = tile.type.layout
    lines: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, L)))
    columns: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, L)))
    line = gl.arange(0, 8, gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, L))))
    column = gl.arange(0, 8, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, L))))
    if PARTED:
        ORDER: gl.constexpr = line_order(PAIR, BITS)
        line = (line % 2 * ORDER[0] + line // 2 % 2 * ORDER[1] + line // 4 * ORDER[2]) * p_stride[2]
        first, second = gl.convert_layout(z_at, lines), gl.convert_layout(x_at, columns)
        lacking = gl.convert_layout(needs, lines)[:, None, None, None] & ~gl.convert_layout(has, columns)[None, None, :, None]
        column = column * p_stride[1]
    else:
        line, column = line * p_stride[1], column * p_stride[2]
        first, second = gl.convert_layout(x_at, lines), gl.convert_layout(z_at, columns)
        lacking = gl.convert_layout(needs, columns)[None, None, :, None] & ~gl.convert_layout(has, lines)[:, None, None, None]
    at = first[:, None, None, None] + line[None, :, None, None] + second[None, None, :, None] + column[None, None, None, :]
    gl.store(out + at, tile.to(out.dtype.element_ty), mask=lacking == 0)


@gluon.jit
def interleaved(i, HALF: gl.constexpr, CHANNELS: gl.constexpr):
    """The line of a tile whose sums are at i: each program has HALF of the lines, which are half of the channels of every shift."""
    return i % HALF // CHANNELS * (2 * CHANNELS) + i // HALF * CHANNELS + i % CHANNELS


@gluon.jit
def meets(tap, shift, AXIS: gl.constexpr, BIT: gl.constexpr):
    """With which shifts of dz, from that of the program on, as bits, the first tap of a line makes a tap that exists; where some do not."""
    SHIFTS: gl.constexpr = AXIS.z.count if AXIS.guard else 0
    bits = tap * 0
    if SHIFTS > 0:
        for i in gl.static_range(SHIFTS):
            there = tap + (shift + i) * AXIS.tap_column
            bits |= ((there >= 0) & (there < AXIS.kernel)).to(gl.int32) << (BIT + i)
    return bits


@gluon.jit
def one_of(shift, AXIS: gl.constexpr, BIT: gl.constexpr):
    """The bit of a shift of dz."""
    return 1 << (BIT + shift) if AXIS.guard else shift * 0
