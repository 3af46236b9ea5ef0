"""Kernels that are not the library's, early and late, for both targets, against PyTorch."""

from itertools import product

import pytest
import torch
import triton

from .kernels import (add_kernel, describe, divide, in_every_mode, integers, matmul_descriptors, multiplied, persistent,
                      reduce, round_kernel, softmax, transpose)
from .machine.faults import Fault

pytestmark = pytest.mark.slow
TILES = ((64, 64, 32, 4, 2), (128, 64, 64, 8, 3), (64, 128, 32, 4, 4), (16, 16, 16, 4, 2), (32, 64, 16, 2, 3),
         (256, 64, 32, 8, 2), (64, 16, 64, 4, 3))  # M, N, K, warps, stages
DESCRIBED = ((64, 64, 64, 4, 3), (128, 128, 64, 8, 3), (128, 64, 32, 4, 2), (64, 128, 16, 4, 4))
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def test_sums(emulator):
    for n, dtype in product((1, 1000, 4096), (torch.float32, torch.float16, torch.int32, torch.int64)):
        x, y = integers((n,), dtype), integers((n,), dtype, seed=1)

        def call():
            out = torch.full((n,), -99, dtype=dtype)
            add_kernel[(triton.cdiv(n, 512),)](x, y, out, n, BLOCK=512)
            return out

        assert torch.equal(in_every_mode(emulator, call), x + y)


def in_turn(tiles):
    """Every tile with one of the dtypes, the first with all."""
    return [(dtype, tiles[0]) for dtype in DTYPES] + [(DTYPES[i % 3], tile) for i, tile in enumerate(tiles) if i]


@pytest.mark.parametrize("dtype, tile", in_turn(TILES), ids=str)
def test_products(emulator, dtype, tile):
    """Whole tiles and parts of them, each in another order of the operands' axes."""
    bm, bn, bk = tile[:3]
    orders = ("nn", "tn", "nt")
    turn = TILES.index(tile) + DTYPES.index(dtype)
    for i, (m, n, k) in enumerate(((bm, bn, 3 * bk), (bm - 7, 2 * bn - 5, 4 * bk - 3))):
        order = orders[(turn + i) % 3]
        a, b = integers((m, k), dtype, seed=2), integers((k, n), dtype, seed=3)
        a = a.t().contiguous().t() if order[0] == "t" else a
        b = b.t().contiguous().t() if order[1] == "t" else b
        result = in_every_mode(emulator, lambda: multiplied(a, b, tile), every=i == 1)
        assert torch.equal(result, (a.double() @ b.double()).float()), (m, n, k, order)


def test_rounding_to_tf32(emulator):
    """What tensor cores leave of values that are rounded up is what rounding to the nearest makes of them."""
    x = torch.randn(2048) * 2.0 ** torch.randint(-130, 128, (2048,))
    bits = [0, 1 << 31, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x3F801000, 0x3F800FFF, 0xBF803000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000]
    x[:len(bits)] = torch.tensor(bits).to(torch.int32).view(torch.float32)
    nearest, up = torch.empty_like(x), torch.empty_like(x)
    round_kernel[(1,)](x, nearest, up, N=2048)
    left = (up.view(torch.int32) & -8192).view(torch.float32)
    assert torch.equal(left.isnan(), x.isnan()) and torch.equal(left[~x.isnan()], nearest[~x.isnan()])


@pytest.mark.parametrize("precision, bound", (("ieee", 2e-6), ("tf32x3", 2e-6), ("tf32", 2e-3)))
def test_precision_of_fp32(emulator, precision, bound):
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 96, generator=g), torch.randn(96, 64, generator=g)
    result = in_every_mode(emulator, lambda: multiplied(a, b, (64, 64, 32, 4, 3), precision))
    error = (result - a.double() @ b.double()).abs().max() / (a.double().abs() @ b.double().abs()).max()
    assert error < bound and (precision != "tf32" or error > 1e-5)  # tf32 must have lost what it loses


@pytest.mark.parametrize("dtype, tile", in_turn(DESCRIBED), ids=str)
def test_products_by_descriptors(hopper, dtype, tile):
    bm, bn, bk, warps, stages = tile
    bk = max(16, bk // 2) if dtype == torch.float32 else bk
    for m, n, k in ((bm, bn, 3 * bk), (bm + 8, 2 * bn - 16, 2 * bk + 8)):
        a, b = integers((m, k), dtype, seed=2), integers((k, n), dtype, bound=3, seed=3)

        def call():
            c = torch.full((m, n), float("nan"), dtype=dtype)
            operands = describe(a, (bm, bk)), describe(b, (bk, bn)), describe(c, (bm, bn))
            grid = triton.cdiv(m, bm), triton.cdiv(n, bn)
            matmul_descriptors[grid](*operands, k, BM=bm, BN=bn, BK=bk, STAGES=stages, num_warps=warps)
            return c

        assert torch.equal(in_every_mode(hopper, call, every=m != bm), (a.double() @ b.double()).to(dtype)), (m, n, k)
        assert "cp.async.bulk.tensor.2d" in hopper.launches[-1].ptx


def test_descriptors_that_hardware_refuses(hopper):
    a = torch.zeros(64 * 72 + 8, dtype=torch.float16)

    def launch(t, pitch):
        other = describe(a.as_strided((64, 64), (64, 1)), (64, 64))
        first = describe(t.as_strided((64, 64), (64, 1)), (64, 64))
        first.strides = [pitch, 1]
        matmul_descriptors[(1, 1)](first, other, other, 64, BM=64, BN=64, BK=64, STAGES=2, num_warps=4)

    launch(a, 64)
    with pytest.raises(Fault, match="multiple of 16|aligned"):
        launch(a, 68)
    with pytest.raises((Fault, AssertionError), match="multiple of 16|align"):
        launch(a[4:], 64)


def test_transposes(emulator):
    for dtype, (m, n) in product((torch.float16, torch.float32, torch.int8), ((64, 64), (70, 33))):
        x = integers((m, n), dtype)

        def call():
            y = torch.full((n, m), 77, dtype=dtype)
            transpose[(triton.cdiv(m, 32), triton.cdiv(n, 64))](x, y, m, n, BM=32, BN=64)
            return y

        assert torch.equal(in_every_mode(emulator, call), x.t())


def test_reductions(emulator):
    for dtype, n in product((torch.int32, torch.float32), (100, 700)):
        orders = [torch.randperm(n, generator=torch.Generator().manual_seed(i)) for i in range(6)]
        x = (torch.stack(orders) - 50).to(dtype)

        def call():
            results, where = torch.zeros(3, 6, dtype=dtype), torch.zeros(6, dtype=torch.int32)
            reduce[(6,)](x, results[0], results[1], where, n, BLOCK=1024)
            results[2] = where.to(dtype)
            return results

        exact = torch.stack([x.sum(1), x.max(1).values, x.argmax(1)])
        assert torch.equal(in_every_mode(emulator, call), exact.to(dtype))


def test_softmax(emulator):
    for dtype in DTYPES:
        x = torch.randn(5, 300, generator=torch.Generator().manual_seed(1)).to(dtype)

        def call():
            y = torch.zeros_like(x)
            softmax[(5,)](x, y, 300, BLOCK=512)
            return y

        y = in_every_mode(emulator, call).double()
        assert torch.allclose(y, x.double().softmax(1), rtol=0, atol=torch.finfo(dtype).eps)


def test_divisions(emulator):
    for dtype in (torch.int32, torch.int64):
        x, y = integers((3000,), dtype, 2**20), integers((3000,), dtype, 2000, seed=1)
        y[y == 0] = 1

        def call():
            q, r = torch.zeros(2, 3000, dtype=dtype)
            divide[(3,)](x, y, q, r, 3000, BLOCK=1024)
            return torch.stack([q, r])

        exact = torch.stack([torch.div(x, y, rounding_mode="trunc"), torch.fmod(x, y)])
        assert torch.equal(in_every_mode(emulator, call), exact)


def test_programs_of_different_length(emulator):
    x = integers((37, 640), torch.int32)

    def call():
        out = torch.zeros(37, dtype=torch.int32)
        persistent[(5,)](x, out, 37, 640, BLOCK=128)
        return out

    exact = torch.stack([x[i, :(i % 5 + 1) * 128].sum() for i in range(37)])
    assert torch.equal(in_every_mode(emulator, call), exact.int())
