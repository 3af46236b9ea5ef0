"""What conv3d_transpose accepts and refuses, and the lengths among it: all that TensorFlow accepts, and no other."""

import itertools
import re

import numpy
import pytest
import torch

from tf_cases import convolved, draw, incidence, pattern, recorded, truth
from tolerances import assert_exact
from triton_conv3dt.problems import geometry
from triton_conv3dt.tf import conv3d_transpose
from triton_conv3dt.tf.lengths import accepted, crop

VALUE, FILTER, SHAPE = torch.ones(1, 2, 2, 2, 4), torch.ones(3, 3, 3, 2, 4), (1, 4, 4, 4, 2)
REFUSED = [  # arguments beside (or instead of) value, filter, output_shape and strides; the error, and what it says
    (dict(strides=2.0), TypeError, "strides must be None, an integer, or .* received 2.0"),
    (dict(strides=(2.5, 2, 2)), TypeError, "2.5 is of type float"),
    (dict(strides=torch.tensor([2.0, 2, 2])), TypeError, "strides must be"),
    (dict(strides=numpy.array([2.0, 2, 2])), TypeError, "strides must be"),
    (dict(strides=True), TypeError, "received True"),
    (dict(strides={1: 1, 2: 2, 3: 3}), TypeError, "strides must be"),
    (dict(strides=()), ValueError, "of length 1, 3 or 5 but was 0"),
    (dict(strides=(1, 2, 2, 2, 2)), ValueError, "along the batch and the channels must be 1"),
    (dict(strides=(1, 1, 2, 2, 2)), ValueError, "in the order of data_format 'NDHWC'"),
    (dict(dilations=0), ValueError, "dilations must be 1 or more, received 0"),
    (dict(dilations=(1, 1, 1, 1, 2)), ValueError, "dilations along the batch and the channels"),
    (dict(padding=None), TypeError, "padding must be 'SAME' or 'VALID', received None"),
    (dict(padding="same"), ValueError, "received 'same'; it is case-sensitive"),
    (dict(padding=""), ValueError, "received ''"),
    (dict(padding=b"FULL"), ValueError, "received 'FULL'"),
    (dict(data_format=b"NDHWC"), TypeError, "data_format must be"),
    (dict(output_shape=torch.tensor(4)), ValueError, "tensor of 0 axes"),
    (dict(output_shape=torch.tensor([SHAPE])), ValueError, "tensor of 2 axes"),
    (dict(output_shape=torch.tensor(SHAPE, dtype=torch.float32)), TypeError, "output_shape must be 5 integers"),
    (dict(output_shape=(1, None, 4, 4, 2)), TypeError, "None is of type NoneType"),
    (dict(output_shape=(1, True, 4, 4, 2)), TypeError, "True is of type bool"),
    (dict(output_shape=4), TypeError, "output_shape must be 5 integers"),
    (dict(output_shape=(1, 2, 4, 4, 4)), ValueError, "depth may be 3 to 4 but is 2"),
    (dict(output_shape=(1, 4, 4, 4, 6)), ValueError, "4 channels of value cannot be split"),
    (dict(output_shape=(1, 4, 4, 4, 0)), ValueError, "must have 2, or a multiple"),
    (dict(value=None), ValueError, "value is missing: pass a tensor as 'value' or 'input'"),
    (dict(input=VALUE), ValueError, "Cannot specify both 'value' and 'input'"),
    (dict(value=VALUE.numpy()), TypeError, "value must be a torch.Tensor, received ndarray; torch.as_tensor"),
    (dict(value=VALUE.tolist()), TypeError, "received list; torch.as_tensor"),
    (dict(value=3), TypeError, "received int"),
    (dict(value=VALUE.double()), TypeError, "nothing is promoted"),
    (dict(filter=FILTER.half()), TypeError, "nothing is promoted"),
    (dict(value=VALUE.to(torch.complex64)), TypeError, "value has dtype torch.complex64"),
    (dict(value=VALUE.bool()), TypeError, "value has dtype torch.bool"),
    (dict(filter=FILTER.transpose(3, 4)), ValueError, "output_channels, in_channels"),
    (dict(value=VALUE.permute(0, 4, 1, 2, 3)), ValueError, "value has 2 channels and filter takes 4"),
    (dict(value=torch.ones(1, 2, 2, 2, 4, device="meta")), ValueError, "value is on meta and filter is on cpu"),
    (dict(backend="cuda"), ValueError, "backend must be one of"),
    (dict(precision="fp16"), ValueError, "precision must be one of"),
    (dict(groups=2), TypeError, "groups"),
]


@pytest.mark.parametrize("arguments, error, words", REFUSED, ids=lambda value: None)
def test_what_is_refused_and_how(arguments, error, words):
    with pytest.raises(error, match=words):
        conv3d_transpose(**dict(value=VALUE, filter=FILTER, output_shape=SHAPE, strides=2) | arguments)


def test_a_message_tells_all_there_is_to_know():
    with pytest.raises(ValueError) as refused:
        conv3d_transpose(VALUE, FILTER, (1, 4, 5, 4, 2), 2)
    assert str(refused.value) == (
        "output_shape [1, 4, 5, 4, 2] does not fit value [1, 2, 2, 2, 4] in NDHWC, filter [3, 3, 3, 2, 4], strides "
        "(2, 2, 2), dilations (1, 1, 1) and padding 'SAME': depth may be 3 to 4, height may be 3 to 4 but is 5, width "
        "may be 3 to 4")


@pytest.mark.parametrize("arguments", [
    dict(strides=[2, 2, 2]), dict(strides=(1, 2, 2, 2, 1)), dict(strides=[2]), dict(strides=torch.tensor([2, 2, 2])),
    dict(strides=numpy.array([2])), dict(strides=numpy.int64(2)), dict(strides=torch.tensor(2)), dict(padding=b"SAME"),
    dict(output_shape=list(SHAPE)), dict(output_shape=torch.Size(SHAPE)),
    dict(output_shape=numpy.array(SHAPE, "uint8")),
    dict(output_shape=[1, torch.tensor(4), numpy.int16(4), 4, 2]), dict(data_format=None), dict(name="up"),
    dict(dilations=[1]), dict(value=None, input=VALUE), dict(filter=None, filters=FILTER)], ids=lambda value: None)
def test_the_forms_of_an_argument(arguments):
    given = dict(value=VALUE, filter=FILTER, output_shape=SHAPE, strides=2)
    assert torch.equal(conv3d_transpose(**given | arguments), conv3d_transpose(**given))


def test_autocast_lowers_as_for_pytorchs_convolutions(device):
    with torch.autocast(device, torch.bfloat16):
        y = conv3d_transpose(VALUE.to(device), FILTER.half().to(device), SHAPE, 2)
    assert y.dtype == torch.bfloat16


# Lengths.

def parsed(key: str):
    padding, *numbers = re.fullmatch(r"(\w+) I=(\d+) k=(\d+) s=(\d+)", key).groups()
    return padding, *map(int, numbers)


LENGTHS = [(*parsed(key), lengths) for key, lengths in recorded()["valid_output_lengths"]["lengths"].items()]
PADDINGS = ("SAME", "VALID")
ROWS = {padding: [(i, k, s, o) for p, i, k, s, lengths in LENGTHS if p == padding for o in lengths]
        for padding in PADDINGS}


def test_every_length_that_tensorflow_accepts_and_no_other():
    assert len(LENGTHS) == 240 and sum(len(lengths) for *_, lengths in LENGTHS) == 600
    for padding, i, k, s, lengths in LENGTHS:
        low, high = accepted(i, k, s, 1, padding)
        assert list(range(low, high + 1)) == lengths


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_lengths_are_those_that_the_convolution_takes_back(padding):
    for i, k, s, d in itertools.product(range(1, 6), range(1, 6), range(1, 5), range(1, 4)):
        low, high = accepted(i, k, s, d, padding)
        assert [o for o in range(1, 60) if convolved(o, k, s, d, padding) == i] == list(range(low, high + 1))


def test_the_phases_of_geometry_are_tensorflows_for_every_length():
    """What each output gathers, tap by tap, is what the inputs scatter."""
    for padding, i, k, s, lengths in LENGTHS:
        for o, d in itertools.product(lengths, (1,)):
            check_phases(padding, i, k, s, d, o)
    for padding, i, k, s, d in itertools.product(("SAME", "VALID"), (1, 3), (2, 3), (2, 3), (2, 3)):
        low, high = accepted(i, k, s, d, padding)
        for o in range(low, high + 1):
            check_phases(padding, i, k, s, d, o)


def check_phases(padding, size, kernel, stride, dilation, out):
    axis = geometry.Axis(size, out, kernel, stride, crop(size, out, kernel, stride, dilation, padding), dilation)
    gathered = numpy.zeros((kernel, out, size))
    for phase in axis.phases():
        for t, j in itertools.product(range(axis.steps(0)), range(phase.taps)):
            o, i = t * stride + phase.residue, t + phase.offset - j * axis.input_step
            if o < out and 0 <= i < size:
                gathered[phase.first + j * axis.tap_step, o, i] += 1
    numpy.testing.assert_array_equal(gathered, incidence(size, out, kernel, stride, dilation, padding))


@pytest.mark.parametrize("padding", PADDINGS)
def test_every_accepted_length_by_value(padding, device):
    """Three at a time, one along each axis."""
    rows = ROWS[padding]
    for triple in zip(rows[::3], rows[1::3][::-1], rows[2::3]):
        check_value(padding, *zip(*triple), "torch", device)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("padding", PADDINGS)
def test_accepted_lengths_by_value_of_the_kernels(padding, axis, device):
    """A third of them, one at a time, along each axis in turn; the other two have one input and one tap."""
    for row in ROWS[padding][3 * axis::9]:
        check_value(padding, *((1,) * axis + (n,) + (1,) * (2 - axis) for n in row), "triton", device)


def check_value(padding, in_size, kernel, strides, out_size, backend, device):
    value, filter = pattern("X", (1, *in_size, 2)).to(device), pattern("F", (*kernel, 1, 2)).to(device)
    y = conv3d_transpose(value, filter, (1, *out_size, 1), strides, padding, backend=backend)
    assert_exact(y.cpu(), truth(value, filter, out_size, strides, (1, 1, 1), padding))


@pytest.mark.parametrize("seed", range(40))
def test_held_out_lengths_just_outside_are_refused(seed):
    arguments, _ = draw(seed)
    sizes = [int(s) for s in arguments["output_shape"]]
    first = arguments["data_format"] == "NCDHW"
    axis = seed % 3
    place = axis + (2 if first else 1)
    numbers = [(arguments.get("value", arguments.get("input")).shape[place], arguments["filter"].shape[axis],
                *(_along(arguments.get(name, 1), axis, first) for name in ("strides", "dilations")))]
    low, high = accepted(*numbers[0], arguments["padding"])
    for wrong in (low - 1, high + 1):
        sizes[place] = wrong
        word = ("depth", "height", "width")[axis]
        expected = f"{word} may be {low}" + f" to {high}" * (high > low) + f" but is {wrong}"
        expected = expected if wrong >= 0 else "sizes of 0 or more"
        with pytest.raises(ValueError, match=expected):
            conv3d_transpose(**arguments | {"output_shape": sizes})


def _along(given, axis, first):
    values = [given] * 3 if isinstance(given, int) else [int(v) for v in given]
    values = values * 3 if len(values) == 1 else values
    return (values[2:] if first else values[1:4])[axis] if len(values) == 5 else values[axis]
