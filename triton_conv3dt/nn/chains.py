"""What follows a layer in a torch.nn.Sequential, and the Sequential that computes it in the layer's call.

Nothing is moved or written: modules, parameters and state_dict stay what they were, and each module called by itself
does what it did. What is fused is looked up at every call, so that a normalisation that trains again, a dropout that is
on or a hook are heeded.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from ..functional import conv_transpose3d
from ..ops import activations, internals
from .folding import folded
from .layer import ConvTranspose3d

NORMS = (nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm3d)
ALL_NORMS = (*NORMS, nn.GroupNorm, nn.LayerNorm)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
WIDENED = ("exponential", "softplus")  # autocast runs these in fp32, the kernels do not


class Chain(NamedTuple):
    """The modules after a layer that its call can do, and why it cannot do the next."""

    norms: tuple[nn.Module, ...] = ()
    activation: str | tuple | None = None
    words: tuple[str, ...] = ()
    length: int = 0
    left: str = ""


class FusedSequential(nn.Sequential):
    """A Sequential whose layers take along what follows them, in the place of a plain one's class."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            for module in self:
                input = module(input)
        else:
            input = _run(self, input)
        return input


def _run(sequential, input):
    steps = sequential if isinstance(input, fx.Proxy) else [module for _, module in flattened(sequential)]
    steps, place = list(steps), 0
    while place < len(steps):
        layer, chain = steps[place], None
        if isinstance(layer, ConvTranspose3d) and not activations.changed(layer) and not isinstance(input, fx.Proxy):
            chain = chain_after(steps, place)
            if not usable(chain, input):
                chain = None
        input = layer(input) if chain is None else _call(layer, chain, input)
        place += 1 if chain is None else 1 + chain.length
    return input


def usable(chain: Chain, input) -> bool:
    """Whether there is something to fuse and the input is such that the modules would do it."""
    name = chain.activation[0] if isinstance(chain.activation, tuple) else chain.activation
    return (chain.length > 0 and (len(chain.norms) == 0 or input.dim() == 5)
            and not (name in WIDENED and internals.is_autocasting()))


def _call(layer, chain: Chain, input):
    weight, bias = layer.weight, layer.bias
    for norm in chain.norms:
        weight, bias = folded(weight, bias, layer.groups, norm.running_mean, norm.running_var, norm.weight, norm.bias,
                              norm.eps)
    activation, precision, backend = layer.settings()
    return conv_transpose3d(input, weight, bias, layer.stride, layer.padding, layer.output_padding, layer.groups,
                            layer.dilation, activation=chain.activation if activation is None else activation,
                            precision=precision, backend=backend)


def is_plain(module: nn.Module) -> bool:
    """Whether a module does nothing but call its children one after the other."""
    kind = type(module)
    return (isinstance(module, nn.Sequential) and kind.__call__ is nn.Module.__call__
            and kind.forward in (nn.Sequential.forward, FusedSequential.forward))


def flattened(sequential: nn.Sequential, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], nn.Module]]:
    """(path, module) of what a Sequential calls, through the plain ones in it."""
    for name, module in sequential._modules.items():
        if is_plain(module) and not activations.changed(module):
            yield from flattened(module, (*path, name))
        else:
            yield (*path, name), module


def chain_after(steps: list[nn.Module], place: int, *, as_in_eval: bool = False) -> Chain:
    """What the call of the layer at a place can take along, now or when every module is in eval mode."""
    layer = steps[place]
    norms, activation, words = [], None, []
    own = layer.settings()[0] if isinstance(layer, ConvTranspose3d) else None
    for module in steps[place + 1:]:
        name, training = type(module).__name__, module.training and not as_in_eval
        left = ""
        if activations.changed(module):
            left = f"{name} has hooks or another forward"
        elif type(module) in DROPOUTS:
            left = f"{name} is active" if training and module.p else ""
        elif type(module) in ALL_NORMS:
            late = activation is not None or own is not None
            left = _unfoldable(module, name, training) or f"{name} comes too late" * late
            norms += [module] * (not left)
        elif type(module) is not nn.Identity:
            spec = activations.recognised(module)
            if callable(spec):
                left = "the slope of PReLU is a tensor" if type(module) is nn.PReLU else f"{name} is not fused"
            elif activation is not None or own is not None:
                left = f"{name} is a second activation"
            else:
                activation = spec[0] if len(spec) == 1 else spec
        if left:
            return Chain(tuple(norms), activation, tuple(words), len(words), left)
        words.append(name)
    return Chain(tuple(norms), activation, tuple(words), len(words))


def _unfoldable(module, name, training) -> str:
    """Why a normalisation cannot be folded into the layer, or ""."""
    if type(module) in NORMS and getattr(module, "running_mean", None) is not None:
        return f"{name} is in training mode" if training else ""
    return f"{name} needs the mean and variance of the result"
