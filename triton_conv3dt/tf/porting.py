"""Weights from TensorFlow, and layers from and to torch.nn.ConvTranspose3d where both can express them."""

import torch
from torch.nn.parameter import is_lazy

from ..ops.arguments import AXES
from .layer import Conv3DTranspose, sizes
from .lengths import accepted, reach


def load_tf_weights(layer: Conv3DTranspose, weights) -> Conv3DTranspose:
    """Give a layer the weights of a TensorFlow layer.

    Args:
        layer: a Conv3DTranspose; one that is not built is built for them, in their dtype unless it has its own.
        weights: [kernel, bias], or [kernel] without a bias, as TensorFlow's layer.get_weights() gives them: arrays
            (KD, KH, KW, filters, in_channels) and (filters,).

    Returns:
        The layer.

    Raises:
        TypeError: another kind of layer, or something that is no array.
        ValueError: another number of weights, or shapes that do not fit. The layer is unchanged then.
    """
    if not isinstance(layer, Conv3DTranspose):
        raise TypeError(f"layer must be a triton_conv3dt.tf.Conv3DTranspose, received {type(layer).__name__}")
    layer.set_weights(weights)
    return layer


def to_torch(layer: Conv3DTranspose) -> torch.nn.ConvTranspose3d:
    """A torch.nn.ConvTranspose3d that computes what a layer does, with a copy of its weights, on [N, C, D, H, W].

    PyTorch crops both ends alike and adds only at the end. So "valid" can always be expressed, and "same" only where
    TensorFlow's crop is even: kernel 4 with stride 2, but not kernel 3 with stride 2.

    Raises:
        ValueError: the layer is not built, crops unevenly, or has an activation.
    """
    if not layer.built:
        raise ValueError(f"layer {layer.name} isn't built, so it has no weights to convert. Call it, or call "
                         "build(input_shape)")
    if layer.activation not in (None, "linear", "identity"):
        raise ValueError(f"layer {layer.name} has the activation {layer.get_config()['activation']!r} and "
                         "torch.nn.ConvTranspose3d has none. Convert a layer without it, and apply it afterwards")
    numbers = layer.kernel_size, layer.strides, layer.dilation_rate
    padding, output_padding = [], []
    for name, k, s, d, out, before in zip(AXES, *numbers, *sizes((1, 1, 1), *numbers, layer.padding,
                                                                 layer.output_padding)):
        after = reach(k, d) - before - out
        if after > before:
            raise ValueError(f"layer {layer.name} crops {before} before and {after} after along {name} (kernel {k}, "
                             f"stride {s}, dilation {d}, padding {layer.padding!r}), and torch.nn.ConvTranspose3d "
                             "crops both ends alike. None of PyTorch's paddings can express it: keep the layer")
        padding.append(before)
        output_padding.append(before - after)
    module = torch.nn.ConvTranspose3d(
        layer.kernel.shape[-1], layer.filters, layer.kernel_size, layer.strides, tuple(padding), tuple(output_padding),
        layer.groups, layer.use_bias, layer.dilation_rate, device=layer.kernel.device, dtype=layer.dtype)
    with torch.no_grad():
        module.weight.copy_(layer.kernel.permute(4, 3, 0, 1, 2))
        if layer.use_bias:
            module.bias.copy_(layer.bias)
    return module.train(layer.training).requires_grad_(layer.trainable)


def from_torch(module: torch.nn.ConvTranspose3d, data_format: str = "channels_last", **kwargs) -> Conv3DTranspose:
    """A layer that computes what a torch.nn.ConvTranspose3d does, with a copy of its weights.

    Args:
        data_format: of the layer; what it takes and gives is the module's in another order of axes for "channels_last".
        kwargs: further arguments of Conv3DTranspose, such as name and activation.

    Raises:
        TypeError: another kind of module.
        ValueError: the module has no weights yet, or neither "valid" nor "same", with or without output_padding, crops
            what it crops.
    """
    if not isinstance(module, torch.nn.ConvTranspose3d):
        raise TypeError(f"module must be a torch.nn.ConvTranspose3d, received {type(module).__name__}")
    if is_lazy(module.weight):
        raise ValueError(f"{module} has no weights to convert before its first call")
    k, s, d = module.kernel_size, module.stride, module.dilation
    wanted = tuple(reach(*kd) - 2 * p + e for *kd, p, e in zip(k, d, module.padding, module.output_padding))
    for padding, output_padding in _candidates(k, s, d, wanted):
        bounds = [accepted(1, *n, padding.upper()) for n in zip(k, s, d)]
        if (all(low <= o <= high for o, (low, high) in zip(wanted, bounds))
                and sizes((1, 1, 1), k, s, d, padding, output_padding) == (wanted, tuple(module.padding))):
            break
    else:
        raise ValueError(
            f"TensorFlow's layer cannot express {module}: it crops {module.padding} before the output and "
            f"{tuple(p - e for p, e in zip(module.padding, module.output_padding))} after it, but 'valid' crops "
            "nothing, and 'same' an odd rest at the end. Keep the module, or use triton_conv3dt.nn.ConvTranspose3d")
    weight, bias = module.weight, module.bias
    layer = Conv3DTranspose(
        module.out_channels, k, s, padding, data_format, use_bias=bias is not None, output_padding=output_padding,
        dilation_rate=d, groups=module.groups, dtype=weight.dtype, **kwargs)
    kernel = weight.detach().permute(2, 3, 4, 1, 0)
    layer.to(weight.device).set_weights([kernel] if bias is None else [kernel, bias.detach()])
    layer.trainable = kwargs.get("trainable", weight.requires_grad)
    return layer.train(module.training)


def _candidates(kernel, stride, dilation, wanted):
    """(padding, output_padding) that may give the wanted lengths for inputs of length 1, and so for all."""
    for padding in ("valid", "same"):
        yield padding, None
        least, _ = sizes((1, 1, 1), kernel, stride, dilation, padding, (0, 0, 0))
        extra = tuple(o - low for o, low in zip(wanted, least))
        if all(0 <= e < s for e, s in zip(extra, stride)):
            yield padding, extra
