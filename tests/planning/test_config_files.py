"""Files of tuned configs: what is malformed is said with its line, and writing loses nothing."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stored import H200, LAYER, MADE_WITH, TILES, entry, keep, sized
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import configfile, device, search, store
from triton_conv3dt.planning.configfile import ConfigFileError
from triton_conv3dt.problems.problem import Epilogue, Problem

ROOT = Path(__file__).parents[2]

OVERLAPPING = Problem.of_layer(n=2, ci=64, co=32, in_size=32, kernel=3, stride=2, padding=1, output_padding=1)
HEAD = '{\n"schema": 1,\n"device": {"name": "nvidia_h200"},\n"made_with": {\n"a": {"kernel": "k"}\n},\n"entries": [\n'
GOOD = ('{"problem": "n2 ci64 co32 in32 k2 s2", "config": {"path": "direct", "block_m": 8, "block_n": 8}, '
        '"made_with": "a"}')
MALFORMED = {  # text: the line, and what is said
    "empty": ("", 1, "not valid JSON"),
    "another file": ("[1, 2]", 1, 'it has no "schema"'),
    "conflict": (HEAD + "<<<<<<< HEAD\n" + GOOD + "\n]\n}", 8, "not valid JSON"),
    "no entries": ('{"schema": 1, "made_with": {}}', 1, '"entries" a list'),
    "problem": (HEAD + GOOD + ",\n" + GOOD.replace("ci64", "cu64") + "\n]\n}", 9, "'cu64' is not a word"),
    "problem of another file": (HEAD + GOOD.replace("n2", "grad_input n2") + "\n]\n}", 8,
                                "an entry of grad_input.float16"),
    "no problem": (HEAD + GOOD + ",\n\n" + GOOD.replace('"problem"', '"problme"') + "]}", 10, "'problem' is missing"),
    "field": (HEAD + GOOD.replace("block_n", "block_z") + "\n]\n}", 8, "no field 'block_z'"),
    "missing field": (HEAD + GOOD.replace(', "block_n": 8', "") + "\n]\n}", 8, "a config needs 'block_n'"),
    "type": (HEAD + GOOD.replace("8}", '"8"}') + "\n]\n}", 8, "'block_n' must be int, received '8'"),
    "truth for number": (HEAD + GOOD.replace("8}", "true}") + "\n]\n}", 8, "'block_n' must be int, received True"),
    "merge": (HEAD + GOOD.replace("8}", '8, "merge": [true]}') + "\n]\n}", 8, "'merge' must be tuple[bool, bool, "),
    "times": (HEAD + GOOD.replace("}, ", '}, "us": {"median": "fast"}, ') + "\n]\n}", 8,
              '"us" must be an object of numbers'),
    "no time": (HEAD + GOOD.replace("}, ", '}, "us": {"median": NaN}, ') + "\n]\n}", 8, "none below 0"),
    "provenance": (HEAD + GOOD.replace('"a"', '"b"') + "\n]\n}", 8, "made_with 'b' is not explained"),
    "no row": (HEAD + "7\n]\n}", 8, "an entry must be an object, received 7"),
    "past": (HEAD.replace('schema": 1', 'schema": 0') + "]\n}", 2, "schema 0 has never been"),
    "future": (HEAD.replace('schema": 1', 'schema": 2') + "]\n}", 2, "schema 2 is of a later version"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files(folder, name):
    """In a call a warning, in a command an error, both with file and line; and the file stays as it is."""
    text, line, reason = MALFORMED[name]
    path = folder / "nvidia_h200" / "forward.float16.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.warns(store.ConfigFileWarning) as warned:
        found = launch.plan(LAYER, H200)
    message = str(warned[0].message)
    assert f"{path}:{line}: " in message and reason in message and "move the file away" in message
    assert found.config == search.default(LAYER, H200)
    with store.strict(), pytest.raises(store.ConfigFileWarning):
        launch.plan(LAYER, H200)
    with pytest.raises(ConfigFileError, match="move the file away"):
        keep(folder, entry(), entry(replace(LAYER, direction="grad_input")))
    assert path.read_text() == text
    assert os.listdir(path.parent) == [path.name]


def test_a_bad_file_is_warned_of_once(folder):
    path = folder / "nvidia_h200" / "forward.float16.json"
    path.parent.mkdir()
    path.write_text("{")
    script = ("from triton_conv3dt.planning import device, store\n"
              "from triton_conv3dt.problems import case\n"
              "for depth in range(8, 16):\n"
              "    problem = case.parse(f'ci64 co32 in{depth}x8x8 k2 s2')\n"
              "    assert store.choose(problem, device.Device.named('nvidia_h200')).source.startswith('default')")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_CONV3DT_CONFIG_DIR": str(folder)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(f"ConfigFileWarning: {path}:1: not valid JSON") == 1, result.stderr


def test_the_example_of_a_good_file_is_good(folder):
    path = folder / "forward.float16.json"
    path.write_text(HEAD + GOOD + "\n]\n}")
    assert configfile.read(path)[0][0] == 8


def test_a_truncated_file_is_never_taken_for_a_whole_one(folder):
    path = keep(folder, entry(), entry(sized(16), TILES[1]))
    whole = path.read_text()
    for length in range(len(whole.rstrip())):
        path.write_text(whole[:length])
        with pytest.raises(ConfigFileError, match=f"{path.name}:\\d+: not valid JSON"):
            configfile.read(path)


def test_a_file_that_cannot_be_read(folder):
    path = folder / "nvidia_h200" / "forward.float16.json"
    path.mkdir(parents=True)
    with pytest.warns(store.ConfigFileWarning, match="cannot be read"):
        assert store.lookup(LAYER, H200) is None
    path.rmdir()
    path.write_bytes(b'{\n"schema": 1,\n"\xff": 2}')
    with pytest.warns(store.ConfigFileWarning, match=f"{path}:3: not UTF-8"):
        assert store.lookup(LAYER, H200) is None
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("a file where a folder should be")
    assert store.lookup(LAYER, H200) is None


def test_saving_merges(folder):
    path = keep(folder, entry(), entry(OVERLAPPING, TILES[1]))
    first = path.read_text().splitlines()
    keep(folder, entry(sized(16), TILES[2]), made_with=MADE_WITH | {"driver": "580.1"})
    second = path.read_text().splitlines()
    added = {line.rstrip(",") for line in second} - {line.rstrip(",") for line in first}
    assert len(added) == 2, "a new entry and what it was made with"
    keep(folder, entry(config=TILES[3]))
    entries = {e.problem: e for _, e in configfile.read(path)}
    assert {p: e.config for p, e in entries.items()} == {LAYER: TILES[3], OVERLAPPING: TILES[1], sized(16): TILES[2]}
    assert "driver" in entries[sized(16)].made_with and "driver" not in entries[OVERLAPPING].made_with
    assert entries[OVERLAPPING].measured == entry().measured
    assert keep(folder, *entries.values()).read_text() == path.read_text()


def test_one_entry_per_problem_whatever_the_tensors(folder):
    """Alignment that any dense tensor has, and the epilogue of a gradient, do not make another problem."""
    gradient = replace(LAYER, direction="grad_input")
    path = keep(folder, entry(gradient), entry(replace(gradient, x_alignment=8, epilogue=Epilogue(), precision="ieee")))
    assert len(configfile.read(path)) == 1


WRITER = """
import sys
from pathlib import Path
from triton_conv3dt.planning import store
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.problem import Problem
number, folder = int(sys.argv[1]), Path(sys.argv[2])
for i in range(15):
    for direction in ("forward", "grad_input"):
        problem = Problem.of_layer(direction, n=1 + i, ci=16 * (1 + number), co=32, in_size=8, kernel=2, stride=2)
        entry = store.Entry(problem, Config("gather", 32, 32, 32), {"median": 1.0 * i})
        store.save([entry], Device.named("nvidia_h200"), {"triton": "3.6.0"}, folder)
"""


def test_writers_at_once_lose_nothing(folder):
    """Several processes, each adding entries one by one to the same two files."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(i), str(folder)], env=environment) for i in range(4)]
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 4
    for name in ("forward.float16.json", "grad_input.float16.json"):
        entries = configfile.read(folder / "nvidia_h200" / name)
        assert len({(e.problem.n, e.problem.ci) for _, e in entries}) == len(entries) == 4 * 15
    assert len(os.listdir(folder / "nvidia_h200")) == 2


def test_a_full_disk_leaves_the_old_file(folder, monkeypatch):
    path = keep(folder, entry())
    before = path.read_text()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        keep(folder, entry(config=TILES[1]))
    assert path.read_text() == before and os.listdir(path.parent) == [path.name]


def test_shipped_files_are_good():
    for path in store.files(ROOT / "autotune_configs"):
        assert configfile.read(path), path
        assert path.parent.name == device.canonical_name(path.parent.name)
