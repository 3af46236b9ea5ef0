"""Sharded layers are the same bits as whole ones, with all gradients, and receive no more than they read."""

import pytest
import torch
from torch.distributed.tensor import distribute_tensor

from ranks import interpreted
from sharded import Sharded, check_all, draw, mesh_of
from sharded import layer as apply

# How many layers are drawn for so many ranks; `python -m sharded` draws more.
DRAWN = {2: 12, 3: 16, 4: 24}


def layer(split, in_size, kernel, out_size, mesh=None, *, stride=(1, 1, 1), padding=(0, 0, 0), **more) -> Sharded:
    more = dict(n=2, ci=2, co=2) | more
    return Sharded(mesh=mesh or (4,), split=split, in_size=in_size, kernel=kernel, out_size=out_size, stride=stride,
                   padding=padding, **more)


SILENT = [  # nothing has to travel
    layer((2,), (8, 3, 2), (2, 2, 2), (16, 6, 4), stride=(2, 2, 2)),
    layer((2, 3), (4, 4, 3), (2, 2, 2), (8, 8, 6), (2, 2), stride=(2, 2, 2), residual=True, activation="relu"),
    layer((2,), (8, 2, 2), (1, 3, 3), (8, 2, 2), padding=(0, 1, 1)),
    layer((0,), (3, 3, 2), (3, 3, 3), (3, 3, 2), padding=(1, 1, 1), n=6),
    layer(("co",), (3, 3, 2), (3, 3, 3), (3, 3, 2), padding=(1, 1, 1), co=6),
    layer(("co",), (3, 3, 2), (3, 3, 3), (3, 3, 2), padding=(1, 1, 1), co=2, n=1),  # two ranks have no channel
]
TALKING = [
    layer((2,), (8, 3, 2), (3, 3, 3), (16, 6, 4), stride=(2, 2, 2), padding=(1, 1, 1)),  # 2 planes each
    layer((2,), (5, 3, 2), (5, 1, 1), (5, 3, 2), padding=(2, 0, 0)),  # 2, 2, 1 and none; the kernel reaches 2
    layer((2,), (2, 3, 2), (3, 3, 3), (2, 3, 2), padding=(1, 1, 1), residual=True),  # fewer planes than ranks
    layer((2,), (1, 2, 2), (5, 3, 3), (5, 2, 2), padding=(0, 1, 1), activation="relu"),  # one rank has all
    layer((2,), (9, 2, 2), (2, 2, 2), (18, 4, 4), stride=(2, 2, 2)),  # kernel = stride, shards that are not aligned
    layer((2,), (13, 2, 2), (2, 1, 1), (16, 2, 2), dilation=(3, 1, 1)),  # what lies between two taps stays away
    layer((2, 3), (4, 5, 3), (3, 3, 3), (8, 10, 6), (2, 2), stride=(2, 2, 2), padding=(1, 1, 1), residual=True),
    layer((2, 2), (9, 2, 2), (3, 3, 3), (9, 2, 2), (2, 2), padding=(1, 1, 1)),
    layer((0, 2), (5, 3, 2), (4, 4, 4), (10, 6, 4), (2, 2), stride=(2, 2, 2), padding=(1, 1, 1), n=3),
    layer((2, "co"), (5, 3, 2), (4, 4, 4), (10, 6, 4), (2, 2), stride=(2, 2, 2), padding=(1, 1, 1), co=3),
    layer((4, None), (2, 3, 7), (3, 3, 3), (2, 3, 7), (2, 2), padding=(1, 1, 1), groups=2, bias=False),
    layer((3,), (2, 7, 2), (1, 3, 1), (2, 7, 2), padding=(0, 1, 0), n=1, batched=False, residual=True),
    layer((2,), (6, 2, 2), (3, 3, 3), (9, 4, 4), stride=(2, 2, 2), padding=(-2, 1, 1), activation=("leaky_relu", 0.25)),
]


@pytest.mark.parametrize("world", DRAWN)
def test_drawn_layers(worlds, world):
    cases = draw(1, DRAWN[world], world)
    for result in worlds(world).run(check_all, cases):
        assert result["cases"] == len(cases)


def test_layers_that_need_nothing_of_others_send_nothing(worlds):
    for result in worlds(4).run(check_all, SILENT):
        assert result["elements"] == 0


def test_layers_with_shards_that_are_short_or_uneven_or_missing(worlds):
    results = worlds(4).run(check_all, TALKING, "torch", 3)
    assert sum(result["communicating"] for result in results) > 2 * len(TALKING)


def copied(case) -> int:
    """How many elements are copied into the result while a layer is computed by the kernels, with derivatives."""
    operands = {name: distribute_tensor(t, mesh_of(case.mesh), case.placements[name]).requires_grad_()
                for name, t in case.tensors().items()}
    copies, real = [], torch.Tensor.copy_
    torch.Tensor.copy_ = lambda self, other, *rest: copies.append(other.numel()) or real(self, other, *rest)
    try:
        y = apply(case, **operands, backend="triton")
    finally:
        torch.Tensor.copy_ = real
    return sum(copies)


@interpreted
def test_what_is_computed_is_not_copied(worlds):
    """A shard with a border on each side is three launches into one result, and the skip is all that is copied."""
    case = layer((2,), (6, 1, 1), (3, 1, 1), (6, 1, 1), (3,), padding=(1, 0, 0), ci=1, co=1, n=1, activation="relu")
    assert worlds(3).run(copied, case) == [0, 0, 0]
    case = layer((2,), (6, 1, 1), (3, 1, 1), (6, 1, 1), (3,), padding=(1, 0, 0), ci=1, co=1, n=1, concat=5)
    assert worlds(3).run(copied, case) == [10, 10, 10]


@interpreted
def test_the_kernels(worlds):
    """In the interpreter: borders, corners, a residual with an activation, and a shard of one launch."""
    cases = [layer((2,), (3, 1, 2), (3, 1, 2), (6, 2, 3), (2,), stride=(2, 2, 2), padding=(1, 0, 0), ci=1, co=1, n=1,
                   residual=True, activation="relu"),
             layer((2,), (4, 1, 1), (2, 2, 1), (8, 2, 1), (2,), stride=(2, 2, 1), ci=1, co=2, n=1),
             layer((None, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1), (1, 2), padding=(1, 0, 0), ci=1, co=1, n=1, concat=1)]
    for result in worlds(2).run(check_all, cases, "triton", 2):
        assert result["cases"] == 3
