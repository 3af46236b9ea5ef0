"""Asking a worker that may be lost, in a run that may run out of time; and how a failure stands in a journal."""

from ..worker import Failure, Worker
from .budget import Budget, Wait


class OutOfTime(Exception):
    """The budget ended while an answer was waited for: nothing is known of whoever was asked. failure: the Failure that
    it would be, had it been given its time."""

    def __init__(self, failure: Failure):
        super().__init__(failure.reason)
        self.failure = failure


class DeviceBroken(RuntimeError):
    """One worker after another was lost."""


class Asker:
    """Asks the worker of a run.

    Args:
        worker: the next question to one that is lost starts another.
        budget: of the whole run.
        patience: seconds for an answer, compiling included; and the fewest, near the end of the budget, when a hang
            must not take much more than is left.
        most_lost: so many workers lost one after another are the device's fault; None for however many.
    """

    def __init__(self, worker: Worker, budget: Budget, patience: tuple[float, float], most_lost: int | None = None):
        self._worker, self._budget, self._patience, self._most_lost = worker, budget, patience, most_lost
        self._lost = 0

    def ask(self, method: str, *arguments):
        """What a method of the worker returns, or the Failure that came instead.

        Raises:
            OutOfTime: none came, and the worker was given less than its time.
            DeviceBroken: too many workers were lost.
            RuntimeError: the worker cannot be started.
        """
        wait = self.wait()
        answer = self._worker.ask(method, *arguments, seconds=wait.seconds)
        failed = isinstance(answer, Failure)
        self._lost = self._lost + 1 if failed and answer.lost else 0
        if self._most_lost is not None and self._lost >= self._most_lost:
            raise DeviceBroken(f"{self._lost} workers were lost one after another, the last one so: {answer.reason}. "
                               "The device needs attention (nvidia-smi); --resume goes on from here")
        if failed and answer.kind == "hang" and wait.short:
            raise OutOfTime(answer)
        return answer

    def wait(self) -> Wait:
        """The wait for an answer that is asked for now."""
        return self._budget.wait(*self._patience)


def told(failure: Failure) -> dict[str, str]:
    """A failure as rows of journals have it."""
    return {"outcome": failure.kind, "reason": failure.reason}
