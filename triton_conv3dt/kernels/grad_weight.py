"""The weight gradient: dw[ci, co, k] = sum over positions of x[position, ci] * dz[stride * position - padding + k * dilation, co].

The reduction is split over programs. Each share is summed by one program in a fixed order, and `reduce.sum_parts` adds the
shares in a fixed order: same bits every run, no atomics.
"""

import triton
import triton.language as tl

from .tiles import gathered, inside, place, position, round_tf32, widen


@triton.jit
def tap_of_program(i_tap, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr):
    """The tap (d, h, w) of this program, and the shift (d, h, w) of dz that it reads."""
    jw, rest = i_tap % AXIS_W.taps, i_tap // AXIS_W.taps
    jh, jd = rest % AXIS_H.taps, rest // AXIS_H.taps
    tap = (jd * AXIS_D.tap_step + AXIS_D.first, jh * AXIS_H.tap_step + AXIS_H.first, jw * AXIS_W.tap_step + AXIS_W.first)
    shift = (jd * AXIS_D.move + AXIS_D.offset, jh * AXIS_H.move + AXIS_H.offset, jw * AXIS_W.move + AXIS_W.offset)
    return tap, shift


@triton.jit
def grad_weight(x, z, parts, P, SHARE, size, z_size, x_stride, z_stride, p_stride, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr,
                AXIS_W: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, X: tl.constexpr, Z: tl.constexpr, TILE: tl.constexpr,
                DOT: tl.constexpr, INDEX: tl.constexpr):
    """One share of dw for TILE.m input channels, TILE.n output channels and one tap (TILE.split taps along w where dz is
    contiguous along w and is split after the load), reduced by TILE.k positions at a time. CI and CO are per group.

    x [N, *, *size], z [N, *, *z_size]; P: N times the product of size. parts [shares, ci, co, tap] by its strides. Grid:
    (tap, co tile, ci tile), share, group.
    """
    BLOCK_M: tl.constexpr = TILE.m
    BLOCK_N: tl.constexpr = TILE.n
    BLOCK_K: tl.constexpr = TILE.k
    SPLIT: tl.constexpr = TILE.split
    X_RUN: tl.constexpr = X.run
    Z_RUN: tl.constexpr = Z.run
    PRECISION: tl.constexpr = DOT.precision
    CI_TILES: tl.constexpr = (CI + BLOCK_M - 1) // BLOCK_M
    CO_TILES: tl.constexpr = (CO + BLOCK_N - 1) // BLOCK_N
    pid, share, group = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i_ci, rest = pid % CI_TILES, pid // CI_TILES
    i_co, i_tap = rest % CO_TILES, rest // CO_TILES
    tap, shift = tap_of_program(i_tap, AXIS_D, AXIS_H, AXIS_W)
    P, x_stride, z_stride = tl.cast(P, INDEX), widen(x_stride, X.last, INDEX), widen(z_stride, Z.last, INDEX)
    ci = i_ci * BLOCK_M + tl.arange(0, BLOCK_M)
    co = i_co * BLOCK_N + tl.arange(0, BLOCK_N)
    p_x = x + group.to(tl.int64) * CI * x_stride[1] + (ci * x_stride[1])[:, None]
    p_z = z + group.to(tl.int64) * CO * z_stride[1] + (co * z_stride[1])[:, None]
    o_k = tl.arange(0, BLOCK_K).to(INDEX)
    o_q = tl.arange(0, BLOCK_K * SPLIT).to(INDEX)
    acc = tl.zeros((BLOCK_M, BLOCK_N * SPLIT), tl.float32)
    first = share.to(INDEX) * SHARE
    last = tl.minimum(P, first + SHARE)
    for start in tl.range(first, last, BLOCK_K, num_stages=TILE.stages):
        n, d, h, w = position(start + o_k, size)
        x_offset = tl.multiple_of(place(n, 0, d, h, 0, x_stride) + w * x_stride[4], X_RUN)
        x_offset = tl.max_contiguous(x_offset, 1 if X.last else X_RUN)
        m_x = (start + o_k < last)[None, :]
        if CI % BLOCK_M != 0:
            m_x = m_x & (ci < CI)[:, None]
        b_x = tl.load(p_x + x_offset[None, :], mask=m_x, other=0.0)  # [BLOCK_M, BLOCK_K]
        n, d, h, w = position(start + o_q // SPLIT, size)
        zd, zh = d * AXIS_D.in_step + shift[0], h * AXIS_H.in_step + shift[1]
        zw = w * AXIS_W.in_step + shift[2] * SPLIT + o_q % SPLIT
        m_z = gathered(start * SPLIT + o_q < last * SPLIT, zd, zh, zw, z_size, AXIS_D, AXIS_H, AXIS_W)[None, :]
        if CO % BLOCK_N != 0:
            m_z = m_z & (co < CO)[:, None]
        z_offset = tl.multiple_of(place(n, 0, zd, zh, 0, z_stride) + zw * z_stride[4], Z_RUN)
        z_offset = tl.max_contiguous(z_offset, 1 if Z.last else Z_RUN)
        b_z = tl.load(p_z + z_offset[None, :], mask=m_z, other=0.0)  # [BLOCK_N, BLOCK_K * SPLIT]
        if DOT.round_x:
            b_x = round_tf32(b_x)
        if DOT.round_w:
            b_z = round_tf32(b_z)
        if SPLIT > 1:
            b_z = b_z.reshape(BLOCK_N, BLOCK_K, SPLIT).permute(1, 2, 0).reshape(BLOCK_K, SPLIT * BLOCK_N)
        else:
            b_z = tl.trans(b_z)
        acc = tl.dot(b_x, b_z, acc, input_precision=PRECISION, out_dtype=tl.float32)
    column = tl.arange(0, BLOCK_N * SPLIT)
    rw, co = column // BLOCK_N, i_co * BLOCK_N + column % BLOCK_N
    m_dw = (ci < CI)[:, None] & (co < CO)[None, :]
    if AXIS_W.guard:
        m_dw = m_dw & inside(tap[2] + rw, AXIS_W.kernel)[None, :]
    tap_index = (tap[0] * AXIS_H.kernel + tap[1]) * AXIS_W.kernel + tap[2] + rw
    out = parts + share.to(tl.int64) * p_stride[0] + group.to(tl.int64) * CI * p_stride[1]
    offset = co.to(tl.int64) * p_stride[2] + tap_index.to(tl.int64) * p_stride[3]
    offset = ci.to(tl.int64)[:, None] * p_stride[1] + offset[None, :]
    tl.store(out + offset, acc.to(parts.dtype.element_ty), mask=m_dw)
