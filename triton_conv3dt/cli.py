"""The command line: parse, call, print. Exit codes: 0 done, 1 it failed, 2 the options cannot be meant."""

import os
import sys

from . import __version__
from .commands import bench, check, demo, explain, info, inspect, limits, merge, options, report, tune
from .commands.parsing import Parser

COMMANDS = (info, demo, explain, inspect, limits, check, tune, bench, report, merge)


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; argv is sys.argv[1:] where it is not given. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        with options.constrained(arguments):
            code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # output on a disk that is full, say: what a command writes itself, it answers for itself
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> Parser:
    parser = Parser(prog="triton-conv3dt", description="Transposed 3-D convolution in Triton.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser
