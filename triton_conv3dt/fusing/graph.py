"""Layers of a graph, each with what follows it, become single calls.

A chain is followed while every value has one user, the user is something that the call can do, and it comes in the
order of the call: normalisation with fixed statistics, addition, activation, concatenation. The call stands where the
last of the chain stood, so nothing that it reads may be written to before.
"""

import operator
from dataclasses import dataclass, field

import torch
from torch import fx

from ..functional import conv_transpose3d, conv_transpose3d_sized
from ..nn.folding import folded
from ..nn.rows import Row, shape_class
from ..norm import conv_transpose3d_norm, conv_transpose3d_norm_sized
from ..ops import composite
from . import memory
from .patterns import (ACTIVATION, ADDITION, CONCATENATION, LAYER, NOTHING, ONCE, OPERATOR, bound, in_place, is_layer,
                       is_operator, name_of, step_of, value_of)

# What the sized function takes of this package's own operator.
SIZED = ("stride", "padding", "out_size", "dilation", "groups", "precision")
CALLS = conv_transpose3d, conv_transpose3d_sized, conv_transpose3d_norm, conv_transpose3d_norm_sized
# What begins the names of functions that change how PyTorch runs what comes after them.
SWITCHES = ("_enter_", "_exit_", "_set_", "set_", "_push", "_pop", "_vmap_", "_grad_", "_jvp_", "_saved_")


@dataclass
class Chain:
    """A layer, the nodes that the call takes the place of, in order, and what the call has of each."""

    layer: fx.Node
    operands: dict
    nodes: list[fx.Node]
    stage: int = NOTHING
    latest: str = ""  # the step of that stage
    norms: list[dict] = field(default_factory=list)
    own_norm: fx.Node | None = None  # the one that normalises the result by its own statistics
    arguments: dict = field(default_factory=dict)
    fused: list[str] = field(default_factory=list)
    follows: list[str] = field(default_factory=list)
    left: str = ""

    def row(self) -> Row:
        return Row(_module_name(self.layer), _layer_words(self.operands), tuple(self.follows), tuple(self.fused),
                   self.left)


def fuse(module: fx.GraphModule) -> list[Row]:
    """Rewrite a graph, and the graphs inside it, in place. Returns a row for each transposed 3-D convolution."""
    rows = []
    for inner in module.modules():
        if isinstance(inner, fx.GraphModule):
            rows += _fuse(inner)
    return rows


def _fuse(module: fx.GraphModule) -> list[Row]:
    graph, rows = module.graph, []
    for layer in [node for node in graph.nodes if is_layer(node) or is_operator(node)]:
        chain = _chain(graph, layer)
        rows.append(chain.row())
        if is_layer(layer) and not _not_replaceable(chain) or len(chain.nodes) > 1 + is_operator(layer):
            _rewrite(graph, chain)
    if rows:
        graph.lint()
        module.recompile()
    return rows


def _chain(graph, layer) -> Chain:
    """As much of what follows a layer as one call can do."""
    operands = bound(layer, OPERATOR if is_operator(layer) else LAYER)
    chain = Chain(layer, operands, [layer])
    if is_operator(layer):
        chain.left = _read_operator(chain)
    else:
        chain.left = _not_replaceable(chain)
    place = {node: i for i, node in enumerate(graph.nodes)}
    regions = _regions(graph)
    while not chain.left:
        value, user = chain.nodes[-1], _only_user(chain.nodes[-1], place)
        if not isinstance(user, fx.Node):
            chain.left = user
            break
        if user.op != "output":
            chain.follows.append(name_of(user))
        chain.left = _append(chain, value, user, regions, place)
    chain.left = "" if chain.left == _DONE else chain.left
    return chain


_DONE = "the call is complete"


def _append(chain, value, user, regions, place) -> str:
    """Take a node into a chain, or say why not."""
    if user.op == "output":
        return "the graph ends"  # with the model, or where the compiler cannot follow
    if user.target in CALLS:
        return "the call of another layer takes it"
    if regions[user] != regions[chain.layer]:
        return f"{name_of(user)} runs in another mode of autocast or autograd"
    step = step_of(user, value)
    if isinstance(step, str):
        return step
    if step.stage != NOTHING:
        if step.stage < chain.stage or step.stage == chain.stage and step.stage in ONCE:
            return f"{step.word} comes after {chain.latest}"
        if chain.own_norm is not None and step.stage != ACTIVATION:
            return f"{step.word} comes after {chain.latest} by the statistics of the result"
        chain.stage, chain.latest = step.stage, step.word
    written = memory.written_between(chain, user, step, place)
    if written:
        return f"{written} writes to what {step.word} would read later"
    if chain.own_norm is not None and (reads := memory.read_between(chain.own_norm, user, place)):
        return f"{reads} may read what {name_of(chain.own_norm)} would write later"
    chain.nodes.append(user)
    chain.fused.append(step.word)
    chain.arguments.update(step.arguments)
    if step.norm:
        chain.norms.append(step.norm)
    if step.own:
        chain.own_norm = user
    return _DONE if step.stage == CONCATENATION else ""


def _only_user(value, place):
    """The one node that uses a value, or why there is none.

    What works in place gives its operand back: whoever uses the operand afterwards uses the result.
    """
    users = sorted(value.users, key=place.get)
    if len(users) > 1 and in_place(users[0]) and _is_first(users[0], value):
        value.replace_all_uses_with(users[0], delete_user_cb=lambda user: user is not users[0])
        users = users[:1]
    if not users:
        return "nothing uses the result"
    if len(users) > 1:
        return f"{len(users)} nodes use the result: {', '.join(map(name_of, users))}"
    return users[0]


def _is_first(node, value) -> bool:
    return bool(node.args) and node.args[0] is value


def _read_operator(chain) -> str:
    """What is fused already in this package's own operator; the chain goes on from its first result."""
    given, users = chain.operands, list(chain.layer.users)
    results = [user for user in users if user.target is operator.getitem and user.args[1] == 0]
    if len(users) != len(results) or len(results) != 1:
        return "its value before the activation is used, too"
    chain.nodes.append(results[0])
    if given.get("residual") is not None:
        chain.arguments["residual"], chain.stage, chain.latest = given["residual"], ADDITION, "add"
    if given.get("activation") is not None:
        name, parameters = given["activation"], tuple(given.get("parameters", ()))
        chain.arguments["activation"] = (name, *parameters) if parameters else name
        chain.stage, chain.latest = ACTIVATION, name
    return ""


def _not_replaceable(chain) -> str:
    """Why PyTorch's layer stays PyTorch's, or ""."""
    x = value_of(chain.operands.get("input"))
    if not isinstance(x, torch.Tensor):
        return "the compiler has not said what its input is"
    if not x.is_floating_point():
        return f"it is of {x.dtype}"
    asked = x.device.type == "cuda" and asked_of_pytorch(chain.layer)
    return 'backend="torch" was asked for, or the kernels cannot take it' if asked else ""


def asked_of_pytorch(layer: fx.Node) -> bool:
    """Whether this package called PyTorch's function; the graph has no other sign of it than where that was done."""
    return composite.__file__ in (layer.meta.get("stack_trace") or "")


def _regions(graph) -> dict:
    """A number for each node, which changes where autocast, autograd or another mode of PyTorch is switched."""
    regions, region = {}, 0
    for node in graph.nodes:
        if node.op == "call_function" and name_of(node).startswith(SWITCHES):
            region += 1
        regions[node] = region
    return regions


def _rewrite(graph, chain) -> None:
    """Put one call in the place of a chain."""
    last, given = chain.nodes[-1], chain.operands
    keywords = dict(chain.arguments)
    with graph.inserting_before(last):
        weight, bias = given["weight"], given.get("bias")
        for norm in chain.norms:
            pair = graph.call_function(folded, (weight, bias, given.get("groups", 1), *norm.values()))
            weight = graph.call_function(operator.getitem, (pair, 0))
            bias = graph.call_function(operator.getitem, (pair, 1))
        if is_operator(chain.layer):
            keywords |= {key: given[key] for key in SIZED}
            keywords |= {"activation": chain.arguments.get("activation"), "backend": "triton"}
            call = graph.call_function(conv_transpose3d_norm_sized if chain.own_norm else conv_transpose3d_sized,
                                       (given["input"], weight, bias), keywords)
        else:
            rest = {key: given[key] for key in LAYER[3:] if key in given}
            call = graph.call_function(conv_transpose3d_norm if chain.own_norm else conv_transpose3d,
                                       (given["input"], weight, bias), rest | keywords)
    call.meta = {key: value for key, value in last.meta.items() if key != "source_fn_stack"}
    last.replace_all_uses_with(call)
    for node in reversed(chain.nodes):
        graph.erase_node(node)


def _module_name(node) -> str:
    """The layer's name in the model, as far as the compiler knows it: "up.0", or "" of a function's own call."""
    stack = node.meta.get("nn_module_stack") or {}
    name = list(stack.values())[-1][0] if stack else ""
    return name.partition(".")[2] if name.startswith(("L[", "G[")) else name


def _layer_words(given) -> str:
    w = value_of(given["weight"])
    triple = lambda name: _triple(given.get(name, 1))
    groups = value_of(given.get("groups", 1))
    return shape_class(w.shape[0], w.shape[1] * groups, groups, tuple(w.shape[2:]), triple("stride"),
                       triple("dilation"))


def _triple(value) -> tuple:
    value = [value_of(v) for v in value] if isinstance(value, (tuple, list)) else [value_of(value)]
    return tuple(value * 3 if len(value) == 1 else value)
