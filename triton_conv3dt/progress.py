"""Progress on stderr: a bar where there is tqdm and a terminal, plain lines otherwise."""

import sys
import time

PATIENCE = 2.0  # seconds; what is done by then shows nothing


class Progress:
    """Counts the steps of something that may take a while.

    step(name) says what begins; close() ends the last one. quiet shows nothing at all.
    """

    def __init__(self, steps: int, quiet: bool = False):
        self._steps, self._begun, self._quiet = steps, 0, quiet
        self._start, self._bar = time.monotonic(), None
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
        if self._bar is None and not self._quiet and time.monotonic() - self._start > PATIENCE:
            print(f"[{self._begun}/{self._steps}] {name}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Everything is done."""
        if self._bar is not None:
            self._bar.close()
