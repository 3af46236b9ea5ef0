"""Clusters: CTAs that share a barrier, and operands that are copied into the shared memory of all of them."""

import re
from contextlib import nullcontext

import pytest
import torch

from triton_conv3dt.kernels.gluon_names import load_box

from .byhand import run_ptx
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


if hasattr(cluster, "arrive"):
    @gluon.jit
    def meet():
        cluster.arrive(relaxed=True)
        cluster.wait()

    begin = mbarrier.sync_cluster_init
else:  # Triton 3.9, which fences mbarriers by itself
    @gluon.jit
    def meet():
        cluster.barrier(relaxed=True)

    begin = meet


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
    begin()
    acc = gl.zeros([BM, BN], gl.float32, ACC)
    steps = gl.cdiv(K, BK)
    for i in gl.static_range(STAGES - 1):
        issue(a, b, i * BK, full.index(i), to_a.index(i), to_b.index(i), i < steps, A_SHARED, B_SHARED, BYTES)
    for i in range(steps):
        s = i % STAGES
        mbarrier.wait(full.index(s), (i // STAGES) & 1)
        acc = warpgroup_mma(to_a.index(s), to_b.index(s).permute([1, 0]), acc, is_async=True)
        acc = warpgroup_mma_wait(1, deps=[acc])
        meet()
        ahead = i + STAGES - 1
        s = ahead % STAGES
        issue(a, b, ahead * BK, full.index(s), to_a.index(s), to_b.index(s), ahead < steps, A_SHARED, B_SHARED, BYTES)
    acc = warpgroup_mma_wait(0, deps=[acc])
    m = gl.program_id(0) * BM + gl.arange(0, BM, gl.SliceLayout(1, ACC))
    n = gl.program_id(1) * BN + gl.arange(0, BN, gl.SliceLayout(0, ACC))
    gl.store(c + m[:, None] * N + n[None, :], acc)


@gluon.jit
def turned(x, y, out, N: gl.constexpr, LAYOUT: gl.constexpr):
    """The numbers of a cluster's CTAs in reverse, by way of memory."""
    i = gl.program_id(0) * N + gl.arange(0, N, LAYOUT)
    gl.store(y + i, gl.load(x + i))
    gl.barrier(cluster=True)
    gl.store(out + i, gl.load(y + (2 * gl.program_id(0) + 1) * N - 1 - i))


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


def test_products_of_one_cluster_at_a_time():
    a, b = integers((256, 96), torch.float16), integers((64, 96), torch.float16, seed=1)
    with emulating("nvidia_h200", threads=128) as emulator:
        assert torch.equal(multiplied(a, b, 2, 1), a.float() @ b.float().T)
        assert emulator.launches[-1].grid == (2, 2, 1)


def test_what_several_receive_is_read_once():
    a, b = integers((256, 128), torch.float16), integers((64, 128), torch.float16, seed=1)
    with emulating("nvidia_h200", counting=True) as emulator:
        for _ in emulator.modes(lambda: multiplied(a, b, 2, 1)):
            found = emulator.launches[-1].summary()
            assert found["tensor_bytes"] == found["tensor_bytes_inside"] == 2 * a.nbytes + 2 * b.nbytes
            assert found["flops"] == 2 * 256 * 64 * 128
            assert found["classes"]["copy tensor"] == 4 * 2 * 4 * 4 * 2  # issued, or not, by all warps: 4 places, 2 boxes


@pytest.mark.parametrize("ctas", (2, 4))
def test_the_barrier_orders_memory(ctas):
    x = integers((3, 128 * ctas), torch.int32)
    layout = gl.BlockedLayout([1], [32], [4], [0], cga_layout=[[2**i] for i in range(ctas // 2)])

    def call():
        y, out = torch.full_like(x, 99), torch.zeros_like(x)
        turned[(3,)](x, y, out, N=128 * ctas, LAYOUT=layout, num_warps=4, num_ctas=ctas)
        return out

    with emulating("nvidia_h200", races=True, exact=True) as emulator:
        assert torch.equal(in_every_mode(emulator, call), x.flip(1))
        emulator.edit = changed(r"barrier\.cluster\.\w+\.aligned;", "")
        assert all(not torch.equal(out, x.flip(1)) for _, _, out in emulator.modes(call))


def test_places_in_a_cluster():
    names = ("ctaid.x", "clusterid.x", "nclusterid.x", "clusterid.y", "nclusterid.y", "cluster_ctarank", "cluster_nctarank",
             "cluster_ctaid.x", "cluster_nctaid.x", "cluster_nctaid.y")
    out = torch.zeros(3, 8, 32, len(names), dtype=torch.int32)
    run_ptx("mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ctaid.y; mad.lo.s32 %r2, %r3, 8, %r2; "
            f"mad.lo.s32 %r1, %r2, 32, %r1; ld.param.b64 %rd1, [p_0]; mad.wide.s32 %rd1, %r1, {4 * len(names)}, %rd1; "
            + " ".join(f"mov.u32 %r4, %{name}; st.global.b32 [%rd1+{4 * i}], %r4;" for i, name in enumerate(names)),
            out, grid=(8, 3, 1), cluster=4)
    for y in range(3):
        for x in range(8):
            assert (out[y, x] == torch.tensor([x, x // 4, 2, y, 3, x % 4, 4, x % 4, 4, 1])).all()


# ---- faults ----

def faulty(edit, steps=7, **options):
    """How a product whose PTX was edited is found out: a wrong result, a warning or a fault; "" if it is not."""
    a, b = integers((256, steps * 64), torch.float16), integers((64, steps * 64), torch.float16, seed=1)
    with emulating("nvidia_h200", **options) as emulator:
        emulator.edit = edit
        try:
            c = multiplied(a, b, 2, 1)
        except Fault as fault:
            return str(fault)
        assert edit(emulator.launches[-1].ptx) != emulator.launches[-1].ptx
        return "; ".join(emulator.warnings()) if torch.equal(c, a.float() @ b.float().T) else "wrong result"


def changed(pattern, by, which=slice(None)):
    """An edit of some of the places of a pattern."""
    def edit(ptx):
        for place in reversed(list(re.finditer(pattern, ptx))[which]):
            ptx = ptx[:place.start()] + place.expand(by) + ptx[place.end():]
        return ptx
    return edit


MODES = [dict(copies=copies, products=products) for copies in ("late", "early") for products in ("late", "early")]
BARRIER = r"barrier\.cluster\.(arrive\.relaxed|wait)\.aligned;"  # the first two are before the first copy, two in the loop
MASK = r"(mov\.b16\s+%rs\d+, )3;"
LEAVES = r"""\g<0> {.reg .pred leaves; .reg .b32 rank;
    mov.u32 rank, %cluster_ctarank; setp.eq.b32 leaves, rank, 1; @leaves ret;}"""
FAULTS = (  # what is said in every mode
    (changed(BARRIER, "", slice(2)), "before any barrier of the cluster"),
    (changed(r"@%p\d+ fence\.mbarrier_init\.release\.cluster ;", ""), "initialised with no fence"),
    (changed(BARRIER, "", slice(2, 3)), "has not arrived waits"),
    (changed(BARRIER, "", slice(3, 4)), "arrives twice"),
    (changed(MASK, r"\g<1>1;"), "deadlock"),
    (changed(MASK, r"\g<1>2;"), "deadlock"),
    (changed(MASK, r"\g<1>7;"), "a CTA that its cluster does not have"),
    (changed(r"(expect_tx\.shared::cta\.b64 _, \[%r\d+\], )\d+;", rf"\g<1>{96 * 128 + 16};"), "deadlock"),
    (changed(r"(expect_tx\.shared::cta\.b64 _, \[%r\d+\], )\d+;", rf"\g<1>{64 * 128};"), "deadlock"),
    (changed(BARRIER, LEAVES, slice(1, 2)), ""))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(mode.values()))
def test_faults_are_found(mode):
    assert faulty(changed(r"$", r"\n"), races=True, **mode) == ""
    for edit, said in FAULTS:
        found = faulty(edit, **mode)
        assert found and said in found, (said, found)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(mode.values()))
def test_a_missing_barrier_is_found(mode):
    """The first CTA runs away from the others, or it is warned of what it copies over."""
    edit, early = changed(BARRIER, "", slice(2, None)), mode["copies"] == "early"
    assert ("deadlock" if early else "race: a tensor copy over") in faulty(edit, races=not early, **mode)


def test_a_buffer_overwritten_too_early_is_found():
    """Who arrives at the barrier has a product in flight."""
    later = changed(r"(wgmma\.wait_group\.sync\.aligned) 1;", r"\1 2;")
    for mode in MODES:
        assert mode["products"] == "early" or faulty(later, **mode) == "wrong result"


def test_a_copy_to_who_has_left_is_found():
    assert "a CTA that has left" in faulty(changed(BARRIER, LEAVES, slice(1, 2)))
    one_too_many = changed(r"(setp\.gt\.s32\s+%p\d+, %r\d+, )127;", r"\g<1>0;")
    assert "tensor copies that nobody waited for" in faulty(one_too_many, steps=1)


ARRIVE, WAIT = "barrier.cluster.arrive.aligned;", "barrier.cluster.wait.aligned;"


@pytest.mark.parametrize("body, said", (
    (f"{ARRIVE} {WAIT} {ARRIVE} {WAIT}", ""), (f"{ARRIVE} {ARRIVE}", "arrives twice"), (WAIT, "has not arrived"),
    (f"{ARRIVE} {WAIT} {WAIT}", "has not arrived"), (f"@%p1 ret; {ARRIVE} {WAIT}", "deadlock"),
    (f"@%p1 bra $L; {ARRIVE} $L: {WAIT}", "has not arrived"), (f"@%p2 bra $L; {ARRIVE} {WAIT} $L:", "not all threads of a warp"),
    (f"@%p1 bra $L; {ARRIVE} {WAIT} bra.uni $E; $L: {ARRIVE} bar.sync 0; {WAIT} $E:", "")))
def test_who_comes_to_the_barrier(body, said):
    with pytest.raises(Fault, match=said) if said else nullcontext():
        run_ptx("mov.u32 %r1, %cluster_ctarank; setp.eq.b32 %p1, %r1, 1; mov.u32 %r2, %tid.x; setp.eq.b32 %p2, %r2, 5; "
                + body, grid=(4, 1, 1), cluster=2, threads=64)


def test_what_the_barrier_orders_in_a_cta():
    """A relaxed arrival orders nothing."""
    body = """mov.u32 %r1, %tid.x; mov.b32 %r2, global_smem; mad.lo.s32 %r3, %r1, 4, %r2; st.shared.b32 [%r3], %r1;
        barrier.cluster.arrive{}.aligned; barrier.cluster.wait.aligned;
        xor.b32 %r4, %r1, 32; mad.lo.s32 %r3, %r4, 4, %r2; ld.shared.b32 %r5, [%r3];"""
    for relaxed in ("", ".relaxed"):
        found = run_ptx(body.format(relaxed), grid=(2, 1, 1), cluster=2, threads=64, shared=256, races=True)
        assert ("race: read" in str(found)) == bool(relaxed)


def test_clusters_that_are_refused():
    with pytest.raises(Fault, match="clusters of 2"):
        run_ptx("mov.u32 %r1, %tid.x;", grid=(3, 1, 1), cluster=2)
    with pytest.raises(NotImplementedError, match="barrier.cluster"):
        run_ptx(ARRIVE)
