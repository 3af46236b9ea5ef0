"""Clusters: CTAs that share a barrier, and operands that are copied into the shared memory of all of them."""

import re

import pytest
import torch

from triton_conv3dt.kernels.gluon_names import load_box

from .driver import emulating
from .kernels import in_every_mode, integers
from .machine.faults import Fault

hopper_names = pytest.importorskip("triton.experimental.gluon.language.nvidia.hopper", reason="no Gluon")
if not hasattr(hopper_names, "cluster"):
    pytest.skip("Gluon has clusters from Triton 3.7 on", allow_module_level=True)

from triton.experimental import gluon  # noqa: E402
from triton.experimental.gluon import language as gl  # noqa: E402
from triton.experimental.gluon.language.nvidia.hopper import (  # noqa: E402
    cluster, mbarrier, warpgroup_mma, warpgroup_mma_wait)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor  # noqa: E402


@gluon.jit
def issue(a, b, k, full, to_a, to_b, live, A_SHARED: gl.constexpr, B_SHARED: gl.constexpr, BYTES: gl.constexpr):
    mbarrier.expect(full, BYTES, pred=live)
    load_box(a, [gl.program_id(0) * a.block_shape[0], k], full, to_a, pred=live, multicast=A_SHARED)
    load_box(b, [gl.program_id(1) * b.block_shape[0], k], full, to_b, pred=live, multicast=B_SHARED)


@gluon.jit
def product(a, b, c, K, N, STAGES: gl.constexpr, ACC: gl.constexpr, A_SHARED: gl.constexpr, B_SHARED: gl.constexpr,
            BYTES: gl.constexpr):
    """c = a @ b.T in tiles of a cluster; who shares a box of an operand gets it from the first of them."""
    BM: gl.constexpr = a.block_shape[0]
    BN: gl.constexpr = b.block_shape[0]
    BK: gl.constexpr = a.block_shape[1]
    to_a = gl.allocate_shared_memory(a.dtype, [STAGES, BM, BK], a.layout)
    to_b = gl.allocate_shared_memory(b.dtype, [STAGES, BN, BK], b.layout)
    full = mbarrier.allocate_mbarrier(batch=STAGES)
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
    mbarrier.sync_cluster_init()
    acc = gl.zeros([BM, BN], gl.float32, ACC)
    steps = gl.cdiv(K, BK)
    for i in gl.static_range(STAGES - 1):
        issue(a, b, i * BK, full.index(i), to_a.index(i), to_b.index(i), i < steps, A_SHARED, B_SHARED, BYTES)
    for i in range(steps):
        s = i % STAGES
        mbarrier.wait(full.index(s), (i // STAGES) & 1)
        acc = warpgroup_mma(to_a.index(s), to_b.index(s).permute([1, 0]), acc, is_async=True)
        acc = warpgroup_mma_wait(1, deps=[acc])
        cluster.arrive(relaxed=True)
        cluster.wait()
        ahead = i + STAGES - 1
        s = ahead % STAGES
        issue(a, b, ahead * BK, full.index(s), to_a.index(s), to_b.index(s), ahead < steps, A_SHARED, B_SHARED, BYTES)
    acc = warpgroup_mma_wait(0, deps=[acc])
    m = gl.program_id(0) * BM + gl.arange(0, BM, gl.SliceLayout(1, ACC))
    n = gl.program_id(1) * BN + gl.arange(0, BN, gl.SliceLayout(0, ACC))
    gl.store(c + m[:, None] * N + n[None, :], acc)


def multiplied(a, b, split_m, split_n, stages=3):
    """a @ b.T by clusters of split_m x split_n CTAs, each with a tile of 64 x 32 and 128 bytes of K."""
    (m, k), n, item = a.shape, b.shape[0], a.element_size()
    bm, bn, bk = 64 * split_m, 32 * split_n, 128 // item
    basis_m, basis_n = [[1, 0]] * (split_m == 2), [[1, 0]] * (split_n == 2)
    stay_m, stay_n = [[0, 0]] * (split_m == 2), [[0, 0]] * (split_n == 2)

    def described(t, rows, cga):
        layout = gl.NVMMASharedLayout(128, 8 * item, 2, cga_layout=cga)
        return TensorDescriptor(t, list(t.shape), list(t.stride()), [rows, bk], layout)

    acc = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 32, 32 // item], cga_layout=basis_m + [[0, 1]] * (split_n == 2))
    c = torch.full((m, n), float("nan"))
    product[(m // bm, n // bn)](
        described(a, bm, basis_m + stay_n), described(b, bn, stay_m + basis_n), c, k, n, STAGES=stages, ACC=acc,
        A_SHARED=split_n > 1, B_SHARED=split_m > 1, BYTES=(64 + 32) * 128, num_warps=4, num_ctas=split_m * split_n)
    return c


@pytest.mark.parametrize("split", ((2, 1), (1, 2), (2, 2)), ids=str)
@pytest.mark.parametrize("dtype", (torch.float16, torch.float32), ids=str)
def test_products(dtype, split):
    a, b = integers((256, 7 * 32), dtype), integers((64, 7 * 32), dtype, seed=1)
    with emulating("nvidia_h200", races=True, exact=True) as emulator:
        c = in_every_mode(emulator, lambda: multiplied(a, b, *split))
    assert torch.equal(c, a.float() @ b.float().T)
