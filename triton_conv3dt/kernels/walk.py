"""The walking product, for Hopper: forward and input gradient with every plane fetched once, in Gluon.

    out[t, phase, column] = sum over (tap, channel) of  in[t + shift, residue, channel] * w[column, channel, tap]

A program owns a patch of places (h, w) and walks along d. What it reads of a plane lies in shared memory as rows
[places of w, channels]: neighbouring rows are an operand of wgmma as they lie, a shift along h is another run of rows,
a shift along w another fetch of the same bytes. TF32 that lies in any order, and 16 bits channels-first, or with a halo along w, are
kept in lines instead, which one fetch shifts (walk_turn.py); a first operand of TF32, or from lines, passes by registers, once for all
products that meet it in a turn, which is that of one group of phases or of several. A patch of such lines may be a run of places, row
after row of a plane. All weights of a program stay in shared memory, too. A step adds its plane to all places along d that it reaches;
those that later planes reach, too, stay in registers. WALK has rows, products and slots as tables.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, warpgroup_mma

from .gluon_names import barrier, rows_at, seen_as, shared_layout, stage_of
from .walk_fetch import await_plane, begin_plane, fetch_plane, fetch_weights, here
from .walk_store import both, first_twin, waits_for_twin, write
from .walk_sums import begun, first_of, nothing, product_layout, unbundled, wait_for, width_of
from .walk_turn import fragment, ring_layout, tail_of, unit_of


@gluon.constexpr_function
def runs_of(WALK, turn, residue):
    """At how many rows of a plane products begin that read this residue along d in a turn."""
    return sum(run.residue == residue for run in WALK.runs[turn])


@gluon.constexpr_function
def run_of(WALK, turn, residue, number):
    """Such a run of rows."""
    return [run for run in WALK.runs[turn] if run.residue == residue][number]


@gluon.constexpr_function
def number_of(WALK, group, bundle, run):
    """Which product of a bundle reads a run, -1 where none does."""
    return next((i for i, product in enumerate(WALK.products[group][bundle]) if product.run == run), -1)


@gluon.constexpr_function
def begins(WALK, group, bundle, run):
    """Whether none before it of its turn has a product of a bundle."""
    met = [product.run for product in WALK.products[group][bundle]]
    return next(first for first in WALK.runs[group // WALK.abreast] if first in met) == run


@gluon.constexpr_function
def slot_of(WALK, group, bundle, i, block):
    """The first of eight rows of weights that a product begins with."""
    return (block * len(WALK.slots) + WALK.products[group][bundle][i].slot) * WALK.columns // 8


@gluon.constexpr_function
def readers(WALK, turn, run):
    """How many products of a turn read a run; a wait counts seven at most."""
    groups = WALK.products[turn * WALK.abreast:(turn + 1) * WALK.abreast]
    return min(7, sum(product.run == run for group in groups for bundle in group for product in bundle))


@gluon.constexpr_function
def in_flight(WALK, turn):
    """How many products a turn issues."""
    groups = WALK.products[turn * WALK.abreast:(turn + 1) * WALK.abreast]
    return min(7, sum(len(bundle) for group in groups for bundle in group) * WALK.blocks)


@gluon.constexpr_function
def by_registers(WALK, bits):
    """Whether the first operand of a product passes by registers, and is read once for all products: TF32, which is rounded there, and
    lines."""
    return WALK.turned or bits == 32


@gluon.constexpr_function
def operand_layout(columns, warps, bits):
    return gl.DotOperandLayout(0, product_layout(columns, warps, bits), 32 // bits)


@gluon.constexpr_function
def left(WALK, last, bits):
    """How many products, the last of a plane, may be under way when what they read of it is overwritten in shared memory."""
    return last if WALK.turned or bits == 32 else 0


@gluon.jit
def first_operand(plane, ROW: gl.constexpr, RUN: gl.constexpr, WALK: gl.constexpr, OPERAND: gl.constexpr, WARPS: gl.constexpr):
    """The places of a run [places, channels] of a block of a plane whose rows begin there: in shared memory or in registers, TF32 rounded."""
    M: gl.constexpr = WALK.high * WALK.wide
    BITS: gl.constexpr = plane[0].dtype.primitive_bitwidth
    if WALK.turned:
        return fragment(plane, ROW + RUN.row + RUN.shift, RUN.sheet, WALK, WARPS)
    else:
        rows = seen_as(rows_at(plane, ROW + RUN.row, WALK.high), plane[0].dtype, [M, WALK.channels], OPERAND)
        return rows.load(operand_layout(8, WARPS, BITS)) if by_registers(WALK, BITS) else rows


@gluon.jit
def add_product(acc, a, weights, zero, GROUP: gl.constexpr, BUNDLE: gl.constexpr, RUN: gl.constexpr, BLOCK: gl.constexpr,
                WALK: gl.constexpr, OPERAND: gl.constexpr, WARPS: gl.constexpr):
    """acc + the product of a run for a bundle of ages, where there is one."""
    NUMBER: gl.constexpr = number_of(WALK, GROUP, BUNDLE, RUN)
    if NUMBER >= 0:
        WIDTH: gl.constexpr = width_of(WALK, BUNDLE)
        OLDER: gl.constexpr = first_of(WALK, BUNDLE) < WALK.span - 1
        BEGUN: gl.constexpr = OLDER or BLOCK > 0 or not begins(WALK, GROUP, BUNDLE, RUN)  # else there is nothing to add to
        rows = rows_at((weights, zero), slot_of(WALK, GROUP, BUNDLE, NUMBER, BLOCK), WIDTH // 8)
        b = seen_as(rows, weights.dtype, [WIDTH, WALK.channels], OPERAND)
        if by_registers(WALK, weights.dtype.primitive_bitwidth):
            a = gl.convert_layout(a, operand_layout(WIDTH, WARPS, weights.dtype.primitive_bitwidth), assert_trivial=True)
        acc = warpgroup_mma(a, b.permute((1, 0)), acc, use_acc=BEGUN, is_async=True)
    return acc


@gluon.jit
def add_run(sums, plane, weights, zero, TURN: gl.constexpr, RUN: gl.constexpr, BLOCK: gl.constexpr, WALK: gl.constexpr,
            OPERAND: gl.constexpr, WARPS: gl.constexpr):
    """The sums of the groups of a turn, by bundle, with all products that read a run of rows."""
    EACH: gl.constexpr = WALK.abreast
    BUNDLES: gl.constexpr = len(WALK.bundles)
    a = first_operand((plane[0], plane[1] + zero), BLOCK * WALK.rows, RUN, WALK, OPERAND, WARPS)
    found = ()
    for i in gl.static_range(EACH):
        for bundle in gl.static_range(BUNDLES):
            found = found + (add_product(sums[i * BUNDLES + bundle], a, weights, zero, TURN * EACH + i, bundle, RUN, BLOCK, WALK, OPERAND,
                                         WARPS),)
    if by_registers(WALK, weights.dtype.primitive_bitwidth):  # those of two runs stand side by side
        found = wait_for(found, readers(WALK, TURN, RUN))
    return found


@gluon.jit
def add_plane(sums, plane, weights, number, TURN: gl.constexpr, RESIDUE: gl.constexpr, WALK: gl.constexpr, OPERAND: gl.constexpr,
              WARPS: gl.constexpr):
    """The sums of a turn with all products of a plane, the rows of a stage: the last of them are still under way."""
    RUNS: gl.constexpr = runs_of(WALK, TURN, RESIDUE)
    BLOCKS: gl.constexpr = WALK.blocks
    # One of its own, or addresses would be kept from sum to sum; but where those of single elements are kept, all share one.
    zero = here(number if WALK.turned else number + (TURN + 1))
    for run in gl.static_range(RUNS):
        for block in gl.static_range(BLOCKS):
            sums = add_run(sums, plane, weights, zero, TURN, run_of(WALK, TURN, RESIDUE, run), block, WALK, OPERAND, WARPS)
    return sums


@gluon.jit
def finish(sums, kept, twin, y, b, residual, pre, wanted, n, t, h0, w0, i_column, size, y_size, y_stride, r_stride, TURN: gl.constexpr,
           AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, COLUMNS: gl.constexpr, Y: gl.constexpr, R: gl.constexpr,
           ACTIVATION: gl.constexpr, PARAMETERS: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr):
    """Writes what the groups of a turn have finished. kept: sums of places that later planes reach, to which theirs are added; twin: the
    tile that is to be written with the next."""
    EACH: gl.constexpr = WALK.abreast
    BITS: gl.constexpr = y.dtype.element_ty.primitive_bitwidth
    for i in gl.static_range(EACH):
        done = unbundled(sums, i, WALK, WARPS, BITS)
        if waits_for_twin(WALK, TURN * EACH + i):
            twin = done[:1]
        else:
            write(both(twin, done[0], WALK), y, b, residual, pre, wanted, n, t, h0, w0, i_column, size, y_size, y_stride, r_stride,
                  first_twin(WALK, TURN * EACH + i), AXIS_D, AXIS_H, AXIS_W, COLUMNS, Y, R, ACTIVATION, PARAMETERS, WALK, WARPS)
        kept = kept + done[1:]
    return kept, twin


@gluon.jit
def walk(w, patch, line, y, b, residual, pre, x_size, planes, size, y_size, x_stride, y_stride, r_stride,
         AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, COLUMNS: gl.constexpr, Y: gl.constexpr, R: gl.constexpr,
         ACTIVATION: gl.constexpr, PARAMETERS: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr):
    """w, patch, line: descriptors of the weight and of what is read, in boxes of a patch's rows and of one row; or its address and None.
    x_size (d, h, w) and x_stride are its own; the last stride is that of its places along w. size: coarse places (d, h, w), of which a
    program walks so many planes."""
    DTYPE: gl.constexpr = w.dtype
    BITS: gl.constexpr = DTYPE.primitive_bitwidth
    TURNS: gl.constexpr = len(WALK.groups) // WALK.abreast
    STAGES: gl.constexpr = WALK.stages
    SPAN: gl.constexpr = WALK.span
    RESIDUES: gl.constexpr = len(WALK.residues)
    ROWS: gl.constexpr = WALK.blocks * WALK.rows
    LAST: gl.constexpr = left(WALK, readers(WALK, TURNS - 1, run_of(WALK, TURNS - 1, RESIDUES - 1, -1)), BITS)
    OPERAND: gl.constexpr = shared_layout(WALK.channels, BITS, 2)
    UNIT: gl.constexpr = unit_of(BITS)
    TAIL: gl.constexpr = tail_of(WALK)
    pid = gl.program_id(0)
    tiles = gl.cdiv(COLUMNS, WALK.columns)
    i_column, rest = pid % tiles, pid // tiles
    tiles = gl.cdiv(size[2] + ((size[1] - 1) * WALK.along if WALK.along > 0 else 0), WALK.wide)
    w0, rest = rest % tiles * WALK.wide, rest // tiles
    tiles = gl.cdiv(size[1] if WALK.along == 0 else 1, WALK.high)
    h0, rest = rest % tiles * WALK.high, rest // tiles
    tiles = gl.cdiv(size[0], planes)
    t0, n = rest % tiles * planes, rest // tiles

    if WALK.turned:
        ring = gl.allocate_shared_memory(DTYPE, [WALK.stages * ROWS + TAIL, 1, UNIT], ring_layout())
    else:
        ring = gl.allocate_shared_memory(DTYPE, [WALK.stages * ROWS, WALK.wide, WALK.channels], OPERAND)
    weights = gl.allocate_shared_memory(DTYPE, [len(WALK.slots) * WALK.blocks * WALK.columns // 8, 8, WALK.channels], OPERAND)
    ready = gl.allocate_shared_memory(gl.int64, [WALK.stages + 1, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES + 1):
        mbarrier.init(ready.index(i), count=1)
    fence_async_shared()
    barrier()
    fetch_weights(w, weights, ready.index(WALK.stages), i_column * WALK.columns, WALK, BITS // 8)
    steps = gl.minimum(planes, size[0] - t0) + (WALK.span - 1)
    for i in gl.static_range(STAGES):
        next_t = t0 + (WALK.low + i // RESIDUES)
        next = begin_plane(patch, ring, i < steps * RESIDUES, n, next_t, h0, w0, x_size, x_stride, i % RESIDUES, True, WALK, AXIS_D, AXIS_H,
                           AXIS_W, WARPS)
        fetch_plane(next, patch, line, ring, ready, i, i < steps * RESIDUES, n, next_t, h0, w0, x_size, x_stride, i % RESIDUES, WALK,
                    AXIS_D, AXIS_H, AXIS_W, WARPS)
    mbarrier.wait(ready.index(STAGES), 0)
    older = nothing(WALK, WARPS, BITS)
    for step in range(steps):
        t = t0 + step - (SPAN - 1)
        sums = begun(older, 0, WALK, WARPS, BITS)
        for r in gl.static_range(RESIDUES - 1):  # more than one are those of an input gradient, which has one group
            number = step * RESIDUES + r
            await_plane(ready, number, WALK, BITS)
            next_t, wanted = t0 + step + (WALK.low + (r + STAGES) // RESIDUES), number + STAGES < steps * RESIDUES
            next = begin_plane(patch, ring, wanted, n, next_t, h0, w0, x_size, x_stride, (r + STAGES) % RESIDUES, True, WALK, AXIS_D, AXIS_H,
                               AXIS_W, WARPS)
            sums = add_plane(sums, stage_of(ring, number % STAGES, STAGES, TAIL), weights, number, 0, r, WALK, OPERAND, WARPS)
            sums = wait_for(sums, left(WALK, readers(WALK, 0, run_of(WALK, 0, r, -1)), BITS))
            barrier()
            fetch_plane(next, patch, line, ring, ready, number % STAGES, wanted, n, next_t, h0, w0, x_size, x_stride,
                        (r + STAGES) % RESIDUES, WALK, AXIS_D, AXIS_H, AXIS_W, WARPS)
        number = step * RESIDUES + (RESIDUES - 1)
        await_plane(ready, number, WALK, BITS)
        next_t, wanted = t0 + step + (WALK.low + (RESIDUES - 1 + STAGES) // RESIDUES), number + STAGES < steps * RESIDUES
        next = begin_plane(patch, ring, wanted, n, next_t, h0, w0, x_size, x_stride, (RESIDUES - 1 + STAGES) % RESIDUES, True, WALK, AXIS_D,
                           AXIS_H, AXIS_W, WARPS)
        plane, kept, twin = stage_of(ring, number % STAGES, STAGES, TAIL), (), ()
        for turn in gl.static_range(TURNS):
            if turn > 0:
                sums = begun(older, turn, WALK, WARPS, BITS)
            sums = add_plane(sums, plane, weights, number, turn, RESIDUES - 1, WALK, OPERAND, WARPS)
            if turn > 0:  # the stores of one turn overlap with the products of the next
                kept, twin = finish(wait_for(pending, in_flight(WALK, turn)), kept, twin, y, b, residual, pre, t >= t0, n, t, h0, w0,
                                    i_column, size, y_size, y_stride, r_stride, turn - 1, AXIS_D, AXIS_H, AXIS_W, COLUMNS, Y, R,
                                    ACTIVATION, PARAMETERS, WALK, WARPS)
            pending = sums
        pending = wait_for(pending, LAST)
        barrier()
        fetch_plane(next, patch, line, ring, ready, number % STAGES, wanted, n, next_t, h0, w0, x_size, x_stride,
                    (RESIDUES - 1 + STAGES) % RESIDUES, WALK, AXIS_D, AXIS_H, AXIS_W, WARPS)
        kept, twin = finish(wait_for(pending, 0), kept, twin, y, b, residual, pre, t >= t0, n, t, h0, w0, i_column, size, y_size, y_stride,
                            r_stride, TURNS - 1, AXIS_D, AXIS_H, AXIS_W, COLUMNS, Y, R, ACTIVATION, PARAMETERS, WALK, WARPS)
        older = kept
    ring._keep_alive()  # of a step that is no loop, a tile would be turned in what products of the next turn still read
    weights._keep_alive()
    for i in gl.static_range(STAGES + 1):
        mbarrier.invalidate(ready.index(i))
