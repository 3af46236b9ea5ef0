"""How a walk reads TF32 that lies in any order, unrounded: element by element, asynchronously, into the rows that its products want,
where they are rounded before they are read. In Gluon."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere.async_copy import async_copy_global_to_shared

from .gluon_names import seen_as


@gluon.constexpr_function
def element_layout(channels, warps):
    """Eight neighbouring places by four channels are a warp's: whole sectors of memory in either order, and no bank twice."""
    across = min(warps, channels // 4)
    return gl.BlockedLayout([1, 1], [8, 4], [warps // across, across], [1, 0])


@gluon.constexpr_function
def chunks(rows, most):
    """The rows of a plane in runs that are powers of two: the first of each, and how many."""
    found, first = [], 0
    while first < rows:
        count = min(most, 1 << ((rows - first).bit_length() - 1))
        found.append((first, count))
        first += count
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
def copy_rows(x, ring, row, live, h, w, channel, x_size, x_stride, ROWS: gl.constexpr, WALK: gl.constexpr, STEP_H: gl.constexpr,
              STEP_W: gl.constexpr, OPERAND: gl.constexpr, WARPS: gl.constexpr):
    """ROWS rows, from a row of the ring on: the places (h, w) of x and those beside them, STEP apart; zeros outside."""
    LAYOUT: gl.constexpr = element_layout(WALK.channels, WARPS)
    PLACES: gl.constexpr = ROWS * WALK.wide
    o = gl.arange(0, PLACES, gl.SliceLayout(1, LAYOUT))
    c = gl.arange(0, WALK.channels, gl.SliceLayout(0, LAYOUT))
    o_h, o_w = o // WALK.wide * STEP_H, o % WALK.wide * STEP_W
    # What does not depend on the plane is one tile for all sheets: the compiler keeps it, and adds what is the same for all threads.
    beside = (o_h * x_stride[3] + o_w * x_stride[4])[:, None] + (c * x_stride[1])[None, :]
    begin = x + (h * x_stride[3] + w * x_stride[4] + channel * x_stride[1])
    inside = live & (o_h >= -h) & (o_h < x_size[1] - h) & (o_w >= -w) & (o_w < x_size[2] - w)
    target = seen_as(ring.index(row), ring.dtype, [PLACES, WALK.channels], OPERAND)
    live = inside[:, None]
    if WALK.summed % WALK.channels != 0:
        live = live & (c < WALK.summed - channel)[None, :]
    async_copy_global_to_shared(target, begin + beside, live)


@gluon.jit
def copy_sheet(x, ring, row, live, h, w, channel, x_size, x_stride, S: gl.constexpr, WALK: gl.constexpr, STEP_H: gl.constexpr,
               STEP_W: gl.constexpr, OPERAND: gl.constexpr, WARPS: gl.constexpr):
    """The rows of one sheet of the plane x, for the patch of the coarse place (h, w), from a row of the ring on."""
    RUNS: gl.constexpr = chunks(S.rows, WALK.high)
    COUNT: gl.constexpr = count_of(RUNS)
    for i in gl.static_range(COUNT):
        at_h, at_w = (h + (S.first + start_of(RUNS, i))) * STEP_H + S.residue, (w + S.shift) * STEP_W + S.residue_w
        copy_rows(x, ring, row + start_of(RUNS, i), live, at_h, at_w, channel, x_size, x_stride, length_of(RUNS, i), WALK, STEP_H,
                  STEP_W, OPERAND, WARPS)


@gluon.jit
def rounded(tile):
    """To TF32, in registers."""
    return gl.inline_asm_elementwise("cvt.rna.tf32.f32 $0, $1;", "=r,r", [tile], dtype=gl.float32, is_pure=True, pack=1)
