"""The weight gradient on Hopper's tensor cores, of TF32 or 16 bits, in Gluon, by two or four programs of a cluster that share what they
fetch:

    dw[ci, co, k] = sum over positions of x[position, ci] * dz[stride * position - padding + k, co]

The product is that of kernels/grad_weight.py: rows are (shift of x, ci), columns (shift of dz, co). Of a tile each program has
half of the rows and all columns, or, where these are many, half of them and all rows; of four half of both. What several need is
fetched once, into the shared memory of each: two ask L2 for a third less for a square tile.

All is fetched by tensor descriptor, in runs of positions along w, of a chunk of lines: some channels of one shift, or all of several, or
all lines of a tile (pair_weight_fetch.py). The copy engine takes coordinates as they come, puts zeros where there is no such place, and
rounds to TF32. So x is read as it lies, and so is dz where its stride along w is 1, or where its residues are parted in registers; else
its copy has w residue after residue, that neighbouring positions read neighbours. A run of 16 bytes is half of what a product is
reduced by: two of them are one operand.

Where a box reaches beyond the last position of an axis, x or dz is outside, and what meets it is multiplied by zero. In planes whose
places follow each other, what follows the last position of a row is the next row: there dz is made zero in registers.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import cluster, mbarrier, warpgroup_mma, warpgroup_mma_wait

from .gluon_names import columns_of_16_bytes, halves, neighbours, seen_as, shared_layout
from .pair_weight_fetch import chunk, fetch
from .pair_weight_store import line_order, parts_of, write


@gluon.constexpr_function
def sums_layout(PAIR, WARPS, bits):
    """How products leave a tile: rows by columns, or lines of dz by rows where residues are parted."""
    columns, dimensions = (PAIR.n, PAIR.halved) if PAIR.split == 1 else (PAIR.m, [1 - side for side in PAIR.halved])
    instruction = [16, columns >> list(dimensions).count(1), 256 // bits]
    return gl.NVMMADistributedLayout([3, 0], [WARPS, 1], instruction, **halves(2, dimensions))


@gluon.constexpr_function
def lines_in_registers(PAIR, WARPS, bits):
    """Lines of dz [line, place along w], such that a thread has all residues of the elements of a first operand that are its own, in their
    order, if lines modulo 8 are in line_order."""
    lines, wide, split, pair = PAIR.n // PAIR.split, PAIR.box[2], PAIR.split, 32 // bits  # positions in a register
    own = lines >> PAIR.halved.count(1)
    residues = [[0, 1 << i] for i in range((split * pair).bit_length() - 1)]
    step = split * pair
    registers = residues + [[8, 0]] + [[0, (4 << i) * step] for i in range((wide // (4 * pair)).bit_length() - 1)]
    registers += [[(16 * WARPS) << i, 0] for i in range((own // (16 * WARPS)).bit_length() - 1)]
    lanes = [[0, step], [0, 2 * step], *([bit, 0] for bit in line_order(PAIR, bits))]
    warps = [[16 << i, 0] for i in range(WARPS.bit_length() - 1)]
    return gl.DistributedLinearLayout(registers, lanes, warps, [[own * side, 0] for side in PAIR.halved], [lines, wide * split])


@gluon.jit
def pair_weight(x_box, z_box, parts, STEPS, EACH, boxes, x_size, z_size, z_stride, p_stride, AXIS_D: gl.constexpr, AXIS_H: gl.constexpr,
                AXIS_W: gl.constexpr, CI: gl.constexpr, CO: gl.constexpr, PAIR: gl.constexpr, WARPS: gl.constexpr):
    """One share of dw for PAIR.m rows and PAIR.n columns, reduced by a box of positions at a time.

    x_box, z_box: x and dz, or copies of them, as pair_weight_fetch.py says. STEPS of all samples, EACH of them for a share; boxes: those
    along each axis of a sample; x_size, z_size: places along them; z_stride: of dz (n, co, d, h, w).
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

    WIDE: gl.constexpr = PAIR.box[2]
    X_LAYOUT: gl.constexpr = shared_layout(WIDE, BITS, 2, parts_of(PAIR, 0))
    Z_LAYOUT: gl.constexpr = shared_layout(WIDE * SPLIT, BITS, 2, parts_of(PAIR, 1))
    xs = gl.allocate_shared_memory(x_box.dtype, [STAGES * RUNS * X_CHUNKS, M // X_CHUNKS, WIDE], X_LAYOUT)
    zs = gl.allocate_shared_memory(z_box.dtype, [STAGES * RUNS * Z_CHUNKS, N // Z_CHUNKS, WIDE * SPLIT], Z_LAYOUT)
    full = mbarrier.allocate_mbarrier(batch=STAGES)
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
    mbarrier.sync_cluster_init()
    begin, planes = share * EACH, 0
    if PAIR.z_runs > 1:
        planes = gl.to_tensor(z_stride[0] // (z_size[1] * z_size[2])).to(gl.int32)  # from one sample to the next
    sizes = boxes, x_size, z_size, planes
    steps = gl.minimum(STEPS, begin + EACH) - begin
    for first in range(STAGES - 1):
        fetch(x_box, z_box, xs, zs, full, first, begin + first, first < steps, x_at, z_at, sizes, ZD, ZH, ZW, CO, PAIR)
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
            fetch(x_box, z_box, xs, zs, full, ahead % STAGES, begin + ahead, ahead < steps, x_at, z_at, sizes, ZD, ZH, ZW, CO, PAIR)
        else:
            running = multiply_parted(sums, xs, zs, stage, x_size[2] - (begin + step) % boxes[2] * PAIR.box[2], PAIR, WARPS)
            cluster.wait()
            fetch(x_box, z_box, xs, zs, full, ahead % STAGES, begin + ahead, ahead < steps, x_at, z_at, sizes, ZD, ZH, ZW, CO, PAIR)
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
        write(sums[i], i, out, i_row, i_column, tap, p_stride, AXIS_D, AXIS_H, AXIS_W, CI, CO, PAIR, WARPS, BITS)


@gluon.constexpr_function
def order_of_axes(PAIR, bits):
    """Which of the axes of [line // 8, its bits 4, 2 and 1, place] follow the first in line_order."""
    return [4 - bit.bit_length() for bit in reversed(line_order(PAIR, bits))]


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
    ORDER: gl.constexpr = order_of_axes(PAIR, BITS)
    tile = tile.reshape([LINES // 8, 2, 2, 2, WIDE * SPLIT]).permute((0, ORDER[0], ORDER[1], ORDER[2], 4)).reshape([LINES, WIDE * SPLIT])
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
