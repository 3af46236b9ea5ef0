"""The gather product whose taps are summed over beside the channels: an input gradient with few of them.

    out[row, position] = sum over r = (tap, channel) of  w[row, r] * in[channel, position + offset of the tap]

Taps of an axis with AxisConstants.flat > 1 are a part of r, TILE.k of which are a step; those of another axis are steps, as in
gather.py. What is described there of operands and offsets is the same here.

Where all of r is one step, its taps are constants of each thread, and lanes are positions. Else they have to be worked out in every
step: lanes are then neighbours in r, so that a thread knows few taps, and so many positions. Of a position a bit for each tap
by which it meets what is outside is kept: one instruction tells for a tap and a position whether there is something to read.
"""

import triton
import triton.language as tl

from .tiles import inside, load_tile, round_up_tf32, tap_of_step

DEAD, BEYOND = tl.constexpr(1 << 29), tl.constexpr(1 << 30)  # bits of a position that is none, and of an r that is none


@triton.jit
def bits_outside(place, size, AXIS: tl.constexpr, FIRST: tl.constexpr):
    """Bit FIRST + k of each tap k by which a position meets what is outside along an axis; place: what tap 0 meets."""
    MOVE: tl.constexpr = AXIS.move
    KERNEL: tl.constexpr = AXIS.flat if AXIS.flat > 1 else AXIS.kernel
    before = tl.minimum(tl.maximum(MOVE - 1 - place, 0) // MOVE, KERNEL).to(tl.int32)  # so many taps come before the first place
    inside = tl.minimum(tl.maximum(size - place + MOVE - 1, 0) // MOVE, KERNEL).to(tl.int32)  # so many before the end
    return (((1 << before) - 1) | ((1 << KERNEL) - (1 << inside))) << FIRST


@triton.jit
def flat_parts(r, CHANNELS: tl.constexpr, FLAT_D: tl.constexpr, FLAT_H: tl.constexpr, FLAT_W: tl.constexpr,
               CHANNEL_MINOR: tl.constexpr):
    """The tap (d, h, w) and the channel of r. The part that counts slowest is not wrapped: beyond the last r it goes on."""
    TAPS: tl.constexpr = FLAT_D * FLAT_H * FLAT_W
    if CHANNEL_MINOR:
        c, tap = r % CHANNELS, r // CHANNELS
    else:
        c, tap = r // TAPS, r % TAPS
    d, h = tl.zeros_like(r), tl.zeros_like(r)
    if FLAT_D > 1:
        d, tap = tap // (FLAT_H * FLAT_W), tap % (FLAT_H * FLAT_W)
    if FLAT_H > 1:
        h, tap = tap // FLAT_W, tap % FLAT_W
    return d, h, tap, c


@triton.jit
def along(values, LANES: tl.constexpr, REDUCED: tl.constexpr):
    """Values of each r (REDUCED) or of each position, as a part of a tile [r, position]; or of [position, r], where LANES are along r."""
    return values[None, :] if LANES == REDUCED else values[:, None]


@triton.jit
def accumulate_flat(x, w, x_offset, x_live, origin, w_row_offset, m_live, residue, x_size, x_stride, w_stride, AXIS_D: tl.constexpr,
                    AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, RED: tl.constexpr, X: tl.constexpr, W: tl.constexpr,
                    TILE: tl.constexpr, DOT: tl.constexpr, EVEN_M: tl.constexpr):
    """The product of one tile, or a share of its steps: [TILE.m, TILE.n]. residue: of each row, where pairs of places along w are among
    the rows: the second of a pair meets in tap k what the first meets a stride of taps later."""
    BLOCK_M: tl.constexpr = TILE.m
    BLOCK_N: tl.constexpr = TILE.n
    BLOCK_K: tl.constexpr = TILE.k
    PRECISION: tl.constexpr = DOT.precision
    X_RUN: tl.constexpr = X.run
    W_RUN: tl.constexpr = W.run
    TAPS_H: tl.constexpr = AXIS_H.taps
    TAPS_W: tl.constexpr = AXIS_W.taps
    LENGTH: tl.constexpr = RED * AXIS_D.flat * AXIS_H.flat * AXIS_W.flat
    CHUNKS: tl.constexpr = (LENGTH + BLOCK_K - 1) // BLOCK_K
    STEPS: tl.constexpr = AXIS_D.taps * TAPS_H * TAPS_W * CHUNKS
    SHARE: tl.constexpr = (STEPS + TILE.shares - 1) // TILE.shares
    HALO: tl.constexpr = AXIS_D.halo or AXIS_H.halo or AXIS_W.halo
    FIRST_H: tl.constexpr = AXIS_D.kernel * AXIS_D.halo  # the bits of an axis follow those of the one before
    FIRST_W: tl.constexpr = FIRST_H + AXIS_H.kernel * AXIS_H.halo
    LANES: tl.constexpr = CHUNKS > 1 or X_RUN > 1
    # Of pairs, whose rows a warpgroup takes, positions are the first operand: it reads them from registers, and nothing is turned.
    FIRST_X: tl.constexpr = CHUNKS > 1 and AXIS_W.merged > 1
    w_row, w_red, w_tap = w_stride
    outside = tl.where(x_live, 0, DEAD) | BEYOND
    if AXIS_D.halo:
        outside |= bits_outside(origin[0] + AXIS_D.offset, x_size[0], AXIS_D, 0)
    if AXIS_H.halo:
        outside |= bits_outside(origin[1] + AXIS_H.offset, x_size[1], AXIS_H, FIRST_H)
    if AXIS_W.halo:
        outside |= bits_outside(origin[2] + AXIS_W.offset, x_size[2], AXIS_W, FIRST_W)
    o_r = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_N, BLOCK_M) if FIRST_X else (BLOCK_M, BLOCK_N), tl.float32)
    first, last = 0, STEPS
    if TILE.shares > 1:
        first = tl.program_id(2) * SHARE
        last = tl.minimum(first + SHARE, STEPS)
    for step in tl.range(first, last, num_stages=TILE.stages):
        r = (step % CHUNKS) * BLOCK_K + o_r
        jd, jh, jw = tap_of_step(step // CHUNKS, TAPS_H, TAPS_W)
        fd, fh, fw, c = flat_parts(r, RED, AXIS_D.flat, AXIS_H.flat, AXIS_W.flat, X.last)
        kd, kh, kw = jd + fd, jh + fh, jw + fw
        if HALO:
            met = tl.full((BLOCK_K,), DEAD, tl.int32)
            if AXIS_D.halo:
                met |= 1 << kd
            if AXIS_H.halo:
                met |= 1 << kh + FIRST_H
            if AXIS_W.halo:
                met |= 1 << kw + FIRST_W
            if LENGTH % BLOCK_K != 0:
                met = tl.where(r < LENGTH, met, BEYOND)
            m_x = along(outside, LANES, False) & along(met, LANES, True) == 0
        else:
            m_x = along(x_live, LANES, False)
            if LENGTH % BLOCK_K != 0:
                m_x = m_x & along(r < LENGTH, LANES, True)
        m_w = tl.full((BLOCK_M, 1), True, tl.int1)
        if not EVEN_M:
            m_w = m_w & m_live[:, None]
        if LENGTH % BLOCK_K != 0:
            m_w = m_w & (r < LENGTH)[None, :]
        if AXIS_W.guard:
            m_w = m_w & inside(kw[None, :] - residue[:, None] * (AXIS_W.in_step // AXIS_W.merged), AXIS_W.kernel)
        dd, dh, dw = AXIS_D.offset + kd * AXIS_D.move, AXIS_H.offset + kh * AXIS_H.move, AXIS_W.offset + kw * AXIS_W.move
        shift = c * x_stride[1] + dd * x_stride[2] + dh * x_stride[3] + dw * x_stride[4]
        shift = tl.max_contiguous(tl.multiple_of(shift, X_RUN), X_RUN)
        b_x = load_tile(x + (along(x_offset, LANES, False) + along(shift, LANES, True)), m_x, X_RUN)
        column = c * w_red + ((kd * AXIS_H.kernel + kh) * AXIS_W.kernel + kw) * w_tap
        column = tl.max_contiguous(tl.multiple_of(column, W_RUN), 1 if W.minor == "row" else W_RUN)
        if FIRST_X and W_RUN == 1:  # in one row: of two axes the compiler would lay a buffer out so that lanes meet in a bank
            at_w = w_row_offset[:, None] + column[None, :]
            m_w = tl.broadcast_to(m_w, (BLOCK_M, BLOCK_K)).reshape(BLOCK_M * BLOCK_K)
            b_w = tl.load(w + at_w.reshape(BLOCK_M * BLOCK_K), mask=m_w, other=0.0).reshape(BLOCK_M, BLOCK_K)
        else:
            b_w = tl.load(w + w_row_offset[:, None] + column[None, :], mask=m_w, other=0.0)
        if DOT.round:
            b_x, b_w = round_up_tf32(b_x), round_up_tf32(b_w)
        if LANES and not FIRST_X:
            b_x = tl.trans(b_x)
        if FIRST_X:
            acc = tl.dot(b_x, tl.trans(b_w), acc, input_precision=PRECISION, out_dtype=tl.float32)
        else:
            acc = tl.dot(b_w, b_x, acc, input_precision=PRECISION, out_dtype=tl.float32)
    if FIRST_X:
        acc = tl.trans(acc)
    return acc
