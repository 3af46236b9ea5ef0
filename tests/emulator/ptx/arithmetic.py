"""PTX arithmetic that numpy does not have in one call. All functions take arrays or numpy scalars."""

import numpy as np

u2, u4, u8, i4, i8 = np.uint16, np.uint32, np.uint64, np.int32, np.int64
f2, f4, f8 = np.float16, np.float32, np.float64
TINY = np.finfo(f4).tiny


def flush(x):
    """Denormals become zeros of their sign (f32 alone)."""
    return np.where(np.abs(x) < TINY, np.copysign(f4(0), x), x) if x.dtype == f4 else x


def saturate(x):
    return np.where(np.isnan(x), x.dtype.type(0), np.clip(x, x.dtype.type(0), x.dtype.type(1)))


# ---- integers ----

def divide(a, b):
    """Truncated; division by zero gives all bits set, as GPUs do."""
    if a.dtype.itemsize <= 4:
        a, b = np.asarray(a), np.asarray(b)
        zero = b == 0
        q = np.trunc(a.astype(f8) / np.where(zero, 1, b)).astype(i8).astype(a.dtype)  # exact: both are below 2**32
        return np.where(zero, a.dtype.type(-1) if a.dtype.kind == "i" else ~a.dtype.type(0), q) if zero.any() else q
    zero = np.asarray(b == 0)
    b = np.where(zero, b.dtype.type(1), b)
    if a.dtype.kind == "u":
        q = a // b
    else:
        q = (np.abs(a).view(u8) // np.abs(b).view(u8)).view(i8)  # abs of the least number is itself, right as unsigned
        q = np.where((a < 0) != (b < 0), -q, q)
    return np.where(zero, ~q.dtype.type(0), q) if zero.any() else q


def remainder(a, b):
    return a - divide(a, b) * b


def mul_hi(a, b):
    if a.dtype.itemsize == 4:
        w = i8 if a.dtype.kind == "i" else u8
        return ((a.astype(w) * b.astype(w)) >> w(32)).astype(a.dtype)
    if a.dtype.itemsize == 2:
        return ((a.astype(i4) * b.astype(i4)) >> i4(16)).astype(a.dtype) if a.dtype.kind == "i" else \
            ((a.astype(u4) * b.astype(u4)) >> u4(16)).astype(a.dtype)
    low, half = u8(0xFFFFFFFF), u8(32)
    x, y = a.view(u8), b.view(u8)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + (x0 * y0 >> half)
    high = x1 * y1 + (middle >> half) + ((x0 * y1 + (middle & low)) >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, u8(0)) - np.where(b < 0, x, u8(0))
    return high.view(a.dtype)


def halfwise(function, a, b, dtype):
    """An operation on each 16-bit half of a pair."""
    half = lambda pair, n: (pair >> u4(n)).astype(u2).view(dtype)
    low, high = (function(half(a, n), half(b, n)).view(u2).astype(u4) for n in (0, 16))
    return low | high << u4(16)


def shift_left(a, amount):
    bits = a.dtype.itemsize * 8
    return np.where(amount >= bits, a.dtype.type(0), a << (amount % u4(bits)).astype(a.dtype))


def shift_right(a, amount):
    bits = a.dtype.itemsize * 8
    return a >> np.minimum(amount, u4(bits - 1)).astype(a.dtype) if a.dtype.kind == "i" else \
        np.where(amount >= bits, a.dtype.type(0), a >> (amount % u4(bits)).astype(a.dtype))


def funnel(a, b, c, left, wrap):
    """shf: bits of b:a (a the lower word)."""
    n = (c & u4(31) if wrap else np.minimum(c, u4(32))).astype(u8)
    both = b.astype(u8) << u8(32) | a.astype(u8)
    return ((both << n) >> u8(32)).astype(u4) if left else np.where(n == 32, b, (both >> n).astype(u4))


def bit_field(a, start, length):
    bits = a.dtype.itemsize * 8
    start, length = (start & u4(255)).astype(i8), (length & u4(255)).astype(i8)
    unsigned = a.view(u4 if bits == 32 else u8).astype(u8)
    if a.dtype.kind == "i":
        sign_at = np.minimum(start + length - 1, bits - 1)
        sign = np.where(length == 0, u8(0), (unsigned >> np.clip(sign_at, 0, 63).astype(u8)) & u8(1))
    else:
        sign = np.zeros_like(unsigned)
    value = np.where(start >= bits, u8(0), unsigned >> np.clip(start, 0, 63).astype(u8))
    keep = np.clip(np.minimum(length, bits - start), 0, 64)
    mask = np.where(keep >= 64, ~u8(0), (u8(1) << np.clip(keep, 0, 63).astype(u8)) - u8(1))
    filled = np.where(length < bits, np.where(sign == 1, ~mask, u8(0)), np.where(sign == 1, ~mask, u8(0)))
    return ((value & mask) | filled).astype(u4 if bits == 32 else u8).view(a.dtype)


def insert(a, b, start, length):
    """bfi: the low bits of a into b."""
    bits = a.dtype.itemsize * 8
    start, length = (start & u4(255)).astype(i8), (length & u4(255)).astype(i8)
    count = np.clip(np.minimum(length, bits - start), 0, 64)
    mask = np.where(count >= 64, ~u8(0), (u8(1) << np.clip(count, 0, 63).astype(u8)) - u8(1))
    place = np.clip(start, 0, 63).astype(u8)
    mask = np.where(start >= bits, u8(0), mask << place)
    return ((b.astype(u8) & ~mask) | (a.astype(u8) << place & mask)).astype(a.dtype)


def leading_zeros(a):
    bits = a.dtype.itemsize * 8
    x, n = a.astype(u8), np.full(np.shape(a), bits, i8)
    for shift in (32, 16, 8, 4, 2, 1):
        big = x >> u8(shift) != 0
        n, x = np.where(big, n - shift, n), np.where(big, x >> u8(shift), x)
    return (n - x.astype(i8)).astype(u4)


def reverse(a):
    bits, out, x = a.dtype.itemsize * 8, np.zeros_like(a), a
    one = a.dtype.type(1)
    for _ in range(bits):
        out, x = (out << one) | (x & one), x >> one
    return out


def permute(a, b, selector):
    both = b.astype(u8) << u8(32) | a.astype(u8)
    result = u4(0)
    for i in range(4):
        pick = selector >> u4(4 * i) & u4(15)
        byte = (both >> ((pick & u4(7)).astype(u8) * u8(8)) & u8(255)).astype(u4)
        byte = np.where(pick & u4(8), np.where(byte & u4(128), u4(255), u4(0)), byte)
        result = result | byte << u4(8 * i)
    return result


def lop3(a, b, c, table):
    result = u4(0)
    for i in range(8):
        if table >> i & 1:
            result = result | (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return result


# ---- floats ----

def _odd(s, e):
    """s + e (an exact sum of doubles) rounded to odd, so that rounding once more is right."""
    bits = np.asarray(s).view(i8)
    toward = (e > 0) == (s > 0)
    fixed = np.where(toward, bits, bits - 1) | 1
    return np.where((e != 0) & np.isfinite(s) & (s != 0), fixed, bits).view(f8)


def _sum(a, b):
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def fma32(a, b, c):
    """Rounded once. Products are exact in double; rounding the sum twice is wrong only at a tie of what single drops,
    or in denormals."""
    product = a.astype(f8) * b.astype(f8)
    wide = product + c.astype(f8)
    single = wide.astype(f4)
    doubtful = (wide.view(i8) & i8(0x1FFFFFFF)) == i8(0x10000000)
    doubtful |= (np.abs(single) <= TINY) & (wide != 0)
    if doubtful.any():
        return _odd(*_sum(product, c.astype(f8))).astype(f4)
    return single


def fma16(a, b, c):
    return to_f16(_odd(*_sum(a.astype(f8) * b.astype(f8), c.astype(f8))))


def fma16f(a, b, c):
    """Halves as f32 in, rounded to fp16 once; f32 out."""
    return to_f16(_odd(*_sum(a.astype(f8) * b.astype(f8), c.astype(f8)))).astype(f4)


def fmab(a, b, c):
    """f32 values of bf16; the sum rounded to odd in f32, so that to_bf16 rounds once."""
    s = _odd(*_sum(a.astype(f8) * b.astype(f8), c.astype(f8)))
    r = s.astype(f4)
    bits = np.asarray(r).view(i4)
    over = np.abs(r.astype(f8)) > np.abs(s)
    fixed = np.where(over, bits - 1, bits) | 1
    return np.where((r.astype(f8) != s) & np.isfinite(r), fixed, bits).view(f4)


def fma64(a, b, c):
    """Within an ulp of once rounded: the product's error is kept (Dekker)."""
    split = f8(134217729.0)
    x = a * split
    ah = x - (x - a)
    al, y = a - ah, b * split
    bh = y - (y - b)
    bl, p = b - bh, a * b
    error = al * bl - (((p - ah * bh) - al * bh) - ah * bl)
    s, e = _sum(p, c)
    found = s + (e + error)
    return np.where(np.isfinite(found), found, a * b + c)


def min_number(a, b):
    r = np.fmin(a, b)
    return np.where((a == 0) & (b == 0), np.where(np.signbit(a), a, b), r)


def max_number(a, b):
    r = np.fmax(a, b)
    return np.where((a == 0) & (b == 0), np.where(np.signbit(a), b, a), r)


def min_nan(a, b):
    return np.where(np.isnan(a) | np.isnan(b), a.dtype.type(np.nan), min_number(a, b))


def max_nan(a, b):
    return np.where(np.isnan(a) | np.isnan(b), a.dtype.type(np.nan), max_number(a, b))


def _through(function):
    return lambda x: function(x.astype(f8)).astype(x.dtype)


exp2, log2, reciprocal = _through(np.exp2), _through(np.log2), _through(lambda x: 1 / x)
sqrt, rsqrt, tanh, sin, cos = map(_through, (np.sqrt, lambda x: 1 / np.sqrt(x), np.tanh, np.sin, np.cos))


# ---- conversions ----

def from_bf16(bits):
    return (bits.astype(u4) << u4(16)).view(f4)


def to_bf16(x):
    bits = x.view(u4)
    rounded = ((bits + u4(0x7FFF) + (bits >> u4(16) & u4(1))) >> u4(16)).astype(u2)
    return np.where(np.isnan(x), u2(0x7FFF), rounded)


def int_to_bf16(x):
    """Through f32 rounded to odd."""
    exact = x.astype(f8)
    r = exact.astype(f4)
    bits = np.asarray(r).view(i4)
    fixed = np.where(np.abs(r.astype(f8)) > np.abs(exact), bits - 1, bits) | 1
    return to_bf16(np.where(r.astype(f8) != exact, fixed, bits).view(f4))


def to_f16(x):
    r = x.astype(f2)
    return np.where(np.isnan(x), u2(0x7FFF).view(f2), r)


def to_tf32(x, away):
    """Round to 10 bits of mantissa, to nearest, ties away or to even."""
    bits = x.view(u4)
    half = u4(0x1000) if away else u4(0xFFF) + (bits >> u4(13) & u4(1))
    return np.where(np.isfinite(x), (bits + half) & u4(0xFFFFE000), bits)


def f16_half(pair, which):
    """One half of a pair as f32."""
    return (pair >> u4(16 * which)).astype(u2).view(f2).astype(f4)


def bf16_half(pair, which):
    return from_bf16((pair >> u4(16 * which)).astype(u2))


def pack_f16(low, high):
    return to_f16(low).view(u2).astype(u4) | to_f16(high).view(u2).astype(u4) << u4(16)


def pack_bf16(low, high):
    return to_bf16(low).astype(u4) | to_bf16(high).astype(u4) << u4(16)


ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def to_integer(x, how, dtype):
    """Clamped to the range; NaN gives 0 (the top bit set for 64 bits)."""
    info = np.iinfo(dtype)
    r = ROUND[how](x.astype(f8))
    nan = np.isnan(r)
    low, high = r <= float(info.min), r >= float(info.max)
    inner = np.where(nan | low | high, 0, r)
    q = inner.astype(i8).astype(dtype) if info.max < 2**63 else inner.astype(u8).astype(dtype)
    q = np.where(low, dtype(info.min), np.where(high, dtype(info.max), q))
    return np.where(nan, dtype(info.min if info.bits == 64 and info.min < 0 else 0), q)
