"""On a GPU: what the interpreter cannot show. bf16, tensor-core precisions, asynchronous copies, more than 2**31 elements.

One command runs them where a GPU is: PYTHONPATH=. python -m pytest -m gpu --require-gpu tests
"""

import pytest
import torch
from cases import CORPUS, layer_classes
from layouts import RedZone
from tolerances import assert_exact

import triton_conv3dt as t3
from triton_conv3dt import launch, reference

pytestmark = pytest.mark.gpu
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def products(case, t, precision):
    """The three products of a case and their exact values."""
    geometry = case.geometry
    y = launch.forward(t.x, t.w, t.b, t.residual, **geometry, out_size=case.out_size, activation=None, precision=precision)[0]
    dx = launch.grad_input(t.dz, t.w, **geometry, in_size=case.in_size, precision=precision)
    dw = launch.grad_weight(t.x, t.dz, **geometry, kernel=case.kernel, precision=precision, like=t.w)
    x, w, b, residual, dz = (v.cpu() for v in (t.x, t.w, t.b, t.residual, t.dz))
    return ((y, reference.conv_transpose3d(x, w, b, residual, **geometry, out_size=case.out_size)),
            (dx, reference.grad_input(dz, w, **geometry, in_size=case.in_size)),
            (dw, reference.grad_weight(x, dz, **geometry, kernel=case.kernel)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "sliced", "misaligned_channels_last"])
@pytest.mark.parametrize("case", [*CORPUS, *layer_classes()], ids=str)
def test_integers_come_out_exactly(case, layout, dtype):
    for precision in ("tf32", "tf32x3", "ieee") if dtype is torch.float32 else ("tf32",):
        for actual, exact in products(case, case.tensors(dtype, layout, device="cuda"), precision):
            assert_exact(actual.cpu(), exact)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_the_surroundings_of_an_output_survive(layout):
    for case in CORPUS:
        if 0 in case.shapes.y:
            continue
        t = case.tensors(torch.float16, layout, device="cuda")
        zone = RedZone(case.shapes.y, torch.float16, f"concatenated_{layout}".replace("_channels_first", ""), device="cuda")
        launch.forward(t.x, t.w, t.b, None, **case.geometry, out_size=case.out_size, activation=None, precision="tf32",
                       out=zone.view)
        zone.check()


def test_twenty_runs_give_the_same_bits():
    x = torch.randn(2, 64, 24, 20, 28, device="cuda", dtype=torch.float16, requires_grad=True)
    w = torch.randn(64, 32, 3, 3, 3, device="cuda", dtype=torch.float16, requires_grad=True)
    results = []
    for _ in range(20):
        y = t3.conv_transpose3d(x, w, None, 2, 1, 1, activation="silu", backend="triton")
        results.append((y, *torch.autograd.grad(y.float().square().sum(), (x, w))))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_more_than_two_to_the_31_elements(layout):
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB")
    x = torch.randint(-3, 4, (1, 32, 256, 256, 150), device="cuda", dtype=torch.float16).contiguous(memory_format=layout)
    w = torch.randint(-3, 4, (32, 32, 2, 2, 2), device="cuda", dtype=torch.float16)
    y = t3.conv_transpose3d(x, w, None, 2, backend="triton")
    assert y.numel() > 2**31
    for d, h, v in ((0, 0, 0), (255, 255, 149), (218, 113, 77), (128, 0, 149)):  # corners and either side of 2**31
        exact = torch.einsum("c,cokji->okji", x[0, :, d, h, v].double(), w.double())
        assert torch.equal(y[0, :, 2 * d:2 * d + 2, 2 * h:2 * h + 2, 2 * v:2 * v + 2].double(), exact)
