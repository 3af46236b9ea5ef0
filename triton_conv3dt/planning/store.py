"""Tuned configs: finding the one for a problem, and keeping new ones.

A look-up tries, in every folder of the search path, the problem itself, then the nearest problem of its class within a
factor of two in positions; what it finds is used only where it may be, fits the device and was tuned for these kernels.
Which entry is chosen depends on the entries, never on their order. Nothing is written but by `save`.
"""

import functools
import hashlib
import io
import math
import os
import tokenize
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .. import __version__
from ..files import locked
from ..problems import case
from ..problems.geometry import power_of_two_divisor
from ..problems.problem import Epilogue, Problem
from . import configfile, search
from . import config as configs
from .config import Config
from .configfile import ConfigFileError, Entry, file_name
from .constraints import NONE, Constraints
from .device import SHIPPED, Device

KERNELS = Path(__file__).parents[1] / "kernels"
FARTHEST = 2.0  # times the positions; beyond it another size says less than the default does


class ConfigFileWarning(UserWarning):
    """A file of tuned configs is left out. The message names the file and the line."""


@dataclass(frozen=True)
class Found:
    """A config and, in words, where it came from."""

    config: Config
    source: str


def search_path() -> list[Path]:
    """Where tuned configs are looked for, the first that has one wins; folders that need not exist.

    $TRITON_CONV3DT_CONFIG_DIR, the user's cache (what `tune` writes), what the package was shipped with, the checkout.
    """
    given = os.environ.get("TRITON_CONV3DT_CONFIG_DIR")
    return [*([Path(os.path.expanduser(given))] if given else []), user_cache(), *SHIPPED]


def user_cache() -> Path:
    """The user's own configs: $XDG_CACHE_HOME or ~/.cache, and triton_conv3dt/configs in it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "triton_conv3dt" / "configs"


def common(directory: Path) -> bool:
    """Whether a folder is one that calls look into by themselves: the user's cache, or one that was shipped."""
    return directory.resolve() in [folder.resolve() for folder in (user_cache(), *SHIPPED)]


def files(directory: Path) -> list[Path]:
    """The files of tuned configs in a folder of the search path."""
    return sorted(directory.glob("*/*.*.json"))


def choose(problem: Problem, device: Device, constraints: Constraints = NONE) -> Found:
    """The config that runs: the tuned one, else the default; source says what was rejected and why.

    Raises:
        ValueError: the constraints leave nothing.
    """
    found, rejected = _search(problem, device, constraints)
    if found:
        return found
    source = "default of search.py, not tuned"
    if rejected:
        source += f"; {rejected[0]}" + f"; and {len(rejected) - 1} more" * (len(rejected) > 1)
    return Found(search.default(problem, device, constraints), source)


@contextmanager
def strict():
    """In here a file that would be left out ends a look-up: its ConfigFileWarning is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConfigFileWarning)
        yield


def lookup(problem: Problem, device: Device, path: list[Path] | None = None,
           constraints: Constraints = NONE) -> Found | None:
    """The tuned config of a problem, or of one near it, in the folders of a path (search_path() where none is given);
    None where there is none that fits and may be used.

    A file that is malformed or of a later schema is left out with a ConfigFileWarning.
    """
    return _search(problem, device, constraints, path)[0]


def save(entries, device: Device, made_with: dict[str, str], directory: Path) -> list[Path]:
    """Add entries to the files of a folder, in place of older ones of the same problems.

    made_with: what the results depend on and were measured with, such as the versions of triton, torch and the driver;
    the versions of this package and of its kernels are added. Processes that write at once wait for each other.

    Returns:
        The files that were written.

    Raises:
        ConfigFileError: a file that is there is malformed or of a later schema; none is written then.
        OSError: a file cannot be written; it is as it was.
    """
    made_with = {"triton_conv3dt": __version__, "kernel": kernel_digest(), **made_with}
    folder, new = Path(directory) / device.name, {}
    for entry in entries:
        entry = replace(entry, problem=normal(entry.problem), made_with=entry.made_with or made_with)
        new.setdefault(folder / file_name(entry.problem), {})[entry.problem] = entry
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", temporary=True):
        merged = {path: {entry.problem: entry for _, entry in configfile.read(path)} if path.exists() else {}
                  for path in new}
        for path in new:
            configfile.write(path, device, (merged[path] | new[path]).values())
    return sorted(new)


def normal(problem: Problem) -> Problem:
    """The problem without what no choice depends on: alignments that dense tensors have, the epilogue of a gradient."""
    p = problem
    dense = {name: 0 for name, run in _dense_alignments(p).items() if getattr(p, name) >= run}
    dense |= {} if p.epilogue.residual else {"r_alignment": 0}
    gathered = {"forward": p.x_layout, "grad_input": p.y_layout, "grad_weight": p.y_layout}.get(p.direction)
    return replace(p, **dense, even=p.even or gathered != "channels_last",
                   precision=p.precision if p.dtype == "float32" else "tf32",
                   epilogue=p.epilogue if p.direction == "forward" else Epilogue())


@functools.lru_cache(maxsize=None)
def kernel_digest() -> str:
    """A digest of the kernels' code: what an entry was tuned for. Comments, blank lines and docstrings do not count.

    activations.py does not either: its functions are handed to the kernels, and a new one changes no product.
    """
    digest = hashlib.sha256()
    for path in sorted(KERNELS.glob("*.py")):
        if path.name != "activations.py":
            digest.update("".join([path.name, *_code(path.read_text())]).encode())
    return digest.hexdigest()[:16]


def _code(source: str):
    """The tokens of a source; a statement that is a string, a docstring, is left out."""
    statement = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.NL):
            continue
        if token.type in (tokenize.INDENT, tokenize.DEDENT):
            yield "\1" if token.type == tokenize.INDENT else "\2"
        elif token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            if any(part.type != tokenize.STRING for part in statement):
                yield " ".join(part.string for part in statement) + "\n"
            statement = []
        else:
            statement.append(token)


def _search(problem: Problem, device: Device, constraints: Constraints,
            folders: list[Path] | None = None) -> tuple[Found | None, list[str]]:
    """What is found, and why others that would have been were not taken."""
    problem, near, rejected = normal(problem), [], []
    for place, folder in enumerate(search_path() if folders is None else folders):
        path = folder / device.name / file_name(problem)
        for line, entry in _load(path).get(_class(problem), ()):
            if distance := _distance(problem, entry.problem):
                near.append(((*distance, place, case.format(entry.problem), entry.measured.get("median", math.inf),
                              str(entry.config)), f"{path}:{line}", entry))
    for _, where, entry in sorted(near, key=lambda candidate: candidate[0]):
        if reason := _stale(entry) or constraints.refuses(entry.config) or configs.fits(entry.config, problem, device):
            rejected.append(f"{where} is rejected: {reason}")
            continue
        how = "exact" if entry.problem == problem else f"near: {case.format(entry.problem)}"
        return Found(entry.config, ", ".join([f"tuned: {where}", how, *_other_versions(entry)])), rejected
    return None, rejected


def _class(p: Problem) -> tuple:
    """What an entry must share with the problem, beside what is in the name of its file."""
    remainder = tuple(padding % stride for padding, stride in zip(p.padding, p.stride))
    return p.precision, p.x_layout, p.y_layout, p.ci, p.co, p.groups, p.kernel, p.stride, p.dilation, remainder


def _distance(p: Problem, tuned: Problem) -> tuple | None:
    """How far a tuned problem is from p, to compare: least for p itself. None where it is too far."""
    factor = abs(math.log2(_positions(p) / _positions(tuned)))
    if factor > math.log2(FARTHEST):
        return None
    differs = lambda name: getattr(p, name) != getattr(tuned, name)
    return (_runs(p) != _runs(tuned), differs("even"), differs("w_minor"), factor, differs("epilogue"), p != tuned)


def _positions(p: Problem) -> int:
    return max(1, p.n * math.prod(p.in_size))


def _runs(p: Problem) -> list[int]:
    """How many neighbours of x, y and w can be moved at once."""
    return [getattr(p, name) or dense for name, dense in _dense_alignments(p).items()]


def _dense_alignments(p: Problem) -> dict[str, int]:
    """The alignments of dense tensors, by field."""
    y_minor = p.co if p.y_layout == "channels_last" else p.out_size[2]
    sizes = dict(x_alignment=p.ci if p.x_layout == "channels_last" else p.in_size[2], y_alignment=y_minor, r_alignment=y_minor,
                 w_alignment={"co": p.co_group, "ci": p.ci_group, "tap": p.taps}.get(p.w_minor, 1))
    return {name: power_of_two_divisor(size, 16 // p.item) for name, size in sizes.items()}


def _stale(entry: Entry) -> str | None:
    made_for = entry.made_with.get("kernel")
    return None if made_for == kernel_digest() else \
        f"it was tuned for other kernels (digest {made_for}, these have {kernel_digest()}); tune it again"


def _other_versions(entry: Entry) -> list[str]:
    """What the entry was made with that is not what is installed; it is used, and said."""
    return [f"tuned with {package} {made_with}, this is {here}" for package in ("triton", "torch")
            if (made_with := entry.made_with.get(package)) and (here := _installed(package))
            and made_with.partition("+")[0] != here.partition("+")[0]]


@functools.lru_cache(maxsize=None)
def _installed(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


_tables: dict[Path, tuple[tuple, dict]] = {}  # what was read, and what the file was then


def _load(path: Path) -> dict[tuple, list[tuple[int, Entry]]]:
    """The entries of a file by class, none where it cannot be used. It is read again when it has changed."""
    try:
        status = path.stat()
        version = status.st_mtime_ns, status.st_size, status.st_ino
        if path not in _tables or _tables[path][0] != version:
            table = {}
            for line, entry in configfile.read(path):
                table.setdefault(_class(entry.problem), []).append((line, entry))
            _tables[path] = version, table
        return _tables[path][1]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ConfigFileError, OSError) as error:
        warnings.warn(f"{error}. Until then none of its configs is used", ConfigFileWarning, stacklevel=2)
        return {}
