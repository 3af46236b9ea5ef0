"""report: tables and pictures from what bench has recorded."""

from pathlib import Path

from . import sweep


def add(commands) -> None:
    report = commands.add_parser("report", help="tables and pictures from what bench has recorded",
                                 description="Write report.md, roofline.png and speedup.png from what bench has "
                                             "recorded. No GPU is needed.")
    report.add_argument("results", type=Path, nargs="?", default=Path("bench"), metavar="DIR",
                        help="folder with a bench.json, or that file (default: %(default)s)")
    report.add_argument("--output", type=Path, metavar="DIR",
                        help="where the report goes (default: beside the results)")
    report.add_argument("--readme", type=Path, metavar="FILE",
                        help="also replace what stands between the performance markers of this file")
    report.set_defaults(run=run)


def run(arguments) -> int:
    from ..measuring import records, report

    folder = arguments.output or (arguments.results if arguments.results.is_dir() else arguments.results.parent)
    try:
        results = records.load(arguments.results)
        folder.mkdir(parents=True, exist_ok=True)
        written = report.write(results, folder)
        if arguments.readme:
            report.update_readme(arguments.readme, results, folder)
            written.append(arguments.readme)
    except (ValueError, OSError) as error:
        return sweep.error(error)
    print(f"written: {', '.join(map(str, written))}")
    if not any(path.suffix == ".png" for path in written):
        print("matplotlib is not installed, so there are no pictures: pip install matplotlib")
    return 0
