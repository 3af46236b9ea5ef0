"""bench: measure layers against what people use instead."""

import sys
from pathlib import Path

from ..measuring.budget import Budget
from ..measuring.selection import MEASURED, OWN, PEERS
from . import sweep


def add(commands) -> None:
    bench = commands.add_parser(
        "bench", help="measure layers against cuDNN and others on this GPU",
        description="Measure layers, forward, gradients and whole training steps, in turns with cuDNN in both memory "
                    "formats, torch.compile, a matrix product where that is enough, and JAX. Every result is verified "
                    "before it is timed. bench.csv and bench.json are written into a folder; `report` turns them into "
                    "tables and pictures.",
        epilog="examples: triton-conv3dt bench --layers nnunet --budget 10m; triton-conv3dt bench --layers k=s "
               "--direction forward --dtype float16 bfloat16 --layout channels_last")
    sweep.add_selection(bench, MEASURED)
    sweep.add_run(bench)
    bench.add_argument("--peer", nargs="+", choices=PEERS, metavar="NAME",
                       help=f"whom to measure beside {PEERS[0]}: {', '.join(PEERS[1:])} (default: all)")
    bench.add_argument("--output", type=Path, default=Path("bench"), metavar="DIR",
                       help="folder of the results (default: %(default)s)")
    bench.set_defaults(run=run, refuse=bench.error)


def run(arguments) -> int:
    budget = Budget(arguments.budget)
    if arguments.device and not arguments.dry_run:
        arguments.refuse("--device is for --dry-run: bench measures on the GPU that is here")
    from ..measuring import selection

    try:
        layers = sweep.layers_of(arguments)
        if arguments.case:
            settings = [selection.Setting(layer, problem.direction, problem.dtype, problem.x_layout)
                        for layer, problem in zip(layers, arguments.case)]
        else:
            settings = selection.settings(layers, arguments.direction, arguments.dtype or (OWN,),
                                      arguments.layout or (OWN,))
        settings = selection.shard(settings, arguments.shard)
        names = [PEERS[0], *(name for name in PEERS[1:] if name in (arguments.peer or PEERS))]
        if arguments.dry_run:
            return _dry_run(settings, names, sweep.device_planned(arguments))
        return _bench(settings, names, arguments, budget)
    except (ValueError, RuntimeError, OSError) as error:
        return sweep.error(error)


def _dry_run(settings, names, device) -> int:
    from ..measuring import selection
    from ..planning.explain import count

    for setting in settings:
        print(f"{setting}  followed by {setting.after}  {', '.join(selection.peers_of(setting, names))}")
    print(f"{count(len(settings), 'setting')} on {device.name}")
    return 0


def _bench(settings, names, arguments, budget: Budget) -> int:
    from ..measuring import bench, journal, machine, naming, records, trial
    from ..planning.explain import count
    from ..progress import Progress
    from ..worker import Worker

    device = sweep.device_here("bench")
    book = journal.Journal(arguments.output / "bench.jsonl")
    rows = book.rows()
    journal.writable(book.path)
    known = bench.known(rows) if arguments.resume else {}
    left = len(bench.unmeasured(settings, names, device, known))
    print(f"{device.name}: {count(len(settings), 'setting')}, {len(settings) - left} known, {left} to do; "
          f"journal {book.path}")
    progress = Progress(left * len(names), arguments.quiet, every=30)
    try:
        with Worker(trial.here) as worker, Worker(naming.here) as profiler:
            run_ = bench.Bench(device, book, worker, naming.Names(profiler), known=known, budget=budget,
                               progress=progress)
            open_ = run_.run(settings, names, machine.facts(device))
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept. The same command with --resume goes on", file=sys.stderr)
        return 130
    finally:
        progress.close()
        written = records.write(book, arguments.output)
    if open_:
        print(f"left: {count(open_, 'setting')}; the same command with --resume goes on")
    print(f"results are in {', '.join(map(str, written))}; triton-conv3dt report {arguments.output} shows them")
    return 0
