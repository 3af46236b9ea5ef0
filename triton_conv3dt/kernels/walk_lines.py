"""How a walk reads 16 bits that lie channels-first: by registers into lines along w (walk_turn.py) of eight channels side by side. What
a plane of the ring will hold is loaded while products read others, and stored when they have read what was there. Neighbours along w
that are aligned are loaded by twos: two places, or both residues of one. Channels that come last are loaded by units. In Gluon."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .gluon_names import parts_of
from .walk_turn import chunks, count_of, length_of, lines_at, start_of

UNIT = gl.constexpr(8)  # channels, which are 16 bytes


@gluon.constexpr_function
def load_layout(rows, units, loads, warps, twos, stored=False):
    """[h, unit, load along w, channel]: a thread has whole units, or of few an even part; those of a warp are neighbours along w first.
    twos: loads are two places, which four threads store to half of the banks, and four others to the rest: those two lines further.
    stored: the same threads have [h, unit, place, two channels]."""
    both = 1 + (twos and loads >= 4)
    parts = max(1, min(4, 32 * warps * both // (rows * units * loads)))
    across = min(4 if twos else 16, loads, 32 // parts)
    beside = min(units // both, 32 // parts // across)
    while parts < 4 and rows * parts * across * beside < 32:  # of few rows, lanes that have nothing take channels
        parts *= 2
    apart = min(warps, units // both // beside)
    along = min(warps // apart, loads // across)
    return gl.BlockedLayout([1, both, 1 + stored, 8 // parts // (1 + stored)], [32 // parts // across // beside, beside, across, parts],
                            [warps // apart // along, apart, along, 1], [3, 2, 1, 0])


@gluon.constexpr_function
def residues_at_once(WALK, step):
    """How many sheets, residues along w one after another, are loaded at once; both residues are one where they lie side by side."""
    return 2 if WALK.run == 2 and step == 2 and WALK.second < 0 else 1


@gluon.constexpr_function
def units_of(WALK):
    """Units of channels that a load of a place has: of a residue alone where both lie side by side."""
    return WALK.channels // 8 // (1 + (WALK.second >= 0))


@gluon.constexpr_function
def chunks_down(WALK, sheet):
    return chunks(WALK.sheets[sheet].rows, WALK.high)


@gluon.constexpr_function
def chunks_along(WALK, sheet):
    """Places of a line: those of the patch, and those beside it."""
    reach = WALK.sheets[sheet].reach
    return ((0, WALK.wide), (WALK.wide, reach))[:1 + (reach > 0)]


@gluon.constexpr_function
def number_of_tile(WALK, block, sheet, down, along, at_once):
    """The number of a tile among those that are loaded of a plane."""
    parts = [1 + (s.reach > 0) for s in WALK.sheets]
    sizes = [(s.rows // WALK.high + (s.rows % WALK.high).bit_count()) * n for s, n in zip(WALK.sheets[::at_once], parts[::at_once])]
    return block * sum(sizes) + sum(sizes[:sheet // at_once]) + down * parts[sheet] + along


@gluon.constexpr_function
def rows_before(WALK, sheet):
    """How many rows before that of its first place a run of places may begin."""
    return max(0, -(WALK.sheets[sheet].shift // WALK.along))


@gluon.jit
def load_tile(x, live, h, w, first, channel, zero, x_size, x_stride, ROWS: gl.constexpr, PLACES: gl.constexpr, SHEET: gl.constexpr,
              WALK: gl.constexpr, STEP_H: gl.constexpr, STEP_W: gl.constexpr, WARPS: gl.constexpr):
    """A tile [h, unit, load along w, channel] from the place (h, w) of the plane x on, zeros outside; of a run of places those from first
    on, in the residue (h, w)."""
    RUN: gl.constexpr = WALK.run
    UNITS: gl.constexpr = units_of(WALK)
    LOADS: gl.constexpr = PLACES * STEP_W // RUN if RUN == 2 else PLACES
    LAYOUT: gl.constexpr = load_layout(ROWS, UNITS, LOADS, WARPS, RUN == 2 and STEP_W == 1)
    o_h = gl.arange(0, ROWS, gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, LAYOUT))))[:, None, None, None] * STEP_H
    unit = gl.arange(0, UNITS, gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, LAYOUT))))[None, :, None, None]
    o_w = gl.arange(0, LOADS, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, LAYOUT))))[None, None, :, None]
    c = unit * UNIT + gl.arange(0, UNIT, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT))))[None, None, None, :] + zero
    if WALK.along > 0:
        BEFORE: gl.constexpr = rows_before(WALK, SHEET)
        EACH: gl.constexpr = RUN if RUN == 2 and STEP_W == 1 else 1
        o_h, o_w = parts_of(o_w * EACH + (first + BEFORE * WALK.along), WALK.along)
        o_h, o_w = (o_h - BEFORE) * STEP_H, o_w // EACH
    inside = live & (o_h >= -h) & (o_h < x_size[1] - h)
    if RUN == 2:  # both of two neighbours are inside, or none
        inside = inside & (o_w * 2 >= -w) & (o_w * 2 < x_size[2] - w)
        begin = x + ((h * x_stride[3] + w + channel * x_stride[1]) >> 1)
        beside = o_h * (x_stride[3] >> 1) + o_w + c * (x_stride[1] >> 1)
    else:
        inside = inside & (o_w * STEP_W >= -w) & (o_w * STEP_W < x_size[2] - w)
        c = gl.max_contiguous(gl.multiple_of(c, [1, 1, 1, RUN]), [1, 1, 1, RUN])  # as copy_places has them
        begin = x + gl.multiple_of(h * x_stride[3] + w * x_stride[4] + channel * x_stride[1], RUN)
        beside = o_h * x_stride[3] + o_w * (STEP_W * x_stride[4]) + c * x_stride[1]
        beside = gl.max_contiguous(gl.multiple_of(beside, [1, 1, 1, RUN]), [1, 1, 1, RUN])
    if WALK.summed % WALK.channels != 0:
        inside = inside & ((unit * UNIT if WALK.summed % UNIT == 0 else c) < WALK.summed - channel)
    return gl.load(begin + beside, mask=inside, other=0)


@gluon.jit
def load_sheet(x, live, h, w, channel, zero, x_size, x_stride, SHEET: gl.constexpr, WALK: gl.constexpr, STEP_H: gl.constexpr,
               STEP_W: gl.constexpr, WARPS: gl.constexpr):
    """The tiles of a sheet, and of that of the other residue, of the plane x."""
    S: gl.constexpr = WALK.sheets[SHEET]
    DOWN: gl.constexpr = chunks_down(WALK, SHEET)
    ALONG: gl.constexpr = chunks_along(WALK, SHEET)
    ROWS: gl.constexpr = count_of(DOWN)
    PARTS: gl.constexpr = count_of(ALONG)
    tiles = ()
    for i in gl.static_range(ROWS):
        at_h = (h + (S.first + start_of(DOWN, i))) * STEP_H + S.residue
        for j in gl.static_range(PARTS):
            first = w + (S.shift + start_of(ALONG, j))
            at_w = (first if WALK.along == 0 else zero) * STEP_W + S.residue_w
            tiles = tiles + (load_tile(x, live, at_h, at_w, first, channel, zero, x_size, x_stride, length_of(DOWN, i), length_of(ALONG, j),
                                       SHEET, WALK, STEP_H, STEP_W, WARPS),)
    return tiles


@gluon.jit
def load_plane(x, live, n, d, h, w, zero, x_size, x_stride, WALK: gl.constexpr, STEP_H: gl.constexpr, STEP_W: gl.constexpr,
               WARPS: gl.constexpr):
    """The tiles of the plane d of a sample, for the patch of the coarse place (h, w): what store_plane stores."""
    BLOCKS: gl.constexpr = WALK.blocks
    SHEETS: gl.constexpr = len(WALK.sheets)
    TOGETHER: gl.constexpr = residues_at_once(WALK, STEP_W)
    RUN: gl.constexpr = WALK.run
    at = n * x_stride[0] + d * x_stride[2]
    if RUN == 2:
        place = x.to(gl.pointer_type(gl.int32), bitcast=True) + (at >> 1)
    else:
        place = x.to(gl.pointer_type(gl.int16), bitcast=True) + gl.multiple_of(at, RUN)
    tiles = ()
    for block in gl.static_range(BLOCKS):
        for i in gl.static_range(0, SHEETS, TOGETHER):
            tiles = tiles + load_sheet(place, live, h, w + zero, block * WALK.channels, zero, x_size, x_stride, i, WALK, STEP_H, STEP_W, WARPS)
    return tiles


@gluon.jit
def halves_of(tile):
    """Of loads [.., channel] of two neighbours each: both as [.., two channels], which are 32 bits."""
    even, odd = gl.split(tile.reshape([tile.shape[0], tile.shape[1], tile.shape[2], UNIT // 2, 2]))
    first = gl.inline_asm_elementwise("prmt.b32 $0, $1, $2, 0x5410;", "=r,r,r", [even, odd], dtype=gl.int32, is_pure=True, pack=1)
    second = gl.inline_asm_elementwise("prmt.b32 $0, $1, $2, 0x7632;", "=r,r,r", [even, odd], dtype=gl.int32, is_pure=True, pack=1)
    return first, second


@gluon.jit
def store_tile(tile, stage, LINE: gl.constexpr, BESIDE: gl.constexpr, ROWS: gl.constexpr, FIRST: gl.constexpr, PLACES: gl.constexpr,
               SHEET: gl.constexpr, WALK: gl.constexpr, TOGETHER: gl.constexpr, WARPS: gl.constexpr):
    """A tile that was loaded, into places FIRST to FIRST + PLACES of ROWS lines; BESIDE: where the lines of the other residue begin."""
    if WALK.run != 2:
        lines_at(stage, LINE, gl.int16, ROWS, FIRST, PLACES, SHEET, WALK).store(tile)
    else:
        first, second = halves_of(tile)
        if WALK.second >= 0:
            lines_at(stage, LINE, gl.int32, ROWS, FIRST, PLACES, SHEET, WALK).slice(0, 1, 1).store(first)
            lines_at(stage, LINE + WALK.second, gl.int32, ROWS, FIRST, PLACES, SHEET, WALK).slice(1, 1, 1).store(second)
        elif TOGETHER == 2:
            lines_at(stage, LINE, gl.int32, ROWS, FIRST, PLACES, SHEET, WALK).store(first)
            lines_at(stage, BESIDE, gl.int32, ROWS, FIRST, PLACES, SHEET, WALK).store(second)
        else:
            LAYOUT: gl.constexpr = load_layout(ROWS, WALK.channels // UNIT, PLACES // 2, WARPS, True, True)
            both = gl.join(first, second).permute((0, 1, 2, 4, 3)).reshape([ROWS, WALK.channels // UNIT, PLACES, UNIT // 2])
            both = gl.convert_layout(both, LAYOUT, assert_trivial=True)
            lines_at(stage, LINE, gl.int32, ROWS, FIRST, PLACES, SHEET, WALK).store(both)


@gluon.jit
def store_sheet(tiles, stage, BLOCK: gl.constexpr, SHEET: gl.constexpr, WALK: gl.constexpr, STEP_W: gl.constexpr, WARPS: gl.constexpr):
    """The tiles of a sheet, and of that of the other residue, into the rows of a block of a stage."""
    TOGETHER: gl.constexpr = residues_at_once(WALK, STEP_W)
    S: gl.constexpr = WALK.sheets[SHEET]
    OTHER: gl.constexpr = WALK.sheets[SHEET + TOGETHER - 1]
    DOWN: gl.constexpr = chunks_down(WALK, SHEET)
    ALONG: gl.constexpr = chunks_along(WALK, SHEET)
    ROWS: gl.constexpr = count_of(DOWN)
    PARTS: gl.constexpr = count_of(ALONG)
    for i in gl.static_range(ROWS):
        for j in gl.static_range(PARTS):
            store_tile(tiles[number_of_tile(WALK, BLOCK, SHEET, i, j, TOGETHER)], stage,
                       BLOCK * WALK.rows + start_of(DOWN, i) * S.pitch + S.row, BLOCK * WALK.rows + start_of(DOWN, i) * S.pitch + OTHER.row,
                       length_of(DOWN, i), start_of(ALONG, j), length_of(ALONG, j), SHEET, WALK, TOGETHER, WARPS)


@gluon.jit
def store_plane(tiles, stage, WALK: gl.constexpr, STEP_W: gl.constexpr, WARPS: gl.constexpr):
    """The tiles of a plane, into a stage."""
    BLOCKS: gl.constexpr = WALK.blocks
    SHEETS: gl.constexpr = len(WALK.sheets)
    TOGETHER: gl.constexpr = residues_at_once(WALK, STEP_W)
    for block in gl.static_range(BLOCKS):
        for i in gl.static_range(0, SHEETS, TOGETHER):
            store_sheet(tiles, stage, block, i, WALK, STEP_W, WARPS)
