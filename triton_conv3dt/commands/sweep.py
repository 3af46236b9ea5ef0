"""What tune and bench share: the options that say what is swept and how long, and the device they need."""

import argparse
import re
import sys

from ..measuring.selection import OWN
from ..planning.device import Device
from ..problems.problem import ITEM_SIZES, LAYOUTS
from . import options

UNITS = {"h": 3600, "m": 60, "s": 1}


def add_selection(command, directions: tuple[str, ...]) -> None:
    """--layers, --case or --model with --input, and in which directions, dtypes and layouts."""
    what = command.add_argument_group("what is swept", "layers of real networks, problems as text, or a model's own "
                                                       "layers; all layers where nothing is said")
    what.add_argument("--layers", type=options.layers, nargs="+", metavar="NAME",
                      help="layers by name, network, tag or kind, or how one begins: nnunet, k=s, k3s2, all")
    what.add_argument("--case", type=options.case, action="append", metavar="TEXT",
                      help="a problem as other commands print it; may be repeated")
    options.add_model(what)
    what.add_argument("--input", type=options.sizes, metavar="N,CI,D,H,W", help="shape of the model's input")
    what.add_argument("--direction", nargs="+", choices=directions, metavar="NAME",
                      help=f"of {', '.join(directions)} (default: those that the layer's network runs)")
    what.add_argument("--dtype", nargs="+", choices=(OWN, *ITEM_SIZES), metavar="NAME",
                      help=f"of {', '.join((OWN, *ITEM_SIZES))} (default: the layer's own; float16 of a model)")
    what.add_argument("--layout", nargs="+", choices=(OWN, *LAYOUTS), metavar="NAME",
                      help=f"of {', '.join((OWN, *LAYOUTS))} (default: the layer's own)")


def add_run(command) -> None:
    """--shard, --budget, --resume, --dry-run, --device, --without and --quiet."""
    run = command.add_argument_group("how it is done")
    run.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help="only the I-th of N parts, for N GPUs")
    run.add_argument("--budget", type=budget, metavar="TIME", help="stop after this time: 90s, 8m, 1h30m")
    run.add_argument("--resume", action="store_true", help="do not repeat what the journal has")
    run.add_argument("--dry-run", action="store_true", help="show what would be done, on a machine without a GPU, too")
    run.add_argument("--device", type=options.device, metavar="NAME",
                     help=f"with --dry-run, for which GPU {options.DEVICES} (default: the one here, else nvidia_h200)")
    options.add_without(run)
    run.add_argument("--quiet", action="store_true", help="no progress")


def layers_of(arguments) -> list:
    """The layers that the options of add_selection name. arguments.refuse ends the program where they contradict.

    Raises:
        ValueError: the model cannot be made or run.
    """
    kinds = [f"--{name}" for name in ("layers", "case", "model") if getattr(arguments, name)]
    if len(kinds) > 1:
        arguments.refuse(f"{' and '.join(kinds)} cannot be combined: one of them says what is swept")
    if arguments.input and not arguments.model:
        arguments.refuse("--input is the shape of a model's input: it goes with --model")
    if arguments.case and (arguments.direction or arguments.dtype or arguments.layout):
        arguments.refuse("--direction, --dtype and --layout cannot be combined with --case: write them into the case")
    if arguments.model:
        first = lambda names: next((name for name in names or () if name != OWN), None)
        return options.model_layers(arguments, first(arguments.dtype), first(arguments.layout))
    if arguments.case:
        from ..measuring import trace

        return trace.of_problems(arguments.case)
    if arguments.layers:
        return list(dict.fromkeys(layer for _, found in arguments.layers for layer in found))
    from ..problems.layers import layers

    return list(layers())


def device_here(what: str) -> Device:
    """The GPU that is measured.

    Raises:
        RuntimeError: there is none, or kernels cannot be launched on it, with what is missing.
    """
    from ..launching import ready
    from ..planning import device

    if reason := ready.missing():
        raise RuntimeError(f"{what} measures on a GPU: {reason}. --dry-run shows what it would do, for any --device")
    return device.current()


def device_planned(arguments) -> Device:
    """The device of a dry run."""
    from ..planning import device

    if arguments.device:
        return arguments.device
    try:
        return device.current()
    except RuntimeError:
        return Device.named("nvidia_h200")


def error(what: Exception) -> int:
    """Print what went wrong; the exit code."""
    if isinstance(what, OSError) and what.filename and what.strerror:
        what = f"{what.filename}: {what.strerror}"
    print(f"error: {what}", file=sys.stderr)
    return 1


def shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, such as 2/4, received {text!r}")
    return int(match[1]), int(match[2])


def budget(text: str) -> float:
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    seconds = sum(int(part) * size for part, size in zip(match.groups(), UNITS.values()) if part) if match else 0
    if not seconds:
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 8m or 1h30m, received {text!r}")
    return float(seconds)
