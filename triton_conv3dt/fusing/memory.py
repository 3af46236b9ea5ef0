"""What a graph writes to, and whether a call would read that later than the nodes whose place it takes."""

import torch
from torch import fx

from .patterns import NORMS, in_place, name_of, norm_arguments, trains, value_of


def written_between(chain, last, step, place) -> str:
    """The name of a node that writes to an operand of a chain after the operand is read and before `last` is, or ""."""
    reads = [(argument, chain.layer) for argument in _nodes((chain.layer.args, chain.layer.kwargs))]
    for node in chain.nodes[1:]:
        reads += [(argument, node) for argument in node.all_input_nodes if argument not in chain.nodes]
    graph = chain.layer.graph
    between = [node for node in graph.nodes if place[chain.layer] < place.get(node, -1) < place[last]]
    for node in between:
        if node in chain.nodes:
            continue
        for target in _written(node):
            for operand, reader in reads:
                if place[reader] < place[node] and _may_share(operand, target):
                    return name_of(node)
    return ""


def read_between(norm, last, place) -> str:
    """The name of a node between a normalisation and `last` that may read the running statistics that the former writes, or
    ""."""
    written = _written(norm)
    for node in norm.graph.nodes:
        if place[norm] < place.get(node, -1) < place[last]:
            if any(_may_share(argument, target) for argument in node.all_input_nodes for target in written):
                return name_of(node)
    return ""


def _written(node: fx.Node) -> list[fx.Node]:
    """The nodes whose memory a node may write to."""
    if node.op in ("placeholder", "get_attr", "output"):
        return []
    out = _nodes(node.kwargs.get("out"))
    if node.op == "call_method":
        return out + _nodes(node.args[:1]) * in_place(node)
    if node.op == "call_module":
        return node.all_input_nodes
    if isinstance(node.target, torch._ops.OpOverload):
        schema = node.target._schema.arguments
        return [node for argument, given in zip(schema, node.args) if argument.is_write for node in _nodes(given)] + out
    if isinstance(node.target, torch._ops.HigherOrderOperator) or not _of_pytorch(node.target):
        return node.all_input_nodes
    if node.target in NORMS:
        given = norm_arguments(node)
        return _nodes([given.get("mean"), given.get("variance")]) if trains(node) else []
    return out + _nodes(node.args[:1]) * in_place(node)


def _of_pytorch(function) -> bool:
    module = getattr(function, "__module__", None) or "torch"
    return module.partition(".")[0] in ("torch", "_operator", "operator", "math", "builtins") or module == __package__


def _nodes(arguments) -> list[fx.Node]:
    found = []
    fx.map_arg(arguments, found.append)
    return found


def _may_share(a: fx.Node, b: fx.Node) -> bool:
    """Whether two nodes may have memory in common: they have one storage, or both come from outside as views of one."""
    s, t = value_of(a), value_of(b)
    if not isinstance(s, torch.Tensor) or not isinstance(t, torch.Tensor):
        return False
    if _storage(s) == _storage(t):
        return True
    parameters = isinstance(s, torch.nn.Parameter) or isinstance(t, torch.nn.Parameter)
    return a.op == b.op == "placeholder" and s.dtype == t.dtype and not parameters


def _storage(t: torch.Tensor):
    return t.untyped_storage()._cdata
