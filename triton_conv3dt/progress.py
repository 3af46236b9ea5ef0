"""Progress on stderr: a bar where there is tqdm and a terminal, plain lines otherwise."""

import sys
import time

PATIENCE = 2.0  # seconds; what is done by then shows nothing


class Progress:
    """Counts the steps of something that may take a while.

    step(name) says what begins; close() ends the last one. quiet shows nothing at all. every: seconds between two plain
    lines, for something of very many steps.
    """

    def __init__(self, steps: int, quiet: bool = False, every: float = 0.0):
        self._steps, self._begun, self._quiet, self._every = steps, 0, quiet, every
        self._start, self._bar = time.monotonic(), None
        self._next = self._start + max(PATIENCE, every)
        if not quiet and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=steps, leave=False, delay=PATIENCE, file=sys.stderr,
                             bar_format="{bar:24} {n_fmt}/{total_fmt}  {desc}  [{elapsed}<{remaining}]")

    def step(self, name: str) -> None:
        """The step before is done and this one begins."""
        if self._bar is not None:
            self._bar.update(1 if self._begun else 0)
            self._bar.set_description_str(name)
        self._begun += 1
        now = time.monotonic()
        if self._bar is None and not self._quiet and now > self._next:
            self._next = now + self._every
            print(f"[{self._begun}/{self._steps}] {name}{self._remaining(now)}", file=sys.stderr, flush=True)

    def skip(self, steps: int) -> None:
        """So many steps will not be taken."""
        self._steps -= steps
        if self._bar is not None:
            self._bar.total = self._steps
            self._bar.refresh()

    def say(self, text: str) -> None:
        """A line on stdout, above the bar."""
        if self._bar is not None:
            self._bar.clear()
        print(text, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Everything is done."""
        if self._bar is not None:
            self._bar.close()

    def _remaining(self, now: float) -> str:
        """How long the rest takes if it goes on like this; for something of very many steps."""
        if not self._every or self._begun < 2:
            return ""
        seconds = (now - self._start) / (self._begun - 1) * (self._steps - self._begun + 1)
        return f" (about {duration(seconds)} left)"


def duration(seconds: float) -> str:
    """In the largest two units: "1 h 20 min", "8 min 30 s", "12 s"."""
    seconds = round(seconds)
    for size, big, small, unit in ((3600, "h", "min", 60), (60, "min", "s", 1)):
        if seconds >= size:
            rest = seconds % size // unit
            return f"{seconds // size} {big}" + f" {rest} {small}" * (rest > 0)
    return f"{seconds} s"
