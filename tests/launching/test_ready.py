"""What a machine lacks to launch kernels is one line, said before anything is begun."""

import shutil
import subprocess
import sys
import sysconfig
from types import SimpleNamespace

import pytest
import torch

from triton_conv3dt import cli
from triton_conv3dt.launching import launch, ready
from triton_conv3dt.planning import device
from triton_conv3dt.planning.device import Device


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine on which nothing is missing: a GPU, gcc, Python.h, a driver. Tests take something away."""
    from triton.runtime import driver

    here = SimpleNamespace(programs={"gcc"}, gpu=Device.named("nvidia_h200"), headers=tmp_path, driver=lambda: None)
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here.gpu is not None)
    monkeypatch.setattr(device, "current", lambda: here.gpu)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in here.programs else None)
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(here.headers)})
    monkeypatch.setattr(driver, "_active", SimpleNamespace(get_current_target=lambda: here.driver()))
    return here


def refused():
    raise RuntimeError("0 active drivers.\nThere should only be one.")


@pytest.mark.parametrize("taken, said", [
    (dict(gpu=None), "no CUDA device is available; it takes an NVIDIA GPU of compute capability 8.0 or later"),
    (dict(gpu=Device("nvidia_t4", (7, 5), 40, 65536)), "nvidia_t4 has compute capability 7.5; the kernels need 8.0 or later"),
    (dict(programs=()), "finds neither gcc nor clang: install one (Debian: apt-get install gcc)"),
    (dict(headers="/nowhere"), "/nowhere/Python.h is not there: install them (Debian: apt-get install python3-dev)"),
    (dict(driver=refused), "Triton cannot use this GPU: RuntimeError: 0 active drivers. There should only be one."),
])
def test_what_is_missing_is_one_line(machine, capsys, taken, said):
    vars(machine).update(taken)
    assert cli.main(["info", "--require-gpu"]) == 1
    shown = capsys.readouterr()
    assert said in shown.err and shown.err.count("\n") == 1 and not shown.out
    assert cli.main(["bench", "--layers", "nnunet"]) == 1
    assert said in capsys.readouterr().err, "whoever measures looks at the same"


def test_nothing_is_said_where_nothing_is_missing(machine, capsys, monkeypatch):
    assert cli.main(["info", "--require-gpu"]) == 0
    machine.programs = {"clang", "/opt/cc"}
    monkeypatch.setenv("CC", "/opt/cc")
    assert cli.main(["info", "--require-gpu"]) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("CC", "/opt/other")
    assert ready.missing() == "the C compiler that CC names, '/opt/other', is not there: unset CC or correct it"
    monkeypatch.setattr(launch, "interpreting", lambda: True)
    assert ready.missing() == "TRITON_INTERPRET is set: unset it"


def test_without_torch_it_says_so():
    code = ("import sys; sys.modules['torch'] = None\nfrom triton_conv3dt import cli\n"
            "sys.exit(cli.main(['info', '--require-gpu']))")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and result.stderr.startswith("error: torch cannot be imported (")
    assert result.stderr.count("\n") == 1
