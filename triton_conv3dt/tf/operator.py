"""conv3d_transpose: TensorFlow's operator on PyTorch tensors.

Nothing is copied on the way to the kernels. TensorFlow's filter is PyTorch's weight in another order of axes, which the
kernels read through strides, and NDHWC is what PyTorch calls channels_last_3d.
"""

from ..checking import reference
from ..functional import conv_transpose3d_sized
from . import arguments


def conv3d_transpose(value=None, filter=None, output_shape=None, strides=None, padding="SAME", data_format="NDHWC",
                     name=None, input=None, filters=None, dilations=None, *, precision=None, backend="auto"):
    """tf.compat.v1.nn.conv3d_transpose (and tf.nn.conv3d_transpose, by its names): the transpose of a convolution.

    Along each axis, with the crop in front that VALID (0) or SAME takes, and without turning the filter round:

        result[o] = sum of value[i] * filter[k]  over all i and k with  o = i * stride + k * dilation - crop

    Differentiable in value and filter, to any order, in reverse and forward mode.

    Args:
        value, input: [N, D, H, W, CI], or [N, CI, D, H, W] for "NCDHW"; float16, bfloat16, float32 or float64.
        filter, filters: [KD, KH, KW, CO, CI], of value's dtype. It is read as it lies.
        output_shape: five integers in the order of data_format, as a list, tuple, torch.Size or integer tensor, scalar
            tensors among them. Its lengths select one of those that the strides allow, and SAME crops
            max(0, (I - 1) * stride + (K - 1) * dilation + 1 - O) elements of each axis, the odd one at the end. Its
            channels may be G * CO: then there are G groups of channels, as TensorFlow has them on a GPU.
        strides, dilations: None (all 1), one integer, or 1, 3 or 5 of them; 5 are in the order of data_format.
        padding: "SAME" or "VALID".
        data_format: "NDHWC", "NCDHW", or None for the first.
        name: taken and not used.
        precision, backend: ours, as triton_conv3dt.conv_transpose3d takes them.

    Returns:
        A tensor of output_shape in data_format, contiguous where value is. Where no input reaches, it is 0.

    Raises:
        TypeError: an argument of the wrong type, dtypes that differ or have no kernels.
        ValueError: both names of an argument or none; a padding, data_format, number or shape that cannot be. For an
            output_shape of the wrong length, the message says what each axis may be.
        RuntimeError: backend="triton" where it cannot run.
    """
    value = arguments.one_of("value", value, "input", input)
    filter = arguments.one_of("filter", filter, "filters", filters)
    if isinstance(padding, bytes):  # as TensorFlow's own strings come
        padding = padding.decode()
    data_format = "NDHWC" if data_format is None else arguments.choice("data_format", data_format, arguments.FORMATS)
    arguments.choice("padding", padding, ("SAME", "VALID"))
    dilations = arguments.per_axis("dilations", dilations, data_format)
    strides = arguments.per_axis("strides", strides, data_format)
    output_shape = arguments.output_shape_of(output_shape, data_format)
    arguments.check_tensors(value, filter)
    out_size, crop, groups = arguments.fit(tuple(value.shape), tuple(filter.shape), output_shape, strides, dilations,
                                           padding, data_format)
    return transposed(value, filter, None, out_size=out_size, crop=crop, strides=strides, dilations=dilations,
                      groups=groups, channels_last=data_format == "NDHWC", precision=precision, backend=backend)


def transposed(value, filter, bias, *, out_size, crop, strides, dilations, groups, channels_last, activation=None,
               precision=None, backend="auto"):
    """activation(conv3d_transpose(value, filter) + bias) for arguments that fit; activation is one that is fused, or
    None. Three integers along depth, height and width are a tuple.
    """
    x = value.permute(0, 4, 1, 2, 3) if channels_last else value
    w = filter.permute(4, 3, 0, 1, 2)
    if 0 in x.shape[1:] or 0 in w.shape:
        y = _without_products(x, w, bias, out_size, groups, activation)
    else:
        y = conv_transpose3d_sized(x, w, bias, stride=strides, padding=crop, out_size=out_size, dilation=dilations,
                                   groups=groups, activation=activation, precision=precision, backend=backend)
    if channels_last:
        y = y.permute(0, 2, 3, 4, 1)
    # The kernels give value's order. Not so PyTorch's operators on a CPU, and both where an order cannot be told.
    return y.contiguous() if value.is_contiguous() else y


def _without_products(x, w, bias, out_size, groups, activation):
    """The layer of an empty input or filter: activation(bias) everywhere, with gradients of zero for x and w."""
    y = x.new_zeros(x.shape[0], w.shape[1] * groups, *out_size) + x[:0].sum() + w[:0].sum()
    if bias is not None:
        y = y + bias.view(-1, 1, 1, 1)
    return y if activation is None else reference.activation(y, activation.name, activation.parameters)
