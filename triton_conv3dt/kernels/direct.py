"""The gather product without tensor cores: depthwise and narrow groups, few reduction channels, and fp64.

A program computes a box of coarse places. Taps along d are steps of a loop; those along h and w, with all phases, are
unrolled where they are not too many (Reads): what a thread reads of a plane serves every line, column and phase that wants it.
"""

import triton
import triton.language as tl

from .lanes import lane_parts, side_by_side, taps_within, within, zeros
from .statistics import leave_lanes, tiles_of_sample
from .tiles import axis_taps, box_origin, phase_of_program, tap_of_step, widen


@triton.jit
def unrolled_taps(AXIS: tl.constexpr, READS: tl.constexpr, phase):
    """As axis_taps, of an axis whose taps may be unrolled: then it is a single step."""
    if READS.unrolled:
        ONE: tl.constexpr = 1
        ZERO: tl.constexpr = 0
        return ONE, ZERO, ZERO
    else:
        return axis_taps(AXIS, phase)


@triton.jit
def weights_of(p_w, w_row, w_tap, channel, READS_H: tl.constexpr, READS_W: tl.constexpr, KERNEL_W: tl.constexpr,
               CHANNELS: tl.constexpr, EVEN: tl.constexpr, SHARED: tl.constexpr, ACC: tl.constexpr):
    """The weights of the unrolled taps (h, w), those of the channels that share what is read one after the other."""
    weights = ()
    for k in tl.static_range(READS_H.taps * READS_W.taps):
        for u in tl.static_range(SHARED):
            p = p_w + (u * w_row + (k // READS_W.taps * KERNEL_W + k % READS_W.taps) * w_tap)
            if EVEN:
                weights = weights + (tl.load(p).to(ACC),)
            else:
                weights = weights + (tl.load(p, mask=channel + u < CHANNELS, other=0.0).to(ACC),)
    return weights


@triton.jit
def use(acc, b_x, weights, I: tl.constexpr, J: tl.constexpr, READS_H: tl.constexpr, READS_W: tl.constexpr,
        SHARED: tl.constexpr):
    """What the I-th read along h and J-th along w is for."""
    STARTS_H: tl.constexpr = READS_H.start
    LINES: tl.constexpr = READS_H.line
    TAPS_H: tl.constexpr = READS_H.tap
    STARTS_W: tl.constexpr = READS_W.start
    PHASES: tl.constexpr = READS_W.line
    TAPS_W: tl.constexpr = READS_W.tap
    FIRST_H: tl.constexpr = STARTS_H[I]
    LAST_H: tl.constexpr = STARTS_H[I + 1]
    FIRST_W: tl.constexpr = STARTS_W[J]
    LAST_W: tl.constexpr = STARTS_W[J + 1]
    for a in tl.static_range(FIRST_H, LAST_H):
        for c in tl.static_range(FIRST_W, LAST_W):
            for u in tl.static_range(SHARED):
                # A function of its own for one product would cost the interpreter more than the product.
                more = acc[(LINES[a] * READS_W.lines + PHASES[c]) * SHARED + u] + b_x * weights[
                    (TAPS_H[a] * READS_W.taps + TAPS_W[c]) * SHARED + u]
                acc = (acc[:(LINES[a] * READS_W.lines + PHASES[c]) * SHARED + u] + (more,)
                       + acc[(LINES[a] * READS_W.lines + PHASES[c]) * SHARED + u + 1:])
    return acc


@triton.jit
def accumulate(x, w, n, origin, channel, phase, x_size, x_stride, w_stride, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr,
               AXIS_W: tl.constexpr, READS_H: tl.constexpr, READS_W: tl.constexpr, ROWS: tl.constexpr, RED: tl.constexpr,
               GROUPS: tl.constexpr, X: tl.constexpr, LANES: tl.constexpr, ACC: tl.constexpr):
    """Sums of the lanes by (line of h, phase of w, channel that shares what is read)."""
    X_RUN: tl.constexpr = X.run
    SHARED: tl.constexpr = LANES.shared
    OFFSETS_H: tl.constexpr = READS_H.offset
    OFFSETS_W: tl.constexpr = READS_W.offset
    INSIDE_H: tl.constexpr = READS_H.inside
    INSIDE_W: tl.constexpr = READS_W.inside
    BOX: tl.constexpr = LANES.box
    SIZE: tl.constexpr = LANES.channels * BOX[0] * BOX[1] * BOX[2]
    CHANNELS: tl.constexpr = ROWS * GROUPS
    EVEN: tl.constexpr = CHANNELS % (LANES.channels * SHARED) == 0
    FIRST_W: tl.constexpr = OFFSETS_W[0] if len(OFFSETS_W) > 0 else 0
    taps_d, first_d, offset_d = axis_taps(AXIS_D, phase[0])
    taps_h, first_h, offset_h = unrolled_taps(AXIS_H, READS_H, phase[1])
    taps_w, first_w, offset_w = unrolled_taps(AXIS_W, READS_W, phase[2])
    id0, ih0, iw0, iw_run = origin
    w_row, w_red, w_tap, w_group = w_stride
    group = channel // ROWS
    w_offset = (channel % ROWS) * w_row + group * w_group
    x_channel = group * RED
    acc = zeros(READS_H.lines * READS_W.lines * SHARED, SIZE, ACC)
    first_step, end = 0, taps_d
    if AXIS_D.halo and BOX[0] == 1:  # a program has one plane: what it would read of others is left out and needs no mask
        first_step, end = taps_within(id0 + offset_d, AXIS_D.move, taps_d, x_size[0])
    inner = taps_h * taps_w * RED
    for step in range(first_step * inner, end * inner):
        red, tap = step % RED, step // RED
        jd, jh, jw = tap_of_step(tap, taps_h, taps_w)
        kd, kh, kw = first_d + jd * AXIS_D.tap_step, first_h + jh * AXIS_H.tap_step, first_w + jw * AXIS_W.tap_step
        tap_index = (kd * AXIS_H.kernel + kh) * AXIS_W.kernel + kw
        weights = weights_of(w + (w_offset + tap_index * w_tap + red * w_red), w_row, w_tap, channel, READS_H,
                             READS_W, AXIS_W.kernel, CHANNELS, EVEN, SHARED, ACC)
        d, h = id0 + offset_d + jd * AXIS_D.move, ih0 + offset_h + jh * AXIS_H.move
        shift_w = offset_w + jw * AXIS_W.move + FIRST_W
        m_plane = tl.full((SIZE,), True, tl.int1)
        if not EVEN:
            m_plane = m_plane & (channel < CHANNELS)
        if AXIS_D.halo and BOX[0] > 1:
            m_plane = m_plane & within(d, x_size[0])
        plane = n * x_stride[0] + d * x_stride[2] + h * x_stride[3] + (iw0 + shift_w) * x_stride[4]
        if not X.last:
            plane += (x_channel + red) * x_stride[1]
        for i in tl.static_range(len(OFFSETS_H)):
            row_h = h + OFFSETS_H[i]
            x_offset = tl.multiple_of(plane + OFFSETS_H[i] * x_stride[3], X_RUN)
            if X.last:
                x_offset += x_channel + red
            else:
                x_offset = tl.max_contiguous(x_offset, X_RUN)
            p_x, m_row = x + x_offset, m_plane
            if AXIS_H.halo and not INSIDE_H[i]:
                m_row = m_row & within(row_h, x_size[1])
            for j in tl.static_range(len(OFFSETS_W)):
                m_x = m_row
                if AXIS_W.halo and not INSIDE_W[j]:
                    m_x = m_x & within(iw_run + (shift_w + (OFFSETS_W[j] - FIRST_W)), x_size[2])
                b_x = tl.load(p_x + (OFFSETS_W[j] - FIRST_W) * x_stride[4], mask=m_x, other=0.0).to(ACC)
                acc = use(acc, b_x, weights, i, j, READS_H, READS_W, SHARED)
    return acc


@triton.jit
def finish(tile, y, residual, pre, bias, channel, live, n, d, h, w, P: tl.constexpr, y_stride, r_stride, Y: tl.constexpr,
           R: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETERS: tl.constexpr):
    """The epilogue of one row of lanes, one rounding, and the store, P places beside w. bias, residual and pre may be None.
    Returns what was stored, as the accumulator's type."""
    Y_RUN: tl.constexpr = Y.run
    R_RUN: tl.constexpr = R.run
    if bias is not None:
        tile += bias
    offset = n * y_stride[0] + d * y_stride[2] + h * y_stride[3] + w * y_stride[4]
    beside = P * y_stride[4]  # added to a pointer, a constant is part of the instruction
    if Y.last:
        offset, beside = tl.multiple_of(offset + beside, Y_RUN) + channel, 0
    else:
        offset = tl.max_contiguous(tl.multiple_of(offset + channel * y_stride[1], Y_RUN), Y_RUN)
    if residual is not None:
        r_beside = P * r_stride[4]
        r_offset = n * r_stride[0] + d * r_stride[2] + h * r_stride[3] + w * r_stride[4]
        if R.last:
            r_offset, r_beside = tl.multiple_of(r_offset + r_beside, R_RUN) + channel, 0
        else:
            r_offset = tl.max_contiguous(tl.multiple_of(r_offset + channel * r_stride[1], R_RUN), R_RUN)
        tile += tl.load(residual + r_offset + r_beside, mask=live, other=0.0).to(tile.dtype)
    if pre is not None:
        tl.store(pre + offset + beside, tile.to(pre.dtype.element_ty), mask=live)
    if ACTIVATION is not None:
        tile = ACTIVATION(tile, PARAMETERS[0], PARAMETERS[1])
    tl.store(y + offset + beside, tile.to(y.dtype.element_ty), mask=live)
    return tile.to(y.dtype.element_ty).to(tile.dtype)


@triton.jit
def direct(x, w, y, b, residual, pre, parts, size, x_size, y_size, x_stride, w_stride, y_stride, r_stride, AXIS_D: tl.constexpr,
           AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, READS_H: tl.constexpr, READS_W: tl.constexpr, ROWS: tl.constexpr,
           RED: tl.constexpr, GROUPS: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, R: tl.constexpr, LANES: tl.constexpr,
           ACTIVATION: tl.constexpr, PARAMETERS: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr):
    """As gather.gather, with the groups among the channels. size: coarse places. w_stride: (row, reduction channel, tap, group).
    Grid: (box, channel tile, phase), the last fastest; the phases of unrolled axes are not counted.
    """
    SHARED: tl.constexpr = LANES.shared
    CHANNELS: tl.constexpr = ROWS * GROUPS
    TILES: tl.constexpr = (CHANNELS + LANES.channels * SHARED - 1) // (LANES.channels * SHARED)
    PROGRAM_PHASES: tl.constexpr = AXIS_D.phases * AXIS_H.phases * AXIS_W.phases
    LINES: tl.constexpr = LANES.lines
    COLUMNS: tl.constexpr = LANES.columns
    BOX: tl.constexpr = LANES.box
    SIDES: tl.constexpr = LANES.sides
    SIZE: tl.constexpr = LANES.channels * BOX[0] * BOX[1] * BOX[2]
    X_RUN: tl.constexpr = 1 if X.last else X.run
    Y_RUN: tl.constexpr = 1 if Y.last else Y.run
    JOIN: tl.constexpr = LANES.join if LANES.last or Y.run > 1 else 1  # unaligned rows are written one by one
    JOIN_W: tl.constexpr = 1 if LANES.last else JOIN
    JOIN_C: tl.constexpr = JOIN if LANES.last else 1
    pid = tl.program_id(0)
    phase = phase_of_program(pid % PROGRAM_PHASES, AXIS_D, AXIS_H, AXIS_W)
    rest = pid // PROGRAM_PHASES
    tile = rest % TILES
    n, d0, h0, w0 = box_origin(rest // TILES, size, SIDES)
    x_stride = widen(x_stride, X.last, INDEX)
    y_stride, r_stride = widen(y_stride, Y.last, INDEX), widen(r_stride, R.last, INDEX)
    w_row, w_red, w_tap = tl.cast(w_stride[0], INDEX), tl.cast(w_stride[1], INDEX), tl.cast(w_stride[2], INDEX)
    w_stride = (w_row, w_red, w_tap, tl.cast(w_stride[3], INDEX))
    c, d, h, t = lane_parts(tl.arange(0, SIZE), LANES)
    channel = (tile * LANES.channels + c) * SHARED
    origin = ((d0 + d) * AXIS_D.in_step, (h0 + h * LINES) * AXIS_H.in_step, (w0 + t * COLUMNS) * AXIS_W.in_step,
              (w0 + t * COLUMNS // X_RUN * X_RUN) * AXIS_W.in_step)  # the same along a run
    acc = accumulate(x, w, n, origin, channel, phase, x_size, x_stride, w_stride, AXIS_D, AXIS_H, AXIS_W,
                     READS_H, READS_W, ROWS, RED, GROUPS, X, LANES, ACC)
    lane = tl.arange(0, SIZE * JOIN)
    c, d, h, t = lane_parts(lane // JOIN, LANES)
    channel = (tile * LANES.channels + c) * SHARED
    if JOIN_C > 1:
        channel += lane % JOIN
    y_d = (d0 + d) * AXIS_D.out_step + phase[0]
    y_h = (h0 + h * LINES) * AXIS_H.out_step + phase[1]
    y_w = (w0 + t * COLUMNS) * AXIS_W.out_step + phase[2]
    if JOIN_W > 1:
        y_w += lane % JOIN
    w_run = y_w
    if Y_RUN > 1:  # the box's rows are written whole
        w_run = w0 * AXIS_W.out_step + lane % (BOX[2] * JOIN_W) // Y_RUN * Y_RUN
    LINES_H: tl.constexpr = READS_H.lines
    PHASES_H: tl.constexpr = READS_H.lines // LINES
    LINES_W: tl.constexpr = READS_W.lines
    for u in tl.static_range(SHARED // JOIN_C):
        bias = None
        if b is not None:
            bias = tl.load(b + channel + u, mask=channel + u < CHANNELS, other=0.0).to(ACC)
        values, lives = (), ()
        for line in tl.static_range(LINES_H):
            line_h = y_h + (line // PHASES_H * AXIS_H.out_step + line % PHASES_H)
            for p in tl.static_range(LINES_W // JOIN_W):
                each = side_by_side(acc, line * LINES_W * SHARED + p * SHARED * JOIN_W + u * JOIN_C,
                                    SHARED if JOIN_W > 1 else 1, JOIN)
                live = tl.full((SIZE * JOIN,), True, tl.int1)
                if CHANNELS % (LANES.channels * SHARED) != 0:
                    live = live & (channel + u < CHANNELS)
                if AXIS_D.edge:
                    live = live & within(y_d, y_size[0])
                if AXIS_H.edge:
                    live = live & within(line_h, y_size[1])
                if AXIS_W.edge:
                    live = live & within(w_run + p, y_size[2])
                each = finish(each, y, residual, pre, bias, channel + u, live, n, y_d, line_h, y_w, p, y_stride, r_stride, Y,
                              R, ACTIVATION, PARAMETERS)
                if parts is not None:
                    values, lives = values + (each,), lives + (live,)
        if parts is not None:
            i_box, boxes = rest // TILES, tiles_of_sample(size, 1, SIDES, INDEX)
            leave_lanes(parts, values, lives, tile * LANES.channels * SHARED + u, n, i_box % boxes * PROGRAM_PHASES +
                        pid % PROGRAM_PHASES, boxes * PROGRAM_PHASES, CHANNELS, LANES.channels * JOIN_C,
                        SHARED if JOIN_C == 1 else 1, LINES_H * (LINES_W // JOIN_W), LANES.last)
