"""What the commands share: kinds of arguments, the options that say what is asked, and the problems they describe."""

import argparse
import shlex
from contextlib import contextmanager

from ..planning import constraints
from ..planning.constraints import Constraints
from ..planning.device import KNOWN, Device
from ..problems.activations import ACTIVATIONS, Activation
from ..problems.problem import DIRECTIONS, ITEM_SIZES, LAYOUTS, PRECISIONS, Problem
from .parsing import did_you_mean

DEVICES = f"of {', '.join(KNOWN)}; names such as h200 or 'NVIDIA H200 NVL' will do"
SHAPE = {  # the options of a layer beside --input, and what they are where they are not given
    "channels": None, "kernel": None, "stride": (1, 1, 1), "padding": (0, 0, 0), "output_padding": (0, 0, 0),
    "dilation": (1, 1, 1), "groups": 1, "bias": False, "residual": False, "activation": None}


def add_problems(command) -> None:
    """--layers, --case, --model with its --input, or --input with the numbers of one layer: one of them is asked."""
    command.usage = ("%(prog)s (--layers NAME ... | --case TEXT | --model MODULE:FACTORY --input N,CI,D,H,W | "
                     "--input N,CI,D,H,W --channels CO --kernel K ...) [options]")
    asked = command.add_argument_group("what is asked",
                                       "layers of real networks, problems as text, a model's own layers, or one layer "
                                       "by its shape")
    asked.add_argument("--layers", type=layers, nargs="+", metavar="NAME",
                       help="layers of real networks by name, network, tag or kind, or how one begins: nnunet, k=s, "
                            "k3s2, '*_up4', all")
    asked.add_argument("--case", type=case, action="append", metavar="TEXT",
                       help='a problem as other commands print it, such as "forward n2 ci64 co32 in64 k2 s2 float16"; '
                            "may be repeated")
    add_model(asked)
    layer = command.add_argument_group("one layer",
                                       "as torch.nn.ConvTranspose3d has it; one integer, or three as D,H,W")
    layer.add_argument("--input", type=sizes, metavar="N,CI,D,H,W", help="shape of the layer's input, or the model's")
    layer.add_argument("--channels", type=positive, metavar="CO", help="output channels")
    layer.add_argument("--kernel", type=triple(1), metavar="K", help="kernel size")
    layer.add_argument("--stride", type=triple(1), metavar="S", help="stride (default: 1)")
    layer.add_argument("--padding", type=triple(0), metavar="P", help="padding (default: 0)")
    layer.add_argument("--output-padding", type=triple(0), metavar="OP", help="output padding (default: 0)")
    layer.add_argument("--dilation", type=triple(1), metavar="D", help="dilation (default: 1)")
    layer.add_argument("--groups", type=positive, metavar="G", help="groups (default: 1)")
    layer.add_argument("--bias", action="store_true", default=None, help="add a bias")
    layer.add_argument("--residual", action="store_true", default=None, help="add a residual before the activation")
    layer.add_argument("--activation", type=activation, metavar="NAME", help=f"one of {', '.join(ACTIVATIONS)}")


def add_model(group) -> None:
    """--model; --input goes with it."""
    group.add_argument("--model", metavar="MODULE:FACTORY",
                       help="the transposed convolutions of a model, which runs on a tensor without data; needs "
                            "--input")


def add_run(command, directions: tuple[str, ...] = ("forward",)) -> None:
    """--direction, --dtype, --precision and --layout: how layers are run; directions are those of the default."""
    run = command.add_argument_group("how it is run", "a case says so itself")
    run.add_argument("--direction", nargs="+", choices=DIRECTIONS, metavar="NAME",
                     help=f"one or more of {', '.join(DIRECTIONS)} (default: {' '.join(directions)})")
    run.add_argument("--dtype", choices=tuple(ITEM_SIZES),
                     help="type of the tensors (default: a layer's own, else float16)")
    run.add_argument("--precision", choices=PRECISIONS, help="of products in float32 (default: tf32)")
    run.add_argument("--layout", choices=LAYOUTS,
                     help="memory format of the tensors (default: a layer's own, else channels_first)")
    command.set_defaults(directions=directions)


def add_devices(command) -> None:
    """--device: GPUs that need not be here."""
    command.add_argument("--device", nargs="+", type=device, metavar="NAME",
                         help=f"one or more {DEVICES} (default: the GPU here, or nvidia_h200 where there is none)")


def add_without(command) -> None:
    """--without: what is not to be used, beside what the environment says."""
    command.add_argument("--without", type=without, nargs="+", metavar="WORD",
                         help=f"do without some of {constraints.WORDS} (as in 'stages>2', quoted); "
                              f"{constraints.VARIABLE} says so for every call and command")


@contextmanager
def constrained(arguments):
    """In here everything does without what --without and the environment say. arguments.refuse ends the program where
    the environment is malformed; commands that do not have the option read nothing."""
    if not hasattr(arguments, "without"):
        yield
        return
    try:
        found = constraints.current()
    except ValueError as error:
        arguments.refuse(str(error))
    for given in arguments.without or ():
        found = found.union(given)
    with constraints.using(found):
        yield


def problems_of(arguments) -> list[tuple[str, Problem]]:
    """What the options of add_problems and add_run describe: each problem and the name of its layer ("" without one).

    arguments.refuse ends the program where they contradict each other or describe nothing.

    Raises:
        ValueError: the model cannot be made or run.
    """
    given = [f"--{name.replace('_', '-')}" for name in SHAPE if getattr(arguments, name) is not None]
    run = [f"--{name}" for name in ("direction", "dtype", "precision", "layout") if getattr(arguments, name)]
    kinds = [f"--{name}" for name in ("layers", "case", "model") if getattr(arguments, name)]
    kinds += ["--input"] * (arguments.input is not None and kinds != ["--model"])
    if len(kinds) != 1:
        arguments.refuse("one of --layers, --case, --model and --input says what is asked; received "
                         f"{' and '.join(kinds) or 'none'}")
    if kinds != ["--input"] and given:
        arguments.refuse(f"{', '.join(given)} cannot be combined with {kinds[0]}: they describe the layer of --input")
    if kinds == ["--case"] and run:
        arguments.refuse(f"{', '.join(run)} cannot be combined with --case: write it into the case")
    if arguments.case:
        return [("", problem) for problem in arguments.case]
    directions = dict.fromkeys(arguments.direction or arguments.directions)
    if kinds == ["--input"]:
        return [("", _layer(arguments, direction)) for direction in directions]
    chosen = model_layers(arguments, arguments.dtype, arguments.layout) if arguments.model else layers_of(arguments)
    return [(layer.name, layer.problem(direction, arguments.dtype, arguments.layout, arguments.precision))
            for layer in chosen for direction in directions]


def layers_of(arguments) -> tuple:
    """The layers that --layers names, each once."""
    return tuple(dict.fromkeys(layer for _, found in arguments.layers for layer in found))


def model_layers(arguments, dtype: str | None, layout: str | None) -> list:
    """The layers of --model for its --input; without a dtype and a layout in float16 and channels_first.

    Raises:
        ValueError: the model cannot be made or run.
    """
    if arguments.input is None:
        arguments.refuse("--model needs --input, the shape of its input: a model's layers depend on it")
    from ..measuring import trace

    return trace.layers(trace.load(arguments.model), arguments.input, name=arguments.model, dtype=dtype or "float16",
                        layout=layout or "channels_first")


def _layer(arguments, direction: str) -> Problem:
    """The layer of --input."""
    shape = {name: default if (value := getattr(arguments, name)) is None else value for name, default in SHAPE.items()}
    missing = [f"--{name}" for name in ("channels", "kernel") if shape[name] is None]
    if missing:
        arguments.refuse(f"--input needs {' and '.join(missing)} too, or --model")
    n, ci, *in_size = arguments.input
    co = shape.pop("channels")
    for name, channels in (("--input has CI", ci), ("--channels", co)):
        if channels % shape["groups"]:
            arguments.refuse(f"{name} = {channels}, which --groups {shape['groups']} does not divide")
    if any(op >= max(s, d) for op, s, d in zip(shape["output_padding"], shape["stride"], shape["dilation"])):
        arguments.refuse("--output-padding must be smaller than --stride or --dilation on every axis, "
                         f"received {commas(shape['output_padding'])}")
    if direction != "forward":
        shape |= dict(bias=False, residual=False, activation=None)
    problem = Problem.of_layer(direction, n=n, ci=ci, co=co, in_size=tuple(in_size), **shape,
                               dtype=arguments.dtype or "float16", layout=arguments.layout or "channels_first",
                               precision=arguments.precision or "tf32")
    if min(problem.out_size) < 1:
        arguments.refuse(f"this layer has no output: its size would be {commas(problem.out_size)}; "
                         "use less --padding or a larger --input")
    return problem


def devices_of(arguments) -> list[Device]:
    """The devices asked for, else the GPU here, else nvidia_h200."""
    from ..planning import device

    if arguments.device:
        return list(dict.fromkeys(arguments.device))
    try:
        return [device.current()]
    except RuntimeError:
        return [Device.named("nvidia_h200")]


def again(arguments) -> str:
    """The options that say which layers were asked, to be given to another command."""
    if arguments.model:
        return f"--model {shlex.quote(arguments.model)} --input {commas(arguments.input)}"
    return f"--layers {' '.join(shlex.quote(pattern) for pattern, _ in arguments.layers)}"


def device(text: str) -> Device:
    """A GPU by any of its names."""
    try:
        return Device.named(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}{did_you_mean([text, f'nvidia_{text}'], KNOWN)}") from None


def layers(text: str) -> tuple[str, tuple]:
    """A pattern and the layers it names."""
    from ..problems.layers import select

    try:
        return text, select([text])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def case(text: str) -> Problem:
    from ..problems.case import parse

    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def without(text: str) -> Constraints:
    try:
        return constraints.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    return _integers(text, (1,), 1, "a positive integer")[0]


def sizes(text: str) -> tuple[int, ...]:
    return _integers(text, (5,), 1, "N,CI,D,H,W: five positive integers")


def triple(least: int):
    def parse(text: str) -> tuple[int, ...]:
        values = _integers(text, (1, 3), least, f"an integer of at least {least}, or three as D,H,W")
        return values * 3 if len(values) == 1 else values

    return parse


def _integers(text: str, counts: tuple[int, ...], least: int, expected: str) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in counts or min(values) < least:
        raise argparse.ArgumentTypeError(f"expected {expected}, received {text!r}")
    return values


def activation(text: str) -> Activation | None:
    try:
        return Activation.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def commas(values) -> str:
    return ",".join(map(str, values))
