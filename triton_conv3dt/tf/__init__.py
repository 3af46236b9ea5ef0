"""The transposed 3-D convolution with TensorFlow's arguments and numbers, on PyTorch tensors.

    conv3d_transpose   tf.compat.v1.nn.conv3d_transpose
    Conv3DTranspose    tf.compat.v1.layers.Conv3DTranspose, a torch.nn.Module
    load_tf_weights    weights of a TensorFlow layer into ours
    from_torch         our layer from a torch.nn.ConvTranspose3d, where it can express one
    to_torch           and back

Knows no kernel, no plan and no device: it says what TensorFlow says in the terms of the layer's own function.
"""

from .layer import Conv3DTranspose
from .operator import conv3d_transpose
from .porting import from_torch, load_tf_weights, to_torch

__all__ = ["conv3d_transpose", "Conv3DTranspose", "load_tf_weights", "from_torch", "to_torch"]
