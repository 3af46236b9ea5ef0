"""The layer of DTensors, as every rank runs it for its shard."""

import torch
from torch.distributed.tensor import DTensor

from ..launching.tensors import memory_format
from ..ops import arguments
from ..problems.geometry import Axis
from . import exchange, placing
from .halo import plan, within


@torch.compiler.disable  # it knows neither this rank's place nor what is under way, and leaves the call as it is
def conv_transpose3d(product, geometry, keeps_output, x, w, b, residual, concat, concat_first, out):
    """The layer of DTensors whose shapes have been checked; y is split as x is, and over channels where w is.

    Args:
        product: product(x, w, b, residual, concat, out, into, padding, out_size), the layer of plain tensors. concat,
            out and into may be None; into is memory that the result may be in.
        geometry: out_size, stride, padding, dilation and groups of the whole.
        keeps_output: whether the derivative is a function of the output.

    Raises:
        RuntimeError: operands that are not DTensors of one mesh, or with placements that the layer does not take.
    """
    out_size, stride, padding, dilation, groups = geometry
    place = placing.of(x, w, b, residual, concat, out, groups)
    if out is not None:
        arguments.refuse_derivatives(x, w, b, residual, concat, out)
    if b is not None and tuple(b.placements) != place.bias:
        b = b.redistribute(placements=place.bias)
    channels = w.shape[1] * groups + (0 if concat is None else concat.shape[place.channel])
    size = (*x.shape[:place.channel], channels, *out_size)
    local = [None if t is None else _local(t) for t in (x, w, b, residual, concat, out)]
    if not place.channel:
        local = [t if t is None or t.dim() != 4 else t.unsqueeze(0) for t in local]
    lx, lw, lb, *epilogue, lout = local
    lw, lb, ropes = exchange.replicated(place.groups(place.axes(0, 1, 2, 3, 4)), lw, lb)
    lx, more = exchange.replicated(place.groups(place.split_weight), lx)
    lx, lw, lb, *epilogue, rope = exchange.Fasten.apply(len(ropes + more), *ropes, *more, lx, lw, lb, *epilogue)
    axes = tuple(map(Axis, x.shape[-3:], out_size, w.shape[2:], stride, padding, dilation))
    watched = [_watched(t) for t, other in ((x, w), (w, x)) if other.requires_grad]
    y = _Shard(product, axes, groups, place, lw, lb, concat_first, watched).run(lx, *epilogue, lout, rope)
    if out is not None:
        return out
    y = _whole(y, place, size, x)
    if keeps_output and y.requires_grad:
        watched.append(_watched(y))
    return y


def _watched(t):
    """What has the version of a DTensor, but none of its memory, and the version that it has now."""
    alias = t.detach()
    alias._local_tensor = None
    return alias, t._version


def _local(t):
    """The shard of a DTensor; what is still on its way there is waited for."""
    local = t.to_local()
    return local if type(local) in (torch.Tensor, torch.nn.Parameter) else local.clone()


def _whole(y, place, size, x):
    """The DTensor of which y is this rank's shard, in x's memory format."""
    whole = torch.empty((1,) * (5 - len(size)) + size, device="meta", memory_format=_format(x))
    y = DTensor.from_local(y.contiguous(memory_format=_format(x)) if place.channel else y.squeeze(0), place.mesh,
                           place.output, run_check=False, shape=torch.Size(size), stride=whole.stride()[-len(size):])
    # A gradient in other placements is brought into these by a step that has a derivative; from_local's has none.
    return y.redistribute(placements=place.output) if y.requires_grad else y


def _format(x):
    return memory_format(x if x.dim() == 5 else x.unsqueeze(0))


class _Shard:
    """This rank's part of a layer."""

    def __init__(self, product, axes, groups, place, w, b, concat_first, watched):
        split, rank, self.group = place.split()
        self.product, self.groups, self.w, self.b, self.concat_first = product, groups, w, b, concat_first
        self.watched = watched
        self.plan = plan(axes, split, rank)
        self.parts = self.plan.parts if w.shape[1] else ()  # there may be more ranks than output channels

    def run(self, x, residual, concat, out, rope):
        tracked = rope.requires_grad
        if len(self.parts) == 1 and not (self.plan.joined or self.plan.exchanges):
            y = self.compute(self.parts[0], x, residual, concat, out)
            return exchange.Assemble.apply(None, None, self.watched, rope, y) if tracked else y
        channels, others = self.w.shape[1] * self.groups, 0 if concat is None else concat.shape[1]
        first = others if self.concat_first else 0
        y = out
        if out is None:
            y = torch.empty((x.shape[0], channels + others, *map(len, self.plan.outputs)), device=x.device,
                            dtype=x.dtype if concat is None else torch.promote_types(x.dtype, concat.dtype),
                            memory_format=memory_format(x))
        inside = [within(part.outputs, self.plan.outputs) for part in self.parts]
        places = [(slice(None), slice(first, first + channels), *place) for place in inside]
        skip = (slice(None), slice(0, others) if self.concat_first else slice(channels, None))
        if concat is not None:  # before anything of y is kept for derivatives, which its change would spoil
            y[skip].copy_(concat.detach())
        residuals = exchange.cut(residual, [(..., *place) for place in inside])
        memory = [y[place].detach() if y.dtype == x.dtype else None for place in places]
        parts, rope = self.results(x, residuals, memory, rope)
        exchange.put(y, places, parts)
        if not tracked:
            return y
        more = ([], []) if concat is None else ([skip], [concat])
        return exchange.Assemble.apply((y,), places + more[0], self.watched, rope, *parts, *more[1])

    def results(self, x, residuals, memory, rope):
        """The product of each part, in its memory where it has some, and the rope."""
        (n, c), arrived = x.shape[:2], None
        if self.plan.exchanges or self.plan.joined:
            link = exchange.Link(self.group, [n * c * p for p in self.plan.send_places],
                                 [n * c * p for p in self.plan.receive_places], True)
            x, kept, arrived = exchange.Leave.apply(x, self.plan, link)
        if self.plan.exchanges:
            left, under_way = arrived, link.begin(arrived.detach())

        def compute(part, x, residual, place):
            offered = dict(into=place) if rope.requires_grad else dict(out=place)
            return self.compute(part, x, residual, None, **offered)

        # What needs nothing of others is computed while that is under way.
        found = [None if part.joined else compute(part, x, *rest) for part, *rest in zip(self.parts, residuals, memory)]
        if self.plan.exchanges:
            arrived, rope = exchange.Arrive.apply(left, rope, link, under_way)
        if self.parts and self.plan.joined:
            buffers = iter(exchange.Spread.apply(torch.cat((kept, arrived)), self.plan.joining, n, c, memory_format(x)))
            found = [compute(part, next(buffers), *rest) if part.joined else one
                     for one, part, *rest in zip(found, self.parts, residuals, memory)]
        return found, rope

    def compute(self, part, x, residual, concat, out=None, into=None):
        padding = tuple(axis.padding + outputs.start - read.start * axis.stride
                        for axis, outputs, read in zip(self.plan.axes, part.outputs, part.inputs))
        return self.product(x, self.w, self.b, residual, concat, out, into, padding, tuple(map(len, part.outputs)))
