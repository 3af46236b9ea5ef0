"""All gradients in one pass, with configs that the library would not draw for so small layers."""

from unittest import mock

import torch
from cases import case
from layouts import lay_out
from tolerances import assert_exact

from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch
from triton_conv3dt.ops.autograd import dense_strides
from triton_conv3dt.planning import search
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.problems.activations import Activation

from ..cases import Skip

CASES = (
    case("k2s2", n=2, ci=16, co=8, in_size=(2, 3, 5), kernel=2, stride=2),
    case("k2s2 64 32", n=2, ci=64, co=32, in_size=(4, 4, 8), kernel=2, stride=2),
    case("flat", n=2, ci=5, co=3, in_size=(3, 2, 4), kernel=(1, 2, 2), stride=(1, 2, 2)),
    case("flat 32 16", n=2, ci=32, co=16, in_size=(3, 4, 8), kernel=(1, 2, 2), stride=(1, 2, 2)),
    case("wide", ci=8, co=4, in_size=(1, 2, 3), kernel=(1, 1, 8), stride=(1, 1, 8)),
    case("pointwise", n=3, ci=7, co=17, in_size=(2, 3, 4), kernel=1),
    case("one place", ci=20, co=12, in_size=1, kernel=2, stride=2),
    case("28 42", n=1, ci=28, co=42, in_size=(3, 5, 7), kernel=2, stride=2),
    case("84 3", n=2, ci=84, co=3, in_size=(2, 5, 9), kernel=2, stride=2),
    case("k4s4", n=1, ci=16, co=4, in_size=(2, 3, 4), kernel=(2, 4, 4), stride=(2, 4, 4)),
    case("128 16", n=1, ci=128, co=16, in_size=(4, 4, 8), kernel=2, stride=2),
    case("no power", n=1, ci=8, co=6, in_size=(2, 3, 3), kernel=(1, 3, 2), stride=(1, 3, 2)))
LAYOUTS = ("channels_first", "channels_last", "concatenated", "sliced_channels_last", "misaligned",
           "misaligned_channels_last", "sliced", "concatenated_channels_last")
ACTIVATIONS = (None, "relu", ("leaky_relu", 0.25), "hardtanh")


def onepass(rng, device):
    """One of the cases, with x laid out as dy is, or not."""
    case, layout, activation = rng.choice(CASES), rng.choice(LAYOUTS), rng.choice(ACTIVATIONS)
    other = rng.choice((layout, layout, *LAYOUTS[:2]))
    dtype, bias = rng.choice((torch.float16, torch.bfloat16)), rng.random() < 0.5
    tile = dict(block_k=rng.choice((16, 32, 64, 128)), warps=rng.choice((4, 8)), stages=rng.choice((1, 2, 3)),
                shares=rng.choice((1, 2, 3, 5)), rows=rng.choice((1, 1, 2, 4)), columns=rng.choice((1, 1, 2)))
    what = dict(case=str(case), layout=layout, x_layout=other, activation=activation, dtype=str(dtype), bias=bias)
    what |= tile
    return what, lambda: check(case, layout, other, Activation.of(activation), dtype, bias, tile)


def check(case, layout, x_layout, activation, dtype, bias, tile):
    """All gradients of a case, against the definition."""
    t, saved = case.tensors(dtype, layout), None
    x, dz = lay_out(t.x, x_layout), t.dz
    if activation:
        y = reference.conv_transpose3d(t.x, t.w, t.b, **case.geometry, out_size=case.out_size, activation=activation)
        saved = lay_out(y.to(dtype), layout)
    did = mock.Mock(side_effect=launch.bind)
    pick = lambda problem, device, constraints: config_of(problem, device, **tile)
    with mock.patch.object(search, "one_pass", pick), mock.patch.object(launch, "bind", did):
        dx, dw, db = launch.backward(dz, x, t.w, saved, bias, dense_strides(t.w), case.stride, case.padding,
                                     case.dilation, 1, "tf32", activation)
    if not any(call.args[0].problem.direction == "backward" for call in did.call_args_list):
        raise Skip("not in one pass")
    if activation:
        slope = reference.activation_derivative(saved.double(), activation.name, activation.parameters)
        dz = (dz.double() * slope).to(dtype)
    assert_exact(dx, reference.grad_input(dz, t.w, **case.geometry, in_size=case.in_size))
    assert_exact(dw, reference.grad_weight(x, dz, **case.geometry, kernel=case.kernel))
    if bias:
        assert_exact(db, dz.double().sum((0, 2, 3, 4)))


def config_of(problem, device, rows, columns, block_k, **rest):
    """A tile of so many times the rows and columns that are needed; the least one where that does not fit, or None."""
    m, n = (max(16, 1 << (size - 1).bit_length()) for size in (problem.ci, problem.co * problem.taps))
    wanted = Config("onepass", min(256, m * rows), min(1024, n * columns), block_k, **rest)
    least = Config("onepass", m, n, 16, 8, 2, shares=rest["shares"])
    return next((config for config in (wanted, least) if fits(config, problem, device) is None), None)
