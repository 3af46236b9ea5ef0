"""The weight gradient on tensor cores:

    dw[ci, co, k] = sum over positions of x[position, ci] * dz[stride * position - padding + k * dilation, co]

One product has all taps of a program: rows are (shift of x, ci), columns (shift of dz, co), and what they share is a position.
Along an axis either each tap is a program of its own, or all taps are shifts of dz, or offsets of x are crossed with the
residues of dz: o + 1 offsets and s residues meet in s * (o + 1) taps, and each is read once; or a few neighbours are one position,
and each shift of dz that one of them meets is read once for all (planning/taps.py chooses the numbers). Positions are walked in
boxes, so that only a box has its place divided.

TF32 may be read from copies, which are rounded and have zeros around them. That of dz has every axis residue after residue of
the stride (`apart`): whichever the tap, neighbouring positions then read neighbours.

The reduction is split over programs. Each share is summed by one program in a fixed order, and `reduce.sum_parts` adds the
shares in a fixed order: same bits every run, no atomics.
"""

import triton
import triton.language as tl

from .lanes import taps_within
from .tiles import FIRST_OF_EQUALS, apart, box_origin, inside, load_tile, place, round_up_tf32, widen
from .turned import parted, parted_back

SEEN = tl.constexpr(1 << 29)  # the bit that every line needs: a place that does not count lacks all bits
FEW = tl.constexpr(4)  # shifts that are compared one by one
LINE = tl.constexpr(1 << 30)  # the bit that a line beyond the last needs and no place has


@triton.jit
def line_parts(line, CHANNELS: tl.constexpr, D: tl.constexpr, H: tl.constexpr, W: tl.constexpr):
    """The shift (d, h, w) and the channel of a line; lines count (shift, channel). Beyond the last line, d is D.count or more.
    D, H, W: Shifts of planning/constants.py."""
    channel, rest = line % CHANNELS, line // CHANNELS
    w, rest = rest % W.count, rest // W.count
    return rest // H.count, rest % H.count, w, channel


@triton.jit
def moved(i, AXIS: tl.constexpr, places):
    """By how many places shift i of an axis moves what is read; places: of a residue, where residues lie apart."""
    return apart(i * AXIS.move, AXIS.residues, places)


@triton.jit
def bit_of(i, AXIS: tl.constexpr, FIRST: tl.constexpr):
    """The bit of shift i, of those from FIRST on; 0 where it never leaves the tensor."""
    LOW: tl.constexpr = AXIS.sure[0]
    HIGH: tl.constexpr = AXIS.sure[1]
    bit = 1 << (FIRST + tl.where(i < LOW, i, i - (HIGH - LOW)))
    return bit if HIGH == 0 else tl.where((i < LOW) | (i >= HIGH), bit, 0)


@triton.jit
def offset_and_need(line, size, stride, CHANNELS: tl.constexpr, D: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
                    M: tl.constexpr):
    """A line's offset in its tensor, and what it needs of a place, as bits: that each of its shifts stays inside."""
    RUN: tl.constexpr = M.run
    BIT_H: tl.constexpr = D.count - D.sure[1] + D.sure[0] if D.halo else 0  # as Shifts.doubtful, which a kernel does not see
    BIT_W: tl.constexpr = BIT_H + (H.count - H.sure[1] + H.sure[0] if H.halo else 0)
    d, h, w, channel = line_parts(line, CHANNELS, D, H, W)
    offset = place(0, 0, moved(d, D, size[0]), moved(h, H, size[1]), moved(w, W, size[2]), stride)
    offset = tl.multiple_of(offset + channel * stride[1], RUN)
    need = tl.zeros_like(d) + SEEN
    if D.halo:
        need |= bit_of(d, D, 0)
    if H.halo:
        need |= bit_of(h, H, BIT_H)
    if W.halo:
        need |= bit_of(w, W, BIT_W)
    return tl.max_contiguous(offset, RUN if M.last else 1), tl.where(d < D.count, need, LINE)


@triton.jit
def outside(at, size, AXIS: tl.constexpr, UNIT: tl.constexpr, FIRST: tl.constexpr):
    """Which shifts move the places `at` of an axis outside, as bits from FIRST on; all are counted in units of UNIT places."""
    COUNT: tl.constexpr = AXIS.count
    LOW: tl.constexpr = AXIS.sure[0]
    HIGH: tl.constexpr = AXIS.sure[1]
    MOVE: tl.constexpr = AXIS.move // UNIT if COUNT > 1 else 1
    most = tl.cast(size, tl.int32) // UNIT
    if COUNT - HIGH + LOW > FEW:  # the shifts inside follow each other
        first, end = taps_within(at, MOVE, COUNT, most)
        if HIGH > 0:
            first, end = tl.minimum(first, LOW), tl.maximum(end, HIGH) - (HIGH - LOW)
        else:
            first = tl.minimum(first, COUNT)
        bits = ((1 << first) - 1) | ((1 << COUNT - HIGH + LOW) - (1 << end))
        return bits << FIRST
    else:
        bits = tl.zeros_like(at)
        for i in tl.static_range(COUNT):
            if i < LOW or i >= HIGH:
                beyond = (at + i * MOVE).to(tl.uint32) >= most.to(tl.uint32)
                bits |= beyond.to(tl.int32) << (FIRST + (i if i < LOW else i - (HIGH - LOW)))
        return bits


@triton.jit
def load_box(tensor, line, need, n, box, o, first, size, positions, stride, D: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
             M: tl.constexpr, BOX: tl.constexpr, SPLIT: tl.constexpr, MASK: tl.constexpr, TURNED: tl.constexpr, ROW: tl.constexpr):
    """[line, place]: what the lines of x or dz read at the places o (d, h, w) of the box of positions that begins at `box`.

    first: the place of position 0 before a line shifts it. Along w, o counts SPLIT neighbours for every position. TURNED: it is
    [place, line]. ROW: it is a row, of whose elements line, need and o are.
    """
    RUN: tl.constexpr = M.run
    UNIT: tl.constexpr = 1 if M.last else M.run
    STEP_W: tl.constexpr = W.step // SPLIT
    d, h, w = box[0] * D.step + first[0], box[1] * H.step + first[1], box[2] * W.step + first[2]
    at = place(n, 0, d + o[0] * D.step, h + o[1] * H.step, 0, stride)
    at = tl.multiple_of(at + (w + o[2] * STEP_W) * stride[4], RUN)
    at = tl.max_contiguous(at, 1 if M.last else RUN)
    if ROW:
        p = tensor + tl.max_contiguous(tl.multiple_of(line + at, RUN), RUN)
    else:
        p = tensor + (line[:, None] + at[None, :])
    if MASK:
        BIT_H: tl.constexpr = D.count - D.sure[1] + D.sure[0] if D.halo else 0
        BIT_W: tl.constexpr = BIT_H + (H.count - H.sure[1] + H.sure[0] if H.halo else 0)
        lack, o_w = tl.zeros_like(o[0]), o[2]
        if UNIT > 1 and ROW:
            o_w = o[2] // UNIT
        elif UNIT > 1:  # whose neighbours have one answer, which the compiler does not see of o
            o_w = tl.arange(0, o[0].shape[0]) // UNIT % (BOX[2] * SPLIT // UNIT)
        if D.halo:
            lack |= outside(d + o[0] * D.step, size[0], D, 1, 0)
        if H.halo:
            lack |= outside(h + o[1] * H.step, size[1], H, 1, BIT_H)
        if W.halo:
            lack |= outside(w // UNIT + o_w * STEP_W, size[2], W, UNIT, BIT_W)
        if BOX[0] * BOX[1] * BOX[2] * SPLIT < o[0].shape[0]:
            lack = tl.where(o[0] < BOX[0], lack, -1)
        if D.edge:
            lack = tl.where(box[0] + o[0] < positions[0], lack, -1)
        if H.edge:
            lack = tl.where(box[1] + o[1] < positions[1], lack, -1)
        if W.edge:
            lack = tl.where(box[2] * SPLIT // UNIT + o_w < positions[2] * SPLIT // UNIT, lack, -1)
        if ROW:
            return tl.load(p, mask=tl.max_constancy((need & (lack | LINE)) == 0, RUN), other=0.0)
        else:
            met = (need[:, None] & (lack | LINE)[None, :]) == 0
            if M.reading == "row":
                return tl.load(p.reshape(p.numel), mask=met.reshape(p.numel), other=0.0).reshape(p.shape)
            elif TURNED:
                return load_tile(tl.trans(p), tl.trans(met), RUN)
            else:
                return load_tile(p, met, RUN)
    elif ROW:
        return tl.load(p)
    elif TURNED:
        return load_tile(tl.trans(p), None, RUN)
    else:
        return load_tile(p, None, RUN)


@triton.jit
def box_places(o, BOX: tl.constexpr, SPLIT: tl.constexpr):
    """The places (d, h, w) of a box whose positions are SPLIT neighbours along w each; beyond the last, d is BOX[0] or more."""
    WIDTH: tl.constexpr = BOX[2] * SPLIT
    return o // (WIDTH * BOX[1]), o // WIDTH % BOX[1], o % WIDTH


@triton.jit
def grad_weight(x, z, parts, BOXES, SHARE, size, x_size, z_size, x_stride, z_stride, p_stride, AXIS_D: tl.constexpr,
                AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, X: tl.constexpr,
                Z: tl.constexpr, TILE: tl.constexpr, DOT: tl.constexpr, INDEX: tl.constexpr):
    """One share of dw for TILE.m rows and TILE.n columns (times TILE.split neighbours along w, where dz is contiguous along w
    and is split after the load), reduced by a box of up to TILE.k positions at a time. CI and CO are per group.

    x [N, *, *x_size], z [N, *, *z_size], of a copy the places of a residue; size: positions (d, h, w) of a sample; BOXES of all
    samples, SHARE of them for a share. parts [part, ci, co, tap] by its strides: each share leaves one, or as many as neighbours are
    a position; or dw, where one is all. Grid: (row tile, column tile, tap that is a program), share, group.
    """
    BLOCK_M: tl.constexpr = TILE.m
    BLOCK_N: tl.constexpr = TILE.n
    BLOCK_K: tl.constexpr = TILE.k
    SPLIT: tl.constexpr = TILE.split
    ROW: tl.constexpr = TILE.turned
    BOX: tl.constexpr = TILE.box
    X_RUN: tl.constexpr = X.run
    Z_RUN: tl.constexpr = Z.run
    PRECISION: tl.constexpr = DOT.precision
    XD: tl.constexpr = AXIS_D.x
    XH: tl.constexpr = AXIS_H.x
    XW: tl.constexpr = AXIS_W.x
    ZD: tl.constexpr = AXIS_D.z
    ZH: tl.constexpr = AXIS_H.z
    ZW: tl.constexpr = AXIS_W.z
    ROWS: tl.constexpr = XD.count * XH.count * XW.count * CI
    COLUMNS: tl.constexpr = ZD.count * ZH.count * ZW.count * CO
    CUT: tl.constexpr = BOX[0] * BOX[1] * BOX[2] < BLOCK_K
    X_EDGE: tl.constexpr = XD.edge or XH.edge or XW.edge
    Z_EDGE: tl.constexpr = ZD.edge or ZH.edge or ZW.edge
    X_MASK: tl.constexpr = CUT or X_EDGE or XD.halo or XH.halo or XW.halo or ROWS % BLOCK_M != 0
    Z_MASK: tl.constexpr = CUT or Z_EDGE or ZD.halo or ZH.halo or ZW.halo or COLUMNS % BLOCK_N != 0
    # The compiler gives a thread as many neighbours of a tile as of another of the same shape and order, and then copies single elements
    # to few banks: what has longer runs is turned, where lanes_last turns none. So are channels that lie side by side, which a copy would
    # else turn element by element.
    TF32: tl.constexpr = PRECISION == "tf32" and x.dtype.element_ty == tl.float32
    TURNS: tl.constexpr = FIRST_OF_EQUALS and (X_RUN == 1 or Z_RUN == 1)
    ALIKE: tl.constexpr = TF32 and BLOCK_M == BLOCK_N * SPLIT and not X.last and not Z.last and not TURNS
    X_TURNED: tl.constexpr = ALIKE and X_RUN > Z_RUN
    Z_TURNED: tl.constexpr = ALIKE and SPLIT == 1 and Z_RUN > X_RUN or TF32 and Z.last and Z_RUN > 1
    OUT_TURNED: tl.constexpr = TF32 and BLOCK_N * SPLIT == BLOCK_K and X_RUN == 1 and not TURNS
    ROW_TILES: tl.constexpr = (ROWS + BLOCK_M - 1) // BLOCK_M
    COLUMN_TILES: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    pid, share, group = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i_row, rest = pid % ROW_TILES, pid // ROW_TILES
    i_column, rest = rest % COLUMN_TILES, rest // COLUMN_TILES
    jw, rest = rest % AXIS_W.programs, rest // AXIS_W.programs
    jh, jd = rest % AXIS_H.programs, rest // AXIS_H.programs
    x_first = XD.first, XH.first, XW.first
    z_first = (ZD.first + moved(jd, ZD, z_size[0]), ZH.first + moved(jh, ZH, z_size[1]), ZW.first + moved(jw, ZW, z_size[2]))
    x_stride, z_stride = widen(x_stride, X.last, INDEX), widen(z_stride, Z.last, INDEX)
    x += tl.multiple_of(group.to(tl.int64) * CI * x_stride[1], X_RUN)
    z += tl.multiple_of(group.to(tl.int64) * CO * z_stride[1], Z_RUN)
    row = i_row * BLOCK_M + tl.arange(0, BLOCK_M)
    if ROW is None:
        o_column, o_z = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K * SPLIT)
    else:
        o_column, o_z = parted(BLOCK_N, BLOCK_K * SPLIT, ROW)
    column = i_column * BLOCK_N + o_column
    x_line, x_need = offset_and_need(row, x_size, x_stride, CI, XD, XH, XW, X)
    z_line, z_need = offset_and_need(column, z_size, z_stride, CO, ZD, ZH, ZW, Z)
    x_places, z_places = box_places(tl.arange(0, BLOCK_K), BOX, 1), box_places(o_z, BOX, SPLIT)

    FAR: tl.constexpr = 2 if SPLIT == 8 else 1  # those of eight residues that are four apart are neighbours: a warp's threads have four
    HALVES: tl.constexpr = 2 if SPLIT == 2 else 1  # of the columns, each with a product of its own
    acc = tl.zeros((BLOCK_M, BLOCK_N * SPLIT // HALVES), tl.float32)
    odd = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    begin = share.to(INDEX) * SHARE
    end = tl.minimum(tl.cast(BOXES, INDEX), begin + SHARE)
    for i_box in tl.range(begin, end, num_stages=TILE.stages):
        n, d, h, w = box_origin(i_box, size, BOX)
        n, box = n.to(INDEX), (d.to(tl.int32), h.to(tl.int32), w.to(tl.int32))
        b_x = load_box(x, x_line, x_need, n, box, x_places, x_first, x_size, size, x_stride, XD, XH, XW, X, BOX, 1, X_MASK, X_TURNED, False)
        b_z = load_box(z, z_line, z_need, n, box, z_places, z_first, z_size, size, z_stride, ZD, ZH, ZW, Z, BOX, SPLIT, Z_MASK, Z_TURNED,
                       ROW is not None)
        if ROW is not None:
            b_z = parted_back(b_z, BLOCK_N, BLOCK_K * SPLIT, ROW)
        if X_TURNED:
            b_x = tl.trans(b_x)
        if DOT.round:
            b_x, b_z = round_up_tf32(b_x), round_up_tf32(b_z)
        if HALVES == 2:  # parted in registers, where neighbours lie in one thread: pairs are what is written to shared memory
            even_z, odd_z = tl.split(b_z.reshape(BLOCK_N, BLOCK_K, 2))
            acc = tl.dot(b_x, tl.trans(even_z), acc, input_precision=PRECISION, out_dtype=tl.float32)
            odd = tl.dot(b_x, tl.trans(odd_z), odd, input_precision=PRECISION, out_dtype=tl.float32)
        else:
            if SPLIT > 1:  # residue after residue: where they are neighbours, Triton 3.7 fails to compile some tiles
                b_z = b_z.reshape(BLOCK_N, BLOCK_K, FAR, SPLIT // FAR).permute(1, 3, 2, 0).reshape(BLOCK_K, SPLIT * BLOCK_N)
            elif not Z_TURNED:
                b_z = tl.trans(b_z)
            acc = tl.dot(b_x, b_z, acc, input_precision=PRECISION, out_dtype=tl.float32)
    if HALVES == 2:
        acc = tl.join(acc, odd).permute(0, 2, 1).reshape(BLOCK_M, 2 * BLOCK_N)

    line = tl.arange(0, BLOCK_N * SPLIT)
    residue = line // BLOCK_N % FAR * (SPLIT // FAR) + line // (BLOCK_N * FAR)
    xd, xh, xw, ci = line_parts(row, CI, XD, XH, XW)
    zd, zh, zw, co = line_parts(i_column * BLOCK_N + line % BLOCK_N, CO, ZD, ZH, ZW)
    m_dw = (xd < XD.count)[:, None] & (zd < ZD.count)[None, :]
    r_d, r_h = AXIS_D.tap_first + xd * AXIS_D.tap_row, AXIS_H.tap_first + xh * AXIS_H.tap_row
    r_w = AXIS_W.tap_first + xw * AXIS_W.tap_row
    s_d, s_h = (jd + zd) * AXIS_D.tap_column, (jh + zh) * AXIS_H.tap_column
    s_w = (jw + zw) * AXIS_W.tap_column + residue
    if AXIS_D.guard:
        m_dw = m_dw & inside(r_d[:, None] + s_d[None, :], AXIS_D.kernel)
    if AXIS_H.guard:
        m_dw = m_dw & inside(r_h[:, None] + s_h[None, :], AXIS_H.kernel)
    if AXIS_W.guard:
        m_dw = m_dw & inside(r_w[:, None] + s_w[None, :], AXIS_W.kernel)
    r_tap = (r_d * AXIS_H.kernel + r_h) * AXIS_W.kernel + r_w
    s_tap = (s_d * AXIS_H.kernel + s_h) * AXIS_W.kernel + s_w
    part = share.to(tl.int64)
    if AXIS_D.together > 1:
        part = part * AXIS_D.together + xd
    if AXIS_H.together > 1:
        part = part * AXIS_H.together + xh
    if AXIS_W.together > 1:
        part = part * AXIS_W.together + xw
    out = parts + group.to(tl.int64) * CI * p_stride[1]
    r_at = part * p_stride[0] + ci.to(tl.int64) * p_stride[1] + r_tap.to(tl.int64) * p_stride[3]
    s_at = co.to(tl.int64) * p_stride[2] + s_tap.to(tl.int64) * p_stride[3]
    p_dw, dw = out + (r_at[:, None] + s_at[None, :]), acc.to(parts.dtype.element_ty)
    if OUT_TURNED:
        tl.store(tl.trans(p_dw), tl.trans(dw), mask=tl.trans(m_dw))
    else:
        tl.store(p_dw, dw, mask=m_dw)
