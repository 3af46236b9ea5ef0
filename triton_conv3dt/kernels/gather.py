"""The gather product on tensor cores: the forward (phases of y gather x) and the input gradient (dx gathers dz).

    out[(phase, row), position] = sum over (tap, channel) of  w[row, channel, tap] * in[channel, position + offset]

Weights are the first operand, positions the second: a tile of positions then reaches wgmma from shared memory without
passing through registers. Rows are (phase, channel), so that a layer with few channels still fills the tensor cores and
kernel = stride is one product that reads its input once.

X.reading says how the gathered tensor is read: by "pointers", whatever its strides; or by a tensor descriptor over channels-last
memory, which fills with zeros what lies outside: "rows" [place, channel] where positions are places, "box" [n, d, h, w,
channel], or "strided" [(n, d), h // step, h % step, w // step, (w % step, channel)], in which the places of a tap are neighbours.

A tile is TILE.m rows by TILE.n positions, reduced by TILE.k channels at a time.
"""

import triton
import triton.language as tl

from .flat import accumulate_flat
from .statistics import in_sample, leave_tile, tiles_of_sample
from .tiles import (
    axis_taps, box_origin, gathered, inside, load_tile, phase_of_program, place, position, position_by_factors, round_up_tf32, row_parts,
    tap_of_step, whole_runs, widen, write
)
from .turned import turned, turned_back


@triton.jit
def weight_guard(AXIS: tl.constexpr, first, j, r, W: tl.constexpr):
    """Whether tap j of a row's residue r exists: residues have different numbers of taps. r is the same for a run of rows, which
    the compiler does not see in all orders of rows."""
    RUN: tl.constexpr = W.run if W.minor == "row" else 1
    k = first + j * AXIS.tap_step + r
    return inside(tl.max_constancy(k, RUN) if RUN > 1 else k, AXIS.kernel)


@triton.jit
def described(x, box, tap, c, x_size, x_w, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, X: tl.constexpr,
              TILE: tl.constexpr):
    """One tile of a descriptor, [TILE.k, TILE.n]: the box that begins at (n, d, h, w), moved by a tap's (d, h, w)."""
    n, td, th, tw = box
    dd, dh, dw = tap
    if X.reading == "rows":
        tile = x.load([tw, c])
    elif X.reading == "box":
        tile = x.load([n, (td + dd).to(tl.int32), (th + dh).to(tl.int32), (tw + dw).to(tl.int32), c])
    else:
        SH: tl.constexpr = AXIS_H.in_step
        SW: tl.constexpr = AXIS_W.in_step
        LIFT_H: tl.constexpr = (SH - 1 - AXIS_H.offset) // SH if AXIS_H.offset < 0 else 0  # division rounds towards zero
        LIFT_W: tl.constexpr = (SW - 1 - AXIS_W.offset) // SW if AXIS_W.offset < 0 else 0
        h, w, d = dh + LIFT_H * SH, dw + LIFT_W * SW, td * AXIS_D.in_step + dd
        plane = tl.where(inside(d, x_size[0]), n * x_size[0] + d, -1)  # another sample's plane is outside, too
        tile = x.load([plane, th + h // SH - LIFT_H, h % SH, tw + w // SW - LIFT_W, (w % SW * x_w + c).to(tl.int32)])
    BLOCK_N: tl.constexpr = TILE.n
    BLOCK_K: tl.constexpr = TILE.k
    return tl.trans(tile.reshape(BLOCK_N, BLOCK_K))


@triton.jit
def multiply(acc, p_w, m_w, b_x, rw, w_tap, first_w, jw, FIRST: tl.constexpr, STEP: tl.constexpr, BLOCK_K: tl.constexpr,
             BLOCK_N: tl.constexpr, SPLIT: tl.constexpr, W: tl.constexpr, AXIS_W: tl.constexpr, DOT: tl.constexpr):
    """acc + the products of the taps FIRST, FIRST + STEP and so on, of which b_x [BLOCK_K, BLOCK_N * SPLIT] has the places of
    every tile column side by side. They are parted by halves in registers, where neighbours lie in one thread: what is then
    written to shared memory for a product is as wide as what was loaded. rw: the residue of each row.
    """
    PRECISION: tl.constexpr = DOT.precision
    W_RUN: tl.constexpr = W.run
    if SPLIT > 1:
        HALF: tl.constexpr = SPLIT // 2
        even, odd = tl.split(b_x.reshape(BLOCK_K, BLOCK_N * HALF, 2))
        acc = multiply(acc, p_w, m_w, even, rw, w_tap, first_w, jw, FIRST, 2 * STEP, BLOCK_K, BLOCK_N, HALF, W, AXIS_W, DOT)
        acc = multiply(acc, p_w, m_w, odd, rw, w_tap, first_w, jw, FIRST + STEP, 2 * STEP, BLOCK_K, BLOCK_N, HALF, W, AXIS_W, DOT)
    else:
        if AXIS_W.guard:
            m_w = m_w & weight_guard(AXIS_W, first_w, jw, rw + FIRST, W)[:, None]
        b_w = tl.load(p_w + FIRST * whole_runs(w_tap, W_RUN), mask=m_w, other=0.0)  # of one tap a mark would be lost
        if DOT.round:
            b_w = round_up_tf32(b_w)
        acc = tl.dot(b_w, b_x, acc, input_precision=PRECISION, out_dtype=tl.float32)
    return acc


@triton.jit
def accumulate(x, w, box, group, x_offset, x_live, origin, w_row_offset, m_live, residue, phase, x_size, x_stride, w_stride,
               AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, RED: tl.constexpr, X: tl.constexpr,
               W: tl.constexpr, TILE: tl.constexpr, DOT: tl.constexpr, EVEN_M: tl.constexpr):
    """The product of one phase (or of all merged ones, whose rows have a residue (d, h, w)): [TILE.m, TILE.n]."""
    BLOCK_M: tl.constexpr = TILE.m
    BLOCK_N: tl.constexpr = TILE.n
    BLOCK_K: tl.constexpr = TILE.k
    SPLIT: tl.constexpr = TILE.split
    X_RUN: tl.constexpr = X.run
    W_RUN: tl.constexpr = W.run
    taps_d, first_d, offset_d = axis_taps(AXIS_D, phase[0])
    taps_h, first_h, offset_h = axis_taps(AXIS_H, phase[1])
    taps_w, first_w, offset_w = axis_taps(AXIS_W, phase[2])
    w_row, w_red, w_tap = w_stride
    CHUNKS: tl.constexpr = (RED + BLOCK_K - 1) // BLOCK_K
    TURNED: tl.constexpr = TILE.turned
    ROW_RUN: tl.constexpr = 1 if X.last else X_RUN
    o_c = tl.arange(0, BLOCK_K)  # channels of the gathered tile
    x_c = turned(BLOCK_K, BLOCK_N * SPLIT, TURNED)[0] if TURNED is not None else o_c
    w_column_offset = tl.multiple_of(o_c * w_red, W_RUN)
    w_column_offset = tl.max_contiguous(w_column_offset, W_RUN if W.minor == "red" else 1)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    begin, end = 0, taps_d * taps_h * taps_w * CHUNKS
    if TILE.shares > 1:
        each = tl.cdiv(end, TILE.shares)
        begin = tl.program_id(2) * each
        end = tl.minimum(end, begin + each)
    for step in tl.range(begin, end, num_stages=TILE.stages):
        c0, tap = (step % CHUNKS) * BLOCK_K, step // CHUNKS
        jd, jh, jw = tap_of_step(tap, taps_h, taps_w)
        dd, dh, dw = offset_d + jd * AXIS_D.move, offset_h + jh * AXIS_H.move, offset_w + jw * AXIS_W.move
        if X.reading == "pointers":
            m_x = gathered(x_live, origin, (dd, dh, dw * SPLIT), x_size, AXIS_D, AXIS_H, AXIS_W, SPLIT, ROW_RUN)
            # A mark on the shift would be lost with its last term, which is folded away where it is zero.
            shift = dd * x_stride[2] + dh * x_stride[3] + dw * SPLIT * x_stride[4]
            if TURNED is not None:
                if RED % BLOCK_K != 0:
                    m_x = m_x & (c0 + x_c < RED)
                offset = tl.multiple_of(x_offset + (c0 + x_c) * x_stride[1] + shift, X_RUN)
                b_x = tl.load(x + tl.max_contiguous(offset, X_RUN), mask=m_x, other=0.0)
                b_x = turned_back(b_x, BLOCK_K, BLOCK_N * SPLIT, TURNED)
            else:
                m_x = m_x[None, :]
                if RED % BLOCK_K != 0:
                    m_x = m_x & (c0 + o_c < RED)[:, None]
                offset = tl.max_contiguous(tl.multiple_of(x_offset + shift, X_RUN), 1 if X.last else X_RUN)
                channel = tl.multiple_of((c0 + o_c) * x_stride[1], 1 if X.last else X_RUN)
                p_x = x + offset[None, :] + channel[:, None]
                b_x = load_tile(p_x, m_x, X_RUN)  # [BLOCK_K, BLOCK_N * SPLIT]
        else:
            c = (group * RED + c0).to(tl.int32)  # phases, and so steps, are as wide as offsets; coordinates have 32 bits
            b_x = described(x, box, (dd, dh, dw), c, x_size, x_stride[4], AXIS_D, AXIS_H, AXIS_W, X, TILE)
        kd, kh, kw = first_d + jd * AXIS_D.tap_step, first_h + jh * AXIS_H.tap_step, first_w + jw * AXIS_W.tap_step
        w_shift = tl.multiple_of(((kd * AXIS_H.kernel + kh) * AXIS_W.kernel + kw) * w_tap + c0 * w_red, W_RUN)
        m_w = tl.full((BLOCK_M, 1), True, tl.int1)
        if not EVEN_M:
            m_w = m_w & m_live[:, None]
        if AXIS_D.guard:
            m_w = m_w & weight_guard(AXIS_D, first_d, jd, residue[0], W)[:, None]
        if AXIS_H.guard:
            m_w = m_w & weight_guard(AXIS_H, first_h, jh, residue[1], W)[:, None]
        if RED % BLOCK_K != 0:
            m_w = m_w & (c0 + o_c < RED)[None, :]
        p_w = w + w_row_offset[:, None] + (w_column_offset + w_shift)[None, :]
        if DOT.round:
            b_x = round_up_tf32(b_x)
        acc = multiply(acc, p_w, m_w, b_x, residue[2], w_tap, first_w, jw, 0, 1, BLOCK_K, BLOCK_N, SPLIT, W, AXIS_W, DOT)
    return acc


@triton.jit
def gather(x, w, y, b, residual, pre, parts, P, size, magics, shifts, x_size, y_size, x_stride, w_stride, y_stride, r_stride,
           AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, ROWS: tl.constexpr, RED: tl.constexpr,
           X: tl.constexpr, W: tl.constexpr, Y: tl.constexpr, R: tl.constexpr, TILE: tl.constexpr, DOT: tl.constexpr,
           ACTIVATION: tl.constexpr, PARAMETERS: tl.constexpr, INDEX: tl.constexpr):
    """x [N, *, *x_size] is gathered, y [N, *, *y_size] written; size: coarse places (d, h, w), P: N times their product. magics, shifts:
    what a flat index is divided by to have its sample, plane and row.
    parts: of the statistics of y, or None; with them every tile has places of one sample.

    w_stride: (row, reduction channel, tap, group). Grid: (position tile, phase, row tile) with the row tile fastest, so that
    neighbours share what they read; and the convolution groups.
    """
    MD: tl.constexpr = AXIS_D.merged
    MH: tl.constexpr = AXIS_H.merged
    MW: tl.constexpr = AXIS_W.merged
    X_RUN: tl.constexpr = X.run
    W_RUN: tl.constexpr = W.run
    BLOCK_M: tl.constexpr = TILE.m
    BLOCK_N: tl.constexpr = TILE.n
    SPLIT: tl.constexpr = TILE.split
    BOX: tl.constexpr = TILE.box
    FLAT: tl.constexpr = AXIS_D.flat * AXIS_H.flat * AXIS_W.flat > 1  # then runs are along what is summed over
    INTERLEAVE: tl.constexpr = TILE.join if MW > 1 else 1  # w phases among the rows that the store wants among the columns
    ROW_TILES: tl.constexpr = (MD * MH * MW * ROWS + BLOCK_M - 1) // BLOCK_M
    PROGRAM_PHASES: tl.constexpr = AXIS_D.phases * AXIS_H.phases * AXIS_W.phases
    pid, group = tl.program_id(0).to(INDEX), tl.program_id(1)
    i_row, rest = pid % ROW_TILES, pid // ROW_TILES
    i_phase, i_position = rest % PROGRAM_PHASES, rest // PROGRAM_PHASES
    phase = phase_of_program(i_phase, AXIS_D, AXIS_H, AXIS_W)
    P, x_stride = tl.cast(P, INDEX), widen(x_stride, X.last, INDEX)

    if X.reading == "pointers":
        box = (0, 0, 0, 0)
        BLOCK_K: tl.constexpr = TILE.k
        TURNED: tl.constexpr = TILE.turned
        o_n = turned(BLOCK_K, BLOCK_N * SPLIT, TURNED)[1] if TURNED is not None else tl.arange(0, BLOCK_N * SPLIT)
        if parts is None:
            x_live = i_position * (BLOCK_N * SPLIT) + o_n < whole_runs(P * SPLIT, 1 if X.last or FLAT else X_RUN)
            n, td, th, tw = position_by_factors(i_position * BLOCK_N + o_n // SPLIT, size, magics, shifts, AXIS_D, AXIS_H, AXIS_W, INDEX)
        else:
            start, last = in_sample(i_position, size, BLOCK_N, INDEX)
            x_live = tl.multiple_of(start, 1 if X.last else X_RUN) + o_n < tl.multiple_of(last, 1 if X.last else X_RUN)
            n, td, th, tw = position(start + o_n, size)
        id0, ih0, iw0 = td * AXIS_D.in_step, th * AXIS_H.in_step, tw * AXIS_W.in_step + o_n % SPLIT
        x_offset = tl.multiple_of(place(n, 0, id0, ih0, 0, x_stride) + iw0 * x_stride[4], X_RUN)
        x_offset = tl.max_contiguous(x_offset, 1 if X.last or FLAT else X_RUN)
        x += group.to(tl.int64) * RED * x_stride[1]
    else:
        x_offset, x_live, id0, ih0, iw0 = 0, True, 0, 0, 0
        if X.reading == "rows":
            start = i_position.to(tl.int32) * BLOCK_N
            if parts is not None:
                start = in_sample(i_position, size, BLOCK_N, INDEX)[0].to(tl.int32)
            box = (0, 0, 0, start)
        else:
            box = box_origin(i_position.to(tl.int32), size, BOX)
    w += group.to(tl.int64) * w_stride[3]
    w_row, w_red, w_tap = tl.cast(w_stride[0], INDEX), tl.cast(w_stride[1], INDEX), tl.cast(w_stride[2], INDEX)
    if W.minor == "row":
        w_row = 1
    if W.minor == "red":
        w_red = 1

    o_m = tl.arange(0, BLOCK_M)
    LINES: tl.constexpr = BLOCK_M // INTERLEAVE
    PHASE_MINOR: tl.constexpr = TILE.phase_minor
    if INTERLEAVE > 1:
        if PHASE_MINOR:
            m_rw, line = o_m % INTERLEAVE, o_m // INTERLEAVE
        else:
            m_rw, line = o_m // LINES, o_m % LINES
        m_rd, m_rh, unused, m_channel = row_parts(i_row * LINES + line, ROWS, MD, MH, 1, PHASE_MINOR)
    else:
        m_rd, m_rh, m_rw, m_channel = row_parts(i_row * BLOCK_M + o_m, ROWS, MD, MH, MW, PHASE_MINOR)
    EVEN_M: tl.constexpr = MD * MH * MW * ROWS % BLOCK_M == 0
    m_live = i_row * BLOCK_M + o_m < MD * MH * MW * ROWS if PHASE_MINOR else (m_channel < ROWS) & (m_rd < MD)  # seen to be that of a run
    FIRST_TAP: tl.constexpr = -(AXIS_W.in_step // MW) if FLAT and MW > 1 else 1  # of a residue along w
    w_row_offset = m_channel * w_row
    if MD * MH * MW > 1:  # a mark is lost with a term that is folded away
        w_row_offset += ((m_rd * AXIS_H.kernel + m_rh) * AXIS_W.kernel + m_rw * FIRST_TAP) * w_tap
    w_row_offset = tl.max_contiguous(tl.multiple_of(w_row_offset, W_RUN), W_RUN if W.minor == "row" or PHASE_MINOR else 1)

    first, residue = phase, (m_rd, m_rh, m_rw)
    if TILE.join > INTERLEAVE:
        first = (phase[0], phase[1], 0)
    if TILE.shares > 1:
        places = P.to(tl.int64)
        if MW > 1:  # of which positions are pairs
            places = places // (size[0] * size[1] * size[2]) * y_size[0] * y_size[1] * y_size[2]
        y += tl.program_id(2).to(tl.int64) * (places * ROWS * tl.num_programs(1))  # shares lie one after the other
    if FLAT:
        tile = accumulate_flat(x, w, x_offset, x_live, (id0, ih0, iw0), w_row_offset, m_live, m_rw, x_size, x_stride,
                               (w_row, w_red, w_tap), AXIS_D, AXIS_H, AXIS_W, RED, X, W, TILE, DOT, EVEN_M)
    else:
        tile = accumulate(x, w, box, group, x_offset, x_live, (id0, ih0, iw0), w_row_offset, m_live, residue, first, x_size,
                          x_stride, (w_row, w_red, w_tap), AXIS_D, AXIS_H, AXIS_W, RED, X, W, TILE, DOT, EVEN_M)
    if TILE.join > INTERLEAVE:
        second = accumulate(x, w, box, group, x_offset, x_live, (id0, ih0, iw0), w_row_offset, m_live, residue,
                            (phase[0], phase[1], 1), x_size, x_stride, (w_row, w_red, w_tap), AXIS_D, AXIS_H, AXIS_W, RED, X,
                            W, TILE, DOT, EVEN_M)
        tile = tl.join(tile, second).reshape(BLOCK_M, BLOCK_N * 2)
    finish(tile, y, residual, pre, parts, b, i_row, i_position, group, i_phase, phase, P, size, magics, shifts, y_size, y_stride,
           r_stride, AXIS_D, AXIS_H, AXIS_W, ROWS, INTERLEAVE, Y, R, TILE, ACTIVATION, PARAMETERS, INDEX)


@triton.jit
def finish(tile, y, residual, pre, parts, b, i_row, i_position, group, i_phase, phase, P, size, magics, shifts, y_size, y_stride,
           r_stride, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, ROWS: tl.constexpr, INTERLEAVE: tl.constexpr,
           Y: tl.constexpr, R: tl.constexpr, TILE: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETERS: tl.constexpr,
           INDEX: tl.constexpr):
    """Bring a tile [rows, positions] into the order of the store, lines by columns, and write it and its statistics."""
    MD: tl.constexpr = AXIS_D.merged
    MH: tl.constexpr = AXIS_H.merged
    MW: tl.constexpr = AXIS_W.merged // INTERLEAVE
    BLOCK_N: tl.constexpr = TILE.n
    LINES: tl.constexpr = TILE.m // INTERLEAVE
    JOIN: tl.constexpr = TILE.join
    PHASE_MINOR: tl.constexpr = TILE.phase_minor
    BOX: tl.constexpr = TILE.box
    if INTERLEAVE > 1:
        if PHASE_MINOR:
            tile = tile.reshape(LINES, INTERLEAVE, BLOCK_N).permute(0, 2, 1).reshape(LINES, BLOCK_N * INTERLEAVE)
        else:
            tile = tile.reshape(INTERLEAVE, LINES, BLOCK_N).permute(1, 2, 0).reshape(LINES, BLOCK_N * INTERLEAVE)
    line = tl.arange(0, LINES).to(INDEX)
    if PHASE_MINOR and Y.last:  # the store wants channels side by side
        PHASE_ROWS: tl.constexpr = MD * MH * MW
        CHANNELS: tl.constexpr = LINES // PHASE_ROWS
        tile = tile.reshape(CHANNELS, PHASE_ROWS, BLOCK_N).permute(1, 0, 2).reshape(LINES, BLOCK_N)
        rd, rh, rw, channel = row_parts(line, CHANNELS, MD, MH, MW, False)
        channel += i_row * CHANNELS
    else:
        rd, rh, rw, channel = row_parts(i_row * LINES + line, ROWS, MD, MH, MW, PHASE_MINOR)
    live = (channel < ROWS) & (rd < MD)
    column = tl.arange(0, BLOCK_N * JOIN)
    if BOX is None and parts is None:
        n, td, th, tw = position_by_factors(i_position * BLOCK_N + column // JOIN, size, magics, shifts, AXIS_D, AXIS_H, AXIS_W, INDEX)
        live_column = i_position * (BLOCK_N * JOIN) + column < whole_runs(P * JOIN, 1 if Y.last else Y.run)
    elif BOX is None:
        Y_RUN: tl.constexpr = 1 if Y.last else Y.run
        start, last = in_sample(i_position, size, BLOCK_N, INDEX)
        n, td, th, tw = position(start + column // JOIN, size)
        live_column = tl.multiple_of(start * JOIN, Y_RUN) + column < tl.multiple_of(last * JOIN, Y_RUN)
    else:
        n, td, th, tw = box_origin(i_position, size, BOX)
        WIDTH: tl.constexpr = BOX[2] * JOIN
        live_w = tw * JOIN + column % WIDTH < whole_runs(size[2] * JOIN, 1 if Y.last else Y.run)
        td, th, tw = td + column // (WIDTH * BOX[1]), th + column // WIDTH % BOX[1], tw + column % WIDTH // JOIN
        live_column = (td < size[0]) & (th < size[1]) & live_w
    base_d = td * AXIS_D.out_step + phase[0] - AXIS_D.origin
    base_h = th * AXIS_H.out_step + phase[1] - AXIS_H.origin
    base_w = tw * AXIS_W.out_step + phase[2] - AXIS_W.origin + column % JOIN
    channel = group.to(INDEX) * ROWS + channel
    tile, written = write(tile, y, residual, pre, b, channel, (rd, rh, rw), n, (base_d, base_h, base_w), live, live_column,
                          y_size, widen(y_stride, Y.last, INDEX), widen(r_stride, R.last, INDEX), AXIS_D, AXIS_H, AXIS_W, Y, R,
                          ACTIVATION, PARAMETERS)
    if parts is not None:
        TOGETHER: tl.constexpr = TILE.together
        APART: tl.constexpr = (MD * MH * MW + TOGETHER - 1) // TOGETHER
        tiles, phases = tiles_of_sample(size, BLOCK_N, BOX, INDEX), AXIS_D.phases * AXIS_H.phases * AXIS_W.phases
        share = (i_position % tiles * phases + i_phase) * APART
        if APART > 1:
            share += ((rd * MH + rh) * MW + rw) // TOGETHER
        leave_tile(parts, tile, written, channel, live, i_position // tiles, share, tl.num_programs(1) * ROWS,
                   tiles * phases * APART, TOGETHER, PHASE_MINOR and not Y.last)
