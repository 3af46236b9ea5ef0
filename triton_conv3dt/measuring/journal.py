"""A journal: rows of JSON, one a line, each on the disk before the next thing is tried.

Whatever is killed, by Ctrl-C, by `kill -9` or by a power cut, loses the row that it was about to write and no other.
Several processes may write to one journal at once.
"""

import json
import os
from pathlib import Path

from ..files import locked


class Journal:
    """The journal in a file, which need not be there yet.

    Raises (append):
        OSError: the file cannot be written (no permission, a full disk); the rows before are as they were.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def append(self, row: dict) -> None:
        """Add a row. It is on the disk when this returns."""
        line = json.dumps(row, separators=(", ", ": "), allow_nan=False).encode() + b"\n"
        with locked(self.path) as file:
            size = os.fstat(file).st_size
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            try:
                _write(file, b"\n" * torn + line)  # the torn line stays, by itself, and is skipped by whoever reads
            except OSError as error:
                os.ftruncate(file, size)
                raise OSError(error.errno, os.strerror(error.errno), str(self.path)) from None
            os.fsync(file)

    def rows(self) -> list[dict]:
        """All rows in the order in which they were written, without those that a kill or a full disk has torn.

        Raises:
            OSError: the file is there and cannot be read.
            ValueError: the file is no journal: its first line is no row.
        """
        return read(self.path)[0] if self.path.exists() else []


def read(path: Path) -> tuple[list[dict], list[int]]:
    """The rows of a journal, and the numbers of the lines that are torn.

    Raises:
        OSError, ValueError: as Journal.rows does, and FileNotFoundError.
    """
    rows, torn = [], []
    lines = Path(path).read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:  # not JSON, or not UTF-8
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif line:
            torn.append(number)
    if torn and torn[0] == 1 and not lines[0].startswith(b"{"):
        raise ValueError(f"{path} is no journal of this program; its first line is {lines[0][:60]!r}")
    return rows, torn


def writable(path: Path) -> None:
    """Make the folder of a journal and see that it can be written, before anything is computed for it.

    Raises:
        OSError: it cannot be written, with the reason.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        pass


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data):]
