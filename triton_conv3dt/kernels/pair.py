"""The gather product (kernels/gather.py) by the programs of a cluster, which share what they can. In Gluon.

    out[position, (phase, row)] = sum over (tap, channel) of  in[channel, position + offset] * w[row, channel, tap]

Each program has its part of a tile's positions and all of its columns, which are rows of the weight: these are fetched once for all,
so that a byte of the second-level cache serves more products. Everything is read by tensor descriptor, zeros outside: the
gathered tensor as X.reading says ("rows", "box" and "strided" as there; where channels come first "planes" [n, channel, place],
"lines" [d, h, (n, channel), w] or "strided lines" [d, h // step, h % step, (n, channel), w], plane by plane), the weight as W.reading
says: "taps" [row, tap d, tap h, tap w, channel], or "flat" [channel, (row, tap) or (tap, row)].

Lines have positions side by side, TILE.split neighbours of each. Products of 16 bits take them from shared memory as they lie; TF32,
and neighbours that are parted, pass by registers.

A tile is TILE.n positions by TILE.m columns, reduced by TILE.k channels at a time.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    cluster, mbarrier, warpgroup_mma, warpgroup_mma_init, warpgroup_mma_wait
)

from .gluon_names import halves, load_box, neighbours, seen_as, shared_layout, spread
from .pair_store import store
from .tiles import axis_taps


@gluon.constexpr_function
def sum_layout(columns, warps, bits, programs):
    """How products leave a tile: each program has its part of the positions."""
    return gl.NVMMADistributedLayout([3, 0], [warps, 1], [16, columns, 256 // bits], **halves(2, spread(0, programs)))


@gluon.constexpr_function
def operand_layout(columns, warps, bits, programs):
    """How a first operand lies in registers."""
    return gl.DotOperandLayout(0, sum_layout(columns, warps, bits, programs), 32 // bits)


@gluon.constexpr_function
def fragment_layout(channels, positions, split, warps, bits, programs):
    """[channel, position with its neighbours], such that a thread has all neighbours of the elements of the first operand that are
    its own, in their order."""
    pair = 32 // bits  # channels in a register
    lanes = [[pair, 0], [2 * pair, 0], [0, split], [0, 2 * split], [0, 4 * split]]
    registers = [[0, 1 << i] for i in range(split.bit_length() - 1)] + [[1, 0]] * (pair > 1) + [[0, 8 * split], [4 * pair, 0]]
    registers += [[8 * pair << i, 0] for i in range((channels // (8 * pair)).bit_length() - 1)]
    each = [[0, (16 << i) * split] for i in range(warps.bit_length() - 1)]
    apart = [[0, (16 * warps << i) * split] for i in range(programs.bit_length() - 1)]
    return gl.DistributedLinearLayout(registers, lanes, each, apart, [channels, positions * split])


@gluon.constexpr_function
def below(offset, step):
    """How many steps below zero an offset begins: division rounds towards zero."""
    return (step - 1 - offset) // step if offset < 0 else 0


@gluon.jit
def fetch_positions(x, positions, slot, ready, wanted, origin, offset, c, x_size, x_w, AXIS_D: gl.constexpr, AXIS_H: gl.constexpr,
                    AXIS_W: gl.constexpr, RED: gl.constexpr, X: gl.constexpr, TILE: gl.constexpr):
    """The positions of a tile, moved by a tap's offset (d, h, w), from channel c on: each program's part of them."""
    BOX: gl.constexpr = TILE.box
    PLANES: gl.constexpr = planes(X, TILE)
    target = seen_as(positions.index(slot * PLANES), x.dtype, x.block_type.shape, x.layout)
    n, d, h, w = origin
    dd, dh, dw = offset
    if X.reading == "rows":
        load_box(x, [w, c], ready, target, wanted)
    elif X.reading == "planes":
        load_box(x, [n, c, w], ready, target, wanted)
    elif X.reading == "box":
        load_box(x, [n, d + dd, h + dh, w + dw, c], ready, target, wanted)
    elif X.reading == "lines":
        load_box(x, [d + dd, h + dh, n * RED + c, w + dw], ready, target, wanted)
    elif X.reading == "strided lines":
        SH: gl.constexpr = AXIS_H.in_step
        LIFT: gl.constexpr = below(AXIS_H.offset, SH)
        h, dh = h - LIFT, dh + LIFT * SH
        for i in gl.static_range(PLANES):
            plane = seen_as(positions.index(slot * PLANES + i), x.dtype, x.block_type.shape, x.layout)
            load_box(x, [(d + i) * AXIS_D.in_step + dd, h + dh // SH, dh % SH, n * RED + c, w * AXIS_W.in_step + dw], ready,
                     plane, wanted)
    else:
        SH: gl.constexpr = AXIS_H.in_step
        SW: gl.constexpr = AXIS_W.in_step
        LIFT_H: gl.constexpr = below(AXIS_H.offset, SH)
        LIFT_W: gl.constexpr = below(AXIS_W.offset, SW)
        dh, dw, d = dh + LIFT_H * SH, dw + LIFT_W * SW, d * AXIS_D.in_step + dd
        plane = gl.where((d >= 0) & (d < x_size[0]), n * x_size[0] + d, -1)  # another sample's plane is outside, too
        load_box(x, [plane, h + dh // SH - LIFT_H, dh % SH, w + dw // SW - LIFT_W, dw % SW * x_w + c], ready, target, wanted)


@gluon.jit
def fetch_weights(w, target, ready, wanted, i_row, first, c, AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr,
                  ROWS: gl.constexpr, W: gl.constexpr, TILE: gl.constexpr, BOXES: gl.constexpr, slot):
    """The columns of a tile for the tap `first` (d, h, w) of their phase, from channel c on, for all programs."""
    if W.reading == "flat":
        load_box(w, [c, i_row * TILE.m], ready, target.index(slot), wanted, multicast=True)
    else:
        JOIN: gl.constexpr = TILE.join
        LINES: gl.constexpr = TILE.m // JOIN
        BOX: gl.constexpr = TILE.m // BOXES
        MW: gl.constexpr = AXIS_W.merged // JOIN
        for i in gl.static_range(BOXES):
            line = i_row * LINES + i * BOX % LINES
            row, phase = line % ROWS, line // ROWS
            rd, rh, rw = phase // MW // AXIS_H.merged, phase // MW % AXIS_H.merged, phase % MW + i * BOX // LINES
            box = seen_as(target.index(slot * BOXES + i), w.dtype, w.block_type.shape, w.layout)
            load_box(w, [row, first[0] + rd, first[1] + rh, first[2] + rw, c], ready, box, wanted, multicast=True)


@gluon.constexpr_function
def planes(X, TILE):
    """In how many copies the positions of a tile arrive: plane by plane, where planes are apart."""
    return TILE.box[0] if X.reading == "strided lines" else 1


@gluon.constexpr_function
def of_lines(X):
    return X.reading in ("lines", "strided lines")


@gluon.constexpr_function
def by_registers(X, TILE, bits):
    """Whether the first operand passes by registers, where it cannot be transposed or is parted."""
    return X.reading in ("lines", "strided lines") and (bits == 32 or TILE.split > 1)


@gluon.jit
def ring_of_positions(x, X: gl.constexpr, TILE: gl.constexpr):
    """Room for the positions of all stages: of lines, copy after copy."""
    PROGRAMS: gl.constexpr = gl.num_ctas()
    BITS: gl.constexpr = x.dtype.primitive_bitwidth
    if of_lines(X):
        COPIES: gl.constexpr = TILE.stages * planes(X, TILE)
        WIDTH: gl.constexpr = TILE.box[2] * TILE.split
        LENGTH: gl.constexpr = TILE.n * TILE.split // planes(X, TILE)
        return gl.allocate_shared_memory(x.dtype, [COPIES, TILE.k, LENGTH], shared_layout(WIDTH, BITS, 2, spread(1, PROGRAMS)))
    elif X.reading == "planes":
        LAYOUT: gl.constexpr = shared_layout(TILE.n // PROGRAMS, BITS, 2, spread(1, PROGRAMS))
        return gl.allocate_shared_memory(x.dtype, [TILE.stages, TILE.k, TILE.n], LAYOUT)
    else:
        return gl.allocate_shared_memory(x.dtype, [TILE.stages, TILE.n, TILE.k], shared_layout(TILE.k, BITS, 2, spread(0, PROGRAMS)))


@gluon.jit
def operand(positions, slot, X: gl.constexpr, TILE: gl.constexpr):
    """The positions of a slot in shared memory: [position, channel], or [channel, position with its neighbours] before they are read."""
    if of_lines(X):
        WIDTH: gl.constexpr = TILE.box[2] * TILE.split
        LAYOUT: gl.constexpr = shared_layout(WIDTH, positions.dtype.primitive_bitwidth, 2, spread(1, gl.num_ctas()))
        lines = seen_as(positions.index(slot * planes(X, TILE)), positions.dtype, [TILE.k, TILE.n * TILE.split], LAYOUT)
        return lines if TILE.split > 1 else lines.permute((1, 0))
    elif X.reading == "planes":
        return positions.index(slot).permute((1, 0))
    else:
        return positions.index(slot)


@gluon.jit
def fragments(positions, slot, X: gl.constexpr, TILE: gl.constexpr, WARPS: gl.constexpr):
    """The positions of a slot in registers, a tile [position, channel] for each of their neighbours."""
    BITS: gl.constexpr = positions.dtype.primitive_bitwidth
    OPERAND: gl.constexpr = operand_layout(TILE.m, WARPS, BITS, gl.num_ctas())
    K: gl.constexpr = TILE.k
    N: gl.constexpr = TILE.n
    SPLIT: gl.constexpr = TILE.split
    if SPLIT == 1:
        return (operand(positions, slot, X, TILE).load(OPERAND),)
    else:
        LAYOUT: gl.constexpr = fragment_layout(TILE.k, TILE.n, TILE.split, WARPS, BITS, gl.num_ctas())
        tile = operand(positions, slot, X, TILE).load(LAYOUT)
        tiles, found = neighbours(tile, K, N, SPLIT), ()
        for i in gl.static_range(SPLIT):
            found = found + (gl.convert_layout(tiles[i].permute((1, 0)), OPERAND, assert_trivial=True),)
        return found


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
def fetch(x, w, positions, weights, ready, slot, step, wanted, origin, i_row, taps, first, offset, x_size, x_w, AXIS_D: gl.constexpr,
          AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, ROWS: gl.constexpr, RED: gl.constexpr, X: gl.constexpr, W: gl.constexpr,
          TILE: gl.constexpr, BOXES: gl.constexpr):
    """What a step multiplies, into a slot of the ring."""
    CHUNKS: gl.constexpr = (RED + TILE.k - 1) // TILE.k
    SPLIT: gl.constexpr = TILE.split
    BYTES: gl.constexpr = (TILE.n // gl.num_ctas() + TILE.m) * SPLIT * TILE.k * (x.dtype.primitive_bitwidth // 8)
    c, tap = step % CHUNKS * TILE.k, step // CHUNKS
    jd, jh, jw = tap // taps[2] // taps[1], tap // taps[2] % taps[1], tap % taps[2]
    at = offset[0] + jd * AXIS_D.move, offset[1] + jh * AXIS_H.move, offset[2] + jw * AXIS_W.move
    k = first[0] + jd * AXIS_D.tap_step, first[1] + jh * AXIS_H.tap_step, first[2] + jw * AXIS_W.tap_step
    ready = ready.index(slot)
    mbarrier.expect(ready, BYTES, wanted)
    fetch_positions(x, positions, slot, ready, wanted, origin, at, c, x_size, x_w, AXIS_D, AXIS_H, AXIS_W, RED, X, TILE)
    for i in gl.static_range(SPLIT):
        fetch_weights(w, weights, ready, wanted, i_row, (k[0], k[1], k[2] + i), c, AXIS_D, AXIS_H, AXIS_W, ROWS, W, TILE, BOXES,
                      slot * SPLIT + i)


@gluon.jit
def pair(w, x, y, b, residual, pre, P, size, x_size, y_size, x_stride, y_stride, r_stride, AXIS_D: gl.constexpr, AXIS_H: gl.constexpr,
         AXIS_W: gl.constexpr, ROWS: gl.constexpr, RED: gl.constexpr, X: gl.constexpr, W: gl.constexpr, Y: gl.constexpr,
         R: gl.constexpr, TILE: gl.constexpr, BOXES: gl.constexpr, ACTIVATION: gl.constexpr, PARAMETERS: gl.constexpr,
         WARPS: gl.constexpr):
    """w, x: descriptors. size: coarse places (d, h, w), P: N times their product. BOXES: how many make up the columns of a tile.
    Grid: (position tile, phase, column tile), the column tile fastest."""
    BITS: gl.constexpr = x.dtype.primitive_bitwidth
    STAGES: gl.constexpr = TILE.stages
    CHUNKS: gl.constexpr = (RED + TILE.k - 1) // TILE.k
    FLAT: gl.constexpr = W.reading == "flat"
    SPLIT: gl.constexpr = TILE.split
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
        tiles = gl.cdiv(last, TILE.n)
        origin = (i_position // tiles, 0, 0, i_position % tiles * TILE.n)
    elif BOX is None:
        origin = (0, 0, 0, i_position * TILE.n)
    else:
        high, wide = gl.cdiv(size[1], BOX[1]), gl.cdiv(size[2], BOX[2])
        plane = i_position // wide // high
        deep = gl.cdiv(size[0], BOX[0])
        origin = (plane // deep, plane % deep * BOX[0], i_position // wide % high * BOX[1], i_position % wide * BOX[2])
    taps_d, first_d, offset_d = axis_taps(AXIS_D, phase[0])
    taps_h, first_h, offset_h = axis_taps(AXIS_H, phase[1])
    taps_w, first_w, offset_w = axis_taps(AXIS_W, phase[2])
    steps = taps_d * taps_h * taps_w * CHUNKS
    taps = (1, gl.maximum(taps_h, 1), gl.maximum(taps_w, 1))  # of nothing there are no steps, but a compiler divides before it knows
    first, offset = (first_d, first_h, first_w), (offset_d, offset_h, offset_w)

    PROGRAMS: gl.constexpr = gl.num_ctas()
    SHARED: gl.constexpr = spread(-1, PROGRAMS)
    positions = ring_of_positions(x, X, TILE)
    if FLAT:
        weights = gl.allocate_shared_memory(x.dtype, [STAGES, TILE.k, TILE.m], shared_layout(TILE.m, BITS, 2, SHARED))
    else:
        TAPS: gl.constexpr = shared_layout(TILE.k, BITS, 2, SHARED)
        weights = gl.allocate_shared_memory(x.dtype, [STAGES * SPLIT * BOXES, TILE.m // BOXES, TILE.k], TAPS)
    ready = mbarrier.allocate_mbarrier(batch=STAGES)
    for i in gl.static_range(STAGES):
        mbarrier.init(ready.index(i), count=1)
    mbarrier.sync_cluster_init()
    for i in gl.static_range(STAGES - 1):
        fetch(x, w, positions, weights, ready, i, i, i < steps, origin, i_row, taps, first, offset, x_size, x_stride[4], AXIS_D, AXIS_H,
              AXIS_W, ROWS, RED, X, W, TILE, BOXES)
    POSITIONS: gl.constexpr = TILE.n
    COLUMNS: gl.constexpr = TILE.m
    SUM: gl.constexpr = sum_layout(COLUMNS, WARPS, BITS, PROGRAMS)
    acc = gl.zeros([POSITIONS, COLUMNS], gl.float32, SUM)
    if by_registers(X, TILE, BITS):
        acc = warpgroup_mma_init(acc)
    for step in range(steps):
        slot = step % STAGES
        mbarrier.wait(ready.index(slot), step // STAGES % 2)
        if by_registers(X, TILE, BITS):
            acc = warpgroup_mma_wait(0, deps=[acc])  # before its registers are written
            cluster.arrive()
            tiles = fragments(positions, slot, X, TILE, WARPS)
            for i in gl.static_range(SPLIT):
                acc = warpgroup_mma(tiles[i], columns(weights, slot * SPLIT + i, TILE, FLAT, BOXES), acc, is_async=True)
        else:
            acc = warpgroup_mma(operand(positions, slot, X, TILE), columns(weights, slot, TILE, FLAT, BOXES), acc, is_async=True)
            acc = warpgroup_mma_wait(1, deps=[acc])
            cluster.arrive()
        cluster.wait()  # all programs have multiplied what the slot of the last step held
        fetch(x, w, positions, weights, ready, (step + (STAGES - 1)) % STAGES, step + (STAGES - 1), step + (STAGES - 1) < steps, origin,
              i_row, taps, first, offset, x_size, x_stride[4], AXIS_D, AXIS_H, AXIS_W, ROWS, RED, X, W, TILE, BOXES)
    acc = warpgroup_mma_wait(0, deps=[acc])
    for i in gl.static_range(STAGES):
        mbarrier.invalidate(ready.index(i))
    store(acc, y, b, residual, pre, i_row * (TILE.m // TILE.join), origin, phase, last, size, y_size, y_stride, r_stride, AXIS_D,
          AXIS_H, AXIS_W, ROWS, Y, R, TILE, planes(X, TILE) > 1, ACTIVATION, PARAMETERS, WARPS)
