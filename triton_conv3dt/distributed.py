"""The layer of volumes that are split over ranks, and what of them has to travel."""

from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor

from .functional import Ints
from .functional import conv_transpose3d as _conv_transpose3d
from .ops import arguments
from .problems.geometry import Axis, ceil_div
from .sharding.halo import Split, places, plan

__all__ = ["conv_transpose3d", "traffic"]


def conv_transpose3d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Ints = 0,
                     output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1, **more: Any) -> Tensor:
    """triton_conv3dt.conv_transpose3d of DTensors. That function, nn.ConvTranspose3d and tf do the same when they are
    given DTensors; this one refuses plain tensors.

    The result and its derivatives are those of the whole: only the planes that a rank's outputs read and others have
    are sent, while what reads none of them is computed. All ranks of the mesh must call it.

    Args:
        input: a DTensor [N, CI, D, H, W] or [CI, D, H, W]. Each axis of its mesh replicates it, or splits N, D, H or W
            as torch.chunk does, into shards of any lengths; several may split the same one.
        weight: [CI, CO / groups, KD, KH, KW], replicated; or Shard(1), over output channels, along axes of the mesh
            that replicate the input, where groups is 1.
        bias: replicated, or Shard(0) where the weight is split.
        stride, padding, output_padding, groups, dilation: as PyTorch takes them, of the whole.
        more: activation, residual, concat, concat_first, out, precision and backend, as
            triton_conv3dt.conv_transpose3d takes them; residual, concat and out are placed as the result. An activation
            that is not fused is called with the DTensor.

    Returns:
        The DTensor [N, CO, OD, OH, OW], or without N, split as the input, and over channels where the weight is.

    The gradient of the input is placed as the input; those of weight and bias are the same bits on every rank that has
    them, sums over the ranks in their order. Differentiable twice, in reverse mode.

    Raises:
        RuntimeError: what triton_conv3dt.conv_transpose3d refuses, operands of which some are no DTensors or on another
            mesh, and placements that are not those above, with ones that would work.
    """
    if not hasattr(input, "device_mesh"):
        raise RuntimeError("triton_conv3dt.distributed.conv_transpose3d() takes DTensors, and input is a "
                           f"{type(input).__name__}. torch.distributed.tensor.distribute_tensor(input, mesh, "
                           "placements) makes one; triton_conv3dt.conv_transpose3d takes both")
    return _conv_transpose3d(input, weight, bias, stride, padding, output_padding, groups, dilation, **more)


class Traffic(NamedTuple):
    """Bytes of the rank that receives most of each."""

    shard: int  # of the input, the largest that a rank has
    halo: int  # that a rank receives for its outputs, and sends back as gradients
    weight: int  # that a rank receives while the gradients of weight and bias are summed


def traffic(input_size: Sequence[int], weight_size: Sequence[int], mesh: Sequence[int], split: Sequence[int], *,
            stride: Ints = 1, padding: Ints = 0, output_padding: Ints = 0, dilation: Ints = 1, groups: int = 1,
            dtype: torch.dtype = torch.float16) -> Traffic:
    """What a layer has to send between ranks, by its geometry: no rank and no device is needed.

    Args:
        input_size: [N, CI, D, H, W] of the whole.
        weight_size: [CI, CO / groups, KD, KH, KW].
        mesh: how many ranks there are along each axis of the mesh, such as (4, 2).
        split: which dimension of the input each axis of the mesh splits: 2, 3 or 4.
        stride, padding, output_padding, dilation, groups: of the layer.

    Returns:
        Bytes: (shard, halo, weight). The halo travels forward, and as many bytes of gradients travel back.
    """
    stride, padding, output_padding, dilation = (
        arguments.triple(name, value) for name, value in (("stride", stride), ("padding", padding),
                                                          ("output_padding", output_padding), ("dilation", dilation)))
    x, w = (torch.empty(size, device="meta") for size in (input_size, weight_size))
    out_size = arguments.out_size_of(x, w, stride, padding, output_padding, dilation)
    axes = tuple(map(Axis, x.shape[2:], out_size, w.shape[2:], stride, padding, dilation))
    ranks = plan(axes, Split(tuple(mesh), tuple(dim - 2 for dim in split)), 0)
    everyone, one = range(ranks.split.ranks), x.shape[0] * x.shape[1] * dtype.itemsize
    summed = w.numel() + w.shape[1] * groups
    return Traffic(max(places(ranks.inputs_at(rank)) for rank in everyone) * one,
                   max(map(ranks.received, everyone)) * one,
                   sum(2 * (size - 1) * ceil_div(summed, size) for size in mesh) * dtype.itemsize)
