"""What the kernels share: how an axis is decoded, how positions are counted, how a finished tile is written.

An axis reaches a kernel as one flat constexpr tuple, `launch.axis_constants` in the order of the indices below. The
numbers come from geometry.Axis; the derivation is there.

A run proved by lowering.py is told to the compiler where the offset's last sum is written: tl.multiple_of and
tl.max_contiguous mark an operation, and are lost on an argument or on what a function returned.

INDEX is the type of offsets and of counts of positions. 32 bits are enough unless Problem.wide: that promises that every
offset of a live element, and every count of positions with what tiles reach beyond the last, is below 2**31. Offsets of
masked elements may wrap; so may the parts of an offset, where they are added before they meet a pointer. With 64 bits each
factor may be narrow and the product must not be: a kernel first widens its strides (`widen`) and its P (tl.cast, since an
argument that is 1 is a constant, which has no `.to`), and no index needs to be looked at.
"""

import triton
import triton.language as tl

OUT_STEP = tl.constexpr(0)  # the written place is OUT_STEP * t + r - ORIGIN
ORIGIN = tl.constexpr(1)
IN_STEP = tl.constexpr(2)  # the gathered place is IN_STEP * t + offset + j * MOVE
MOVE = tl.constexpr(3)
KERNEL = tl.constexpr(4)
TAP_STEP = tl.constexpr(5)  # the tap is first + j * TAP_STEP (+ r where phases are merged or the input is split)
TAPS = tl.constexpr(6)  # -1: taps, first and offset depend on the phase and are computed from the next six
FIRST = tl.constexpr(7)
OFFSET = tl.constexpr(8)
RESIDUE = tl.constexpr(9)  # q = r + RESIDUE
COMMON = tl.constexpr(10)
INVERSE = tl.constexpr(11)
DILATION = tl.constexpr(12)
MERGED = tl.constexpr(13)  # phases of this axis that are rows of one product, else 1
PHASES = tl.constexpr(14)  # phases of this axis that are programs of their own
GUARD = tl.constexpr(15)  # the input is split: a tap may not exist
EDGE = tl.constexpr(16)  # written places may fall outside
HALO = tl.constexpr(17)  # gathered places may fall outside


@triton.jit
def axis_taps(AXIS: tl.constexpr, r):
    """How many taps phase r has, its first tap, and the input offset that one reads."""
    if AXIS[TAPS] >= 0:
        n_taps: tl.constexpr = AXIS[TAPS]  # named, or the compiler finds plain ints in the tuple and fails
        first_tap: tl.constexpr = AXIS[FIRST]
        first_place: tl.constexpr = AXIS[OFFSET]
        return n_taps, first_tap, first_place
    else:
        q = r + AXIS[RESIDUE]
        first = (q // AXIS[COMMON] * AXIS[INVERSE]) % AXIS[TAP_STEP]
        taps = tl.maximum(0, (AXIS[KERNEL] - first + AXIS[TAP_STEP] - 1) // AXIS[TAP_STEP])
        taps = tl.where(q % AXIS[COMMON] == 0, taps, 0)
        return taps, first, AXIS[OFFSET] + (q - first * AXIS[DILATION]) // AXIS[OUT_STEP]


@triton.jit
def tap_of_step(step, taps_h, taps_w):
    """The tap (d, h, w) of a step, counted along w, then h, then d. A phase may have no taps along an axis, and so no
    steps; but compilers divide before the loop that is not entered, and division by zero is undefined."""
    taps_h, taps_w = tl.maximum(taps_h, 1), tl.maximum(taps_w, 1)
    rest = step // taps_w
    return rest // taps_h, rest % taps_h, step % taps_w


@triton.jit
def position(index, TD, TH, TW):
    """Coarse place (n, d, h, w) of a flat index."""
    w = index % TW
    rest = index // TW
    h = rest % TH
    rest = rest // TH
    return rest // TD, rest % TD, h, w


@triton.jit
def box_origin(i_box, TD, TH, TW, BOX: tl.constexpr):
    """The coarse place (n, d, h, w) at which a box begins; the boxes of a sample are counted along w, then h, then d."""
    n, d, h, w = position(i_box, tl.cdiv(TD, BOX[0]), tl.cdiv(TH, BOX[1]), tl.cdiv(TW, BOX[2]))
    return n, d * BOX[0], h * BOX[1], w * BOX[2]


@triton.jit
def widen(s_n, s_c, s_d, s_h, s_w, INDEX: tl.constexpr):
    """Strides as wide as offsets: whatever an index is, its product with one of them does not wrap."""
    return tl.cast(s_n, INDEX), tl.cast(s_c, INDEX), tl.cast(s_d, INDEX), tl.cast(s_h, INDEX), tl.cast(s_w, INDEX)


@triton.jit
def place(n, c, d, h, w, s_n, s_c, s_d, s_h, s_w):
    """Offset of an element; the strides are as wide as it is."""
    return n * s_n + c * s_c + d * s_d + h * s_h + w * s_w


@triton.jit
def inside(place, size):
    return (place >= 0) & (place < size)


@triton.jit
def round_tf32(x):
    """fp32 values rounded to the 10 bits of fraction that tensor cores read; unrounded, the others would be cut off."""
    return tl.inline_asm_elementwise("cvt.rna.tf32.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1)


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
def write(tile, y, residual, pre, b, channel, rd, rh, rw, n, base_d, base_h, base_w, live_line, live_column,
          YD, YH, YW, y_n, y_c, y_d, y_h, y_w, r_n, r_c, r_d, r_h, r_w,
          AXIS_D: tl.constexpr, AXIS_H: tl.constexpr, AXIS_W: tl.constexpr, Y_LAST: tl.constexpr, RUN: tl.constexpr,
          R_RUN: tl.constexpr, ACTIVATION: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """The epilogue of a tile [lines, columns] in the accumulator's type, one rounding, and the store.

    A line is a channel with its phase residues (rd, rh, rw); a column is the place (base_d, base_h, base_w) of sample n
    where residue 0 falls. b, residual and pre may be None; pre has y's strides, and a residual with a run has y's layout.
    """
    if b is not None:
        tile += tl.load(b + channel, mask=live_line, other=0.0).to(tile.dtype)[:, None]
    live = live_line[:, None] & live_column[None, :]
    if AXIS_D[EDGE]:
        live = live & inside(rd[:, None] + base_d[None, :], YD)
    if AXIS_H[EDGE]:
        live = live & inside(rh[:, None] + base_h[None, :], YH)
    if AXIS_W[EDGE]:
        live = live & inside(rw[:, None] + base_w[None, :], YW)
    if Y_LAST:
        y_c = 1
    line = tl.multiple_of(place(0, 0, rd, rh, rw, 0, 0, y_d, y_h, y_w) + channel * y_c, RUN)
    line = tl.max_contiguous(line, RUN if Y_LAST else 1)
    column = tl.multiple_of(place(n, 0, base_d, base_h, 0, y_n, 0, y_d, y_h, 0) + base_w * y_w, RUN)
    column = tl.max_contiguous(column, 1 if Y_LAST else RUN)
    offset = line[:, None] + column[None, :]
    if residual is not None:
        if Y_LAST and R_RUN > 1:
            r_c = 1
        line = tl.multiple_of(place(0, 0, rd, rh, rw, 0, 0, r_d, r_h, r_w) + channel * r_c, R_RUN)
        line = tl.max_contiguous(line, R_RUN if Y_LAST else 1)
        column = tl.multiple_of(place(n, 0, base_d, base_h, 0, r_n, 0, r_d, r_h, 0) + base_w * r_w, R_RUN)
        column = tl.max_contiguous(column, 1 if Y_LAST else R_RUN)
        tile += tl.load(residual + (line[:, None] + column[None, :]), mask=live, other=0.0).to(tile.dtype)
    if pre is not None:
        tl.store(pre + offset, tile.to(pre.dtype.element_ty), mask=live)
    if ACTIVATION is not None:
        tile = ACTIVATION(tile, A, B)
    tl.store(y + offset, tile.to(y.dtype.element_ty), mask=live)
