"""The whole backward pass of a kernel = stride layer in one walk over memory: dx, dw and db from dy, x and w.

Such a layer meets every output once, so a tile of positions has all of its dz at hand. A program keeps dw for all taps and
channels in registers while it walks over tiles: it forms dz = dy * derivative, adds x * dz^T to dw and dz to db, and writes
dx = w * dz. What is saved for the derivative, dy and x are read once and dx is written once, which is the least there is;
the shares of dw and db are added afterwards, in order.

BLOCK_M >= CI input channels, BLOCK_N >= CO * taps columns, BLOCK_K positions.
"""

import triton
import triton.language as tl

from .tiles import place, position, widen


@triton.jit
def columns(index, CO: tl.constexpr, SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, LAST: tl.constexpr):
    """(d, h, w) of the tap and the channel of a line of dz, SD where there is none.

    Channels-last lines are (d, h, w, channel); channels-first ones (channel, d, h), and w is split off after the load.
    """
    if LAST:
        co, rest = index % CO, index // CO
        return rest // (SW * SH), rest // SW % SH, rest % SW, co
    else:
        co, rest = index // (SD * SH), index % (SD * SH)
        return tl.where(co < CO, rest // SH, SD), rest % SH, rest * 0, co


@triton.jit
def backward(dy, x, w, saved, dx, parts, sums, P, TD, TH, TW, g_n, g_c, g_d, g_h, g_w, x_n, x_c, x_d, x_h, x_w,
             o_n, o_c, o_d, o_h, o_w, w_ci, w_co, w_tap, p_share, p_ci, p_co, p_tap,
             SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr,
             Z_LAST: tl.constexpr, Z_RUN: tl.constexpr, X_LAST: tl.constexpr, X_RUN: tl.constexpr,
             O_LAST: tl.constexpr, O_RUN: tl.constexpr,
             DERIVATIVE: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
             BLOCK_K: tl.constexpr, STAGES: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr):
    """dy and saved [N, CO, TD * SD, TH * SH, TW * SW] share their strides, x and dx [N, CI, TD, TH, TW]; P = N * TD * TH * TW.

    saved and sums may be None. parts [programs, ci, co, tap] by its strides; sums [programs, residues, CO], where the
    residues are the taps, or those of (d, h) channels-first. Grid: programs.
    """
    SPLIT: tl.constexpr = 1 if Z_LAST else SW
    LINES: tl.constexpr = BLOCK_N // SPLIT
    RESIDUES: tl.constexpr = SD * SH * (SW if Z_LAST else 1)
    program, programs = tl.program_id(0).to(INDEX), tl.num_programs(0)
    g_n, g_c, g_d, g_h, g_w = widen(g_n, g_c, g_d, g_h, g_w, INDEX)
    x_n, x_c, x_d, x_h, x_w = widen(x_n, x_c, x_d, x_h, x_w, INDEX)
    o_n, o_c, o_d, o_h, o_w = widen(o_n, o_c, o_d, o_h, o_w, INDEX)
    P, w_ci, w_co, w_tap = tl.cast(P, INDEX), tl.cast(w_ci, INDEX), tl.cast(w_co, INDEX), tl.cast(w_tap, INDEX)
    if Z_LAST:
        g_c = 1
    if X_LAST:
        x_c = 1
    if O_LAST:
        o_c = 1
    ci = tl.arange(0, BLOCK_M)
    line = tl.arange(0, LINES)
    kd, kh, kw, co = columns(line, CO, SD, SH, SW, Z_LAST)
    z_line = tl.multiple_of(place(0, co, kd, kh, kw, 0, g_c, g_d, g_h, g_w), Z_RUN)
    z_line = tl.max_contiguous(z_line, Z_RUN if Z_LAST else 1)
    z_live = kd < SD

    column = tl.arange(0, BLOCK_N)  # of dw and w: (residue of w that was split off, line)
    cd, ch, cw, cc = columns(column % LINES, CO, SD, SH, SW, Z_LAST)
    tap = (cd * SH + ch) * SW + cw + column // LINES
    live = (ci < CI)[:, None] & (cd < SD)[None, :]
    wt = tl.load(w + ci[:, None] * w_ci + (cc * w_co + tap * w_tap)[None, :], mask=live, other=0.0)

    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    total = tl.zeros((LINES,), ACC)
    o_k = tl.arange(0, BLOCK_K)
    q = tl.arange(0, BLOCK_K * SPLIT)
    for tile in tl.range(program, tl.cdiv(P, BLOCK_K), programs, num_stages=STAGES):
        n, d, h, w_place = position(tile * BLOCK_K + q // SPLIT, TD, TH, TW)
        z_place = place(n, 0, d * SD, h * SH, 0, g_n, 0, g_d, g_h, 0) + (w_place * SW + q % SPLIT) * g_w
        z_place = tl.max_contiguous(tl.multiple_of(z_place, Z_RUN), 1 if Z_LAST else Z_RUN)
        seen = z_live[:, None] & (tile * (BLOCK_K * SPLIT) + q < P * SPLIT)[None, :]  # constant along a run
        dz = tl.load(dy + z_line[:, None] + z_place[None, :], mask=seen, other=0.0)  # [LINES, BLOCK_K * SPLIT]
        if saved is not None:
            at = tl.load(saved + z_line[:, None] + z_place[None, :], mask=seen, other=0.0).to(ACC)
            dz = tl.where(seen, dz.to(ACC) * DERIVATIVE(at, A, B), 0.0).to(dz.dtype)
        if sums is not None:
            total += tl.sum(dz.to(ACC), axis=1)
        n, d, h, w_place = position(tile * BLOCK_K + o_k, TD, TH, TW)
        x_seen = (ci < CI)[:, None] & (tile * BLOCK_K + o_k < P)[None, :]
        x_place = tl.multiple_of(place(n, 0, d, h, 0, x_n, 0, x_d, x_h, 0) + w_place * x_w, X_RUN)
        x_place = tl.max_contiguous(x_place, 1 if X_LAST else X_RUN)
        xt = tl.load(x + (ci * x_c)[:, None] + x_place[None, :], mask=x_seen, other=0.0)
        split = dz.reshape(LINES, BLOCK_K, SPLIT)
        acc = tl.dot(xt, split.permute(1, 2, 0).reshape(BLOCK_K, BLOCK_N), acc, out_dtype=ACC)
        out = tl.dot(wt, split.permute(2, 0, 1).reshape(BLOCK_N, BLOCK_K), out_dtype=ACC)
        o_place = tl.multiple_of(place(n, 0, d, h, 0, o_n, 0, o_d, o_h, 0) + w_place * o_w, O_RUN)
        o_place = tl.max_contiguous(o_place, 1 if O_LAST else O_RUN)
        tl.store(dx + (ci * o_c)[:, None] + o_place[None, :], out.to(dx.dtype.element_ty), mask=x_seen)
    at = ci.to(tl.int64)[:, None] * p_ci + (cc.to(tl.int64) * p_co + tap.to(tl.int64) * p_tap)[None, :]
    tl.store(parts + program.to(tl.int64) * p_share + at, acc, mask=live)
    if sums is not None:
        residue = (kd * SH + kh) * (SW if Z_LAST else 1) + kw
        tl.store(sums + (program.to(tl.int64) * RESIDUES + residue) * CO + co, total, mask=z_live)
