"""The layer as a module, and models that exist already.

    ConvTranspose3d, LazyConvTranspose3d   PyTorch's modules with the kernels behind them
    convert, revert                        put them into a model, and take them out again
    report                                 what a model has, what follows each layer, and what of that is fused

Knows modules and no kernel: what a layer computes is said by `conv_transpose3d`.
"""

from .convert import convert, revert
from .layer import ConvTranspose3d, LazyConvTranspose3d
from .report import report

__all__ = ["ConvTranspose3d", "LazyConvTranspose3d", "convert", "revert", "report"]
