"""The gather product without tensor cores: depthwise and narrow groups, few reduction channels, and fp64.

The same gather as gather.py; a tile is BLOCK_C channels of all groups by BLOCK_P positions, one multiply-add per element,
tap and reduction channel.
"""

import triton
import triton.language as tl

from .tiles import axis_taps, gathered, phase_of_program, place, position, tap_of_step, widen, write


@triton.jit
def accumulate(x, w, n, origin, live, channel, phase, x_size, x_stride, w_stride, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr,
               AXIS_W: tl.constexpr, ROWS: tl.constexpr, RED: tl.constexpr, GROUPS: tl.constexpr, X: tl.constexpr,
               BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, ACC: tl.constexpr):
    """One phase: [BLOCK_C, BLOCK_P]."""
    X_RUN: tl.constexpr = X.run
    taps_d, first_d, offset_d = axis_taps(AXIS_D, phase[0])
    taps_h, first_h, offset_h = axis_taps(AXIS_H, phase[1])
    taps_w, first_w, offset_w = axis_taps(AXIS_W, phase[2])
    id0, ih0, iw0 = origin
    w_row, w_red, w_tap, w_group = w_stride
    x_offset = tl.multiple_of(place(n, 0, id0, ih0, 0, x_stride) + iw0 * x_stride[4], X_RUN)
    x_offset = tl.max_contiguous(x_offset, 1 if X.last else X_RUN)
    group = channel // ROWS
    m_row = channel < ROWS * GROUPS
    p_w = w + (channel % ROWS) * w_row + group * w_group
    acc = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    for step in range(0, taps_d * taps_h * taps_w * RED):
        red, tap = step % RED, step // RED
        jd, jh, jw = tap_of_step(tap, taps_h, taps_w)
        dd, dh, dw = offset_d + jd * AXIS_D.move, offset_h + jh * AXIS_H.move, offset_w + jw * AXIS_W.move
        m_seen = gathered(live, id0 + dd, ih0 + dh, iw0 + dw, x_size, AXIS_D, AXIS_H, AXIS_W)
        p_x = x + (x_offset + tl.multiple_of(dd * x_stride[2] + dh * x_stride[3] + dw * x_stride[4], X_RUN))
        kd, kh, kw = first_d + jd * AXIS_D.tap_step, first_h + jh * AXIS_H.tap_step, first_w + jw * AXIS_W.tap_step
        tap_index = (kd * AXIS_H.kernel + kh) * AXIS_W.kernel + kw
        b_w = tl.load(p_w + tap_index * w_tap + red * w_red, mask=m_row, other=0.0).to(ACC)
        if GROUPS == 1:  # every channel reads the same input
            b_x = tl.load(p_x + red * x_stride[1], mask=m_seen, other=0.0).to(ACC)[None, :]
        else:
            p_x = p_x[None, :] + ((group * RED + red) * x_stride[1])[:, None]
            b_x = tl.load(p_x, mask=m_seen[None, :] & m_row[:, None], other=0.0).to(ACC)
        acc += b_x * b_w[:, None]
    return acc


@triton.jit
def direct(x, w, y, b, residual, pre, P, size, x_size, y_size, x_stride, w_stride, y_stride, r_stride,
           AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, ROWS: tl.constexpr, RED: tl.constexpr,
           GROUPS: tl.constexpr, JOIN: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, R: tl.constexpr,
           ACTIVATION: tl.constexpr, PARAMETERS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
           ACC: tl.constexpr, INDEX: tl.constexpr):
    """As gather.gather, with the groups among the channels. Grid: (position tile, phase, channel tile), the last fastest."""
    TILES: tl.constexpr = (ROWS * GROUPS + BLOCK_C - 1) // BLOCK_C
    PROGRAM_PHASES: tl.constexpr = AXIS_D.phases * AXIS_H.phases * AXIS_W.phases
    pid = tl.program_id(0).to(INDEX)
    tile, rest = pid % TILES, pid // TILES
    i_phase, i_position = rest % PROGRAM_PHASES, rest // PROGRAM_PHASES
    phase = phase_of_program(i_phase, AXIS_D, AXIS_H, AXIS_W)
    P, x_stride = tl.cast(P, INDEX), widen(x_stride, X.last, INDEX)
    w_row, w_red, w_tap = tl.cast(w_stride[0], INDEX), tl.cast(w_stride[1], INDEX), tl.cast(w_stride[2], INDEX)
    w_stride = (w_row, w_red, w_tap, tl.cast(w_stride[3], INDEX))
    channel = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    index = i_position * BLOCK_P + tl.arange(0, BLOCK_P)
    n, td, th, tw = position(index, size)
    origin = (td * AXIS_D.in_step, th * AXIS_H.in_step, tw * AXIS_W.in_step)
    acc = accumulate(x, w, n, origin, index < P, channel, phase, x_size, x_stride, w_stride, AXIS_D, AXIS_H, AXIS_W, ROWS, RED,
                     GROUPS, X, BLOCK_C, BLOCK_P, ACC)
    if JOIN == 2:
        other = accumulate(x, w, n, origin, index < P, channel, (phase[0], phase[1], 1), x_size, x_stride, w_stride,
                           AXIS_D, AXIS_H, AXIS_W, ROWS, RED, GROUPS, X, BLOCK_C, BLOCK_P, ACC)
        acc = tl.join(acc, other).reshape(BLOCK_C, BLOCK_P * 2)
    column = tl.arange(0, BLOCK_P * JOIN)
    n, td, th, tw = position(i_position * BLOCK_P + column // JOIN, size)
    base_d = td * AXIS_D.out_step + phase[0] - AXIS_D.origin
    base_h = th * AXIS_H.out_step + phase[1] - AXIS_H.origin
    base_w = tw * AXIS_W.out_step + phase[2] - AXIS_W.origin + column % JOIN
    zero = tl.zeros((BLOCK_C,), tl.int32)
    write(acc, y, residual, pre, b, channel, (zero, zero, zero), n, (base_d, base_h, base_w), channel < ROWS * GROUPS,
          i_position * (BLOCK_P * JOIN) + column < P * JOIN, y_size, widen(y_stride, Y.last, INDEX),
          widen(r_stride, R.last, INDEX), AXIS_D, AXIS_H, AXIS_W, Y, R, ACTIVATION, PARAMETERS)
