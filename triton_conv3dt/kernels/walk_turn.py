"""Lines along w of 16 bytes of channels side by side: the patch and all places beside it that taps reach, so that the first operand of a
product begins at any place of them. It passes by registers, where TF32 is rounded. And how a walk copies TF32 that lies in any order into them,
and 16 bits where channels come last: element by element, or unit by unit, asynchronously. In Gluon."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .gluon_names import STRICT, copy_elements, rows_at, seen_as

FURTHER = gl.constexpr(4)  # places, which are half of the banks: as few beside patches are in all of them where units lie so far apart


@gluon.constexpr_function
def ring_layout():
    return gl.SwizzledSharedLayout(1, 1, 1, [1, 0])


@gluon.constexpr_function
def tail_of(WALK):
    """Rows of 16 bytes that a ring has more than those of its planes: what patches are seen in that begin beside the first place of lines."""
    return max(run.shift for turn in WALK.runs for run in turn) + FURTHER.value if STRICT.value and WALK.turned else 0


@gluon.constexpr_function
def line_layout(rows, units, places, beside, more, channels):
    """Lines [h, unit, w, channel of it] as they are counted, with so many places beside those of each, and more after two: eight neighbours
    along w are all banks, wherever they begin; and so are the last places of several lines that are no powers of two, and every
    other place of two."""
    if not beside:
        return gl.SwizzledSharedLayout(1, 1, 1, [3, 2, 1, 0])
    shape = [rows, units, places, channels]
    bases = [[(1 << bit) * (i == axis) for i in range(4)] for axis in (3, 2, 1, 0) for bit in range(shape[axis].bit_length() - 1)]
    gaps = [[places * channels, beside * channels], [2 * places * channels, channels]]
    return gl.PaddedSharedLayout(gaps if more else gaps[:1], bases, [], shape)


@gluon.constexpr_function
def further_layout(rows, units, places, channels):
    """Lines without gaps, the second half of whose units lies FURTHER, for as few places of each."""
    shape = [rows, units, places, channels]
    bases = [[(1 << bit) * (i == axis) for i in range(4)] for axis in (3, 2, 1, 0) for bit in range(shape[axis].bit_length() - 1)]
    bases[bases.index([0, units // 2, 0, 0])][2] = FURTHER.value
    return gl.SharedLinearLayout(bases)


@gluon.constexpr_function
def element_layout(rows, channels, warps, places, run, unit):
    """Eight neighbouring places by channels of a unit, or whole units, are a warp's: whole sectors of memory in either order, and no bank
    twice. Of fewer places more channels; and of so few that threads would have none, parts of units of 16 bits."""
    while unit == 8 and run > 2 and rows * places * channels // run < 32 * warps:
        run //= 2
    places, apart = min(8, places), unit // run
    units = min(channels // unit, 32 // apart // places)
    lanes = [32 // apart // places // units, units, places, apart]
    across = min(warps, channels // unit // units)
    return gl.BlockedLayout([1, 1, 1, run], lanes, [warps // across, across, 1, 1], [3, 2, 1, 0])


@gluon.constexpr_function
def unit_of(bits):
    """Channels of a unit, which are 16 bytes."""
    return 128 // bits


@gluon.constexpr_function
def fragment_layout(high, channels, wide, warps, bits):
    """[h, unit, w, channel of it] such that a thread has what it has of the first operand of a product, in the same order."""
    def place(i):
        return [0, 0, i, 0] if i < wide else [i // wide, 0, 0, 0]

    unit, pair = unit_of(bits), 32 // bits
    registers = [[0, 0, 0, 1]] * (pair > 1) + [place(8)] + [[0, 1 << i, 0, 0] for i in range((channels // unit).bit_length() - 1)]
    lanes = [[0, 0, 0, pair], [0, 0, 0, 2 * pair], place(1), place(2), place(4)]
    each = [place(16 << i) for i in range(warps.bit_length() - 1)]
    return gl.DistributedLinearLayout(registers, lanes, each, [], [high, channels // unit, wide, unit])


@gluon.constexpr_function
def chunks(count, most):
    """A count in runs that are powers of two: the first of each, and how many."""
    found, first = [], 0
    while first < count:
        run = min(most, 1 << ((count - first).bit_length() - 1))
        found.append((first, run))
        first += run
    return tuple(found)


@gluon.constexpr_function
def count_of(pairs):
    return len(pairs)


@gluon.constexpr_function
def start_of(pairs, i):
    return pairs[i][0]


@gluon.constexpr_function
def length_of(pairs, i):
    return pairs[i][1]


@gluon.constexpr_function
def halves(WALK, sheet):
    """In how many parts the units of lines lie: the second half lies FURTHER where lines have room for that, which all copies go into that few
    places beside a patch come with."""
    return 2 if WALK.copied and 0 < WALK.sheets[sheet].reach <= FURTHER.value else 1


@gluon.jit
def lines_at(rows, LINE: gl.constexpr, dtype: gl.constexpr, ROWS: gl.constexpr, FIRST: gl.constexpr, PLACES: gl.constexpr, SHEET: gl.constexpr,
             WALK: gl.constexpr):
    """Places FIRST up to FIRST + PLACES of lines of ROWS rows, which begin there in a stage, as [h, unit, w, channel of it]."""
    CHANNELS: gl.constexpr = unit_of(dtype.primitive_bitwidth)
    UNITS: gl.constexpr = WALK.channels // unit_of(rows[0].dtype.primitive_bitwidth)
    PITCH: gl.constexpr = WALK.sheets[SHEET].pitch
    TAKEN: gl.constexpr = PITCH // UNITS
    if halves(WALK, SHEET) == 2:
        lines = rows_at(rows, LINE, ROWS * PITCH)
        lines = seen_as(lines, dtype, [ROWS, UNITS, TAKEN, CHANNELS], further_layout(ROWS, UNITS, TAKEN, CHANNELS))
        return lines.slice(FIRST, PLACES, 2)
    elif PITCH == UNITS * TAKEN and TAKEN & (TAKEN - 1) == 0:  # without gaps: what copies go into, and matrices are read from
        lines = rows_at(rows, LINE, ROWS * PITCH)
        lines = seen_as(lines, dtype, [ROWS, UNITS, TAKEN, CHANNELS], line_layout(ROWS, UNITS, TAKEN, 0, 0, CHANNELS))
        return lines.slice(FIRST, PLACES, 2)
    else:
        LAYOUT: gl.constexpr = line_layout(ROWS, UNITS, PLACES, TAKEN - PLACES, PITCH % UNITS, CHANNELS)
        return seen_as(rows_at(rows, LINE + FIRST, ROWS * UNITS * PLACES), dtype, [ROWS, UNITS, PLACES, CHANNELS], LAYOUT)


@gluon.jit
def patch_at(rows, LINE: gl.constexpr, ROWS: gl.constexpr, HALF: gl.constexpr, HALVES: gl.constexpr, SHEET: gl.constexpr,
             WALK: gl.constexpr):
    """The places of a patch of lines of ROWS rows, which begin there in a stage: of all units, or of half of them."""
    if HALVES == 1:
        return lines_at(rows, LINE, rows[0].dtype, ROWS, 0, WALK.wide, SHEET, WALK)
    else:
        UNIT: gl.constexpr = unit_of(rows[0].dtype.primitive_bitwidth)
        UNITS: gl.constexpr = WALK.channels // UNIT
        PLACES: gl.constexpr = WALK.wide * 2
        LAYOUT: gl.constexpr = line_layout(ROWS, UNITS, PLACES, 0, 0, UNIT)
        lines = seen_as(rows_at(rows, LINE + HALF * FURTHER, ROWS * UNITS * PLACES), rows[0].dtype, [ROWS, UNITS, PLACES, UNIT], LAYOUT)
        return lines.slice(HALF * (UNITS // 2), UNITS // 2, 1).slice(0, WALK.wide, 2)


@gluon.jit
def copy_places(x, lines, live, h, w, channel, zero, x_size, x_stride, STEP: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr):
    """Into lines [h, unit, w, channel of it], which begin with this channel of the place (h, w) of x, STEP apart; zeros outside."""
    ROWS: gl.constexpr = lines.shape[0]
    UNITS: gl.constexpr = lines.shape[1]
    PLACES: gl.constexpr = lines.shape[2]
    UNIT: gl.constexpr = lines.shape[3]
    RUN: gl.constexpr = WALK.run
    STEP_H: gl.constexpr = STEP[0]
    STEP_W: gl.constexpr = STEP[1]
    LAYOUT: gl.constexpr = element_layout(ROWS, UNITS * UNIT, WARPS, PLACES, RUN, UNIT)
    h, w, channel = h + zero, w + zero, channel + zero
    o_h = gl.arange(0, ROWS, gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, LAYOUT))))[:, None, None, None] * STEP_H + zero
    unit = gl.arange(0, UNITS, gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, LAYOUT))))[None, :, None, None]
    o_w = gl.arange(0, PLACES, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, LAYOUT))))[None, None, :, None] * STEP_W + zero
    c = unit * UNIT + gl.arange(0, UNIT, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT))))[None, None, None, :] + zero
    c = gl.max_contiguous(gl.multiple_of(c, [1, 1, 1, RUN]), [1, 1, 1, RUN])  # a mark on a sum is lost with terms that are folded away
    # What does not depend on the plane is one tile for all sheets: the compiler adds what is the same for all threads, and keeps it
    # from plane to plane unless it is told of a zero that it does not know.
    beside = o_h * x_stride[3] + o_w * x_stride[4] + c * x_stride[1]
    beside = gl.max_contiguous(gl.multiple_of(beside, [1, 1, 1, RUN]), [1, 1, 1, RUN])
    begin = x + gl.multiple_of(h * x_stride[3] + w * x_stride[4] + channel * x_stride[1], RUN)
    inside = live & (o_h >= -h) & (o_h < x_size[1] - h) & (o_w >= -w) & (o_w < x_size[2] - w)
    if WALK.summed % WALK.channels != 0:
        inside = inside & ((unit * UNIT if RUN == UNIT else c) < WALK.summed - channel)
    copy_elements(lines, begin + beside, inside)


@gluon.jit
def copy_sheet(x, rows, live, h, w, channel, zero, x_size, x_stride, LINE: gl.constexpr, SHEET: gl.constexpr, WALK: gl.constexpr,
               STEP_H: gl.constexpr, STEP_W: gl.constexpr, WARPS: gl.constexpr):
    """The rows of one sheet of the plane x, for the patch of the coarse place (h, w), whose lines begin there in a stage."""
    S: gl.constexpr = WALK.sheets[SHEET]
    WIDE: gl.constexpr = WALK.wide
    STEP: gl.constexpr = (STEP_H, STEP_W)
    HALVES: gl.constexpr = halves(WALK, SHEET)
    RUNS: gl.constexpr = chunks(S.rows, WALK.high)
    COUNT: gl.constexpr = count_of(RUNS)
    BESIDE: gl.constexpr = chunks(S.reach, WIDE)
    MORE: gl.constexpr = count_of(BESIDE)
    at_w = (w + S.shift) * STEP_W + S.residue_w
    for i in gl.static_range(COUNT):
        at_h = (h + (S.first + start_of(RUNS, i))) * STEP_H + S.residue
        for half in gl.static_range(HALVES):
            lines = patch_at(rows, LINE + start_of(RUNS, i) * S.pitch, length_of(RUNS, i), half, HALVES, SHEET, WALK)
            copy_places(x, lines, live, at_h, at_w, channel + half * (WALK.channels // 2), zero, x_size, x_stride, STEP, WALK, WARPS)
        for j in gl.static_range(MORE):
            lines = lines_at(rows, LINE + start_of(RUNS, i) * S.pitch, rows[0].dtype, length_of(RUNS, i), WIDE + start_of(BESIDE, j),
                             length_of(BESIDE, j), SHEET, WALK)
            copy_places(x, lines, live, at_h, at_w + (WIDE + start_of(BESIDE, j)) * STEP_W, channel, zero, x_size, x_stride, STEP, WALK,
                        WARPS)


@gluon.jit
def fragment(rows, LINE: gl.constexpr, SHEET: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr):
    """The first operand of a product in registers, fp32 rounded to TF32: the places of a patch whose lines begin there."""
    HIGH: gl.constexpr = WALK.high
    WIDE: gl.constexpr = WALK.wide
    BITS: gl.constexpr = rows[0].dtype.primitive_bitwidth
    HALVES: gl.constexpr = halves(WALK, SHEET)
    UNITS: gl.constexpr = WALK.channels // unit_of(BITS)
    LAYOUT: gl.constexpr = fragment_layout(HIGH, WALK.channels // HALVES, WIDE, WARPS, BITS)
    tile = patch_at(rows, LINE, HIGH, 0, HALVES, SHEET, WALK).load(LAYOUT)
    if HALVES == 2:
        tile = gl.join(tile, patch_at(rows, LINE, HIGH, 1, HALVES, SHEET, WALK).load(LAYOUT)).permute((0, 4, 1, 2, 3))
        tile = tile.reshape([HIGH, UNITS, WIDE, unit_of(BITS)])
    if BITS == 32:
        tile = gl.inline_asm_elementwise("cvt.rna.tf32.f32 $0, $1;", "=r,r", [tile], dtype=gl.float32, is_pure=True, pack=1)
    return tile.permute((0, 2, 1, 3)).reshape([HIGH * WIDE, WALK.channels])
