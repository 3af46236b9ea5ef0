"""What the constructor of Conv3DTranspose may be given, each read into what the layer keeps."""

import torch

from ..ops.arguments import AXES
from .arguments import DTYPES, integer, integers
from .lengths import accepted, layer_length, reach

KEYWORDS = {"dtype": None, "output_padding": None, "dilation_rate": 1, "groups": 1, "weights": None,
            "input_shape": None, "batch_input_shape": None, "_scope": None, "precision": None, "backend": "auto"}
MEANINGLESS = {  # of TensorFlow's, and what takes their place
    "_reuse": "a layer shares its weights when the same object is called again",
    "autocast": "torch.autocast decides",
    "dynamic": "every layer runs eagerly, and torch.compile compiles it",
    "conv_op": "there is one operator",
    "batch_size": "any batch is taken",
}
NAMES = {"half": torch.float16, "float": torch.float32, "double": torch.float64}
NAMES |= {str(d).removeprefix("torch."): d for d in DTYPES}


def keywords(given: dict) -> dict:
    """All keyword arguments, with their defaults.

    Raises:
        TypeError: an unknown one.
    """
    for name in given:
        if name in MEANINGLESS:
            raise TypeError(f"Keyword argument not understood: {name!r}. In PyTorch {MEANINGLESS[name]}")
        if name not in KEYWORDS:
            known = ", ".join(k for k in KEYWORDS if not k.startswith("_"))
            raise TypeError(f"Keyword argument not understood: {name!r}. Known are also {known}")
    return KEYWORDS | given


def positive(name: str, value) -> int:
    value = integer(name, value, value, "a positive integer")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, received {value}")
    return value


def three(name: str, value, least: int = 1) -> tuple[int, int, int]:
    """An integer for each axis: one for all, or three."""
    wanted = "an integer or a tuple of 3 integers (depth, height, width)"
    whole = isinstance(value, (list, tuple, range)) or getattr(value, "ndim", 0)
    values = integers(name, value, wanted) if whole else (integer(name, value, value, wanted),) * 3
    if len(values) != 3:
        raise ValueError(f"The `{name}` argument must be a tuple of 3 integers. Received: {value!r}")
    if any(v < least for v in values):
        raise ValueError(f"{name} must be {least} or more, received {value!r}")
    return values


def lower(name: str, value, choices) -> str:
    """One of the choices, which are in lower case, from any case."""
    wanted = " or ".join(map(repr, choices))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {wanted}, received {value!r} of type {type(value).__name__}")
    if value.lower() not in choices:
        raise ValueError(f"The `{name}` argument must be {wanted}. Received: {value!r}")
    return value.lower()


def output_padding(value, kernel_size, strides, dilation_rate, padding: str) -> tuple[int, int, int] | None:
    """None, or one for each axis that gives a length which the operator accepts.

    Raises:
        ValueError: one is not below the stride, or the length could not come from a convolution.
    """
    if value is None:
        return None
    values = three("output_padding", value, least=0)
    for axis, extra, k, s, d in zip(AXES, values, kernel_size, strides, dilation_rate):
        if extra >= s:
            raise ValueError(f"output_padding must be below the stride, received output_padding={value!r} and strides="
                             f"{strides}: along {axis} it may be at most {s - 1}")
        low, high = accepted(1, k, s, d, padding.upper())
        if not low <= layer_length(1, k, s, d, padding.upper(), extra) <= high:
            others = "" if s == 1 else "1, or " if s == 2 else f"1 to {s - 1}, or "
            raise ValueError(f"output_padding {extra} along {axis} with padding 'same' and a kernel that covers "
                             f"{reach(k, d)} gives the length (I - 1) * {s}, which no convolution takes to I. It may "
                             f"be {others}None on all axes, which gives I * stride")
    return values


def dtype(value) -> torch.dtype | None:
    """From None, a torch.dtype, its name, a dtype of numpy or TensorFlow, or the policy in a config of Keras 3."""
    policy = value.get("config") if isinstance(value, dict) else None
    name = getattr(value, "name", getattr(value, "__name__", value))
    name = policy.get("name") if isinstance(policy, dict) else name
    result = NAMES.get(name) if isinstance(name, str) else name
    if value is not None and not (isinstance(result, torch.dtype) and result in DTYPES):
        error = ValueError if isinstance(name, (str, torch.dtype)) else TypeError
        raise error(f"dtype must be None, float16, bfloat16, float32 or float64, received {value!r}")
    return result


def shape(name: str, value) -> tuple:
    """Five sizes, None where one is open.

    Raises:
        TypeError: not integers.
        ValueError: another number of them, or a negative one.
    """
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a tuple or list of 5 sizes, received {value!r} of type {type(value).__name__}")
    sizes = tuple(None if v is None else integer(name, v, value, "5 sizes, integers or None") for v in value)
    if len(sizes) != 5:
        raise ValueError(f"Inputs should have rank 5: {name} must have 5 sizes, received {len(sizes)}: {value!r}")
    if any(v is not None and v < 0 for v in sizes):
        raise ValueError(f"{name} must hold sizes of 0 or more, received {value!r}")
    return sizes


def input_shape(extra: dict) -> tuple | None:
    """The shape, batch included, that input_shape or batch_input_shape gives, or None."""
    if extra["batch_input_shape"] is not None:
        return shape("batch_input_shape", extra["batch_input_shape"])
    sizes = extra["input_shape"]
    if sizes is not None and not isinstance(sizes, (list, tuple)):
        raise TypeError(f"input_shape must be a tuple or list of 4 sizes, received {sizes!r} of type "
                        f"{type(sizes).__name__}")
    return None if sizes is None else shape("input_shape with its batch", (None, *sizes))


def as_tensor(name: str, value) -> torch.Tensor:
    """A tensor of an array; one in bfloat16, which numpy knows by an extension, as float32.

    Raises:
        TypeError: it is no array.
    """
    if getattr(getattr(value, "dtype", None), "name", None) == "bfloat16" and not isinstance(value, torch.Tensor):
        value = value.astype("float32")
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array or a tensor, received {type(value).__name__}: {error}") from error
