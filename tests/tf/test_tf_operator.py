"""conv3d_transpose against TensorFlow: its recorded results and errors, its own tests, and held-out cases."""

import math

import numpy
import pytest
import torch

from tf_cases import assert_recorded, convolved, decoded, draw, error_of, of_kind, truth
from tolerances import assert_exact
from triton_conv3dt.launching import binding, launch
from triton_conv3dt.planning.passes import PRODUCTS
from triton_conv3dt.tf import conv3d_transpose

CASES = of_kind("op")
HELD_OUT = range(150)
each_backend = pytest.mark.parametrize("backend", ["triton", "torch"])


@each_backend
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_tensorflows_results_and_errors(case, backend, device):
    if "error" in case:
        with pytest.raises(error_of(case)):
            conv3d_transpose(**{name: decoded(v, device) for name, v in case["args"].items()}, backend=backend)
        return
    arguments = {name: decoded(v, device) for name, v in case["args"].items()}
    y = conv3d_transpose(**arguments, backend=backend)
    assert_recorded(y, case["expected"])
    assert y.is_contiguous()


def test_the_reference_gives_tensorflows_results():
    """Or it would be no witness for the held-out cases."""
    checked = 0
    for case in CASES:
        arguments = {name: decoded(v) for name, v in case["args"].items()}
        plain = all(isinstance(arguments.get(name, 1), int) for name in ("strides", "dilations"))
        if "error" in case or arguments.get("data_format") or not plain or arguments["value"] is None:
            continue
        s, d = arguments["strides"], arguments.get("dilations", 1)
        y = truth(arguments["value"], arguments["filter"], arguments["output_shape"][1:4], (s,) * 3, (d,) * 3,
                  arguments.get("padding", "SAME"))
        assert_recorded(y, case["expected"] | {"dtype": "float64"})
        checked += 1
    assert checked >= 10


@each_backend
@pytest.mark.parametrize("seed", HELD_OUT)
def test_held_out_cases(seed, backend, device):
    arguments, expected = draw(seed)
    arguments = {k: v.to(device) if isinstance(v, torch.Tensor) and v.dim() == 5 else v for k, v in arguments.items()}
    y = conv3d_transpose(**arguments, backend=backend)
    assert_exact(y.cpu(), expected)
    assert y.is_contiguous()


# TensorFlow's own tests: sizes and closed forms.

ONES = dict(value=(2, 5, 6, 4, 3), filter=(3, 3, 3, 2, 3))


def of_ones(output_shape, strides, padding, device, backend):
    value, filter = (torch.ones(shape, device=device) for shape in ONES.values())
    return conv3d_transpose(value, filter, output_shape, strides, padding, backend=backend)


def meeting(output_shape, along_axis):
    """The product over the axes of how many taps meet each place, times the 3 channels."""
    counts = [torch.tensor([along_axis(o, size) for o in range(size)]) for size in output_shape[1:4]]
    return 3.0 * torch.einsum("d,h,w->dhw", *counts)[None, ..., None].expand(output_shape)


@each_backend
@pytest.mark.parametrize("sizes", [list, torch.tensor, lambda s: torch.tensor(s, dtype=torch.int32)],
                         ids=["list", "int64", "int32"])
def test_single_stride(sizes, backend, device):
    shape = [2, 5, 6, 4, 2]
    y = of_ones(sizes(shape), [1, 1, 1, 1, 1], "SAME", device, backend)
    assert torch.equal(y.cpu(), meeting(shape, lambda o, size: 3 - (o == 0) - (o == size - 1)))


@each_backend
def test_same(backend, device):
    shape = [2, 10, 12, 8, 2]
    y = of_ones(shape, [1, 2, 2, 2, 1], "SAME", device, backend)
    assert torch.equal(y.cpu(), meeting(shape, lambda o, size: 1 + (o % 2 == 0 and o > 0)))


@each_backend
def test_valid(backend, device):
    shape = [2, 11, 13, 9, 2]
    y = of_ones(shape, [1, 2, 2, 2, 1], "VALID", device, backend)
    assert torch.equal(y.cpu(), meeting(shape, lambda o, size: 1 + (o % 2 == 0 and 0 < o < size - 1)))


def test_a_shape_that_tensorflow_only_infers():
    """Of tensorflow/tensorflow#18460."""
    value, filter = torch.zeros(2, 2, 3, 4, 3), torch.zeros(3, 3, 3, 2, 2)
    y = conv3d_transpose(value, filter, (2, 2, 6, 8, 6), (1, 1, 2, 2, 2), "SAME", "NCDHW")
    assert y.shape == (2, 2, 6, 8, 6)


@pytest.mark.parametrize("in_size, kernel, strides, padding", [  # of TensorFlow's tests of conv3d's input gradient
    ((3, 5, 4), (3, 3, 3), 1, "VALID"), ((2, 3, 4), (3, 3, 3), 1, "SAME"), ((3, 4, 3), (3, 2, 2), (2, 1, 2), "VALID"),
    ((5, 8, 7), (1, 2, 3), (2, 3, 1), "SAME"), ((7, 7, 7), (1, 1, 1), 2, "SAME"), ((7, 7, 7), (2, 2, 2), 3, "VALID"),
    ((3, 3, 3), (3, 3, 3), 1, "VALID")])
def test_it_is_the_adjoint_of_the_convolution(in_size, kernel, strides, padding, device):
    """<conv3d(x), y> = <x, conv3d_transpose(y)>, with conv3d written out on PyTorch's."""
    s = (strides,) * 3 if isinstance(strides, int) else strides
    small = [convolved(i, k, step, 1, padding) for i, k, step in zip(in_size, kernel, s)]
    x = torch.randint(-5, 6, (2, *in_size, 2)).double()
    f, y = torch.randint(-5, 6, (*kernel, 2, 3)).double(), torch.randint(-5, 6, (2, *small, 3)).double()
    total = [max(0, (o - 1) * step + k - i) * (padding == "SAME") for o, step, k, i in zip(small, s, kernel, in_size)]
    pads = [n for t in reversed(total) for n in (t // 2, t - t // 2)]
    forward = torch.nn.functional.conv3d(torch.nn.functional.pad(x.permute(0, 4, 1, 2, 3), pads),
                                         f.permute(4, 3, 0, 1, 2), stride=s).permute(0, 2, 3, 4, 1)
    assert list(forward.shape[1:4]) == small
    back = conv3d_transpose(y.to(device), f.to(device), x.shape, strides, padding, backend="triton").cpu()
    assert (forward * y).sum() == (x * back).sum()


def test_same_is_not_pytorchs_padding_1_output_padding_1():
    """The three numbers of docs/tensorflow.md."""
    x, f = torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 10, 100])
    y = conv3d_transpose(x.view(1, 1, 1, 3, 1), f.view(1, 1, 3, 1, 1), (1, 1, 1, 6, 1), (1, 1, 2))
    theirs = torch.nn.functional.conv_transpose1d(x.view(1, 1, 3), f.view(1, 1, 3), None, 2, 1, 1)
    assert y.flatten().tolist() == [1, 10, 102, 20, 203, 30]
    assert theirs.flatten().tolist() == [10, 102, 20, 203, 30, 300]


# Memory.

@pytest.fixture
def launches(monkeypatch):
    """Each forward with where its operands lie, and each launch of another kernel than a product."""
    found = []
    forward, one, contiguous = launch.forward, binding.Record.launch, torch.Tensor.contiguous
    monkeypatch.setattr(launch, "forward", lambda x, w, *rest, **k: found.append(
        ("forward", x.data_ptr(), w.data_ptr())) or forward(x, w, *rest, **k))
    monkeypatch.setattr(binding.Record, "launch", lambda record, *args: (
        record.given.kernel in PRODUCTS or found.append((record.given.kernel,))) and None or one(record, *args))

    def watched(t, *args, **kwargs):
        result = contiguous(t, *args, **kwargs)
        if result.data_ptr() != t.data_ptr():
            found.append(("copy", tuple(t.shape)))
        return result

    monkeypatch.setattr(torch.Tensor, "contiguous", watched)
    return found


@pytest.mark.parametrize("data_format", ["NDHWC", "NCDHW"])
@pytest.mark.parametrize("ci, co, size, kernel, groups", [
    (16, 8, (2, 3, 4), 2, 1), (3, 5, (2, 3, 4), 3, 1), (1, 4, (2, 3, 4), 3, 1), (4, 1, (2, 3, 4), 4, 1),
    (4, 4, (1, 1, 1), 2, 1), (8, 8, (2, 3, 4), 3, 2)])
def test_one_launch_and_no_copy(data_format, ci, co, size, kernel, groups, launches, device):
    last = data_format == "NDHWC"
    value = torch.randn((2, *size, ci) if last else (2, ci, *size), device=device)
    filter = torch.randn(kernel, kernel, kernel, co // groups, ci, device=device)
    out = [2 * s for s in size]
    y = conv3d_transpose(value, filter, (2, *out, co) if last else (2, co, *out), 2, data_format=data_format,
                         backend="triton")
    assert y.is_contiguous() and launches == [("forward", value.data_ptr(), filter.data_ptr())]


def test_gradients_lie_as_what_they_belong_to(launches, device):
    value = torch.randn(2, 2, 3, 2, 4, device=device, requires_grad=True)
    filter = torch.randn(3, 3, 3, 5, 4, device=device, requires_grad=True)
    y = conv3d_transpose(value, filter, (2, 4, 6, 4, 5), 2, backend="triton")
    dvalue, dfilter = torch.autograd.grad(y, (value, filter), torch.randn_like(y))
    assert dvalue.is_contiguous() and dfilter.is_contiguous()
    # Neither gradient packed or copied anything, and a weight gradient of one share has nothing to sum.
    assert [name for name, *_ in launches] == ["forward"]


def test_a_view_in_the_other_order_stays_one(device):
    """PyTorch's NCDHW tensor, looked at as NDHWC, is neither copied nor brought into that order."""
    value = torch.randn(2, 3, 2, 3, 2, device=device).permute(0, 2, 3, 4, 1)
    filter = torch.randn(2, 2, 2, 4, 3, device=device)
    y = conv3d_transpose(value, filter, (2, 4, 6, 4, 4), 2, backend="triton")
    assert y.permute(0, 4, 1, 2, 3).is_contiguous()
    torch.testing.assert_close(y, conv3d_transpose(value.contiguous(), filter, (2, 4, 6, 4, 4), 2, backend="triton"))


# Values that are not numbers, and no values at all.

@each_backend
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_reaches_its_own_taps(odd, backend, device):
    value = torch.ones(1, 1, 1, 3, 1, device=device)
    value[0, 0, 0, 1] = odd
    filter = torch.ones(1, 1, 2, 1, 1, device=device)
    y = conv3d_transpose(value, filter, (1, 1, 1, 9, 1), (1, 1, 3), backend=backend).flatten().tolist()
    numpy.testing.assert_equal(y, [1, 1, 0, odd, odd, 0, 1, 1, 0])


EMPTY = [  # value, filter, output_shape, strides, padding
    ((0, 2, 2, 2, 3), (3, 3, 3, 2, 3), (0, 4, 4, 4, 2), 2, "SAME"),
    ((1, 2, 2, 2, 0), (3, 3, 3, 2, 0), (1, 4, 4, 4, 2), 2, "SAME"),
    ((1, 0, 2, 2, 3), (3, 3, 3, 2, 3), (1, 2, 5, 5, 2), 2, "VALID"),  # TensorFlow dies of a segmentation fault
    ((1, 2, 0, 2, 3), (3, 3, 3, 2, 3), (1, 4, 0, 4, 2), 2, "SAME"),
    ((1, 2, 2, 2, 3), (3, 0, 3, 2, 3), (1, 4, 3, 4, 2), 2, "SAME"),
    ((0, 0, 2, 2, 0), (1, 1, 1, 2, 0), (0, 0, 4, 4, 2), 2, "SAME"),
    ((1, 2, 2, 2, 0), (3, 3, 3, 2, 0), (1, 4, 4, 4, 6), 2, "SAME"),  # three groups of nothing
]


@each_backend
@pytest.mark.parametrize("value, filter, output_shape, strides, padding", EMPTY)
def test_nothing_gives_zeros_and_gradients_of_zero(value, filter, output_shape, strides, padding, backend, device):
    operands = [torch.full(shape, math.inf, device=device, requires_grad=True) for shape in (value, filter)]
    y = conv3d_transpose(*operands, output_shape, strides, padding, backend=backend)
    assert y.shape == output_shape and not y.any() and y.is_contiguous()
    for t, gradient in zip(operands, torch.autograd.grad(y.sum(), operands)):
        assert gradient.shape == t.shape and not gradient.any()


@pytest.mark.parametrize("out, fits", [(0, True), (2, True), (3, False)])
def test_lengths_without_input(out, fits):
    """VALID takes what TensorFlow's check takes, and no more."""
    operands = torch.zeros(1, 0, 1, 1, 1), torch.zeros(3, 1, 1, 1, 1)
    if fits:
        assert conv3d_transpose(*operands, (1, out, 1, 1, 1), (2, 1, 1), "VALID").shape[1] == out
    else:
        with pytest.raises(ValueError, match="depth may be 0 to 2 but is 3"):
            conv3d_transpose(*operands, (1, out, 1, 1, 1), (2, 1, 1), "VALID")
