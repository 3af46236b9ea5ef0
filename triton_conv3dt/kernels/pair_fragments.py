"""How the positions of a step reach the products of a cluster (kernels/pair.py): from shared memory as they lie, or by registers.
In Gluon.

Fragments of lines are taken across their channels, each line swizzled: which positions the threads of an access hold is chosen such
that they meet all banks. So rows of a product are positions in an order of their own, which finished sums are brought out of; and
where lines are narrow, threads take the two channels of a register one after the other, half of them the second first.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .gluon_names import neighbours, seen_as, shared_layout, spread
from .pair_fetch import slabs

ORDERED = 5  # bits of a position whose order is chosen
ACCESS = 16  # bytes that a thread takes at once at most


@gluon.constexpr_function
def of_lines(X):
    return X.reading in ("lines", "strided lines")


@gluon.constexpr_function
def by_registers(X, TILE, bits):
    """Whether the first operand passes by registers, where it cannot be transposed or is parted."""
    return X.reading in ("lines", "strided lines") and (bits == 32 or TILE.split > 1)


@gluon.constexpr_function
def line_of(TILE, programs):
    """Neighbours along w that lie side by side for one program."""
    return TILE.box[2] * TILE.split // (programs // TILE.box[0] if TILE.bands else 1)


@gluon.constexpr_function
def places_of(X, TILE):
    """Places of a piece of the positions, of all programs."""
    return TILE.box[0] * TILE.box[2] if TILE.bands else TILE.n // slabs(X, TILE)


@gluon.constexpr_function
def log2(number):
    return number.bit_length() - 1


@gluon.constexpr_function
def address_bit(channel_bit, line):
    """Which bit of an address, of those that tell banks apart, a bit of the channel moves, in lines of so many bytes: swizzled as wide as
    they are."""
    bit = log2(line) + channel_bit
    return bit if bit < 7 else bit - 3


@gluon.constexpr_function
def rows_of_positions(TILE, bits, programs):
    """Which bits of a position the bits of a row of the product are, lowest first; and the bit of neighbours and positions that moves, in
    the bank, where another channel of a register would be, or None. Three bits of a row tell threads apart, beside two of channels;
    the fourth is a thread's own."""
    line, side = line_of(TILE, programs) * bits // 8, log2(TILE.split)
    first = side + log2(bits // 8)  # the bit of an address that the lowest bit of a position moves
    own = [0] if 1 << first < ACCESS else []  # it widens an access
    channels = [address_bit(i + (bits == 16), line) for i in range(2)]
    free = [bit for bit in range(min(4, first + len(own)), 7) if bit not in channels]
    rows = [bit - first for bit in free if first <= bit < log2(line)]
    rest = [bit for bit in range(ORDERED) if bit not in rows + own]
    crossed = side + rest[0] if bits == 16 and log2(line) in free else None
    rows += rest[:3 - len(rows)]
    own += [bit for bit in rest if bit not in rows + own][:1 - len(own)]
    return rows + own + [bit for bit in range(ORDERED) if bit not in rows + own], crossed


@gluon.constexpr_function
def fragment_layout(TILE, warps, bits, programs):
    """[channel, position with its neighbours], such that a thread has all neighbours of the elements of the first operand that are
    its own, in their order."""
    pair, split, channels = 32 // bits, TILE.split, TILE.k  # channels in a register
    order, _ = rows_of_positions(TILE, bits, programs)
    of_row = [[0, split << bit] for bit in order]
    lanes = [[pair, 0], [2 * pair, 0], *of_row[:3]]
    registers = [[0, 1 << i] for i in range(log2(split))] + [[1, 0]] * (pair > 1) + [of_row[3], [4 * pair, 0]]
    registers += [[8 * pair << i, 0] for i in range(log2(channels // (8 * pair)))]
    each = (of_row[4:] + [[0, split << i] for i in range(ORDERED, 16)])[:log2(warps)]
    apart = [[0, (16 * warps << i) * split] for i in range(log2(programs))]
    return gl.DistributedLinearLayout(registers, lanes, each, apart, [channels, TILE.n * split])


@gluon.constexpr_function
def crossed_layout(TILE, bits, programs, crossed):
    """Lines as they lie, swizzled as wide as they are, of which channels that share a register have changed places where this bit of
    neighbours and positions is set."""
    length, every = line_of(TILE, programs), TILE.n * TILE.split
    size, run = length * bits // 8, log2(128 // bits)
    of_line = [[int(i == crossed), 1 << i] for i in range(log2(every))]
    channels = []
    for i in range(log2(TILE.k)):
        turned = log2(size) + i - 7  # the bit of its 16 bytes in a line that a channel turns
        bit = turned + run if 0 <= turned < log2(size) - 4 else None
        channels.append([1 << i ^ (bit is not None and bit == crossed), 0 if bit is None else 1 << bit])
    own, within = log2(every // programs), log2(length)
    return gl.SharedLinearLayout(of_line[:within] + channels + of_line[within:own], of_line[own:], alignment=1024)


@gluon.constexpr_function
def parts_of_positions(first, positions):
    """A shape whose second side is parted into the bits whose order is chosen, and what is above them."""
    return [first, positions >> ORDERED] + [2] * ORDERED


@gluon.constexpr_function
def reordered(TILE, bits, programs, back):
    """The dimensions of such a shape, such that positions lie in the order of rows, or back."""
    order, _ = rows_of_positions(TILE, bits, programs)
    order = [order.index(i) for i in range(ORDERED)] if back else order
    return [0, 1] + [1 + ORDERED - bit for bit in reversed(order)]


@gluon.constexpr_function
def bit_crossed(TILE, bits, programs):
    return rows_of_positions(TILE, bits, programs)[1]


@gluon.jit
def ordered(tile, BITS: gl.constexpr, BACK: gl.constexpr, TILE: gl.constexpr):
    """A tile [.., position] as [.., row of the product], or back."""
    SIDE: gl.constexpr = tile.shape[0]
    PARTS: gl.constexpr = parts_of_positions(SIDE, TILE.n)
    O: gl.constexpr = reordered(TILE, BITS, gl.num_ctas(), BACK)
    return tile.reshape(PARTS).permute((0, 1, O[2], O[3], O[4], O[5], O[6])).reshape([SIDE, TILE.n])


@gluon.jit
def in_order(acc, X: gl.constexpr, TILE: gl.constexpr, BITS: gl.constexpr):
    """Finished sums [row of the product, column] as [position, column]."""
    if by_registers(X, TILE, BITS):
        return ordered(acc.permute((1, 0)), BITS, True, TILE).permute((1, 0))
    else:
        return acc


@gluon.jit
def operand(positions, first, X: gl.constexpr, TILE: gl.constexpr):
    """The positions from this piece of the ring on in shared memory, [position, channel]."""
    PROGRAMS: gl.constexpr = gl.num_ctas()
    BITS: gl.constexpr = positions.dtype.primitive_bitwidth
    if of_lines(X):
        return lines(positions, first, TILE, None).permute((1, 0))
    elif X.reading == "planes":
        return positions.index(first).permute((1, 0))
    else:
        return seen_as(positions.index(first), positions.dtype, [TILE.n, TILE.k], shared_layout(TILE.k, BITS, 2, spread(0, PROGRAMS)))


@gluon.jit
def lines(positions, first, TILE: gl.constexpr, CROSSED: gl.constexpr):
    """[channel, position with its neighbours] in shared memory, with channels crossed as `crossed_layout` says."""
    PROGRAMS: gl.constexpr = gl.num_ctas()
    BITS: gl.constexpr = positions.dtype.primitive_bitwidth
    if CROSSED is None:
        LAYOUT: gl.constexpr = shared_layout(line_of(TILE, PROGRAMS), BITS, 2, spread(1, PROGRAMS))
        return seen_as(positions.index(first), positions.dtype, [TILE.k, TILE.n * TILE.split], LAYOUT)
    else:
        MIXED: gl.constexpr = crossed_layout(TILE, BITS, PROGRAMS, CROSSED)
        return seen_as(positions.index(first), positions.dtype, [TILE.k, TILE.n * TILE.split], MIXED)


@gluon.jit
def uncrossed(tile, BIT: gl.constexpr):
    """Of a tile [channel, position with its neighbours] whose channels are crossed: those at even and at odd neighbours, each with its
    channels in order; they are put into registers two by two anyway."""
    K: gl.constexpr = tile.shape[0]
    N: gl.constexpr = tile.shape[1]
    first, second = gl.split(tile.reshape([K // 2, 2, N]).permute((0, 2, 1)))
    place = gl.arange(0, N, gl.SliceLayout(0, first.type.layout))
    halves_of = gl.where((place >> BIT) % 2 == 1, 0x1054, 0x5410) + place % 2 * 0x2222
    even, odd = gl.inline_asm_elementwise(
        "prmt.b32 $0, $2, $3, $4; prmt.b32 $1, $2, $3, $5;", "=r,=r,r,r,r,r", [first, second, halves_of[None, :]],
        dtype=(tile.dtype, tile.dtype), is_pure=True, pack=2)
    even, odd = even.reshape([K // 2, N // 2, 2]).permute((0, 2, 1)), odd.reshape([K // 2, N // 2, 2]).permute((0, 2, 1))
    return even.reshape([K, N // 2]), odd.reshape([K, N // 2])


@gluon.jit
def parted(positions, first, TILE: gl.constexpr, WARPS: gl.constexpr):
    """Tiles [channel, position] in registers, one for each of their neighbours."""
    BITS: gl.constexpr = positions.dtype.primitive_bitwidth
    CROSSED: gl.constexpr = bit_crossed(TILE, BITS, gl.num_ctas())
    LAYOUT: gl.constexpr = fragment_layout(TILE, WARPS, BITS, gl.num_ctas())
    tile = lines(positions, first, TILE, CROSSED).load(LAYOUT)
    if CROSSED is None:
        return neighbours(tile, TILE.k, TILE.n, TILE.split)
    else:
        HALF: gl.constexpr = TILE.split // 2
        even, odd = uncrossed(tile, CROSSED)
        even, odd = neighbours(even, TILE.k, TILE.n, HALF), neighbours(odd, TILE.k, TILE.n, HALF)
        found = ()
        for i in gl.static_range(HALF):
            found = found + (even[i], odd[i])
        return found


@gluon.jit
def fragments(positions, first, OPERAND: gl.constexpr, TILE: gl.constexpr, WARPS: gl.constexpr):
    """The positions from this piece of the ring on in registers, a tile [row of the product, channel] for each of their neighbours."""
    BITS: gl.constexpr = positions.dtype.primitive_bitwidth
    SPLIT: gl.constexpr = TILE.split
    tiles, found = parted(positions, first, TILE, WARPS), ()
    for i in gl.static_range(SPLIT):
        found = found + (gl.convert_layout(ordered(tiles[i], BITS, False, TILE).permute((1, 0)), OPERAND, assert_trivial=True),)
    return found
