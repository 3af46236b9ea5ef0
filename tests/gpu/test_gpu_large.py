"""On a GPU with much memory, in one process: tensors whose places need more than 32 bits."""

import pytest
import torch
from launched import planned_calls

import triton_conv3dt as t3
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import constraints, device
from triton_conv3dt.problems.problem import BACKWARD

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)
def test_more_than_two_to_the_31_elements(layout):
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB")
    integers = lambda *shape: torch.randint(-3, 4, shape, device="cuda", dtype=torch.float16)
    x, w = integers(1, 32, 256, 256, 150).contiguous(memory_format=layout), integers(32, 32, 2, 2, 2)
    y = t3.conv_transpose3d(x, w, None, 2, backend="triton")
    assert y.numel() > 2**31
    for d, h, v in ((0, 0, 0), (255, 255, 149), (218, 113, 77), (128, 0, 149)):  # corners and either side of 2**31
        exact = torch.einsum("c,cokji->okji", x[0, :, d, h, v].double(), w.double())
        assert torch.equal(y[0, :, 2 * d:2 * d + 2, 2 * h:2 * h + 2, 2 * v:2 * v + 2].double(), exact)


@pytest.mark.parametrize("way", ("one pass", "separate products"))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_gradients_of_a_sample_of_more_than_two_to_the_31_elements(layout, way, monkeypatch):
    """The last channels of dy lie beyond 2**31 where channels come first, the last rows where they come last."""
    if torch.cuda.mem_get_info()[0] < (least := 20 * 2**30):
        pytest.skip(f"needs {least / 2**30:.0f} GiB of free memory, {torch.cuda.mem_get_info()[0] / 2**30:.1f} are")
    if way == "one pass" and not device.current().warpgroups:
        pytest.skip("there is no one pass without warpgroups")
    ci, co, size = 32, 16, 264
    assert (co - 1) * (2 * size) ** 3 > 2**31
    x = torch.randint(-1, 2, (1, ci, *(size,) * 3), device="cuda", dtype=torch.float16).contiguous(memory_format=layout)
    w = torch.randint(-3, 4, (ci, co, 2, 2, 2), device="cuda", dtype=torch.float16)
    dy = torch.randint(-1, 2, (1, co, *(2 * size,) * 3), device="cuda", dtype=torch.float16).contiguous(memory_format=layout)
    monkeypatch.setattr(launch, "_records", {})
    with constraints.using(constraints.parse("onepass" if way == "separate products" else "")):
        dx, dw, db = launch.backward(dy, x, w, None, True, w.stride(), (2,) * 3, (0,) * 3, (1,) * 3, 1, "tf32", None)
    taken = [call.plan.problem.direction for call in planned_calls()]
    assert (BACKWARD in taken) == (way == "one pass")
    for d, h, v in ((0, 0, 0), (size - 1,) * 3, (size - 1, 0, 77), (131, size - 1, 5), (240, 17, size - 1)):
        seen = dy[0, :, 2 * d:2 * d + 2, 2 * h:2 * h + 2, 2 * v:2 * v + 2]
        assert torch.equal(dx[0, :, d, h, v], torch.einsum("okji,cokji->c", seen.double(), w.double()).half())
    for i, o, tap in ((0, 0, (0, 0, 0)), (ci - 1, co - 1, (1, 1, 1)), (5, co - 1, (0, 1, 0)), (ci - 1, co - 2, (1, 0, 1))):
        seen = dy[0, o, tap[0]::2, tap[1]::2, tap[2]::2]
        assert dw[(i, o, *tap)] == (x[0, i].float() * seen.float()).sum(dtype=torch.float64).half()
    assert torch.equal(db, torch.stack([dy[0, o].sum(dtype=torch.float64) for o in range(co)]).half())
