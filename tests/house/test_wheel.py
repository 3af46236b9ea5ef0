"""The wheel: built from these sources and installed where nothing else is, it finds its tuned configs."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from triton_conv3dt.planning import store
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.problem import Problem

ROOT = Path(__file__).parents[2]
SHIPPED = ("triton_conv3dt", "autotune_configs", "pyproject.toml", "README.md", "LICENSE")
LAYER = Problem.of_layer(n=2, ci=48, co=24, in_size=8, kernel=2, stride=2)  # no real layer's channels
LOOK_UP = """
import json, sys
from triton_conv3dt.planning import device, store
from triton_conv3dt.problems import layers
from triton_conv3dt.problems.problem import Problem
problem = Problem.of_layer(n=2, ci=48, co=24, in_size=8, kernel=2, stride=2)
found = store.lookup(problem, device.Device.named("nvidia_h200"))
print(json.dumps([store.__file__, found.config.block_n, found.source, len(layers.layers()),
                  device.canonical_name("NVIDIA H200 NVL"), sorted({"torch", "triton"} & set(sys.modules))]))
"""


def run(*command, **options) -> str:
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources that has one tuned config, without asking a network."""
    pytest.importorskip("hatchling", reason="hatchling is not installed; pip install '.[dev]'")
    source = tmp_path_factory.mktemp("source")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    entry = store.Entry(LAYER, Config("gather", 64, 32, 16))
    store.save([entry], Device.named("nvidia_h200"), {}, source / "autotune_configs")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", source / "dist", cwd=source)
    return next((source / "dist").glob("*.whl"))


def test_the_wheel_holds_what_is_needed_and_no_more(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"triton_conv3dt/_configs/devices.json", "triton_conv3dt/_configs/nvidia_h200/forward.float16.json",
            "triton_conv3dt/problems/layers.json", "triton_conv3dt/planning/store.py",
            "triton_conv3dt/py.typed"} <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"triton_conv3dt"}
    assert not [name for name in names if "pycache" in name or "test" in name]


def test_an_installed_wheel_is_a_backend_of_the_compiler(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name, = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "[torch_dynamo_backends]\ntriton_conv3dt = triton_conv3dt.fusing:backend" in archive.read(name).decode()


def test_an_installed_wheel_finds_its_configs(wheel, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and "TRITON" not in key}
    shown = run(python, "-c", LOOK_UP, cwd=tmp_path, env=clean | {"XDG_CACHE_HOME": str(tmp_path)})
    file, block_n, source, layers, h200, heavy = json.loads(shown)
    assert file.startswith(str(tmp_path / "env"))
    assert block_n == 32 and "triton_conv3dt/_configs/nvidia_h200/forward.float16.json:" in source and "exact" in source
    assert layers > 200 and h200 == "nvidia_h200" and heavy == []
