"""On a GPU: all gradients of a layer in one pass, at real sizes."""

import pytest
import torch
from launched import planned_calls

import triton_conv3dt as t3
from triton_conv3dt.planning import device
from triton_conv3dt.problems.problem import BACKWARD

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("activation", (None, "relu"))
@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last_3d), ids=str)
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_one_pass_at_real_sizes(dtype, layout, activation):
    """All gradients at once are those of the separate products, whose integers are exact."""
    ci, co, size = 64, 32, 48
    integers = lambda *shape: torch.randint(-3, 4, shape, device="cuda").to(dtype)
    x = integers(2, ci, size, size, size).contiguous(memory_format=layout).requires_grad_()
    w = integers(ci, co, 2, 2, 2).contiguous(memory_format=layout).requires_grad_()
    b = integers(co).requires_grad_()
    y = t3.conv_transpose3d(x, w, b, 2, activation=activation, backend="triton")
    dy = torch.randint(-1, 2, y.shape, device="cuda").to(dtype).contiguous(memory_format=layout)
    separate = torch.autograd.grad(y, (x, w, b), dy, create_graph=True)
    together = torch.autograd.grad(y, (x, w, b), dy)
    taken = [call for call in planned_calls() if call.plan.problem.direction == BACKWARD]
    assert taken or not device.current().warpgroups
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, separate))
