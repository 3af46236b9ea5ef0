"""How a finished tile of a cluster is written: the epilogue, the order of the store, and its addresses. In Gluon; tiles.write says
the same of other kernels."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .gluon_names import halves, parts_of, spread
from .tiles import quotient

MOST = gl.constexpr(32)  # elements of a thread that are written at once


@gluon.constexpr_function
def run_layout(columns, bits, warps, parted, programs):
    """16 bytes a thread along the columns; each program has its part of this dimension."""
    values = 128 // bits
    own = columns // programs if parted == 1 else columns
    lanes = max(1, min(32, own // values))
    return gl.BlockedLayout([1, values], [32 // lanes, lanes], [warps, 1], [1, 0], **halves(2, spread(parted, programs)))


@gluon.constexpr_function
def phases_of(AXIS_D, AXIS_H, AXIS_W, join):
    """Phases among the lines of a tile: those along w that are joined are among its columns."""
    return AXIS_D.merged * AXIS_H.merged * AXIS_W.merged // join


@gluon.jit
def arranged(tile, LAST: gl.constexpr, JOIN: gl.constexpr, PHASES: gl.constexpr, PHASE_MINOR: gl.constexpr):
    """A tile [position, row of the weight] as the store wants it: [position, (phase, channel)] where channels come last, else
    [(phase, channel), (position, joined phase)]; where rows count phases first, [(channel, phase), ...]."""
    P: gl.constexpr = tile.shape[0]
    N: gl.constexpr = tile.shape[1]
    LINES: gl.constexpr = N // JOIN
    if LAST:
        if PHASE_MINOR and PHASES > 1:
            tile = tile.reshape([P, N // PHASES, PHASES]).permute((0, 2, 1)).reshape([P, N])
    elif PHASE_MINOR:
        tile = tile.reshape([P, LINES, JOIN]).permute((1, 0, 2)).reshape([LINES, P * JOIN])
    else:
        tile = tile.reshape([P, JOIN, LINES]).permute((2, 0, 1)).reshape([LINES, P * JOIN])
    return tile


@gluon.jit
def row_and_phase(line, first, ROWS: gl.constexpr, LINES: gl.constexpr, PHASES: gl.constexpr, PHASE_MINOR: gl.constexpr,
                  LAST: gl.constexpr):
    """The channel and the phase of a line of an arranged tile whose first line is given, and whether there is such a line: the same for a
    run of channels."""
    CHANNELS: gl.constexpr = LINES // PHASES
    if PHASE_MINOR and CHANNELS == 0:  # a part of one channel's
        channel, phase = (first + line) // PHASES, (first + line) % PHASES
        return channel, phase, channel < ROWS
    elif PHASE_MINOR:
        if LAST:
            channel, phase = first // PHASES + line % CHANNELS, line // CHANNELS
        else:
            channel, phase = first // PHASES + line // PHASES, line % PHASES
        return channel, phase, channel < ROWS
    else:
        index = first + line
        return index % ROWS, index // ROWS, index < ROWS * PHASES


@gluon.jit
def place_of(o, origin, last, size, BOX: gl.constexpr, JOIN: gl.constexpr, RUN: gl.constexpr, PARTED: gl.constexpr,
             OF_SAMPLE: gl.constexpr, MASKED: gl.constexpr):
    """The coarse place (n, d, h, w) of a position of a tile, of which o counts JOIN phases each, and whether there is one, the same for
    RUN neighbours: of a box that begins at `origin`, or of neighbours in flat order from place origin[3] of sample origin[0] on, of
    that sample alone or of all. MASKED: a mask depends on the place, so that the compiler must see what is the same along a run: divisions
    show that, factors do not."""
    n, d, h, w = origin
    begin = gl.multiple_of(w * JOIN, RUN)  # RUN divides the ends as well, which a mark on an argument would not say
    if BOX is None:
        live = begin + o < last * JOIN // RUN * RUN
        index = w + o // JOIN
        if MASKED:
            rest, w = parts_of(index, size[2])
            d, h = parts_of(rest, size[1])
            if not OF_SAMPLE:
                n, d = parts_of(d, size[0])
        else:
            rest, d = quotient(index, size[5], size[8]), quotient(index, size[4], size[7])
            h, w = rest - d * size[1], index - rest * size[2]
            if not OF_SAMPLE:
                n = quotient(index, size[3], size[6])
                d -= n * size[0]
        return n, d, h, w, live
    else:
        HIGH: gl.constexpr = BOX[1] // gl.num_ctas() if PARTED == 1 else BOX[1]
        BESIDE: gl.constexpr = gl.num_ctas() // BOX[0] if PARTED == 2 else 1
        WIDTH: gl.constexpr = BOX[2] * JOIN // BESIDE
        AREA: gl.constexpr = HIGH * WIDTH
        beside = o % WIDTH
        if PARTED == 1:  # each program has its part of every plane
            h += o // (BOX[0] * AREA) * HIGH
        elif PARTED == 2:  # of one plane
            beside += o // AREA % BESIDE * WIDTH
        d, h, there = d + o // (AREA * BESIDE) % BOX[0], h + o // WIDTH % HIGH, begin + beside < size[2] * JOIN // RUN * RUN
        return n + o * 0, d, h, w + beside // JOIN, there & (d < size[0]) & (h < size[1])


@gluon.jit
def addresses(t, line, column, stride, T: gl.constexpr, LAST: gl.constexpr):
    """Of the elements of an arranged tile; (n, channel, d, h, w) of its lines and columns, as far as they know them."""
    RUN: gl.constexpr = T.run
    s_c = 1 if T.last else stride[1]
    positions, rows = (line, column) if LAST else (column, line)
    # A mark on a sum whose last term is folded away, being zero, would be lost with it.
    place = gl.multiple_of(positions[0] * stride[0] + positions[1] * stride[2] + positions[2] * stride[3], RUN) + positions[3] * stride[4]
    row = gl.multiple_of(rows[1] * stride[2] + rows[2] * stride[3] + rows[3] * stride[4], RUN) + rows[0] * s_c
    if LAST:
        row = gl.max_contiguous(gl.multiple_of(row, RUN), RUN)
        return (t + gl.multiple_of(place, RUN))[:, None] + row[None, :]
    else:
        place = gl.max_contiguous(gl.multiple_of(place, RUN), RUN)
        return (t + place)[None, :] + gl.multiple_of(row, RUN)[:, None]


@gluon.jit
def halved(tile, JOIN: gl.constexpr, PHASE_MINOR: gl.constexpr):
    """The first and the second half of the lines of a tile [position, row of the weight]."""
    P: gl.constexpr = tile.shape[0]
    N: gl.constexpr = tile.shape[1]
    APART: gl.constexpr = 1 if PHASE_MINOR else JOIN
    first, second = gl.split(tile.reshape([P, APART, 2, N // APART // 2]).permute((0, 1, 3, 2)))
    return first.reshape([P, N // 2]), second.reshape([P, N // 2])


@gluon.jit
def store(tile, y, b, residual, pre, first, origin, phase, last, size, y_size, y_stride, r_stride, AXIS_D: gl.constexpr,
          AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, ROWS: gl.constexpr, Y: gl.constexpr, R: gl.constexpr, TILE: gl.constexpr,
          PARTED: gl.constexpr, OF_SAMPLE: gl.constexpr, ACTIVATION: gl.constexpr, PARAMETERS: gl.constexpr, WARPS: gl.constexpr):
    """Bias, residual, activation, one rounding, and the store of a tile [position, row of the weight] of the phase (d, h, w), which begins
    with line `first`: half after half, where addresses of all would leave its elements no registers. last: the place behind the last one
    of those that are counted in flat order, in one sample or in all. PARTED: the side of the box that programs part. pre, what is kept
    from before the activation, has y's strides."""
    LINES: gl.constexpr = tile.shape[1] // TILE.join
    if tile.shape[0] * tile.shape[1] > MOST * 32 * WARPS * gl.num_ctas():
        lower, upper = halved(tile, TILE.join, TILE.phase_minor)
        store(lower, y, b, residual, pre, first, origin, phase, last, size, y_size, y_stride, r_stride, AXIS_D, AXIS_H, AXIS_W, ROWS, Y, R,
              TILE, PARTED, OF_SAMPLE, ACTIVATION, PARAMETERS, WARPS)
        store(upper, y, b, residual, pre, first + LINES // 2, origin, phase, last, size, y_size, y_stride, r_stride, AXIS_D, AXIS_H,
              AXIS_W, ROWS, Y, R, TILE, PARTED, OF_SAMPLE, ACTIVATION, PARAMETERS, WARPS)
    else:
        store_all(tile, y, b, residual, pre, first, origin, phase, last, size, y_size, y_stride, r_stride, AXIS_D, AXIS_H, AXIS_W, ROWS,
                  Y, R, TILE, PARTED, OF_SAMPLE, ACTIVATION, PARAMETERS, WARPS)


@gluon.jit
def with_bias(tile, b, first, ROWS: gl.constexpr, LINES: gl.constexpr, PHASES: gl.constexpr, PHASE_MINOR: gl.constexpr, LAST: gl.constexpr):
    """An arranged tile and the bias of its lines. Where these are (channel, phase) a thread has neighbouring channels, and loads them at
    once."""
    if PHASE_MINOR and PHASES > 1 and LINES % PHASES == 0 and not LAST:
        CHANNELS: gl.constexpr = LINES // PHASES
        parted = tile.reshape([CHANNELS, PHASES, tile.shape[1]])
        channel = first // PHASES + gl.arange(0, CHANNELS, gl.SliceLayout(1, gl.SliceLayout(2, parted.type.layout)))
        added = gl.load(b + channel, mask=channel < ROWS, other=0.0).to(gl.float32)
        return (parted + added[:, None][:, :, None]).reshape(tile.shape)
    else:
        SIDE: gl.constexpr = 0 if LAST else 1
        line = gl.arange(0, LINES, gl.SliceLayout(SIDE, tile.type.layout))
        channel, unused, live = row_and_phase(line, first, ROWS, LINES, PHASES, PHASE_MINOR, LAST)
        added = gl.load(b + channel, mask=live, other=0.0).to(gl.float32)
        return tile + (added[None, :] if LAST else added[:, None])


@gluon.jit
def store_all(tile, y, b, residual, pre, first, origin, phase, last, size, y_size, y_stride, r_stride, AXIS_D: gl.constexpr,
              AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, ROWS: gl.constexpr, Y: gl.constexpr, R: gl.constexpr, TILE: gl.constexpr,
              PARTED: gl.constexpr, OF_SAMPLE: gl.constexpr, ACTIVATION: gl.constexpr, PARAMETERS: gl.constexpr, WARPS: gl.constexpr):
    """The same of a tile whose addresses there are registers for."""
    BITS: gl.constexpr = y.dtype.element_ty.primitive_bitwidth
    JOIN: gl.constexpr = TILE.join
    LAST: gl.constexpr = Y.last
    PHASES: gl.constexpr = phases_of(AXIS_D, AXIS_H, AXIS_W, JOIN)
    PHASE_MINOR: gl.constexpr = TILE.phase_minor
    MH: gl.constexpr = AXIS_H.merged
    MW: gl.constexpr = AXIS_W.merged // JOIN
    LINES: gl.constexpr = tile.shape[1] // JOIN
    tile = arranged(tile, LAST, JOIN, PHASES, PHASE_MINOR)
    if b is not None:
        tile = with_bias(tile, b, first, ROWS, LINES, PHASES, PHASE_MINOR, LAST)
    SUM: gl.constexpr = tile.type.layout
    STORE: gl.constexpr = run_layout(tile.shape[1], BITS, WARPS, 0 if LAST else 1, gl.num_ctas())
    ROW_SIDE: gl.constexpr = 0 if LAST else 1  # what slices the layouts to vectors of lines of the weight, and of positions
    line = gl.arange(0, LINES, gl.SliceLayout(ROW_SIDE, STORE))
    channel, merged, live_row = row_and_phase(line, first, ROWS, LINES, PHASES, PHASE_MINOR, LAST)
    rw, rest = merged % MW, merged // MW
    rd, rh = rest // MH, rest % MH
    o = gl.arange(0, TILE.n * JOIN, gl.SliceLayout(1 - ROW_SIDE, STORE))
    RUN: gl.constexpr = 1 if LAST else Y.run
    BOX: gl.constexpr = TILE.box
    n, d, h, w, there = place_of(o, origin, last, size, BOX, JOIN, RUN, PARTED, OF_SAMPLE, AXIS_D.edge or AXIS_H.edge or AXIS_W.edge)
    rows = channel, rd, rh, rw
    places = (n, d * AXIS_D.out_step + (phase[0] - AXIS_D.origin), h * AXIS_H.out_step + (phase[1] - AXIS_H.origin),
              w * AXIS_W.out_step + (phase[2] - AXIS_W.origin) + o % JOIN)
    if LAST:
        live = there[:, None] & live_row[None, :]
        at_d, at_h, at_w = (places[1][:, None] + rd[None, :], places[2][:, None] + rh[None, :], places[3][:, None] + rw[None, :])
    else:
        live = live_row[:, None] & there[None, :]
        at_d, at_h, at_w = (rd[:, None] + places[1][None, :], rh[:, None] + places[2][None, :], rw[:, None] + places[3][None, :])
    if AXIS_D.edge:
        live = live & (at_d >= 0) & (at_d < y_size[0])
    if AXIS_H.edge:
        live = live & (at_h >= 0) & (at_h < y_size[1])
    if AXIS_W.edge:
        live = live & (at_w >= 0) & (at_w < y_size[2])
    line, column = (places, rows) if LAST else (rows, places)
    if residual is not None:
        added = gl.load(addresses(residual, line, column, r_stride, R, LAST), mask=live, other=0.0)
        tile += gl.convert_layout(added, SUM).to(gl.float32)
    if pre is not None:
        before = gl.convert_layout(tile.to(pre.dtype.element_ty), STORE)
        gl.store(addresses(pre, line, column, y_stride, Y, LAST), before, mask=live)
    if ACTIVATION is not None:
        tile = ACTIVATION(tile, PARAMETERS[0], PARAMETERS[1])
    gl.store(addresses(y, line, column, y_stride, Y, LAST), gl.convert_layout(tile.to(y.dtype.element_ty), STORE), mask=live)
