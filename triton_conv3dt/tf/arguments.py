"""What TensorFlow's arguments may be: its acceptances, its kinds of error, and messages that say what would work.

A value that cannot be is a ValueError and a wrong type a TypeError. TensorFlow raises these only in part; they stand as
well for the class of its own that it raises otherwise, InvalidArgumentError.
"""

import functools
import operator

import torch

from ..launching import tensors
from ..ops.arguments import AXES, autocasting
from .lengths import accepted, crop

DTYPES = tuple(tensors.DTYPES.values())
ORDERS = {"value": "in the order of data_format", "filter": "[depth, height, width, output_channels, in_channels]"}
FORMATS = {"NDHWC": "[batch, depth, height, width, channels]", "NCDHW": "[batch, channels, depth, height, width]"}


def remembered(function):
    """A function of integers and strings that keeps its results: working them out takes the host longer than a launch.
    The sizes that a compiler traces are symbols, which have no hash.
    """
    kept = functools.lru_cache(maxsize=4096)(function)

    @functools.wraps(function)
    def call(*args):
        if torch.compiler.is_compiling():
            return function(*args)
        try:
            return kept(*args)
        except TypeError:
            return function(*args)

    return call


def one_of(name: str, value, other_name: str, other):
    """An argument that has two names.

    Raises:
        ValueError: both are given, or none is.
    """
    if value is not None and other is not None:
        raise ValueError(f"Cannot specify both {name!r} and {other_name!r}: they are two names of one argument")
    value = other if value is None else value
    if value is None:
        raise ValueError(f"{name} is missing: pass a tensor as {name!r} or {other_name!r}")
    return value


def integer(name: str, value, whole, wanted: str):
    """A Python integer from an int, a numpy integer or an integer tensor of one element.

    Raises:
        TypeError: it is none of these. A float is not truncated.
    """
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return value
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} must be {wanted}, received {whole!r}" +
                    f", where {value!r} is of type {type(value).__name__}" * (whole is not value))


def integers(name: str, value, wanted: str) -> tuple:
    """A tuple from a list, tuple, torch.Size, range, numpy array or one-dimensional tensor of integers.

    Raises:
        TypeError: it is none of these, or holds something else than integers.
    """
    if isinstance(value, (list, tuple)) and set(map(type, value)) == {int}:  # as nearly always
        return tuple(value)
    if isinstance(value, torch.Tensor) and value.dim() == 1 and not (value.is_floating_point() or value.is_complex()):
        value = value.tolist()
    if not isinstance(value, (list, tuple, range)) and not (hasattr(value, "__array__") and getattr(value, "ndim", 0)):
        raise TypeError(f"{name} must be {wanted}, received {value!r} of type {type(value).__name__}")
    return tuple(integer(name, v, value, wanted) for v in value)


def per_axis(name: str, value, data_format: str) -> tuple:
    """strides or dilations along depth, height and width: None, an integer, or 1, 3 or 5 of them.

    Raises:
        TypeError: not integers.
        ValueError: another number of them, one below 1, or one along the batch or the channels that is not 1.
    """
    wanted = f"None, an integer, or a list of 1, 3 or 5 integers (5 in the order of data_format, {data_format!r})"
    if value is None:
        return 1, 1, 1
    whole = isinstance(value, (list, tuple, range)) or getattr(value, "ndim", 0)
    values = integers(name, value, wanted) if whole else (integer(name, value, value, wanted),)
    if len(values) == 1:
        values *= 3
    if len(values) not in (3, 5):
        raise ValueError(f"{name} should be of length 1, 3 or 5 but was {len(values)}: {name} must be {wanted}, "
                         f"received {value!r}")
    if any(v < 1 for v in values):
        raise ValueError(f"{name} must be 1 or more, received {value!r}")
    if len(values) == 5:
        batch, *values, last = values
        channels = last if data_format == "NDHWC" else values.pop(0)
        values = tuple(values) if data_format == "NDHWC" else (*values, last)
        if batch != 1 or channels != 1:
            raise ValueError(f"{name} along the batch and the channels must be 1, received {value!r} in the order of "
                             f"data_format {data_format!r}, {FORMATS[data_format]}")
    return values


def choice(name: str, value, choices) -> str:
    """Raises TypeError for what is no string, and ValueError for another one."""
    wanted = " or ".join(map(repr, choices))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {wanted}, received {value!r} of type {type(value).__name__}")
    if value not in choices:
        near = [c for c in choices if c.lower() == value.lower()]
        raise ValueError(f"{name} must be {wanted}, received {value!r}" + "; it is case-sensitive" * bool(near))
    return value


def check_tensors(value, filter) -> None:
    """The operands are tensors of five axes, of one floating dtype, on one device.

    Raises:
        TypeError: no tensors, or dtypes that do not fit.
        ValueError: ranks or devices that do not fit.
    """
    for name, t in (("value", value), ("filter", filter)):
        if not isinstance(t, torch.Tensor):
            remedy = "; torch.as_tensor makes one of an array" if hasattr(t, "__array__") or isinstance(t, list) else ""
            raise TypeError(f"{name} must be a torch.Tensor, received {type(t).__name__}{remedy}")
        if t.dtype not in DTYPES:
            raise TypeError(f"{name} has dtype {t.dtype}: it must be float16, bfloat16, float32 or float64. "
                            f"{name}.float() converts it")
    for name, t in (("filter", filter), ("value", value)):
        if t.dim() != 5:
            raise ValueError(f"{name} must have 5 axes, {ORDERS[name]}, received {t.dim()}: {list(t.shape)}")
    if value.dtype != filter.dtype and not autocasting(value):
        raise TypeError(f"value has dtype {value.dtype} and filter has dtype {filter.dtype}: nothing is promoted. "
                        "Convert one of them, such as filter.to(value.dtype), or use torch.autocast")
    if value.device != filter.device:
        raise ValueError(f"value is on {value.device} and filter is on {filter.device}: expected both on one device, "
                         "such as filter.to(value.device)")


def output_shape_of(output_shape, data_format: str) -> tuple:
    """Five sizes.

    Raises:
        TypeError: not integers.
        ValueError: none given, another number of them, or a negative one: no part of it is inferred.
    """
    wanted = f"5 integers, {FORMATS[data_format]} (a list, a tuple, a torch.Size or an integer tensor)"
    if output_shape is None:
        raise ValueError(f"output_shape is missing: it must be {wanted}")
    if isinstance(output_shape, torch.Tensor) and output_shape.dim() != 1:
        raise ValueError(f"output_shape must be {wanted}, received a tensor of {output_shape.dim()} axes")
    sizes = integers("output_shape", output_shape, wanted)
    if len(sizes) != 5:
        raise ValueError(f"output_shape must be {wanted}, received {len(sizes)}: {list(sizes)}")
    if any(s < 0 for s in sizes):
        raise ValueError(f"output_shape must hold sizes of 0 or more, received {list(sizes)}: no size is inferred from "
                         "the others")
    return sizes


@remembered
def fit(value, filter, output_shape, strides, dilations, padding: str, data_format: str) -> tuple:
    """(out_size, crop, groups) of a call whose arguments have been read; value and filter are shapes.

    Raises:
        ValueError: the shapes of value, filter and output do not fit; for a length, the accepted ones are named.
    """
    last = data_format == "NDHWC"
    batch, *in_size = value[:-1] if last else (value[0], *value[2:])
    out_size, co = (output_shape[1:-1], output_shape[-1]) if last else (output_shape[2:], output_shape[1])
    ci = value[-1 if last else 1]
    *kernel, co_group, ci_filter = filter
    shapes = f"value {list(value)} in {data_format}, filter {list(filter)}"
    if co_group == 0:
        raise ValueError(f"filter must have output channels, its fourth axis; received {list(filter)}")
    if co == 0 or co % co_group:
        raise ValueError(f"output_shape {list(output_shape)} has {co} channels and filter {list(filter)} gives "
                         f"{co_group}: output_shape must have {co_group}, or a multiple of it for groups. A filter is "
                         "[depth, height, width, output_channels, in_channels]")
    groups = co // co_group
    if ci != ci_filter:
        raise ValueError(f"value has {ci} channels and filter takes {ci_filter}, its last axis; they must be equal. "
                         f"Received {shapes}")
    if ci % groups:
        raise ValueError(f"output_shape {list(output_shape)} has {groups} times the {co_group} channels of filter, "
                         f"which asks for {groups} groups, and the {ci} channels of value cannot be split into them")
    if output_shape[0] != batch:
        raise ValueError(f"output_shape {list(output_shape)} has batch size {output_shape[0]} and value has {batch}; "
                         f"they must be equal. Received {shapes}")
    numbers = list(zip(in_size, kernel, strides, dilations))
    bounds = [accepted(*n, padding) for n in numbers]
    if not all(low <= o <= high for o, (low, high) in zip(out_size, bounds)):
        raise ValueError(f"output_shape {list(output_shape)} does not fit {shapes}, strides {strides}, dilations "
                         f"{dilations} and padding {padding!r}: {_intervals(out_size, bounds)}")
    cropped = tuple(crop(i, o, k, s, d, padding) for o, (i, k, s, d) in zip(out_size, numbers))
    return tuple(out_size), cropped, groups


def _intervals(out_size, bounds) -> str:
    """The accepted lengths of each axis, and which of the requested ones are not among them."""
    words = []
    for axis, o, (low, high) in zip(AXES, out_size, bounds):
        which = f"{low} to {high}" if low < high else f"{low}" if low == high else "nothing"
        words.append(f"{axis} may be {which}" + f" but is {o}" * (not low <= o <= high))
    return ", ".join(words)
