"""What a profile shows of the layer: rows with names that say what they are, forward and backward."""

import torch
from torch.profiler import ProfilerActivity, profile

from triton_conv3dt import conv_transpose3d

OPERATORS = {f"triton_conv3dt::{name}" for name in ("forward", "backward", "grad_input", "grad_weight", "grad_bias",
                                                    "activation_grad")}
NODES = {f"{node}{end}" for node in ("ConvTranspose3d", "ConvTranspose3dGradInput") for end in ("", "Backward")}


def test_rows_of_a_profile_are_named(device):
    x, w, b = torch.randn(1, 2, 1, 2, 1), torch.randn(2, 2, 1, 2, 2), torch.randn(2)
    x, w, b = (t.to(device).requires_grad_() for t in (x, w, b))
    layer = lambda: conv_transpose3d(x, w, b, 2, activation="relu", backend="triton").sum()
    with profile(activities=[ProfilerActivity.CPU]) as shown:
        layer().backward()
        dx, _, _ = torch.autograd.grad(layer(), (x, w, b), create_graph=True)
        dx.sum().backward()
    rows = {event.key for event in shown.key_averages()}
    assert OPERATORS | NODES <= rows
    assert not [row for row in rows if row.startswith("_")], "private names"
