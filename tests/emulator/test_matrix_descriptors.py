"""wgmma on operands that are laid out by hand, in every swizzle and both majors, against a product."""

import numpy as np
import pytest
import torch

from .byhand import run_ptx

SPANS = {0: 8, 1: 64, 2: 32, 3: 16}  # items of a swizzled row, by the descriptor's mode
SWIZZLES = {0: 0, 1: 7, 2: 3, 3: 1}  # bits of an address from 7 on that are added to those from 4 on
BODY = """
    mov.u32 %r1, %tid.x; mov.b32 %r2, global_smem; ld.param.b64 %rd1, [p_0]; ld.param.b64 %rd2, [p_1]; mov.b32 %r3, 0;
$L: mad.lo.s32 %r4, %r3, 2048, 0; shl.b32 %r5, %r1, 4; add.s32 %r4, %r4, %r5; cvt.u64.u32 %rd3, %r4;
    add.s64 %rd4, %rd1, %rd3;
    ld.global.v4.b32 {{%r11, %r12, %r13, %r14}}, [%rd4]; add.s32 %r6, %r2, %r4;
    st.shared.v4.b32 [%r6], {{%r11, %r12, %r13, %r14}};
    add.s32 %r3, %r3, 1; setp.lt.s32 %p1, %r3, 16; @%p1 bra $L;
    fence.proxy.async.shared::cta; bar.sync 0;
    bfe.u32 %r7, %r2, 4, 14; cvt.u64.u32 %rd5, %r7; add.s64 %rd6, %rd5, 1024;
    or.b64 %rd5, %rd5, {a}; or.b64 %rd6, %rd6, {b};
    wgmma.fence.sync.aligned;
    {product}, %rd5, %rd6, 0, 1, 1, {majors};
    {product}, %rd5, %rd6, 1, -1, 1, {majors};
    {product}, %rd5, %rd6, 1, 1, 1, {majors};
    wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
    shr.u32 %r20, %r1, 5; and.b32 %r21, %r1, 31; shr.u32 %r22, %r21, 2; and.b32 %r23, %r21, 3;
    mad.lo.s32 %r24, %r20, 16, %r22; mul.lo.s32 %r25, %r24, {pitch}; mad.lo.s32 %r25, %r23, 8, %r25;
    cvt.u64.u32 %rd8, %r25; add.s64 %rd9, %rd2, %rd8;
    {stores}
"""


def placed(matrix, mode, transposed):
    """The bytes of an operand [rows, 16] in shared memory, and its descriptor but for the address."""
    rows, span, raw = matrix.shape[0], SPANS[mode], np.zeros(1 << 14, np.uint8)
    if mode == 0:
        leading, stride = (128, 256) if transposed else (128 * (rows // 8), 128)
        inner = (lambda m, k: m % 8 * 2 + k % 8 * 16) if transposed else (lambda m, k: m % 8 * 16 + k % 8 * 2)
        where = lambda m, k: inner(m, k) + m // 8 * stride + k // 8 * leading
    elif transposed:
        leading, stride = 16 * span * 2, 8 * span * 2
        where = lambda m, k: m % span * 2 + m // span * leading + k * span * 2
    else:
        leading, stride = 16, 8 * span * 2
        where = lambda m, k: m * span * 2 + k * 2
    for m, k in np.ndindex(rows, 16):
        at = where(m, k)
        at ^= (at >> 7 & SWIZZLES[mode]) << 4
        raw[at:at + 2] = np.frombuffer(matrix[m, k].tobytes(), np.uint8)
    descriptor = leading >> 4 << 16 | stride >> 4 << 32 | mode << 62
    return raw, descriptor - 2**64 if mode >= 2 else descriptor


@pytest.mark.parametrize("mode", SPANS)
@pytest.mark.parametrize("n", (32, 128))
def test_products(mode, n):
    rng = np.random.default_rng(mode)
    for trans_a, trans_b in np.ndindex(2, 2):
        a, b = rng.integers(-8, 9, (64, 16)).astype(np.float16), rng.integers(-8, 9, (16, n)).astype(np.float16)
        (raw_a, descriptor_a), (raw_b, descriptor_b) = placed(a, mode, trans_a), placed(b.T, mode, trans_b)
        registers = ", ".join(f"%f{i}" for i in range(n // 2))
        places = [8 * (i // 4) * 4 + i % 2 * 4 + i // 2 % 2 * 8 * n * 4 for i in range(n // 2)]
        body = BODY.format(
            a=descriptor_a, b=descriptor_b, majors=f"{trans_a}, {trans_b}", pitch=4 * n,
            product=f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16 {{{registers}}}",
            stores="\n".join(f"st.global.b32 [%rd9+{place}], %f{i};" for i, place in enumerate(places)))
        memory, out = torch.from_numpy(np.concatenate([raw_a, raw_b])), torch.zeros(64, n)
        declared = f".reg .b32 %f<{n // 2}>;"
        warnings = run_ptx(body, memory, out, registers=declared, threads=128, shared=32768, races=True)
        assert torch.equal(out, torch.from_numpy(a.astype(np.float32) @ b.astype(np.float32))), (trans_a, trans_b)
        assert not str(warnings), warnings
