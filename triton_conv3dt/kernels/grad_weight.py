"""The weight gradient on tensor cores:

    dw[ci, co, k] = sum over positions of x[position, ci] * dz[stride * position - padding + k * dilation, co]

One product has all taps of a program: rows are (shift of x, ci), columns (shift of dz, co), and what they share is a position.
Along an axis either each tap is a program of its own, or all taps are shifts of dz, or offsets of x are crossed with the
residues of dz: o + 1 offsets and s residues meet in s * (o + 1) taps, and each is read once (planning/taps.py chooses the
numbers). Positions are walked in boxes, so that only a box has its place divided.

The reduction is split over programs. Each share is summed by one program in a fixed order, and `reduce.sum_parts` adds the
shares in a fixed order: same bits every run, no atomics.
"""

import triton
import triton.language as tl

from .tiles import box_origin, inside, place, position, round_tf32, widen

SEEN = tl.constexpr(1 << 29)  # the bit that every line needs: a place that does not count lacks all bits
LINE = tl.constexpr(1 << 30)  # the bit that a line beyond the last needs and no place has


@triton.jit
def line_parts(line, CHANNELS: tl.constexpr, ND: tl.constexpr, NH: tl.constexpr, NW: tl.constexpr):
    """The shift (d, h, w) and the channel of a line; lines count (shift, channel). d is ND or more where there is none."""
    channel, rest = line % CHANNELS, line // CHANNELS
    w, rest = rest % NW, rest // NW
    return rest // NH, rest % NH, w, channel


@triton.jit
def needed(shift_d, shift_h, shift_w, ND: tl.constexpr, BITS_D: tl.constexpr, BITS_H: tl.constexpr, BITS_W: tl.constexpr):
    """What a line needs of a place, as bits: that each of its shifts stays inside; an axis that has no bits has no outside."""
    bits = tl.zeros_like(shift_d) + SEEN
    if BITS_D > 0:
        bits |= 1 << shift_d
    if BITS_H > 0:
        bits |= 1 << (BITS_D + shift_h)
    if BITS_W > 0:
        bits |= 1 << (BITS_D + BITS_H + shift_w)
    return tl.where(shift_d < ND, bits, LINE)


@triton.jit
def lacking(begin, o, size, SHIFTS: tl.constexpr, MOVE: tl.constexpr, UNIT: tl.constexpr, BIT: tl.constexpr):
    """Which shifts move the places begin + o of an axis outside, as bits; all are counted in units, which have one answer."""
    bits = tl.zeros_like(o)
    most = tl.cast(size, tl.int32) // UNIT
    for j in tl.static_range(SHIFTS):
        at = (begin + j * MOVE) // UNIT + o // UNIT
        bits |= (at.to(tl.uint32) >= most.to(tl.uint32)).to(tl.int32) << (BIT + j)
    return bits


@triton.jit
def grad_weight(x, z, parts, BOXES, SHARE, size, x_size, z_size, x_stride, z_stride, p_stride, AXIS_D: tl.constexpr,
                AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, X: tl.constexpr,
                Z: tl.constexpr, TILE: tl.constexpr, DOT: tl.constexpr, INDEX: tl.constexpr):
    """One share of dw for TILE.m rows and TILE.n columns (times TILE.split neighbours along w, where dz is contiguous along w
    and is split after the load), reduced by a box of up to TILE.k positions at a time. CI and CO are per group.

    x [N, *, *x_size], z [N, *, *z_size]; size: positions (d, h, w) of a sample; BOXES of all samples, SHARE of them for a
    share. parts [shares, ci, co, tap] by its strides, or dw where one share is all. Grid: (row tile, column tile, tap that is a program), share, group.
    """
    BLOCK_M: tl.constexpr = TILE.m
    BLOCK_N: tl.constexpr = TILE.n
    BLOCK_K: tl.constexpr = TILE.k
    SPLIT: tl.constexpr = TILE.split
    BOX: tl.constexpr = TILE.box
    X_RUN: tl.constexpr = X.run
    Z_RUN: tl.constexpr = Z.run
    X_UNIT: tl.constexpr = 1 if X.last else X.run
    Z_UNIT: tl.constexpr = 1 if Z.last else Z.run
    WIDTH: tl.constexpr = BOX[2] * SPLIT
    PRECISION: tl.constexpr = DOT.precision
    ROWS: tl.constexpr = AXIS_D.rows * AXIS_H.rows * AXIS_W.rows * CI
    COLUMNS: tl.constexpr = AXIS_D.columns * AXIS_H.columns * AXIS_W.columns * CO
    PLACES: tl.constexpr = BOX[0] * BOX[1] * BOX[2]
    EDGE: tl.constexpr = AXIS_D.edge or AXIS_H.edge or AXIS_W.edge or PLACES < BLOCK_K
    X_MASK: tl.constexpr = EDGE or AXIS_D.x_halo or AXIS_H.x_halo or AXIS_W.x_halo or ROWS % BLOCK_M != 0
    Z_MASK: tl.constexpr = EDGE or AXIS_D.z_halo or AXIS_H.z_halo or AXIS_W.z_halo or COLUMNS % BLOCK_N != 0
    XD_BITS: tl.constexpr = AXIS_D.rows * AXIS_D.x_halo
    XH_BITS: tl.constexpr = AXIS_H.rows * AXIS_H.x_halo
    ZD_BITS: tl.constexpr = AXIS_D.columns * AXIS_D.z_halo
    ZH_BITS: tl.constexpr = AXIS_H.columns * AXIS_H.z_halo
    ROW_TILES: tl.constexpr = (ROWS + BLOCK_M - 1) // BLOCK_M
    COLUMN_TILES: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    pid, share, group = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i_row, rest = pid % ROW_TILES, pid // ROW_TILES
    i_column, rest = rest % COLUMN_TILES, rest // COLUMN_TILES
    jw, rest = rest % AXIS_W.programs, rest // AXIS_W.programs
    jh, jd = rest % AXIS_H.programs, rest // AXIS_H.programs
    first_d, first_h = AXIS_D.z_first + jd * AXIS_D.z_move, AXIS_H.z_first + jh * AXIS_H.z_move
    first_w = AXIS_W.z_first + jw * AXIS_W.z_move
    x_stride, z_stride = widen(x_stride, X.last, INDEX), widen(z_stride, Z.last, INDEX)

    row = i_row * BLOCK_M + tl.arange(0, BLOCK_M)
    xd, xh, xw, ci = line_parts(row, CI, AXIS_D.rows, AXIS_H.rows, AXIS_W.rows)
    x_row = place(0, 0, xd * AXIS_D.x_move, xh * AXIS_H.x_move, xw * AXIS_W.x_move, x_stride) + ci * x_stride[1]
    x_row = tl.max_contiguous(tl.multiple_of(x_row, X_RUN if X.last else 1), X_RUN if X.last else 1)
    x_need = needed(xd, xh, xw, AXIS_D.rows, XD_BITS, XH_BITS, AXIS_W.rows * AXIS_W.x_halo)
    column = i_column * BLOCK_N + tl.arange(0, BLOCK_N)
    zd, zh, zw, co = line_parts(column, CO, AXIS_D.columns, AXIS_H.columns, AXIS_W.columns)
    z_row = place(0, 0, zd * AXIS_D.z_move, zh * AXIS_H.z_move, zw * AXIS_W.z_move, z_stride) + co * z_stride[1]
    z_row = tl.max_contiguous(tl.multiple_of(z_row, Z_RUN if Z.last else 1), Z_RUN if Z.last else 1)
    z_need = needed(zd, zh, zw, AXIS_D.columns, ZD_BITS, ZH_BITS, AXIS_W.columns * AXIS_W.z_halo)
    x += group.to(tl.int64) * CI * x_stride[1]
    z += group.to(tl.int64) * CO * z_stride[1]

    o = tl.arange(0, BLOCK_K)
    o_w, o_h, o_d = o % BOX[2], o // BOX[2] % BOX[1], o // (BOX[2] * BOX[1])
    q = tl.arange(0, BLOCK_K * SPLIT)
    q_w, q_h, q_d = q % WIDTH, q // WIDTH % BOX[1], q // (WIDTH * BOX[1])
    STEP_W: tl.constexpr = AXIS_W.step // SPLIT
    acc = tl.zeros((BLOCK_M, BLOCK_N * SPLIT), tl.float32)
    first = share.to(INDEX) * SHARE
    last = tl.minimum(tl.cast(BOXES, INDEX), first + SHARE)
    for i_box in tl.range(first, last, num_stages=TILE.stages):
        n, d, h, w = box_origin(i_box, size, BOX)
        n, d, h, w = n.to(INDEX), d.to(tl.int32), h.to(tl.int32), w.to(tl.int32)
        b_d, b_h, b_w = d + AXIS_D.x_first, h + AXIS_H.x_first, w + AXIS_W.x_first
        at = tl.multiple_of(place(n, 0, b_d + o_d, b_h + o_h, 0, x_stride) + (b_w + o_w) * x_stride[4], X_RUN)
        at = tl.max_contiguous(at, 1 if X.last else X_RUN)
        p_x = x + (x_row[:, None] + at[None, :])
        if X_MASK:
            lack = tl.zeros_like(o)
            if AXIS_D.x_halo:
                lack |= lacking(b_d, o_d, x_size[0], AXIS_D.rows, AXIS_D.x_move, 1, 0)
            if AXIS_H.x_halo:
                lack |= lacking(b_h, o_h, x_size[1], AXIS_H.rows, AXIS_H.x_move, 1, XD_BITS)
            if AXIS_W.x_halo:
                lack |= lacking(b_w, o_w, x_size[2], AXIS_W.rows, AXIS_W.x_move, X_UNIT, XD_BITS + XH_BITS)
            if PLACES < BLOCK_K:
                lack = tl.where(o_d < BOX[0], lack, -1)
            if AXIS_D.edge:
                lack = tl.where(d + o_d < size[0], lack, -1)
            if AXIS_H.edge:
                lack = tl.where(h + o_h < size[1], lack, -1)
            if AXIS_W.edge:
                lack = tl.where(w // X_UNIT + o_w // X_UNIT < size[2] // X_UNIT, lack, -1)
            m_x = (x_need[:, None] & (lack | LINE)[None, :]) == 0
            b_x = tl.load(p_x, mask=m_x, other=0.0)  # [BLOCK_M, BLOCK_K]
        else:
            b_x = tl.load(p_x)
        c_d, c_h, c_w = d * AXIS_D.step + first_d, h * AXIS_H.step + first_h, w * AXIS_W.step + first_w
        at = place(n, 0, c_d + q_d * AXIS_D.step, c_h + q_h * AXIS_H.step, 0, z_stride)
        at = tl.multiple_of(at + (c_w + q_w * STEP_W) * z_stride[4], Z_RUN)
        at = tl.max_contiguous(at, 1 if Z.last else Z_RUN)
        p_z = z + (z_row[:, None] + at[None, :])
        if Z_MASK:
            lack = tl.zeros_like(q)
            if AXIS_D.z_halo:
                lack |= lacking(c_d, q_d * AXIS_D.step, z_size[0], AXIS_D.columns, AXIS_D.z_move, 1, 0)
            if AXIS_H.z_halo:
                lack |= lacking(c_h, q_h * AXIS_H.step, z_size[1], AXIS_H.columns, AXIS_H.z_move, 1, ZD_BITS)
            if AXIS_W.z_halo:
                lack |= lacking(c_w, q_w * STEP_W, z_size[2], AXIS_W.columns, AXIS_W.z_move, Z_UNIT, ZD_BITS + ZH_BITS)
            if PLACES < BLOCK_K:
                lack = tl.where(q_d < BOX[0], lack, -1)
            if AXIS_D.edge:
                lack = tl.where(d + q_d < size[0], lack, -1)
            if AXIS_H.edge:
                lack = tl.where(h + q_h < size[1], lack, -1)
            if AXIS_W.edge:
                lack = tl.where(w * SPLIT // Z_UNIT + q_w // Z_UNIT < size[2] * SPLIT // Z_UNIT, lack, -1)
            m_z = (z_need[:, None] & (lack | LINE)[None, :]) == 0
            b_z = tl.load(p_z, mask=m_z, other=0.0)  # [BLOCK_N, BLOCK_K * SPLIT]
        else:
            b_z = tl.load(p_z)
        if DOT.round_x:
            b_x = round_tf32(b_x)
        if DOT.round_w:
            b_z = round_tf32(b_z)
        if SPLIT > 1:
            b_z = b_z.reshape(BLOCK_N, BLOCK_K, SPLIT).permute(1, 2, 0).reshape(BLOCK_K, SPLIT * BLOCK_N)
        else:
            b_z = tl.trans(b_z)
        acc = tl.dot(b_x, b_z, acc, input_precision=PRECISION, out_dtype=tl.float32)

    line = tl.arange(0, BLOCK_N * SPLIT)
    zd, zh, zw, co = line_parts(i_column * BLOCK_N + line % BLOCK_N, CO, AXIS_D.columns, AXIS_H.columns, AXIS_W.columns)
    m_dw = (xd < AXIS_D.rows)[:, None] & (zd < AXIS_D.columns)[None, :]
    r_d, r_h = AXIS_D.tap_first + xd * AXIS_D.tap_row, AXIS_H.tap_first + xh * AXIS_H.tap_row
    r_w = AXIS_W.tap_first + xw * AXIS_W.tap_row
    s_d, s_h = (jd + zd) * AXIS_D.tap_column, (jh + zh) * AXIS_H.tap_column
    s_w = (jw + zw) * AXIS_W.tap_column + line // BLOCK_N
    if AXIS_D.guard:
        m_dw = m_dw & inside(r_d[:, None] + s_d[None, :], AXIS_D.kernel)
    if AXIS_H.guard:
        m_dw = m_dw & inside(r_h[:, None] + s_h[None, :], AXIS_H.kernel)
    if AXIS_W.guard:
        m_dw = m_dw & inside(r_w[:, None] + s_w[None, :], AXIS_W.kernel)
    r_tap = (r_d * AXIS_H.kernel + r_h) * AXIS_W.kernel + r_w
    s_tap = (s_d * AXIS_H.kernel + s_h) * AXIS_W.kernel + s_w
    out = parts + share.to(tl.int64) * p_stride[0] + group.to(tl.int64) * CI * p_stride[1]
    r_at = ci.to(tl.int64) * p_stride[1] + r_tap.to(tl.int64) * p_stride[3]
    s_at = co.to(tl.int64) * p_stride[2] + s_tap.to(tl.int64) * p_stride[3]
    tl.store(out + (r_at[:, None] + s_at[None, :]), acc.to(parts.dtype.element_ty), mask=m_dw)
