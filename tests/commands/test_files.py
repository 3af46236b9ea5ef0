"""A file is replaced whole or not at all, and a lock is on the file that is there."""

import errno
import os
import threading

import pytest

from triton_conv3dt import files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "text"
    assert files.replace(path, "old\n") == path
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
    with pytest.raises(OSError, match="no space"):
        files.replace(path, "new\n")
    assert path.read_text() == "old\n" and os.listdir(tmp_path) == ["text"]
    monkeypatch.undo()
    files.replace(path, "new\n")
    assert path.read_text() == "new\n" and os.listdir(tmp_path) == ["text"]


@pytest.mark.parametrize("temporary", [False, True])
def test_who_waits_for_a_lock_gets_the_file_that_is_there(tmp_path, temporary):
    """Not one that whoever held it has removed: a row in that would be lost, and two would hold a lock at once."""
    path, written = tmp_path / "locked", []

    def wait():
        with files.locked(path, temporary=temporary) as file:
            os.write(file, b"row\n")
            written.append(path.read_bytes())

    with files.locked(path, temporary=temporary):
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive() and not written
        if not temporary:
            path.unlink()
    waiting.join(10)
    assert written == [b"row\n"] and path.exists() != temporary


def test_a_lock_is_let_go_by_an_error(tmp_path):
    path = tmp_path / "lock"
    for _ in range(2):
        with pytest.raises(KeyError), files.locked(path, temporary=True):
            raise KeyError
    assert not path.exists()
