"""Finding the best config for problems on this device: examine candidates, compare the best, keep what wins.

Every candidate is a row of a journal before the next is tried, whatever became of it, so a sweep can be stopped in any
way and go on. Config files are derived from the journal: writing them again, from one journal or several, changes
nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from ..planning import constraints, search, store
from ..planning.config import Config
from ..planning.configfile import config_of
from ..planning.device import Device
from ..problems import case
from ..problems.problem import Problem
from ..progress import Progress
from ..worker import LOST, Failure, Worker
from . import results
from .asking import Asker, OutOfTime, told
from .budget import Budget
from .journal import Journal
from .precompile import Compilers
from .results import CUDNN, DEFAULT, Known
from .timing import Times

FINALISTS = 3  # compared with the default
COMPARE_SECONDS = 1.0  # for one comparison
WATCHDOG, SHORTEST_WATCH = 45.0, 20.0  # seconds for one candidate, compiling included; near the end of a budget
LOST_BY_PATH = 2, 6  # workers lost by configs of one path, for one problem and in all, before the others are left out
LOST_IN_A_ROW = 10  # workers; then it is the device that is broken


@dataclass(frozen=True)
class Effort:
    """How many candidates of each problem are examined (None: all), and for how many seconds each is timed. expected:
    how many there will be, about."""

    candidates: int | None
    seconds: float

    @property
    def expected(self) -> int:
        return self.candidates or 400


EFFORTS = {"quick": Effort(20, 0.05), "full": Effort(None, 0.1)}


class Job:
    """A problem and what is to be tried for it, the default first: found when it is needed, which can take a second."""

    def __init__(self, problem: Problem, find: Callable[[], Iterable[Config]]):
        self.problem, self._find = problem, find

    @cached_property
    def candidates(self) -> tuple[Config, ...]:
        return tuple(dict.fromkeys(self._find()))

    @property
    def default(self) -> Config:
        return self.candidates[0]


@dataclass
class Summary:
    """What came of a sweep: problems that have a better config than the default, that have not, and that have neither
    since time ran out or nothing could be measured; and this run's candidates that failed, by kind."""

    better: int = 0
    kept: int = 0
    open: int = 0
    failed: dict[str, int] = field(default_factory=dict, compare=False)


def jobs(problems: Iterable[Problem], device: Device, effort: Effort) -> list[Job]:
    """What there is to do: each problem once, its default, what is stored for it, and the best by the cost model, of
    what may be used now."""
    without = constraints.current()

    def find(problem):
        found = store.lookup(problem, device, constraints=without)
        default, *others = search.ranked(problem, device, without)[:effort.candidates]
        return [default, *([found.config] if found else []), *others]

    return [Job(problem, partial(find, problem)) for problem in dict.fromkeys(map(store.normal, problems))]


class Sweep:
    """One run of the tuner.

    Args:
        device: what is tuned for.
        journal: where every row goes.
        worker: answers `examine` and `compare` as a Trial does.
        compilers: compile ahead; None leaves it to the worker.
        output: the folder of config files.
        made_with: what the results depend on, kept beside them.
        effort: how long each candidate is timed.
        known: rows that are not measured again.
        budget: the time for all of it; None for no limit.
    """

    def __init__(self, device: Device, journal: Journal, worker: Worker, *, output: Path, made_with: dict[str, str],
                 effort: Effort, known: Known, compilers: Compilers | None = None, budget: Budget | None = None,
                 progress: Progress | None = None):
        self._device, self._journal, self._compilers = device, journal, compilers
        self._output, self._made_with, self._effort, self._known = output, made_with, effort, known
        self._budget, self._progress = budget or Budget(), progress or Progress(0, quiet=True)
        self._asker = Asker(worker, self._budget, (WATCHDOG, SHORTEST_WATCH), LOST_IN_A_ROW)
        self._lost_by_path, self._right_by_path, self._failed = Counter(), Counter(), Counter()

    def run(self, todo: list[Job]) -> Summary:
        """Tune every job, in order, until all are done or the time is up. What is found is stored at once.

        Raises:
            DeviceBroken: many workers were lost one after another.
            OSError: the journal or a config file cannot be written; what was found before is kept.
            KeyboardInterrupt: what was found before is kept.
        """
        left = [job for job in todo if not self._known.done(job.problem, self._effort.candidates)]
        for place, job in enumerate(left):
            if self._budget.spent:
                break
            self._compile_ahead(left[place:place + 2])
            self._decide(job, self._examine_all(job))
        rows = [row for job in todo if (row := self._known.result(job.problem))]
        results.save(rows, self._device, self._output)
        better = sum(row["better"] for row in rows)
        return Summary(better, len(rows) - better, len(todo) - len(rows), dict(self._failed))

    def missing(self, job: Job) -> int:
        """How many candidates of a job are still to be examined."""
        return sum(self._known.tried(job.problem, config) is None for config in job.candidates)

    def _compile_ahead(self, few: list[Job]) -> None:
        if self._compilers is None:
            return
        for job in few:
            for config in job.candidates:
                if self._known.tried(job.problem, config) is None:
                    self._compilers.submit(job.problem, config)

    def _examine_all(self, job: Job) -> dict[Config, Times]:
        """The times of the candidates that are right."""
        found, left, lost = {}, self.missing(job), Counter()
        self._progress.skip(self._effort.expected - left)
        for config in job.candidates:
            row = self._known.tried(job.problem, config)
            if row is None:
                if self._budget.spent:
                    break
                self._progress.step(f"{case.format(job.problem)}: {config}")
                row = self._examine(job.problem, config, lost)
                if row is None:
                    break
                left -= 1
            if row["outcome"] == "problem":
                break  # no config can help
            lost[config.path] += row["outcome"] in LOST
            if row["outcome"] == "ok":
                found[config] = Times(**row["us"])
        self._progress.skip(left)
        return found

    def _examine(self, problem: Problem, config: Config, lost: Counter) -> dict | None:
        """The row of a candidate; None where the budget ended first. lost: workers that this problem cost, by path."""
        wait, answer = self._asker.wait(), self._left_out(config, lost)
        if answer is None and self._compilers:
            answer = self._compilers.wait(problem, config, wait.seconds)
        if answer is None:
            try:
                answer = self._asker.ask("examine", problem, config, self._effort.seconds)
            except OutOfTime:
                return None
        if isinstance(answer, Failure):
            if wait.short and wait.passed >= wait.seconds:
                return None  # it was given less time than others, so nothing is said about it
            outcome = told(answer)
            self._lost_by_path[config.path] += answer.lost
            self._failed[answer.kind] += 1
        else:
            self._right_by_path[config.path] += 1
            outcome = {"outcome": "ok", "us": answer.fields()}
        return self._append("candidate", problem, config=results.plain(config), **outcome,
                            seconds=round(wait.passed, 3))

    def _left_out(self, config: Config, lost: Counter) -> Failure | None:
        """Why a config is not tried: others like it have cost many workers, each of them some seconds to replace."""
        path, (here, everywhere) = config.path, LOST_BY_PATH
        if lost[path] >= here:
            return Failure("left out", f"{lost[path]} workers were lost by other configs of the {path} path for this "
                                       "problem")
        if self._lost_by_path[path] >= everywhere and not self._right_by_path[path]:
            return Failure("left out", f"{self._lost_by_path[path]} workers were lost by the {path} path, and none of "
                                       "its configs was right")
        return None

    def _decide(self, job: Job, found: dict[Config, Times]) -> None:
        """Compare the best with the default in turns, and keep what wins."""
        ordered = sorted(found, key=lambda config: (found[config].median, str(config)))
        best = [config for config in ordered if config != job.default][:FINALISTS]
        finalists = {str(config): config for config in best} | ({DEFAULT: job.default} if job.default in found else {})
        if not finalists:
            return
        try:
            times = self._asker.ask("compare", job.problem, finalists, COMPARE_SECONDS)
        except OutOfTime as error:
            times = error.failure
        if isinstance(times, Failure):
            self._append("comparison", job.problem, **told(times))
            return
        winner = results.choose({name: times[name] for name in finalists})
        us = {name: value for name, value in times[winner].fields().items() if name != "rounds"}
        us |= {name: times[name].fields()["median"] for name in (DEFAULT, CUDNN) if name in times}
        row = self._append("result", job.problem, config=results.plain(finalists[winner]), better=winner != DEFAULT,
                           us=us, candidates=self._effort.candidates, complete=not self.missing(job),
                           made_with=self._made_with)
        results.save([row], self._device, self._output)
        self._progress.say(line(row))

    def _append(self, event: str, problem: Problem, **what) -> dict:
        row = {"event": event, "device": self._device.name, "kernel": store.kernel_digest(),
               "case": case.format(problem), **what}
        if event == "result" and self._known.without:
            row["without"] = str(self._known.without)
        self._journal.append(row)
        self._known.add(row)
        return row


def line(row: dict) -> str:
    """A result in one line."""
    us = row["us"]
    default = f"default {us[DEFAULT]:.1f}" if DEFAULT in us else "the default fails"
    theirs = f", cuDNN {us[CUDNN]:.1f}" if CUDNN in us else ""
    verdict = str(config_of(row["config"])) if row["better"] else "the default stays"
    return f"{us['median']:9.1f} us ({default}{theirs})  {row['case']}: {verdict}"
