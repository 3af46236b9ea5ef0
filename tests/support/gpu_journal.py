"""A pytest plugin for tests that run in pytest-xdist's processes: what became of each is on the disk while others run.

With --journal, the process that hands tests out writes a row when a test begins and when it ends. A process that is
beyond help, because a test took longer than --each allows or ruined CUDA's context, ends itself; pytest-xdist starts
another, which goes on with the next test.
"""

import faulthandler
import os
import sys
from pathlib import Path

import pytest

from triton_conv3dt.measuring import machine
from triton_conv3dt.measuring.journal import Journal
from triton_conv3dt.worker import failure

LONGEST_REASON = 6000  # characters; the end of a traceback says most


def pytest_addoption(parser):
    parser.addoption("--journal", type=Path, metavar="FILE", help="write what becomes of each test to this file")
    parser.addoption("--each", type=float, default=60.0, metavar="SECONDS", help="with --journal, the limit of a test")


def pytest_configure(config):
    path = config.getoption("--journal")
    if path:
        worker = hasattr(config, "workerinput")
        config.pluginmanager.register(Guard(config.getoption("--each")) if worker else Scribe(Journal(path)))


@pytest.fixture
def trying(request):
    """Call it with what a test tries next: should the process be lost, the journal says at what."""
    path, test = request.config.getoption("--journal"), request.node.nodeid
    return lambda what: path and Journal(path).append({"event": "trying", "test": test, "what": what})


class Scribe:
    """Writes the journal, in the process that hands tests out."""

    def __init__(self, journal: Journal):
        self._journal, self._collected, self._ended = journal, False, set()

    def pytest_sessionstart(self):
        self._journal.append({"event": "session", "device": machine.reported(), **machine.versions()})

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids):
        if not self._collected:  # every process collects the same
            self._journal.append({"event": "collected", "tests": list(ids)})
        self._collected = True

    def pytest_runtest_logstart(self, nodeid):
        self._journal.append({"event": "begin", "test": nodeid})

    def pytest_runtest_logreport(self, report):
        crashed = report.when not in ("setup", "call", "teardown")  # pytest-xdist's own report of a process that died
        if crashed and report.nodeid in self._ended or report.when != "call" and report.passed:
            return
        self._ended.add(report.nodeid)
        outcome = "crashed" if crashed else report.outcome
        self._journal.append({"event": "end", "test": report.nodeid, "outcome": outcome,
                              "seconds": round(report.duration, 2), "reason": _reason(report)})


class Guard:
    """Ends a process that is beyond help.

    Args:
        seconds: what one test may take.
    """

    def __init__(self, seconds: float):
        self._seconds, self._lost = seconds, False
        self._errors = os.fdopen(os.dup(sys.__stderr__.fileno()), "w")  # not what pytest captures

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self):
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._errors)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()
            if self._lost:
                os._exit(1)  # its reports are on their way; CUDA's own clean-up may wait for a kernel

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call):
        self._lost = self._lost or call.excinfo is not None and _context_lost(call.excinfo.value)
        return (yield)


def _context_lost(error: BaseException) -> bool:
    """Whether every later CUDA call of this process would fail."""
    if failure(error).lost:
        return True
    torch = sys.modules.get("torch")
    try:
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except Exception:
        return True
    return False


def _reason(report) -> str:
    """Why a test was skipped or failed."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return "" if report.passed else report.longreprtext[-LONGEST_REASON:]
