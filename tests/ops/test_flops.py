"""torch.utils.flop_counter counts the operators as it counts PyTorch's, forward and backward."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from triton_conv3dt import conv_transpose3d, nn
from triton_conv3dt.ops import schemas

UNCOUNTED = {"grad_bias", "activation_grad", "normalise"}  # no products
LAYERS = [dict(stride=2), dict(stride=(1, 2, 1), padding=(0, 1, 0), output_padding=(0, 1, 0)), dict(stride=2, groups=2),
          dict(dilation=(1, 1, 2), groups=4)]


def counted(backend: str, arguments: dict, needed=(True, True, True)) -> tuple[int, set]:
    x, w, b = torch.randn(2, 4, 1, 2, 3), torch.randn(4, 4 // arguments.get("groups", 1), 2, 1, 2), torch.randn(4)
    for t, needs in zip((x, w, b), needed):
        t.requires_grad_(needs)
    with FlopCounterMode(display=False) as counter:
        y = conv_transpose3d(x, w, b, **arguments, activation="relu", backend=backend)
        if any(needed):
            y.sum().backward()
    return counter.get_total_flops(), {op._qualified_op_name for op in counter.get_flop_counts()["Global"]}


@pytest.mark.parametrize("arguments", LAYERS)
def test_a_layer_counts_as_pytorchs(arguments):
    (ours, operators), (pytorchs, _) = (counted(backend, arguments) for backend in ("triton", "torch"))
    assert ours == pytorchs > 0 and operators == {"triton_conv3dt::forward", "triton_conv3dt::backward"}


@pytest.mark.parametrize("needed, backward", [
    ((False, False, False), set()), ((True, False, False), {"grad_input"}), ((False, True, True), {"grad_weight"}),
    ((False, False, True), set())])
def test_only_what_is_computed_counts(needed, backward):
    (ours, operators), (pytorchs, _) = (counted(backend, LAYERS[0], needed) for backend in ("triton", "torch"))
    assert ours == pytorchs and operators == {f"triton_conv3dt::{name}" for name in {"forward"} | backward}


def test_a_skip_counts_nothing():
    skip = torch.randn(2, 1, 2, 3, 6, requires_grad=True)
    (ours, operators), (alone, _) = (counted("triton", LAYERS[0] | more) for more in (dict(concat=skip), {}))
    assert ours == alone and operators == {"triton_conv3dt::forward_concat", "triton_conv3dt::backward"}


def test_second_derivatives_and_out_count():
    x, w = torch.randn(1, 2, 1, 2, 2, requires_grad=True), torch.randn(2, 2, 1, 2, 2, requires_grad=True)
    once = 2 * 8 * 2 * 4  # two operations for each of x's 8 elements, 2 output channels and 4 taps
    with FlopCounterMode(display=False) as counter:
        y = conv_transpose3d(x, w, stride=2, backend="triton")
        dx, = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
        dx.sum().backward()
    assert counter.get_total_flops() > 4 * once
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        conv_transpose3d(x, w, stride=2, out=torch.empty_like(y), backend="triton")
    assert counter.get_total_flops() == once


def test_every_operator_with_products_has_a_formula():
    registry = FlopCounterMode().flop_registry
    registered = {name for name in schemas.SCHEMAS if getattr(torch.ops.triton_conv3dt, name) in registry}
    assert registered == schemas.SCHEMAS.keys() - UNCOUNTED


def test_fvcore_counts_what_a_trace_holds():
    fvcore = pytest.importorskip("fvcore.nn")
    net, x = torch.nn.Sequential(torch.nn.ConvTranspose3d(2, 4, 2, 2), torch.nn.ReLU()), torch.randn(1, 2, 2, 2, 2)
    expected = fvcore.FlopCountAnalysis(net, x).total()
    assert nn.convert(net) == ["0"]
    analysis = fvcore.FlopCountAnalysis(net, x).unsupported_ops_warnings(False)
    assert analysis.total() == expected > 0 and not [op for op in analysis.unsupported_ops() if "triton" in op]


@pytest.mark.parametrize("first, second", [("torch.utils.flop_counter", "triton_conv3dt.ops.autograd"),
                                           ("triton_conv3dt.ops.autograd", "torch.utils.flop_counter")])
def test_it_does_not_matter_what_is_imported_first(first, second):
    code = f"import sys, {first}, {second}; from triton_conv3dt.ops import flops; " \
           "counter = sys.modules[flops.COUNTER]; import torch; assert flops._WhenImported not in sys.meta_path; " \
           "print(torch.ops.triton_conv3dt.backward in counter.FlopCounterMode().flop_registry)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True,
                           timeout=60)
    assert shown.stdout == "True\n", shown.stderr
