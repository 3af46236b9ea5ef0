"""explain: what would run for a layer, and why."""

import sys

from . import options


def add(commands) -> None:
    explain = commands.add_parser(
        "explain", help="what would run for a layer, and why",
        description="Print what would run for a layer on a GPU, which need not be here, and why.",
        epilog="example: triton-conv3dt explain --input 2,64,64,64,64 --channels 32 --kernel 2 --stride 2 --bias "
               "--activation leaky_relu --dtype float16 --device nvidia_h200")
    options.add_layer(explain)
    options.add_run(explain)
    explain.set_defaults(run=run, refuse=explain.error)


def run(arguments) -> int:
    problem = options.problem_of(arguments)
    from .. import launch  # imports torch: only where it is needed

    try:
        print(launch.plan(problem, options.device_of(arguments)))
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
