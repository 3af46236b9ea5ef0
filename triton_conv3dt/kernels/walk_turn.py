"""How a walk reads TF32 that lies in any order, unrounded: element by element, asynchronously, into lines along w of four channels side by
side. A line has the patch and all places beside it that taps reach, so that the first operand of a product begins at any of its places: it
passes by registers, where it is rounded. In Gluon."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere.async_copy import async_copy_global_to_shared

from .gluon_names import seen_as


@gluon.constexpr_function
def pitch_of(WALK, sheet):
    """Places of a line."""
    return WALK.wide * (1 + (WALK.sheets[sheet].reach > 0))


@gluon.constexpr_function
def line_layout():
    """As they are counted: [h, channel // 4, w, channel % 4], so that eight neighbours along w are all banks, wherever they begin."""
    return gl.SwizzledSharedLayout(1, 1, 1, [3, 2, 1, 0])


@gluon.constexpr_function
def element_layout(channels, warps, places, run):
    """Eight neighbouring places by four channels, or runs of them, are a warp's: whole sectors of memory in either order, and no bank
    twice. Of fewer places more channels."""
    places = min(8, places)
    quads = min(channels // 4, 8 * run // places)
    lanes = [8 * run // places // quads, quads, places, 4 // run]
    across = min(warps, channels // 4 // quads)
    return gl.BlockedLayout([1, 1, 1, run], lanes, [warps // across, across, 1, 1], [3, 2, 1, 0])


@gluon.constexpr_function
def fragment_layout(high, channels, wide, warps):
    """[h, channel // 4, w, channel % 4] such that a thread has what it has of the first operand of a product, in the same order."""
    def place(i):
        return [0, 0, i, 0] if i < wide else [i // wide, 0, 0, 0]

    registers = [place(8)] + [[0, 1 << i, 0, 0] for i in range((channels // 4).bit_length() - 1)]
    lanes = [[0, 0, 0, 1], [0, 0, 0, 2], place(1), place(2), place(4)]
    each = [place(16 << i) for i in range(warps.bit_length() - 1)]
    return gl.DistributedLinearLayout(registers, lanes, each, [], [high, channels // 4, wide, 4])


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


@gluon.jit
def copy_places(x, ring, line, live, h, w, channel, zero, x_size, x_stride, ROWS: gl.constexpr, FIRST: gl.constexpr, PLACES: gl.constexpr,
                PITCH: gl.constexpr, WALK: gl.constexpr, STEP_H: gl.constexpr, STEP_W: gl.constexpr, WARPS: gl.constexpr):
    """Places FIRST up to FIRST + PLACES of ROWS lines, which begin there with the place (h, w) of x, STEP apart; zeros outside."""
    QUADS: gl.constexpr = WALK.channels // 4
    RUN: gl.constexpr = WALK.run
    LAYOUT: gl.constexpr = element_layout(WALK.channels, WARPS, PLACES, RUN)
    w, channel = w + (FIRST * STEP_W + zero), channel + zero
    o_h = gl.arange(0, ROWS, gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, LAYOUT))))[:, None, None, None] * STEP_H
    quad = gl.arange(0, QUADS, gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, LAYOUT))))[None, :, None, None]
    o_w = gl.arange(0, PLACES, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, LAYOUT))))[None, None, :, None] * STEP_W
    c = quad * 4 + gl.arange(0, 4, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT))))[None, None, None, :] + zero
    # What does not depend on the plane is one tile for all sheets: the compiler adds what is the same for all threads, and keeps it
    # from plane to plane unless it is told of a zero that it does not know.
    beside = o_h * x_stride[3] + o_w * x_stride[4] + c * x_stride[1]
    beside = gl.max_contiguous(gl.multiple_of(beside, [1, 1, 1, RUN]), [1, 1, 1, RUN])
    begin = x + gl.multiple_of(h * x_stride[3] + w * x_stride[4] + channel * x_stride[1], RUN)
    inside = live & (o_h >= -h) & (o_h < x_size[1] - h) & (o_w >= -w) & (o_w < x_size[2] - w)
    if WALK.summed % WALK.channels != 0:
        inside = inside & ((quad * 4 if RUN == 4 else c) < WALK.summed - channel)
    target = seen_as(ring.index(line + FIRST), ring.dtype, [ROWS, QUADS, PITCH, 4], line_layout())
    async_copy_global_to_shared(target.slice(0, PLACES, 2), begin + beside, inside)


@gluon.jit
def copy_sheet(x, ring, line, live, h, w, channel, zero, x_size, x_stride, SHEET: gl.constexpr, WALK: gl.constexpr, STEP_H: gl.constexpr,
               STEP_W: gl.constexpr, WARPS: gl.constexpr):
    """The rows of one sheet of the plane x, for the patch of the coarse place (h, w), whose lines begin there."""
    S: gl.constexpr = WALK.sheets[SHEET]
    WIDE: gl.constexpr = WALK.wide
    PITCH: gl.constexpr = pitch_of(WALK, SHEET)
    RUNS: gl.constexpr = chunks(S.rows, WALK.high)
    COUNT: gl.constexpr = count_of(RUNS)
    BESIDE: gl.constexpr = chunks(S.reach, WIDE)
    MORE: gl.constexpr = count_of(BESIDE)
    at_w = (w + S.shift) * STEP_W + S.residue_w
    for i in gl.static_range(COUNT):
        at_h, first = (h + (S.first + start_of(RUNS, i))) * STEP_H + S.residue, line + start_of(RUNS, i) * (PITCH * WALK.channels // 4)
        copy_places(x, ring, first, live, at_h, at_w, channel, zero, x_size, x_stride, length_of(RUNS, i), 0, WIDE, PITCH, WALK,
                    STEP_H, STEP_W, WARPS)
        for j in gl.static_range(MORE):
            copy_places(x, ring, first, live, at_h, at_w, channel, zero, x_size, x_stride, length_of(RUNS, i), WIDE + start_of(BESIDE, j),
                        length_of(BESIDE, j), PITCH, WALK, STEP_H, STEP_W, WARPS)


@gluon.jit
def fragment(ring, line, SHEET: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr):
    """The first operand of a product in registers, rounded to TF32: the places of a patch whose lines begin there."""
    HIGH: gl.constexpr = WALK.high
    WIDE: gl.constexpr = WALK.wide
    LAYOUT: gl.constexpr = fragment_layout(HIGH, WALK.channels, WIDE, WARPS)
    lines = seen_as(ring.index(line), ring.dtype, [HIGH, WALK.channels // 4, pitch_of(WALK, SHEET), 4], line_layout())
    tile = lines.slice(0, WIDE, 2).load(LAYOUT)
    tile = gl.inline_asm_elementwise("cvt.rna.tf32.f32 $0, $1;", "=r,r", [tile], dtype=gl.float32, is_pure=True, pack=1)
    return tile.permute((0, 2, 1, 3)).reshape([HIGH * WIDE, WALK.channels])
