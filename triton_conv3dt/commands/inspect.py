"""inspect: compile what would run, for GPUs that need not be here, and report what the kernels use."""

import argparse
import json
import sys
from pathlib import Path

from ..planning.device import KNOWN, Device
from ..problems.problem import DIRECTIONS
from . import options


def add(commands) -> None:
    inspect = commands.add_parser(
        "inspect", help="compile what would run, and report what the kernels use",
        description="Compile the main kernel of layers, or of tuned configs, for GPUs that need not be here, and "
                    "report registers, shared memory, the bound (what the machine code permits at best, over the "
                    "roofline, and what binds), tensor-core instructions, load and store widths, and what should be "
                    "better.",
        epilog="exit status 1 where a kernel does not compile or does not fit. example: triton-conv3dt inspect "
               "--layers nnunet --device nvidia_h200 nvidia_a100")
    options.add_problems(inspect)
    options.add_run(inspect, DIRECTIONS)
    inspect.usage = inspect.usage.replace("(--layers", "(--configs [DIR ...] | --layers")
    inspect.add_argument("--configs", type=Path, nargs="*", metavar="DIR",
                         help="every tuned config of these folders (default: of those that were shipped)")
    options.add_without(inspect)
    inspect.add_argument("--default", action="store_true", help="compile the defaults, whatever has been tuned")
    where = inspect.add_mutually_exclusive_group()
    options.add_devices(where)
    where.add_argument("--arch", nargs="+", type=arch, metavar="SM",
                       help="or their architectures: sm_80, sm_90, sm_100, ...")
    inspect.add_argument("--step", action="store_true",
                         help="the bound of a whole training step of each layer, one line each")
    inspect.add_argument("--json", action="store_true",
                         help="print JSON: one object per line, all that is known of a kernel")
    inspect.add_argument("--jobs", type=options.positive, metavar="N",
                         help="processes that compile (default: one per core)")
    inspect.add_argument("--quiet", action="store_true", help="no progress")
    inspect.set_defaults(run=run, refuse=inspect.error)


def arch(text: str) -> Device:
    """The first known device of an architecture."""
    known = {str(device.arch): device for device in reversed(KNOWN.values())}
    device = known.get(text.lower().removeprefix("sm").removeprefix("_"))
    if device is None:
        names = ", ".join(f"sm_{number}" for number in sorted(known, key=int))
        raise argparse.ArgumentTypeError(f"expected one of {names}, received {text!r}")
    return device


def run(arguments) -> int:
    asked = [f"--{name}" for name in ("layers", "case", "model", "input") if getattr(arguments, name)]
    told = asked or arguments.device or arguments.arch or arguments.default or arguments.without
    if arguments.configs is not None and told:
        arguments.refuse("--configs says itself which problems, which devices and which configs: it stands alone")
    if arguments.step and (arguments.configs is not None or arguments.direction or arguments.case):
        arguments.refuse("--step is of whole layers: it takes --layers, --model or --input, in every direction")
    from ..planning import store

    try:
        problems = options.problems_of(arguments) if arguments.configs is None else None
        with store.strict():
            tasks = (_steps if arguments.step else _layers)(arguments, problems) if problems else _configs(arguments)
    except (ValueError, RuntimeError, store.ConfigFileWarning) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return _inspect(tasks, arguments)


def _inspect(tasks, arguments) -> int:
    """Print what is known of each kernel as soon as it and those before it are compiled."""
    from ..compiling import steps, survey
    from ..progress import Progress

    failed = []

    def noted(kernels):
        for kernel in kernels:
            failed.extend([kernel] if kernel.failure else [])
            yield kernel

    progress = Progress(len(tasks), arguments.quiet, every=10.0)
    try:
        kernels = noted(survey.inspect(tasks, arguments.jobs, progress))
        found = steps.steps(kernels) if arguments.step else kernels
        if arguments.json:
            lines = (json.dumps(one.as_json()) for one in found)
        else:
            lines = map(steps.line, found) if arguments.step else survey.table(found, tasks)
        for line in lines:
            progress.say(line)
    finally:
        progress.close()
    if not tasks and not arguments.json:
        print("no tuned configs")
    return 1 if failed else 0


def _layers(arguments, problems) -> list:
    """Every problem on every device, with the config that would run."""
    from ..compiling.survey import Task
    from ..planning import constraints, search, store

    tasks, without = [], constraints.current()
    for device in dict.fromkeys(arguments.arch or options.devices_of(arguments)):
        for name, problem in problems:
            found = store.choose(problem, device, without) if not arguments.default else \
                store.Found(search.default(problem, device, without), "default of search.py")
            tasks.append(Task(name, problem, device, found.config, found.source))
    return tasks


def _steps(arguments, problems) -> list:
    """What whole training steps compile, of every layer on every device."""
    from ..compiling import steps
    from ..planning import constraints

    return [task for device in dict.fromkeys(arguments.arch or options.devices_of(arguments)) for name, problem in problems
            if problem.direction == "forward"
            for task in steps.tasks(name, problem, device, constraints.current(), arguments.default)]


def _configs(arguments) -> list:
    """Every entry of every file, those of a device together."""
    from ..compiling.survey import Task
    from ..planning import configfile, device, store

    tasks = []
    for folder in arguments.configs or [folder for folder in device.SHIPPED if folder.is_dir()]:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
        for path in store.files(folder):
            made_on = configfile.device_of(path)
            tasks += [Task(f"{path.relative_to(folder)}:{line}", entry.problem, made_on, entry.config, f"{path}:{line}")
                      for line, entry in configfile.read(path)]
    return sorted(tasks, key=lambda task: task.device.name)
