"""On a GPU with much memory, in one process: tensors whose places need more than 32 bits."""

import pytest
import torch

import triton_conv3dt as t3

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
