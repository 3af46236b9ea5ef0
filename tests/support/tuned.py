"""What is tuned in tests: a few configs of small problems, by a worker that answers from tables, and what is stored."""

from dataclasses import replace

import trials
from trials import DEFAULT, H200, OTHERS, PROBLEM
from triton_conv3dt.measuring import tune
from triton_conv3dt.measuring.journal import Journal
from triton_conv3dt.measuring.results import Known
from triton_conv3dt.measuring.timing import Times
from triton_conv3dt.planning import configfile, store
from triton_conv3dt.problems import case
from triton_conv3dt.problems.problem import Problem
from triton_conv3dt.worker import Failure

NEAR = replace(PROBLEM, in_size=(2, 2, 4), out_size=(4, 4, 8))
OTHER = Problem.of_layer("grad_input", n=1, ci=16, co=8, in_size=(2, 2, 3), kernel=2, stride=2)
EFFORT = tune.Effort(None, 0.01)
MADE_WITH = {"triton_conv3dt": "test", "kernel": store.kernel_digest(), "triton": "3.7.1"}


class Answers:
    """A worker in this process that reads from tables: what a config's examination gives, what a comparison gives."""

    def __init__(self, examined=(), compared=()):
        self.examined, self.compared, self.asked = dict(examined), compared, []

    def ask(self, method, problem, what, seconds_of_timing, *, seconds):
        self.asked.append((method, problem, what))
        if method == "examine":
            answer = self.examined.get(what, 100.0)
            if isinstance(answer, BaseException):
                raise answer
            return answer if isinstance(answer, Failure) else trials.TableTimer.times(answer)
        if isinstance(self.compared, Failure):
            return self.compared
        compared = dict(self.compared)
        times = {name: compared.get(config, self.examined.get(config, 100.0)) for name, config in what.items()}
        return {name: value if isinstance(value, Times) else trials.TableTimer.times(value)
                for name, value in times.items()} | {"cudnn": trials.TableTimer.times(400.0)}

    def examined_configs(self):
        return [what for method, _, what in self.asked if method == "examine"]


def journal_in(folder, monkeypatch) -> Journal:
    """A journal beside whose configs none is looked up; the default is one that can be told from the others."""
    monkeypatch.setenv("TRITON_CONV3DT_CONFIG_DIR", str(folder / "configs"))
    monkeypatch.setattr(store, "search_path", lambda: [folder / "configs"])
    return Journal(folder / "tune.jsonl")


def job(problem=PROBLEM, others=OTHERS):
    return tune.Job(problem, lambda: (DEFAULT, *others))


def sweep(journal, worker, *, resume=True, **given):
    known = Known(journal.rows() if resume else [], H200)
    return tune.Sweep(H200, journal, worker, output=journal.path.parent / "configs", made_with=MADE_WITH, effort=EFFORT,
                      known=known, **given)


def stored(journal, folder="configs"):
    return {case.format(entry.problem): entry for path in store.files(journal.path.parent / folder)
            for _, entry in configfile.read(path)}


def outcomes(journal):
    return {configfile.config_of(row["config"]): row["outcome"]
            for row in journal.rows() if row["event"] == "candidate"}
