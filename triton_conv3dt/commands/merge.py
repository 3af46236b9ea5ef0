"""merge: the config files that follow from journals of tune."""

from pathlib import Path

from . import sweep


def add(commands) -> None:
    merge = commands.add_parser("merge", help="write config files from journals of tune",
                                description="Write the config files that follow from journals of tune, those of "
                                            "several shards or machines for instance. Doing it again changes nothing.")
    merge.add_argument("journals", type=Path, nargs="+", metavar="JOURNAL", help="a journal that tune has written")
    merge.add_argument("--output", type=Path, metavar="DIR",
                       help="folder of the config files (default: the user's cache, where they are found)")
    merge.set_defaults(run=run)


def run(arguments) -> int:
    from ..measuring import results
    from ..planning import store
    from ..planning.explain import count

    output = arguments.output or store.user_cache()
    try:
        counts = results.merge(arguments.journals, output)
    except (ValueError, OSError) as error:
        return sweep.error(error)
    for name, number in counts.items():
        print(f"{name}: {count(number, 'result')}" + (f", configs in {output / name}" if number else
                                            "; those of other kernels than these are passed over"))
    return 0
