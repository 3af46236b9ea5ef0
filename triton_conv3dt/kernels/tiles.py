"""What the kernels share: how an axis is decoded, how positions are counted, how a finished tile is written.

Sizes are tuples (d, h, w), strides tuples (n, c, d, h, w) or what a kernel says. What specialises a kernel are named tuples
of planning/constants.py: AXIS_D, AXIS_H and AXIS_W (AxisConstants), X, Y and so on (Memory of that tensor), TILE, DOT.

A run proved by lowering.py is told to the compiler where the offset's last sum is written: tl.multiple_of and
tl.max_contiguous mark an operation, and are lost on an argument or on what a function returned. What they and tl.dot are
told must be named as tl.constexpr first: a field of a constant is a plain number, which they refuse. The mask of a run is the
same for all of it, since runs divide the width of what is counted: masks are written so that the compiler sees that, too.

INDEX is the type of offsets and of counts of positions. 32 bits are enough unless Problem.wide: that promises that every
offset of a live element, and every count of positions with what tiles reach beyond the last, is below 2**31. Offsets of
masked elements may wrap; so may the parts of an offset, where they are added before they meet a pointer. With 64 bits each
factor may be narrow and the product must not be: a kernel first widens its strides (`widen`) and its P (tl.cast, since an
argument that is 1 is a constant, which has no `.to`), and no index needs to be looked at.
"""

import triton
import triton.language as tl

# Where no axis has a run, Triton lays the threads of a warp along the last one; 3.6 takes the first.
FIRST_OF_EQUALS = tl.constexpr(triton.__version__.startswith("3.6."))


@triton.jit
def axis_taps(AXIS: tl.constexpr, r):
    """How many taps phase r has, its first tap, and the input offset that one reads."""
    if AXIS.taps >= 0:
        n_taps: tl.constexpr = AXIS.taps
        first_tap: tl.constexpr = AXIS.first
        first_place: tl.constexpr = AXIS.offset
        return n_taps, first_tap, first_place
    else:
        q = r + AXIS.residue
        first = (q // AXIS.common * AXIS.inverse) % AXIS.tap_step
        taps = tl.maximum(0, (AXIS.kernel - first + AXIS.tap_step - 1) // AXIS.tap_step)
        taps = tl.where(q % AXIS.common == 0, taps, 0)
        return taps, first, AXIS.offset + (q - first * AXIS.dilation) // AXIS.out_step


@triton.jit
def tap_of_step(step, taps_h, taps_w):
    """The tap (d, h, w) of a step, counted along w, then h, then d. A phase may have no taps along an axis, and so no
    steps; but compilers divide before the loop that is not entered, and division by zero is undefined."""
    taps_h, taps_w = tl.maximum(taps_h, 1), tl.maximum(taps_w, 1)
    rest = step // taps_w
    return rest // taps_h, rest % taps_h, step % taps_w


@triton.jit
def phase_of_program(i_phase, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr):
    """The phase (d, h, w) of a program."""
    phase_w, rest = i_phase % AXIS_W.phases, i_phase // AXIS_W.phases
    phase_h, phase_d = rest % AXIS_H.phases, rest // AXIS_H.phases
    return phase_d, phase_h, phase_w


@triton.jit
def position(index, size):
    """Coarse place (n, d, h, w) of a flat index."""
    w = index % size[2]
    rest = index // size[2]
    h = rest % size[1]
    rest = rest // size[1]
    return rest // size[0], rest % size[0], h, w


@triton.jit
def quotient(index, magic, shift):
    """index over what magic and shift stand for (planning/passes.py), of 31 bits."""
    twice, magic = tl.cast(index * 2, tl.uint32), tl.cast(magic, tl.uint32)
    return (tl.umulhi(twice, magic) >> tl.cast(shift, tl.uint32)).to(tl.int32)


@triton.jit
def position_by_factors(index, size, magics, shifts, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr,
                        INDEX: tl.constexpr):
    """The same of tiles; magics, shifts: what an index of 31 bits is divided by to have its sample, plane and row. The compiler does not
    see that these are the same along a run, so where masks depend on them it divides."""
    INSIDE: tl.constexpr = not (AXIS_D.halo or AXIS_H.halo or AXIS_W.halo or AXIS_D.edge or AXIS_H.edge or AXIS_W.edge)
    if INSIDE and INDEX == tl.int32:
        rows, planes = quotient(index, magics[2], shifts[2]), quotient(index, magics[1], shifts[1])
        samples = quotient(index, magics[0], shifts[0])
        return samples, planes - samples * size[0], rows - planes * size[1], index - rows * size[2]
    else:
        return position(index, size)


@triton.jit
def box_origin(i_box, size, BOX: tl.constexpr):
    """The coarse place (n, d, h, w) at which a box begins; the boxes of a sample are counted along w, then h, then d."""
    n, d, h, w = position(i_box, (tl.cdiv(size[0], BOX[0]), tl.cdiv(size[1], BOX[1]), tl.cdiv(size[2], BOX[2])))
    return n, d * BOX[0], h * BOX[1], w * BOX[2]


@triton.jit
def widen(stride, LAST: tl.constexpr, INDEX: tl.constexpr):
    """Strides (n, c, d, h, w) as wide as offsets: whatever an index is, its product with one of them does not wrap. That
    of channels that lie side by side is a constant."""
    s_n, s_d, s_h, s_w = tl.cast(stride[0], INDEX), tl.cast(stride[2], INDEX), tl.cast(stride[3], INDEX), tl.cast(stride[4], INDEX)
    if LAST:
        ONE: tl.constexpr = 1
        return s_n, ONE, s_d, s_h, s_w
    else:
        return s_n, tl.cast(stride[1], INDEX), s_d, s_h, s_w


@triton.jit
def place(n, c, d, h, w, stride):
    """Offset of an element; the strides are as wide as it is."""
    return n * stride[0] + c * stride[1] + d * stride[2] + h * stride[3] + w * stride[4]


@triton.jit
def apart(place, RESIDUES: tl.constexpr, places):
    """Where a copy of residue after residue has this place of an axis: so many places of each residue."""
    if RESIDUES == 1:
        return place
    else:
        return place % RESIDUES * places + place // RESIDUES


@triton.jit
def inside(place, size):
    return (place >= 0) & (place < size)


@triton.jit
def whole_runs(count, RUN: tl.constexpr):
    """A count that is a multiple of RUN, so that the compiler sees it, too: what is below it is the same along a run."""
    return count // RUN * RUN


@triton.jit
def gathered(live, origin, shift, size, AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, SPLIT: tl.constexpr,
             RUN: tl.constexpr):
    """Which of the live places (d, h, w) of a gathered tensor are inside when they are shifted, along the axes where some are not. A run is
    in one row; of neighbours that are parted it is inside as a whole, or outside."""
    WHOLE: tl.constexpr = RUN if SPLIT > 1 else 1
    if AXIS_D.halo:
        live = live & inside(tl.max_constancy(origin[0] + shift[0], RUN), size[0])
    if AXIS_H.halo:
        live = live & inside(tl.max_constancy(origin[1] + shift[1], RUN), size[1])
    if AXIS_W.halo:
        w = tl.multiple_of(origin[2] + shift[2], SPLIT)
        live = live & inside(tl.max_contiguous(w, SPLIT), whole_runs(size[2], WHOLE))
    return live


@triton.jit
def round_tf32(x):
    """fp32 values rounded to the 10 bits of fraction that tensor cores read; unrounded, the others would be cut off."""
    return tl.inline_asm_elementwise("cvt.rna.tf32.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def round_up_tf32(x):
    """The same once tensor cores cut off what they do not read: half of that is added to what is a number. It issues two instructions, where
    round_tf32 issues three on Hopper."""
    return tl.inline_asm_elementwise("{ .reg .pred p; setp.eq.f32 p, $1, $1; mov.b32 $0, $1; @p add.s32 $0, $1, 4096; }", "=r,r", [x],
                                     dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def row_parts(row, CHANNELS: tl.constexpr, MD: tl.constexpr, MH: tl.constexpr, MW: tl.constexpr, PHASE_MINOR: tl.constexpr):
    """The phase residues (d, h, w) and the channel of a row; rows count (channel, phase) or (phase, channel)."""
    if PHASE_MINOR:
        rw, rest = row % MW, row // MW
        rh, rest = rest % MH, rest // MH
        return rest % MD, rh, rw, rest // MD
    else:
        channel, rest = row % CHANNELS, row // CHANNELS
        rw, rest = rest % MW, rest // MW
        return rest // MH, rest % MH, rw, channel


@triton.jit
def lanes_last(tile, RUN: tl.constexpr):
    """A tile to load or store, of which an axis has this run, so turned that threads lie along the last axis where none has one; what is
    loaded, turned back."""
    if RUN == 1 and FIRST_OF_EQUALS:
        return tl.trans(tile)
    else:
        return tile


@triton.jit
def load_tile(p, live, RUN: tl.constexpr):
    """What such a tile of pointers reads, 0 where it is not live; live may be None: all of it is."""
    if live is None:
        return lanes_last(tl.load(lanes_last(p, RUN)), RUN)
    else:
        return lanes_last(tl.load(lanes_last(p, RUN), mask=lanes_last(live, RUN), other=0.0), RUN)


@triton.jit
def write(tile, y, residual, pre, b, channel, residue, n, base, live_line, live_column, y_size, y_stride, r_stride,
          AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, Y: tl.constexpr, R: tl.constexpr,
          ACTIVATION: tl.constexpr, PARAMETERS: tl.constexpr):
    """The epilogue of a tile [lines, columns] in the accumulator's type, one rounding, and the store.

    A line is a channel with its phase residue (d, h, w); a column is the place base (d, h, w) of sample n where residue 0
    falls. b, residual and pre may be None; pre has y's strides, and a residual with a run has y's layout.
    Returned is what was stored, as the accumulator's type, and which of it is live.
    """
    Y_RUN: tl.constexpr = Y.run
    R_RUN: tl.constexpr = R.run
    rd, rh, rw = residue
    base_d, base_h, base_w = base
    if b is not None:
        tile += tl.load(b + channel, mask=live_line, other=0.0).to(tile.dtype)[:, None]
    live = live_line[:, None] & live_column[None, :]
    if AXIS_D.edge:
        live = live & inside(rd[:, None] + base_d[None, :], y_size[0])
    if AXIS_H.edge:
        live = live & inside(rh[:, None] + base_h[None, :], y_size[1])
    if AXIS_W.edge:
        live = live & inside(rw[:, None] + base_w[None, :], y_size[2])
    line = tl.multiple_of(place(0, 0, rd, rh, rw, y_stride) + channel * y_stride[1], Y_RUN)
    line = tl.max_contiguous(line, Y_RUN if Y.last else 1)
    column = tl.multiple_of(place(n, 0, base_d, base_h, 0, y_stride) + base_w * y_stride[4], Y_RUN)
    column = tl.max_contiguous(column, 1 if Y.last else Y_RUN)
    offset = line[:, None] + column[None, :]
    if residual is not None:
        line = tl.multiple_of(place(0, 0, rd, rh, rw, r_stride) + channel * r_stride[1], R_RUN)
        line = tl.max_contiguous(line, R_RUN if Y.last else 1)
        column = tl.multiple_of(place(n, 0, base_d, base_h, 0, r_stride) + base_w * r_stride[4], R_RUN)
        column = tl.max_contiguous(column, 1 if Y.last else R_RUN)
        tile += load_tile(residual + (line[:, None] + column[None, :]), live, R_RUN).to(tile.dtype)
    at, there = lanes_last(y + offset, Y_RUN), lanes_last(live, Y_RUN)
    if pre is not None:
        tl.store(lanes_last(pre + offset, Y_RUN), lanes_last(tile.to(pre.dtype.element_ty), Y_RUN), mask=there)
    if ACTIVATION is not None:
        tile = ACTIVATION(tile, PARAMETERS[0], PARAMETERS[1])
    tl.store(at, lanes_last(tile.to(y.dtype.element_ty), Y_RUN), mask=there)
    return tile.to(y.dtype.element_ty).to(tile.dtype), live
