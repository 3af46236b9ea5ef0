"""explain: what would run for a layer, and why."""

import sys

from ..planning.device import LEAST_CAPABILITY
from . import options


def add(commands) -> None:
    explain = commands.add_parser(
        "explain", help="what would run for a layer, and why",
        description="Print what would run for a layer on a GPU, which need not be here, and why; a table for several.",
        epilog="examples: triton-conv3dt explain --layers nnunet --device h200; triton-conv3dt explain --model "
               "nets.unet:UNet --input 2,1,128,128,128; triton-conv3dt explain --input 2,64,64,64,64 --channels 32 "
               "--kernel 2 --stride 2 --bias --activation leaky_relu")
    options.add_problems(explain)
    options.add_run(explain)
    options.add_devices(explain)
    options.add_without(explain)
    explain.set_defaults(run=run, refuse=explain.error)


def run(arguments) -> int:
    from ..planning import constraints, explain, plan, store

    try:
        problems = options.problems_of(arguments)
        with store.strict():
            for i, device in enumerate(options.devices_of(arguments)):
                plans = [(name, plan.plan(problem, device, constraints=constraints.current()))
                         for name, problem in problems]
                several = len({name for name, _ in plans}) > 1
                print("\n" * (i > 0) + (_table(arguments, device, plans) if several else
                                        "\n\n".join(explain.text(made) for _, made in plans)))
    except (ValueError, RuntimeError, store.ConfigFileWarning) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _table(arguments, device, plans) -> str:
    from ..planning import explain

    untuned = sum(explain.tuned(made) != "exact" for _, made in plans)
    without = f", without {plans[0][1].constraints}" if plans[0][1].constraints else ""
    lines = [f"{device.name}: {len(plans)} problems, {untuned} of them not tuned{without}", explain.table(plans)]
    if device.capability < LEAST_CAPABILITY:
        lines.append(explain.too_old())
    elif untuned:
        lines.append(f"to tune them, on such a GPU: triton-conv3dt tune {options.again(arguments)}"
                     f"{explain.without(plans[0][1])}")
    return "\n".join(lines)
