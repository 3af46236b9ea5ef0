"""The weight gradient without tensor cores: depthwise and narrow groups, and fp64. All taps along h and w in one program, unrolled
where they are not too many; what a thread reads of dz serves every line, column and tap that wants it.
"""

import triton
import triton.language as tl

from .lanes import lane_parts, within, zeros
from .tiles import box_origin, widen


@triton.jit
def use(acc, lines, b_z, I: tl.constexpr, J: tl.constexpr, READS_H: tl.constexpr, READS_W: tl.constexpr,
        SHARED: tl.constexpr):
    """What the I-th read of dz along h and J-th along w is for."""
    STARTS_H: tl.constexpr = READS_H.start
    LINES: tl.constexpr = READS_H.line
    TAPS_H: tl.constexpr = READS_H.tap
    STARTS_W: tl.constexpr = READS_W.start
    COLUMNS: tl.constexpr = READS_W.line
    TAPS_W: tl.constexpr = READS_W.tap
    FIRST_H: tl.constexpr = STARTS_H[I]
    LAST_H: tl.constexpr = STARTS_H[I + 1]
    FIRST_W: tl.constexpr = STARTS_W[J]
    LAST_W: tl.constexpr = STARTS_W[J + 1]
    for a in tl.static_range(FIRST_H, LAST_H):
        for c in tl.static_range(FIRST_W, LAST_W):
            for u in tl.static_range(SHARED):
                more = acc[(TAPS_H[a] * READS_W.taps + TAPS_W[c]) * SHARED + u] + lines[
                    (LINES[a] * READS_W.lines + COLUMNS[c]) * SHARED + u] * b_z
                acc = (acc[:(TAPS_H[a] * READS_W.taps + TAPS_W[c]) * SHARED + u] + (more,)
                       + acc[(TAPS_H[a] * READS_W.taps + TAPS_W[c]) * SHARED + u + 1:])
    return acc


@triton.jit
def multiply(acc, x, z, live, n, place, source, channel, shift, x_size, z_size, x_stride, z_stride, AXIS_D: tl.constexpr,
             AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, READS_H: tl.constexpr, READS_W: tl.constexpr, X: tl.constexpr,
             Z: tl.constexpr, LANES: tl.constexpr, ACC: tl.constexpr):
    """One box: its products, added to the sums by (tap h, tap w, input channel)."""
    X_RUN: tl.constexpr = X.run
    Z_RUN: tl.constexpr = Z.run
    SHARED: tl.constexpr = LANES.shared
    OFFSETS_H: tl.constexpr = READS_H.offset
    OFFSETS_W: tl.constexpr = READS_W.offset
    INSIDE_H: tl.constexpr = READS_H.inside
    INSIDE_W: tl.constexpr = READS_W.inside
    d, h, w, w_run, z_w, z_run = place
    if AXIS_D.edge:
        live = live & within(d, x_size[0])
    if AXIS_W.edge:
        live = live & within(w_run, x_size[2])
    lines = ()
    COUNT: tl.constexpr = LANES.lines
    for i in tl.static_range(COUNT):
        offset = n * x_stride[0] + d * x_stride[2] + (h + i) * x_stride[3] + w * x_stride[4]
        m_x = live
        if AXIS_H.edge:
            m_x = m_x & within(h + i, x_size[1])
        for k in tl.static_range(LANES.columns * SHARED):
            if X.last:
                x_offset = tl.multiple_of(offset, X_RUN) + source[k % SHARED]
            else:
                x_offset = tl.max_contiguous(tl.multiple_of(offset + source[k % SHARED] * x_stride[1], X_RUN), X_RUN)
            p_x = x + x_offset + k // SHARED * x_stride[4]
            lines = lines + (tl.load(p_x, mask=m_x, other=0.0).to(ACC),)
    z_d = d * AXIS_D.in_step + shift[0]
    BOX: tl.constexpr = LANES.box
    if AXIS_D.halo and BOX[0] > 1:
        live = live & within(z_d, z_size[0])
    z_h0 = h * AXIS_H.in_step + shift[1]
    plane = n * z_stride[0] + z_d * z_stride[2] + z_h0 * z_stride[3] + (z_w + (shift[2] + OFFSETS_W[0])) * z_stride[4]
    if not Z.last:
        plane += channel * z_stride[1]
    for i in tl.static_range(len(OFFSETS_H)):
        z_h = z_h0 + OFFSETS_H[i]
        offset = tl.multiple_of(plane + OFFSETS_H[i] * z_stride[3], Z_RUN)
        if Z.last:
            offset += channel
        else:
            offset = tl.max_contiguous(offset, Z_RUN)
        p_z, m_row = z + offset, live
        if AXIS_H.halo and not INSIDE_H[i]:
            m_row = m_row & within(z_h, z_size[1])
        for j in tl.static_range(len(OFFSETS_W)):
            m_z = m_row
            if AXIS_W.halo and not INSIDE_W[j]:
                m_z = m_z & within(z_run + (shift[2] + OFFSETS_W[j]), z_size[2])
            b_z = tl.load(p_z + (OFFSETS_W[j] - OFFSETS_W[0]) * z_stride[4], mask=m_z, other=0.0).to(ACC)
            acc = use(acc, lines, b_z, i, j, READS_H, READS_W, SHARED)
    return acc


@triton.jit
def grad_weight_direct(x, z, parts, BOXES, SHARE, size, z_size, x_stride, z_stride, p_stride, AXIS_D: tl.constexpr,
                       AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, READS_H: tl.constexpr, READS_W: tl.constexpr,
                       CI: tl.constexpr, CO: tl.constexpr, CHANNELS: tl.constexpr, X: tl.constexpr, Z: tl.constexpr,
                       LANES: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr):
    """One share of dw for LANES.channels of all the output channels, LANES.shared input channels of their group and the
    unrolled taps; SHARE boxes of places. CI and CO are per group, CHANNELS = CO * groups.

    Grid: (tap that is not unrolled, input channels of the group, channel tile), share.
    """
    SHARED: tl.constexpr = LANES.shared
    COLUMNS: tl.constexpr = LANES.columns
    BOX: tl.constexpr = LANES.box
    SIDES: tl.constexpr = LANES.sides
    PLACES: tl.constexpr = BOX[0] * BOX[1] * BOX[2]
    SIZE: tl.constexpr = LANES.channels * PLACES
    TILES: tl.constexpr = (CHANNELS + LANES.channels - 1) // LANES.channels
    INPUTS: tl.constexpr = CI // SHARED
    LOOPED_H: tl.constexpr = 1 if READS_H.unrolled else AXIS_H.taps
    LOOPED_W: tl.constexpr = 1 if READS_W.unrolled else AXIS_W.taps
    X_RUN: tl.constexpr = 1 if X.last else X.run
    Z_RUN: tl.constexpr = 1 if Z.last else Z.run
    pid, share = tl.program_id(0), tl.program_id(1)
    tile, rest = pid % TILES, pid // TILES
    ci, rest = rest % INPUTS * SHARED, rest // INPUTS
    jw, rest = rest % LOOPED_W, rest // LOOPED_W
    jh, jd = rest % LOOPED_H, rest // LOOPED_H
    shift = (jd * AXIS_D.move + AXIS_D.offset, 0, 0)
    if not READS_H.unrolled:
        shift = (shift[0], jh * AXIS_H.move + AXIS_H.offset, shift[2])
    if not READS_W.unrolled:
        shift = (shift[0], shift[1], jw * AXIS_W.move + AXIS_W.offset)
    x_stride, z_stride = widen(x_stride, X.last, INDEX), widen(z_stride, Z.last, INDEX)
    c, d, h, w = lane_parts(tl.arange(0, SIZE), LANES)
    channel = tile * LANES.channels + c
    group = channel // CO
    source = ()
    for u in tl.static_range(SHARED):
        source = source + (group * CI + ci + u,)
    live = tl.full((SIZE,), True, tl.int1)
    if CHANNELS % LANES.channels != 0:
        live = live & (channel < CHANNELS)
    acc = zeros(READS_H.taps * READS_W.taps * SHARED, SIZE, ACC)
    first = share.to(INDEX) * SHARE
    for i_box in tl.range(first, tl.minimum(tl.cast(BOXES, INDEX), first + SHARE)):
        n, d0, h0, w0 = box_origin(i_box, size, SIDES)
        d0, h0, w0 = d0.to(tl.int32), h0.to(tl.int32), w0.to(tl.int32)
        w_run, z_run = w * COLUMNS // X_RUN * X_RUN, w * COLUMNS // Z_RUN * Z_RUN  # the same along a run
        place = (d0 + d, h0 + h * LANES.lines, w0 + w * COLUMNS, w0 + w_run, (w0 + w * COLUMNS) * AXIS_W.in_step,
                 (w0 + z_run) * AXIS_W.in_step)
        reached = True
        if AXIS_D.halo and BOX[0] == 1:  # a box has one plane: where that meets none of dz, no mask is needed
            reached = within(d0 * AXIS_D.in_step + shift[0], z_size[0])
        if reached:
            acc = multiply(acc, x, z, live, n, place, source, channel, shift, size, z_size, x_stride, z_stride, AXIS_D, AXIS_H,
                           AXIS_W, READS_H, READS_W, X, Z, LANES, ACC)
    o_c = tile * LANES.channels + tl.arange(0, LANES.channels)
    out = parts + share.to(tl.int64) * p_stride[0] + (o_c // CO * CI + ci).to(tl.int64) * p_stride[1]
    out += (o_c % CO).to(tl.int64) * p_stride[2]
    for k in tl.static_range(READS_H.taps * READS_W.taps):
        tap = (jd * AXIS_H.kernel + jh + k // READS_W.taps) * AXIS_W.kernel + jw + k % READS_W.taps
        for u in tl.static_range(SHARED):
            if LANES.last:
                total = tl.sum(acc[k * SHARED + u].reshape(PLACES, LANES.channels), axis=0)
            else:
                total = tl.sum(acc[k * SHARED + u].reshape(LANES.channels, PLACES), axis=1)
            offset = u * tl.cast(p_stride[1], tl.int64) + tap.to(tl.int64) * p_stride[3]
            tl.store(out + offset, total.to(parts.dtype.element_ty), mask=o_c < CHANNELS)
