"""The weight gradient: dw[ci, co, k] = sum over positions of x[position, ci] * dz[stride * position - padding + k * dilation, co].

The reduction is split over programs. Each share is summed by one program in a fixed order, and `reduce.sum_parts` adds the
shares in a fixed order: same bits every run, no atomics.
"""

import triton
import triton.language as tl

from .tiles import (
    FIRST, GUARD, HALO, IN_STEP, KERNEL, MOVE, OFFSET, TAP_STEP, TAPS, inside, place, position, round_tf32, widen
)


@triton.jit
def tap_of_program(i_tap, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr):
    """The tap of this program and the shift of dz it reads, per axis (d, h, w)."""
    jw, rest = i_tap % AXIS_W[TAPS], i_tap // AXIS_W[TAPS]
    jh, jd = rest % AXIS_H[TAPS], rest // AXIS_H[TAPS]
    kd, kh, kw = jd * AXIS_D[TAP_STEP] + AXIS_D[FIRST], jh * AXIS_H[TAP_STEP] + AXIS_H[FIRST], jw * AXIS_W[TAP_STEP] + AXIS_W[FIRST]
    return kd, kh, kw, jd * AXIS_D[MOVE] + AXIS_D[OFFSET], jh * AXIS_H[MOVE] + AXIS_H[OFFSET], jw * AXIS_W[MOVE] + AXIS_W[OFFSET]


@triton.jit
def grad_weight(x, z, parts, P, SHARE, TD, TH, TW, ZD, ZH, ZW, x_n, x_c, x_d, x_h, x_w, z_n, z_c, z_d, z_h, z_w,
                p_split, p_ci, p_co, p_tap, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr,
                CI: tl.constexpr, CO: tl.constexpr, SPLIT: tl.constexpr,
                X_LAST: tl.constexpr, X_RUN: tl.constexpr, Z_LAST: tl.constexpr, Z_RUN: tl.constexpr,
                BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
                PRECISION: tl.constexpr, ROUND: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr):
    """One share of dw for BLOCK_M input channels, BLOCK_N output channels and one tap (SPLIT taps along w where dz is
    contiguous along w and is split after the load). CI and CO are per group.

    parts [shares, ci, co, tap] by its strides. Grid: (tap, co tile, ci tile), share, group.
    """
    CI_TILES: tl.constexpr = (CI + BLOCK_M - 1) // BLOCK_M
    CO_TILES: tl.constexpr = (CO + BLOCK_N - 1) // BLOCK_N
    pid, share, group = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i_ci, rest = pid % CI_TILES, pid // CI_TILES
    i_co, i_tap = rest % CO_TILES, rest // CO_TILES
    kd, kh, kw, dd, dh, dw = tap_of_program(i_tap, AXIS_D, AXIS_H, AXIS_W)
    x_n, x_c, x_d, x_h, x_w = widen(x_n, x_c, x_d, x_h, x_w, INDEX)
    z_n, z_c, z_d, z_h, z_w = widen(z_n, z_c, z_d, z_h, z_w, INDEX)
    P = tl.cast(P, INDEX)
    if X_LAST:
        x_c = 1
    if Z_LAST:
        z_c = 1
    ci = i_ci * BLOCK_M + tl.arange(0, BLOCK_M)
    co = i_co * BLOCK_N + tl.arange(0, BLOCK_N)
    p_x = x + group.to(tl.int64) * CI * x_c + (ci * x_c)[:, None]
    p_z = z + group.to(tl.int64) * CO * z_c + (co * z_c)[:, None]
    o_k = tl.arange(0, BLOCK_K).to(INDEX)
    q = tl.arange(0, BLOCK_K * SPLIT).to(INDEX)
    acc = tl.zeros((BLOCK_M, BLOCK_N * SPLIT), ACC)
    first = share.to(INDEX) * SHARE
    last = tl.minimum(P, first + SHARE)
    for start in tl.range(first, last, BLOCK_K, num_stages=STAGES):
        n, d, h, w = position(start + o_k, TD, TH, TW)
        x_offset = tl.multiple_of(place(n, 0, d, h, 0, x_n, 0, x_d, x_h, 0) + w * x_w, X_RUN)
        x_offset = tl.max_contiguous(x_offset, 1 if X_LAST else X_RUN)
        x_mask = (start + o_k < last)[None, :]
        if CI % BLOCK_M != 0:
            x_mask = x_mask & (ci < CI)[:, None]
        xt = tl.load(p_x + x_offset[None, :], mask=x_mask, other=0.0)  # [BLOCK_M, BLOCK_K]
        index = start + q // SPLIT
        n, d, h, w = position(index, TD, TH, TW)
        zd, zh, zw = d * AXIS_D[IN_STEP] + dd, h * AXIS_H[IN_STEP] + dh, w * AXIS_W[IN_STEP] + dw * SPLIT + q % SPLIT
        seen = start * SPLIT + q < last * SPLIT
        if AXIS_D[HALO]:
            seen = seen & inside(zd, ZD)
        if AXIS_H[HALO]:
            seen = seen & inside(zh, ZH)
        if AXIS_W[HALO]:
            seen = seen & inside(zw, ZW)
        z_mask = seen[None, :]
        if CO % BLOCK_N != 0:
            z_mask = z_mask & (co < CO)[:, None]
        z_offset = tl.multiple_of(place(n, 0, zd, zh, 0, z_n, 0, z_d, z_h, 0) + zw * z_w, Z_RUN)
        z_offset = tl.max_contiguous(z_offset, 1 if Z_LAST else Z_RUN)
        zt = tl.load(p_z + z_offset[None, :], mask=z_mask, other=0.0)  # [BLOCK_N, BLOCK_K * SPLIT]
        if ROUND:
            xt, zt = round_tf32(xt), round_tf32(zt)
        if SPLIT > 1:
            zt = zt.reshape(BLOCK_N, BLOCK_K, SPLIT).permute(1, 2, 0).reshape(BLOCK_K, SPLIT * BLOCK_N)
        else:
            zt = tl.trans(zt)
        acc = tl.dot(xt, zt, acc, input_precision=PRECISION, out_dtype=ACC)
    column = tl.arange(0, BLOCK_N * SPLIT)
    rw, co = column // BLOCK_N, i_co * BLOCK_N + column % BLOCK_N
    mask = (ci < CI)[:, None] & (co < CO)[None, :]
    if AXIS_W[GUARD]:
        mask = mask & inside(kw + rw, AXIS_W[KERNEL])[None, :]
    tap = (kd * AXIS_H[KERNEL] + kh) * AXIS_W[KERNEL] + kw + rw
    out = parts + share.to(tl.int64) * p_split + group.to(tl.int64) * CI * p_ci
    offset = ci.to(tl.int64)[:, None] * p_ci + (co.to(tl.int64) * p_co + tap.to(tl.int64) * p_tap)[None, :]
    tl.store(out + offset, acc.to(parts.dtype.element_ty), mask=mask)


@triton.jit
def grad_weight_direct(x, z, parts, P, SHARE, TD, TH, TW, ZD, ZH, ZW, x_n, x_c, x_d, x_h, x_w, z_n, z_c, z_d, z_h, z_w,
                       p_split, p_ci, p_co, p_tap, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr,
                       CI: tl.constexpr, CO: tl.constexpr, CHANNELS: tl.constexpr,
                       X_LAST: tl.constexpr, X_RUN: tl.constexpr, Z_LAST: tl.constexpr, Z_RUN: tl.constexpr,
                       BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr):
    """One share of dw without tensor cores: for BLOCK_C of all the output channels, one input channel of their group
    and one tap. CI and CO are per group, CHANNELS = CO * groups.

    Grid: (tap, input channel of the group, channel tile), share.
    """
    TILES: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    pid, share = tl.program_id(0), tl.program_id(1)
    tile, rest = pid % TILES, pid // TILES
    ci, i_tap = rest % CI, rest // CI
    kd, kh, kw, dd, dh, dw = tap_of_program(i_tap, AXIS_D, AXIS_H, AXIS_W)
    x_n, x_c, x_d, x_h, x_w = widen(x_n, x_c, x_d, x_h, x_w, INDEX)
    z_n, z_c, z_d, z_h, z_w = widen(z_n, z_c, z_d, z_h, z_w, INDEX)
    P = tl.cast(P, INDEX)
    if X_LAST:
        x_c = 1
    if Z_LAST:
        z_c = 1
    channel = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    source = channel // CO * CI + ci
    p_x = x + (source * x_c)[:, None]
    p_z = z + (channel * z_c)[:, None]
    acc = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    first = share.to(INDEX) * SHARE
    last = tl.minimum(P, first + SHARE)
    for start in tl.range(first, last, BLOCK_P):
        index = start + tl.arange(0, BLOCK_P).to(INDEX)
        n, d, h, w = position(index, TD, TH, TW)
        zd, zh, zw = d * AXIS_D[IN_STEP] + dd, h * AXIS_H[IN_STEP] + dh, w * AXIS_W[IN_STEP] + dw
        seen = (index < last) & inside(zd, ZD) & inside(zh, ZH) & inside(zw, ZW)
        mask = seen[None, :] & (channel < CHANNELS)[:, None]
        x_offset = tl.multiple_of(place(n, 0, d, h, 0, x_n, 0, x_d, x_h, 0) + w * x_w, X_RUN)
        x_offset = tl.max_contiguous(x_offset, 1 if X_LAST else X_RUN)
        z_offset = tl.multiple_of(place(n, 0, zd, zh, 0, z_n, 0, z_d, z_h, 0) + zw * z_w, Z_RUN)
        z_offset = tl.max_contiguous(z_offset, 1 if Z_LAST else Z_RUN)
        acc += tl.load(p_x + x_offset[None, :], mask=mask, other=0.0).to(ACC) * tl.load(p_z + z_offset[None, :], mask=mask, other=0.0).to(ACC)
    tap = (kd * AXIS_H[KERNEL] + kh) * AXIS_W[KERNEL] + kw
    offset = source.to(tl.int64) * p_ci + (channel % CO).to(tl.int64) * p_co + tap.to(tl.int64) * p_tap
    tl.store(parts + share.to(tl.int64) * p_split + offset, tl.sum(acc, axis=1).to(parts.dtype.element_ty), mask=channel < CHANNELS)
