"""Tensors on their way from rank to rank, as autograd sees them. Every step is linear, and its derivative is the step
back, so that derivatives of every order are made of these steps.

Every rank of a group takes every step, also one that needs nothing or has nothing to give. autograd takes those back
that a result hangs on, the last first, so the results of all ranks must hang on the same steps in the same order,
whatever a rank computes: a `rope`, a tensor without elements, runs through all steps, through their derivatives, too.
"""

from functools import partial

import torch
import torch.distributed as dist
from torch.autograd import Function

from ..launching.tensors import memory_format
from .halo import Route

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # so called before torch 2.13


def replicated(groups, *tensors):
    """The tensors, each the same on all ranks of the groups and used on each in its own way; then a list of a rope
    or nothing.
    """
    wanted = [t for t in tensors if t is not None and t.requires_grad] if groups and torch.is_grad_enabled() else []
    *found, rope = _Replicated.apply(groups, *wanted) if wanted else [None]
    used = dict(zip(map(id, wanted), found))
    return *(used.get(id(t), t) for t in tensors), [] if rope is None else [rope]


def gather(tensors, route: Route) -> torch.Tensor:
    """The boxes of tensors [N, C, ...] in a flat buffer, added up where they share places."""
    n, c = tensors[0].shape[:2]
    flat = tensors[0].new_zeros(route.places * n * c)
    for piece, box in _boxes(flat, route, n, c):
        box.add_(tensors[piece.tensor][(..., *piece.outer)])
    return flat


def spread(flat, route: Route, n: int, c: int, memory_format) -> tuple[torch.Tensor, ...]:
    """Tensors [n, c, ...] with the boxes of a flat buffer added at their places, zero elsewhere."""
    tensors = tuple(torch.zeros((n, c, *size), dtype=flat.dtype, device=flat.device).contiguous(
        memory_format=memory_format) for size in route.sizes)
    _add_boxes(tensors, flat, route)
    return tensors


def _add_boxes(tensors, flat, route: Route) -> None:
    for piece, box in _boxes(flat, route, *tensors[0].shape[:2]) if tensors else ():
        tensors[piece.tensor][(..., *piece.outer)].add_(box)


def _boxes(flat, route: Route, n: int, c: int):
    """Each piece of a route with its place in the flat buffer, as a view [n, c, ...]."""
    for piece in route.pieces:
        d, h, w = piece.shape
        box = flat.narrow(0, piece.start * n * c, n * c * d * h * w).view(n, c, d, h, w)
        yield piece, box[(..., *piece.inner)]


class Gather(Function):
    @staticmethod
    def forward(ctx, route, *tensors):
        ctx.route, ctx.shape, ctx.memory_format = route, tensors[0].shape[:2], memory_format(tensors[0])
        return gather(tensors, route)

    @staticmethod
    def backward(ctx, flat):
        return None, *Spread.apply(flat, ctx.route, *ctx.shape, ctx.memory_format)


class Spread(Function):
    @staticmethod
    def forward(ctx, flat, route, n, c, memory_format):
        ctx.route = route
        return spread(flat, route, n, c, memory_format)

    @staticmethod
    def backward(ctx, *tensors):
        return Gather.apply(ctx.route, *tensors), None, None, None, None


class Link:
    """One exchange in a group of ranks. Between `begin` and work.wait() the messages are under way.

    sends, receives: how many elements go to and come from each rank of the group. waits: the step before the exchange
    is `Leave`, which waits for gradients that are under way.
    """

    def __init__(self, group, sends: list[int], receives: list[int], waits: bool):
        self.group, self.sends, self.receives, self.waits = group, sends, receives, waits
        self.arriving = None  # gradients that a backward pass has asked for

    def begin(self, flat):
        """(work, what will have arrived after work.wait())."""
        arrived = flat.new_empty(sum(self.receives))
        work = dist.all_to_all_single(arrived, flat.contiguous(), self.receives, self.sends, self.group, async_op=True)
        return work, arrived


class Leave(Function):
    """(x itself, what stays of it for its own borders, what leaves it)."""

    @staticmethod
    def forward(ctx, x, plan, link):
        n, c = x.shape[:2]
        ctx.plan, ctx.link, ctx.format = plan, link, memory_format(x)
        flat = gather((x,), plan.sending)
        return x.view_as(x), flat[:plan.kept * n * c], flat[plan.kept * n * c:]

    @staticmethod
    def backward(ctx, dx, kept, left):
        if ctx.link.arriving is not None:
            ctx.link.arriving.wait()
            ctx.link.arriving = None
        flat, route = torch.cat((kept, left)), ctx.plan.sending
        if torch.is_grad_enabled():
            return dx + Spread.apply(flat, route, *dx.shape[:2], ctx.format)[0], None, None
        # The gradient by the product of the shard, which nobody else holds: no other copy of it is made.
        _add_boxes((dx,), flat, route)
        return dx, None, None


class Arrive(Function):
    """What arrives from others where `flat` leaves for them. `under_way` is what link.begin returned for it."""

    @staticmethod
    def forward(ctx, flat, rope, link, under_way):
        ctx.link = link
        work, arrived = under_way
        work.wait()
        return arrived, rope.view_as(rope)

    @staticmethod
    def backward(ctx, arrived, rope):
        if ctx.link.waits and not ctx.needs_input_grad[0]:  # alike on all ranks where it is x that leaves
            return None, rope, None, None
        back = Link(ctx.link.group, ctx.link.receives, ctx.link.sends, False)
        under_way = back.begin(arrived)
        if torch.is_grad_enabled() or torch.is_anomaly_enabled() or not ctx.link.waits:
            return *Arrive.apply(arrived, rope, back, under_way), None, None
        ctx.link.arriving, flat = under_way
        return flat, rope, None, None  # `Leave` waits for it, when the gradient of the shard is computed


class Fasten(Function):
    """The operands (None stays None), and a rope that hangs on all of them, and on the first, which are ropes."""

    @staticmethod
    def forward(ctx, ropes, *operands):
        ctx.set_materialize_grads(False)
        ctx.ropes, ctx.like = ropes, [t if t is None else (t.shape, t.dtype, t.device) for t in operands[ropes:]]
        return *(t if t is None else t.view_as(t) for t in operands[ropes:]), operands[ropes].new_empty(0)

    @staticmethod
    def backward(ctx, *gradients):
        *gradients, rope = gradients
        rope = torch.empty(0, dtype=ctx.like[0][1], device=ctx.like[0][2]) if rope is None else rope
        if torch.is_grad_enabled():  # all that will be differentiated hangs on the rope, whatever it is on this rank
            gradients = [g if g is None else _Tied.apply(g, rope) for g in gradients]
        pairs = zip(gradients, ctx.needs_input_grad[1 + ctx.ropes:], ctx.like)
        gradients = [_Zeros.apply(rope, *like) if g is None and needed else g for g, needed, like in pairs]
        return None, *[rope] * ctx.ropes, *gradients


class _Tied(Function):
    """A tensor that hangs on a rope, too."""

    @staticmethod
    def forward(ctx, t, rope):
        return t.view_as(t)

    @staticmethod
    def backward(ctx, t):
        return t, t.new_empty(0)


class _Zeros(Function):
    @staticmethod
    def forward(ctx, rope, shape, dtype, device):
        return torch.zeros(shape, dtype=dtype, device=device)

    @staticmethod
    def backward(ctx, zeros):
        return zeros.new_empty(0), None, None, None


class _Follow(Function):
    """The rope of a derivative, which hangs on dy, too."""

    @staticmethod
    def forward(ctx, dy, rope):
        ctx.like = dy.shape, dy.dtype, dy.device
        return rope.view_as(rope)

    @staticmethod
    def backward(ctx, rope):
        return _Zeros.apply(rope, *ctx.like), rope


def put(y, places, parts) -> None:
    """Copy those parts of y that have not been computed in it."""
    for place, part in zip(places, parts):
        if part.numel() and part.data_ptr() != y[place].data_ptr():
            y[place].copy_(part.detach())


def cut(t, places) -> list:
    """The parts of a tensor, without a gradient of its whole size for each; Nones for None."""
    if t is None or not (places and t.requires_grad):
        return [None if t is None else t[place] for place in places]
    return _Cut.apply(t, places)


class Assemble(Function):
    """A tensor of its parts, which hangs on a rope. The parts are in y already; places is None for one that is all of y.

    watched: pairs (what has the version of a DTensor, that version) of those whose shards are kept for derivatives:
    autograd sees that a DTensor changes, but not that its shard does.
    """

    @staticmethod
    def forward(ctx, y, places, watched, rope, *parts):
        ctx.places, ctx.watched = places, watched
        ctx.save_for_backward(rope)
        return parts[0].view_as(parts[0]) if places is None else y[0]

    @staticmethod
    def backward(ctx, dy):
        if any(t._version != version for t, version in ctx.watched):
            raise RuntimeError("one of the variables needed for gradient computation has been modified by an inplace "
                               "operation: a DTensor that conv_transpose3d() was given, or its result. Use one out of "
                               "place")
        parts = [dy] if ctx.places is None else [dy[place] for place in ctx.places]
        return None, None, None, _Follow.apply(dy, *ctx.saved_tensors), *parts


class _Cut(Function):
    @staticmethod
    def forward(ctx, t, places):
        ctx.places, ctx.empty = places, partial(torch.empty, t.shape, dtype=t.dtype, device=t.device,
                                                memory_format=memory_format(t))
        return tuple(t[place] for place in places)

    @staticmethod
    def backward(ctx, *parts):
        whole = ctx.empty()
        put(whole, ctx.places, parts)
        return Assemble.apply((whole,), ctx.places, (), parts[0].new_empty(0), *parts), None


class _Replicated(Function):
    """Tensors that every rank of the groups has, and a rope. The gradients are summed."""

    @staticmethod
    def forward(ctx, groups, *tensors):
        ctx.groups = groups
        return *(t.view_as(t) for t in tensors), tensors[0].new_empty(0)

    @staticmethod
    def backward(ctx, *gradients):
        *gradients, rope = gradients
        return None, *_Summed.apply(ctx.groups, rope, *gradients)


class _Summed(Function):
    """Sums over the ranks of each group in turn: the same sums, in the same order, on every rank."""

    @staticmethod
    def forward(ctx, groups, rope, *tensors):
        ctx.groups = groups
        for group in groups:
            tensors = _sums(tensors, group)
        return tuple(tensors)

    @staticmethod
    def backward(ctx, *gradients):
        *gradients, rope = _Replicated.apply(ctx.groups, *gradients)
        return None, rope, *gradients


def _sums(tensors, group):
    """Each rank sums a share of all tensors, in the order of the ranks, in fp32 at least, and gives it to the others."""
    ranks = dist.get_world_size(group)
    flat = torch.cat([t.reshape(-1) for t in tensors])
    share = -(-flat.numel() // ranks)
    parts = torch.nn.functional.pad(flat, (0, share * ranks - flat.numel()))
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    total = torch.zeros(share, dtype=torch.promote_types(flat.dtype, torch.float32), device=flat.device)
    for part in received.chunk(ranks):
        total += part
    _all_gather(parts, total.to(flat.dtype), group=group)
    split = parts[:flat.numel()].split([t.numel() for t in tensors])
    return [torch.empty_like(t).copy_(s.view(t.shape)) for t, s in zip(tensors, split)]
