"""The tests that need a GPU, in parts: what matters most comes first, and whatever happens, a file says what became
of it.

    python tests/support/gpu_runner.py --output FOLDER [--part NAME ...] [-- OPTIONS OF PYTEST]

A part is a file of tests, run in processes of its own within a limit of its own; the limits of all parts together stay
below ten minutes. FOLDER gets one file per part, PART.jsonl: what was there, a row when a test begins and when it
ends, and a summary as the last.
"""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]

from triton_conv3dt.measuring.journal import Journal  # noqa: E402

PROCESSES = 12
RESTARTS = 200  # of processes that were lost, in a part: its limit ends that
SHOWN = 20  # tests that failed, of a part, on the screen
OUTPUT = 8000  # characters of what pytest printed, where something other than a test went wrong
WORSE = ("passed", "skipped", "failed", "crashed")  # what a test is called that ended more than once


@dataclass(frozen=True)
class Part:
    """Tests that are run together.

    limit: seconds for all of them. each: seconds for one. fatal: whether a failure is one of the whole.
    """

    name: str
    limit: int
    each: int
    processes: int = PROCESSES
    fatal: bool = True
    folder: Path = ROOT / "tests" / "gpu"

    @property
    def file(self) -> Path:
        return self.folder / f"test_gpu_{self.name}.py"


# Compiling takes most of the time. With an empty cache on disk: kernels x seconds of a processor for each, as Triton
# 3.6 takes them for capability 9.0, over 12 processes; and some 20 s to import torch, to begin and to run.
PARTS = (
    Part("small", 60, 30),  # 160 x 0.5 s / 12: 7 s
    Part("configs", 125, 60),  # 800 x 0.7 s / 12: 47 s
    Part("onepass", 45, 30),  # 40 in 8 tests, each in a process: 9 x 0.7 s
    Part("graphs", 45, 30),  # 40 in 6 tests: 9 x 0.7 s
    Part("corpus", 125, 30),  # 1140 x 0.5 s / 12: 48 s
    Part("large", 45, 40, processes=1),  # each takes tens of GiB
    Part("measuring", 130, 100, processes=1, fatal=False),  # clocks want the GPU for themselves
)


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    tests: by test, "passed", "skipped", "failed", "crashed", "unfinished" or "not begun". reasons: by test, why.
    stopped: what ended the part before its time. error: what pytest printed where it did not come to its tests' end.
    """

    part: Part
    seconds: float
    tests: dict[str, str]
    reasons: dict[str, str]
    stopped: str | None = None
    error: str | None = None

    @property
    def good(self) -> bool:
        return not (self.error or self.stopped) and {*self.tests.values()} <= {"passed", "skipped"}

    def row(self) -> dict:
        """The last row of the part's file."""
        named = {kind: [test for test, outcome in self.tests.items() if outcome == kind]
                 for kind in ("failed", "crashed", "unfinished", "not begun")}
        return {"event": "summary", "part": self.part.name, "seconds": round(self.seconds, 1), "good": self.good,
                "counts": dict(Counter(self.tests.values())), **named, "stopped": self.stopped, "error": self.error}

    def __str__(self) -> str:
        counts = Counter(self.tests.values())
        said = [f"{counts[kind]} {kind}" for kind in (*WORSE, "unfinished", "not begun") if counts[kind]]
        lines = [f"{self.part.name}: {', '.join(said) or 'no test'} in {self.seconds:.0f} s"
                 + f", stopped by {self.stopped}" * bool(self.stopped)
                 + " (not fatal)" * (not self.good and not self.part.fatal)]
        skipped = Counter(self.reasons.get(test, "") for test, outcome in self.tests.items() if outcome == "skipped")
        lines += [f"  {n} skipped: {reason}" for reason, n in skipped.items()]
        bad = [test for kind in ("crashed", "unfinished", "failed") for test, outcome in self.tests.items()
               if outcome == kind]
        lines += [f"  {self.tests[test]}: {test}: {_last_line(self.reasons.get(test, ''))}" for test in bad[:SHOWN]]
        lines += [f"  and {len(bad) - SHOWN} more"] * (len(bad) > SHOWN)
        return "\n".join(lines + ([self.error] if self.error else []))


def main(argv: list[str] | None = None, parts: tuple[Part, ...] = PARTS) -> int:
    """Run parts in their order. Returns 0 where all that must not fail has passed, else 1; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--part", action="append", choices=[part.name for part in parts], metavar="NAME",
                        help=f"of {', '.join(part.name for part in parts)} (default: all); may be repeated")
    parser.add_argument("pytest", nargs="*", metavar="OPTIONS", help="passed on to pytest, after --")
    arguments = parser.parse_args(argv)
    absent = [name for name, module in (("pytest", "pytest"), ("pytest-xdist", "xdist"))
              if importlib.util.find_spec(module) is None]
    if absent:
        names = " ".join(absent)
        parser.exit(1, f"error: this Python lacks {names}: pip install {names}, or name another Python\n")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops this wants the processes stopped as well
    arguments.output.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for part in (part for part in parts if part.name in (arguments.part or [part.name])):
        outcomes.append(run(part, arguments.output, arguments.pytest))
        print(outcomes[-1], flush=True)
        if outcomes[-1].stopped == "Ctrl-C":
            return 130
    bad = [outcome.part.name for outcome in outcomes if not outcome.good]
    print(f"{len(outcomes) - len(bad)} of {len(outcomes)} parts are good" + f", not {', '.join(bad)}" * bool(bad)
          + f"; everything is in {arguments.output}")
    return int(any(outcome.part.fatal and not outcome.good for outcome in outcomes))


def run(part: Part, folder: Path, options: list[str]) -> Outcome:
    """Run a part, to its end or its limit, and write what became of it."""
    journal, started, stopped, code = Journal(folder / f"{part.name}.jsonl"), time.monotonic(), None, None
    journal.path.unlink(missing_ok=True)
    processes = min(part.processes, len(os.sched_getaffinity(0)))
    command = [sys.executable, "-m", "pytest", part.file, "-m", "gpu", "--require-gpu", "-p", "no:cacheprovider",
               "--journal", journal.path.resolve(), "--each", str(part.each), "-n", str(processes),
               "--maxschedchunk", "1", "--max-worker-restart", str(RESTARTS), *options]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            preexec_fn=os.setpgrp)  # so that all that it starts can be ended with it
        try:
            code = process.wait(part.limit)
        except subprocess.TimeoutExpired:
            stopped = f"the limit of {part.limit} s"
        except KeyboardInterrupt:
            stopped = "Ctrl-C"
        finally:
            _end(process)
        printed.seek(0)
        text = printed.read().decode(errors="replace")[-OUTPUT:]
    tests, reasons = became(journal.rows())
    if code is None and stopped != "Ctrl-C" and tests and {*tests.values()} <= {*WORSE}:
        stopped, code = None, 0  # it was about to end: pytest-xdist waits for processes that were lost
    bad = not {*tests.values()} <= {"passed", "skipped"}
    expected = stopped or code == 0 or code == 1 and bad or code == 5 and options  # 5: -k, say, leaves no test
    error = None if expected else f"pytest ended with status {code}: {text}"
    outcome = Outcome(part, time.monotonic() - started, tests, reasons, stopped, error)
    journal.append(outcome.row() | ({"printed": text} if "crashed" in tests.values() else {}))
    return outcome


def became(rows: list[dict]) -> tuple[dict[str, str], dict[str, str]]:
    """The outcome of each test by the rows of a journal, and the reasons of those that have one."""
    tests, reasons, tried = {}, {}, {}
    for row in rows:
        test = row.get("test")
        if row["event"] == "collected":
            tests |= dict.fromkeys(row["tests"], "not begun")
        elif row["event"] == "begin":
            tests[test] = "unfinished"
        elif row["event"] == "trying":
            tried[test] = row["what"]
        elif row["event"] == "end":
            known = tests.get(test)
            if known not in WORSE or WORSE.index(known) < WORSE.index(row["outcome"]):
                tests[test], reasons[test] = row["outcome"], row["reason"]
    for test, outcome in tests.items():
        if outcome in ("crashed", "unfinished") and test in tried:
            reasons[test] = f"{reasons.get(test, '')} while trying {tried[test]}".strip()
    return tests, reasons


def _end(process: subprocess.Popen) -> None:
    """End a process and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # all have ended
        pass
    process.wait()


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (errors or lines or [""])[0 if errors else -1][:300]


if __name__ == "__main__":
    sys.exit(main())
