"""Files that stay whole, whoever reads, writes or is killed meanwhile: replaced in one step and locked."""

import contextlib
import os
from pathlib import Path


def replace(path: Path, text: str) -> Path:
    """Write a text file in one step: whoever reads it finds the old text or the new one, which is on the disk. There is
    one writer at a time.

    Returns:
        The path.

    Raises:
        OSError: it cannot be written; the old one is as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


@contextlib.contextmanager
def locked(path: Path, *, temporary: bool = False):
    """Hold a file, made where there is none, that no other process holds meanwhile. Gives a descriptor, which appends.

    temporary: the file is the lock and nothing else, and is gone afterwards.

    Raises:
        OSError: it cannot be opened for writing.
    """
    import fcntl  # there is none on Windows, where nothing is tuned either

    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _still_there(file, path):
                try:
                    yield file
                finally:
                    if temporary:
                        path.unlink()
                return
        finally:
            os.close(file)  # and with it goes the lock


def _still_there(file: int, path: Path) -> bool:
    """Whether a path leads to an open file, and not to another since someone removed that one."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
