"""Work in a process of its own, under a watchdog: what crashes, hangs or ruins CUDA's context there is an answer here.

After an illegal memory access no CUDA call of that process works again, a kernel that never ends cannot be cancelled,
and a compiler may crash outright. So whatever runs a kernel that nobody has run before does it in a worker, which is
replaced when it is lost.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import traceback
from dataclasses import dataclass
from typing import Callable

from .planning import constraints
from .planning.constraints import Constraints

START_SECONDS = 180  # importing torch and making a CUDA context on a machine that is busy compiling
LOST = ("crash", "hang", "illegal access")  # the kinds of failure that cost the worker
CONTEXT_LOST = ("illegal memory access", "misaligned address", "unspecified launch failure", "illegal instruction",
                "device-side assert", "an invalid program counter", "hardware stack error", "cuda error: unknown error")


@dataclass(frozen=True)
class Failure:
    """Why there is no answer. kind: "compile", "resources", "memory", "illegal access", "crash", "hang", "error", or
    what the exception that was raised says it is (its `kind`): "wrong result", "red zone", "problem"."""

    kind: str
    reason: str

    @property
    def lost(self) -> bool:
        """The worker is gone; the next question starts another."""
        return self.kind in LOST


class Worker:
    """Runs methods of an object that is made in another process, which does without what this one does without.

    Args:
        make: makes the object there; importable by name, as multiprocessing's `spawn` needs it. Where the object has a
            method `synchronize`, it is asked after every failure whether the device still works.
        arguments: what make is called with.
    """

    def __init__(self, make: Callable, *arguments):
        self._make, self._arguments = make, arguments
        self._process = self._connection = None

    def ask(self, method: str, *arguments, seconds: float):
        """What a method of the object returns, or the Failure that came instead, after `seconds` at most.

        Raises:
            RuntimeError: the object cannot be made there, with the reason.
        """
        if self._process is None:
            self._start()
        try:
            self._connection.send((method, arguments))
            answer = self._receive(seconds)
        except (EOFError, OSError):
            answer = self._died()
        if isinstance(answer, Failure) and answer.lost:
            self.close()
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = self._connection = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
        self._connection, theirs = context.Pipe()
        given = theirs, os.getpid(), constraints.current(), self._make, self._arguments
        self._process = context.Process(target=_answer, args=given, daemon=True)
        self._process.start()
        theirs.close()
        try:
            answer = self._receive(START_SECONDS)
        except (EOFError, OSError):
            answer = self._died()
        if isinstance(answer, Failure):
            self.close()
            raise RuntimeError(f"the worker process could not start: {answer.reason}")

    def _receive(self, seconds: float):
        if not self._connection.poll(seconds):
            return Failure("hang", f"no answer in {seconds:.0f} s")
        return self._connection.recv()

    def _died(self) -> Failure:
        self._process.join(5)
        code = self._process.exitcode
        how = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit status {code}"
        return Failure("crash", f"the worker process ended: {how}")


def _answer(connection, parent: int, without: Constraints, make: Callable, arguments: tuple) -> None:
    """The worker: make the object, then answer until the other end closes."""
    serve(parent)
    with constraints.using(without):
        _answer_all(connection, make, arguments)


def _answer_all(connection, make: Callable, arguments: tuple) -> None:
    try:
        target = make(*arguments)
    except Exception as error:
        connection.send(failure(error))
        return
    connection.send(None)
    while True:
        try:
            method, given = connection.recv()
        except EOFError:
            return
        try:
            answer = getattr(target, method)(*given)
        except Exception as error:
            answer = _with_consequences(failure(error), target)
        connection.send(answer)
        if isinstance(answer, Failure) and answer.lost:
            os._exit(1)  # without CUDA's own clean-up, which may wait for a kernel


def failure(error: Exception) -> Failure:
    """What an exception means for whoever asked."""
    name, text = type(error).__name__, " ".join(str(error).split()) or "no message"
    module, lowered = type(error).__module__, text.lower()
    if kind := getattr(error, "kind", None):
        return Failure(kind, text)
    if name == "OutOfResources":
        return Failure("resources", text)
    if any(phrase in lowered for phrase in CONTEXT_LOST):
        return Failure("illegal access", text[:300])
    if name == "OutOfMemoryError" or "out of memory" in lowered:
        return Failure("memory", text[:300])
    if module.startswith("triton") or name in ("CompilationError", "PTXASError", "MLIRError"):
        return Failure("compile", f"{name}: {text[:300]}")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Failure("error", f"{name}: {text[:300]} ({os.path.basename(frame.filename)}:{frame.lineno})")


def _with_consequences(found: Failure, target) -> Failure:
    """The failure itself, or a lost context where the object says that its device works no longer (its `synchronize`
    raises): every later answer would be that error."""
    try:
        getattr(target, "synchronize", lambda: None)()
    except Exception as error:
        return found if found.lost else Failure("illegal access", f"{found.reason}; after it: {failure(error).reason}")
    return found


def serve(parent: int) -> None:
    """Make this process one that serves another: it ends with it, whatever that dies of, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
