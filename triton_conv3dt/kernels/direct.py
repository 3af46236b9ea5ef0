"""The gather product without tensor cores: depthwise and narrow groups, few reduction channels, and fp64.

The same gather as gather.py; a tile is BLOCK_C channels of all groups by BLOCK_P positions, one multiply-add per element,
tap and reduction channel.
"""

import triton
import triton.language as tl

from .tiles import (
    HALO, IN_STEP, KERNEL, MOVE, ORIGIN, OUT_STEP, PHASES, TAP_STEP, axis_taps, inside, place, position, tap_of_step,
    widen, write
)


@triton.jit
def accumulate(x, w, n, id0, ih0, iw0, live, channel, phase_d, phase_h, phase_w, XD, XH, XW, x_n, x_c, x_d, x_h, x_w,
               w_row, w_red, w_tap, w_group, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, ROWS: tl.constexpr,
               RED: tl.constexpr, GROUPS: tl.constexpr, X_LAST: tl.constexpr, X_RUN: tl.constexpr,
               BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, ACC: tl.constexpr):
    """One phase: [BLOCK_C, BLOCK_P]."""
    taps_d, first_d, offset_d = axis_taps(AXIS_D, phase_d)
    taps_h, first_h, offset_h = axis_taps(AXIS_H, phase_h)
    taps_w, first_w, offset_w = axis_taps(AXIS_W, phase_w)
    x_offset = tl.multiple_of(place(n, 0, id0, ih0, 0, x_n, 0, x_d, x_h, 0) + iw0 * x_w, X_RUN)
    x_offset = tl.max_contiguous(x_offset, 1 if X_LAST else X_RUN)
    group = channel // ROWS
    row_live = channel < ROWS * GROUPS
    p_w = w + (channel % ROWS) * w_row + group * w_group
    acc = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    for step in range(0, taps_d * taps_h * taps_w * RED):
        red, tap = step % RED, step // RED
        jd, jh, jw = tap_of_step(tap, taps_h, taps_w)
        dd, dh, dw = offset_d + jd * AXIS_D[MOVE], offset_h + jh * AXIS_H[MOVE], offset_w + jw * AXIS_W[MOVE]
        seen = live
        if AXIS_D[HALO]:
            seen = seen & inside(id0 + dd, XD)
        if AXIS_H[HALO]:
            seen = seen & inside(ih0 + dh, XH)
        if AXIS_W[HALO]:
            seen = seen & inside(iw0 + dw, XW)
        p_x = x + (x_offset + tl.multiple_of(dd * x_d + dh * x_h + dw * x_w, X_RUN))
        kd, kh, kw = first_d + jd * AXIS_D[TAP_STEP], first_h + jh * AXIS_H[TAP_STEP], first_w + jw * AXIS_W[TAP_STEP]
        tap_index = (kd * AXIS_H[KERNEL] + kh) * AXIS_W[KERNEL] + kw
        wt = tl.load(p_w + tap_index * w_tap + red * w_red, mask=row_live, other=0.0).to(ACC)
        if GROUPS == 1:  # every channel reads the same input
            xt = tl.load(p_x + red * x_c, mask=seen, other=0.0).to(ACC)[None, :]
        else:
            xt = tl.load(p_x[None, :] + ((group * RED + red) * x_c)[:, None], mask=seen[None, :] & row_live[:, None], other=0.0).to(ACC)
        acc += xt * wt[:, None]
    return acc


@triton.jit
def direct(x, w, y, b, residual, pre, P, TD, TH, TW, XD, XH, XW, YD, YH, YW,
           x_n, x_c, x_d, x_h, x_w, w_row, w_red, w_tap, w_group, y_n, y_c, y_d, y_h, y_w, r_n, r_c, r_d, r_h, r_w,
           AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, ROWS: tl.constexpr, RED: tl.constexpr,
           GROUPS: tl.constexpr, JOIN: tl.constexpr, X_LAST: tl.constexpr, X_RUN: tl.constexpr,
           Y_LAST: tl.constexpr, Y_RUN: tl.constexpr, R_RUN: tl.constexpr, ACTIVATION: tl.constexpr, A: tl.constexpr,
           B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr):
    """As gather.gather, with the groups among the channels. Grid: (position tile, phase, channel tile), the last fastest."""
    TILES: tl.constexpr = (ROWS * GROUPS + BLOCK_C - 1) // BLOCK_C
    PROGRAM_PHASES: tl.constexpr = AXIS_D[PHASES] * AXIS_H[PHASES] * AXIS_W[PHASES]
    pid = tl.program_id(0).to(INDEX)
    tile, rest = pid % TILES, pid // TILES
    i_phase, i_position = rest % PROGRAM_PHASES, rest // PROGRAM_PHASES
    phase_w, rest = i_phase % AXIS_W[PHASES], i_phase // AXIS_W[PHASES]
    phase_h, phase_d = rest % AXIS_H[PHASES], rest // AXIS_H[PHASES]
    x_n, x_c, x_d, x_h, x_w = widen(x_n, x_c, x_d, x_h, x_w, INDEX)
    y_n, y_c, y_d, y_h, y_w = widen(y_n, y_c, y_d, y_h, y_w, INDEX)
    r_n, r_c, r_d, r_h, r_w = widen(r_n, r_c, r_d, r_h, r_w, INDEX)
    P, w_row, w_red, w_tap = tl.cast(P, INDEX), tl.cast(w_row, INDEX), tl.cast(w_red, INDEX), tl.cast(w_tap, INDEX)
    w_group = tl.cast(w_group, INDEX)
    if X_LAST:
        x_c = 1
    channel = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    index = i_position * BLOCK_P + tl.arange(0, BLOCK_P)
    n, td, th, tw = position(index, TD, TH, TW)
    id0, ih0, iw0 = td * AXIS_D[IN_STEP], th * AXIS_H[IN_STEP], tw * AXIS_W[IN_STEP]
    acc = accumulate(x, w, n, id0, ih0, iw0, index < P, channel, phase_d, phase_h, phase_w, XD, XH, XW, x_n, x_c, x_d, x_h, x_w,
                     w_row, w_red, w_tap, w_group, AXIS_D, AXIS_H, AXIS_W, ROWS, RED, GROUPS, X_LAST, X_RUN, BLOCK_C, BLOCK_P, ACC)
    if JOIN == 2:
        other = accumulate(x, w, n, id0, ih0, iw0, index < P, channel, phase_d, phase_h, 1, XD, XH, XW, x_n, x_c, x_d, x_h, x_w,
                           w_row, w_red, w_tap, w_group, AXIS_D, AXIS_H, AXIS_W, ROWS, RED, GROUPS, X_LAST, X_RUN, BLOCK_C, BLOCK_P, ACC)
        acc = tl.join(acc, other).reshape(BLOCK_C, BLOCK_P * 2)
    column = tl.arange(0, BLOCK_P * JOIN)
    index = i_position * BLOCK_P + column // JOIN
    n, td, th, tw = position(index, TD, TH, TW)
    base_d = td * AXIS_D[OUT_STEP] + phase_d - AXIS_D[ORIGIN]
    base_h = th * AXIS_H[OUT_STEP] + phase_h - AXIS_H[ORIGIN]
    base_w = tw * AXIS_W[OUT_STEP] + phase_w - AXIS_W[ORIGIN] + column % JOIN
    zero = tl.zeros((BLOCK_C,), tl.int32)
    write(acc, y, residual, pre, b, channel, zero, zero, zero, n, base_d, base_h, base_w, channel < ROWS * GROUPS,
          i_position * (BLOCK_P * JOIN) + column < P * JOIN,
          YD, YH, YW, y_n, y_c, y_d, y_h, y_w, r_n, r_c, r_d, r_h, r_w, AXIS_D, AXIS_H, AXIS_W, Y_LAST, Y_RUN,
          R_RUN, ACTIVATION, A, B)
