"""The whole backward pass of a kernel = stride layer in one walk over memory: dx, dw and db from dy, x and w.

Such a layer meets every output once, so a tile of positions has all of its dz at hand. A program keeps dw for all taps and
channels in registers while it walks over tiles: it forms dz = dy * derivative, adds x * dz^T to dw and dz to db, and writes
dx = w * dz. What is saved for the derivative, dy and x are read once and dx is written once, which is the least there is;
the shares of dw and db are added afterwards, in order.

A tile is TILE.m >= CI input channels by TILE.n >= CO * taps columns by TILE.k positions.
"""

import triton
import triton.language as tl

from .tiles import place, position, quotient, whole_runs, widen


@triton.jit
def tap_and_channel(column, CO: tl.constexpr, TAPS: tl.constexpr, LAST: tl.constexpr):
    """What a column is: channels-last they count (tap, channel), channels-first (channel, tap), as w mostly lies and a share of dw does."""
    if LAST:
        return column // CO, column % CO
    else:
        return column % TAPS, column // TAPS


@triton.jit
def carried(index, size, magics, shifts, stride, INDEX: tl.constexpr):
    """How far the place with a flat index lies from index * stride[4], of strides (n, unused, d, h, w): each quotient adds what a
    carry into it is worth."""
    if INDEX == tl.int32:
        rows, planes = quotient(index, magics[2], shifts[2]), quotient(index, magics[1], shifts[1])
        samples = quotient(index, magics[0], shifts[0])
        carry_h, carry_d = stride[3] - stride[4] * size[2], stride[2] - stride[3] * size[1]
        carry_n = stride[0] - stride[2] * size[0]
        return samples * carry_n + planes * carry_d + rows * carry_h
    else:
        n, d, h, w = position(index, size)
        return place(n, 0, d, h, w - index, stride)


@triton.jit
def backward(dy, x, w, saved, dx, parts, sums, P, size, magics, shifts, g_stride, x_stride, o_stride, w_stride,
             STRIDE: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, Z: tl.constexpr, X: tl.constexpr, O: tl.constexpr,
             W: tl.constexpr, TILE: tl.constexpr, DERIVATIVE: tl.constexpr, PARAMETERS: tl.constexpr, INDEX: tl.constexpr):
    """dy and saved [N, CO, *size times STRIDE] share their strides, x and dx [N, CI, *size]; P: N times the product of size.

    magics, shifts: what a flat index is divided by to have its sample, plane and row. saved and sums may be None. w_stride: (ci, co,
    tap). parts [programs, ci, column]; sums [programs, residues, CO], where the residues are the taps, or those of (d, h)
    channels-first, of which w is split off after the load. Grid: programs.
    """
    SD: tl.constexpr = STRIDE[0]
    SH: tl.constexpr = STRIDE[1]
    SW: tl.constexpr = STRIDE[2]
    TAPS: tl.constexpr = SD * SH * SW
    COLUMNS: tl.constexpr = CO * TAPS
    BLOCK_M: tl.constexpr = TILE.m
    BLOCK_N: tl.constexpr = TILE.n
    BLOCK_K: tl.constexpr = TILE.k
    SPLIT: tl.constexpr = TILE.split
    X_RUN: tl.constexpr = X.run
    Z_RUN: tl.constexpr = Z.run
    O_RUN: tl.constexpr = O.run
    W_RUN: tl.constexpr = W.run
    LINES: tl.constexpr = BLOCK_N // SPLIT
    PLACES: tl.constexpr = BLOCK_K * SPLIT
    program, programs = tl.program_id(0).to(INDEX), tl.num_programs(0)
    g_stride, x_stride, o_stride = widen(g_stride, Z.last, INDEX), widen(x_stride, X.last, INDEX), widen(o_stride, O.last, INDEX)
    w_ci, w_co, w_tap = tl.cast(w_stride[0], INDEX), tl.cast(w_stride[1], INDEX), tl.cast(w_stride[2], INDEX)
    P = tl.cast(P, INDEX)
    ci = tl.arange(0, BLOCK_M)
    line = tl.arange(0, LINES)
    z_tap, z_co = tap_and_channel(line * SPLIT, CO, TAPS, Z.last)
    z_line = place(0, 0, z_tap // (SH * SW), z_tap // SW % SH, 0, g_stride)
    if SPLIT == 1:
        z_line += z_tap % SW * g_stride[4]
    z_line = tl.max_contiguous(tl.multiple_of(z_line + z_co * g_stride[1], Z_RUN), Z_RUN if Z.last else 1)
    m_line = line * SPLIT < COLUMNS
    z_stride = g_stride[0], 0, g_stride[2] * SD, g_stride[3] * SH, g_stride[4] * SW

    HALVES: tl.constexpr = 2 if SPLIT == 2 and LINES >= 16 else 1  # of the columns, each with products of its own
    column = tl.arange(0, BLOCK_N)
    if HALVES < SPLIT:  # the residue of w that was split off counts slower than lines
        column = column % LINES * SPLIT + column // LINES
    m_w = (ci < CI)[:, None] & (column < COLUMNS)[None, :]
    tap, co = tap_and_channel(column, CO, TAPS, Z.last)
    w_column = tl.max_contiguous(tl.multiple_of(co * w_co + tap * w_tap, W_RUN), W_RUN)
    b_w = tl.load(w + ((ci * w_ci)[:, None] + w_column[None, :]), mask=m_w, other=0.0)
    odd_w = b_w
    if HALVES == 2:
        b_w, odd_w = tl.split(b_w.reshape(BLOCK_M, LINES, 2))

    acc = tl.zeros((BLOCK_M, BLOCK_N // HALVES), tl.float32)
    odd = tl.zeros((BLOCK_M, BLOCK_N // HALVES), tl.float32)
    # A thread sums those places of a line that it has, and the others are added to them once, at the end: channels-last a few that lie
    # apart, channels-first runs.
    FOLD: tl.constexpr = 4 if Z.last else Z_RUN
    APART: tl.constexpr = 1 if Z.last or PLACES // FOLD <= 32 else PLACES // FOLD // 32
    KEPT: tl.constexpr = PLACES // FOLD // APART
    total = tl.zeros((LINES, KEPT), tl.float32)
    o_k = tl.arange(0, BLOCK_K)
    o_q = tl.arange(0, PLACES)
    for tile in tl.range(program, tl.cdiv(P, BLOCK_K), programs, num_stages=TILE.stages):
        index = tile * BLOCK_K + o_q // SPLIT
        z_place = carried(index, size, magics, shifts, z_stride, INDEX) + (index * SW + o_q % SPLIT) * g_stride[4]
        z_place = tl.max_contiguous(tl.multiple_of(z_place, Z_RUN), 1 if Z.last else Z_RUN)
        m_z = (tile * PLACES + o_q < whole_runs(P * SPLIT, 1 if Z.last else Z_RUN))[None, :]
        if COLUMNS < BLOCK_N:
            m_z = m_z & m_line[:, None]
        b_z = tl.load(dy + (z_line[:, None] + z_place[None, :]), mask=m_z, other=0.0)  # [LINES, PLACES]
        if saved is not None:
            at = tl.load(saved + (z_line[:, None] + z_place[None, :]), mask=m_z, other=0.0).to(tl.float32)
            slope = DERIVATIVE(at, PARAMETERS[0], PARAMETERS[1])
            b_z = tl.where(m_z, b_z.to(tl.float32) * slope, 0.0).to(b_z.dtype)
        if sums is not None:
            if Z.last:
                total += tl.sum(b_z.to(tl.float32).reshape(LINES, FOLD, KEPT), axis=1)
            else:
                runs = tl.sum(b_z.to(tl.float32).reshape(LINES, APART, KEPT, FOLD), axis=3)
                total += tl.sum(runs, axis=1)
        index = tile * BLOCK_K + o_k
        m_x = (index < whole_runs(P, (1 if X.last else X_RUN) if O.last else O_RUN))[None, :]
        if CI < BLOCK_M:
            m_x = m_x & (ci < CI)[:, None]
        x_place = tl.multiple_of(carried(index, size, magics, shifts, x_stride, INDEX) + index * x_stride[4], X_RUN)
        x_place = tl.max_contiguous(x_place, 1 if X.last else X_RUN)
        b_x = tl.load(x + ((ci * x_stride[1])[:, None] + x_place[None, :]), mask=m_x, other=0.0)
        split = b_z.reshape(LINES, BLOCK_K, SPLIT)
        if HALVES == 2:  # parted in registers, where neighbours lie in one thread: pairs are what is written to shared memory
            even_z, odd_z = tl.split(split)
            acc = tl.dot(b_x, tl.trans(even_z), acc, out_dtype=tl.float32)
            odd = tl.dot(b_x, tl.trans(odd_z), odd, out_dtype=tl.float32)
            b_dx = tl.dot(odd_w, odd_z, tl.dot(b_w, even_z, out_dtype=tl.float32), out_dtype=tl.float32)
        else:
            acc = tl.dot(b_x, split.permute(1, 2, 0).reshape(BLOCK_K, BLOCK_N), acc, out_dtype=tl.float32)
            b_dx = tl.dot(b_w, split.permute(2, 0, 1).reshape(BLOCK_N, BLOCK_K), out_dtype=tl.float32)
        o_place = tl.multiple_of(carried(index, size, magics, shifts, o_stride, INDEX) + index * o_stride[4], O_RUN)
        o_place = tl.max_contiguous(o_place, 1 if O.last else O_RUN)
        tl.store(dx + ((ci * o_stride[1])[:, None] + o_place[None, :]), b_dx.to(dx.dtype.element_ty), mask=m_x)
    if HALVES == 2:
        acc = tl.join(acc, odd).reshape(BLOCK_M, BLOCK_N)
    parts += program.to(tl.int64) * (CI * COLUMNS)
    tl.store(parts + (ci[:, None] * COLUMNS + column[None, :]), acc, mask=m_w)
    if sums is not None:
        sums += program.to(tl.int64) * (COLUMNS // SPLIT)
        tl.store(sums + (z_tap // SPLIT * CO + z_co), tl.sum(total, axis=1), mask=m_line)
