"""Transposed 3-D convolution in Triton, forward and backward, for PyTorch.

    conv_transpose3d        torch.nn.functional.conv_transpose3d, with bias, residual, activation, `out` in one kernel
    conv_transpose3d_sized  the same, where the output's size is given and more is cropped on one side than on the other
    conv_transpose3d_norm   the layer and instance or batch normalisation in training, which reads the result once
    nn.ConvTranspose3d      the module, with the parameters and the state_dict of PyTorch's
    tf                      the same layer with TensorFlow's arguments
    fusing                  torch.compile(model, backend="triton_conv3dt"): what follows the layer joins its call
    distributed             the layer of volumes that are split over ranks

Importing the package imports neither torch nor Triton and touches no GPU: names are looked up when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import distributed, fusing, nn, tf
    from .functional import conv_transpose3d, conv_transpose3d_sized
    from .norm import conv_transpose3d_norm

__version__ = "0.1.0"
__all__ = ["conv_transpose3d", "conv_transpose3d_sized", "conv_transpose3d_norm", "nn", "tf", "fusing", "distributed"]
_FUNCTIONS = {"conv_transpose3d": "functional", "conv_transpose3d_sized": "functional", "conv_transpose3d_norm": "norm"}


def __getattr__(name: str) -> Any:
    if name in ("nn", "tf", "fusing", "distributed"):
        return importlib.import_module(f".{name}", __name__)
    if name in _FUNCTIONS:
        module = importlib.import_module(f".{_FUNCTIONS[name]}", __name__)
        return globals().setdefault(name, getattr(module, name))  # the next look-up does not come here
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
