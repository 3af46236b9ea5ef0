"""What a node of Dynamo's graph is to the layer before it: nothing, or something that the layer's call can do."""

import inspect
import operator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx

from ..ops import activations
from ..problems.activations import ACTIVATIONS

LAYER = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
OPERATOR = ("input", "weight", "bias", "residual", "out_size", "stride", "padding", "dilation", "groups", "precision",
            "activation", "parameters", "keep_pre")
NORMS = {  # with fixed statistics where `training`, by position and name, is False
    F.batch_norm: ("input", "mean", "variance", "scale", "shift", "training", "momentum", "eps"),
    F.instance_norm: ("input", "mean", "variance", "scale", "shift", "training", "momentum", "eps"),
}
NAMES = {"running_mean": "mean", "running_var": "variance", "weight": "scale", "bias": "shift",
         "use_input_stats": "training"}
OWN_NORM = {"norm_weight": "scale", "norm_bias": "shift", "running_mean": "mean", "running_var": "variance",
            "momentum": "momentum", "eps": "eps"}  # of conv_transpose3d_norm
DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
ADDITIONS = {operator.add, operator.iadd, torch.add}
ADDING_METHODS = {"add", "add_"}
CONCATENATIONS = {torch.cat, torch.concat, torch.concatenate}
# The functions and methods of every activation, by themselves and in place.
ACTIVATING, ACTIVATING_METHODS = dict(activations.FUNCTIONS), {}
for _entry in ACTIVATIONS.values():
    for _name in _entry.functions:
        _owner, _, _function = _name.rpartition(".")
        for _suffix in ("", "_"):
            _found = getattr({"torch": torch, "F": F}.get(_owner), _function + _suffix, None)
            if _found is not None:
                ACTIVATING.setdefault(_found, _entry.name)
            if _owner == "torch" and hasattr(torch.Tensor, _function + _suffix):
                ACTIVATING_METHODS[_function + _suffix] = _entry.name


class Step(NamedTuple):
    """What a node adds to a call: a word for people, and arguments of the call; `norm` is for the weight and bias, or, where
    `own`, of the result by its own statistics."""

    word: str
    stage: int  # steps stand in this order; those of one stage may follow each other
    arguments: dict = {}
    norm: dict | None = None
    own: bool = False


NOTHING, NORM, ADDITION, ACTIVATION, CONCATENATION = range(5)
ONCE = (ADDITION, ACTIVATION, CONCATENATION)


def name_of(node: fx.Node) -> str:
    if node.op == "output":
        return "the end of the graph"
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def value_of(node):
    """The fake tensor, or number, that the compiler knows of a node; of anything else the thing itself."""
    return node.meta.get("example_value") if isinstance(node, fx.Node) else node


def bound(node: fx.Node, names: tuple[str, ...]) -> dict:
    """The arguments of a node by name."""
    return dict(zip(names, node.args)) | node.kwargs


def norm_arguments(node: fx.Node) -> dict:
    """The arguments of a normalisation by the names that `folded` and this module have for them."""
    return {NAMES.get(key, key): value for key, value in bound(node, NORMS[node.target]).items()}


def is_layer(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is torch.conv_transpose3d


def is_operator(node: fx.Node) -> bool:
    """Whether it is this package's own operator, which Dynamo leaves in the graph."""
    target = node.target
    return (node.op == "call_function" and isinstance(target, torch._ops.OpOverload)
            and target.name() == "triton_conv3dt::forward")


def step_of(node: fx.Node, value: fx.Node) -> Step | str:
    """What a node, the only user of a layer's value, is to the layer; or why it cannot be part of the call."""
    target, name = node.target, name_of(node)
    if node.op not in ("call_function", "call_method"):
        return f"{name} follows"
    if node.all_input_nodes.count(value) != 1 or _times(node, value) != 1:
        return f"{name} takes the result twice"
    if node.op == "call_function" and target in DROPOUTS or name == "dropout":
        return _dropout(node, name)
    if name in ("pad", "constant_pad_nd") and node.op == "call_function":
        return _pad(node, name)
    if target in CONCATENATIONS:
        return _concatenation(node, value, name)
    if _main(node) is not value and target not in ADDITIONS and target not in ADDING_METHODS:
        return f"{name} is given the result as another operand than its first"
    if target in NORMS:
        return _norm(node, value, name)
    if target in ADDITIONS or node.op == "call_method" and target in ADDING_METHODS:
        return _addition(node, value, name)
    known = ACTIVATING.get(target) if node.op == "call_function" else ACTIVATING_METHODS.get(target)
    if known is not None:
        return _activation(node, value, known)
    if name == "prelu":
        return "the slope of prelu is a tensor"
    return f"{name} is not fused"


def _main(node: fx.Node):
    return node.args[0] if node.args else node.kwargs.get("input")


def _times(node: fx.Node, value: fx.Node) -> int:
    """How often a value stands among the arguments."""
    found = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return sum(argument is value for argument in found)


def _dropout(node, name):
    given = bound(node, ("input", "p", "training", "inplace"))
    off = given.get("train", given.get("training", True)) is False or given.get("p", 0.5) == 0
    return Step(name, NOTHING) if off else f"{name} is active"


def _pad(node, name):
    amounts = bound(node, ("input", "pad")).get("pad", (None,))
    return Step(name, NOTHING) if all(type(n) is int and n == 0 for n in amounts) else f"{name} changes the size"


def _norm(node, value, name):
    given = norm_arguments(node)
    if value_of(value).dim() != 5 or not alike(value_of(value), value_of(node)):
        return f"{name} has other channels, or changes the dtype"
    if trains(node):
        if given.get("training", True) is not True or (given.get("mean") is None) != (given.get("variance") is None):
            return f"whether {name} trains is not known"
        return Step(name, NORM, {"norm": "batch" if node.target is F.batch_norm else "instance"} | {
            key: given[name] for key, name in OWN_NORM.items() if given.get(name) is not None}, own=True)
    if given.get("mean") is None:
        return f"{name} needs the mean and variance of the result"
    return Step(name, NORM, norm={key: given.get(key) for key in ("mean", "variance", "scale", "shift")}
                | {"eps": given.get("eps", 1e-5)})


def trains(node) -> bool:
    """Whether a normalisation takes the statistics of its input, and writes to the running ones."""
    return norm_arguments(node).get("training", node.target is F.instance_norm) is not False


def _addition(node, value, name):
    given = bound(node, ("input", "other", "alpha"))
    operands = [given.get("input"), given.get("other")]
    if given.get("alpha", 1) != 1 or "out" in given:
        return f"{name} scales what it adds" if "out" not in given else f"{name} writes to a given tensor"
    if in_place(node) and operands[0] is not value:
        return f"{name} changes the other operand"
    other = operands[operands[0] is value]
    if not isinstance(other, fx.Node) or not alike(value_of(value), value_of(other)):
        return f"{name} broadcasts, or changes the dtype"
    return Step("add", ADDITION, {"residual": other})


def _activation(node, value, name):
    entry = ACTIVATIONS[name]
    given = bound(node, ("input", *entry.parameters, "inplace"))
    if given.pop("approximate", "none") != "none":
        name = "gelu_tanh"
    if unknown := given.keys() - {"input", *entry.parameters, "inplace"}:
        return f"{name} has {', '.join(sorted(unknown))}"
    parameters = [value_of(given.get(key, default)) for key, default in entry.parameters.items()]
    if not all(isinstance(p, (int, float, torch.SymFloat, torch.SymInt)) for p in parameters):
        return f"a parameter of {name} is a tensor"
    if not alike(value_of(value), value_of(node)):
        return f"{name} changes the dtype"
    return Step(name, ACTIVATION, {"activation": (name, *map(float, parameters)) if parameters else name})


def _concatenation(node, value, name):
    given = bound(node, ("tensors", "dim"))
    tensors, axis = given.get("tensors"), given.get("dim", given.get("axis", 0))
    t, joined = value_of(value), value_of(node)
    if not isinstance(tensors, (list, tuple)) or len(tensors) != 2:
        return f"{name} is of more than two"
    if "out" in given or axis not in (t.dim() - 4, -4):
        return f"{name} is not along the channels"
    first = tensors[0] is not value
    other = tensors[not first]
    o = value_of(other)
    if not (isinstance(o, torch.Tensor) and o.dim() == t.dim() and {o.dtype, joined.dtype} == {t.dtype}
            and o.device == t.device):
        return f"{name} joins tensors of several kinds"
    return Step("cat", CONCATENATION, {"concat": other, "concat_first": first})


def alike(a, b) -> bool:
    """Whether two tensors are known to have one size, dtype and device."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.device == b.device
            and a.dim() == b.dim() and all(statically_known_true(m == n) for m, n in zip(a.shape, b.shape)))


def in_place(node: fx.Node) -> bool:
    """Whether a node writes to its first operand."""
    name = name_of(node)
    if name.endswith("_") and not name.endswith("__") or name in ("__setitem__", "setitem"):
        return True
    if node.target in _AUGMENTED or node.kwargs.get("inplace"):
        return True
    names = _parameters(node.target) if node.op == "call_function" else ()
    return "inplace" in names and bool(dict(zip(names, node.args)).get("inplace"))


_AUGMENTED = {getattr(operator, name) for name in dir(operator) if name.startswith("__i") and name != "__inv__"
              and name not in ("__index__", "__invert__", "__init__")}


def _parameters(function) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters) if inspect.isfunction(function) else ()
    except (TypeError, ValueError):
        return ()
