"""conv_transpose3d_norm: the layer and the normalisation of its result by its own statistics, which the layer's launch leaves."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .backends import takes_triton
from .checking import reference
from .functional import Follows, Ints, conv_transpose3d, conv_transpose3d_sized
from .ops import activations, arguments, composite, statistics
from .problems.activations import Activation


def conv_transpose3d_norm(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1,
                          padding: Ints = 0, output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1, *,
                          norm: str = "instance", norm_weight: Tensor | None = None, norm_bias: Tensor | None = None,
                          running_mean: Tensor | None = None, running_var: Tensor | None = None,
                          momentum: float = 0.1, eps: float = 1e-5, activation: Follows = None,
                          precision: str | None = None, backend: str = "auto") -> Tensor:
    """The layer and PyTorch's instance_norm or batch_norm, in training, with an activation after it:

        y = conv_transpose(input, weight) + bias
        activation((y - mean(y)) / sqrt(variance(y) + eps) * norm_weight + norm_bias)

    The layer's kernel leaves partial sums of what it writes, in a fixed order, so that y is read once more and not twice:
    by the launch that normalises and activates. y is rounded to its dtype in between, as it is by PyTorch's two calls, and
    mean and variance are those of the rounded y. Differentiable in input, weight, bias, norm_weight and norm_bias, to any
    order, in reverse and forward mode.

    Args:
        input, weight, bias, stride, padding, output_padding, groups, dilation: as conv_transpose3d takes them.
        norm: "instance" for the mean and variance of each sample and channel, "batch" for those of each channel.
        norm_weight, norm_bias: [CO] or None, of any floating-point dtype: the scale and shift.
        running_mean, running_var: [CO] or None, both or neither: updated in place, as PyTorch's norms do in training:
            `running = (1 - momentum) * running + momentum * found`, with the unbiased variance, and for "instance" with the
            average over the samples.
        momentum: how much of the running statistics is renewed.
        eps: what is added to the variance.
        activation: as conv_transpose3d takes it, of the normalised values.
        precision, backend: as conv_transpose3d takes them. PyTorch's backend is conv_transpose3d and PyTorch's norm.

    Returns:
        [N, CO, OD, OH, OW], or without N, of input's dtype and memory format.

    Raises:
        TypeError, ValueError, RuntimeError: as conv_transpose3d; and ValueError where there is one value per channel, of which
            PyTorch's norms take no variance either.
    """
    if has_torch_function_variadic(input, weight, bias, norm_weight, norm_bias, running_mean, running_var):
        return handle_torch_function(
            conv_transpose3d_norm, (input, weight, bias, norm_weight, norm_bias, running_mean, running_var), input, weight,
            bias, stride, padding, output_padding, groups, dilation, norm=norm, norm_weight=norm_weight,
            norm_bias=norm_bias, running_mean=running_mean, running_var=running_var, momentum=momentum, eps=eps,
            activation=activation, precision=precision, backend=backend)
    layer = conv_transpose3d, (input, weight, bias, stride, padding, output_padding, groups, dilation), {}
    return _normalised(layer, norm, norm_weight, norm_bias, running_mean, running_var, momentum, eps, activation,
                       precision, backend)


def conv_transpose3d_norm_sized(input, weight, bias=None, *, norm, norm_weight=None, norm_bias=None, running_mean=None,
                                running_var=None, momentum=0.1, eps=1e-5, activation=None, precision=None, backend="auto",
                                **geometry) -> Tensor:
    """The same for conv_transpose3d_sized, whose geometry it takes."""
    return _normalised((conv_transpose3d_sized, (input, weight, bias), geometry), norm, norm_weight, norm_bias,
                       running_mean, running_var, momentum, eps, activation, precision, backend)


def _normalised(layer, norm, scale, shift, running_mean, running_var, momentum, eps, activation, precision, backend):
    function, operands, geometry = layer
    x, w, b, *_ = operands
    arguments.check_tensors(x, w, b, None, None, False, None)
    arguments.check_choice("norm", norm, arguments.STATISTICS)
    arguments.check_choice("backend", backend, arguments.BACKENDS)
    _check_vectors(x, w, operands, geometry, momentum, norm_weight=scale, norm_bias=shift, running_mean=running_mean,
                   running_var=running_var)
    activation = activations.recognised(activation)
    then = activation if callable(activation) else None
    fused = None if then else Activation.of(activation)
    given = dict(geometry, precision=precision, backend=backend)
    triton = takes_triton(backend, x, w) and not composite.exporting()
    y = function(*operands, **given, statistics=norm if triton and x.numel() else None)
    y, mean, variance = y if isinstance(y, tuple) else (y, None, None)
    batched = x.dim() == 5
    y = y if batched else y.unsqueeze(0)
    _check_count(y, norm)
    if 0 in y.shape:  # as PyTorch's norms have it
        z = (y.clone() if scale is None else y * scale[0]).to(y.dtype)
    elif triton:
        if running_mean is not None:
            _renew(running_mean, running_var, mean, variance, momentum, y)
        mean, variance = (t.view(-1) if norm == "batch" else t.view(y.shape[:2]) for t in (mean, variance))
        name, parameters = (fused.name, fused.parameters) if fused else (None, ())
        z = statistics.normalise(y, mean.detach(), variance.detach(), scale, shift, float(eps), name, parameters)
    else:
        z = _by_pytorch(y, norm, scale, shift, running_mean, running_var, momentum, eps)
        z = reference.activation(z, fused.name, fused.parameters).to(z.dtype) if fused else z
    z = z if batched else z.squeeze(0)
    return z if then is None else then(z)


def _by_pytorch(y, norm, scale, shift, running_mean, running_var, momentum, eps):
    function = F.batch_norm if norm == "batch" else F.instance_norm
    return function(y, running_mean, running_var, scale, shift, True, momentum, eps).to(y.dtype)


@torch.no_grad()
def _renew(running_mean, running_var, mean, variance, momentum, y) -> None:
    """Running statistics as PyTorch's norms renew them."""
    count = y.numel() // max(1, mean.numel())
    for running, found in (running_mean, mean), (running_var, variance * (count / max(1, count - 1))):
        found = found if found.dim() == 1 else found.mean(0)
        running.copy_((1 - momentum) * running + momentum * found)


def _check_count(y, norm) -> None:
    """Raises:
        ValueError: PyTorch's, where each mean is of one value.
    """
    places = y.shape[2] * y.shape[3] * y.shape[4] * (y.shape[0] if norm == "batch" else 1)
    if places == 1:
        raise ValueError(f"Expected more than 1 {'value per channel' if norm == 'batch' else 'spatial element'} when "
                         f"training, got input size {list(y.shape)}: the variance of one value is nothing to divide by")


def _check_vectors(x, w, operands, geometry, momentum, **vectors: Any) -> None:
    """What the norm is given are vectors of the layer's channels on its device, both running statistics or neither.

    Raises:
        TypeError, RuntimeError: they are not.
    """
    groups = geometry.get("groups", operands[6] if len(operands) > 6 else 1)
    channels = w.shape[1] * arguments.positive_groups(groups) if w.dim() == 5 else None
    for name, t in vectors.items():
        if t is None:
            continue
        if not isinstance(t, torch.Tensor):
            raise TypeError(f"conv_transpose3d_norm(): argument {name!r} must be Tensor or None, not {type(t).__name__}")
        if channels is not None and tuple(t.shape) != (channels,):
            raise RuntimeError(f"expected {name} to be 1-dimensional with {channels} elements, one for each channel of the "
                               f"result, but got {name} of size {list(t.shape)}")
        if t.device != x.device:
            raise RuntimeError(f"input is on {x.device} and {name} is on {t.device}: expected all tensors to be on the "
                               f"same device, such as {name}.to(input.device)")
    if (vectors["running_mean"] is None) != (vectors["running_var"] is None):
        raise RuntimeError("running_mean and running_var are given both or neither")
    if vectors["running_mean"] is not None and momentum is None:
        raise TypeError("momentum must be a number: modules of PyTorch make one of None themselves, 1 / num_batches_tracked")
