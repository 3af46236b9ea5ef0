"""Sharded layers, each compared on every rank with PyTorch's operator on the whole, to the bit.

    PYTHONPATH=.:tests/support python -m sharded --n 300 --seed 7
    TRITON_INTERPRET=1 PYTHONPATH=.:tests/support python -m sharded --n 5 --backend triton
"""

import argparse
import random
from dataclasses import dataclass
from math import prod

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor, init_device_mesh

from ranks import Ranks
from triton_conv3dt.functional import conv_transpose3d_sized
from triton_conv3dt.sharding import exchange

MESHES = {2: ((2,), (1, 2)), 3: ((3,),), 4: ((4,), (2, 2), (2, 2))}
ACTIVATIONS = (None, None, "relu", ("leaky_relu", 0.25))
_meshes = {}  # of this process


@dataclass(frozen=True)
class Sharded:
    """A layer, and how its operands lie on a mesh: for each of its axes the dimension of x that is split, or None, or
    "co" where the weight is.
    """

    mesh: tuple
    split: tuple
    n: int
    ci: int
    co: int
    in_size: tuple
    kernel: tuple
    stride: tuple
    padding: tuple
    out_size: tuple
    dilation: tuple = (1, 1, 1)
    groups: int = 1
    bias: bool = True
    residual: bool = False
    concat: int = 0  # channels
    concat_first: bool = False
    activation: object = None
    batched: bool = True

    @property
    def placements(self) -> dict:
        shift = 0 if self.batched else -1
        x = [Replicate() if p is None or p == "co" else Shard(p + shift) for p in self.split]
        w = [Shard(1) if p == "co" else Replicate() for p in self.split]
        y = [Shard(1 + shift) if p == "co" else q for p, q in zip(self.split, x)]
        return dict(x=x, w=w, b=[Replicate()] * len(w), residual=y, concat=y, y=y)

    def tensors(self) -> dict:
        """Small integers in fp64, in which every sum of derivatives of second order is exact, too."""
        generator = torch.Generator().manual_seed(0)
        batch = (self.n,) if self.batched else ()
        shapes = dict(x=(*batch, self.ci, *self.in_size), b=(self.co,),
                      w=(self.ci, self.co // self.groups, *self.kernel),
                      residual=(*batch, self.co, *self.out_size),
                      concat=(*batch, self.concat, *self.out_size))
        kept = {"x", "w", *["b"] * self.bias, *["residual"] * self.residual, *["concat"] * bool(self.concat)}
        return {name: torch.randint(-3, 4, shape, generator=generator).double() for name, shape in shapes.items()
                if name in kept}


def whole(case: Sharded, x, w, b=None, residual=None, concat=None):
    """The layer by PyTorch's operator, uncropped, and what makes of that the output."""
    y = F.conv_transpose3d(x, w, None, case.stride, 0, 0, case.groups, case.dilation)
    margin = 30  # more than any crop or output here
    y = F.pad(y, [margin] * 6)
    y = y[(..., *(slice(margin + p, margin + p + o) for p, o in zip(case.padding, case.out_size)))]
    y = y if b is None else y + b.view(-1, 1, 1, 1)
    y = y if residual is None else y + residual
    if case.activation is not None:
        y = y.relu() if case.activation == "relu" else F.leaky_relu(y, case.activation[1])
    return y if concat is None else torch.cat((concat, y) if case.concat_first else (y, concat), -4)


def layer(case: Sharded, x, w, b=None, **more):
    return conv_transpose3d_sized(x, w, b, stride=case.stride, padding=case.padding, out_size=case.out_size,
                                  dilation=case.dilation, groups=case.groups, activation=case.activation,
                                  concat_first=case.concat_first, **more)


def mesh_of(sizes):
    """The mesh of this size of all ranks; its groups are made once."""
    if sizes not in _meshes:
        _meshes[sizes] = init_device_mesh("cpu", sizes)
    return _meshes[sizes]


class Counted:
    """While it is open: how many elements each exchange brings to this rank."""

    def __enter__(self):
        self.counts, self.real = [], exchange.Link.begin
        exchange.Link.begin = lambda link, flat: self.counts.append(sum(link.receives)) or self.real(link, flat)
        return self.counts

    def __exit__(self, *error):
        exchange.Link.begin = self.real


def least(case: Sharded) -> int:
    """How many elements of others the outputs of this rank read, by the definition."""
    inputs, outputs = ([list(range(size)) for size in sizes] for sizes in (case.in_size, case.out_size))
    batch = list(range(case.n))
    for size, place, dim in zip(case.mesh, mesh_of(case.mesh).get_coordinate(), case.split):
        if dim == 0:
            batch = _chunk(batch, size, place)
        elif dim in (2, 3, 4):
            inputs[dim - 2] = _chunk(inputs[dim - 2], size, place)
            outputs[dim - 2] = _chunk(outputs[dim - 2], size, place)
    read = []
    for axis in range(3):
        taps = [k * case.dilation[axis] - case.padding[axis] for k in range(case.kernel[axis])]
        read.append({i for i in range(case.in_size[axis]) for tap in taps
                     if i * case.stride[axis] + tap in set(outputs[axis])})
    own = prod(len(r & set(i)) for r, i in zip(read, inputs))
    return (prod(map(len, read)) - own) * len(batch) * case.ci


def _chunk(indices: list[int], parts: int, place: int) -> list[int]:
    chunks = torch.tensor(indices).chunk(parts)
    return chunks[place].tolist() if place < len(chunks) else []


def check(case: Sharded, backend: str = "torch", second: bool = False) -> int:
    """Compare on this rank; returns how many elements came to it in the forward pass."""
    mesh, operands = mesh_of(case.mesh), case.tensors()
    plain = {name: t.clone().requires_grad_() for name, t in operands.items()}
    split = {name: distribute_tensor(t, mesh, case.placements[name]).requires_grad_() for name, t in operands.items()}
    expected = whole(case, **plain)
    with Counted() as counts:
        y = layer(case, **split, backend=backend)
    communicated = counts[0] if counts else 0
    assert communicated == least(case), (communicated, least(case))
    assert tuple(y.placements) == tuple(case.placements["y"]) and y.shape == expected.shape
    same("y", y, expected)
    with torch.no_grad():
        same("y without derivatives", layer(case, **split, backend=backend), expected)
        out = distribute_tensor(torch.full_like(expected, torch.nan), mesh, case.placements["y"])
        assert layer(case, **split, backend=backend, out=out) is out
        same("out", out, expected)
    dy = torch.randint(-3, 4, expected.shape, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    split_dy = distribute_tensor(dy.detach(), mesh, case.placements["y"]).requires_grad_()
    found = torch.autograd.grad(y, list(split.values()), split_dy, create_graph=second)
    others = torch.autograd.grad(expected, list(plain.values()), dy, create_graph=second)
    for name, gradient, other in zip(split, found, others):
        assert tuple(gradient.placements) == tuple(split[name].placements), (name, gradient.placements)
        same(f"d{name}", gradient, other)
    if second:
        others = [(g, g.detach() - 1) for g in others if g.requires_grad]
        found = [(g, distribute_tensor(v, mesh, g.placements)) for g, (_, v) in zip(found, others, strict=True)]
        (found, along), (others, whole_along) = zip(*found), zip(*others)
        found = torch.autograd.grad(found, [*split.values(), split_dy], along, allow_unused=True)
        others = torch.autograd.grad(others, [*plain.values(), dy], whole_along, allow_unused=True)
        for name, gradient, other in zip([*split, "dy"], found, others):
            if other is not None and other.any():
                same(f"second d{name}", gradient, other)
    return communicated


def same(name: str, found, expected) -> None:
    if any(isinstance(p, Partial) for p in found.placements):
        found = found.redistribute(placements=[Replicate()] * len(found.placements))
    full = found.detach().full_tensor()
    assert torch.equal(full, expected.detach()), f"{name}: {(full != expected).nonzero()[:8].tolist()} differ"


def draw(seed: int, n: int, world: int) -> list[Sharded]:
    """n random layers for so many ranks."""
    rng, cases = random.Random(f"{seed} {world}"), []
    while len(cases) < n:
        cases += filter(None, [_draw(rng, world)])
    return cases


def _draw(rng, world) -> Sharded | None:
    mesh = rng.choice(MESHES[world])
    split = tuple(rng.choice((2, 2, 2, 3, 4, 0, "co", None)) for _ in mesh)
    if not {2, 3, 4} & set(split) and rng.random() < 0.7:
        return None
    triple = lambda *values: tuple(rng.choice(values) for _ in range(3))
    groups = 1 if "co" in split else rng.choice((1, 1, 2))
    ci, co = groups * rng.choice((1, 2)), groups * rng.choice((1, 2, 3))
    in_size = [rng.choice((1, 2, 3)) for _ in range(3)]
    for dim in {2, 3, 4} & set(split):
        in_size[dim - 2] = rng.choice((1, 2, 3, 4, 5, 7, 8, 9, 13))
    kernel, stride = triple(1, 2, 3, 3, 4, 5), triple(1, 2, 2, 3)
    kernel = stride if rng.random() < 0.2 else kernel
    dilation = triple(1, 2, 3) if rng.random() < 0.3 else (1, 1, 1)
    full = [(i - 1) * s + (k - 1) * d + 1 for i, k, s, d in zip(in_size, kernel, stride, dilation)]
    if rng.random() < 0.7:
        padding = tuple(rng.randint(0, k // 2 + 1) for k in kernel)
        extra = [rng.randrange(max(s, d)) for s, d in zip(stride, dilation)]
        out_size = tuple(f - 2 * p + e for f, p, e in zip(full, padding, extra))
    else:
        padding = tuple(rng.randint(-3, k + 1) for k in kernel)
        out_size = tuple(max(1, f - p + rng.randint(-4, 4)) for f, p in zip(full, padding))
    if min(out_size) < 1 or prod(out_size) > 4000:
        return None
    batched = 0 in split or rng.random() < 0.85
    concat = rng.choice((0, 0, 1, 2)) if "co" not in split else 0
    n = rng.choice((1, 2, 3)) if batched else 1
    return Sharded(mesh, split, n, ci, co, tuple(in_size), kernel, stride, padding, out_size, dilation, groups, rng.random() < 0.6, rng.random() < 0.3, concat, rng.random() < 0.5,
                   rng.choice(ACTIVATIONS), batched)


def check_all(cases, backend="torch", second_every=4) -> dict:
    """Every case on this rank; of some the second derivatives, too."""
    counts = [check(case, backend, second=i % second_every == 0) for i, case in enumerate(cases)]
    return dict(cases=len(cases), communicating=sum(map(bool, counts)), elements=sum(counts))


def report(case: Sharded, *arguments) -> str:
    """What is wrong with a case on this rank, or nothing."""
    try:
        check(case, *arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=300, help="cases for each number of ranks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, nargs="+", default=list(MESHES), choices=list(MESHES))
    parser.add_argument("--backend", choices=("torch", "triton"), default="torch")
    options = parser.parse_args()
    for world in options.ranks:
        ranks = Ranks(world)
        for i, case in enumerate(draw(options.seed, options.n, world)):
            answers = ranks.attempt(report, case, options.backend, i % 4 == 0)
            wrong = [answer for answer in answers if answer != (True, "")]
            if wrong:
                raise SystemExit(f"{case}\n{wrong}")
        ranks.close()
        print(f"{world} ranks: {options.n} layers are the same to the bit, gradients included")


if __name__ == "__main__":
    main()
