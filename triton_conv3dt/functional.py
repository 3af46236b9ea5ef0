"""conv_transpose3d: PyTorch's arguments and errors, what may follow the layer, and the choice of the backend."""

import sys
from functools import partial
from typing import Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .backends import takes_triton
from .launching.tensors import channel_parts, statistics_of
from .ops import activations, arguments, autograd, composite, decompositions, internals, statistics
from .problems.activations import Activation
from .problems.problem import PRECISIONS

Ints = int | Sequence[int]  # along depth, height and width
Follows = str | tuple[Any, ...] | Callable[[Tensor], Tensor] | None
_REMEMBERED_CALLS = 4096
_PLAIN_TYPES = frozenset((torch.Tensor, torch.nn.Parameter))


class _Call(NamedTuple):
    """A call whose arguments have been checked: what is left to do for tensors of these shapes and dtypes."""

    arguments: tuple  # out_size, stride, padding, dilation, groups, precision, activation, parameters
    triton: bool
    batched: bool
    then: Callable | None  # applied to the layer's result
    concat_first: bool
    joined: bool  # the kernel writes its channels beside those of concat; else it is concatenated afterwards
    records: dict  # what launch.py remembers of such calls
    statistics: str | None


_calls: dict[tuple, _Call] = {}


def conv_transpose3d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Ints = 0,
                     output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1, *, activation: Follows = None,
                     residual: Tensor | None = None, concat: Tensor | None = None, concat_first: bool = False,
                     out: Tensor | None = None, statistics: str | None = None, precision: str | None = None,
                     backend: str = "auto") -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """torch.nn.functional.conv_transpose3d, with all that usually follows it in the same kernel:

        cat((activation(conv_transpose(input, weight) + bias + residual), concat), dim=1)

    Differentiable in input, weight, bias, residual and concat, to any order, in reverse and forward mode.

    Args:
        input: [N, CI, D, H, W] or unbatched [CI, D, H, W], of any strides. The result has its memory format.
        weight: [CI, CO / groups, KD, KH, KW].
        bias: [CO] or None.
        stride, padding, output_padding, groups, dilation: as PyTorch takes them.
        activation: None; a name such as "relu"; a pair (name, parameters) such as ("leaky_relu", 0.01); one of
            PyTorch's functions or modules that is one of these, such as F.gelu or nn.LeakyReLU(0.2); or any other
            callable on tensors, which is applied after the kernel. So is a module with hooks.
        residual: added before the activation; of the shape [N, CO, OD, OH, OW] or, unbatched, without N.
        concat: [N, C, OD, OH, OW], or without N: a skip connection, say, that is concatenated along the channels. The
            kernel writes its channels beside a copy of these, and nothing else is copied; concat's gradient is a view
            of the result's. Where its dtype is wider than the result's, or the activation is not fused, it is torch.cat
            that concatenates, as it promotes.
        concat_first: whether concat has the first channels of the result, not the last; of no meaning without concat.
        out: a tensor or view to write the result to, with concat's channels where there is one; without derivatives.
            It, or the part that the layer writes, may be the residual, and the other part may be concat.
        statistics: "instance" or "batch": also mean and biased variance of the result over the places of each sample, or of
            all, taken from it as it is returned (after bias, residual and activation, rounded) and differentiable. The
            kernel leaves partial sums, which are added in a fixed order: the result is not read for them. Not with concat
            or out, nor for a DTensor.
        precision: of fp32 products: "tf32", "tf32x3" or "ieee"; None follows PyTorch's setting for convolutions.
        backend: "triton"; "torch"; or "auto", which is Triton on a CUDA device where it can, and else PyTorch. Doing
            without Triton on a CUDA device warns once per reason, or raises where TRITON_CONV3DT_FALLBACK=error. With
            TRITON_INTERPRET=1 set before Triton is imported, "triton" runs the kernels on CPU tensors. In a
            torch.jit.trace, "auto" leaves PyTorch's operators, which run anywhere.

    Returns:
        [N, CO, OD, OH, OW], with concat [N, CO + C, OD, OH, OW], or without N; `out` where it is given. With statistics
        (result, mean, variance), the two of [N, CO], or [CO] without N or of the "batch", in fp32, or fp64 for fp64.

    All operands but concat have one dtype (fp16, bf16, fp32 or fp64; PyTorch's backend also takes others), in which the
    result is rounded once; sums are formed in fp32, or fp64 for fp64. Under autocast they are cast as for PyTorch's
    convolutions. Results and gradients of the Triton backend are the same bits on every run.

    Raises:
        TypeError: an argument of the wrong kind, such as a class for an activation.
        ValueError: an activation, precision, backend or statistics that do not exist.
        RuntimeError: shapes, dtypes, devices or memory that do not fit, or a backend that cannot take the call.
    """
    if has_torch_function_variadic(input, weight, bias, residual, concat, out):
        return handle_torch_function(
            conv_transpose3d, (input, weight, bias, residual, concat, out), input, weight, bias, stride, padding,
            output_padding, groups, dilation, activation=activation, residual=residual, concat=concat,
            concat_first=concat_first, out=out, statistics=statistics, precision=precision, backend=backend)
    return _apply((stride, padding, dilation, output_padding, None), input, weight, bias, groups, activation, residual,
                  concat, concat_first, out, precision, backend, statistics)


def conv_transpose3d_sized(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, out_size: Ints,
                           stride: Ints = 1, padding: Ints = 0, dilation: Ints = 1, groups: int = 1,
                           activation: Follows = None, residual: Tensor | None = None, concat: Tensor | None = None,
                           concat_first: bool = False, out: Tensor | None = None, statistics: str | None = None,
                           precision: str | None = None,
                           backend: str = "auto") -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """conv_transpose3d for an explicit crop, which may differ between the two ends of an axis: TensorFlow's SAME, say.

    Args:
        input, weight, bias: as conv_transpose3d takes them.
        out_size: depth, height and width of the result, 0 or more.
        stride, dilation, groups: as conv_transpose3d takes them.
        padding: how much of the whole transposed convolution is cropped before the output, any integers: a negative one
            puts places before it that no input reaches. out_size settles what is cropped after it. Where no input
            reaches, the result is activation(bias + residual).
        activation, residual, concat, concat_first, out, statistics, precision, backend: as conv_transpose3d takes them.

    Returns:
        [N, CO, *out_size], with concat [N, CO + C, *out_size], or without N; `out` where it is given; with statistics
        (result, mean, variance), as conv_transpose3d.

    Raises:
        TypeError, ValueError, RuntimeError: as conv_transpose3d.
    """
    if has_torch_function_variadic(input, weight, bias, residual, concat, out):
        return handle_torch_function(
            conv_transpose3d_sized, (input, weight, bias, residual, concat, out), input, weight, bias,
            out_size=out_size, stride=stride, padding=padding, dilation=dilation, groups=groups, activation=activation,
            residual=residual, concat=concat, concat_first=concat_first, out=out, statistics=statistics,
            precision=precision, backend=backend)
    return _apply((stride, padding, dilation, None, out_size), input, weight, bias, groups, activation, residual,
                  concat, concat_first, out, precision, backend, statistics)


def _apply(numbers, x, w, b, groups, activation, residual, concat, concat_first, out, precision, backend, statistics):
    """Check and run a call. A call like an earlier one (same shapes, dtypes, devices and arguments) is not checked
    again: on the host, the checks cost more than the launch.

    numbers: stride, padding, dilation, output_padding, out_size, as they were given; one of the last two is None.
    """
    key, activation = None, activations.recognised(activation)  # a module may change between calls
    if not (type(x) in _PLAIN_TYPES and type(w) in _PLAIN_TYPES) and _are_distributed(x, w, b, residual, concat, out):
        arguments.check_tensors(x, w, b, residual, concat, concat_first, out)
        x, w, b, residual = _autocast(x, w, b, residual)
        call = _checked(numbers, x, w, b, groups, activation, residual, concat, concat_first, out, precision, backend,
                        statistics)
        return _run_distributed(call, x, w, b, residual, concat, out)
    if not (torch.compiler.is_compiling() or internals.is_autocasting() or internals.is_tracing()):
        try:
            # 1, 1.0 and True are equal keys, and only the first is an acceptable stride.
            key = (numbers, *map(type, numbers), groups, type(groups), activation, precision, backend, statistics,
                   x.shape, x.dtype, x.device, w.shape, w.dtype, w.device,
                   b is not None and (b.shape, b.dtype, b.device),
                   residual is not None and (residual.shape, residual.dtype, residual.device),
                   concat is not None and (concat.shape, concat.dtype, concat.device, concat_first, type(concat_first)),
                   out is not None and (out.shape, out.dtype, out.device))
            call = _calls.get(key)
        except (AttributeError, TypeError):  # not tensors, or numbers in a list
            key = call = None
        if call is not None:
            return _run(call, x, w, b, residual, concat, out)
    arguments.check_tensors(x, w, b, residual, concat, concat_first, out)
    x, w, b, residual = _autocast(x, w, b, residual)
    call = _checked(numbers, x, w, b, groups, activation, residual, concat, concat_first, out, precision, backend,
                    statistics)
    # TRITON_CONV3DT_FALLBACK may forbid the next one.
    fell_back = backend == "auto" and x.device.type == "cuda" and not call.triton
    if key is not None and call.then is None and not fell_back:
        if len(_calls) >= _REMEMBERED_CALLS:
            _calls.clear()
        _calls[key] = call
    return _run(call, x, w, b, residual, concat, out)


def _are_distributed(*tensors) -> bool:
    """Whether one of them is a DTensor, of which there is none where nobody has imported them."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and any(isinstance(t, module.DTensor) for t in tensors)


def _run_distributed(call: _Call, x, w, b, residual, concat, out):
    from .sharding.layer import conv_transpose3d

    if call.statistics is not None:
        raise RuntimeError("statistics of a result that is split over ranks are not taken by the layer; torch.var_mean takes "
                           "those of a DTensor")

    def product(x, w, b, residual, concat, out, into, padding, out_size):
        _, stride, _, *rest = call.arguments
        shard = call._replace(arguments=(out_size, stride, padding, *rest), batched=True, then=None, records=None,
                              joined=call.joined and concat is not None)
        return _run(shard, x, w, b, residual, concat, out, into)

    *geometry, _, name, parameters = call.arguments
    keeps_output = name is not None and Activation(name, parameters).derivative_from == "output"
    layer = partial(conv_transpose3d, product, geometry, keeps_output, x, w, b, residual)
    if call.then is None:
        return layer(concat, call.concat_first, out)
    y = call.then(layer(None, False, None))
    y = y if concat is None else torch.cat((concat, y) if call.concat_first else (y, concat), -4)
    return y if out is None else out.copy_(y)


def _autocast(x, *others):
    """The operands as autocast hands them to a convolution, where it is on for their kind of device."""
    return arguments.lower_precision(x.device.type, x, *others) if arguments.autocasting(x) else (x, *others)


def _checked(numbers, x, w, b, groups, activation, residual, concat, concat_first, out, precision, backend,
             statistics) -> _Call:
    stride, padding, dilation, output_padding, out_size = numbers
    stride, dilation = arguments.triple("stride", stride, 1), arguments.triple("dilation", dilation, 1)
    padding = arguments.triple("padding", padding, 0 if out_size is None else None)
    groups = arguments.positive_groups(groups)
    if out_size is None:
        output_padding = arguments.triple("output_padding", output_padding, 0)
        arguments.check_operands(x, w, b, groups)
        out_size = arguments.out_size_of(x, w, stride, padding, output_padding, dilation)
    else:
        arguments.check_operands(x, w, b, groups)
    out_size = arguments.triple("out_size", out_size)
    arguments.check_out_size(x, w, out_size)
    arguments.check_epilogue(x, w, groups, out_size, residual, concat, out)
    arguments.check_choice("backend", backend, arguments.BACKENDS)
    arguments.check_statistics(statistics, concat, out)
    if precision is not None:
        arguments.check_choice("precision", precision, PRECISIONS)
    then = activation if callable(activation) else None
    fused = None if then else Activation.of(activation)
    name, parameters = (fused.name, fused.parameters) if fused else (None, ())
    triton = takes_triton(backend, x, w)
    joined = concat is not None and triton and then is None and arguments.keeps_dtype(x, concat)
    return _Call((out_size, stride, padding, dilation, groups, precision, name, parameters), triton, x.dim() == 5, then,
                 concat_first, joined, {}, statistics)


def _run(call: _Call, x, w, b, residual, concat, out, into=None):
    if out is not None:
        return _run_into(out, call, x, w, b, residual, concat)
    if not call.batched:
        x, residual = x.unsqueeze(0), None if residual is None else residual.unsqueeze(0)
    if call.joined:
        concat = concat if call.batched else concat.unsqueeze(0)
    moments = ()
    if call.triton and composite.exporting():
        y = decompositions.conv_transpose3d(x, w, b, residual, concat if call.joined else None, call.concat_first,
                                            *call.arguments)
    elif call.joined:
        y = autograd.forward_concat(x, w, b, residual, concat, call.concat_first, *call.arguments, False,
                                    records=call.records)[0]
    elif call.statistics is not None and call.triton and call.then is None:
        y, _, *moments = statistics.forward_statistics(x, w, b, residual, *call.arguments, False, call.statistics,
                                                       records=call.records)
    elif call.triton:
        y = autograd.forward(x, w, b, residual, *call.arguments, False, records=call.records, into=into)[0]
    else:
        y = composite.conv_transpose3d(x, w, b, residual, *call.arguments)
    if not call.batched:
        y = y.squeeze(0)
    if call.then is not None:
        y = call.then(y)
    if call.statistics is not None:
        return _with_moments(y, moments, call)
    if concat is None or call.joined:
        return y
    return torch.cat((concat, y) if call.concat_first else (y, concat), -4)


def _with_moments(y, moments, call: _Call):
    """y, its mean and its variance, found by PyTorch where the launch has not found them; as y, without N where it has none."""
    mean, variance = moments or statistics_of(y if call.batched else y.unsqueeze(0), call.statistics)
    if not call.batched and call.statistics == "instance":
        mean, variance = mean.squeeze(0), variance.squeeze(0)
    return y, mean, variance


def _run_into(out, call: _Call, x, w, b, residual, concat):
    own, other = out, None
    if concat is not None:
        own, other = channel_parts(out, out.shape[-4] - concat.shape[-4], call.concat_first)
    if not torch.compiler.is_compiling():  # the compiler reads every input before it writes
        arguments.check_memory(out, own, other, input=x, weight=w, bias=b, residual=residual, concat=concat)
    direct = call.joined or call.triton and call.then is None and concat is None
    if direct and not composite.exporting():
        if concat is not None:
            arguments.refuse_derivatives(x, w, b, residual, concat, out)
            other.copy_(concat)
        if not call.batched:
            x, own, residual = x.unsqueeze(0), own.unsqueeze(0), None if residual is None else residual.unsqueeze(0)
        autograd.forward_out(x, w, b, residual, own, *call.arguments)
        return out
    arguments.refuse_derivatives(x, w, b, residual, concat, out)
    return out.copy_(_run(call, x, w, b, residual, concat, None))
