"""What a call may be given: PyTorch's acceptances and kinds of error, with messages that say what would work."""

import functools
import math
import operator

import torch
from torch.autograd import forward_ad

from ..problems.geometry import output_size
from . import internals

BACKENDS = ("auto", "triton", "torch")
AXES = ("depth", "height", "width")
STATISTICS = ("instance", "batch")
_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
           torch.float32, torch.float64, torch.complex32, torch.complex64, torch.complex128)
_PROMOTED = {(a, b): torch.promote_types(a, b) for a in _DTYPES for b in _DTYPES}


def triple(name: str, value, least: int | None = None) -> tuple:
    """An argument of three axes: one integer, or a tuple or list of one or three.

    Raises:
        TypeError: not integers (bool and float are refused, as PyTorch refuses them).
        RuntimeError: another number of values, or one below `least`.
    """
    values = value if isinstance(value, (tuple, list)) else (value,)
    values = tuple(_integer(name, v, value) for v in values)
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise RuntimeError(f"expected {name} to be one integer or 3 (depth, height, width), received {value!r}")
    if least is not None and not all(v >= least for v in values):
        kind, needed = ("non-positive", "greater than zero") if least else ("negative", "zero or more")
        raise RuntimeError(f"{kind} {name} is not supported: {name} should be {needed}, received {value!r}")
    return values


def _integer(name: str, v, value):
    if isinstance(v, (int, torch.SymInt)) and not isinstance(v, bool):
        return v
    try:
        if not isinstance(v, bool):
            return operator.index(v)  # numpy's integers and integer tensors of one element
    except TypeError:
        pass
    raise TypeError(f"conv_transpose3d(): argument {name!r} must be an integer or a tuple of integers, received "
                    f"{value!r} of type {type(value).__name__}")


def positive_groups(groups) -> int:
    if isinstance(groups, (tuple, list)):
        raise TypeError(f"conv_transpose3d(): argument 'groups' must be an integer, received {groups!r}")
    groups = _integer("groups", groups, groups)
    if groups < 1:
        raise RuntimeError(f"non-positive groups is not supported: received groups={groups}")
    return groups


def out_size_of(x, w, stride, padding, output_padding, dilation) -> tuple:
    """The output size that PyTorch's arguments ask for, all of them tuples of three."""
    for axis, extra, s, d in zip(AXES, output_padding, stride, dilation):
        if extra >= max(s, d):
            raise RuntimeError(
                f"output padding must be smaller than either stride or dilation, but got output_padding="
                f"{output_padding}, stride={stride}, dilation={dilation}: on the {axis} axis it may be at most "
                f"{max(s, d) - 1}")
    in_size, kernel = x.shape[-3:], w.shape[2:]
    return tuple(map(output_size, in_size, kernel, stride, padding, output_padding, dilation))


def check_out_size(x, w, out_size) -> None:
    if any(o < 0 for o in out_size):
        raise RuntimeError(f"the output would have size {tuple(out_size)} (depth, height, width) for an input of "
                           f"{_shape(x)} and a kernel of {tuple(w.shape[2:])}: output size is too small. Use less "
                           "padding or a larger input")


def check_tensors(input, weight, bias, residual, concat, concat_first, out) -> None:
    """All that have to be are tensors, and concat_first is not one.

    Raises:
        TypeError: one is not.
    """
    for name, t in (("input", input), ("weight", weight)):
        if not isinstance(t, torch.Tensor):
            raise TypeError(f"conv_transpose3d(): argument {name!r} must be Tensor, not {type(t).__name__}")
    for name, t in (("bias", bias), ("residual", residual), ("concat", concat), ("out", out)):
        if t is not None and not isinstance(t, torch.Tensor):
            raise TypeError(f"conv_transpose3d(): argument {name!r} must be Tensor or None, not {type(t).__name__}")
    if not isinstance(concat_first, bool):
        raise TypeError("conv_transpose3d(): argument 'concat_first' must be True or False, not "
                        f"{type(concat_first).__name__}; the tensor that comes first is concat")


def check_operands(x, w, b, groups) -> None:
    """The input, the weight and the bias fit each other.

    Raises:
        RuntimeError: a rank, a number of channels, a dtype or a device does not fit.
    """
    if x.dim() not in (4, 5):
        raise RuntimeError(f"Expected 4D (unbatched) or 5D (batched) input to conv_transpose3d, but got input of size: "
                           f"{_shape(x)}. It must be [N, C, D, H, W] or [C, D, H, W]")
    if w.dim() != 5:
        raise RuntimeError(f"expected weight to be [in_channels, out_channels / groups, D, H, W], received {_shape(w)}")
    if w.shape[0] < groups or w.shape[0] % groups:
        needed = "at least" if w.shape[0] < groups else "divisible by"
        raise RuntimeError(f"Given groups={groups}, expected weight to be {needed} {groups} at dimension 0, but got "
                           f"weight of size {_shape(w)}. groups must divide the number of input channels")
    if x.shape[-4] != w.shape[0]:
        raise RuntimeError(f"Given weight of size {_shape(w)}, expected input of size {_shape(x)} to have {w.shape[0]} "
                           f"channels, but got {x.shape[-4]} channels. A transposed convolution's weight has the "
                           "input channels first")
    if 0 in w.shape:
        raise RuntimeError(f"expected a non-empty weight, received one of size {_shape(w)}")
    if 0 in x.shape[-3:] and (x.dim() == 4 or x.shape[0] != 0):
        raise RuntimeError(f"Only zero batch inputs are supported, but got input shape: {_shape(x)}")
    if b is not None and (b.dim() != 1 or b.shape[0] != w.shape[1] * groups):
        raise RuntimeError(f"Given weight of size {_shape(w)} and groups={groups}, expected bias to be 1-dimensional "
                           f"with {w.shape[1] * groups} elements, but got bias of size {_shape(b)}")
    _same(x, weight=w, bias=b)


def check_epilogue(x, w, groups, out_size, residual, concat, out) -> None:
    """What follows the layer fits its result: the residual and `out` have its shape, dtype and device, a tensor to
    concatenate all of its shape but the channels; `out` has the channels of both, in the wider dtype.
    """
    shape, result, wide = [*x.shape[:-4], w.shape[1] * groups, *out_size], "the result", False
    _expect("residual", residual, shape, "the layer's result", "use .expand")
    if concat is not None:
        channels, others = shape[-4], concat.shape[-4] if concat.dim() == x.dim() else "any"
        _expect("concat", concat, [*shape[:-4], others, *shape[-3:]], "the layer's result, but for its channels",
                "crop or pad it, or choose output_padding or output_size so that the sizes meet")
        shape[-4], result = channels + others, f"the result, {channels} channels of the layer and {others} of concat"
        wide = not keeps_dtype(x, concat)
        _same_device(x, concat=concat)
    _expect("out", out, shape, result)
    _same(x, residual=residual, out=None if wide else out)
    if wide and out is not None:
        if out.dtype != (dtype := promoted(x.dtype, concat.dtype)):
            raise RuntimeError(f"input has dtype {x.dtype}, concat has dtype {concat.dtype} and out has dtype "
                               f"{out.dtype}: it should be {dtype}, as torch.cat promotes. Convert one, such as "
                               "concat.to(input.dtype)")
        _same_device(x, out=out)


def keeps_dtype(x, concat) -> bool:
    """Whether a concatenation with a result of x's dtype has that dtype."""
    return promoted(x.dtype, concat.dtype) == x.dtype


def promoted(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """The dtype of a concatenation. PyTorch is asked only where it must be: an export records that as an operator."""
    return a if a == b else _PROMOTED.get((a, b)) or torch.promote_types(a, b)


def check_choice(name: str, value, choices) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, received {value!r}")


def check_statistics(statistics, concat, out) -> None:
    """Raises:
        ValueError: they do not exist.
        RuntimeError: they cannot be of a result that is written to a part of another tensor.
    """
    if statistics is None:
        return
    check_choice("statistics", statistics, STATISTICS)
    if concat is not None or out is not None:
        raise RuntimeError("statistics are those of a result of its own: not with concat= or out=. Concatenate, or copy, "
                           "afterwards")


def check_memory(out, own, other, **inputs) -> None:
    """`out` may be written to while the inputs are read. own is the part of it that the layer writes, which may be the
    residual itself; other the part, or None, that may be what is concatenated.

    Raises:
        RuntimeError: elements of out share a place in memory, or one of them lies in an input.
    """
    if _overlaps_itself(out.shape, out.stride()):
        raise RuntimeError(f"more than one element of out refers to a single place in memory: out has size "
                           f"{_shape(out)} and strides {out.stride()}. Pass a dense one, such as out.clone()")
    for name, t in inputs.items():
        if t is None or not internals.is_alias(t, out):
            continue
        place = own if name == "residual" else other if name == "concat" else None
        if place is not None and _same_memory(t, place):
            continue
        if _overlap(out, t):
            raise RuntimeError(f"some elements of {name} and out refer to a single place in memory, and out would be "
                               f"written while {name} is read. Pass {name}.clone() or another out")


def refuse_derivatives(*tensors) -> None:
    """Writing to `out` is not differentiable.

    Raises:
        RuntimeError: a derivative may be asked for.
    """
    tensors = [t for t in tensors if t is not None]
    if (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
            or any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)):
        raise RuntimeError("conv_transpose3d(): functions with out=... arguments don't support automatic "
                           "differentiation, but one of the arguments requires grad. Leave out= away, or call it under "
                           "torch.no_grad()")


def _has_autocast(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)


# As torch.compiler.assume_constant_result does, without importing the compiler; that of torch 2.11 cannot trace it.
_has_autocast._dynamo_marked_constant = True


def autocasting(t) -> bool:
    """Whether autocast is on for tensors on this kind of device."""
    return _has_autocast(t.device.type) and torch.is_autocast_enabled(t.device.type)


def lower_precision(device_type: str, *tensors):
    """The operands as autocast hands them to a convolution on this kind of device: in its dtype, but for fp64."""
    dtype = torch.get_autocast_dtype(device_type)
    return [t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors]


def _shape(t) -> list:
    return list(t.shape)


def _expect(name: str, t, shape: list, what: str, help: str = "") -> None:
    if t is not None and _shape(t) != shape:
        raise RuntimeError(f"expected {name} to have the shape of {what}, [{', '.join(map(str, shape))}], received "
                           f"{_shape(t)}. It is neither broadcast nor resized" + f"; {help}" * bool(help))


def _same(x, **others) -> None:
    for name, t in others.items():
        if t is not None and t.dtype != x.dtype:
            raise RuntimeError(f"input has dtype {x.dtype} and {name} has dtype {t.dtype}: they should be the same. "
                               f"Convert one of them, such as {name}.to(input.dtype), or use torch.autocast")
    _same_device(x, **others)


def _same_device(x, **others) -> None:
    for name, t in others.items():
        if t is not None and t.device != x.device:
            raise RuntimeError(f"input is on {x.device} and {name} is on {t.device}: expected all tensors to be on the "
                               f"same device, such as {name}.to(input.device)")


@functools.lru_cache(maxsize=1024)
def _overlaps_itself(shape, strides) -> bool:
    """Whether two indices may share a place: false for every slice and permutation of a dense tensor."""
    reach = 0
    for stride, size in sorted((s, n) for s, n in zip(strides, shape) if n > 1):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def _same_memory(a, b) -> bool:
    return a.data_ptr() == b.data_ptr() and a.stride() == b.stride() and a.dtype == b.dtype


def _overlap(a, b) -> bool:
    """Whether two tensors share a place in memory; exact, so slices between each other's rows pass, unless the same memory
    is read as elements of two sizes.
    """
    if not a.numel() or not b.numel():
        return False
    if a.element_size() != b.element_size():
        return True
    terms = {}
    for t in (a, b):
        for s, n in zip(t.stride(), t.shape):
            if s and n > 1:
                terms[s] = terms.get(s, 0) + n - 1
    # i . a_strides - j . b_strides = distance, and with j counted from the end every term is positive
    distance, misaligned = divmod(b.data_ptr() - a.data_ptr(), a.element_size())
    target = distance + sum(s * (n - 1) for s, n in zip(b.stride(), b.shape))
    if misaligned:
        return -1 <= target <= sum(s * n for s, n in terms.items())
    return _reachable(target, sorted(terms.items(), reverse=True))


def _reachable(target: int, terms) -> bool:
    """Whether target = sum of stride * i over terms (stride, largest i), strides descending."""
    if target <= 0 or not terms:
        return target == 0
    (stride, largest), rest = terms[0], terms[1:]
    span = sum(s * n for s, n in rest)
    if target > span + stride * largest or target % math.gcd(*(s for s, _ in terms)):
        return False
    first, last = max(0, -((span - target) // stride)), min(largest, target // stride)
    return any(_reachable(target - stride * i, rest) for i in range(first, last + 1))
