"""A journal loses the row that was being written, and no other."""

import errno
import fcntl
import multiprocessing
import os
import threading

import pytest

from triton_conv3dt.measuring.journal import Journal, read, writable


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl")


def test_rows_come_back_in_order(journal):
    assert journal.rows() == []
    for i in range(3):
        journal.append({"i": i, "text": "µs\n", "nested": {"a": [1.5, None]}})
    assert [row["i"] for row in journal.rows()] == [0, 1, 2]
    assert journal.rows()[0] == {"i": 0, "text": "µs\n", "nested": {"a": [1.5, None]}}
    assert len(journal.path.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("torn", [b'{"i": 2, "te', b'{"i": 2}', b"{", b'{"text": "\xc2', b"\0" * 40])
def test_a_torn_last_line_is_skipped_and_does_not_spoil_the_next(journal, torn):
    journal.append({"i": 0})
    journal.append({"i": 1})
    with open(journal.path, "ab") as file:
        file.write(torn)
    whole = torn == b'{"i": 2}'  # all there but for its newline
    assert [row["i"] for row in journal.rows()] == [0, 1] + [2] * whole
    journal.append({"i": 3})
    assert [row["i"] for row in journal.rows()] == [0, 1] + [2] * whole + [3]
    assert read(journal.path)[1] == ([] if whole else [3])


def test_the_first_line_may_be_torn_too(journal):
    journal.path.write_bytes(b'{"event": "ses')
    assert journal.rows() == []
    journal.append({"i": 0})
    assert journal.rows() == [{"i": 0}]


@pytest.mark.parametrize("content", [b"layer,time\nx,1\n", b"[1, 2]\n", b"\x89PNG\r\n"])
def test_another_file_is_no_journal(journal, content):
    journal.path.write_bytes(content)
    with pytest.raises(ValueError, match="is no journal of this program"):
        journal.rows()
    assert journal.path.read_bytes() == content


def test_every_row_is_on_the_disk_before_append_returns(journal, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    for i in range(3):
        journal.append({"i": i})
        assert synced[-1] == journal.path.stat().st_size
    assert len(synced) == 3


def test_a_full_disk_leaves_the_rows_as_they_were(journal, monkeypatch):
    journal.append({"i": 0})
    before, write = journal.path.read_bytes(), os.write

    def full(file, data):
        if len(data) > 5:
            return write(file, data[:5])  # some of it still fits
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        journal.append({"i": 11})
    monkeypatch.undo()
    assert journal.path.read_bytes() == before
    journal.append({"i": 2})
    assert [row["i"] for row in journal.rows()] == [0, 2]


def test_a_row_is_json_that_everybody_reads(journal):
    with pytest.raises(ValueError):
        journal.append({"time": float("nan")})
    assert journal.rows() == []


def test_a_writer_waits_for_another(journal):
    """Two that append at once are safe where one of them has to repair a torn line or to take a row back."""
    journal.append({"i": 0})
    with open(journal.path, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer = threading.Thread(target=journal.append, args=({"i": 1},))
        writer.start()
        writer.join(0.2)
        assert writer.is_alive() and len(journal.rows()) == 1
    writer.join(10)
    assert len(journal.rows()) == 2


def _writer(path, name, rows):
    journal = Journal(path)
    for i in range(rows):
        journal.append({"writer": name, "i": i, "padding": "x" * 5000})


def test_several_writers_lose_nothing(journal):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_writer, args=(journal.path, name, 40)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    rows, torn = read(journal.path)
    assert not torn
    for name in "abc":
        assert [row["i"] for row in rows if row["writer"] == name] == list(range(40))


def test_a_folder_is_made_and_a_place_that_cannot_be_written_is_refused(tmp_path):
    writable(tmp_path / "new" / "folder" / "journal.jsonl")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        writable(tmp_path / "file" / "journal.jsonl")
    with pytest.raises(OSError):
        writable(tmp_path / "new")
