"""The gather product (kernels/gather.py) by the programs of a cluster, which share what they can. In Gluon.

    out[position, (phase, row)] = sum over (tap, channel) of  in[channel, position + offset] * w[row, channel, tap]

Each program has its part of a tile's positions and all of its columns, which are rows of the weight: these are fetched once for
all, so that a byte of the second-level cache serves more products. Everything is read by tensor descriptor, zeros outside: the
gathered tensor as X.reading says ("rows", "box" and "strided" as there; of a copy of strided boxes "apart" [(n, d % step, h %
step), d // step, h // step, w // step, (w % step, channel)]; where channels come first "planes" [n, channel, place], "lines" [d, h,
(n, channel), w] or "strided lines" [d, h // step, h % step, (n, channel), w], plane by plane), the weight as W.reading says: "taps"
[row, tap d, tap h, tap w, channel], or "flat" [channel, (row, tap) or (tap, row)]. A step fetches one tap's positions and
multiplies them. With TILE.bands it fetches the rows along h of a whole band (planning/halos.py): they lie one after another, so
that a run of them is the operand of each tap along h. Programs then part planes, and rows along w.

Lines have positions side by side, TILE.split neighbours of each. Products of 16 bits take them from shared memory as they lie; TF32,
and neighbours that are parted, pass by registers (pair_fragments.py).

Steps go round a ring of TILE.stages. A few are written one after the other, whose slots and places are constants, and no program waits
for another but before a slot is filled again; of more, which are a loop, in every step.

A tile is TILE.n positions by TILE.m columns, reduced by TILE.k channels at a time.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    cluster, mbarrier, warpgroup_mma, warpgroup_mma_init, warpgroup_mma_wait
)

from .gluon_names import barrier, halves, parts_of, seen_as, shared_layout, spread
from .pair_fetch import chunks_of_share, fetch, most_taps, row_of, slabs, taps_of
from .pair_fragments import by_registers, fragments, in_order, line_of, of_lines, operand, places_of
from .pair_store import store
from .tiles import axis_taps, quotient, widen

FEW = gl.constexpr(17)  # steps that are written one after the other: FEW of planning/pair_issue.py


@gluon.constexpr_function
def sum_layout(columns, warps, bits, programs):
    """How products leave a tile: each program has its part of the positions."""
    return gl.NVMMADistributedLayout([3, 0], [warps, 1], [16, columns, 256 // bits], **halves(2, spread(0, programs)))


@gluon.constexpr_function
def operand_layout(columns, warps, bits, programs):
    """How a first operand lies in registers."""
    return gl.DotOperandLayout(0, sum_layout(columns, warps, bits, programs), 32 // bits)


@gluon.constexpr_function
def side_parted(X, TILE):
    """Which side of a box (d, h, w) the programs part: the outermost, from which on they have all positions in their order, or another."""
    return 2 if TILE.bands else 1 if slabs(X, TILE) > 1 else 0


@gluon.jit
def ring_of_positions(x, X: gl.constexpr, TILE: gl.constexpr):
    """Room for the positions of all stages, piece after piece."""
    PROGRAMS: gl.constexpr = gl.num_ctas()
    BITS: gl.constexpr = x.dtype.primitive_bitwidth
    PIECES: gl.constexpr = TILE.stages * slabs(X, TILE)
    PLACES: gl.constexpr = places_of(X, TILE)
    if of_lines(X):
        LAYOUT: gl.constexpr = shared_layout(line_of(TILE, PROGRAMS), BITS, 2, spread(1, PROGRAMS))
        return gl.allocate_shared_memory(x.dtype, [PIECES, TILE.k, PLACES * TILE.split], LAYOUT)
    elif X.reading == "planes":
        LAYOUT: gl.constexpr = shared_layout(TILE.n // PROGRAMS, BITS, 2, spread(1, PROGRAMS))
        return gl.allocate_shared_memory(x.dtype, [TILE.stages, TILE.k, TILE.n], LAYOUT)
    else:
        return gl.allocate_shared_memory(x.dtype, [PIECES, PLACES, TILE.k], shared_layout(TILE.k, BITS, 2, spread(0, PROGRAMS)))


@gluon.jit
def columns(weights, slot, TILE: gl.constexpr, FLAT: gl.constexpr, BOXES: gl.constexpr):
    """The weights of a slot, [channel, row of the weight]."""
    if FLAT:
        return weights.index(slot)
    else:
        BITS: gl.constexpr = weights.dtype.primitive_bitwidth
        LAYOUT: gl.constexpr = shared_layout(TILE.k, BITS, 2, spread(-1, gl.num_ctas()))
        return seen_as(weights.index(slot * BOXES), weights.dtype, [TILE.m, TILE.k], LAYOUT).permute((1, 0))


@gluon.jit
def add_products(acc, positions, weights, slot, BAND: gl.constexpr, X: gl.constexpr, TILE: gl.constexpr, FLAT: gl.constexpr,
                 BOXES: gl.constexpr, REFILLED: gl.constexpr, WARPS: gl.constexpr):
    """acc + the products of a step, which are still under way, while those of the step before are done, as others are told: where slots
    are filled again."""
    TAPS: gl.constexpr = taps_of(TILE, BAND)
    SPLIT: gl.constexpr = TILE.split
    BITS: gl.constexpr = positions.dtype.primitive_bitwidth
    if by_registers(X, TILE, BITS):
        OPERAND: gl.constexpr = operand_layout(TILE.m, WARPS, BITS, gl.num_ctas())
        acc = warpgroup_mma_wait(0, deps=[acc])  # before its registers are written
        if REFILLED:
            cluster.arrive()
        for tap in gl.static_range(TAPS):
            if tap > 1:
                acc = warpgroup_mma_wait(SPLIT, deps=[acc])  # two taps have room in registers
            tiles = fragments(positions, slot * slabs(X, TILE) + row_of(TILE, BAND, tap), OPERAND, TILE, WARPS)
            for i in gl.static_range(SPLIT):
                of_tap = (slot * most_taps(TILE) + tap) * SPLIT + i
                acc = warpgroup_mma(tiles[i], columns(weights, of_tap, TILE, FLAT, BOXES), acc, is_async=True)
    else:
        for tap in gl.static_range(TAPS):
            a = operand(positions, slot * slabs(X, TILE) + row_of(TILE, BAND, tap), X, TILE)
            acc = warpgroup_mma(a, columns(weights, slot * most_taps(TILE) + tap, TILE, FLAT, BOXES), acc, is_async=True)
        if REFILLED:
            acc = warpgroup_mma_wait(TAPS, deps=[acc])
            cluster.arrive()
    return acc


@gluon.constexpr_function
def steps_known(AXIS_D, AXIS_H, AXIS_W, RED, TILE):
    """All steps of a tile, where every phase has as many and they are few; else 0."""
    taps = AXIS_D.taps, AXIS_H.taps, AXIS_W.taps
    steps = taps[0] * taps[1] * taps[2] * chunks_of_share(RED, TILE)
    return steps if min(taps) > 0 and not TILE.bands and steps <= FEW else 0


@gluon.constexpr_function
def refills(step, steps, TILE):
    """Whether a step fills the slot of the one before it again."""
    return 0 < step <= steps - TILE.stages


@gluon.jit
def pair(w, x, line, y, b, residual, pre, P, size, x_size, y_size, x_stride, y_stride, r_stride, AXIS_D: gl.constexpr,
         AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, ROWS: gl.constexpr, RED: gl.constexpr, X: gl.constexpr, W: gl.constexpr,
         Y: gl.constexpr, R: gl.constexpr, TILE: gl.constexpr, BOXES: gl.constexpr, ACTIVATION: gl.constexpr, PARAMETERS: gl.constexpr,
         WARPS: gl.constexpr, INDEX: gl.constexpr):
    """w, x, line: descriptors of the weight, of what is gathered and of its further rows, or None. size: coarse places (d, h, w), then the
    factors and the shifts by which a flat index is divided to have its sample, plane and row: of planes that of a tile to have its sample;
    P: N times their product. BOXES: how many make up the columns of a tile. Grid: (position tile, phase, column tile), the column tile
    fastest; and shares of the channels that are summed over."""
    BITS: gl.constexpr = x.dtype.primitive_bitwidth
    STAGES: gl.constexpr = TILE.stages
    CHUNKS: gl.constexpr = chunks_of_share(RED, TILE)
    FLAT: gl.constexpr = W.reading == "flat"
    BANDS: gl.constexpr = 1 if len(TILE.bands) == 0 else len(TILE.bands)
    BOX: gl.constexpr = TILE.box
    COLUMN_TILES: gl.constexpr = (AXIS_D.merged * AXIS_H.merged * AXIS_W.merged * ROWS + TILE.m - 1) // TILE.m
    PHASES: gl.constexpr = AXIS_D.phases * AXIS_H.phases * AXIS_W.phases
    pid = gl.program_id(0)
    i_row, rest = pid % COLUMN_TILES, pid // COLUMN_TILES
    i_phase, i_position = rest % PHASES, rest // PHASES
    phase = (i_phase // AXIS_W.phases // AXIS_H.phases, i_phase // AXIS_W.phases % AXIS_H.phases, i_phase % AXIS_W.phases)
    last = P
    if X.reading == "planes":
        last = size[0] * size[1] * size[2]
        n = quotient(i_position, size[3], size[6])
        origin = (n, 0, 0, (i_position - n * gl.cdiv(last, TILE.n)) * TILE.n)
    elif BOX is None:
        origin = (0, 0, 0, i_position * TILE.n)
    else:
        rest, i_w = parts_of(i_position, gl.cdiv(size[2], BOX[2]))
        rest, i_h = parts_of(rest, gl.cdiv(size[1], BOX[1]))
        n, i_d = parts_of(rest, gl.cdiv(size[0], BOX[0]))
        origin = (n, i_d * BOX[0], i_h * BOX[1], i_w * BOX[2])
    taps_d, first_d, offset_d = axis_taps(AXIS_D, phase[0])
    taps_h, first_h, offset_h = axis_taps(AXIS_H, phase[1])
    taps_w, first_w, offset_w = axis_taps(AXIS_W, phase[2])
    each = taps_d * taps_w * CHUNKS * (taps_h if len(TILE.bands) == 0 else 1)  # steps of a band
    steps = each * BANDS
    # Of nothing there are no steps, but a compiler divides before it knows.
    taps = (gl.maximum(taps_d, 1), gl.maximum(taps_h, 1), gl.maximum(taps_w, 1))
    first, offset, x_w = (first_d, first_h, first_w), (offset_d, offset_h, offset_w), gl.cast(x_stride[4], gl.int32)

    PROGRAMS: gl.constexpr = gl.num_ctas()
    SHARED: gl.constexpr = spread(-1, PROGRAMS)
    positions = ring_of_positions(x, X, TILE)
    if FLAT:
        weights = gl.allocate_shared_memory(x.dtype, [STAGES, TILE.k, TILE.m], shared_layout(TILE.m, BITS, 2, SHARED))
    else:
        TAPS: gl.constexpr = shared_layout(TILE.k, BITS, 2, SHARED)
        weights = gl.allocate_shared_memory(x.dtype, [STAGES * most_taps(TILE) * TILE.split * BOXES, TILE.m // BOXES, TILE.k], TAPS)
    ready = mbarrier.allocate_mbarrier(batch=STAGES)
    for i in gl.static_range(STAGES):
        mbarrier.init(ready.index(i), count=1)
    mbarrier.sync_cluster_init()
    FEW_STEPS: gl.constexpr = steps_known(AXIS_D, AXIS_H, AXIS_W, RED, TILE)
    FETCHED: gl.constexpr = min(FEW_STEPS, STAGES) if FEW_STEPS else STAGES - 1
    for i in gl.static_range(FETCHED):
        fetch(w, x, line, positions, weights, ready, i, i, i < steps, origin, i_row, taps, first, offset, x_size, x_w, AXIS_D,
              AXIS_H, AXIS_W, ROWS, RED, X, W, TILE, BOXES)
    POSITIONS: gl.constexpr = TILE.n
    COLUMNS: gl.constexpr = TILE.m
    SUM: gl.constexpr = sum_layout(COLUMNS, WARPS, BITS, PROGRAMS)
    acc = gl.zeros([POSITIONS, COLUMNS], gl.float32, SUM)
    if FEW_STEPS:
        if by_registers(X, TILE, BITS):
            acc = warpgroup_mma_init(acc)
        for i in gl.static_range(FEW_STEPS):
            mbarrier.wait(ready.index(i % STAGES), i // STAGES % 2)
            acc = add_products(acc, positions, weights, i % STAGES, 0, X, TILE, FLAT, BOXES, refills(i, FEW_STEPS, TILE), WARPS)
            if refills(i, FEW_STEPS, TILE):
                cluster.wait()  # all programs have multiplied what the slot of the last step held
                fetch(w, x, line, positions, weights, ready, (i - 1) % STAGES, i - 1 + STAGES, True, origin, i_row, taps, first, offset,
                      x_size, x_w, AXIS_D, AXIS_H, AXIS_W, ROWS, RED, X, W, TILE, BOXES)
    else:
        for band in gl.static_range(BANDS):
            if band > 0:
                acc = warpgroup_mma_wait(0, deps=[acc])
            if by_registers(X, TILE, BITS):
                acc = warpgroup_mma_init(acc)
            for step in range(band * each, (band + 1) * each):
                slot = step % STAGES
                mbarrier.wait(ready.index(slot), step // STAGES % 2)
                acc = add_products(acc, positions, weights, slot, band, X, TILE, FLAT, BOXES, True, WARPS)
                cluster.wait()  # all programs have multiplied what the slot of the last step held
                ahead = step + (STAGES - 1)
                fetch(w, x, line, positions, weights, ready, ahead % STAGES, ahead, ahead < steps, origin, i_row, taps, first, offset,
                      x_size, x_w, AXIS_D, AXIS_H, AXIS_W, ROWS, RED, X, W, TILE, BOXES)
    acc = warpgroup_mma_wait(0, deps=[acc])
    mbarrier.invalidate(ready.index(0))
    if TILE.shares > 1:
        y += gl.program_id(1).to(gl.int64) * (gl.cast(P, gl.int64) * ROWS)  # shares lie one after the other
    y_stride, r_stride = widen(y_stride, Y.last, INDEX), widen(r_stride, R.last, INDEX)
    acc, row = in_order(acc, X, TILE, BITS), i_row * (TILE.m // TILE.join)
    store(acc, y, b, residual, pre, row, origin, phase, last, size, y_size, y_stride, r_stride, AXIS_D, AXIS_H, AXIS_W, ROWS, Y, R, TILE,
          side_parted(X, TILE), X.reading == "planes", ACTIVATION, PARAMETERS, WARPS)
    ready._keep_alive()  # its place is never other memory, for which each would have to be made invalid
