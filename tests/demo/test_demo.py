"""The demo: its data, its figures, and the whole command as a person types it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from triton_conv3dt import cli
from triton_conv3dt.demo import upsample
from triton_conv3dt.progress import Progress

PNG = b"\x89PNG\r\n\x1a\n"


def test_kernel_doubles_a_ramp_by_linear_interpolation():
    x = torch.arange(6.0).expand(1, 1, 6, 6, 6)
    y = F.conv_transpose3d(x, upsample.trilinear_kernel(), **upsample.LAYER)
    inner = y[0, 0, 5, 5, 1:-1]
    assert torch.equal(inner, torch.arange(10) * 0.5 + 0.25)


def test_real_scan():
    pytest.importorskip("nibabel")
    scan = upsample.load()
    assert scan.volumes.shape == (2, 24, 96, 128) and scan.volumes.dtype == torch.float32
    assert scan.volumes.min() >= 0 and scan.volumes.max() == 1
    assert scan.voxel == (2.2, 2.0, 2.0)
    assert "example4d" in scan.source


def test_phantom_where_nibabel_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    scan = upsample.load()
    assert scan.volumes.shape == (2, 24, 96, 128)
    assert 0 <= scan.volumes.min() and 0.5 < scan.volumes.max() <= 1
    assert "phantom" in scan.name and "pip install nibabel" in scan.source


@pytest.mark.parametrize("name, reason", [("", "must end in .png"), ("picture.bmp", "must end in .png"),
                                          ("missing/demo.png", "does not exist"), ("folder.png", "is a directory")])
def test_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, monkeypatch, name, reason):
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(upsample, "load", lambda: pytest.fail("the work had begun"))
    with pytest.raises(ValueError, match=reason):
        upsample.run(tmp_path / name)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["demo", "--output", str(tmp_path / name)])
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="permission"):
        upsample.writable(tmp_path / "demo.png")


@pytest.fixture
def no_gpu_no_kernels(monkeypatch):
    """The part of the demo that PyTorch does, in this process, where triton may have been imported already."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("triton_conv3dt.launching.launch.unsupported", lambda x, w: "they are tested elsewhere")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_without_matplotlib_the_rest_is_done(no_gpu_no_kernels, tmp_path, capsys, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "nibabel"):
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["demo", "--output", str(tmp_path / "demo.png")]) == 0
    shown = capsys.readouterr()
    assert "pip install matplotlib" in shown.out and "phantom" in shown.out and "whole volume" in shown.out
    assert "left out: they are tested elsewhere" in shown.err
    assert not list(tmp_path.iterdir())


def test_a_wrong_result_is_reported_and_fails(no_gpu_no_kernels, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(upsample, "_our_layer", lambda backend, x, w, b: upsample._torch_layer(x, w, b) + 1e-5)
    assert cli.main(["demo", "--quiet", "--output", str(tmp_path / "demo.png")]) == 1
    assert "TOO LARGE" in capsys.readouterr().out


@pytest.mark.slow
def test_whole_command(tmp_path):
    pytest.importorskip("matplotlib")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(__file__).parents[2]
    path = os.pathsep.join(map(str, (root / "tests" / "support" / "quick_child", root)))
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    result = subprocess.run([sys.executable, "-m", "triton_conv3dt", "demo", "--quiet"], cwd=tmp_path,
                            env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    rows = result.stdout.splitlines()[2:]
    assert [row.split(",")[0] for row in rows] == ["PyTorch", "Triton"], result.stdout + result.stderr
    assert all(" ok " in row for row in rows)
    assert (tmp_path / "demo.png").read_bytes().startswith(PNG)


def test_progress_tells_only_what_takes_long(capsys, monkeypatch):
    for patience, quiet, lines in ((60.0, False, []), (-1.0, False, ["[1/2] one", "[2/2] two"]), (-1.0, True, [])):
        monkeypatch.setattr("triton_conv3dt.progress.PATIENCE", patience)
        progress = Progress(2, quiet)
        progress.step("one")
        progress.step("two")
        progress.close()
        assert capsys.readouterr().err.splitlines() == lines
