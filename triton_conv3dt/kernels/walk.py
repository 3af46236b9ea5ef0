"""The walking product, for Hopper: forward and input gradient with every plane fetched once, in Gluon.

    out[t, phase, column] = sum over (tap, channel) of  in[t + shift, residue, channel] * w[column, channel, tap]

A program owns a patch of places (h, w) and walks along d. What it reads of a plane lies in shared memory as rows
[places of w, channels]: neighbouring rows are an operand of wgmma as they lie, a shift along h is another run of rows,
a shift along w another fetch of the same bytes. All its weights stay in shared memory, too. A step adds its plane to all places along
d that it reaches; those that later planes reach, too, stay in registers. WALK has rows, products and slots as tables.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier  # renamed in Triton 3.7
MOST_IN_FLIGHT = gl.constexpr(7)  # products that a wait can tell apart


@gluon.constexpr_function
def shared_layout(channels, bits, rank):
    return gl.NVMMASharedLayout(min(128, channels * bits // 8), bits, rank)


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
def sheet_of(WALK, i):
    return WALK.sheets[i]


@gluon.constexpr_function
def row_of_sheet(WALK, i):
    return WALK.sheets[i].row


@gluon.constexpr_function
def products_of(WALK, group, age):
    return len(WALK.products[group][age])


@gluon.constexpr_function
def row_of(WALK, group, age, i, block):
    """The row, among those of one plane, at which the first operand of a product begins."""
    return block * WALK.rows + WALK.products[group][age][i].row


@gluon.constexpr_function
def reads(WALK, group, age, i, residue):
    return WALK.products[group][age][i].residue == residue


@gluon.constexpr_function
def slot_of(WALK, group, age, i, block):
    return block * len(WALK.slots) + WALK.products[group][age][i].slot


@gluon.constexpr_function
def in_flight(WALK, group):
    """How many products a group issues, as far as a wait can count."""
    return min(7, sum(len(age) for age in WALK.products[group]) * WALK.blocks)


@gluon.jit
def here(value):
    """Zero, but not to the compiler, which would compute what it is added to early and keep all of it in registers."""
    return gl.inline_asm_elementwise("and.b32 $0, $1, 0;", "=r,r", [value], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def fetch_weights(w, weights, ready, first, WALK: gl.constexpr, BYTES: gl.constexpr):
    """All slots [columns, channels] of a program, block after block."""
    SLOTS: gl.constexpr = len(WALK.slots)
    mbarrier.expect(ready, SLOTS * WALK.blocks * WALK.columns * WALK.channels * BYTES)
    for i in range(SLOTS * WALK.blocks):
        target = weights.index(i)._reinterpret(w.dtype, w.block_type.shape, w.layout)
        tma.async_copy_global_to_shared(w, [first, i % SLOTS, i // SLOTS * WALK.channels], ready, target)


@gluon.jit
def fetch_sheet(patch, line, ring, row, ready, plane, h, w, channel, x_w, wanted, S: gl.constexpr, WALK: gl.constexpr):
    """The rows of one sheet, from a row of the ring on: the patch, and singly those beyond it."""
    HIGH: gl.constexpr = WALK.high
    ROWS: gl.constexpr = S.rows
    column = S.residue_w * x_w + channel
    target = ring.index(row)._reinterpret(patch.dtype, patch.block_type.shape, patch.layout)
    tma.async_copy_global_to_shared(patch, [plane, h + S.first, S.residue, w + S.shift, column], ready, target, wanted)
    for i in gl.static_range(HIGH, ROWS):
        target = ring.index(row + i)._reinterpret(line.dtype, line.block_type.shape, line.layout)
        tma.async_copy_global_to_shared(line, [plane, h + (S.first + i), S.residue, w + S.shift, column], ready, target, wanted)


@gluon.jit
def fetch_plane(patch, line, ring, ready, slot, wanted, n, t, h, w, depth, x_w, RESIDUE: gl.constexpr, WALK: gl.constexpr,
                STEP: gl.constexpr, BYTES: gl.constexpr):
    """The rows of a plane, residue RESIDUE of place t, for the patch that begins at (h, w), into a slot of the ring; nothing unless
    wanted."""
    BLOCKS: gl.constexpr = WALK.blocks
    SHEETS: gl.constexpr = len(WALK.sheets)
    d = t * STEP + WALK.residues[RESIDUE]
    plane = gl.where((d >= 0) & (d < depth), n * depth + d, -1)  # another sample's plane is outside, too
    mbarrier.expect(ready.index(slot), BLOCKS * WALK.rows * WALK.wide * WALK.channels * BYTES, wanted)
    for block in gl.static_range(BLOCKS):
        for i in gl.static_range(SHEETS):
            zero = here(plane)
            row = ((slot + zero) * BLOCKS + block) * WALK.rows + row_of_sheet(WALK, i)
            fetch_sheet(patch, line, ring, row, ready.index(slot), plane, h + zero, w + zero, block * WALK.channels, x_w, wanted, sheet_of(WALK, i), WALK)


@gluon.constexpr_function
def product_layout(columns, warps, bits):
    return gl.NVMMADistributedLayout([3, 0], [warps, 1], [16, columns, 256 // bits])


@gluon.constexpr_function
def columns_at(WALK, age):
    """Columns of the sums that have so many steps to come: fewer where some phases along d begin later."""
    return WALK.live[age] * WALK.columns


@gluon.jit
def zeros(AGE: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    WIDTH: gl.constexpr = columns_at(WALK, AGE)
    return gl.zeros([WALK.high * WALK.wide, WIDTH], gl.float32, product_layout(WIDTH, WARPS, BITS))


@gluon.jit
def nothing(WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """The sums of all groups before the first step, by age but for the last."""
    found = ()
    GROUPS: gl.constexpr = len(WALK.groups)
    SPAN: gl.constexpr = WALK.span
    for _ in gl.static_range(GROUPS):
        for age in gl.static_range(1, SPAN):
            found = found + (zeros(age, WALK, WARPS, BITS),)
    return found


@gluon.jit
def widened(tile, AGE: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """Sums that have had AGE + 1 steps to come, with room for the phases that begin now."""
    WIDTH: gl.constexpr = columns_at(WALK, AGE)
    if columns_at(WALK, AGE + 1) < WIDTH:
        M: gl.constexpr = WALK.high * WALK.wide
        tile = gl.join(tile, gl.zeros_like(tile)).permute((0, 2, 1)).reshape([M, WIDTH])
        tile = gl.convert_layout(tile, product_layout(WIDTH, WARPS, BITS), assert_trivial=True)
    return tile


@gluon.jit
def begun(older, GROUP: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """The sums of a group that a step adds to, by age: those of before, and new ones."""
    SPAN: gl.constexpr = WALK.span
    sums = ()
    for age in gl.static_range(SPAN - 1):
        sums = sums + (widened(copied(older[GROUP * (SPAN - 1) + age], SPAN > 2), age, WALK, WARPS, BITS),)
    return sums + (zeros(SPAN - 1, WALK, WARPS, BITS),)


@gluon.jit
def add_products(acc, ring, weights, first, GROUP: gl.constexpr, AGE: gl.constexpr, RESIDUE: gl.constexpr, WALK: gl.constexpr,
                 OPERAND: gl.constexpr):
    """acc + the products of a group that have so many steps to come, with the plane whose rows begin at first."""
    M: gl.constexpr = WALK.high * WALK.wide
    WIDTH: gl.constexpr = columns_at(WALK, AGE)
    PRODUCTS: gl.constexpr = products_of(WALK, GROUP, AGE)
    BLOCKS: gl.constexpr = WALK.blocks
    FRESH: gl.constexpr = AGE == WALK.span - 1  # nothing to add to
    zero = here(first)
    for i in gl.static_range(PRODUCTS):
        if reads(WALK, GROUP, AGE, i, RESIDUE):
            for block in gl.static_range(BLOCKS):
                a = ring.index(first + zero + row_of(WALK, GROUP, AGE, i, block))._reinterpret(ring.dtype, [M, WALK.channels], OPERAND)
                b = weights.index(zero + slot_of(WALK, GROUP, AGE, i, block))._reinterpret(ring.dtype, [WIDTH, WALK.channels], OPERAND)
                acc = warpgroup_mma(a, b.permute((1, 0)), acc, use_acc=not (FRESH and i + block == 0), is_async=True)
    return acc


@gluon.jit
def add_plane(sums, ring, weights, first, GROUP: gl.constexpr, RESIDUE: gl.constexpr, WALK: gl.constexpr, OPERAND: gl.constexpr):
    """The sums of a group, those that are then finished first, with all products of a plane: still under way."""
    SPAN: gl.constexpr = WALK.span
    found = ()
    for age in gl.static_range(SPAN):
        found = found + (add_products(sums[age], ring, weights, first, GROUP, age, RESIDUE, WALK, OPERAND),)
    return found


@gluon.jit
def copied(tile, APART: gl.constexpr):
    """The tile in other registers: were it only renamed, the compiler would move what takes turns before the wait for its products,
    and read what they are still writing."""
    if APART:
        tile = gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [tile], dtype=gl.float32, is_pure=True, pack=1)
    return tile


@gluon.jit
def wait_for(sums, PENDING: gl.constexpr):
    """The sums of a group, finished but for so many products that were issued later."""
    if len(sums) > 1:
        return warpgroup_mma_wait(PENDING, deps=sums)
    else:
        return (warpgroup_mma_wait(PENDING, deps=sums),)


@gluon.jit
def walk(patch, line, w, y, b, residual, depth, planes, size, y_size, x_stride, y_stride, r_stride,
         AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, COLUMNS: gl.constexpr, Y: gl.constexpr, R: gl.constexpr,
         WALK: gl.constexpr, WARPS: gl.constexpr):
    """patch, line, w: descriptors of what is read, in boxes of a patch's rows and of one row, and of the weight. depth: its planes;
    x_stride: its last is that of its places along w. size: coarse places (d, h, w), of which a program walks so many planes."""
    DTYPE: gl.constexpr = patch.dtype
    BITS: gl.constexpr = DTYPE.primitive_bitwidth
    GROUPS: gl.constexpr = len(WALK.groups)
    STAGES: gl.constexpr = WALK.stages
    SPAN: gl.constexpr = WALK.span
    RESIDUES: gl.constexpr = len(WALK.residues)
    ROWS: gl.constexpr = WALK.blocks * WALK.rows
    OPERAND: gl.constexpr = shared_layout(WALK.channels, BITS, 2)
    x_w = gl.cast(x_stride[4], gl.int32)
    pid = gl.program_id(0)
    tiles = gl.cdiv(COLUMNS, WALK.columns)
    i_column, rest = pid % tiles, pid // tiles
    tiles = gl.cdiv(size[2], WALK.wide)
    w0, rest = rest % tiles * WALK.wide, rest // tiles
    tiles = gl.cdiv(size[1], WALK.high)
    h0, rest = rest % tiles * WALK.high, rest // tiles
    tiles = gl.cdiv(size[0], planes)
    t0, n = rest % tiles * planes, rest // tiles

    ring = gl.allocate_shared_memory(DTYPE, [WALK.stages * ROWS, WALK.wide, WALK.channels], OPERAND)
    weights = gl.allocate_shared_memory(DTYPE, [len(WALK.slots) * WALK.blocks, WALK.columns, WALK.channels], OPERAND)
    ready = gl.allocate_shared_memory(gl.int64, [WALK.stages + 1, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES + 1):
        mbarrier.init(ready.index(i), count=1)
    fence_async_shared()
    barrier()
    fetch_weights(w, weights, ready.index(WALK.stages), i_column * WALK.columns, WALK, BITS // 8)
    steps = gl.minimum(planes, size[0] - t0) + (WALK.span - 1)
    for i in gl.static_range(STAGES):
        fetch_plane(patch, line, ring, ready, i, i < steps * RESIDUES, n, t0 + (WALK.low + i // RESIDUES), h0, w0, depth, x_w,
                    i % RESIDUES, WALK, AXIS_D.in_step, BITS // 8)
    mbarrier.wait(ready.index(STAGES), 0)
    older = nothing(WALK, WARPS, BITS)
    for step in range(steps):
        t = t0 + step - (SPAN - 1)
        sums = begun(older, 0, WALK, WARPS, BITS)
        for r in gl.static_range(RESIDUES - 1):  # more than one are those of an input gradient, which has one group
            number = step * RESIDUES + r
            mbarrier.wait(ready.index(number % STAGES), number // STAGES % 2)
            sums = wait_for(add_plane(sums, ring, weights, number % STAGES * ROWS, 0, r, WALK, OPERAND), 0)
            barrier()
            fetch_plane(patch, line, ring, ready, number % STAGES, number + STAGES < steps * RESIDUES, n,
                        t0 + step + (WALK.low + (r + STAGES) // RESIDUES), h0, w0, depth, x_w, (r + STAGES) % RESIDUES, WALK,
                        AXIS_D.in_step, BITS // 8)
        number = step * RESIDUES + (RESIDUES - 1)
        mbarrier.wait(ready.index(number % STAGES), number // STAGES % 2)
        kept = ()
        for g in gl.static_range(GROUPS):
            if g > 0:
                sums = begun(older, g, WALK, WARPS, BITS)
            sums = add_plane(sums, ring, weights, number % STAGES * ROWS, g, RESIDUES - 1, WALK, OPERAND)
            if g > 0:  # the stores of one group overlap with the products of the next
                done = wait_for(pending, in_flight(WALK, g))
                write(done[0], y, b, residual, t >= t0, n, t, h0, w0, i_column, size, y_size, y_stride, r_stride, g - 1,
                      AXIS_D, AXIS_H, AXIS_W, COLUMNS, Y, R, WALK, WARPS)
                kept = kept + done[1:]
            pending = sums
        done = wait_for(pending, 0)
        barrier()
        fetch_plane(patch, line, ring, ready, number % STAGES, number + STAGES < steps * RESIDUES, n,
                    t0 + step + (WALK.low + (RESIDUES - 1 + STAGES) // RESIDUES), h0, w0, depth, x_w,
                    (RESIDUES - 1 + STAGES) % RESIDUES, WALK, AXIS_D.in_step, BITS // 8)
        write(done[0], y, b, residual, t >= t0, n, t, h0, w0, i_column, size, y_size, y_stride, r_stride, GROUPS - 1,
              AXIS_D, AXIS_H, AXIS_W, COLUMNS, Y, R, WALK, WARPS)
        older = kept + done[1:]
    for i in gl.static_range(STAGES + 1):
        mbarrier.invalidate(ready.index(i))


@gluon.constexpr_function
def joined(WALK, last):
    """How many phases along w are written as one run."""
    return 1 if last else len({w for _, _, w in WALK.phases})


@gluon.constexpr_function
def residue_of(WALK, phase, axis):
    return WALK.phases[phase][axis]


@gluon.jit
def residue_along(column, AXIS: gl.constexpr, JOIN: gl.constexpr, WALK: gl.constexpr):
    """The residue along an axis of each column's phase; columns count (phase, channel, joined phase), and the compiler sees what is
    the same for those that are joined."""
    PHASES: gl.constexpr = len(WALK.phases)
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
    """Of the elements of a tile [places, columns] in a tensor, from the offset of its first; T.run neighbours are aligned, along columns.
    What is the same for all groups is a vector, and computed once."""
    RUN: gl.constexpr = T.run
    s_c = 1 if T.last else stride[1]
    # A mark on a sum whose last term is folded away, being zero, would be lost with it.
    base = first[0] * stride[0] + first[1] * s_c + first[2] * stride[2] + first[3] * stride[3] + first[4] * stride[4]
    columns = column[0] * stride[2] + column[1] * stride[3] + column[2] * stride[4] + channel * s_c
    columns = gl.max_contiguous(gl.multiple_of(columns, RUN), RUN)
    lines = gl.multiple_of(line[0] * stride[3] + line[1] * stride[4], RUN)
    return t + ((gl.multiple_of(base, RUN) + lines)[:, None] + columns[None, :])


@gluon.jit
def write(tile, y, b, residual, wanted, n, t, h0, w0, i_column, size, y_size, y_stride, r_stride, GROUP: gl.constexpr,
          AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, COLUMNS: gl.constexpr, Y: gl.constexpr, R: gl.constexpr,
          WALK: gl.constexpr, WARPS: gl.constexpr):
    """The epilogue of a group's finished tile [places, columns]: bias, residual, one rounding, and the store."""
    BITS: gl.constexpr = y.dtype.element_ty.primitive_bitwidth
    M: gl.constexpr = WALK.high * WALK.wide
    PHASES: gl.constexpr = len(WALK.phases)
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
    tile = gl.convert_layout(tile.to(y.dtype.element_ty), STORE)
    gl.store(addresses(y, (n, first, d0, h0, w0), line, column, channel, y_stride, Y), tile, mask=live)
