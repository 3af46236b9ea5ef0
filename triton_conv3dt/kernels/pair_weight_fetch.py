"""What the programs of a cluster fetch for a weight gradient, by tensor descriptor. A part of pair_weight.py.

x is read as [n, d, h, ci, w], all runs of a box at once where all rows of a tile are one chunk. dz is read as [n, d, h, co, w]; or, runs
along h at once, as [(n, d), h // stride, h % stride, co, w]; or, PAIR.apart, its copy as [d, h, residue, (n, co), w]. PAIR.flat: x is
[n, ci, place] and dz [n, co, place], or, runs along h at once, [(n, d), h // stride, co, place of so many rows].
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from .gluon_names import load_box, seen_as
from .pair_weight_store import line_parts

NOWHERE = gl.constexpr(-(1 << 30))  # a place before every tensor: of what is fetched beyond the last line, or beyond the last position


@gluon.constexpr_function
def shared(PAIR, side):
    """Whether several programs want the same rows (0) or columns (1)."""
    return any(other != side for other in PAIR.halved)


@gluon.jit
def chunk(line, tap, CHANNELS: gl.constexpr, D: gl.constexpr, H: gl.constexpr, W: gl.constexpr, TILE: gl.constexpr):
    """What the lines from `line` on read at position 0: the place (d, h, w), and the channel, of the first. tap: shifts of the program
    beside theirs."""
    d, h, w, channel = line_parts(line, CHANNELS, D, H, W)
    if D.count * H.count * W.count * CHANNELS % TILE != 0:
        place = gl.where(d < D.count, D.first + (d + tap[0]) * D.move, NOWHERE)
    elif D.count > 1:
        place = D.first + (d + tap[0]) * D.move
    else:
        place = D.first + tap[0] * D.move
    return place, H.first + (h + tap[1]) * H.move, W.first + (w + tap[2]) * W.move, channel


@gluon.jit
def residue_and_run(place, W: gl.constexpr):
    """Where a copy of residue after residue, which begins with a place that shift 0 reads, has a place along w: its residue, and the
    place among those of it."""
    FIRST: gl.constexpr = -(-W.first // W.step)
    return (place - W.first) % W.step, (place - W.first) // W.step + FIRST


@gluon.jit
def row_and_residue(place, H: gl.constexpr):
    """A place along h as a multiple of the stride, and what is left."""
    LIFT: gl.constexpr = max(0, -(H.first // H.step))  # division rounds towards zero
    return (place + LIFT * H.step) // H.step - LIFT, (place + LIFT * H.step) % H.step


@gluon.jit
def fetch(x_box, z_box, xs, zs, full, stage, i_box, live, x_at, z_at, sizes, ZD: gl.constexpr, ZH: gl.constexpr, ZW: gl.constexpr, CO: gl.constexpr, PAIR: gl.constexpr):
    """Ask for what a step reads, if it is live: a run of positions after the other, or several at once, of all chunks of x and of dz."""
    BOX: gl.constexpr = PAIR.box
    RUNS: gl.constexpr = BOX[0] * BOX[1]
    X_CHUNKS: gl.constexpr = PAIR.x_chunks
    Z_CHUNKS: gl.constexpr = PAIR.z_chunks
    X_RUNS: gl.constexpr = PAIR.x_runs
    Z_RUNS: gl.constexpr = PAIR.z_runs
    X_BOXES: gl.constexpr = RUNS // X_RUNS
    Z_BOXES: gl.constexpr = RUNS // Z_RUNS
    X_SHARED: gl.constexpr = shared(PAIR, 0)
    boxes, x_size, z_size, planes = sizes
    w, rest = i_box % boxes[2] * BOX[2], i_box // boxes[2]
    h, rest = rest % boxes[1] * BOX[1], rest // boxes[1]
    d, n = rest % boxes[0] * BOX[0], rest // boxes[0]
    barrier = full.index(stage)
    mbarrier.expect(barrier, PAIR.bytes, pred=live)
    for i in gl.static_range(X_BOXES):
        place_d, place_h = d + i * X_RUNS // BOX[1], h + i * X_RUNS % BOX[1]
        for j in gl.static_range(X_CHUNKS):
            at_d, at_h, at_w, channel = x_at[j]
            target = seen_as(xs.index((stage * RUNS + i * X_RUNS) * X_CHUNKS + j), x_box.dtype, x_box.block_type.shape, x_box.layout)
            if PAIR.flat:
                place = gl.where((place_d < x_size[0]) & (place_h < x_size[1]), (place_d * x_size[1] + place_h) * x_size[2] + w, NOWHERE)
                load_box(x_box, [n, channel, place], barrier, target, pred=live, multicast=X_SHARED)
            else:
                load_box(x_box, [n, place_d + at_d, place_h + at_h, channel, w + at_w], barrier, target, pred=live, multicast=X_SHARED)
    for i in gl.static_range(Z_BOXES):
        position = n, d + i * Z_RUNS // BOX[1], h + i * Z_RUNS % BOX[1], w
        for j in gl.static_range(Z_CHUNKS):
            target = seen_as(zs.index((stage * RUNS + i * Z_RUNS) * Z_CHUNKS + j), z_box.dtype, z_box.block_type.shape, z_box.layout)
            fetch_lines(z_box, target, barrier, live, position, z_at[j], z_size, planes, ZD, ZH, ZW, CO, PAIR)


@gluon.jit
def fetch_lines(z_box, target, barrier, live, position, at, z_size, planes, ZD: gl.constexpr, ZH: gl.constexpr, ZW: gl.constexpr,
                CO: gl.constexpr, PAIR: gl.constexpr):
    """Ask for a chunk of dz that a run of positions meets, or as many runs as are one box."""
    Z_SHARED: gl.constexpr = shared(PAIR, 1)
    n, d, h, w = position
    at_d, at_h, at_w, channel = at
    place_d, place_h, place_w = d * ZD.step + at_d, h * ZH.step + at_h, w * PAIR.split + at_w
    if PAIR.z_runs > 1:
        plane = gl.where((place_d >= 0) & (place_d < z_size[0]), n * planes + place_d, NOWHERE)
        row, residue = row_and_residue(at_h, ZH)
        if PAIR.flat:
            load_box(z_box, [plane, h + row, channel, residue * z_size[2] + place_w], barrier, target, pred=live, multicast=Z_SHARED)
        else:
            load_box(z_box, [plane, h + row, residue, channel, place_w], barrier, target, pred=live, multicast=Z_SHARED)
    elif PAIR.flat:
        there = (place_d < z_size[0]) & (place_h < z_size[1])
        place = gl.where(there, (place_d * z_size[1] + place_h) * z_size[2] + place_w, NOWHERE)
        load_box(z_box, [n, channel, place], barrier, target, pred=live, multicast=Z_SHARED)
    elif PAIR.apart:
        residue, first = residue_and_run(at_w, ZW)
        load_box(z_box, [place_d, place_h, residue, n * CO + channel, w + first], barrier, target, pred=live, multicast=Z_SHARED)
    else:
        load_box(z_box, [n, place_d, place_h, channel, place_w], barrier, target, pred=live, multicast=Z_SHARED)
