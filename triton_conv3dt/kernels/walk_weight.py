"""The weight gradient on Hopper's tensor cores, in Gluon: x waits in registers while dz passes by in shared memory.

    dw[ci, co, k] = sum over places i of x[i, ci] * dz[stride * i - padding + k, co]

Along an axis write k - padding = stride * shift + r with 0 <= r < stride: by tap k place i of x meets place i + shift of residue
r of dz. The taps of a residue follow each other by the stride, and their shifts by one.

A program walks a patch of WALK.high x WALK.wide places (h, w) along d. A step is one plane of dz, of the residue along d that
the program has. By tensor descriptor it fetches

- dz in sheets, rows of [wide places, columns (channels)]: one for every tap along w and residue along h, with a row more for
  each further tap along h, since shifted along h a patch is another run of rows;
- x, [high * wide places, channels]: WALK.planes planes meet this one of dz, by a tap along d each. All but one met the plane
  before, too: they lie side by side in a ring of slots, and the next one is fetched beside them.

The planes of x are the rows of all products, and are read to registers once in a step. Each tap (h, w) is a product of them with
a run of rows of dz as they lie. So dz is fetched once for each tap along w, and read from shared memory once for each tap (h, w).
What lies outside is filled with zeros.

The sums of all taps of a program stay in registers until it has walked its share of the steps, patch after patch. They are
written as one share of dw, and `reduce.sum_parts` adds the shares in order: same bits every run.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, warpgroup_mma, warpgroup_mma_wait

from .gluon_names import barrier, load_box, part_of, rows_at, seen_as, stage_of


@gluon.jit
def first_tap(AXIS: gl.constexpr, program, TAPS: gl.constexpr):
    """The first of TAPS taps of one residue of dz that a program has along an axis; its residue, and its shift."""
    LIFT: gl.constexpr = max(0, -(-AXIS.padding // AXIS.stride))  # division rounds towards zero
    tap = program // AXIS.stride * AXIS.stride * TAPS + program % AXIS.stride
    place = tap + (LIFT * AXIS.stride - AXIS.padding)
    return tap, place % AXIS.stride, place // AXIS.stride - LIFT


@gluon.constexpr_function
def swizzled(columns, rank):
    """Rows of 16 bits as a tensor descriptor writes them and a product reads them, with no bank conflicts."""
    return gl.NVMMASharedLayout(min(128, 2 * columns), 16, rank)


@gluon.jit
def next_slot(slot, t, WALK: gl.constexpr):
    """The first slot of x for the step that comes next, at t along d, and whether none of its planes is there yet: a patch begins,
    or the ring does. No slot that the step before still reads is written for it: there are 3 * planes - 1."""
    PLANES: gl.constexpr = WALK.planes
    goes_on = gl.where(slot + 1 < 2 * PLANES, slot + 1, 0)
    slot = gl.where(t > 0, goes_on, gl.where(slot < PLANES, slot + PLANES, 0))
    return slot, (t == 0) | (slot == 0)


@gluon.jit
def fetch(x_box, z_box, z_row, xs, zs, full, stage, slot, fresh, step, at, sizes, AXIS_D: gl.constexpr, CO: gl.constexpr,
          WALK: gl.constexpr):
    """Ask for what a step reads. fresh: all planes of x, else the last one alone. at: (residue_d, shift_d, residue_h, shift_h, ci,
    co) of the program; sizes: (steps along d, patches along h, patches along w, planes of dz)."""
    PLANES: gl.constexpr = WALK.planes
    BOXES: gl.constexpr = len(WALK.boxes)
    ROWS: gl.constexpr = len(WALK.rows)
    residue_d, shift_d, residue_h, shift_h, ci, co = at
    t, patch = step % sizes[0], step // sizes[0]
    w, rest = patch % sizes[2] * WALK.wide, patch // sizes[2]
    h, n = rest % sizes[1] * WALK.high, rest // sizes[1]
    d = t * AXIS_D.stride + residue_d
    plane = gl.where(d < sizes[3], n * sizes[3] + d, -1)  # not one of another sample
    if PLANES > 1:
        mbarrier.expect(full, WALK.z_bytes + PLANES * WALK.x_bytes, pred=fresh)
        mbarrier.expect(full, WALK.z_bytes + WALK.x_bytes, pred=fresh == 0)
    else:
        mbarrier.expect(full, WALK.z_bytes + WALK.x_bytes)
    x_rows, z_rows = part_of(xs, slot, 2 * PLANES, 1, PLANES), stage_of(zs, stage, 2)
    for i in gl.static_range(PLANES):
        target = seen_as(rows_at(x_rows, i, 1), x_box.dtype, x_box.block_type.shape, x_box.layout)
        load_box(x_box, [n, t - shift_d - (PLANES - 1 - i), h, w, ci], full, target, pred=fresh | (i == PLANES - 1))
    for i in gl.static_range(BOXES):
        target = rows_at(z_rows, WALK.boxes[i].row, WALK.high)
        at_h, rh = h + WALK.boxes[i].shift_h + shift_h, WALK.boxes[i].residue_h + residue_h
        load_box(z_box, [plane, at_h, rh, w + WALK.boxes[i].shift_w, WALK.boxes[i].residue_w * CO + co], full,
                 seen_as(target, z_box.dtype, z_box.block_type.shape, z_box.layout))
    for i in gl.static_range(ROWS):
        target = rows_at(z_rows, WALK.rows[i].row, 1)
        at_h, rh = h + WALK.rows[i].shift_h + shift_h, WALK.rows[i].residue_h + residue_h
        load_box(z_row, [plane, at_h, rh, w + WALK.rows[i].shift_w, WALK.rows[i].residue_w * CO + co], full,
                 seen_as(target, z_row.dtype, z_row.block_type.shape, z_row.layout))


@gluon.jit
def walk_weight(x_box, z_box, z_row, parts, STEPS, EACH, sizes, p_stride, AXIS_D: gl.constexpr, AXIS_H: gl.constexpr,
                AXIS_W: gl.constexpr, CI: gl.constexpr, CO: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr):
    """One share of dw for planes * channels rows (tap along d, ci) and the columns (co) of all taps (h, w), or of those of one
    residue along h (WALK.apart).

    x_box: x [n, d, h, w, ci] in boxes of a patch; z_box, z_row: dz [(n, d), h // stride, residue, w // stride, (residue, co)] in
    boxes of a patch and of one row. STEPS of all samples, EACH of them for a share; sizes: as `fetch` has them.
    parts [shares, ci, co, tap] by its strides, or dw where one share is all. Grid: (columns, rows, residue along h, taps
    along d), share.
    """
    ROWS: gl.constexpr = WALK.planes * WALK.channels
    COLUMNS: gl.constexpr = WALK.columns
    PRODUCTS: gl.constexpr = len(WALK.products)
    PLACES: gl.constexpr = WALK.high * WALK.wide
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, COLUMNS, 16])
    waiting: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    x_rows: gl.constexpr = swizzled(WALK.channels, 2)
    z_rows: gl.constexpr = swizzled(WALK.columns, 2)
    dtype: gl.constexpr = x_box.dtype

    pid, share = gl.program_id(0), gl.program_id(1)
    co, rest = pid % WALK.column_tiles * WALK.columns, pid // WALK.column_tiles
    ci, rest = rest % WALK.row_tiles * WALK.channels, rest // WALK.row_tiles
    residue_h, first_h, shift_h = 0, 0, 0
    if WALK.apart:
        first_h, residue_h, shift_h = first_tap(AXIS_H, rest % AXIS_H.stride, 1)
        rest = rest // AXIS_H.stride
    first_d, residue_d, shift_d = first_tap(AXIS_D, rest, WALK.planes)
    at = residue_d, shift_d, residue_h, shift_h, ci, co

    xs = gl.allocate_shared_memory(dtype, [3 * WALK.planes - 1, PLACES, WALK.channels], x_rows)
    zs = gl.allocate_shared_memory(dtype, [2 * WALK.height, WALK.wide, WALK.columns], z_rows)
    full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(full.index(i), count=1)
    fence_async_shared()
    barrier()
    begin = share * EACH
    end = gl.minimum(STEPS, begin + EACH)
    slot = 0
    if begin < end:
        fetch(x_box, z_box, z_row, xs, zs, full.index(0), 0, slot, begin >= 0, begin, at, sizes, AXIS_D, CO, WALK)
    sums = ()
    for i in gl.static_range(PRODUCTS):
        sums = sums + (gl.zeros([ROWS, COLUMNS], gl.float32, mma),)
    for step in range(begin, end):
        stage = (step - begin) & 1
        mbarrier.wait(full.index(stage), (step - begin) >> 1 & 1)
        rows = rows_at(part_of(xs, slot, 2 * WALK.planes, 1, WALK.planes), 0, WALK.planes)
        rows = seen_as(rows, dtype, [PLACES, ROWS], x_rows).permute((1, 0)).load(waiting)
        running, dz = (), stage_of(zs, stage, 2)
        for j in gl.static_range(PRODUCTS):
            columns = seen_as(rows_at(dz, WALK.products[j].row, WALK.high), dtype, [PLACES, COLUMNS], z_rows)
            running = running + (warpgroup_mma(rows, columns, sums[j], is_async=True),)
        barrier()  # all warps have waited for the products of the step before, and what it read is free
        slot, fresh = next_slot(slot, (step + 1) % sizes[0], WALK)
        if step + 1 < end:
            fetch(x_box, z_box, z_row, xs, zs, full.index(1 - stage), 1 - stage, slot, fresh, step + 1, at, sizes, AXIS_D, CO, WALK)
        if PRODUCTS == 1:  # for which there is no tuple
            sums = (warpgroup_mma_wait(0, deps=running),)
        else:
            sums = warpgroup_mma_wait(0, deps=running)
    for i in gl.static_range(2):
        mbarrier.invalidate(full.index(i))

    row = gl.arange(0, ROWS, gl.SliceLayout(1, mma))
    column = co + gl.arange(0, COLUMNS, gl.SliceLayout(0, mma))
    channel, kd = ci + row % WALK.channels, first_d + AXIS_D.stride * (WALK.planes - 1 - row // WALK.channels)
    live = ((channel < CI) & (kd < AXIS_D.kernel))[:, None] & (column < CO)[None, :]
    out = parts + share.to(gl.int64) * p_stride[0]
    for j in gl.static_range(PRODUCTS):
        kh = first_h + WALK.products[j].tap_h
        tap = (kd * AXIS_H.kernel + kh) * AXIS_W.kernel + WALK.products[j].tap_w
        at_row = channel.to(gl.int64) * p_stride[1] + tap.to(gl.int64) * p_stride[3]
        at = at_row[:, None] + (column.to(gl.int64) * p_stride[2])[None, :]
        gl.store(out + at, sums[j].to(parts.dtype.element_ty), mask=live & (kh < AXIS_H.kernel))
