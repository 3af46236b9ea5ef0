"""What is counted, where it can be worked out by hand."""

import pytest
import torch

from .byhand import run_ptx
from .driver import emulating
from .kernels import add_kernel, describe, matmul_descriptors, multiplied
from .machine.count import Counters, table

ONE, TWO, FOUR = "%r1", "{%r1, %r1}", "{%r1, %r1, %r1, %r1}"
BANKS = (  # bytes between threads, the store, its operand, wavefronts, their least
    (4, "b32", ONE, 1, 1), (8, "b32", ONE, 2, 1), (128, "b32", ONE, 32, 1), (132, "b32", ONE, 1, 1),
    (16, "v4.b32", FOUR, 4, 4), (144, "v4.b32", FOUR, 4, 4), (128, "v4.b32", FOUR, 32, 4), (2, "b16", "%rs1", 1, 1),
    (64, "b16", "%rs1", 16, 1), (8, "v2.b32", TWO, 2, 2), (16, "v2.b32", TWO, 4, 2))


def counted(target, call):
    """The launch that call() makes, and what was counted."""
    with emulating(target, counting=True) as emulator:
        call()
    return emulator.launches[-1].summary()


def counters_of(body, *args, **options):
    """The counters of a body of PTX."""
    counters = Counters()
    run_ptx(body, *args, counters=counters, **options)
    return counters


def test_a_copy(emulator):
    n = 4096
    x, out = torch.zeros(n, dtype=torch.float32), torch.zeros(n, dtype=torch.float32)
    found = counted(emulator.target, lambda: add_kernel[(4,)](x, x, out, n, BLOCK=1024, num_warps=4))
    # 1024 floats for 128 threads: two accesses of 16 bytes each; two loads and a store; 4 warps, 4 programs
    assert found["global_requests"] == {"load": 2 * 2 * 16, "store": 2 * 16, "copy": 0}
    assert found["sectors"] == {"load": 2 * n * 4 // 32, "store": n * 4 // 32, "copy": 0} == found["ideal_sectors"]
    assert found["bytes_asked"] == {"load": 2 * n * 4, "store": n * 4, "copy": 0}
    assert found["sector_efficiency"] == 1.0
    assert found["unique_bytes"]["x/y"]["read"] == n * 4
    assert found["unique_bytes"]["out"] == {"size": n * 4, "read": 0, "written": n * 4, "rewritten": 0}
    classes = found["classes"]
    assert (classes["load global"], classes["store global"], classes["float"]) == (2 * 2 * 16, 32, 8 * 16)
    assert "sector_efficiency" in table(found)


@pytest.mark.parametrize("step, sectors, least", ((1, 4, 4), (2, 8, 4), (8, 32, 4), (16, 32, 4), (0, 1, 1)))
def test_sectors(step, sectors, least):
    x = torch.zeros(32 * 64, dtype=torch.int32)
    found = counters_of(f"mov.u32 %r1, %tid.x; ld.param.b64 %rd1, [p_0]; mad.wide.u32 %rd2, %r1, {4 * step}, %rd1; "
                        "ld.global.b32 %r2, [%rd2];", x)
    assert (found.sectors["load"], found.ideal_sectors["load"], found.requests["load"]) == (sectors, least, 1)


def test_sectors_of_some_threads():
    x = torch.zeros(32 * 64, dtype=torch.int32)
    found = counters_of("mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 5; ld.param.b64 %rd1, [p_0]; "
                        "mad.wide.u32 %rd2, %r1, 64, %rd1; @%p1 ld.global.v4.b32 {%r2, %r3, %r4, %r5}, [%rd2];", x,
                        threads=64)
    assert (found.sectors["load"], found.ideal_sectors["load"]) == (5, 3)
    assert (found.requests["load"], found.bytes["load"]) == (1, 80)
    assert found.instructions()["load global"] == 2  # both warps issue it


@pytest.mark.parametrize("step, kind, value, wavefronts, least", BANKS)
def test_bank_conflicts(step, kind, value, wavefronts, least):
    found = counters_of(f"mov.u32 %r1, %tid.x; mov.b32 %r2, global_smem; mad.lo.s32 %r3, %r1, {step}, %r2; "
                        f"st.shared.{kind} [%r3], {value};", shared=8192)
    assert (found.wavefronts, found.ideal_wavefronts) == (wavefronts, least)


def test_a_broadcast_is_one_wavefront():
    found = counters_of("mov.b32 %r2, global_smem; st.shared.b32 [%r2], %r2; ld.shared.b32 %r3, [%r2];", shared=64)
    assert found.wavefronts == 2


@pytest.mark.parametrize("step, wavefronts", ((16, 4), (32, 8), (128, 32), (144, 4)))
def test_bank_conflicts_of_matrices(step, wavefronts):
    found = counters_of(f"mov.u32 %r1, %tid.x; mov.b32 %r2, global_smem; mad.lo.s32 %r3, %r1, {step}, %r2; "
                        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r3];", shared=8192)
    assert (found.wavefronts, found.ideal_wavefronts) == (wavefronts, 4)


def test_a_product(emulator):
    a, b = torch.zeros(128, 96, dtype=torch.float16), torch.zeros(96, 64, dtype=torch.float16)
    found = counted(emulator.target, lambda: multiplied(a, b, (64, 64, 32, 4, 3)))
    assert found["flops"] == 2 * 128 * 64 * 96
    # wgmma: m64n64k16, 4 warps; mma.sync: m16n8k16 each
    each = 64 * 64 * 16 // 4 if emulator.target == "nvidia_h200" else 16 * 8 * 16
    assert found["classes"]["tensor core"] == 128 * 64 * 96 // each
    assert found["bytes_asked"]["copy"] + found["bytes_asked"]["load"] == 2 * (128 * 96 + 2 * 96 * 64)
    assert found["unique_bytes"]["a"]["read"] == a.numel() * 2
    assert found["unique_bytes"]["c"]["written"] == 128 * 64 * 4


def test_tensor_copies(hopper):
    a, b, c = (torch.zeros(128, n, dtype=torch.float16) for n in (128, 64, 64))
    operands = [describe(t, (64, 64)) for t in (a, b, c)]
    launch = lambda: matmul_descriptors[(2, 1)](*operands, 128, BM=64, BN=64, BK=64, STAGES=3, num_warps=4)
    found = counted(hopper.target, launch)
    assert found["tensor_bytes"] == found["tensor_bytes_inside"] == 2 * 2 * (64 * 64 + 64 * 64) * 2
    assert found["tensor_sectors"] == found["tensor_bytes"] // 32
