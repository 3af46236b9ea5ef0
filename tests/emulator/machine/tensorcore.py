"""Fragments of mma.sync, wgmma, ldmatrix and stmatrix, as the PTX ISA lays them out, and the products.

Operands are decoded to float32 (exact for fp16, bf16 and tf32); products are exact in float32, sums are rounded to it.
"""

import numpy as np
import triton

from .faults import SHARED_BASE, Fault

HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)  # fp16 bits -> value

# Triton has fenced what cp.async writes since 3.7: before, every pipelined product of its own reads such without, and that is no fault of
# a kernel.
FENCES_COPIES = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7)


def decode(bits, kind: str):
    """Unsigned bits (uint16, or uint32 for tf32) as float32."""
    if kind == "f16":
        return HALF[bits]
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if kind == "tf32":  # the tensor core sees the upper 19 bits
        return (bits & np.uint32(0xFFFFE000)).view(np.float32)
    raise NotImplementedError(f"tensor core operands of type {kind}")


def halves(registers):
    """uint32 registers [..., r] -> their 16-bit halves [..., 2 r], the lower first."""
    return np.ascontiguousarray(registers).view(np.uint16)


# ---- mma.sync: one warp; lanes are (g, t) with g = lane // 4, t = lane % 4 ----

def a_fragment(registers, k: int, kind: str):
    """[warps, 16, k] of A from uint32 registers, each [warps * 32]."""
    stacked = np.stack(registers, -1).reshape(-1, 8, 4, len(registers))  # w, g, t, r
    if kind == "tf32":  # a0 (g, t), a1 (g + 8, t), a2 (g, t + 4), a3 (g + 8, t + 4)
        parts = stacked.reshape(-1, 8, 4, k // 8 * 2, 2) if k == 8 else None
        if k == 4:
            return decode(stacked.transpose(0, 3, 1, 2).reshape(-1, 16, 4), kind)
        # r = 2 * column half + row half
        return decode(parts.transpose(0, 4, 1, 3, 2).reshape(-1, 16, k), kind)
    parts = halves(stacked).reshape(-1, 8, 4, k // 8, 2, 2)  # w, g, t, column half, row half, item
    return decode(parts.transpose(0, 4, 1, 3, 2, 5).reshape(-1, 16, k), kind)


def b_fragment(registers, k: int, kind: str):
    """[warps, k, 8] of B."""
    stacked = np.stack(registers, -1).reshape(-1, 8, 4, len(registers))  # w, g (= n), t, r
    if kind == "tf32":  # b0 (t, g), b1 (t + 4, g)
        return decode(stacked.transpose(0, 3, 2, 1).reshape(-1, k, 8), kind)
    parts = halves(stacked).reshape(-1, 8, 4, k // 8, 2)  # w, n, t, half, item: row 8 * half + 2 * t + item
    return decode(parts.transpose(0, 3, 2, 4, 1).reshape(-1, k, 8), kind)


def c_fragment(registers):
    """[warps, 16, 8] fp32 of C or D from four registers."""
    stacked = np.stack(registers, -1).reshape(-1, 8, 4, 2, 2)  # w, g, t, row half, item
    return stacked.transpose(0, 3, 1, 2, 4).reshape(-1, 16, 8).view(np.float32)


def c_registers(matrix):
    """The other way round."""
    parts = matrix.reshape(-1, 2, 8, 4, 2).transpose(1, 4, 0, 2, 3)  # row half, item, w, g, t
    return list(np.ascontiguousarray(parts).view(np.uint32).reshape(4, -1))


# ---- wgmma: a warpgroup, 4 warps of 16 rows ----

def wide_a_fragment(registers, kind: str):
    """[groups, 64, k] of an A in registers."""
    k = 8 if kind == "tf32" else 16
    return a_fragment(registers, k, kind).reshape(-1, 64, k)


def accumulator(registers, n: int):
    """[groups, 64, n] fp32 from n / 2 registers: d[4 j + 2 i + c] is row 16 w + 8 i + g, column 8 j + 2 t + c."""
    stacked = np.stack(registers).reshape(n // 8, 2, 2, -1, 4, 8, 4)  # j, i, c, G, w, g, t
    return np.ascontiguousarray(stacked.transpose(3, 4, 1, 5, 0, 6, 2)).reshape(-1, 64, n).view(np.float32)


def accumulator_registers(matrix):
    """The other way round."""
    n = matrix.shape[2]
    parts = matrix.reshape(-1, 4, 2, 8, n // 8, 4, 2).transpose(4, 2, 6, 0, 1, 3, 5)  # j, i, c, G, w, g, t
    return list(np.ascontiguousarray(parts).view(np.uint32).reshape(n // 2, -1))


SWIZZLES = {0: 0, 1: 7, 2: 3, 3: 1}  # descriptor bits 62-63 -> mask of address bits 7.. that flip bits 4..


def swizzled(address, mask: int):
    """Addresses with the bits flipped that a swizzle of this mask flips."""
    return address ^ ((address >> 7 & mask) << 4) if mask else address


def descriptor_chunks(descriptor, extent: int, item: int, transposed: bool):
    """Shared addresses of the 16-byte chunks of a wgmma operand, [groups, rows, chunks].

    Not transposed (K-major): rows are M or N, chunks run along K. Transposed (MN-major): rows are K, chunks run along M
    or N. Layouts as in the PTX ISA's and CUTLASS's canonical layouts; T is a chunk of 16 bytes.
    """
    descriptor = descriptor.astype(np.uint64)
    start = (descriptor & np.uint64(0x3FFF)).astype(np.int64) << 4
    leading = (descriptor >> np.uint64(16) & np.uint64(0x3FFF)).astype(np.int64) << 4
    stride = (descriptor >> np.uint64(32) & np.uint64(0x3FFF)).astype(np.int64) << 4
    base = descriptor >> np.uint64(49) & np.uint64(7)
    mode = int(descriptor.flat[0] >> np.uint64(62))
    if (descriptor >> np.uint64(62) != np.uint64(mode)).any():
        raise Fault("warpgroups with different swizzle modes in one instruction")
    if base.any():
        raise NotImplementedError("a matrix descriptor with a base offset")
    mask = SWIZZLES[mode]
    span = 0 if mode == 0 else {1: 8, 2: 4, 3: 2}[mode]  # chunks of a swizzled row
    start, leading, stride = start[:, None, None], leading[:, None, None], stride[:, None, None]
    if not transposed:
        row, chunk = np.arange(extent)[:, None], np.arange(2)[None, :]
        if mode == 0:  # ((8, m), (T, 2)) : ((1T, SBO), (1, LBO))
            offset = row % 8 * 16 + row // 8 * stride + chunk * leading
        else:  # ((8, m), (T, 2)) : ((span T, SBO), (1, T))
            offset = row % 8 * 16 * span + row // 8 * stride + chunk * 16
    else:
        if item != 2:
            raise NotImplementedError("an MN-major operand that is not of 16 bits")
        row, chunk = np.arange(16)[:, None], np.arange(extent // 8)[None, :]
        if mode == 0:  # ((T, 1, m), (8, k)) : ((1, T, SBO), (1T, LBO))
            offset = chunk * stride + row % 8 * 16 + row // 8 * leading
        else:  # ((T, span, m), (8, k)) : ((1, T, LBO), (span T, SBO))
            offset = chunk % span * 16 + chunk // span * leading + row % 8 * 16 * span + row // 8 * stride
    return swizzled(start + offset, mask)


def read_operand(machine, ins, descriptor, extent: int, kind: str, transposed: bool, groups, ctas, values=True):
    """[groups, extent, k] float32 of an operand in shared memory. descriptor, groups (in their CTA), ctas: one each.

    values: False to check that it may be read now, and note that it is.
    """
    item = 4 if kind == "tf32" else 2
    address = descriptor_chunks(descriptor, extent, item, transposed)
    shared = machine.shared
    index = shared.index(ins, address, None, 16, ctas[:, None, None])
    written = shared.note_read(ins, index, None, 16, (groups * 4)[:, None, None])
    if shared.races:
        if not FENCES_COPIES:
            written = np.where(shared.copied.reshape(-1, 8)[index.reshape(-1)], 0, written)
        late = written.reshape(len(ctas), -1).max(1) >> 6 > shared.fence[ctas]
        if late.any():
            machine.warn("wgmma reads what was written with no fence.proxy.async after", ins, int(late.sum()))
    if not values:
        return None
    rows = shared.view(8, 2)[index]
    bits = np.ascontiguousarray(rows).view(np.uint32 if item == 4 else np.uint16)
    values = decode(bits, kind)
    if transposed:
        return values.reshape(len(ctas), 16, extent).transpose(0, 2, 1)
    return values.reshape(len(ctas), extent, 32 // item)


# ---- ldmatrix and stmatrix: 8 x 8 matrices of 16 bits; thread 8 i + r holds the address of row r of matrix i ----

def matrix_rows(machine, ins, address, mask, count: int):
    """Row indices (of 16 bytes) [warps, count, 8] and which warps take part."""
    address = machine.wide(address)
    warps = machine.whole_warps(ins, mask)
    rows = address.reshape(-1, 32)[:, :8 * count].reshape(-1, count, 8)
    cta = machine.cta.reshape(-1, 32)[:, :1, None]
    index = machine.shared.index(ins, rows, _each_row(warps, rows), 16, cta)
    if machine.counters:
        machine.counters.matrix_access(machine, ins, rows, warps)
    return index, warps


def _each_row(warps, rows):
    """A mask of warps as one of rows; None where all take part."""
    return None if warps.all() else np.broadcast_to(warps[:, None, None], rows.shape)


def load_matrix(machine, ins, address, mask, count: int, transposed: bool):
    """Registers of every thread."""
    index, warps = matrix_rows(machine, ins, address, mask, count)
    machine.shared.note_read(ins, index, _each_row(warps, index), 16, machine.warp.reshape(-1, 32)[:, :1, None])
    bits = np.ascontiguousarray(machine.shared.view(8, 2)[index]).view(np.uint16).reshape(-1, count, 8, 8)
    if transposed:
        bits = bits.transpose(0, 1, 3, 2)
    # lane 4 r + t holds items 2 t and 2 t + 1 of row r
    registers = np.ascontiguousarray(bits).view(np.uint32).reshape(-1, count, 32)
    return list(np.ascontiguousarray(registers.transpose(1, 0, 2)).reshape(count, -1))


def store_matrix(machine, ins, address, values, mask, count: int, transposed: bool):
    """Matrices from the registers of every thread."""
    index, warps = matrix_rows(machine, ins, address, mask, count)
    stacked = np.stack([machine.wide(v) for v in values], 0).reshape(count, -1, 32)
    stacked = stacked.transpose(1, 0, 2)  # warp, matrix, lane
    bits = np.ascontiguousarray(stacked).view(np.uint16).reshape(-1, count, 8, 8)
    if transposed:
        bits = bits.transpose(0, 1, 3, 2)
    rows = np.ascontiguousarray(bits).view(np.uint64).reshape(-1, count, 8, 2)
    warp = np.broadcast_to(machine.warp.reshape(-1, 32)[:, :1, None], index.shape)
    index, rows, warp = index[warps], rows[warps], warp[warps]
    machine.shared.note_write(ins, index, 16, warp)
    machine.shared.view(8, 2)[index] = rows


assert SHARED_BASE % 1024 == 0
