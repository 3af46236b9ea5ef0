"""demo: upsample a real MRI volume and compare with PyTorch."""

import argparse
from pathlib import Path


def add(commands) -> None:
    demo = commands.add_parser("demo", help="upsample a real MRI volume and compare with PyTorch",
                               description="Upsample a real MRI volume by two per axis, compare the result with "
                                           "PyTorch's in fp64, and draw slices before and after.")
    demo.add_argument("--output", type=_picture, default=Path("demo.png"), metavar="FILE",
                      help="where the picture goes (default: %(default)s)")
    demo.add_argument("--quiet", action="store_true", help="print the table only: no progress, no explanation")
    demo.set_defaults(run=run)


def _picture(text: str) -> Path:
    from ..demo import upsample

    try:
        return upsample.writable(Path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments) -> int:
    from ..demo import upsample

    return 0 if upsample.run(arguments.output, arguments.quiet) else 1
