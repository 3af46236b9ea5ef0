"""What kernels in Gluon share: what its versions, from Triton 3.6 to 3.9, call by other names, and how operands lie in shared memory."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma

barrier = getattr(gl, "barrier", None) or gl.thread_barrier
load_box = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
seen_as = getattr(gl.shared_memory_descriptor, "reinterpret", None) or gl.shared_memory_descriptor._reinterpret


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
