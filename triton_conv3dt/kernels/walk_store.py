"""How a finished tile of a walk is written: the epilogue, the order of the store, and its addresses."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .gluon_names import parts_of
from .walk_fetch import here


@gluon.constexpr_function
def in_runs(last, bits):
    """Whether a store wants a tile in another order than products leave it: 16-bit channels side by side, 16 bytes a thread."""
    return last and bits == 16


@gluon.constexpr_function
def run_layout(width, warps):
    lanes = min(32, max(1, width // 8))
    return gl.BlockedLayout([1, 8], [32 // lanes, lanes], [warps, 1], [1, 0])


@gluon.constexpr_function
def sum_layout(m, width, columns, join, warps):
    """How a product leaves its tile [places, columns] in the registers of a warpgroup, with the columns of `join` phases brought
    side by side: a thread that had them still has them."""
    def moved(column):
        if column < columns:
            return column * join
        return column // columns if column < columns * join else column

    registers = [[0, moved(1)], [8, 0]] + [[0, moved(1 << i)] for i in range(3, width.bit_length() - 1)]
    registers += [[1 << i, 0] for i in range((16 * warps).bit_length() - 1, m.bit_length() - 1)]
    registers.sort(key=lambda basis: (basis[0] > 0, basis[1]) if basis[1] < join else (1, 0))  # neighbours first, else as they were
    lanes = [[0, moved(2)], [0, moved(4)], [1, 0], [2, 0], [4, 0]]
    return gl.DistributedLinearLayout(registers, lanes, [[16 << i, 0] for i in range(warps.bit_length() - 1)], [], [m, width])


@gluon.constexpr_function
def written(WALK):
    """How many phases are columns of what is written at once: twins are two along w, of one tile."""
    return len(WALK.phases) * (1 + WALK.twins)


@gluon.constexpr_function
def joined(WALK, last):
    """How many phases along w are written as one run."""
    return 1 if last else 2 if WALK.twins else len({w for _, _, w in WALK.phases})


@gluon.constexpr_function
def residue_of(WALK, phase, axis):
    """The residue along an axis of a phase of what is written."""
    if WALK.twins:
        return (*WALK.phases[phase // 2][:2], phase % 2)[axis]
    return WALK.phases[phase][axis]


@gluon.jit
def residue_along(column, AXIS: gl.constexpr, JOIN: gl.constexpr, WALK: gl.constexpr):
    """The residue along an axis of each column's phase; columns count (phase, channel, joined phase), and the compiler sees what
    is the same for those that are joined."""
    PHASES: gl.constexpr = written(WALK)
    if AXIS == 2 and JOIN > 1:
        found = column % JOIN
    else:
        phase = column // (JOIN * WALK.columns) * JOIN
        found = phase * 0
        for i in gl.static_range(JOIN, PHASES, JOIN):
            if residue_of(WALK, i, AXIS) != 0:
                found = gl.where(phase == i, residue_of(WALK, i, AXIS), found)
    return found


@gluon.jit
def addresses(t, first, line, column, channel, stride, T: gl.constexpr):
    """Of the elements of a tile [places, columns] in a tensor, from the offset of its first; T.run neighbours are aligned, along
    columns. What is the same for all groups is a vector, and computed once."""
    RUN: gl.constexpr = T.run
    s_c = 1 if T.last else stride[1]
    # A mark on a sum whose last term is folded away, being zero, would be lost with it.
    base = first[0] * stride[0] + first[1] * s_c + first[2] * stride[2] + first[3] * stride[3] + first[4] * stride[4]
    columns = column[0] * stride[2] + column[1] * stride[3] + column[2] * stride[4] + channel * s_c
    columns = gl.max_contiguous(gl.multiple_of(columns, RUN), RUN)
    lines = gl.multiple_of(line[0] * stride[3] + line[1] * stride[4], RUN)
    return t + ((gl.multiple_of(base, RUN) + lines)[:, None] + columns[None, :])


@gluon.constexpr_function
def waits_for_twin(WALK, group):
    """Whether a group's tile is written with that of the next."""
    return WALK.twins and group % 2 == 0


@gluon.constexpr_function
def first_twin(WALK, group):
    """The group, or that before it, with which it is written."""
    return group - WALK.twins


@gluon.jit
def both(twin, tile, WALK: gl.constexpr):
    """The columns of two tiles [places, (phase, channel)] in one, with their phases along w beside the others; or of one."""
    if WALK.twins:
        M: gl.constexpr = tile.shape[0]
        PHASES: gl.constexpr = len(WALK.phases)
        tile = gl.join(twin[0], tile).reshape([M, PHASES, WALK.columns, 2]).permute((0, 1, 3, 2)).reshape([M, 2 * PHASES * WALK.columns])
    return tile


@gluon.jit
def write(tile, y, b, residual, pre, wanted, n, t, h0, w0, i_column, size, y_size, y_stride, r_stride, GROUP: gl.constexpr,
          AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, COLUMNS: gl.constexpr, Y: gl.constexpr, R: gl.constexpr,
          ACTIVATION: gl.constexpr, PARAMETERS: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr):
    """The epilogue of a group's finished tile [places, columns]: bias, residual, activation, one rounding, and the store. pre,
    what is kept from before the activation, has y's strides."""
    BITS: gl.constexpr = y.dtype.element_ty.primitive_bitwidth
    M: gl.constexpr = WALK.high * WALK.wide
    PHASES: gl.constexpr = written(WALK)
    WIDTH: gl.constexpr = PHASES * WALK.columns
    JOIN: gl.constexpr = joined(WALK, Y.last)
    SUM: gl.constexpr = sum_layout(M, WIDTH, WALK.columns, JOIN, WARPS)
    STORE: gl.constexpr = run_layout(WIDTH, WARPS) if in_runs(Y.last, BITS) else SUM
    if JOIN > 1:
        tile = tile.reshape([M, PHASES // JOIN, JOIN, WALK.columns]).permute((0, 1, 3, 2)).reshape([M, WIDTH])
    tile = gl.convert_layout(tile, SUM)
    first = i_column * WALK.columns
    if b is not None:
        channel = gl.arange(0, WIDTH, gl.SliceLayout(0, SUM)) // JOIN % WALK.columns
        tile += gl.load(b + first + channel, mask=first + channel < COLUMNS, other=0.0).to(gl.float32)[None, :]
    index = gl.arange(0, WIDTH, gl.SliceLayout(0, STORE))
    channel = index // JOIN % WALK.columns
    column = residue_along(index, 0, JOIN, WALK), residue_along(index, 1, JOIN, WALK), residue_along(index, 2, JOIN, WALK)
    place = gl.arange(0, M, gl.SliceLayout(1, STORE))
    if WALK.along > 0:  # rows of the plane, and zeros that the compiler does not know, which would fold away what is marked
        h, w = parts_of(place + w0, WALK.along)
        h0 = here(w0)
        w0 = h0
    else:
        h, w = place // WALK.wide, place % WALK.wide
    live = ((first + channel < COLUMNS) & wanted)[None, :] & ((h < size[1] - h0) & (w < size[2] - w0))[:, None]
    line = h * AXIS_H.out_step, w * AXIS_W.out_step
    d0 = t * AXIS_D.out_step + (WALK.groups[GROUP][0] - AXIS_D.origin)
    h0 = h0 * AXIS_H.out_step + (WALK.groups[GROUP][1] - AXIS_H.origin)
    w0 = w0 * AXIS_W.out_step + (WALK.groups[GROUP][2] - AXIS_W.origin)
    if AXIS_D.edge:
        live = live & ((column[0] >= -d0) & (column[0] < y_size[0] - d0))[None, :]
    if AXIS_H.edge:
        h = line[0][:, None] + column[1][None, :]
        live = live & (h >= -h0) & (h < y_size[1] - h0)
    if AXIS_W.edge:
        w = line[1][:, None] + column[2][None, :]
        live = live & (w >= -w0) & (w < y_size[2] - w0)
    if residual is not None:
        added = gl.load(addresses(residual, (n, first, d0, h0, w0), line, column, channel, r_stride, R), mask=live, other=0.0)
        tile += gl.convert_layout(added, SUM).to(gl.float32)
    if pre is not None:
        before = gl.convert_layout(tile.to(pre.dtype.element_ty), STORE)
        gl.store(addresses(pre, (n, first, d0, h0, w0), line, column, channel, y_stride, Y), before, mask=live)
    if ACTIVATION is not None:
        tile = ACTIVATION(tile, PARAMETERS[0], PARAMETERS[1])
    tile = gl.convert_layout(tile.to(y.dtype.element_ty), STORE)
    gl.store(addresses(y, (n, first, d0, h0, w0), line, column, channel, y_stride, Y), tile, mask=live)
