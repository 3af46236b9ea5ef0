"""Integer instructions against Python's own integers, on random bits and on the edges."""

from itertools import product

import numpy as np
import pytest

from .byhand import elementwise, signed

EDGES = {16: [0, 1, 2, 0x7FFF, 0x8000, 0xFFFF, 0xFFFE],
         32: [0, 1, 2, 3, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0x10000],
         64: [0, 1, 2, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF, 0x100000000]}


def numbers(bits, count=200, seed=0):
    rng = np.random.default_rng(seed)
    wide = [int(v) for v in rng.integers(0, 2**63, count, dtype=np.uint64)]
    found = [(w * 2 + 1) >> int(s) & (2**bits - 1) for w, s in zip(wide, rng.integers(0, 60, count))]
    return found + [a for a, _ in product(EDGES[bits], EDGES[bits])]


def second(bits, count=200):
    return numbers(bits, count, 1)[:count] + [b for _, b in product(EDGES[bits], EDGES[bits])]


def trunc(a, b):
    q = abs(a) // abs(b)
    return -q if (a < 0) != (b < 0) else q


def rest(a, b):
    """What a division that cuts leaves."""
    return a - trunc(a, b) * b


def halves(function, a, b):
    """function of the lower 16 bits and of the upper ones."""
    low, high = function(a & 0xFFFF, b & 0xFFFF), function(a >> 16, b >> 16)
    return low & 0xFFFF | (high & 0xFFFF) << 16


def field_s(a, start, length):
    if length == 0:
        return 0
    return signed(a, 32) >> start if start + length >= 32 else signed(a >> start & (2**length - 1), length)


INTEGER = {  # instruction: (bits of a, of b, of the result, reference)
    "add.s32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: a + b),
    "sub.s64 {d}, {0}, {1};": (64, 64, 64, lambda a, b: a - b),
    "add.s16x2 {d}, {0}, {1};": (32, 32, 32, lambda a, b: halves(int.__add__, a, b)),
    "add.u16x2 {d}, {0}, {1};": (32, 32, 32, lambda a, b: halves(int.__add__, a, b)),
    "min.s16x2 {d}, {0}, {1};":
        (32, 32, 32, lambda a, b: halves(lambda v, w: min(signed(v, 16), signed(w, 16)), a, b)),
    "max.u16x2 {d}, {0}, {1};": (32, 32, 32, lambda a, b: halves(max, a, b)),
    "sub.s16 {d}, {0}, {1};": (16, 16, 16, lambda a, b: a - b),
    "mul.lo.s32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: a * b),
    "mul.lo.s16 {d}, {0}, {1};": (16, 16, 16, lambda a, b: a * b),
    "mul.lo.s64 {d}, {0}, {1};": (64, 64, 64, lambda a, b: a * b),
    "mul.wide.s32 {d}, {0}, {1};": (32, 32, 64, lambda a, b: signed(a, 32) * signed(b, 32)),
    "mul.wide.u32 {d}, {0}, {1};": (32, 32, 64, lambda a, b: a * b),
    "mul.wide.u16 {d}, {0}, {1};": (16, 16, 32, lambda a, b: a * b),
    "mul.wide.s16 {d}, {0}, {1};": (16, 16, 32, lambda a, b: signed(a, 16) * signed(b, 16)),
    "mul.hi.u32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: a * b >> 32),
    "mul.hi.s32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: signed(a, 32) * signed(b, 32) >> 32),
    "mul.hi.u64 {d}, {0}, {1};": (64, 64, 64, lambda a, b: a * b >> 64),
    "mul.hi.s64 {d}, {0}, {1};": (64, 64, 64, lambda a, b: signed(a, 64) * signed(b, 64) >> 64),
    "div.s32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: trunc(signed(a, 32), signed(b, 32)) if b else None),
    "div.u32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: a // b if b else None),
    "rem.s32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: rest(signed(a, 32), signed(b, 32)) if b else None),
    "rem.u32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: a % b if b else None),
    "div.s64 {d}, {0}, {1};": (64, 64, 64, lambda a, b: trunc(signed(a, 64), signed(b, 64)) if b else None),
    "div.u64 {d}, {0}, {1};": (64, 64, 64, lambda a, b: a // b if b else None),
    "rem.s64 {d}, {0}, {1};": (64, 64, 64, lambda a, b: rest(signed(a, 64), signed(b, 64)) if b else None),
    "rem.u64 {d}, {0}, {1};": (64, 64, 64, lambda a, b: a % b if b else None),
    "div.s16 {d}, {0}, {1};": (16, 16, 16, lambda a, b: trunc(signed(a, 16), signed(b, 16)) if b else None),
    "min.s32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: min(signed(a, 32), signed(b, 32))),
    "max.u32 {d}, {0}, {1};": (32, 32, 32, max),
    "min.s64 {d}, {0}, {1};": (64, 64, 64, lambda a, b: min(signed(a, 64), signed(b, 64))),
    "and.b32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: a & b),
    "or.b64 {d}, {0}, {1};": (64, 64, 64, lambda a, b: a | b),
    "xor.b32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: a ^ b),
    "shl.b32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: a << b if b < 32 else 0),
    "shr.u32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: a >> b if b < 32 else 0),
    "shr.s32 {d}, {0}, {1};": (32, 32, 32, lambda a, b: signed(a, 32) >> min(b, 31)),
    "shl.b64 {d}, {0}, {1};": (64, 32, 64, lambda a, b: a << b if b < 64 else 0),
    "shr.s64 {d}, {0}, {1};": (64, 32, 64, lambda a, b: signed(a, 64) >> min(b, 63)),
    "shl.b16 {d}, {0}, 8;": (16, 16, 16, lambda a, b: a << 8),
    "shr.u16 {d}, {0}, 3;": (16, 16, 16, lambda a, b: a >> 3),
    "bfe.u32 {d}, {0}, 5, 7;": (32, 32, 32, lambda a, b: a >> 5 & 127),
    "bfe.s32 {d}, {0}, 3, 1;": (32, 32, 32, lambda a, b: -(a >> 3 & 1)),
    "bfe.s32 {d}, {0}, 28, 4;": (32, 32, 32, lambda a, b: signed(a, 32) >> 28),
    "mov.b32 %r21, 4; bfe.u32 {d}, {0}, %r21, {1};": (32, 32, 32, lambda a, b: a >> 4 & (2 ** min(b & 255, 28) - 1)),
    "mov.b32 %r21, 9; bfe.s32 {d}, {0}, %r21, {1};": (32, 32, 32, lambda a, b: field_s(a, 9, b & 255)),
    "bfi.b32 {d}, {0}, {1}, 7, 9;": (32, 32, 32, lambda a, b: b & ~(511 << 7) | (a & 511) << 7),
    "prmt.b32 {d}, {0}, {1}, 0x5410;": (32, 32, 32, lambda a, b: a & 0xFFFF | (b & 0xFFFF) << 16),
    "prmt.b32 {d}, {0}, {1}, 0x7632;": (32, 32, 32, lambda a, b: a >> 16 | b >> 16 << 16),
    "prmt.b32 {d}, {0}, {1}, 0x9180;":
        (32, 32, 32, lambda a, b: a & 255 | (a >> 7 & 1) * 255 << 8 | (a >> 8 & 255) << 16 | (a >> 15 & 1) * 255 << 24),
    "lop3.b32 {d}, {0}, {1}, 0x0F0F0F0F, 0xE8;": (32, 32, 32, lambda a, b: a & b | a & 0x0F0F0F0F | b & 0x0F0F0F0F),
    "shf.l.wrap.b32 {d}, {0}, {1}, 9;": (32, 32, 32, lambda a, b: (b << 32 | a) << 9 >> 32),
    "shf.r.clamp.b32 {d}, {0}, {1}, 40;": (32, 32, 32, lambda a, b: b),
    "shf.r.wrap.b32 {d}, {0}, {1}, 5;": (32, 32, 32, lambda a, b: (b << 32 | a) >> 5),
    "clz.b32 {d}, {0};": (32, 32, 32, lambda a, b: 32 - a.bit_length()),
    "brev.b32 {d}, {0};": (32, 32, 32, lambda a, b: int(f"{a:032b}"[::-1], 2)),
    "popc.b32 {d}, {0};": (32, 32, 32, lambda a, b: a.bit_count()),
    "neg.s32 {d}, {0};": (32, 32, 32, lambda a, b: -a),
    "abs.s32 {d}, {0};": (32, 32, 32, lambda a, b: abs(signed(a, 32))),
    "not.b32 {d}, {0};": (32, 32, 32, lambda a, b: ~a),
    "cvt.s64.s32 {d}, {0};": (32, 32, 64, lambda a, b: signed(a, 32)),
    "cvt.u64.u32 {d}, {0};": (32, 32, 64, lambda a, b: a),
    "cvt.u32.u64 {d}, {0};": (64, 32, 32, lambda a, b: a),
    "cvt.u32.u16 {d}, {0};": (16, 16, 32, lambda a, b: a),
    "cvt.s32.s16 {d}, {0};": (16, 16, 32, lambda a, b: signed(a, 16)),
    "cvt.s32.s8 {d}, {0};": (32, 32, 32, lambda a, b: signed(a & 255, 8)),
    "cvt.u16.u32 {d}, {0};": (32, 32, 16, lambda a, b: a),
    "mad.lo.s32 {d}, {0}, {1}, -7;": (32, 32, 32, lambda a, b: a * b - 7),
    "mad.wide.s32 {d}, {0}, {1}, 99;": (32, 32, 64, lambda a, b: signed(a, 32) * signed(b, 32) + 99),
    "setp.lt.s32 %p1, {0}, {1}; selp.b32 {d}, 5, {1}, %p1;":
        (32, 32, 32, lambda a, b: 5 if signed(a, 32) < signed(b, 32) else b),
    "setp.lt.u32 %p1|%p2, {0}, {1}; selp.b32 {d}, 5, 6, %p2;": (32, 32, 32, lambda a, b: 6 if a < b else 5),
    "setp.ge.s32 %p1, {0}, 0; setp.ne.and.b32 %p2, {1}, 0, %p1; selp.b32 {d}, 1, 0, %p2;":
        (32, 32, 32, lambda a, b: int(signed(a, 32) >= 0 and b != 0)),
    "setp.gt.s32 %p1, {0}, {1}; mov.b32 {d}, 3; @!%p1 add.s32 {d}, {d}, {0};":
        (32, 32, 32, lambda a, b: 3 if signed(a, 32) > signed(b, 32) else 3 + a),
    "mov.b32 {{%rs1, %rs2}}, {0}; mov.b32 {d}, {{%rs2, %rs1}};":
        (32, 32, 32, lambda a, b: a >> 16 | (a & 0xFFFF) << 16),
    "mov.b64 {{%r30, %r31}}, {0}; mov.b64 {d}, {{%r31, %r30}};":
        (64, 64, 64, lambda a, b: a >> 32 | (a & 0xFFFFFFFF) << 32),
    "mov.b32 {{_, %rs2}}, {0}; cvt.u32.u16 {d}, %rs2;": (32, 32, 32, lambda a, b: a >> 16),
}


@pytest.mark.parametrize("instruction", INTEGER)
def test_integers(instruction):
    a_bits, b_bits, d_bits, reference = INTEGER[instruction]
    a, b = numbers(a_bits), second(b_bits)
    if a_bits != b_bits or "sh" in instruction[:3]:
        b = [v % 70 if i % 3 else v for i, v in enumerate(b)]
    count = min(len(a), len(b))
    a, b = a[:count], b[:count]
    found = elementwise(instruction, [a, b], (a_bits // 8, b_bits // 8), d_bits // 8)
    for x, y, got in zip(a, b, found):
        want = reference(x, y)
        if want is not None:
            assert got == want % 2**d_bits, (hex(x), hex(y), hex(got), hex(want % 2**d_bits))
