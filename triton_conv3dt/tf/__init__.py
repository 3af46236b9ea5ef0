"""The transposed 3-D convolution with TensorFlow's arguments and numbers, on PyTorch tensors."""

from .operator import conv3d_transpose

__all__ = ["conv3d_transpose"]
