"""wgmma on operands that are laid out by hand, in every swizzle and both majors, against a product."""

from itertools import product

import numpy as np
import torch

from .byhand import run_ptx


def test_matrix_descriptors():
    """wgmma on operands laid out by hand, in every swizzle and both majors, against a product."""
    rng = np.random.default_rng(1)
    for mode, trans_a, trans_b, n in product((0, 1, 2, 3), (0, 1), (0, 1), (32, 128)):
        a, b = rng.integers(-8, 9, (64, 16)).astype(np.float16), rng.integers(-8, 9, (16, n)).astype(np.float16)
        span = {0: 8, 1: 64, 2: 32, 3: 16}[mode]  # items of a swizzled row

        def place(matrix, transposed):  # matrix [mn, 16]; returns bytes, leading, stride
            extent = matrix.shape[0]
            raw = np.zeros(1 << 16, np.uint8)
            if not transposed:
                pitch = span * 2
                leading, stride = (128 * (extent // 8), 128) if mode == 0 else (16, 8 * pitch)
                where = lambda m, k: (m % 8 * 16 + m // 8 * stride + k // 8 * leading if mode == 0 else m * pitch + k // 8 * 16) + k % 8 * 2
            elif mode == 0:
                stride, leading = 256, 128
                where = lambda m, k: m % 8 * 2 + m // 8 * stride + k % 8 * 16 + k // 8 * leading
            else:
                stride, leading = 8 * span * 2, 16 * span * 2
                where = lambda m, k: m % span * 2 + m // span * leading + k * span * 2
            bits = {0: 0, 1: 7, 2: 3, 3: 1}[mode]
            for m in range(extent):
                for k in range(16):
                    at = where(m, k)
                    at ^= (at >> 7 & bits) << 4
                    raw[at:at + 2] = np.frombuffer(matrix[m, k].tobytes(), np.uint8)
            return raw, leading, stride

        raw_a, la, sa = place(a, trans_a)
        raw_b, lb, sb = place(np.ascontiguousarray(b.T), trans_b)
        memory = torch.from_numpy(np.concatenate([raw_a[:16384], raw_b[:16384]]))
        out = torch.zeros(64, n)
        describe = lambda leading, stride: leading >> 4 << 16 | stride >> 4 << 32 | mode << 62
        accumulators = ", ".join(f"%f{i}" for i in range(n // 2))
        stores = "\n".join(f"st.global.b32 [%rd9+{(8 * (i // 4) * 4 + (i % 2) * 4) + (i // 2 % 2) * 8 * n * 4}], %f{i};" for i in range(n // 2))
        warnings = run_ptx(f"""
            mov.u32 %r1, %tid.x; mov.b32 %r2, global_smem; ld.param.b64 %rd1, [p_0]; ld.param.b64 %rd2, [p_1]; mov.b32 %r3, 0;
        $L: mad.lo.s32 %r4, %r3, 2048, 0; shl.b32 %r5, %r1, 4; add.s32 %r4, %r4, %r5; cvt.u64.u32 %rd3, %r4; add.s64 %rd4, %rd1, %rd3;
            ld.global.v4.b32 {{%r11, %r12, %r13, %r14}}, [%rd4]; add.s32 %r6, %r2, %r4; st.shared.v4.b32 [%r6], {{%r11, %r12, %r13, %r14}};
            add.s32 %r3, %r3, 1; setp.lt.s32 %p1, %r3, 16; @%p1 bra $L;
            fence.proxy.async.shared::cta; bar.sync 0;
            bfe.u32 %r7, %r2, 4, 14; cvt.u64.u32 %rd5, %r7; add.s64 %rd6, %rd5, 1024;
            or.b64 %rd5, %rd5, {describe(la, sa) - (2**64 if mode >= 2 else 0)}; or.b64 %rd6, %rd6, {describe(lb, sb) - (2**64 if mode >= 2 else 0)};
            wgmma.fence.sync.aligned;
            wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16 {{{accumulators}}}, %rd5, %rd6, 0, 1, 1, {trans_a}, {trans_b};
            wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16 {{{accumulators}}}, %rd5, %rd6, 1, -1, 1, {trans_a}, {trans_b};
            wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16 {{{accumulators}}}, %rd5, %rd6, 1, 1, 1, {trans_a}, {trans_b};
            wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
            shr.u32 %r20, %r1, 5; and.b32 %r21, %r1, 31; shr.u32 %r22, %r21, 2; and.b32 %r23, %r21, 3;
            mad.lo.s32 %r24, %r20, 16, %r22; mul.lo.s32 %r25, %r24, {4 * n}; mad.lo.s32 %r25, %r23, 8, %r25; cvt.u64.u32 %rd8, %r25; add.s64 %rd9, %rd2, %rd8;
            {stores}
        """, memory, out, registers=f".reg .b32 %f<{n // 2}>;", threads=128, shared=32768, races=True)
        assert torch.equal(out, torch.from_numpy(a.astype(np.float32) @ b.astype(np.float32))), (mode, trans_a, trans_b, n)
        assert not str(warnings), warnings
