"""limits: compile the defaults of layers for devices, and record what this code permits at best."""

import argparse
import datetime
from pathlib import Path

from ..planning.device import KNOWN, Device
from . import options, sweep

DEVICES = tuple(device for device in KNOWN.values() if device.clock)  # a bound counts clocks
NAMES = ", ".join(device.name for device in DEVICES)


def add(commands) -> None:
    limits = commands.add_parser(
        "limits", help="record what the compiled defaults of layers permit at best",
        description="Compile what runs for layers in every direction, for GPUs that need not be here, and record the bound "
                    "of each: what its machine code permits at best, over the roofline. Nothing is timed.",
        epilog="writes DIR/<device>.csv and DIR/limits.png; exit status 1 where a kernel does not compile")
    limits.add_argument("--layers", type=options.layers, nargs="+", metavar="NAME",
                        help="layers of real networks, as for inspect (default: all)")
    limits.add_argument("--device", nargs="+", type=clocked, metavar="NAME", default=DEVICES,
                        help=f"devices whose clock is known: {NAMES} (default: all of them)")
    limits.add_argument("--output", type=Path, metavar="DIR", default=Path("benchmarks/limits"),
                        help="where the record goes (default: %(default)s)")
    limits.add_argument("--jobs", type=options.positive, metavar="N", help="processes that compile (default: one per core)")
    limits.add_argument("--quiet", action="store_true", help="no progress")
    limits.set_defaults(run=run)


def clocked(text: str) -> Device:
    """A device that has bounds."""
    device = options.device(text)
    if not device.clock:
        raise argparse.ArgumentTypeError(f"the clock of {device.name} is not known, and a bound counts clocks; known "
                                         f"are those of {NAMES}")
    return device


def run(arguments) -> int:
    from ..compiling import limits
    from ..measuring import plots
    from ..planning.explain import aligned
    from ..problems.layers import select

    chosen = options.layers_of(arguments) if arguments.layers else select(["all"])
    records = []
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        for device in dict.fromkeys(arguments.device):
            record = _record(arguments, device, limits.tasks(device, chosen))
            path = limits.write(record, arguments.output / f"{device.name}.csv")
            records.append(record)
            print(f"{device.name}, bounds over the roofline, written to {path}")
            print(aligned(limits.summary(record)))
        try:
            print(f"written: {plots.limits(arguments.output / 'limits.png', records)}")
        except ImportError:
            print("matplotlib is not installed, so there is no picture: pip install matplotlib")
    except (ValueError, OSError) as error:
        return sweep.error(error)
    return 0


def _record(arguments, device: Device, tasks: list):
    """The tasks, compiled, as the record of a device."""
    from ..compiling import limits, survey
    from ..planning import store
    from ..progress import Progress

    progress = Progress(len(tasks), arguments.quiet, every=10.0)
    try:
        kernels = list(survey.inspect(tasks, arguments.jobs, progress))
    finally:
        progress.close()
    return limits.Record(device.name, kernels[0].triton, store.kernel_digest(), str(datetime.date.today()),
                         tuple(map(limits.row, kernels)))
