"""What kernels in Gluon share: what its versions, from Triton 3.6 to 3.9, call by other names, and how operands lie in shared memory."""

import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import tma

barrier = getattr(gl, "barrier", None) or gl.thread_barrier
load_box = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
copy_elements = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared
seen_as = getattr(gl.shared_memory_descriptor, "reinterpret", None) or gl.shared_memory_descriptor._reinterpret
STRICT = gl.constexpr(tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 9))  # no view is larger than what it is one of


@gluon.constexpr_function
def halves(rank, dimensions):
    """The bases of a layout for the programs of a cluster: for each bit of their number the dimension that it halves, -1 where all have
    the whole; none without a cluster."""
    if dimensions is None:
        return {}
    dimensions = (dimensions,) if isinstance(dimensions, int) else tuple(dimensions)
    return dict(cga_layout=[[int(i == halved) << dimensions[:bit].count(halved) for i in range(rank)]
                            for bit, halved in enumerate(dimensions)])


@gluon.constexpr_function
def spread(dimension, programs):
    """All bits of the number of a program halve one dimension."""
    return (dimension,) * (programs.bit_length() - 1)


@gluon.constexpr_function
def shared_layout(channels, bits, rank, halved=None):
    span = min(128, channels * bits // 8)
    return gl.NVMMASharedLayout(span if span > 16 else 0, bits, rank, **halves(rank, halved))


@gluon.constexpr_function
def columns_of_16_bytes(lines, columns, bits, halved):
    """[line, column] that lies 16 bytes of all lines after the other, as products take what is not permuted. halved as in `halves`."""
    own, run = lines >> list(halved).count(0), 128 // bits
    across, down = [[0, 1 << i] for i in range(columns.bit_length() - 1)], [[1 << i, 0] for i in range(own.bit_length() - 1)]
    first, parts = run.bit_length() - 1, [[own * base, 0] for base, _ in halves(2, halved)["cga_layout"]]
    return gl.SharedLinearLayout(across[:first] + down + across[first:], parts, alignment=128)


@gluon.constexpr_function
def bytes_of(shape, bits, count, rows):
    """The shape of so many times so many rows of a ring, as bytes."""
    for length in list(shape)[1:]:
        bits *= length
    return [count, rows * bits // 8]


@gluon.constexpr_function
def in_order():
    return gl.SwizzledSharedLayout(1, 1, 1, [0])


@gluon.jit
def part_of(ring, i, COUNT: gl.constexpr, STEP: gl.constexpr, ROWS: gl.constexpr):
    """Part i of a ring, of so many that begin STEP rows one after the other: its rows, and a number that is added to that of each. Where views
    must not grow, nothing tells what begins at any row but a slice: a part is one then, chosen from all, and what is added is zero, though
    the compiler may not know."""
    if STRICT:
        rows = ring.slice(0, ROWS)
        for j in gl.static_range(1, COUNT):
            if i == j:
                rows = ring.slice(j * STEP, ROWS)
        return rows, gl.to_tensor(0)
    else:
        return ring, gl.to_tensor(i * STEP)


@gluon.jit
def stage_of(ring, stage, STAGES: gl.constexpr, TAIL: gl.constexpr = 0):
    """Part `stage` of the equal ones of a ring, which is followed by a tail: views of the last rows of a part end in what comes next."""
    EACH: gl.constexpr = (ring.shape[0] - TAIL) // STAGES
    return part_of(ring, stage, STAGES, EACH, EACH + TAIL)


@gluon.jit
def rows_at(rows, FIRST: gl.constexpr, COUNT: gl.constexpr):
    """So many rows of a part, as `part_of` has it, to be seen as a tensor."""
    if STRICT:
        BYTES: gl.constexpr = bytes_of(rows[0].shape, rows[0].dtype.primitive_bitwidth, 1, COUNT)
        return seen_as(rows[0].slice(FIRST, COUNT), gl.int8, BYTES, in_order()).index(rows[1])
    else:
        return rows[0].index(rows[1] + FIRST)


@gluon.jit
def rows_of(rows, i, EACH: gl.constexpr, COUNT: gl.constexpr):
    """EACH rows of a part, number i of so many that lie side by side from its first row on."""
    if STRICT:
        BYTES: gl.constexpr = bytes_of(rows[0].shape, rows[0].dtype.primitive_bitwidth, COUNT, EACH)
        return seen_as(rows[0].slice(0, COUNT * EACH), gl.int8, BYTES, in_order()).index(i)
    else:
        return rows[0].index(rows[1] + i * EACH)


@gluon.jit
def parts_of(index, size):
    """index // size and index % size of what is not negative: without signs a division takes half as many instructions."""
    quotient = gl.cast(gl.cast(index, gl.uint32) // gl.cast(size, gl.uint32), gl.int32)
    return quotient, index - quotient * size


@gluon.jit
def neighbours(tile, ROWS: gl.constexpr, COLUMNS: gl.constexpr, SPLIT: gl.constexpr):
    """A tile [ROWS, COLUMNS * SPLIT] parted into the SPLIT neighbours of each column, in their order: each [ROWS, COLUMNS]."""
    if SPLIT == 1:
        return (tile.reshape([ROWS, COLUMNS]),)
    else:
        HALF: gl.constexpr = SPLIT // 2
        even, odd = gl.split(tile.reshape([ROWS, COLUMNS * HALF, 2]))
        even, odd = neighbours(even, ROWS, COLUMNS, HALF), neighbours(odd, ROWS, COLUMNS, HALF)
        found = ()
        for i in gl.static_range(HALF):
            found = found + (even[i], odd[i])
        return found
