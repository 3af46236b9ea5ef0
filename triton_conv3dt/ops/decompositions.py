"""The layer in exported programs: one operator, which runs the kernels and is decomposed into PyTorch's convolution.

torch.export keeps an operator that is implemented by others (CompositeImplicitAutograd) as one node, and
run_decompositions replaces it by what its implementation calls, in torch's default table, too. So ONNX, TensorRT and
whoever else asks for PyTorch's core operators finds aten.convolution, and a program that was only exported runs the
kernels.
"""

import torch

from . import autograd, composite
from .schemas import GEOMETRY, NAMESPACE, library, with_tuples

library.define("conv_transpose3d(Tensor x, Tensor w, Tensor? b, Tensor? residual, Tensor? concat, bool concat_first, "
               f"SymInt[] out_size, {GEOMETRY}, str? activation, float[] parameters) -> Tensor",
               tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))


def _conv_transpose3d(x, w, b, residual, concat, concat_first, *rest):
    rest = with_tuples(rest)
    if composite.exporting():  # decomposing, or asking for the shape of the result
        y = composite.conv_transpose3d(x, w, b, residual, *rest)
        return y if concat is None else torch.cat((concat, y) if concat_first else (y, concat), 1)
    if concat is None:
        return autograd.forward(x, w, b, residual, *rest, False)[0]
    return autograd.forward_concat(x, w, b, residual, concat, concat_first, *rest, False)[0]


library.impl("conv_transpose3d", _conv_transpose3d, "CompositeImplicitAutograd")
conv_transpose3d = getattr(torch.ops, NAMESPACE).conv_transpose3d.default
