"""Floating-point instructions against exact references, rounded once."""

from fractions import Fraction

import numpy as np
import torch

from .byhand import bits32, elementwise, f32, round_to, rounded32, signed


def floats(count=800, seed=0, spread=12):
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(count) * 2.0 ** rng.integers(-spread, spread, count)).astype(np.float32)
    return [int(v) for v in values.view(np.uint32)]


def test_fma_rounds_once():
    a, b = floats(1000, 1), floats(1000, 2)
    near = np.random.default_rng(3).choice([0, 1e-7, 1, 1e-3, 2**-24], len(a))  # most of a product is cancelled
    c = [bits32(-f32(x) * f32(y) * (1 + d)) for x, y, d in zip(a, b, near)]
    found = elementwise("fma.rn.f32 {d}, {0}, {1}, {2};", [a, b, c], 4)
    for x, y, z, got in zip(a, b, c, found):
        exact = Fraction(f32(x)) * Fraction(f32(y)) + Fraction(f32(z))
        if exact:
            assert got == rounded32(exact), (f32(x), f32(y), f32(z))


def test_fma_is_not_rounded_by_way_of_double():
    """Sums so near a tie of fp32 that a double cannot tell them from it: rounding twice goes to the even neighbour."""
    up, down = bits32((1 + 2.0**-23) * 2.0**-12), bits32((1 - 2.0**-23) * 2.0**-12)  # their product: 2**-24 - 2**-70
    odd = [bits32(sign * (1 + 2.0**-23)) for sign in (1, -1)]
    found = elementwise("fma.rn.f32 {d}, {0}, {1}, {2};", [[up, up ^ 1 << 31], [down, down], odd], 4)
    assert found == [rounded32(Fraction(f32(x)) * Fraction(f32(down)) + Fraction(f32(z)))
                     for x, z in zip([up, up ^ 1 << 31], odd)] == odd


def test_conversions_to_halves():
    edges = [0x477FE000, 0x477FF000, 0x477FEFFF, 0x33000000, 0x33000001, 0x7F800000]
    a = floats(1000, 4, 20) + [0x38800000 + i * 0x1000 for i in range(-3, 4)] + edges
    got = elementwise("cvt.rn.f16.f32 %rs1, {0}; cvt.u32.u16 {d}, %rs1;", [a], 4)
    want = torch.tensor([f32(v) for v in a]).half().view(torch.int16).tolist()
    assert [g & 0xFFFF for g in got] == [w & 0xFFFF for w in want]
    got = elementwise("cvt.rn.bf16x2.f32 {d}, {0}, {1};", [a, a[::-1]], 4)
    want = torch.tensor([f32(v) for v in a]).bfloat16().view(torch.int16).tolist()
    assert [g >> 16 for g in got] == [w & 0xFFFF for w in want]
    assert [g & 0xFFFF for g in got] == [w & 0xFFFF for w in want[::-1]]
    back = elementwise("mov.b32 {{%rs1, %rs2}}, {0}; cvt.f32.bf16 {d}, %rs2;", [got], 4)
    assert back == [(w & 0xFFFF) << 16 for w in want]
    got = elementwise("cvt.rn.f16x2.f32 {d}, {0}, {0}; mov.b32 {{%rs1, %rs2}}, {d}; cvt.f32.f16 {d}, %rs1;", [a], 4)
    assert got == [bits32(v) for v in torch.tensor([f32(v) for v in a]).half().float().tolist()]
    nan = elementwise("cvt.rn.f16.f32 %rs1, {0}; cvt.u32.u16 {d}, %rs1;", [[0x7FC00000, 0xFF800001]], 4)
    assert nan == [0x7FFF, 0x7FFF]
    got = elementwise("cvt.rna.tf32.f32 {d}, {0};", [[0x3F801000, 0x3F800FFF, 0x3F803000, 0xBF801000]], 4)
    assert got == [0x3F802000, 0x3F800000, 0x3F804000, 0xBF802000]


def test_float_operations():
    a, b = floats(500, 5), floats(500, 6)
    x, y = (np.array(column, np.uint32).view(np.float32) for column in (a, b))
    for name, function in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div.rn", np.divide),
                           ("min", np.minimum), ("max", np.maximum)):
        want = function(x, y).view(np.uint32)
        assert elementwise(name + ".f32 {d}, {0}, {1};", [a, b], 4) == want.tolist(), name


def test_what_is_no_number():
    nan, one, minus = 0x7FC00000, 0x3F800000, 0x80000000
    assert elementwise("max.f32 {d}, {0}, {1};", [[nan, one, minus, 0], [one, nan, 0, minus]], 4) == [one, one, 0, 0]
    got = elementwise("max.NaN.f32 {d}, {0}, {1};", [[nan, one], [one, nan]], 4)
    assert all(v & 0x7FFFFFFF > 0x7F800000 for v in got)
    compare = "setp.{}.f32 %p1, {{0}}, {{1}}; selp.b32 {{d}}, 1, 0, %p1;"
    for name, want in (("lt", [0, 0, 0]), ("ltu", [1, 1, 0]), ("ne", [0, 0, 0]), ("neu", [1, 1, 0]), ("eq", [0, 0, 1]),
                       ("equ", [1, 1, 1]), ("ge", [0, 0, 1]), ("geu", [1, 1, 1]), ("nan", [1, 1, 0]),
                       ("num", [0, 0, 1])):
        assert elementwise(compare.format(name), [[nan, one, one], [one, nan, one]], 4) == want, name


def test_functions():
    for text, function in (("ex2.approx.ftz.f32", np.exp2), ("lg2.approx.f32", np.log2),
                           ("rcp.approx.f32", np.reciprocal), ("tanh.approx.f32", np.tanh), ("sqrt.rn.f32", np.sqrt),
                           ("rsqrt.approx.f32", lambda v: 1 / np.sqrt(v))):
        x = np.linspace(0.01, 9, 64).astype(np.float32)
        got = np.array(elementwise(text + " {d}, {0};", [x.view(np.uint32).tolist()], 4), np.uint32).view(np.float32)
        assert np.allclose(got, function(x.astype(np.float64)), rtol=1e-6)


def test_conversions_of_integers():
    for how, function in (("rzi", np.trunc), ("rni", np.rint), ("rmi", np.floor), ("rpi", np.ceil)):
        x = np.array([1.5, -1.5, 2.5, 3e9, -3e9, np.nan, 0.49, -0.51], np.float32)
        want = [int(np.clip(v, -2**31, 2**31 - 1)) % 2**32 if v == v else 0 for v in function(x.astype(np.float64))]
        assert elementwise(f"cvt.{how}.s32.f32 {{d}}, {{0}};", [x.view(np.uint32).tolist()], 4) == want
    ints = [0, 1, 2**24 + 1, 2**24 + 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    assert elementwise("cvt.rn.f32.s32 {d}, {0};", [ints], 4) == [rounded32(Fraction(signed(v, 32))) for v in ints]
    assert elementwise("cvt.rn.f32.u32 {d}, {0};", [ints], 4) == [rounded32(Fraction(v)) for v in ints]


def test_pairs_of_halves():
    rng = np.random.default_rng(7)
    a, b, c = (rng.standard_normal((400, 2)).astype(np.float16) for _ in range(3))
    pack = lambda h: h.view(np.uint32).reshape(-1).tolist()
    for text, want in (("mul.f16x2 {d}, {0}, {1};", a * b), ("add.f16x2 {d}, {0}, {1};", a + b),
                       ("fma.rn.f16x2 {d}, {0}, {1}, {2};", (a.astype(np.float64) * b + c).astype(np.float16))):
        assert elementwise(text, [pack(a), pack(b), pack(c)][:text.count("{") - 1], 4) == pack(want), text
    text = ("setp.gt.f16x2 %p1|%p2, {0}, {1}; selp.b32 %r30, 1, 0, %p1; selp.b32 %r31, 2, 0, %p2; "
            "or.b32 {d}, %r30, %r31;")
    assert elementwise(text, [pack(a), pack(b)], 4) == ((a[:, 0] > b[:, 0]) + 2 * (a[:, 1] > b[:, 1])).tolist()
    x, y, z = (torch.from_numpy(rng.standard_normal(400)).bfloat16() for _ in range(3))
    bits = lambda t: [v & 0xFFFF for v in t.view(torch.int16).tolist()]
    got = elementwise("fma.rn.bf16 {d}, {0}, {1}, {2};", [bits(x), bits(y), bits(z)], 2)
    exact = [Fraction(float(p)) * Fraction(float(q)) + Fraction(float(r)) for p, q, r in zip(x, y, z)]
    want = [round_to(value, 8, -133, 127, lambda v: bits32(v) >> 16) for value in exact]
    assert got == want
