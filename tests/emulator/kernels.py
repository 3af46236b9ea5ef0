"""Triton kernels that are not the library's: what the emulator's own tests run."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from triton_conv3dt.kernels.tiles import round_tf32, round_up_tf32


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n), mask=i < n)


@triton.jit
def round_kernel(x, nearest, up, N: tl.constexpr):
    i = tl.arange(0, N)
    value = tl.load(x + i)
    tl.store(nearest + i, round_tf32(value))
    tl.store(up + i, round_up_tf32(value))


@triton.jit
def matmul(a, b, c, M, N, K, a_m, a_k, b_k, b_n, c_m, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
           STAGES: tl.constexpr, PRECISION: tl.constexpr):
    m, n, k = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
    acc = tl.zeros((BM, BN), tl.float32)
    for s in tl.range(0, K, BK, num_stages=STAGES):
        a_at, a_live = a + m[:, None] * a_m + (s + k)[None, :] * a_k, (m < M)[:, None] & (s + k < K)[None, :]
        b_at, b_live = b + (s + k)[:, None] * b_k + n[None, :] * b_n, (n < N)[None, :] & (s + k < K)[:, None]
        acc = tl.dot(tl.load(a_at, mask=a_live, other=0.0), tl.load(b_at, mask=b_live, other=0.0), acc,
                     input_precision=PRECISION)
    tl.store(c + m[:, None] * c_m + n[None, :], acc.to(c.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


@triton.jit
def matmul_descriptors(a, b, c, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr):
    m, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    acc = tl.zeros((BM, BN), tl.float32)
    for s in tl.range(0, K, BK, num_stages=STAGES):
        acc = tl.dot(a.load([m, s]), b.load([s, n]), acc)
    c.store([m, n], acc.to(c.dtype))


@triton.jit
def transpose(x, y, M, N, BM: tl.constexpr, BN: tl.constexpr):
    m, n = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    live = (m < M)[:, None] & (n < N)[None, :]
    tile = tl.trans(tl.load(x + m[:, None] * N + n[None, :], mask=live, other=0.0))
    tl.store(y + n[:, None] * M + m[None, :], tile, mask=tl.trans(live))


@triton.jit
def reduce(x, total, most, where, N, BLOCK: tl.constexpr):
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    v = tl.load(x + row * N + i, mask=i < N, other=-1000)
    tl.store(total + row, tl.sum(tl.where(i < N, v, 0)))
    tl.store(most + row, tl.max(v))
    tl.store(where + row, tl.argmax(v, 0))


@triton.jit
def softmax(x, y, N, BLOCK: tl.constexpr):
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    v = tl.load(x + row * N + i, mask=i < N, other=float("-inf")).to(tl.float32)
    e = tl.exp(v - tl.max(v, 0))
    tl.store(y + row * N + i, (e / tl.sum(e, 0)).to(y.dtype.element_ty), mask=i < N)


@triton.jit
def divide(x, y, q, r, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a, b = tl.load(x + i, mask=i < n, other=1), tl.load(y + i, mask=i < n, other=1)
    tl.store(q + i, a // b, mask=i < n)
    tl.store(r + i, a % b, mask=i < n)


@triton.jit
def persistent(x, out, rows, N, BLOCK: tl.constexpr):
    """Programs take rows in turn, as many as there are left for them, and loop over each row's own length."""
    i = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        total = tl.zeros((BLOCK,), tl.int32)
        for s in range(0, (row % 5 + 1) * BLOCK, BLOCK):
            total += tl.load(x + row * N + s + i, mask=s + i < N, other=0)
        tl.store(out + row, tl.sum(total))


def integers(shape, dtype, bound=8, seed=0):
    return torch.randint(-bound, bound + 1, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@triton.jit
def hinted(x, y, step, BLOCK: tl.constexpr):
    i = tl.max_contiguous(tl.multiple_of(step + tl.arange(0, BLOCK), 8), 8)
    tl.store(y + tl.arange(0, BLOCK), tl.load(x + i))


def multiplied(a, b, tile, precision="tf32"):
    """a @ b in fp32. tile: M, N, K, warps, stages."""
    (m, k), n = a.shape, b.shape[1]
    bm, bn, bk, warps, stages = tile
    c = torch.full((m, n), float("nan"))
    matmul[(triton.cdiv(m, bm), triton.cdiv(n, bn))](
        a, b, c, m, n, k, *a.stride(), *b.stride(), n, BM=bm, BN=bn, BK=bk, STAGES=stages, PRECISION=precision,
        num_warps=warps)
    return c


def describe(t, box):
    """A descriptor of a tensor, read or written in such boxes."""
    return TensorDescriptor(t, list(t.shape), list(t.stride()), list(box))


def in_every_mode(emulator, call, every=True):
    """call() early and late; every result must be the same, and nothing may be warned of."""
    results = [result for _, _, result in emulator.modes(call, every)]
    for other in results[1:]:
        assert torch.equal(results[0], other)
    assert not emulator.warnings(), emulator.warnings()
    return results[0]
