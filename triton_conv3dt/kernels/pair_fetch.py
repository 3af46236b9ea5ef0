"""What a step of a cluster fetches (kernels/pair.py), by the copy engine: each program's part of the positions, and the weights
that all of them share. In Gluon.

A step is one tap (d, h, w) of a phase and one chunk of channels; or, with TILE.bands, one band and one tap (d, w): the rows along h
of a residue, from which all of its taps along h read.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from .gluon_names import load_box, seen_as


@gluon.constexpr_function
def below(offset, step):
    """How many steps below zero an offset begins: division rounds towards zero."""
    return (step - 1 - offset) // step if offset < 0 else 0


@gluon.constexpr_function
def slabs(X, TILE):
    """Of how many pieces the positions of a stage are made: rows where there is a halo; planes that are apart; one."""
    if TILE.bands:
        return TILE.box[1] + max(band.halo for band in TILE.bands)
    return TILE.box[0] if X.reading == "strided lines" else 1


@gluon.constexpr_function
def taps_of(TILE, band):
    """Products of a step: all taps of its band, if it has one."""
    return len(TILE.bands[band].taps) if TILE.bands else 1


@gluon.constexpr_function
def most_taps(TILE):
    """Taps whose weights a stage has room for."""
    return max(len(band.taps) for band in TILE.bands) if TILE.bands else 1


@gluon.constexpr_function
def row_of(TILE, band, i):
    """At which row the positions of tap i of a band begin."""
    return TILE.bands[band].taps[i][0] if TILE.bands else 0


@gluon.constexpr_function
def tap_of(TILE, band, i):
    """Tap i of a band, its last for those it has not."""
    return TILE.bands[band].taps[min(i, len(TILE.bands[band].taps) - 1)][1]


@gluon.constexpr_function
def most_rows(TILE):
    """Rows of the largest halo."""
    return max(band.halo for band in TILE.bands)


@gluon.constexpr_function
def side_of_rows(X):
    """Which side of a box is along h."""
    return 2 if X.reading in ("box", "apart") else 1


@gluon.constexpr_function
def field_of(TILE, band, name):
    return getattr(TILE.bands[band], name)


@gluon.constexpr_function
def bytes_of(TILE, band, programs, bits):
    """Bytes that a step brings to one program."""
    further = TILE.bands[band].halo * TILE.box[0] * TILE.box[2] if TILE.bands else 0
    return ((TILE.n + further) // programs + taps_of(TILE, band) * TILE.m) * TILE.split * TILE.k * (bits // 8)


@gluon.jit
def of_band(band, TILE: gl.constexpr, NAME: gl.constexpr):
    """This field of a band whose number is given: a constant where there is one band."""
    BANDS: gl.constexpr = len(TILE.bands)
    found = field_of(TILE, 0, NAME)
    for i in gl.static_range(1, BANDS):
        found = gl.where(band == i, field_of(TILE, i, NAME), found)
    return found


@gluon.jit
def tap_of_band(band, I: gl.constexpr, TILE: gl.constexpr):
    """Tap I along h of a band, and whether it has one."""
    BANDS: gl.constexpr = len(TILE.bands)
    tap, there = tap_of(TILE, 0, I), taps_of(TILE, 0) > I
    for i in gl.static_range(1, BANDS):
        tap, there = gl.where(band == i, tap_of(TILE, i, I), tap), gl.where(band == i, taps_of(TILE, i) > I, there)
    return tap, there


@gluon.jit
def fetch_positions(x, positions, first, ready, wanted, origin, row, offset, c, x_size, x_w, AXIS_D: gl.constexpr,
                    AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, RED: gl.constexpr, X: gl.constexpr, TILE: gl.constexpr):
    """The box of x of a tile's positions, moved by a tap's offset along d and w, from channel c on, into pieces of the ring from `first`
    on: each program's part of it. row: where it begins along h, and in which residue."""
    target = seen_as(positions.index(first), x.dtype, x.block_type.shape, x.layout)
    n, d, unused, w = origin
    h, residue = row
    dd, dw = offset
    if X.reading == "rows":
        load_box(x, [w, c], ready, target, wanted)
    elif X.reading == "planes":
        load_box(x, [n, c, w], ready, target, wanted)
    elif X.reading == "box":
        load_box(x, [n, d + dd, h, w + dw, c], ready, target, wanted)
    elif X.reading == "apart":
        SD: gl.constexpr = AXIS_D.in_step
        SH: gl.constexpr = AXIS_H.in_step
        SW: gl.constexpr = AXIS_W.in_step
        LIFT_W: gl.constexpr = below(AXIS_W.offset, SW)
        plane, of_d = row_of_tap(d, dd, AXIS_D)
        dw += LIFT_W * SW
        load_box(x, [(n * SD + of_d) * SH + residue, plane, h, w + dw // SW - LIFT_W, dw % SW * x_w + c], ready, target, wanted)
    elif X.reading == "lines":
        load_box(x, [d + dd, h, n * RED + c, w + dw], ready, target, wanted)
    elif X.reading == "strided lines":
        PLANES: gl.constexpr = TILE.box[0]
        for i in gl.static_range(PLANES):
            plane = seen_as(positions.index(first + i), x.dtype, x.block_type.shape, x.layout)
            load_box(x, [(d + i) * AXIS_D.in_step + dd, h, residue, n * RED + c, w * AXIS_W.in_step + dw], ready, plane, wanted)
    else:
        SW: gl.constexpr = AXIS_W.in_step
        LIFT_W: gl.constexpr = below(AXIS_W.offset, SW)
        dw, d = dw + LIFT_W * SW, d * AXIS_D.in_step + dd
        plane = gl.where((d >= 0) & (d < x_size[0]), n * x_size[0] + d, -1)  # another sample's plane is outside, too
        load_box(x, [plane, h, residue, w + dw // SW - LIFT_W, dw % SW * x_w + c], ready, target, wanted)


@gluon.jit
def row_of_tap(h, dh, AXIS: gl.constexpr):
    """Where the rows, or planes, of an offset begin, counted in the residue of the stride that they are, which follows."""
    STEP: gl.constexpr = AXIS.in_step
    if STEP == 1:
        return h + dh, 0
    else:
        LIFT: gl.constexpr = below(AXIS.offset, STEP)
        h, dh = h - LIFT, dh + LIFT * STEP
        return h + dh // STEP, dh % STEP


@gluon.jit
def fetch_weights(w, target, ready, wanted, i_row, first, c, AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr,
                  ROWS: gl.constexpr, W: gl.constexpr, TILE: gl.constexpr, BOXES: gl.constexpr, slot):
    """The columns of a tile for the tap `first` (d, h, w) of their phase, from channel c on, and for each of its neighbours, for all
    programs."""
    SPLIT: gl.constexpr = TILE.split
    for i in gl.static_range(SPLIT):
        fetch_columns(w, target, ready, wanted, i_row, (first[0], first[1], first[2] + i), c, AXIS_D, AXIS_H, AXIS_W, ROWS, W, TILE, BOXES,
                      slot * SPLIT + i)


@gluon.jit
def fetch_columns(w, target, ready, wanted, i_row, first, c, AXIS_D: gl.constexpr, AXIS_H: gl.constexpr, AXIS_W: gl.constexpr,
                  ROWS: gl.constexpr, W: gl.constexpr, TILE: gl.constexpr, BOXES: gl.constexpr, slot):
    """The columns of a tile for the tap `first` (d, h, w) of their phase, from channel c on, for all programs."""
    if W.reading == "flat":
        load_box(w, [c, i_row * TILE.m], ready, target.index(slot), wanted, multicast=True)
    else:
        JOIN: gl.constexpr = TILE.join
        LINES: gl.constexpr = TILE.m // JOIN
        BOX: gl.constexpr = TILE.m // BOXES
        MW: gl.constexpr = AXIS_W.merged // JOIN
        for i in gl.static_range(BOXES):
            line = i_row * LINES + i * BOX % LINES
            row, phase = line % ROWS, line // ROWS
            rd, rh, rw = phase // MW // AXIS_H.merged, phase // MW % AXIS_H.merged, phase % MW + i * BOX // LINES
            box = seen_as(target.index(slot * BOXES + i), w.dtype, w.block_type.shape, w.layout)
            load_box(w, [row, first[0] + rd, first[1] + rh, first[2] + rw, c], ready, box, wanted, multicast=True)


@gluon.constexpr_function
def chunks_of_share(RED, TILE):
    """Chunks of the channels that are summed over: of those of a share, where clusters have some each."""
    return -(-RED // (TILE.k * TILE.shares))


@gluon.jit
def fetch(w, x, line, positions, weights, ready, slot, step, wanted, origin, i_row, taps, first, offset, x_size, x_w, AXIS_D: gl.constexpr,
          AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, ROWS: gl.constexpr, RED: gl.constexpr, X: gl.constexpr, W: gl.constexpr,
          TILE: gl.constexpr, BOXES: gl.constexpr):
    """What a step multiplies, into a slot of the ring. line: a descriptor of the further rows of a band, so many at once."""
    CHUNKS: gl.constexpr = chunks_of_share(RED, TILE)
    PROGRAMS: gl.constexpr = gl.num_ctas()
    BITS: gl.constexpr = x.dtype.primitive_bitwidth
    chunk, tap = step % CHUNKS, step // CHUNKS
    if TILE.shares > 1:
        chunk += gl.program_id(1) * CHUNKS
    c = chunk * TILE.k
    ready = ready.index(slot)
    if len(TILE.bands) == 0:
        BYTES: gl.constexpr = bytes_of(TILE, 0, PROGRAMS, BITS)
        jd, jh, jw = tap // taps[2] // taps[1], tap // taps[2] % taps[1], tap % taps[2]
        at = offset[0] + jd * AXIS_D.move, offset[2] + jw * AXIS_W.move
        k = first[0] + jd * AXIS_D.tap_step, first[1] + jh * AXIS_H.tap_step, first[2] + jw * AXIS_W.tap_step
        row = row_of_tap(origin[2], offset[1] + jh * AXIS_H.move, AXIS_H)
        mbarrier.expect(ready, BYTES, wanted)
        fetch_positions(x, positions, slot * slabs(X, TILE), ready, wanted, origin, row, at, c, x_size, x_w, AXIS_D, AXIS_H, AXIS_W,
                        RED, X, TILE)
        fetch_weights(w, weights, ready, wanted, i_row, k, c, AXIS_D, AXIS_H, AXIS_W, ROWS, W, TILE, BOXES, slot)
    else:
        jd, band, jw = tap // taps[2] % taps[0], tap // taps[2] // taps[0], tap % taps[2]
        at = offset[0] + jd * AXIS_D.move, offset[2] + jw * AXIS_W.move
        expect_band(ready, band, wanted, TILE, BITS)
        fetch_band(x, line, positions, slot, ready, wanted, band, origin, at, c, x_size, x_w, AXIS_D, AXIS_H, AXIS_W, RED, X, TILE)
        TAPS: gl.constexpr = most_taps(TILE)
        for i in gl.static_range(TAPS):
            jh, there = tap_of_band(band, i, TILE)
            k = first[0] + jd * AXIS_D.tap_step, jh, first[2] + jw * AXIS_W.tap_step
            fetch_weights(w, weights, ready, wanted & there, i_row, k, c, AXIS_D, AXIS_H, AXIS_W, ROWS, W, TILE, BOXES, slot * TAPS + i)


@gluon.jit
def expect_band(ready, band, wanted, TILE: gl.constexpr, BITS: gl.constexpr):
    """The bytes of a step, which are a constant of each band."""
    BANDS: gl.constexpr = len(TILE.bands)
    if BANDS == 1:
        mbarrier.expect(ready, bytes_of(TILE, 0, gl.num_ctas(), BITS), wanted)
    else:
        for i in gl.static_range(BANDS):
            mbarrier.expect(ready, bytes_of(TILE, i, gl.num_ctas(), BITS), wanted & (band == i))


@gluon.jit
def fetch_band(x, line, positions, slot, ready, wanted, band, origin, offset, c, x_size, x_w, AXIS_D: gl.constexpr,
               AXIS_H: gl.constexpr, AXIS_W: gl.constexpr, RED: gl.constexpr, X: gl.constexpr, TILE: gl.constexpr):
    """The rows of a band for the positions of a tile."""
    HIGH: gl.constexpr = TILE.box[1]
    AT_ONCE: gl.constexpr = line.block_type.shape[side_of_rows(X)]
    FURTHER: gl.constexpr = most_rows(TILE)
    h, residue, halo = origin[2] + of_band(band, TILE, "first"), of_band(band, TILE, "residue"), of_band(band, TILE, "halo")
    begin = slot * slabs(X, TILE)
    fetch_positions(x, positions, begin, ready, wanted, origin, (h, residue), offset, c, x_size, x_w, AXIS_D, AXIS_H, AXIS_W,
                    RED, X, TILE)
    for i in gl.static_range(0, FURTHER, AT_ONCE):
        row = h + (HIGH + i), residue
        fetch_positions(line, positions, begin + (HIGH + i), ready, wanted & (halo > i), origin, row, offset, c, x_size, x_w, AXIS_D,
                        AXIS_H, AXIS_W, RED, X, TILE)
