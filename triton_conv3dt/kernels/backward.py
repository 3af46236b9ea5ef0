"""The whole backward pass of a kernel = stride layer in one walk over memory: dx, dw and db from dy, x and w.

Such a layer meets every output once, so a tile of positions has all of its dz at hand. A program keeps dw for all taps and
channels in registers while it walks over tiles: it forms dz = dy * derivative, adds x * dz^T to dw and dz to db, and writes
dx = w * dz. What is saved for the derivative, dy and x are read once and dx is written once, which is the least there is;
the shares of dw and db are added afterwards, in order.

A tile is TILE.m >= CI input channels by TILE.n >= CO * taps columns by TILE.k positions.
"""

import triton
import triton.language as tl

from .tiles import place, position, widen


@triton.jit
def columns(index, CO: tl.constexpr, STRIDE: tl.constexpr, LAST: tl.constexpr):
    """(d, h, w) of the tap and the channel of a line of dz; d is the stride's where there is none.

    Channels-last lines are (d, h, w, channel); channels-first ones (channel, d, h), and w is split off after the load.
    """
    SD: tl.constexpr = STRIDE[0]
    SH: tl.constexpr = STRIDE[1]
    SW: tl.constexpr = STRIDE[2]
    if LAST:
        co, rest = index % CO, index // CO
        return rest // (SW * SH), rest // SW % SH, rest % SW, co
    else:
        co, rest = index // (SD * SH), index % (SD * SH)
        return tl.where(co < CO, rest // SH, SD), rest % SH, rest * 0, co


@triton.jit
def backward(dy, x, w, saved, dx, parts, sums, P, size, g_stride, x_stride, o_stride, w_stride, p_stride,
             STRIDE: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, Z: tl.constexpr, X: tl.constexpr, O: tl.constexpr,
             TILE: tl.constexpr, DERIVATIVE: tl.constexpr, PARAMETERS: tl.constexpr, INDEX: tl.constexpr):
    """dy and saved [N, CO, *size times STRIDE] share their strides, x and dx [N, CI, *size]; P: N times the product of size.

    saved and sums may be None. w_stride: (ci, co, tap). parts [programs, ci, co, tap] by its strides; sums [programs,
    residues, CO], where the residues are the taps, or those of (d, h) channels-first. Grid: programs.
    """
    SD: tl.constexpr = STRIDE[0]
    SH: tl.constexpr = STRIDE[1]
    SW: tl.constexpr = STRIDE[2]
    BLOCK_M: tl.constexpr = TILE.m
    BLOCK_N: tl.constexpr = TILE.n
    BLOCK_K: tl.constexpr = TILE.k
    SPLIT: tl.constexpr = TILE.split
    X_RUN: tl.constexpr = X.run
    Z_RUN: tl.constexpr = Z.run
    O_RUN: tl.constexpr = O.run
    LINES: tl.constexpr = BLOCK_N // SPLIT
    RESIDUES: tl.constexpr = SD * SH * (SW if Z.last else 1)
    program, programs = tl.program_id(0).to(INDEX), tl.num_programs(0)
    g_stride, x_stride, o_stride = widen(g_stride, Z.last, INDEX), widen(x_stride, X.last, INDEX), widen(o_stride, O.last, INDEX)
    w_ci, w_co, w_tap = tl.cast(w_stride[0], INDEX), tl.cast(w_stride[1], INDEX), tl.cast(w_stride[2], INDEX)
    P = tl.cast(P, INDEX)
    ci = tl.arange(0, BLOCK_M)
    line = tl.arange(0, LINES)
    kd, kh, kw, co = columns(line, CO, STRIDE, Z.last)
    z_line = tl.multiple_of(place(0, co, kd, kh, kw, g_stride), Z_RUN)
    z_line = tl.max_contiguous(z_line, Z_RUN if Z.last else 1)
    m_line = kd < SD

    HALVES: tl.constexpr = 2 if SPLIT == 2 and LINES >= 16 else 1  # of the columns, each with products of its own
    column = tl.arange(0, BLOCK_N // HALVES)  # of dw and w: (residue of w that was split off, line)
    cd, ch, cw, cc = columns(column % LINES, CO, STRIDE, Z.last)
    tap = (cd * SH + ch) * SW + cw + column // LINES
    m_w = (ci < CI)[:, None] & (cd < SD)[None, :]
    p_w = w + ci[:, None] * w_ci + (cc * w_co + tap * w_tap)[None, :]
    b_w = tl.load(p_w, mask=m_w, other=0.0)
    odd_w = tl.load(p_w + w_tap, mask=m_w, other=0.0) if HALVES == 2 else b_w

    acc = tl.zeros((BLOCK_M, BLOCK_N // HALVES), tl.float32)
    odd = tl.zeros((BLOCK_M, BLOCK_N // HALVES), tl.float32)
    # Channels-last a thread has a few places of each line: it sums those, and the others are added to them once, at the end.
    FOLD: tl.constexpr = 4 if Z.last else BLOCK_K * SPLIT
    total = tl.zeros((LINES, BLOCK_K * SPLIT // FOLD), tl.float32)
    o_k = tl.arange(0, BLOCK_K)
    o_q = tl.arange(0, BLOCK_K * SPLIT)
    for tile in tl.range(program, tl.cdiv(P, BLOCK_K), programs, num_stages=TILE.stages):
        n, d, h, w_place = position(tile * BLOCK_K + o_q // SPLIT, size)
        z_place = place(n, 0, d * SD, h * SH, 0, g_stride) + (w_place * SW + o_q % SPLIT) * g_stride[4]
        z_place = tl.max_contiguous(tl.multiple_of(z_place, Z_RUN), 1 if Z.last else Z_RUN)
        m_z = m_line[:, None] & (tile * (BLOCK_K * SPLIT) + o_q < P * SPLIT)[None, :]  # the same along a run
        b_z = tl.load(dy + z_line[:, None] + z_place[None, :], mask=m_z, other=0.0)  # [LINES, BLOCK_K * SPLIT]
        if saved is not None:
            at = tl.load(saved + z_line[:, None] + z_place[None, :], mask=m_z, other=0.0).to(tl.float32)
            slope = DERIVATIVE(at, PARAMETERS[0], PARAMETERS[1])
            b_z = tl.where(m_z, b_z.to(tl.float32) * slope, 0.0).to(b_z.dtype)
        if sums is not None:
            total += tl.sum(b_z.to(tl.float32).reshape(LINES, FOLD, BLOCK_K * SPLIT // FOLD), axis=1)
        n, d, h, w_place = position(tile * BLOCK_K + o_k, size)
        m_x = (ci < CI)[:, None] & (tile * BLOCK_K + o_k < P)[None, :]
        x_place = tl.multiple_of(place(n, 0, d, h, 0, x_stride) + w_place * x_stride[4], X_RUN)
        x_place = tl.max_contiguous(x_place, 1 if X.last else X_RUN)
        b_x = tl.load(x + (ci * x_stride[1])[:, None] + x_place[None, :], mask=m_x, other=0.0)
        split = b_z.reshape(LINES, BLOCK_K, SPLIT)
        if HALVES == 2:  # parted in registers, where neighbours lie in one thread: pairs are what is written to shared memory
            even_z, odd_z = tl.split(split)
            acc = tl.dot(b_x, tl.trans(even_z), acc, out_dtype=tl.float32)
            odd = tl.dot(b_x, tl.trans(odd_z), odd, out_dtype=tl.float32)
            b_dx = tl.dot(odd_w, odd_z, tl.dot(b_w, even_z, out_dtype=tl.float32), out_dtype=tl.float32)
        else:
            acc = tl.dot(b_x, split.permute(1, 2, 0).reshape(BLOCK_K, BLOCK_N), acc, out_dtype=tl.float32)
            b_dx = tl.dot(b_w, split.permute(2, 0, 1).reshape(BLOCK_N, BLOCK_K), out_dtype=tl.float32)
        o_place = tl.multiple_of(place(n, 0, d, h, 0, o_stride) + w_place * o_stride[4], O_RUN)
        o_place = tl.max_contiguous(o_place, 1 if O.last else O_RUN)
        tl.store(dx + (ci * o_stride[1])[:, None] + o_place[None, :], b_dx.to(dx.dtype.element_ty), mask=m_x)
    at = cc.to(tl.int64) * p_stride[2] + tap.to(tl.int64) * p_stride[3]
    at = ci.to(tl.int64)[:, None] * p_stride[1] + at[None, :]
    p_parts = parts + program.to(tl.int64) * p_stride[0] + at
    tl.store(p_parts, acc, mask=m_w)
    if HALVES == 2:
        tl.store(p_parts + p_stride[3], odd, mask=m_w)
    if sums is not None:
        residue = (kd * SH + kh) * (SW if Z.last else 1) + kw
        tl.store(sums + (program.to(tl.int64) * RESIDUES + residue) * CO + co, tl.sum(total, axis=1), mask=m_line)
