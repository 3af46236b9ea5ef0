"""The weight gradient on Hopper's tensor cores, in Gluon, of tensors that no descriptor reads: dz passes by registers, and x waits in
shared memory.

    dw[ci, co, k] = sum over places i of x[i, ci] * dz[stride * i - padding + k, co]

A program walks a patch of high x wide places (h, w) of x along d. A step is one plane of dz, of the residue along d that the program
has, and one plane of x, which meets this plane of dz and the next ones, by a tap along d each. Both are read once, element by element,
as they lie in either layout:

- dz is copied asynchronously, four bytes at a time, with all rows and places that the taps of the patch reach: of TF32 the residues
  along w apart, each in a sheet of its own; of 16 bits two neighbours, which are two residues, together in one. A sheet is
  [row, channel // 8, place, channel % 8], such that eight channels of any four neighbouring places are all banks;
- x passes by registers, which round TF32, and lies as products read their second operand: [channel, places of a patch]. Of 16 bits it
  lies there once for every shift of taps along w.

Rows of products are (tap, output channel), in eights: a product's 64 are two tiles of 32, which may be of two taps. A tile is read from
dz, of TF32 at the place that its tap along w shifts it to, of 16 bits once for all of these; and multiplied by as many planes of x as
there are taps along d. Columns are input channels.

Sums of all taps stay in registers until a program has walked its share of the steps, patch after patch. They are written as one share of
dw, and `reduce.sum_parts` adds the shares in order: same bits every run. So are sums of dz for the bias, of tiles as they are read
(turn_weight_sums.py).
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere.async_copy import wait_group
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait

from .gluon_names import barrier, rows_at, seen_as, stage_of
from .tiles import round_up_tf32
from .turn_weight_read import copy_plane, high_of, load_plane, place_layout, plane_at, sheet_layout, tail_of
from .turn_weight_sums import add_tile, no_sums, write_sums
from .walk_weight import first_tap


@gluon.constexpr_function
def product_layout(TURN, shifts, WARPS, bits):
    """64 rows, and columns, those of so many shifts of x, of which every four warps have a part."""
    return gl.NVMMADistributedLayout([3, 0], [4, WARPS // 4], [16, shifts * TURN.inputs // (WARPS // 4), 256 // bits])


@gluon.constexpr_function
def operand_layout(TURN, shifts, WARPS, bits):
    return gl.DotOperandLayout(0, product_layout(TURN, shifts, WARPS, bits), 32 // bits)


@gluon.constexpr_function
def tile_layout(TURN, WARPS, high):
    """32 lines of dz [h, line // 8, place, line % 8], such that a thread has what it has of the first operand of a product."""
    def place(i):
        return [0, 0, i, 0] if i < TURN.wide else [i // TURN.wide, 0, 0, 0]

    registers = [place(4 << i) for i in range((high * TURN.wide // 4).bit_length() - 1)]
    lanes = [place(1), place(2), [0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 4]]
    warps = [[0, 1, 0, 0], [0, 2, 0, 0]] + [[0, 0, 0, 0]] * (WARPS // 8)
    return gl.DistributedLinearLayout(registers, lanes, warps, [], [high, 4, TURN.wide, 8])


@gluon.jit
def rounded(tile):
    """As a product takes it."""
    if tile.dtype.primitive_bitwidth == 32:
        tile = round_up_tf32(tile)
    return tile


@gluon.jit
def store_plane(tiles, ring, slot, TURN: gl.constexpr):
    """Put a patch of x where products read it, shift by shift. Of 16 bits neighbours of four places lie side by side, as words of dz are
    read."""
    CHUNKS: gl.constexpr = len(tiles)
    INPUTS: gl.constexpr = TURN.inputs
    BITS: gl.constexpr = ring.dtype.primitive_bitwidth
    for i in gl.static_range(CHUNKS):
        tile = rounded(tiles[i])
        if BITS == 16:
            tile = tile.reshape([INPUTS, TURN.chunk * 8 // BITS // 8, 2, 4]).permute((0, 1, 3, 2))
        ring.index(slot * CHUNKS + i).store(tile.reshape([INPUTS, TURN.chunk * 8 // BITS]))


@gluon.jit
def lines(plane, WORD: gl.constexpr, HALF: gl.constexpr, OFFSET: gl.constexpr, HIGH: gl.constexpr, STEP: gl.constexpr, TURN: gl.constexpr,
          WARPS: gl.constexpr):
    """Tile HALF of 32 lines of the sheet that begins there, for HIGH rows of x, from place OFFSET on. Rows that begin less than 32
    lines one after the other are read one by one."""
    EIGHTS: gl.constexpr = STEP * TURN.outputs // 8
    if HIGH == 1 or EIGHTS >= 4:
        EACH: gl.constexpr = max(4, EIGHTS)
        whole = rows_at(plane, WORD + HALF * 4 * TURN.pitch + OFFSET, HIGH * EACH * TURN.pitch)
        whole = seen_as(whole, plane[0].dtype, [HIGH, EACH, TURN.pitch, 8], sheet_layout())
        return whole.slice(0, 4, 1).slice(0, TURN.wide, 2).load(tile_layout(TURN, WARPS, HIGH))
    else:
        first = lines(plane, WORD, HALF, OFFSET, HIGH // 2, STEP, TURN, WARPS)
        second = lines(plane, WORD + HIGH // 2 * EIGHTS * TURN.pitch, HALF, OFFSET, HIGH // 2, STEP, TURN, WARPS)
        tile = gl.join(first, second).permute((4, 0, 1, 2, 3)).reshape([HIGH, 4, TURN.wide, 8])
        return gl.convert_layout(tile, tile_layout(TURN, WARPS, HIGH), assert_trivial=True)


@gluon.jit
def joined(first, second, HIGH: gl.constexpr, TURN: gl.constexpr):
    """Two tiles as the 64 rows of a product [row, place]; of 16 bits each fourth place beside the other."""
    PLACES: gl.constexpr = HIGH * TURN.wide
    tile = gl.join(first, second).permute((1, 4, 3, 0, 2))  # of [h, line // 8, place, line % 8, tile]
    if first.dtype.primitive_bitwidth == 16:
        tile = tile.reshape([64, PLACES // 8, 2, 4]).permute((0, 1, 3, 2))
    return tile.reshape([64, PLACES])


@gluon.jit
def element(tile, RESIDUE: gl.constexpr, DTYPE: gl.constexpr):
    """A tile of TF32, or the lower or the upper half of its words."""
    if DTYPE.primitive_bitwidth == 16:
        tile = (tile >> (16 * RESIDUE)).to(gl.int16).to(DTYPE, bitcast=True)
    return tile


@gluon.jit
def add_products(sums, first, second, xs, count, CHUNK: gl.constexpr, NUMBER: gl.constexpr, PLANES: gl.constexpr, TURN: gl.constexpr,
                 WARPS: gl.constexpr):
    """What product NUMBER has of two tiles times what it meets of each plane of x."""
    PRODUCT: gl.constexpr = TURN.products[NUMBER]
    FIRST: gl.constexpr = NUMBER * PLANES
    BITS: gl.constexpr = xs.dtype.primitive_bitwidth
    SHIFTS: gl.constexpr = len(TURN.shifts)
    WIDTH: gl.constexpr = len(PRODUCT.taps)
    PLACES: gl.constexpr = TURN.chunk * 8 // BITS
    COUNT: gl.constexpr = len(TURN.products) * PLANES
    first, second = element(first, PRODUCT.residues[0], xs.dtype), element(second, PRODUCT.residues[1], xs.dtype)
    rows = rounded(joined(first, second, high_of(TURN, BITS), TURN))
    rows = gl.convert_layout(rows, operand_layout(TURN, WIDTH, WARPS, BITS))
    found = ()
    for i in gl.static_range(COUNT):
        if i < FIRST or i >= FIRST + PLANES:
            found = found + (sums[i],)
        else:
            slot = (count + (PLANES + 1 - (i - FIRST))) % (PLANES + 1)
            columns = rows_at(stage_of(xs, slot, PLANES + 1), CHUNK * SHIFTS + PRODUCT.shift, WIDTH)
            columns = seen_as(columns, xs.dtype, [WIDTH * TURN.inputs, PLACES], place_layout(TURN, BITS))
            found = found + (warpgroup_mma(rows, columns.permute((1, 0)), sums[i], is_async=True),)
    return found


@gluon.jit
def add_group(sums, added, xs, plane, count, CHUNK: gl.constexpr, G: gl.constexpr, PLANES: gl.constexpr, AXIS_H: gl.constexpr,
              TURN: gl.constexpr, WARPS: gl.constexpr):
    """The products of a group, which go on while those of the group before have been waited for; and what its tiles add to db."""
    BITS: gl.constexpr = xs.dtype.primitive_bitwidth
    HIGH: gl.constexpr = high_of(TURN, BITS)
    PRODUCTS: gl.constexpr = G.count
    ROW: gl.constexpr = TURN.outputs // 8 * TURN.pitch
    BEGIN: gl.constexpr = CHUNK * (HIGH * AXIS_H.stride * ROW)
    SHEET: gl.constexpr = TURN.height * ROW
    first = lines(plane, BEGIN + G.sheets[0] * SHEET, G.halves[0], G.offsets[0], HIGH, AXIS_H.stride, TURN, WARPS)
    second = lines(plane, BEGIN + G.sheets[1] * SHEET, G.halves[1], G.offsets[1], HIGH, AXIS_H.stride, TURN, WARPS)
    added = add_tile(added, first, G.adds[0], xs.dtype, TURN, WARPS)
    added = add_tile(added, second, G.adds[1], xs.dtype, TURN, WARPS)
    for i in gl.static_range(PRODUCTS):
        sums = add_products(sums, first, second, xs, count, CHUNK, G.product + i, PLANES, TURN, WARPS)
    return waited(sums, PRODUCTS * PLANES), added


@gluon.jit
def multiply(sums, added, xs, ring, stage, count, PLANES: gl.constexpr, AXIS_H: gl.constexpr, TURN: gl.constexpr, WARPS: gl.constexpr):
    """Add the products of a step."""
    CHUNKS: gl.constexpr = TURN.high // high_of(TURN, xs.dtype.primitive_bitwidth)
    GROUPS: gl.constexpr = len(TURN.groups)
    plane = stage_of(ring, stage, 2, tail_of(TURN, AXIS_H.stride, xs.dtype.primitive_bitwidth))
    for c in gl.static_range(CHUNKS):
        for g in gl.static_range(GROUPS):
            sums, added = add_group(sums, added, xs, plane, count, c, TURN.groups[g], PLANES, AXIS_H, TURN, WARPS)
    return waited(sums, 0), added


@gluon.jit
def nothing(SHIFTS: gl.constexpr, TURN: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """The sums of a product before the first step."""
    return gl.zeros([64, SHIFTS * TURN.inputs], gl.float32, product_layout(TURN, SHIFTS, WARPS, BITS))


@gluon.jit
def waited(sums, LEFT: gl.constexpr):
    if len(sums) == 1:  # for which there is no tuple
        return (warpgroup_mma_wait(LEFT, deps=sums),)
    else:
        return warpgroup_mma_wait(LEFT, deps=sums)


@gluon.jit
def turn_weight(x, z, parts, db_parts, STEPS, EACH, sizes, x_size, z_size, x_stride, z_stride, p_stride, AXIS_D: gl.constexpr,
                AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, CI: gl.constexpr, CO: gl.constexpr, LAST: gl.constexpr,
                TURN: gl.constexpr, WARPS: gl.constexpr):
    """One share of dw for TURN.outputs and TURN.inputs channels, and taps along d of one residue.

    STEPS of all samples, EACH of them for a share; sizes: (steps along d, patches along h, along w); x_size, z_size: places.
    LAST: x is channels_last. parts [shares, ci, co, tap] by its strides, or dw where one share is all; db_parts [(share, residue along d,
    along h), co], or None. Grid: (output channels, input channels, taps along d), share.
    """
    pid, share = gl.program_id(0), gl.program_id(1)
    co, rest = pid % TURN.output_tiles * TURN.outputs, pid // TURN.output_tiles
    ci, rest = rest % TURN.input_tiles * TURN.inputs, rest // TURN.input_tiles
    program = first_tap(AXIS_D, rest, TURN.planes)
    row = gl.where((ci == 0) & (rest < AXIS_D.stride), share * AXIS_D.stride + rest, -1)  # the first of every residue of dz adds up db
    x += ci.to(gl.int64) * x_stride[1]
    z += co.to(gl.int64) * z_stride[1]
    if TURN.fewer == 0:
        walk_and_write(x, z, parts, db_parts, STEPS, EACH, share, row, program, ci, co, sizes, x_size, z_size, x_stride, z_stride,
                       p_stride, AXIS_D, AXIS_H, AXIS_W, CI, CO, LAST, TURN, TURN.planes, WARPS)
    elif rest < TURN.whole:
        walk_and_write(x, z, parts, db_parts, STEPS, EACH, share, row, program, ci, co, sizes, x_size, z_size, x_stride, z_stride,
                       p_stride, AXIS_D, AXIS_H, AXIS_W, CI, CO, LAST, TURN, TURN.planes, WARPS)
    else:
        walk_and_write(x, z, parts, db_parts, STEPS, EACH, share, row, program, ci, co, sizes, x_size, z_size, x_stride, z_stride,
                       p_stride, AXIS_D, AXIS_H, AXIS_W, CI, CO, LAST, TURN, TURN.fewer, WARPS)


@gluon.jit
def walk_and_write(x, z, parts, db_parts, STEPS, EACH, share, row, program, ci, co, sizes, x_size, z_size, x_stride, z_stride,
                   p_stride, AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, CI: gl.constexpr, CO: gl.constexpr,
                   LAST: gl.constexpr, TURN: gl.constexpr, PLANES: gl.constexpr, WARPS: gl.constexpr):
    """What a program of PLANES taps along d does. program: the first of them, the residue of dz, and its shift. row: of db_parts, -1
    for none."""
    DTYPE: gl.constexpr = x.dtype.element_ty
    BITS: gl.constexpr = DTYPE.primitive_bitwidth
    TILES: gl.constexpr = TURN.high // high_of(TURN, BITS) * len(TURN.shifts)
    ROW: gl.constexpr = TURN.outputs // 8 * TURN.pitch
    SHEETS: gl.constexpr = len(TURN.sheets)
    PRODUCTS: gl.constexpr = len(TURN.products)
    INPUTS: gl.constexpr = TURN.inputs
    first_d, residue_d, shift_d = program

    WORD: gl.constexpr = gl.float32 if BITS == 32 else gl.int32
    ring = gl.allocate_shared_memory(WORD, [2 * SHEETS * TURN.height * ROW + tail_of(TURN, AXIS_H.stride, BITS), 1, 1, 1, 8], sheet_layout())
    PLACES: gl.constexpr = TURN.chunk * 8 // BITS
    xs = gl.allocate_shared_memory(DTYPE, [(PLANES + 1) * TILES, INPUTS, PLACES], place_layout(TURN, BITS))
    begin = share * EACH
    end = gl.minimum(STEPS, begin + EACH)
    for i in gl.static_range(PLANES):  # the planes that the first of dz meets beside its own, and what the first step has
        t, n, h, w = at_step(begin, sizes, TURN)
        d = t - shift_d - (PLANES - 1 - i)
        tiles = load_plane(plane_at(x, n, d, x_stride), (begin < end) & (d >= 0) & (d < x_size[0]), h, w, ci, x_size, x_stride,
                           CI, LAST, TURN, WARPS)
        if i < PLANES - 1:
            store_plane(tiles, xs, i + 2, TURN)
    t, n, h, w = at_step(begin, sizes, TURN)
    d = t * AXIS_D.stride + residue_d
    copy_plane(plane_at(z, n, d, z_stride), ring, 0, (begin < end) & (d >= 0) & (d < z_size[0]), h, w, co, z_size, z_stride,
               0, TURN.rows, AXIS_H, AXIS_W, CO, TURN, WARPS)
    if TURN.height > TURN.rows:  # what lies beyond the last tap is multiplied, too, and kept nowhere
        for i in gl.static_range(2):
            copy_plane(z, ring, i, begin < 0, h, w, co, z_size, z_stride, TURN.rows, TURN.height, AXIS_H, AXIS_W, CO, TURN, WARPS)
    sums, added = (), no_sums(TURN, WARPS)
    for i in gl.static_range(PRODUCTS * PLANES):
        sums = sums + (nothing(len(TURN.products[i // PLANES].taps), TURN, WARPS, BITS),)
    for step in range(begin, end):
        count = step - begin
        store_plane(tiles, xs, count % (PLANES + 1), TURN)
        wait_group(0)
        fence_async_shared()
        barrier()  # all is there, and the products of the step before have been waited for by all
        t, n, h, w = next_step(t, n, h, w, sizes, TURN)
        d = t * AXIS_D.stride + residue_d
        more = step + 1 < end
        copy_plane(plane_at(z, n, d, z_stride), ring, (count + 1) % 2, more & (d >= 0) & (d < z_size[0]), h, w, co, z_size,
                   z_stride, 0, TURN.rows, AXIS_H, AXIS_W, CO, TURN, WARPS)
        d = t - shift_d
        tiles = load_plane(plane_at(x, n, d, x_stride), more & (d >= 0) & (d < x_size[0]), h, w, ci, x_size, x_stride, CI, LAST,
                           TURN, WARPS)
        sums, added = multiply(sums, added, xs, ring, count % 2, count, PLANES, AXIS_H, TURN, WARPS)
    wait_group(0)
    out = parts + share.to(gl.int64) * p_stride[0]
    for i in gl.static_range(PRODUCTS):
        for j in gl.static_range(PLANES):
            write(sums[i * PLANES + j], out, ci, co, first_d + j * AXIS_D.stride, p_stride, i, AXIS_D, AXIS_H, AXIS_W, CI, CO, TURN, WARPS,
                  BITS)
    if TURN.adds > 0:
        write_sums(added, db_parts, row, co, AXIS_H, CO, TURN, WARPS)


@gluon.jit
def at_step(step, sizes, TURN: gl.constexpr):
    """The plane of dz, the sample and the patch of a step. The first planes of a patch lie before all of dz: then only x is read."""
    t, patch = step % sizes[0] - (TURN.planes - 1), step // sizes[0]
    w, rest = patch % sizes[2] * TURN.wide, patch // sizes[2]
    return t, rest // sizes[1], rest % sizes[1] * TURN.high, w


@gluon.jit
def next_step(t, n, h, w, sizes, TURN: gl.constexpr):
    """What follows a step, found without a division."""
    t += 1
    over = t == sizes[0] - (TURN.planes - 1)
    t, w = gl.where(over, 1 - TURN.planes, t), gl.where(over, w + TURN.wide, w)
    over = w == sizes[2] * TURN.wide
    w, h = gl.where(over, 0, w), gl.where(over, h + TURN.high, h)
    over = h == sizes[1] * TURN.high
    return t, gl.where(over, n + 1, n), gl.where(over, 0, h), w


@gluon.jit
def write(tile, out, ci, co, kd, p_stride, PRODUCT: gl.constexpr, AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr,
          CI: gl.constexpr, CO: gl.constexpr, TURN: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """Store the sums of a product for one tap along d."""
    SHIFTS: gl.constexpr = len(TURN.products[PRODUCT].taps)
    LAYOUT: gl.constexpr = product_layout(TURN, SHIFTS, WARPS, BITS)
    row, column = gl.arange(0, 64, gl.SliceLayout(1, LAYOUT)), gl.arange(0, SHIFTS * TURN.inputs, gl.SliceLayout(0, LAYOUT))
    shift, column = column // TURN.inputs, ci + column % TURN.inputs
    second = row // 8 % 2 == 1
    line = gl.where(second, TURN.products[PRODUCT].halves[1], TURN.products[PRODUCT].halves[0]) * 32 + row // 16 * 8 + row % 8
    kh, channel = line // TURN.outputs, co + line % TURN.outputs
    kw = gl.where(second, TURN.products[PRODUCT].taps[0][1], TURN.products[PRODUCT].taps[0][0])[:, None]
    for i in gl.static_range(1, SHIFTS):
        other = gl.where(second, TURN.products[PRODUCT].taps[i][1], TURN.products[PRODUCT].taps[i][0])[:, None]
        kw = gl.where((shift == i)[None, :], other, kw)
    live = ((kh < AXIS_H.kernel) & (channel < CO) & (kd < AXIS_D.kernel))[:, None] & (column < CI)[None, :] & (kw >= 0)
    tap = ((kd * AXIS_H.kernel + kh) * AXIS_W.kernel)[:, None] + kw
    at = (channel.to(gl.int64) * p_stride[2])[:, None] + tap.to(gl.int64) * p_stride[3] + (column.to(gl.int64) * p_stride[1])[None, :]
    gl.store(out + at, tile.to(out.dtype.element_ty), mask=live)
