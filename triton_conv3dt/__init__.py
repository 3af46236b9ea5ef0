"""Transposed 3-D convolution in Triton, forward and backward, for PyTorch.

    conv_transpose3d    torch.nn.functional.conv_transpose3d, with bias, residual, activation and `out` in one kernel
    nn.ConvTranspose3d  the module, with the parameters and the state_dict of PyTorch's
    tf                  the same layer with TensorFlow's arguments
    fusing              torch.compile(model, backend="triton_conv3dt"): what follows the layer becomes part of its call

Importing the package imports neither torch nor Triton and touches no GPU: names are looked up when they are first used.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["conv_transpose3d", "nn", "tf", "fusing"]


def __getattr__(name: str):
    if name in ("nn", "tf", "fusing"):
        return importlib.import_module(f".{name}", __name__)
    if name == "conv_transpose3d":
        from .functional import conv_transpose3d

        globals()[name] = conv_transpose3d  # the next look-up does not come here
        return conv_transpose3d
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
