"""The gather product on tensor cores: the forward (phases of y gather x) and the input gradient (dx gathers dz).

    out[(phase, row), position] = sum over (tap, channel) of  w[row, channel, tap] * in[channel, position + offset]

Weights are the first operand, positions the second: a tile of positions then reaches wgmma from shared memory without
passing through registers. Rows are (phase, channel), so that a layer with few channels still fills the tensor cores and
kernel = stride is one product that reads its input once.

FORM says how the gathered tensor is read: by "pointers", whatever its strides; or by a tensor descriptor over channels-last
memory, which fills with zeros what lies outside: "rows" [place, channel] where positions are places, "box" [n, d, h, w,
channel], or "strided" [(n, d), h // step, h % step, w // step, (w % step, channel)], in which the places of a tap are neighbours.

BLOCK_M rows, BLOCK_N positions, BLOCK_K reduction channels.
"""

import triton
import triton.language as tl

from .tiles import (
    GUARD, HALO, IN_STEP, KERNEL, MERGED, MOVE, OFFSET, ORIGIN, OUT_STEP, PHASES, TAP_STEP, axis_taps, box_origin,
    inside, place, position, round_tf32, row_parts, tap_of_step, widen, write
)


@triton.jit
def weight_guard(AXIS: tl.constexpr, first, j, r):
    k = first + r + j * AXIS[TAP_STEP]
    return inside(k, AXIS[KERNEL])


@triton.jit
def described(x, n, td, th, tw, dd, dh, dw, c, XD, x_w, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr,
              FORM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """One tile of a descriptor, [BLOCK_K, BLOCK_N]: the box that begins at (td, th, tw), moved by a tap's (dd, dh, dw)."""
    if FORM == "rows":
        tile = x.load([tw, c])
    elif FORM == "box":
        tile = x.load([n, (td + dd).to(tl.int32), (th + dh).to(tl.int32), (tw + dw).to(tl.int32), c])
    else:
        SH: tl.constexpr = AXIS_H[IN_STEP]
        SW: tl.constexpr = AXIS_W[IN_STEP]
        LIFT_H: tl.constexpr = (SH - 1 - AXIS_H[OFFSET]) // SH if AXIS_H[OFFSET] < 0 else 0  # division rounds towards zero
        LIFT_W: tl.constexpr = (SW - 1 - AXIS_W[OFFSET]) // SW if AXIS_W[OFFSET] < 0 else 0
        h, w, d = dh + LIFT_H * SH, dw + LIFT_W * SW, td * AXIS_D[IN_STEP] + dd
        plane = tl.where(inside(d, XD), n * XD + d, -1)  # another sample's plane is outside, too
        tile = x.load([plane, th + h // SH - LIFT_H, h % SH, tw + w // SW - LIFT_W, (w % SW * x_w + c).to(tl.int32)])
    return tl.trans(tile.reshape(BLOCK_N, BLOCK_K))


@triton.jit
def accumulate(x, w, n, td, th, tw, group, x_offset, x_live, id0, ih0, iw0, w_row_offset, w_live,
               phase_d, phase_h, phase_w, XD, XH, XW, x_c, x_d, x_h, x_w, w_red, w_tap,
               AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, RED: tl.constexpr, SPLIT: tl.constexpr,
               FORM: tl.constexpr, X_RUN: tl.constexpr, W_MINOR: tl.constexpr, W_RUN: tl.constexpr,
               BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_M: tl.constexpr,
               STAGES: tl.constexpr, PRECISION: tl.constexpr, ROUND_X: tl.constexpr, ROUND_W: tl.constexpr, ACC: tl.constexpr):
    """The product of one phase (or of all merged ones): [BLOCK_M, BLOCK_N]."""
    taps_d, first_d, offset_d = axis_taps(AXIS_D, phase_d)
    taps_h, first_h, offset_h = axis_taps(AXIS_H, phase_h)
    taps_w, first_w, offset_w = axis_taps(AXIS_W, phase_w)
    CHUNKS: tl.constexpr = (RED + BLOCK_K - 1) // BLOCK_K
    o_c = tl.arange(0, BLOCK_K)  # [BLOCK_K] channels of the gathered tile
    kk = tl.arange(0, BLOCK_K * SPLIT)  # [(w residue, channel)] columns of the weight tile
    w_column_offset = tl.multiple_of((kk // BLOCK_K) * w_tap + (kk % BLOCK_K) * w_red, W_RUN)
    w_column_offset = tl.max_contiguous(w_column_offset, W_RUN if W_MINOR == "red" else 1)
    q = tl.arange(0, BLOCK_N * SPLIT)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for step in tl.range(0, taps_d * taps_h * taps_w * CHUNKS, num_stages=STAGES):
        c0, tap = (step % CHUNKS) * BLOCK_K, step // CHUNKS
        jd, jh, jw = tap_of_step(tap, taps_h, taps_w)
        dd, dh, dw = offset_d + jd * AXIS_D[MOVE], offset_h + jh * AXIS_H[MOVE], offset_w + jw * AXIS_W[MOVE]
        if FORM == "pointers":
            seen = x_live
            if AXIS_D[HALO]:
                seen = seen & inside(id0 + dd, XD)
            if AXIS_H[HALO]:
                seen = seen & inside(ih0 + dh, XH)
            if AXIS_W[HALO]:
                seen = seen & inside(iw0 + dw * SPLIT, XW)
            mask = seen[None, :]
            if RED % BLOCK_K != 0:
                mask = mask & (c0 + o_c < RED)[:, None]
            shift = tl.multiple_of(dd * x_d + dh * x_h + dw * SPLIT * x_w, X_RUN)
            p_x = x + (x_offset + shift)[None, :] + ((c0 + o_c) * x_c)[:, None]
            xt = tl.load(p_x, mask=mask, other=0.0)  # [BLOCK_K, BLOCK_N * SPLIT]
            if SPLIT > 1:
                if AXIS_W[GUARD]:  # a zero in the weight would not keep NaN away from a tap that does not exist
                    xt = tl.where(weight_guard(AXIS_W, first_w, jw, q % SPLIT)[None, :], xt, 0.0)
                xt = xt.reshape(BLOCK_K, BLOCK_N, SPLIT).permute(2, 0, 1).reshape(SPLIT * BLOCK_K, BLOCK_N)
        else:
            c = (group * RED + c0).to(tl.int32)  # phases, and so steps, are as wide as offsets; coordinates have 32 bits
            xt = described(x, n, td, th, tw, dd, dh, dw, c, XD, x_w, AXIS_D, AXIS_H, AXIS_W, FORM, BLOCK_N, BLOCK_K)
        kd, kh, kw = first_d + jd * AXIS_D[TAP_STEP], first_h + jh * AXIS_H[TAP_STEP], first_w + jw * AXIS_W[TAP_STEP]
        w_shift = tl.multiple_of(((kd * AXIS_H[KERNEL] + kh) * AXIS_W[KERNEL] + kw) * w_tap + c0 * w_red, W_RUN)
        w_mask = tl.full((BLOCK_M, 1), True, tl.int1)
        if not EVEN_M:
            w_mask = w_mask & w_live[:, None]
        if AXIS_W[GUARD]:
            w_mask = w_mask & weight_guard(AXIS_W, first_w, jw, kk // BLOCK_K)[None, :]
        if RED % BLOCK_K != 0:
            w_mask = w_mask & (c0 + kk % BLOCK_K < RED)[None, :]
        wt = tl.load(w + w_row_offset[:, None] + (w_column_offset + w_shift)[None, :], mask=w_mask, other=0.0)
        if ROUND_X:
            xt = round_tf32(xt)
        if ROUND_W:
            wt = round_tf32(wt)
        acc = tl.dot(wt, xt, acc, input_precision=PRECISION, out_dtype=ACC)
    return acc


@triton.jit
def gather(x, w, y, b, residual, pre, P, TD, TH, TW, XD, XH, XW, YD, YH, YW,
           x_n, x_c, x_d, x_h, x_w, w_row, w_red, w_tap, w_group, y_n, y_c, y_d, y_h, y_w, r_n, r_c, r_d, r_h, r_w,
           AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, ROWS: tl.constexpr, RED: tl.constexpr,
           SPLIT: tl.constexpr, JOIN: tl.constexpr, PHASE_MINOR: tl.constexpr, FORM: tl.constexpr, BOX: tl.constexpr,
           X_LAST: tl.constexpr, X_RUN: tl.constexpr, W_MINOR: tl.constexpr, W_RUN: tl.constexpr,
           Y_LAST: tl.constexpr, Y_RUN: tl.constexpr, R_RUN: tl.constexpr, ACTIVATION: tl.constexpr, A: tl.constexpr,
           B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
           PRECISION: tl.constexpr, ROUND_X: tl.constexpr, ROUND_W: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr):
    """x [N, *, XD, XH, XW] is gathered, y [N, *, YD, YH, YW] written; P = N * TD * TH * TW coarse places.

    A tile's positions are BLOCK_N neighbours of the flat order, or a BOX (d, h, w) of BLOCK_N.

    Grid: (position tile, phase, row tile) with the row tile fastest, so that neighbours share what they read; and the
    convolution groups.
    """
    MD: tl.constexpr = AXIS_D[MERGED]
    MH: tl.constexpr = AXIS_H[MERGED]
    MW: tl.constexpr = AXIS_W[MERGED]
    INTERLEAVE: tl.constexpr = JOIN if MW > 1 else 1  # w phases among the rows that the store wants among the columns
    ROW_TILES: tl.constexpr = (MD * MH * MW * ROWS + BLOCK_M - 1) // BLOCK_M
    PROGRAM_PHASES: tl.constexpr = AXIS_D[PHASES] * AXIS_H[PHASES] * AXIS_W[PHASES]
    pid, group = tl.program_id(0).to(INDEX), tl.program_id(1)
    i_row, rest = pid % ROW_TILES, pid // ROW_TILES
    i_phase, i_position = rest % PROGRAM_PHASES, rest // PROGRAM_PHASES
    phase_w, rest = i_phase % AXIS_W[PHASES], i_phase // AXIS_W[PHASES]
    phase_h, phase_d = rest % AXIS_H[PHASES], rest // AXIS_H[PHASES]

    x_n, x_c, x_d, x_h, x_w = widen(x_n, x_c, x_d, x_h, x_w, INDEX)
    y_n, y_c, y_d, y_h, y_w = widen(y_n, y_c, y_d, y_h, y_w, INDEX)
    r_n, r_c, r_d, r_h, r_w = widen(r_n, r_c, r_d, r_h, r_w, INDEX)
    P, w_row, w_red, w_tap = tl.cast(P, INDEX), tl.cast(w_row, INDEX), tl.cast(w_red, INDEX), tl.cast(w_tap, INDEX)
    if X_LAST:
        x_c = 1
    if FORM == "pointers":
        box_n, box_d, box_h, box_w = 0, 0, 0, 0
        q = tl.arange(0, BLOCK_N * SPLIT)
        index = i_position * BLOCK_N + q // SPLIT
        x_live = i_position * (BLOCK_N * SPLIT) + q < P * SPLIT  # constant along a run of a split row
        n, td, th, tw = position(index, TD, TH, TW)
        id0, ih0, iw0 = td * AXIS_D[IN_STEP], th * AXIS_H[IN_STEP], tw * AXIS_W[IN_STEP] + q % SPLIT
        x_offset = tl.multiple_of(place(n, 0, id0, ih0, 0, x_n, 0, x_d, x_h, 0) + iw0 * x_w, X_RUN)
        x_offset = tl.max_contiguous(x_offset, 1 if X_LAST else X_RUN)
        x += group.to(tl.int64) * RED * x_c
    else:
        x_offset, x_live, id0, ih0, iw0 = 0, True, 0, 0, 0
        if FORM == "rows":
            box_n, box_d, box_h, box_w = 0, 0, 0, i_position.to(tl.int32) * BLOCK_N
        else:
            box_n, box_d, box_h, box_w = box_origin(i_position.to(tl.int32), TD, TH, TW, BOX)
    w += group.to(tl.int64) * w_group
    if W_MINOR == "row":
        w_row = 1
    if W_MINOR == "red":
        w_red = 1

    local = tl.arange(0, BLOCK_M)
    LINES: tl.constexpr = BLOCK_M // INTERLEAVE
    if INTERLEAVE > 1:
        m_rw, line = (local % INTERLEAVE, local // INTERLEAVE) if PHASE_MINOR else (local // LINES, local % LINES)
        m_rd, m_rh, unused, m_channel = row_parts(i_row * LINES + line, ROWS, MD, MH, 1, PHASE_MINOR)
    else:
        m_rd, m_rh, m_rw, m_channel = row_parts(i_row * BLOCK_M + local, ROWS, MD, MH, MW, PHASE_MINOR)
    EVEN_M: tl.constexpr = MD * MH * MW * ROWS % BLOCK_M == 0
    m_live = (m_channel < ROWS) & (m_rd < MD)
    w_row_offset = m_channel * w_row + ((m_rd * AXIS_H[KERNEL] + m_rh) * AXIS_W[KERNEL] + m_rw) * w_tap
    w_row_offset = tl.max_contiguous(tl.multiple_of(w_row_offset, W_RUN), W_RUN if W_MINOR == "row" or PHASE_MINOR else 1)

    if JOIN > INTERLEAVE:
        acc_0 = accumulate(x, w, box_n, box_d, box_h, box_w, group, x_offset, x_live, id0, ih0, iw0, w_row_offset, m_live,
                           phase_d, phase_h, 0, XD, XH, XW, x_c, x_d, x_h, x_w, w_red, w_tap,
                           AXIS_D, AXIS_H, AXIS_W, RED, SPLIT, FORM, X_RUN, W_MINOR, W_RUN, BLOCK_M, BLOCK_N, BLOCK_K,
                           EVEN_M, STAGES, PRECISION, ROUND_X, ROUND_W, ACC)
        acc_1 = accumulate(x, w, box_n, box_d, box_h, box_w, group, x_offset, x_live, id0, ih0, iw0, w_row_offset, m_live,
                           phase_d, phase_h, 1, XD, XH, XW, x_c, x_d, x_h, x_w, w_red, w_tap,
                           AXIS_D, AXIS_H, AXIS_W, RED, SPLIT, FORM, X_RUN, W_MINOR, W_RUN, BLOCK_M, BLOCK_N, BLOCK_K,
                           EVEN_M, STAGES, PRECISION, ROUND_X, ROUND_W, ACC)
        tile = tl.join(acc_0, acc_1).reshape(BLOCK_M, BLOCK_N * 2)
    else:
        tile = accumulate(x, w, box_n, box_d, box_h, box_w, group, x_offset, x_live, id0, ih0, iw0, w_row_offset, m_live,
                          phase_d, phase_h, phase_w, XD, XH, XW, x_c, x_d, x_h, x_w, w_red, w_tap,
                          AXIS_D, AXIS_H, AXIS_W, RED, SPLIT, FORM, X_RUN, W_MINOR, W_RUN, BLOCK_M, BLOCK_N, BLOCK_K,
                          EVEN_M, STAGES, PRECISION, ROUND_X, ROUND_W, ACC)
    finish(tile, y, residual, pre, b, i_row, i_position, group, phase_d, phase_h, phase_w, P, TD, TH, TW, YD, YH, YW,
           y_n, y_c, y_d, y_h, y_w, r_n, r_c, r_d, r_h, r_w, AXIS_D, AXIS_H, AXIS_W, ROWS, JOIN, INTERLEAVE, PHASE_MINOR, BOX,
           Y_LAST, Y_RUN, R_RUN, ACTIVATION, A, B, BLOCK_M, BLOCK_N, INDEX)


@triton.jit
def finish(tile, y, residual, pre, b, i_row, i_position, group, phase_d, phase_h, phase_w, P, TD, TH, TW, YD, YH, YW,
           y_n, y_c, y_d, y_h, y_w, r_n, r_c, r_d, r_h, r_w,
           AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, ROWS: tl.constexpr, JOIN: tl.constexpr,
           INTERLEAVE: tl.constexpr, PHASE_MINOR: tl.constexpr, BOX: tl.constexpr, Y_LAST: tl.constexpr, Y_RUN: tl.constexpr,
           R_RUN: tl.constexpr, ACTIVATION: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BLOCK_M: tl.constexpr,
           BLOCK_N: tl.constexpr, INDEX: tl.constexpr):
    """Bring a tile [rows, positions] into the order of the store, lines by columns, and write it."""
    MD: tl.constexpr = AXIS_D[MERGED]
    MH: tl.constexpr = AXIS_H[MERGED]
    MW: tl.constexpr = AXIS_W[MERGED] // INTERLEAVE
    LINES: tl.constexpr = BLOCK_M // INTERLEAVE
    if INTERLEAVE > 1:
        if PHASE_MINOR:
            tile = tile.reshape(LINES, INTERLEAVE, BLOCK_N).permute(0, 2, 1).reshape(LINES, BLOCK_N * INTERLEAVE)
        else:
            tile = tile.reshape(INTERLEAVE, LINES, BLOCK_N).permute(1, 2, 0).reshape(LINES, BLOCK_N * INTERLEAVE)
    line = tl.arange(0, LINES).to(INDEX)
    if PHASE_MINOR and Y_LAST:  # the store wants channels side by side
        PHASE_ROWS: tl.constexpr = MD * MH * MW
        CHANNELS: tl.constexpr = LINES // PHASE_ROWS
        tile = tile.reshape(CHANNELS, PHASE_ROWS, BLOCK_N).permute(1, 0, 2).reshape(LINES, BLOCK_N)
        rd, rh, rw, channel = row_parts(line, CHANNELS, MD, MH, MW, False)
        channel += i_row * CHANNELS
    else:
        rd, rh, rw, channel = row_parts(i_row * LINES + line, ROWS, MD, MH, MW, PHASE_MINOR)
    live = (channel < ROWS) & (rd < MD)
    column = tl.arange(0, BLOCK_N * JOIN)
    if BOX is None:
        n, td, th, tw = position(i_position * BLOCK_N + column // JOIN, TD, TH, TW)
        live_column = i_position * (BLOCK_N * JOIN) + column < P * JOIN  # constant along a run
    else:
        n, td, th, tw = box_origin(i_position, TD, TH, TW, BOX)
        WIDTH: tl.constexpr = BOX[2] * JOIN
        live_w = tw * JOIN + column % WIDTH < TW * JOIN  # constant along a run
        td, th, tw = td + column // (WIDTH * BOX[1]), th + column // WIDTH % BOX[1], tw + column % WIDTH // JOIN
        live_column = (td < TD) & (th < TH) & live_w
    base_d = td * AXIS_D[OUT_STEP] + phase_d - AXIS_D[ORIGIN]
    base_h = th * AXIS_H[OUT_STEP] + phase_h - AXIS_H[ORIGIN]
    base_w = tw * AXIS_W[OUT_STEP] + phase_w - AXIS_W[ORIGIN] + column % JOIN
    write(tile, y, residual, pre, b, group.to(INDEX) * ROWS + channel, rd, rh, rw, n, base_d, base_h, base_w, live, live_column,
          YD, YH, YW, y_n, y_c, y_d, y_h, y_w, r_n, r_c, r_d, r_h, r_w, AXIS_D, AXIS_H, AXIS_W, Y_LAST, Y_RUN,
          R_RUN, ACTIVATION, A, B)
