"""What the commands share: the kinds of arguments, the options that describe a layer and a device, and the problem asked."""

import argparse

from ..device import KNOWN, Device
from ..problem import ACTIVATIONS, DIRECTIONS, ITEM_SIZES, LAYOUTS, PRECISIONS, Activation, Problem

DEVICES = f"one of {', '.join(KNOWN)} (default: the GPU here, or nvidia_h200 where there is none)"


def add_layer(command) -> None:
    """--input, --channels and the other numbers of a layer, in PyTorch's terms."""
    layer = command.add_argument_group("layer", "as torch.nn.ConvTranspose3d has it; one integer, or three as D,H,W")
    layer.add_argument("--input", type=sizes, required=True, metavar="N,CI,D,H,W", help="shape of the input")
    layer.add_argument("--channels", type=positive, required=True, metavar="CO", help="output channels")
    layer.add_argument("--kernel", type=triple(1), required=True, metavar="K", help="kernel size")
    layer.add_argument("--stride", type=triple(1), default="1", metavar="S", help="stride (default: %(default)s)")
    layer.add_argument("--padding", type=triple(0), default="0", metavar="P", help="padding (default: %(default)s)")
    layer.add_argument("--output-padding", type=triple(0), default="0", metavar="OP",
                       help="output padding (default: %(default)s)")
    layer.add_argument("--dilation", type=triple(1), default="1", metavar="D", help="dilation (default: %(default)s)")
    layer.add_argument("--groups", type=positive, default=1, metavar="G", help="groups (default: %(default)s)")
    layer.add_argument("--bias", action="store_true", help="add a bias")
    layer.add_argument("--residual", action="store_true", help="add a residual before the activation")
    layer.add_argument("--activation", type=activation, metavar="NAME", help=f"one of {', '.join(ACTIVATIONS)}")


def add_run(command) -> None:
    """--direction, --dtype, --precision, --layout and --device: how a layer is run."""
    run = command.add_argument_group("how it is run")
    run.add_argument("--direction", choices=DIRECTIONS, default="forward",
                     help="which of the three products (default: %(default)s)")
    run.add_argument("--dtype", choices=tuple(ITEM_SIZES), default="float16",
                     help="type of the tensors (default: %(default)s)")
    run.add_argument("--precision", choices=PRECISIONS, default="tf32",
                     help="of products in float32 (default: %(default)s)")
    run.add_argument("--layout", choices=LAYOUTS, default="channels_first",
                     help="memory format of the tensors (default: %(default)s)")
    run.add_argument("--device", choices=tuple(KNOWN), metavar="NAME", help=DEVICES)


def problem_of(arguments) -> Problem:
    """The problem that the options of add_layer and add_run describe; arguments.refuse ends the program where there is none."""
    n, ci, *in_size = arguments.input
    for name, channels in (("--input has CI", ci), ("--channels", arguments.channels)):
        if channels % arguments.groups:
            arguments.refuse(f"{name} = {channels}, which --groups {arguments.groups} does not divide")
    if any(op >= max(s, d) for op, s, d in zip(arguments.output_padding, arguments.stride, arguments.dilation)):
        arguments.refuse("--output-padding must be smaller than --stride or --dilation on every axis, "
                         f"received {commas(arguments.output_padding)}")
    problem = Problem.of_layer(
        arguments.direction, n=n, ci=ci, co=arguments.channels, in_size=tuple(in_size), kernel=arguments.kernel,
        stride=arguments.stride, padding=arguments.padding, output_padding=arguments.output_padding,
        dilation=arguments.dilation, groups=arguments.groups, dtype=arguments.dtype, layout=arguments.layout,
        bias=arguments.bias, activation=arguments.activation, residual=arguments.residual,
        precision=arguments.precision)
    if min(problem.out_size) < 1:
        arguments.refuse(f"this layer has no output: its size would be {commas(problem.out_size)}; "
                         "use less --padding or a larger --input")
    return problem


def device_of(arguments) -> Device:
    """The device asked for, else the GPU here, else nvidia_h200."""
    from .. import device

    if arguments.device:
        return Device.named(arguments.device)
    try:
        return device.current()
    except RuntimeError:
        return Device.named("nvidia_h200")


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
