"""The examples, as a person types them, from a folder of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG\r\n\x1a\n"
NO_MONAI = """raise ModuleNotFoundError("No module named 'monai'")"""
# What convert_monai.py takes from MONAI; where it is installed, test_monai takes its own.
NETWORK = """
import torch
def DynUNet(**arguments):
    return torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.ConvTranspose3d(4, 2, 2, stride=2))
"""


def run(name: str, folder: Path, *options: str, path: tuple = ()) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    path = [*map(str, (*path, ROOT)), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    result = subprocess.run([sys.executable, ROOT / "examples" / name, *options], cwd=folder, env=environment,
                            capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_scan_is_upsampled_as_interpolate_does(tmp_path):
    pytest.importorskip("nibabel")
    pytest.importorskip("matplotlib")
    printed = run("upsample_scan.py", tmp_path, "--scale", "3", "--output", "scan.png")
    assert "[1, 1, 72, 288, 384]" in printed
    assert float(re.search(r"interpolate: (\S+)", printed)[1]) < 1e-5
    assert (tmp_path / "scan.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_a_unet_learns(tmp_path):
    pytest.importorskip("matplotlib")
    printed = run("train_unet.py", tmp_path, "--steps", "70", "--output", "unet.png")
    assert float(re.search(r"Dice .*: (\S+)", printed)[1]) > 0.9
    assert (tmp_path / "unet.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_sharded_unet_is_that_of_one_process(tmp_path, ranks):
    printed = run("sharded_unet.py", tmp_path, "--ranks", str(ranks), "--size", "16", "16", "16")
    whole, sharded = re.search(rf"one process (\S+), of {ranks} ranks (\S+)", printed).groups()
    assert whole == sharded and float(re.search(r"differ by (\S+)", printed)[1]) < 1e-4
    kept = [float(n) for n in re.findall(r"(\S+) MB", printed)]
    assert len(kept) == 1 + ranks and max(kept[1:]) < 0.8 * kept[0]


def test_what_monai_would_be_needed_for_is_said_where_it_is_missing(tmp_path):
    (tmp_path / "monai.py").write_text(NO_MONAI)
    printed = run("convert_monai.py", tmp_path, path=(tmp_path,))
    assert printed == "Nothing was compared: No module named 'monai' (pip install monai)\n"


def test_a_converted_network_gives_the_same_bits(tmp_path):
    (tmp_path / "monai" / "networks").mkdir(parents=True)
    (tmp_path / "monai" / "networks" / "nets.py").write_text(NETWORK)
    for folder in ("monai", "monai/networks"):
        (tmp_path / folder / "__init__.py").touch()
    printed = run("convert_monai.py", tmp_path, path=(tmp_path,))
    assert printed == "converted  1\nthe output and 4 gradients on cpu: the same bits\n"


def test_monai(tmp_path):
    pytest.importorskip("monai", reason="MONAI is not installed; pip install monai")
    printed = run("convert_monai.py", tmp_path)
    assert printed.count("converted") == 3 and printed.endswith("gradients on cpu: the same bits\n")
