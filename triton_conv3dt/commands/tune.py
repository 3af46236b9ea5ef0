"""tune: find the best configs for layers on this GPU."""

import sys
from pathlib import Path

from ..measuring.budget import Budget
from ..measuring.selection import OWN
from ..problems.problem import DIRECTIONS
from . import sweep


def add(commands) -> None:
    tune = commands.add_parser(
        "tune", help="find the best configs for layers on this GPU",
        description="Try configs for layers on this GPU, each checked before it is timed, and store those that beat "
                    "the default by more than the noise. It can be stopped at any time; --resume goes on. Under "
                    "--without, the best of what is left is stored in a folder of its own.",
        epilog="examples: triton-conv3dt tune --layers nnunet --budget 20m; triton-conv3dt tune --model nets.unet:UNet "
               "--input 2,1,128,128,128; triton-conv3dt tune --layers all --dry-run --device nvidia_b200")
    sweep.add_selection(tune, DIRECTIONS)
    sweep.add_run(tune)
    tune.add_argument("--effort", choices=("quick", "full"), default="quick",
                      help="quick: the 20 most promising configs of a problem; full: all (default: %(default)s)")
    tune.add_argument("--journal", type=Path, metavar="FILE",
                      help="where every candidate is recorded (default: in the user's cache, by device; under "
                           "--without, in the folder of --output)")
    tune.add_argument("--output", type=Path, metavar="DIR",
                      help="folder of the config files (default: the user's cache, where they are found; needed under "
                           "--without)")
    tune.set_defaults(run=run, refuse=tune.error)


def run(arguments) -> int:
    budget = Budget(arguments.budget)
    if arguments.device and not arguments.dry_run:
        arguments.refuse("--device is for --dry-run: tune measures on the GPU that is here")
    from ..measuring import selection, tune

    try:
        layers = sweep.layers_of(arguments)
        problems = arguments.case or selection.problems(layers, arguments.direction, arguments.dtype or (OWN,),
                                                        arguments.layout or (OWN,))
        problems = selection.shard(problems, arguments.shard)
        if arguments.dry_run:
            effort = tune.EFFORTS[arguments.effort]
            return _dry_run(tune.jobs(problems, sweep.device_planned(arguments), effort), effort)
        return _tune(problems, arguments, budget)
    except (ValueError, RuntimeError, OSError) as error:
        return sweep.error(error)


def _dry_run(jobs, effort) -> int:
    from ..measuring import tune
    from ..planning.explain import count
    from ..problems import case
    from ..progress import duration

    total = 0
    for job in jobs:
        total += len(job.candidates)
        print(f"{len(job.candidates):5} candidates  {case.format(job.problem)}  default: {job.default}", flush=True)
    seconds = total * effort.seconds + len(jobs) * tune.COMPARE_SECONDS
    print(f"{count(len(jobs), 'problem')}, {count(total, 'candidate')}, at least {duration(seconds)} of measuring; "
          "compiling comes on top")
    return 0


def _tune(problems, arguments, budget: Budget) -> int:
    from ..measuring import journal, machine, results, trial, tune
    from ..measuring.precompile import Compilers
    from ..planning import configfile, constraints, store
    from ..planning.explain import count
    from ..progress import Progress
    from ..worker import Worker

    device = sweep.device_here("tune")
    output, without = arguments.output or store.user_cache(), constraints.current()
    if without and store.common(output):
        raise ValueError(f"what is best without {without} would replace, in {output}, what is best of all: give "
                         "--output a folder of its own, which TRITON_CONV3DT_CONFIG_DIR makes calls look into")
    journals = output if without else store.user_cache().parent / "journals"
    path = arguments.journal or journals / f"{device.name}.jsonl"
    book, effort = journal.Journal(path), tune.EFFORTS[arguments.effort]
    rows = book.rows()
    for written in (output / device.name).glob("*.json"):
        configfile.read(written)  # one that cannot be added to is found before anything is measured
    journal.writable(path)
    known = results.Known(rows if arguments.resume else [], device, without)
    jobs = tune.jobs(problems, device, effort)
    left = [job for job in jobs if not known.done(job.problem, effort.candidates)]
    print(f"{device.name}: {count(len(jobs), 'problem')}, {len(jobs) - len(left)} known, {len(left)} to do; "
          f"journal {path}")
    if rows and not arguments.resume:
        print(f"the journal has {count(len(rows), 'row')} of earlier runs; --resume would not repeat them")
    if left:
        facts = machine.facts(device)
        book.append(results.session(device, facts))
        made_with = results.made_with(facts)
    else:
        made_with = {}
    progress = Progress(len(left) * effort.expected, arguments.quiet, every=30)
    compilers = Compilers(device)
    try:
        with Worker(trial.here) as worker:
            summary = tune.Sweep(device, book, worker, output=output, made_with=made_with, effort=effort, known=known,
                                 compilers=compilers, budget=budget, progress=progress).run(jobs)
    except KeyboardInterrupt:
        print("\nstopped; what was found is stored. The same command with --resume goes on", file=sys.stderr)
        return 130
    finally:
        compilers.close()
        progress.close()
    print(f"better than the default: {summary.better}, the default stays: {summary.kept}, open: {summary.open}"
          + "; the same command with --resume goes on" * bool(summary.open))
    if summary.failed:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(summary.failed.items()))
        print(f"candidates that failed: {kinds}; the journal has the reasons")
    if summary.better:
        print(f"configs are in {output / device.name}")
    return 0
