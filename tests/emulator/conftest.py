"""Every test file here runs in one process of its own, which compiles kernels instead of interpreting them.

What is to be run of a file is run by a pytest of its own, without TRITON_INTERPRET, whose reports become this one's.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .driver import TARGETS, emulating

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "emulator-cache"  # Triton's; nothing in it is assembled, so it is nobody else's
REPORTS = "EMULATOR_REPORTS"  # the file descriptor that reports are written to; set in such a process alone
_running = {}  # by file: the process, the lines that it writes, and what it says


def pytest_configure(config):
    if REPORTS in os.environ:
        config.pluginmanager.register(Reporter(config))


class Reporter:
    """Hands the reports of its process to the one that started it."""

    def __init__(self, config):
        self.config, self.pipe = config, open(int(os.environ[REPORTS]), "w")

    def pytest_runtest_logreport(self, report):
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        print(json.dumps(data, default=str), file=self.pipe, flush=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if REPORTS in os.environ or Path(__file__).parent not in item.path.parents:  # pytest asks here about every test
        return None
    if item.path not in _running:
        _running[item.path] = _start(item)
    _, lines, said = _running[item.path]
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item, lines, said):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    item.session._setupstate.teardown_exact(nextitem)
    return True


def environment() -> dict:
    """Of a process that compiles."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "TRITON_INTERPRET"))}
    return kept | {"TRITON_CACHE_DIR": str(CACHE), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _start(item):
    """A process for all tests of a file that this session has, the lines of its reports, and a file of what it says."""
    chosen = [other.nodeid for other in item.session.items if other.path == item.path]
    read, write = os.pipe()
    said = tempfile.TemporaryFile("w+")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--rootdir", str(ROOT), *chosen]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options], cwd=ROOT, pass_fds=[write], env=environment() | {REPORTS: str(write)},
        stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
    os.close(write)
    return process, open(read), said


def _reports(item, lines, said):
    """The reports of one test; a failure that tells what was said where the process has ended before them."""
    while line := lines.readline():
        report = item.config.hook.pytest_report_from_serializable(config=item.config, data=json.loads(line))
        if isinstance(report.longrepr, list):  # JSON has no tuples, of which pytest makes its summary of what was skipped
            report.longrepr = tuple(report.longrepr)
        yield report
        if report.when == "teardown":
            return
    said.seek(0)
    text = f"the process of {item.path.name} ended before this test:\n{said.read()[-4000:]}"
    yield pytest.TestReport(item.nodeid, item.location, {item.name: 1}, "failed", text, "call")


def pytest_sessionfinish(session):
    for process, lines, said in _running.values():
        lines.close()
        process.terminate()  # where this session ended before its tests did
        process.wait()
        said.close()


@pytest.fixture(params=TARGETS)
def emulator(request):
    with emulating(request.param, races=True) as emulator:
        yield emulator


@pytest.fixture
def hopper():
    with emulating("nvidia_h200", races=True) as emulator:
        yield emulator
