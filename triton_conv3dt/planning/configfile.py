"""One file of tuned configs, `<device>/<direction>.<dtype>.json`: read with the line of what is wrong, written by line.

Entries are sorted and stand one to a line, so that `git diff` shows what changed and `git merge` merges two people's
results. Each names what it was made with by a digest, so that entries of several runs can share a file.
autotune_configs/README.md describes the format.
"""

import dataclasses
import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin

from ..files import replace
from ..problems import case
from ..problems.problem import Problem
from .config import Config
from .device import Device

SCHEMA = 1


class ConfigFileError(ValueError):
    """A file of tuned configs cannot be used. The message names the file, the line, the reason and a remedy."""


@dataclass(frozen=True)
class Entry:
    """One tuned result.

    measured: microseconds of one session; "median", "p20" and "p80" of this config, and the medians "default" and
    "cudnn" where they were measured. made_with: the versions, the driver, and the digest of the kernels ("kernel").
    """

    problem: Problem
    config: Config
    measured: dict[str, float] = field(default_factory=dict, hash=False)
    made_with: dict[str, str] = field(default_factory=dict, hash=False)


def read(path: Path) -> list[tuple[int, Entry]]:
    """The entries of a file, each with the line it begins on.

    Raises:
        ConfigFileError: the file is malformed, of a later schema, or cannot be read.
    """
    text, content = _content(path)
    sources, rows = content.get("made_with"), content.get("entries")
    if not isinstance(sources, dict) or not isinstance(rows, list):
        raise _refused(path, 1, '"made_with" must be an object and "entries" a list')
    entries = []
    for line, row in zip(_lines(text), rows):
        try:
            entry = _entry(row, sources)
            if path.name != file_name(entry.problem):
                raise ValueError(f"an entry of {file_name(entry.problem)}")
        except (ValueError, TypeError, KeyError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            raise _refused(path, line, what) from None
        entries.append((line, entry))
    return entries


def device_of(path: Path) -> Device:
    """The device a file is about: the one known by its name, else what the file says of it.

    Raises:
        ConfigFileError: as read, or the file does not say it.
    """
    text, content = _content(path)
    try:
        about = content["device"]
        major, minor = about["capability"].split(".")
        return Device.of(about["name"], (int(major), int(minor)), int(about["sms"]), int(about["shared_memory"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        what = '"device" must have a name, a capability such as "9.0", sms and shared_memory'
        raise _refused(path, _line_of(text, '"device"'), what) from None


def write(path: Path, device: Device, entries) -> None:
    """Replace a file in one step: whoever reads it finds the old entries or the new ones. One writer at a time.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    replace(path, _text(device, entries))


def file_name(problem: Problem) -> str:
    return f"{problem.direction}.{problem.dtype}.json"


def config_fields(config: Config) -> dict:
    """A config as JSON has it: its fields, those at their default left out."""
    return {f.name: value for f in dataclasses.fields(config) if (value := getattr(config, f.name)) != f.default}


def config_of(given: dict) -> Config:
    """The config with these fields, as they come from JSON.

    Raises:
        ValueError: a field is not known or missing, or its value is of another type.
    """
    known = {f.name: f for f in dataclasses.fields(Config)}
    if not isinstance(given, dict):
        raise ValueError(f'"config" must be an object, received {given!r}')
    for name in given:
        if name not in known:
            raise ValueError(f"a config has no field {name!r}; it has {', '.join(known)}")
    for name, f in known.items():
        if f.default is dataclasses.MISSING and name not in given:
            raise ValueError(f"a config needs {name!r}")
    return Config(**{name: _value(name, known[name].type, value) for name, value in given.items()})


def _value(name: str, kind, value):
    """A value of JSON as a field's type has it: a list for a tuple, anything that one type of a union takes."""
    members = get_args(kind)
    if get_origin(kind) is tuple and isinstance(value, list) and len(value) == len(members):
        return tuple(_value(name, member, part) for member, part in zip(members, value))
    if isinstance(kind, UnionType):
        for member in members:
            with suppress(ValueError):
                return _value(name, member, value)
    if type(value) is not kind:
        expected = kind.__name__ if isinstance(kind, type) and not members else str(kind)
        raise ValueError(f"{name!r} must be {expected}, received {value!r}")
    return value


def _content(path: Path) -> tuple[str, dict]:
    """The text of a file and the object it holds, of a schema that is understood."""
    try:
        text = path.read_text("utf-8")
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise _refused(path, error.lineno, f"not valid JSON: {error.msg} (column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise _refused(path, error.object.count(b"\n", 0, error.start) + 1, "not UTF-8") from None
    except OSError as error:
        raise ConfigFileError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(content, dict) or type(content.get("schema")) is not int:
        raise _refused(path, 1, 'not a file of tuned configs: it has no "schema"')
    line = _line_of(text, '"schema"')
    if content["schema"] < 1:
        raise _refused(path, line, f"schema {content['schema']} has never been; the first is 1")
    if content["schema"] > SCHEMA:
        raise ConfigFileError(f"{path}:{line}: schema {content['schema']} is of a later version of triton_conv3dt, "
                              f"this one reads up to {SCHEMA}; upgrade triton_conv3dt or move the file away")
    return text, content


def _line_of(text: str, word: str) -> int:
    """The line where a word stands first, 1 where it does not."""
    return text.count("\n", 0, max(0, text.find(word))) + 1


def _entry(row, sources: dict) -> Entry:
    if not isinstance(row, dict):
        raise ValueError(f"an entry must be an object, received {row!r}")
    text, source = row["problem"], sources.get(row["made_with"])
    if not isinstance(text, str):
        raise ValueError(f'"problem" must be a string, received {text!r}')
    if not isinstance(source, dict):
        raise ValueError(f'made_with {row["made_with"]!r} is not explained in "made_with" above')
    measured = row.get("us", {})
    if not isinstance(measured, dict) or not all(type(us) in (int, float) and us >= 0 for us in measured.values()):
        raise ValueError(f'"us" must be an object of numbers, none below 0, received {measured!r}')
    return Entry(case.parse(text), config_of(row["config"]), measured, source)


def _lines(text: str) -> list[int]:
    """The line that each entry begins on, in a text that is valid JSON."""
    decoder, blank, lines, line, counted = json.JSONDecoder(), re.compile(r"[\s,]*"), [], 1, 0
    at = re.search(r'"entries"\s*:\s*\[', text).end()
    while text[start := blank.match(text, at).end()] != "]":
        line, counted = line + text.count("\n", counted, start), start
        lines.append(line)
        at = decoder.raw_decode(text, start)[1]
    return lines


def _text(device: Device, entries) -> str:
    sources, rows = {}, []
    for entry in sorted(entries, key=_order):
        digest = hashlib.sha256(_line(entry.made_with, sort_keys=True).encode()).hexdigest()[:12]
        sources[digest] = entry.made_with
        rows.append(_line({"problem": case.format(entry.problem), "config": config_fields(entry.config),
                           "us": entry.measured, "made_with": digest}))
    about = {"name": device.name, "capability": "{}.{}".format(*device.capability), "sms": device.sms,
             "shared_memory": device.shared_memory}
    made_with = [f'"{digest}": {_line(sources[digest])}' for digest in sorted(sources)]
    return "\n".join(["{", f'"schema": {SCHEMA},', f'"device": {_line(about)},', '"made_with": {',
                      ",\n".join(made_with), "},", '"entries": [', ",\n".join(rows), "]", "}", ""])


def _order(entry: Entry) -> tuple:
    """Alike layers stand together."""
    p = entry.problem
    return p.kernel, p.stride, p.dilation, p.groups, p.ci, p.co, p.in_size, p.n, case.format(p)


def _line(value, **options) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def _refused(path: Path, line: int, what) -> ConfigFileError:
    return ConfigFileError(f"{path}:{line}: {what}; correct the line, or move the file away and tune again")
