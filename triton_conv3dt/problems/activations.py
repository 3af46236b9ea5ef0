"""The activations that the kernels fuse: one entry each, from which all reads but the definition that judges them.

An entry needs two functions of its name in kernels/activations.py, `name` and `name_derivative`, and a line in the table
of checking/reference.py. Nothing else: PyTorch's and Keras's names, the command line and the tests follow from it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


def always(*parameters: float) -> bool:
    return True


def never(*parameters: float) -> bool:
    return False


@dataclass(frozen=True)
class Entry:
    """What is known of an activation.

    parameters: their defaults by name, two at most; a module of PyTorch has attributes of these names. from_output: for
    which parameters the derivative is a function of the output. functions: PyTorch's, which called with a tensor alone
    take the same defaults. where: what other attributes of the module have to be. keras: Keras's name and its
    parameters, where it has another name or means others by this one.
    """

    name: str
    parameters: dict[str, float] = field(default_factory=dict)
    from_output: Callable[..., bool] = never
    functions: tuple[str, ...] = ()
    module: str | None = None
    where: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    keras: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def defaults(self) -> tuple[float, ...]:
        return tuple(self.parameters.values())


ACTIVATIONS: dict[str, Entry] = {entry.name: entry for entry in (
    Entry("relu", from_output=always, functions=("torch.relu", "F.relu"), module="nn.ReLU"),
    Entry("relu6", from_output=always, functions=("F.relu6",), module="nn.ReLU6"),
    Entry("leaky_relu", {"negative_slope": 0.01}, lambda slope: slope >= 0, ("F.leaky_relu",), "nn.LeakyReLU",
          keras={"leaky_relu": (0.2,)}),
    Entry("elu", {"alpha": 1.0}, lambda alpha: alpha > 0, ("F.elu",), "nn.ELU"),
    Entry("selu", from_output=always, functions=("torch.selu", "F.selu"), module="nn.SELU"),
    Entry("sigmoid", from_output=always, functions=("torch.sigmoid", "F.sigmoid", "torch.special.expit"),
          module="nn.Sigmoid"),
    Entry("tanh", from_output=always, functions=("torch.tanh", "F.tanh"), module="nn.Tanh"),
    Entry("softplus", {"beta": 1.0, "threshold": 20.0}, functions=("F.softplus",), module="nn.Softplus",
          keras={"softplus": (1.0, 40.0)}),  # the threshold beyond which x is log(1 + exp(x)) in fp64, too
    Entry("hardsigmoid", from_output=always, functions=("F.hardsigmoid",), module="nn.Hardsigmoid"),
    Entry("hardtanh", {"min_val": -1.0, "max_val": 1.0}, always, ("F.hardtanh",), "nn.Hardtanh",
          keras={"hard_tanh": ()}),
    Entry("exponential", from_output=always, functions=("torch.exp",)),
    Entry("gelu", functions=("F.gelu",), module="nn.GELU", where={"approximate": "none"}),
    Entry("gelu_tanh", module="nn.GELU", where={"approximate": "tanh"}),
    Entry("silu", functions=("F.silu",), module="nn.SiLU", aliases=("swish",)),
    Entry("mish", functions=("F.mish",), module="nn.Mish"),
    Entry("hardswish", functions=("F.hardswish",), module="nn.Hardswish", keras={"hard_silu": (), "hard_swish": ()}),
    Entry("softsign", functions=("F.softsign",), module="nn.Softsign"),
)}
IDENTITY = Entry("identity", module="nn.Identity", aliases=("linear",))  # no activation at all
ALIASES: dict[str, str | None] = {alias: entry.name for entry in ACTIVATIONS.values() for alias in entry.aliases}
ALIASES |= dict.fromkeys((IDENTITY.name, *IDENTITY.aliases))


@dataclass(frozen=True)
class Activation:
    """An activation that the kernels fuse: its name and all its parameters."""

    name: str
    parameters: tuple[float, ...] = ()

    @staticmethod
    def of(spec) -> "Activation | None":
        """From None, a name, or a pair (name, parameters) such as ("leaky_relu", 0.01).

        Raises:
            ValueError: the name is not known, or there are more parameters than it takes.
            TypeError: spec is none of these.
        """
        if spec is None or isinstance(spec, Activation):
            return spec
        name, given = (spec, ()) if isinstance(spec, str) else _pair(spec)
        if name in ALIASES:
            name = ALIASES[name]
            if name is None:
                return None
        if name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation {name!r} is not known; known are {known}, or pass a callable")
        defaults = ACTIVATIONS[name].defaults
        if len(given) > len(defaults):
            raise ValueError(f"activation {name!r} takes {len(defaults)} parameters, received {len(given)}: {given}")
        return Activation(name, tuple(float(v) for v in given) + defaults[len(given):])

    @property
    def derivative_from(self) -> str:
        """"output" where the derivative is a function of the activated value, else "input" (the pre-activation)."""
        return "output" if ACTIVATIONS[self.name].from_output(*self.parameters) else "input"

    def __str__(self) -> str:
        return self.name + (f"({', '.join(map(repr, self.parameters))})" if self.parameters else "")


def _pair(spec) -> tuple[str, tuple]:
    if not (isinstance(spec, (tuple, list)) and spec and isinstance(spec[0], str)):
        raise TypeError(f"activation must be None, a name, a pair (name, parameters) or a callable, received {spec!r}")
    rest = spec[1:]
    if len(rest) == 1 and isinstance(rest[0], (tuple, list)):
        rest = rest[0]
    return spec[0], tuple(rest)
