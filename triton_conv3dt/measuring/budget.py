"""The time that a run may take, and how long it waits for one answer when little of that time is left."""

import time


class Budget:
    """Seconds from now on for all of a run; None for no limit."""

    def __init__(self, seconds: float | None = None):
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def spent(self) -> bool:
        """The time is up."""
        return self._end is not None and time.monotonic() >= self._end

    def wait(self, usual: float, fewest: float) -> "Wait":
        """A wait for one answer that begins now: of the usual seconds, or of what is left, but not below the fewest."""
        if self._end is None:
            return Wait(usual, short=False)
        seconds = min(usual, max(fewest, self._end - time.monotonic()))
        return Wait(seconds, short=seconds < usual)


class Wait:
    """So many seconds at most, from now on. short: fewer than others were given, so that no answer says nothing."""

    def __init__(self, seconds: float, short: bool):
        self.seconds, self.short, self._begun = seconds, short, time.monotonic()

    @property
    def passed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._begun
