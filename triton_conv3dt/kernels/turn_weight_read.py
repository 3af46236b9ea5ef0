"""How a weight gradient reads x and dz that lie in any order: dz element by element, asynchronously, into sheets of shared memory, and
x into registers. A part of turn_weight.py.

A sheet is [row, channel // 8, place, channel % 8], such that eight channels of any four neighbouring places are all banks. In Gluon."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere.async_copy import commit_group

from .gluon_names import STRICT, copy_elements, rows_at, seen_as, shared_layout, stage_of
from .walk_fetch import here
from .walk_turn import chunks, count_of, length_of, start_of


@gluon.constexpr_function
def sheet_layout():
    """[row, channel // 8, place, channel % 8], as they are counted."""
    return gl.SwizzledSharedLayout(1, 1, 1, [3, 2, 1, 0])


@gluon.constexpr_function
def tail_of(TURN, step, bits):
    """Words of eight that a ring has more than those of its planes: what tiles are seen in that begin beside the first place of lines."""
    high, row, lines = TURN.chunk * 8 // bits // TURN.wide, TURN.outputs // 8 * TURN.pitch, step * TURN.outputs // 8
    last = (TURN.high - high + high - 1) * step * row + max(4, lines) * TURN.pitch
    ends = [last + sheet * TURN.height * row + half * 4 * TURN.pitch + offset
            for group in TURN.groups for sheet, half, offset in zip(group.sheets, group.halves, group.offsets)]
    return max(0, max(ends) - len(TURN.sheets) * TURN.height * row) if STRICT.value else 0


@gluon.constexpr_function
def copied_layout(TURN, WARPS):
    """[row, channel // 8, place, channel % 8] of what is copied: eight channels of four places are a warp's."""
    across = min(WARPS, TURN.outputs // 8)
    return gl.BlockedLayout([1, 1, 1, 1], [1, 1, 4, 8], [WARPS // across, across, 1, 1], [3, 2, 1, 0])


@gluon.constexpr_function
def place_layout(TURN, bits):
    """[shift and channel, place] of x, as products read it."""
    return shared_layout(TURN.chunk * 8 // bits, bits, 2)


@gluon.constexpr_function
def plane_layout(TURN, WARPS, high, last, bits):
    """[channel, h, w] of x: neighbours in memory are lanes, of either layout, and no two of them share a bank."""
    if last:
        return gl.BlockedLayout([1, 1, 1], [8, 1, 4], [min(WARPS, TURN.inputs // 8), max(1, WARPS * 8 // TURN.inputs), 1], [0, 2, 1])
    if bits == 16:  # a thread has both places that lie side by side in shared memory
        places = [[0, 0, i] if i < TURN.wide else [0, i // TURN.wide, 0] for i in (4, 1, 2, 8, 16, 32)[:(high * TURN.wide).bit_length() - 1]]
        lanes = places[1:] + [[1 << i, 0, 0] for i in range(TURN.inputs.bit_length() - 1)]
        warps = 4 + WARPS.bit_length()
        return gl.DistributedLinearLayout(places[:1] + lanes[warps:], lanes[:5], lanes[5:warps], [], [TURN.inputs, high, TURN.wide])
    lanes = min(32, TURN.wide)
    return gl.BlockedLayout([1, 1, 1], [1, 32 // lanes, lanes], [WARPS, 1, 1], [2, 1, 0])


@gluon.constexpr_function
def high_of(TURN, bits):
    """Rows of a patch whose places are TURN.chunk bytes of x."""
    return TURN.chunk * 8 // bits // TURN.wide


@gluon.jit
def offset(i, stride, TURN: gl.constexpr):
    """Elements from one of a tile to the first, by 64 bits where these are many."""
    return i.to(gl.int64 if TURN.far else gl.int32) * stride


@gluon.jit
def plane_at(tensor, n, d, stride):
    """Plane d of a sample."""
    return tensor + (gl.to_tensor(n).to(gl.int64) * stride[0] + gl.to_tensor(d).to(gl.int64) * stride[2])


@gluon.jit
def copy_places(z, plane, live, h, w, co, z_size, z_stride, WORD: gl.constexpr, ROWS: gl.constexpr, PLACES: gl.constexpr, CO: gl.constexpr,
                TURN: gl.constexpr, STEP: gl.constexpr, WARPS: gl.constexpr):
    """Places of rows that begin with (h, w) of dz, STEP apart, into a sheet; zeros outside. z has the channel co at place (0, 0)."""
    EIGHTS: gl.constexpr = TURN.outputs // 8
    WORDS: gl.constexpr = 32 // z.dtype.element_ty.primitive_bitwidth
    LAYOUT: gl.constexpr = copied_layout(TURN, WARPS)
    row = gl.arange(0, ROWS, gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, LAYOUT))))[:, None, None, None]
    eight = gl.arange(0, EIGHTS, gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, LAYOUT))))[None, :, None, None]
    place = gl.arange(0, 4, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, LAYOUT))))[None, None, :, None] * STEP
    channel = eight * 8 + gl.arange(0, 8, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT))))[None, None, None, :]
    inside = (row + h).to(gl.uint32) < gl.where(live, z_size[1], 0).to(gl.uint32)
    if CO % TURN.outputs != 0:
        inside = inside & (channel < CO - co)
    end = gl.where(inside, gl.minimum(z_size[2], gl.maximum(w + PLACES * STEP, 0)), 0)  # of places, none of a row that is outside
    begin = z + (h * z_stride[3] + w * z_stride[4])
    if WORDS > 1:
        begin = begin.to(gl.pointer_type(gl.int32), bitcast=True)
    beside = offset(channel, z_stride[1], TURN) + offset(place, z_stride[4], TURN)
    at = begin + ((offset(row + here(gl.maximum(w, 0)), z_stride[3], TURN) + beside) // WORDS)
    target = rows_at(plane, WORD, ROWS * EIGHTS * TURN.pitch)
    target = seen_as(target, plane[0].dtype, [ROWS, EIGHTS, TURN.pitch, 8], sheet_layout())
    for i in gl.static_range(0, PLACES, 4):  # whose addresses differ by what the compiler knows
        inside = (place + (w + i * STEP)).to(gl.uint32) < end.to(gl.uint32)
        copy_elements(target.slice(i, 4, 2), at + i * STEP * z_stride[4] // WORDS, inside)


@gluon.jit
def copy_sheet(z, plane, live, h, w, co, z_size, z_stride, SHEET: gl.constexpr, FROM: gl.constexpr, TO: gl.constexpr,
               AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, CO: gl.constexpr, TURN: gl.constexpr, WARPS: gl.constexpr):
    """Rows of one sheet of the plane of dz at z, for the patch of x that begins with (h, w)."""
    RUNS: gl.constexpr = chunks(TO - FROM, TURN.most)
    COUNT: gl.constexpr = count_of(RUNS)
    ROW: gl.constexpr = TURN.outputs // 8 * TURN.pitch
    at_w = (w + TURN.sheets[SHEET].first) * AXIS_W.stride + TURN.sheets[SHEET].residue
    for i in gl.static_range(COUNT):
        at_h = h * AXIS_H.stride + (FROM + start_of(RUNS, i) - AXIS_H.padding)
        copy_places(z, plane, live, at_h, at_w, co, z_size, z_stride, (SHEET * TURN.height + FROM + start_of(RUNS, i)) * ROW, length_of(RUNS, i),
                    TURN.sheets[SHEET].places, CO, TURN, AXIS_W.stride, WARPS)


@gluon.jit
def copy_plane(z, ring, stage, live, h, w, co, z_size, z_stride, FROM: gl.constexpr, TO: gl.constexpr, AXIS_H: gl.constexpr,
               AXIS_W: gl.constexpr, CO: gl.constexpr, TURN: gl.constexpr, WARPS: gl.constexpr):
    """Rows of all sheets of the plane of dz at z."""
    SHEETS: gl.constexpr = len(TURN.sheets)
    plane = stage_of(ring, stage, 2, tail_of(TURN, AXIS_H.stride, z.dtype.element_ty.primitive_bitwidth))
    for s in gl.static_range(SHEETS):
        copy_sheet(z, plane, live, h, w, co, z_size, z_stride, s, FROM, TO, AXIS_H, AXIS_W, CO, TURN, WARPS)
    commit_group()


@gluon.jit
def load_plane(x, live, h, w, ci, x_size, x_stride, CI: gl.constexpr, LAST: gl.constexpr, TURN: gl.constexpr, WARPS: gl.constexpr):
    """A patch of the plane of x at x, which has the channel ci at place (0, 0), for every shift: in registers, TURN.chunk bytes of each
    channel at a time."""
    BITS: gl.constexpr = x.dtype.element_ty.primitive_bitwidth
    HIGH: gl.constexpr = high_of(TURN, BITS)
    CHUNKS: gl.constexpr = TURN.high // HIGH
    LAYOUT: gl.constexpr = plane_layout(TURN, WARPS, HIGH, LAST, BITS)
    SHIFTS: gl.constexpr = len(TURN.shifts)
    channel = gl.arange(0, TURN.inputs, gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT)))[:, None, None]
    row = gl.arange(0, HIGH, gl.SliceLayout(0, gl.SliceLayout(2, LAYOUT)))[None, :, None]
    place = gl.arange(0, TURN.wide, gl.SliceLayout(0, gl.SliceLayout(1, LAYOUT)))[None, None, :]
    beside = offset(channel + here(gl.maximum(h, 0)), x_stride[1], TURN) + offset(row, x_stride[3], TURN) + offset(place, x_stride[4], TURN)
    found = ()
    for i in gl.static_range(CHUNKS):
        at_h = h + i * HIGH
        at = x + (at_h * x_stride[3] + w * x_stride[4]) + beside
        for s in gl.static_range(SHIFTS):  # whose addresses differ by what the compiler knows
            inside = live & (row < x_size[1] - at_h) & ((place + (w - TURN.shifts[s])).to(gl.uint32) < gl.cast(x_size[2], gl.uint32))
            if CI % TURN.inputs != 0:
                inside = inside & (channel < CI - ci)
            found = found + (gl.load(at - TURN.shifts[s] * x_stride[4], mask=inside, other=0.0),)
    return found
