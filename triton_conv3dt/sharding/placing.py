"""Which placements the layer takes, what it gives its output, and the groups of ranks that it talks in."""

import weakref
from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard

from .halo import Split

_groups = weakref.WeakKeyDictionary()  # those of several axes of a mesh, by the group of all ranks


@dataclass(frozen=True)
class Placing:
    """How a layer lies on a mesh, from the placements of its input and its weight. Axes are those of the mesh.

    channel: the tensor's dimension of channels: 1, or 0 of an unbatched input.
    """

    mesh: object
    input: tuple
    weight: tuple
    channel: int

    def axes(self, *dimensions: int) -> list[int]:
        """The axes that split these dimensions of the input."""
        return [axis for axis, p in enumerate(self.input) if p.is_shard() and p.dim in dimensions]

    @property
    def spatial(self) -> list[int]:
        return self.axes(*range(self.channel + 1, self.channel + 4))

    @property
    def split_weight(self) -> list[int]:
        return [axis for axis, p in enumerate(self.weight) if p.is_shard()]

    @property
    def output(self) -> tuple:
        return tuple(Shard(self.channel) if w.is_shard() else x for x, w in zip(self.input, self.weight))

    @property
    def bias(self) -> tuple:
        return tuple(Shard(0) if w.is_shard() else Replicate() for w in self.weight)

    def groups(self, axes) -> list:
        """The groups of this rank along axes of the mesh, but for those that it is alone in."""
        return [self.mesh.get_group(axis) for axis in axes if self.mesh.size(axis) > 1]

    def split(self) -> tuple[Split, int, object]:
        """How the volume is split, this rank's place in it, and the group of all who have a part of it."""
        axes, coordinate = self.spatial, self.mesh.get_coordinate()
        sizes, rank = tuple(map(self.mesh.size, axes)), 0
        for axis, size in zip(axes, sizes):
            rank = rank * size + coordinate[axis]
        group, order = _group(self.mesh, axes, coordinate) if axes else (None, None)
        return Split(sizes, tuple(self.input[axis].dim - self.channel - 1 for axis in axes), order), rank, group


def _group(mesh, axes: list[int], coordinate: list[int]):
    """The group along several axes of a mesh, and in which place of the split each of its members is."""
    known = _groups.setdefault(dist.group.WORLD, {})
    key = mesh, tuple(axes)
    if key not in known:
        index = [slice(None) if axis in axes else place for axis, place in enumerate(coordinate)]
        ranks = mesh.mesh[tuple(index)].flatten().tolist()
        if len(axes) == 1:
            group = mesh.get_group(axes[0])
        elif len(ranks) == dist.get_world_size():
            group = dist.group.WORLD
        else:  # only its members are here
            group = dist.new_group(ranks, use_local_synchronization=True)
        known[key] = group, tuple(ranks.index(rank) for rank in dist.get_process_group_ranks(group))
    return known[key]


def of(x, w, b, residual, concat, out, groups: int) -> Placing:
    """The placing of a call whose shapes have been checked.

    Raises:
        RuntimeError: operands that are not DTensors of one mesh, or with placements that the layer does not take.
    """
    tensors = {"input": x, "weight": w, "bias": b, "residual": residual, "concat": concat, "out": out}
    tensors = {name: t for name, t in tensors.items() if t is not None}
    _check_kinds(tensors)
    mesh, channel = x.device_mesh, x.dim() - 4
    if mesh.get_coordinate() is None:
        raise RuntimeError(f"conv_transpose3d(): rank {dist.get_rank()} is no part of {mesh}, on which the input is; "
                           "call it on the ranks of the mesh")
    _check_input(x, channel)
    _check_weight(x, w, groups)
    placing = Placing(mesh, tuple(x.placements), tuple(w.placements), channel)
    if b is not None and any(p != q and p != Replicate() for p, q in zip(b.placements, placing.bias)):
        _refuse("bias", b, "it is replicated, or split as the weight's output channels are", placing.bias)
    if concat is not None and placing.split_weight:
        _refuse("weight", w, "what is concatenated along the channels needs all of them", [Replicate()] * mesh.ndim)
    for name, t in (("residual", residual), ("concat", concat), ("out", out)):
        if t is not None and tuple(t.placements) != placing.output:
            _refuse(name, t, "it has the placements of the result", placing.output)
    return placing


def _check_kinds(tensors: dict) -> None:
    plain = [name for name, t in tensors.items() if not isinstance(t, DTensor)]
    if plain:
        sharded = next(name for name, t in tensors.items() if isinstance(t, DTensor))
        raise RuntimeError(
            f"conv_transpose3d(): {sharded} is a DTensor and {', '.join(plain)} a plain tensor; all or none have to be "
            "DTensors. torch.distributed.tensor.distribute_module(module, mesh) replicates the parameters of a module, "
            "distribute_tensor(tensor, mesh, placements) splits or replicates a tensor")
    mesh = tensors["input"].device_mesh
    for name, t in tensors.items():
        if t.device_mesh != mesh:
            raise RuntimeError(f"conv_transpose3d(): input is on {mesh} and {name} on {t.device_mesh}: they have to be "
                               "on the same mesh")


def _check_input(x, channel: int) -> None:
    def fits(p):
        return p == Replicate() or type(p) is Shard and p.dim != channel

    if not all(map(fits, x.placements)):
        batch = f"Shard({channel - 1}) (batch), " * (channel == 1)
        _refuse("input", x, f"each axis of the mesh takes Replicate(), {batch}or one of Shard({channel + 1}), "
                f"Shard({channel + 2}) and Shard({channel + 3}) (depth, height, width)",
                [p if fits(p) else Replicate() for p in x.placements])


def _check_weight(x, w, groups: int) -> None:
    def fits(p, q):
        return p == Replicate() or type(p) is Shard and p.dim == 1 and groups == 1 and q == Replicate()

    if not all(map(fits, w.placements, x.placements)):
        _refuse("weight", w, f"each axis of the mesh takes Replicate(), or Shard(1) (output channels) where groups=1 "
                f"and the input is replicated; groups={groups}, and the input has {_shown(x.placements)}",
                [p if fits(p, q) else Replicate() for p, q in zip(w.placements, x.placements)])


def _refuse(name: str, t, what: str, placements) -> None:
    raise RuntimeError(f"conv_transpose3d(): {name} of size {list(t.shape)} has the placements {_shown(t.placements)}, "
                       f"with which the result would be wrong or is not supported: {what}. This would work: "
                       f"{name}.redistribute(placements={_shown(placements)})")


def _shown(placements) -> str:
    return f"[{', '.join(map(repr, placements))}]"
