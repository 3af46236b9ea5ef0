"""The weight gradient on Hopper's tensor cores in TF32, in Gluon, by two or four programs of a cluster that share what they fetch:

    dw[ci, co, k] = sum over positions of x[position, ci] * dz[stride * position - padding + k, co]

The product is that of kernels/grad_weight.py: rows are (shift of x, ci), columns (shift of dz, co). Of a tile each program has
half of the rows and all columns, or, where these are many, half of them and all rows; of four half of both. What several need is
fetched once, into the shared memory of each: two ask L2 for a third less for a square tile.

All is fetched by tensor descriptor, in runs of positions along w, of a chunk of lines: some channels of one shift, or all of several.
The copy engine takes coordinates as they come, puts zeros where there is no such place, and rounds to TF32. So x is read as it lies, and
so is dz where its stride along w is 1, or where its residues are parted in registers; else its copy has w residue after residue, that
neighbouring positions read neighbours.

Where a box reaches beyond the last position of an axis, x or dz is outside, and what meets it is multiplied by zero.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import cluster, mbarrier, warpgroup_mma, warpgroup_mma_wait

from .gluon_names import columns_of_16_bytes, halves, load_box, neighbours, seen_as, shared_layout
from .pair_weight_store import line_parts, parts_of, write

NOWHERE = gl.constexpr(-(1 << 30))  # a place before every tensor: of what is fetched beyond the last line, or the last flat position


@gluon.constexpr_function
def sums_layout(PAIR, WARPS, bits):
    """How products leave a tile: rows by columns, or lines of dz by rows where residues are parted."""
    columns, dimensions = (PAIR.n, PAIR.halved) if PAIR.split == 1 else (PAIR.m, [1 - side for side in PAIR.halved])
    instruction = [16, columns >> list(dimensions).count(1), 256 // bits]
    return gl.NVMMADistributedLayout([3, 0], [WARPS, 1], instruction, **halves(2, dimensions))


@gluon.constexpr_function
def lines_in_registers(PAIR, WARPS, bits):
    """Lines of dz [line, place along w], such that a thread has all residues of the elements of a first operand that are its own, in their
    order, if the bits of a line modulo 8 are read backwards: then lanes that load at once are apart in the banks."""
    lines, wide, split, pair = PAIR.n // PAIR.split, PAIR.box[2], PAIR.split, 32 // bits  # positions in a register
    own = lines >> PAIR.halved.count(1)
    residues = [[0, 1 << i] for i in range((split * pair).bit_length() - 1)]
    step = split * pair
    registers = residues + [[8, 0]] + [[0, (4 << i) * step] for i in range((wide // (4 * pair)).bit_length() - 1)]
    registers += [[(16 * WARPS) << i, 0] for i in range((own // (16 * WARPS)).bit_length() - 1)]
    lanes, warps = [[0, step], [0, 2 * step], [4, 0], [2, 0], [1, 0]], [[16 << i, 0] for i in range(WARPS.bit_length() - 1)]
    return gl.DistributedLinearLayout(registers, lanes, warps, [[own * side, 0] for side in PAIR.halved], [lines, wide * split])


@gluon.constexpr_function
def shared(PAIR, side):
    """Whether several programs want the same rows (0) or columns (1)."""
    return any(other != side for other in PAIR.halved)


@gluon.constexpr_function
def several(count, shape):
    return [count, *shape]


@gluon.jit
def chunk(line, tap, CHANNELS: gl.constexpr, D: gl.constexpr, H: gl.constexpr, W: gl.constexpr, TILE: gl.constexpr):
    """What the lines from `line` on read at position 0: the place (d, h, w), and the channel, of the first. tap: shifts of the program
    beside theirs."""
    d, h, w, channel = line_parts(line, CHANNELS, D, H, W)
    if D.count * H.count * W.count * CHANNELS % TILE != 0:
        place = gl.where(d < D.count, D.first + (d + tap[0]) * D.move, NOWHERE)
    elif D.count > 1:
        place = D.first + (d + tap[0]) * D.move
    else:
        place = D.first + tap[0] * D.move
    return place, H.first + (h + tap[1]) * H.move, W.first + (w + tap[2]) * W.move, channel


@gluon.jit
def residue_and_run(place, W: gl.constexpr):
    """Where a copy of residue after residue, which begins with a place that shift 0 reads, has a place along w: its residue, and the
    place among those of it."""
    FIRST: gl.constexpr = -(-W.first // W.step)
    return (place - W.first) % W.step, (place - W.first) // W.step + FIRST


@gluon.jit
def flat_places(i, d, h, w, at, sizes, ZD: gl.constexpr, ZH: gl.constexpr, PAIR: gl.constexpr):
    """Where run i of a box begins in x and, for a shift of dz, in dz, as planes of a sample and channel have their places one after the
    other. Runs beyond the last position are outside of x."""
    x_size, z_size = sizes
    d, h = d + i // PAIR.box[1], h + i % PAIR.box[1]
    x = gl.where((d < x_size[0]) & (h < x_size[1]), (d * x_size[1] + h) * x_size[2] + w, NOWHERE)
    return x, ((d * ZD.step + at[0]) * z_size[1] + h * ZH.step + at[1]) * z_size[2] + w * PAIR.split + at[2]


@gluon.jit
def fetch(x_box, z_box, xs, zs, full, stage, i_box, live, x_at, z_at, boxes, sizes, ZD: gl.constexpr, ZH: gl.constexpr, ZW: gl.constexpr,
          CO: gl.constexpr, PAIR: gl.constexpr):
    """Ask for what a step reads, if it is live: a run of positions after the other, of all chunks of x and of dz."""
    BOX: gl.constexpr = PAIR.box
    RUNS: gl.constexpr = BOX[0] * BOX[1]
    X_CHUNKS: gl.constexpr = PAIR.x_chunks
    Z_CHUNKS: gl.constexpr = PAIR.z_chunks
    X_SHARED: gl.constexpr = shared(PAIR, 0)
    Z_SHARED: gl.constexpr = shared(PAIR, 1)
    w, rest = i_box % boxes[2] * BOX[2], i_box // boxes[2]
    h, rest = rest % boxes[1] * BOX[1], rest // boxes[1]
    d, n = rest % boxes[0] * BOX[0], rest // boxes[0]
    barrier = full.index(stage)
    mbarrier.expect(barrier, PAIR.bytes, pred=live)
    for i in gl.static_range(RUNS):
        for j in gl.static_range(X_CHUNKS):
            at_d, at_h, at_w, channel = x_at[j]
            target = xs.index((stage * RUNS + i) * X_CHUNKS + j)
            if PAIR.flat:
                first, unused = flat_places(i, d, h, w, (0, 0, 0), sizes, ZD, ZH, PAIR)
                load_box(x_box, [n, gl.where(at_d < 0, NOWHERE, channel), first], barrier, target, pred=live, multicast=X_SHARED)
            else:
                load_box(x_box, [n, d + i // BOX[1] + at_d, h + i % BOX[1] + at_h, channel, w + at_w], barrier, target, pred=live,
                         multicast=X_SHARED)
        for j in gl.static_range(Z_CHUNKS):
            at_d, at_h, at_w, channel = z_at[j]
            place_d, place_h = (d + i // BOX[1]) * ZD.step + at_d, (h + i % BOX[1]) * ZH.step + at_h
            target = zs.index((stage * RUNS + i) * Z_CHUNKS + j)
            if PAIR.flat:
                unused, first = flat_places(i, d, h, w, (at_d, at_h, at_w), sizes, ZD, ZH, PAIR)
                load_box(z_box, [n, channel, first], barrier, target, pred=live, multicast=Z_SHARED)
            elif PAIR.apart:
                residue, first = residue_and_run(at_w, ZW)
                load_box(z_box, [place_d, place_h, residue, n * CO + channel, w + first], barrier, target, pred=live, multicast=Z_SHARED)
            else:
                load_box(z_box, [n, place_d, place_h, channel, w * PAIR.split + at_w], barrier, target, pred=live, multicast=Z_SHARED)


@gluon.jit
def pair_weight(x_box, z_box, parts, STEPS, EACH, boxes, sizes, p_stride, AXIS_D: gl.constexpr, AXIS_H: gl.constexpr,
                AXIS_W: gl.constexpr, CI: gl.constexpr, CO: gl.constexpr, PAIR: gl.constexpr, WARPS: gl.constexpr):
    """One share of dw for PAIR.m rows and PAIR.n columns, reduced by a box of positions at a time.

    x_box: x [n, d, h, ci, w]; z_box: dz [n, d, h, co, w], or, PAIR.apart, its copy [d, h, residue, (n, co), w], in boxes of a
    chunk and a run of positions. STEPS of all samples, EACH of them for a share; boxes: those along each axis of a sample; sizes: places of x
    and dz along them.
    parts [shares, ci, co, tap] by its strides, or dw where one share is all. Grid: (row tile, column tile, tap that is a program),
    share.
    """
    BITS: gl.constexpr = x_box.dtype.primitive_bitwidth
    M: gl.constexpr = PAIR.m
    SPLIT: gl.constexpr = PAIR.split
    N: gl.constexpr = PAIR.n // SPLIT
    STAGES: gl.constexpr = PAIR.stages
    RUNS: gl.constexpr = PAIR.box[0] * PAIR.box[1]
    X_CHUNKS: gl.constexpr = PAIR.x_chunks
    Z_CHUNKS: gl.constexpr = PAIR.z_chunks
    XD: gl.constexpr = AXIS_D.x
    XH: gl.constexpr = AXIS_H.x
    XW: gl.constexpr = AXIS_W.x
    ZD: gl.constexpr = AXIS_D.z
    ZH: gl.constexpr = AXIS_H.z
    ZW: gl.constexpr = AXIS_W.z
    ROW_TILES: gl.constexpr = -(-XD.count * XH.count * XW.count * CI // M)
    COLUMN_TILES: gl.constexpr = -(-ZD.count * ZH.count * ZW.count * CO // N)
    pid, share = gl.program_id(0), gl.program_id(1)
    i_row, rest = pid % ROW_TILES * M, pid // ROW_TILES
    i_column, rest = rest % COLUMN_TILES * N, rest // COLUMN_TILES
    jw, rest = rest % AXIS_W.programs, rest // AXIS_W.programs
    tap = rest // AXIS_H.programs, rest % AXIS_H.programs, jw
    x_at, z_at = (), ()
    for j in gl.static_range(X_CHUNKS):
        x_at = x_at + (chunk(i_row + j * (M // X_CHUNKS), (0, 0, 0), CI, XD, XH, XW, M),)
    for j in gl.static_range(Z_CHUNKS):
        z_at = z_at + (chunk(i_column + j * (N // Z_CHUNKS), tap, CO, ZD, ZH, ZW, N),)

    xs = gl.allocate_shared_memory(x_box.dtype, several(STAGES * RUNS * X_CHUNKS, x_box.block_type.shape), x_box.layout)
    zs = gl.allocate_shared_memory(z_box.dtype, several(STAGES * RUNS * Z_CHUNKS, z_box.block_type.shape), z_box.layout)
    full = mbarrier.allocate_mbarrier(batch=STAGES)
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
    mbarrier.sync_cluster_init()
    begin = share * EACH
    steps = gl.minimum(STEPS, begin + EACH) - begin
    for first in range(STAGES - 1):
        fetch(x_box, z_box, xs, zs, full, first, begin + first, first < steps, x_at, z_at, boxes, sizes, ZD, ZH, ZW, CO, PAIR)
    sums = ()
    for i in gl.static_range(SPLIT):
        sums = sums + (gl.zeros([M, N] if SPLIT == 1 else [N, M], gl.float32, sums_layout(PAIR, WARPS, BITS)),)
    if SPLIT > 1:
        cluster.arrive()
    for step in range(steps):
        stage, ahead = step % STAGES, step + STAGES - 1
        mbarrier.wait(full.index(stage), step // STAGES & 1)
        # All programs wait for the products of the step before, and then what these read is free. Those of parted lines are waited for
        # in their own step: only so does the assembler not let one wait for the other.
        if SPLIT == 1:
            sums = (multiply(sums[0], xs, zs, stage, PAIR),)
            cluster.arrive()
            cluster.wait()
            fetch(x_box, z_box, xs, zs, full, ahead % STAGES, begin + ahead, ahead < steps, x_at, z_at, boxes, sizes, ZD, ZH, ZW, CO, PAIR)
        else:
            running = multiply_parted(sums, xs, zs, stage, sizes[0][2] - (begin + step) % boxes[2] * PAIR.box[2], PAIR, WARPS)
            cluster.wait()
            fetch(x_box, z_box, xs, zs, full, ahead % STAGES, begin + ahead, ahead < steps, x_at, z_at, boxes, sizes, ZD, ZH, ZW, CO, PAIR)
            sums = warpgroup_mma_wait(0, deps=running)
            cluster.arrive()
    if SPLIT == 1:
        sums = (warpgroup_mma_wait(0, deps=sums),)
    else:
        cluster.wait()
        sums = warpgroup_mma_wait(0, deps=sums)
    for i in gl.static_range(STAGES):
        mbarrier.invalidate(full.index(i))
    out = parts + share.to(gl.int64) * p_stride[0]
    for i in gl.static_range(SPLIT):
        write(sums[i], i, out, i_row, i_column, tap, p_stride, AXIS_D, AXIS_H, AXIS_W, CI, CO, PAIR, WARPS)


@gluon.constexpr_function
def runs_of_products(PAIR, bits):
    """How many runs of positions are one reduction of tensor cores, 32 bytes."""
    return max(1, 256 // bits // PAIR.box[2])


@gluon.constexpr_function
def lines_layout(PAIR, side, bits):
    """How rows of x (side 0) or columns of dz (1) lie in shared memory, [line, position of a run], or of the two runs of a product."""
    lines, together = (PAIR.m, PAIR.n)[side], runs_of_products(PAIR, bits)
    if together > 1:
        return columns_of_16_bytes(lines, PAIR.box[2] * together, bits, parts_of(PAIR, side))
    return shared_layout(PAIR.box[2], bits, 2, parts_of(PAIR, side))


@gluon.jit
def lines_of(ring, stage, i: gl.constexpr, SIDE: gl.constexpr, PAIR: gl.constexpr):
    """What a step has fetched of x (SIDE 0) or dz (1) from run i of positions on, as an operand: [line, position]."""
    RUNS: gl.constexpr = PAIR.box[0] * PAIR.box[1]
    BITS: gl.constexpr = ring.dtype.primitive_bitwidth
    WIDE: gl.constexpr = PAIR.box[2] * runs_of_products(PAIR, BITS)
    CHUNKS: gl.constexpr = PAIR.z_chunks if SIDE else PAIR.x_chunks
    LINES: gl.constexpr = PAIR.n if SIDE else PAIR.m
    return seen_as(ring.index((stage * RUNS + i) * CHUNKS), ring.dtype, [LINES, WIDE], lines_layout(PAIR, SIDE, BITS))


@gluon.jit
def multiply(sums, xs, zs, stage, PAIR: gl.constexpr):
    """Add the products of a step, which go on while those of the step before have been waited for."""
    TOGETHER: gl.constexpr = runs_of_products(PAIR, xs.dtype.primitive_bitwidth)
    PRODUCTS: gl.constexpr = PAIR.box[0] * PAIR.box[1] // TOGETHER
    for i in gl.static_range(PRODUCTS):
        rows, columns = lines_of(xs, stage, i * TOGETHER, 0, PAIR), lines_of(zs, stage, i * TOGETHER, 1, PAIR)
        sums = warpgroup_mma(rows, columns.permute((1, 0)), sums, is_async=True)
    return warpgroup_mma_wait(PRODUCTS, deps=[sums])


@gluon.jit
def parted(zs, stage, i: gl.constexpr, live, PAIR: gl.constexpr, WARPS: gl.constexpr):
    """Run i of dz that a step has fetched, in registers: a tile [line, position] for each residue. Of flat places those from `live` on are
    of the next row, and become zeros."""
    RUNS: gl.constexpr = PAIR.box[0] * PAIR.box[1]
    WIDE: gl.constexpr = PAIR.box[2]
    SPLIT: gl.constexpr = PAIR.split
    LINES: gl.constexpr = PAIR.n // SPLIT
    BITS: gl.constexpr = zs.dtype.primitive_bitwidth
    IN_REGISTERS: gl.constexpr = lines_in_registers(PAIR, WARPS, BITS)
    SHARED: gl.constexpr = shared_layout(WIDE * SPLIT, BITS, 2, parts_of(PAIR, 1))
    tile = seen_as(zs.index((stage * RUNS + i) * PAIR.z_chunks), zs.dtype, [LINES, WIDE * SPLIT], SHARED).load(IN_REGISTERS)
    if PAIR.flat:
        position = gl.arange(0, WIDE * SPLIT, gl.SliceLayout(0, IN_REGISTERS)) // SPLIT
        tile = gl.where((position < live)[None, :], tile, gl.zeros_like(tile))
    tile = tile.reshape([LINES // 8, 2, 2, 2, WIDE * SPLIT]).permute((0, 3, 2, 1, 4)).reshape([LINES, WIDE * SPLIT])
    return neighbours(tile, LINES, WIDE, SPLIT)


@gluon.jit
def multiply_parted(sums, xs, zs, stage, live, PAIR: gl.constexpr, WARPS: gl.constexpr):
    """Add the products of a step, which go on: of the residues of dz, parted in registers, and x."""
    BITS: gl.constexpr = xs.dtype.primitive_bitwidth
    TOGETHER: gl.constexpr = runs_of_products(PAIR, BITS)
    RUNS: gl.constexpr = PAIR.box[0] * PAIR.box[1]
    PRODUCTS: gl.constexpr = RUNS // TOGETHER
    SPLIT: gl.constexpr = PAIR.split
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, sums_layout(PAIR, WARPS, BITS), 32 // BITS)
    tiles = ()
    for i in gl.static_range(RUNS):
        tiles = tiles + (parted(zs, stage, i, live, PAIR, WARPS),)
    for i in gl.static_range(PRODUCTS):
        rows = lines_of(xs, stage, i * TOGETHER, 0, PAIR)
        running = ()
        for j in gl.static_range(SPLIT):
            residue = gl.convert_layout(joined(tiles, i, j, TOGETHER), OPERAND, assert_trivial=True)
            running = running + (warpgroup_mma(residue, rows.permute((1, 0)), sums[j], is_async=True),)
        sums = running
    return sums


@gluon.jit
def joined(tiles, i: gl.constexpr, j: gl.constexpr, TOGETHER: gl.constexpr):
    """Residue j of a product: of one run, or of two, side by side."""
    if TOGETHER == 1:
        return tiles[i][j]
    else:
        LINES: gl.constexpr = tiles[0][0].shape[0]
        WIDE: gl.constexpr = tiles[0][0].shape[1] * 2
        return gl.join(tiles[2 * i][j], tiles[2 * i + 1][j]).permute((0, 2, 1)).reshape([LINES, WIDE])
