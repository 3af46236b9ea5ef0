"""A normalisation with fixed statistics, in the weight and bias of the layer before it."""

import torch


def folded(weight, bias, groups, mean, variance, scale, shift, eps):
    """(weight, bias) of the layer whose result is that of the given layer and the normalisation after it:

        (conv_transpose(x, weight) + bias - mean) / sqrt(variance + eps) * scale + shift

    Differentiable, so that what is trained goes on being trained.

    Args:
        weight: [CI, CO / groups, KD, KH, KW].
        bias, scale, shift: [CO] or None.
        mean, variance: [CO].
    """
    factor = torch.rsqrt(variance + eps)
    if scale is not None:
        factor = factor * scale
    offset = -mean if bias is None else bias - mean
    offset = offset * factor if shift is None else offset * factor + shift
    if groups == 1:
        product = weight * factor.view(1, -1, 1, 1, 1)
    else:  # each group of input channels has its own output channels
        product = (weight.unflatten(0, (groups, -1)) * factor.view(groups, 1, -1, 1, 1, 1)).flatten(0, 1)
    return product.to(weight.dtype), offset.to(weight.dtype)
