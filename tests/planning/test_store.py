"""Tuned configs: which is found, what is refused and why."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cases import CORPUS
from stored import H200, LAYER, MADE_WITH, TILES, entry, keep, sized
from tolerances import assert_exact
from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch, tensors
from triton_conv3dt.planning import configfile, device, search, store
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.activations import Activation
from triton_conv3dt.problems.layers import layers
from triton_conv3dt.problems.problem import DIRECTIONS, LAYOUTS, Epilogue, Problem

ROOT = Path(__file__).parents[2]

SEARCH_PATH = store.search_path  # before conftest.py hides it


def test_what_was_saved_is_found(folder):
    path = keep(folder, entry())
    found = store.lookup(LAYER, H200)
    assert found == store.choose(LAYER, H200) == store.Found(TILES[0], f"tuned: {path}:8, exact")
    assert path == folder / "nvidia_h200" / "forward.float16.json"
    assert path.read_text().splitlines()[7].startswith('{"problem": "forward n2 ci64 co32 in32 k2 s2')
    assert store.lookup(LAYER, Device.named("nvidia_a100")) is None
    assert store.lookup(replace(LAYER, direction="grad_input"), H200) is None
    assert store.lookup(replace(LAYER, dtype="bfloat16"), H200) is None


def test_every_layer_is_found_again(folder):
    """Whatever each was given: its default, or, as planning takes its time, one of a few that fit, in turn."""
    problems = dict.fromkeys(layer.problem(direction) for layer in layers() for direction in DIRECTIONS)
    direct = [Config("direct", m, n, warps=warps) for m, n, warps in ((1, 64, 1), (1, 128, 2), (2, 64, 1), (2, 128, 2), (4, 64, 1))]
    fitting = {problem: [c for c in direct if fits(c, problem, H200) is None] for problem in problems}
    chosen = {problem: fitting[problem][i % len(fitting[problem])] if i % 10 else search.default(problem, H200)
              for i, problem in enumerate(problems)}
    assert {config.path for config in chosen.values()} >= {"direct", "gather", "pair", "walk"}
    store.save([entry(problem, config) for problem, config in chosen.items()], H200, MADE_WITH, folder)
    for problem, config in chosen.items():
        found = store.lookup(problem, H200)
        assert found.config == config and found.source.endswith(", exact"), problem


@pytest.mark.parametrize("field", ("x_alignment", "y_alignment", "w_alignment"))
def test_a_view_finds_the_dense_layer_near(folder, field):
    keep(folder, entry())
    assert "near" in store.lookup(replace(LAYER, **{field: 1}), H200).source
    assert "exact" in store.lookup(replace(LAYER, **{field: 8}), H200).source


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_call_asks_for_the_problem_of_its_layer(direction, layout):
    """What was tuned for a layer is exactly what a call with dense tensors asks for."""
    for c in CORPUS[:20]:
        t = c.tensors(torch.float16, layout)
        y = torch.empty(c.shapes.y, dtype=t.x.dtype, memory_format=tensors.memory_format(t.x))
        called = tensors.problem_of(direction, t.x, t.w, y, Epilogue(), c.stride, c.padding, c.dilation, c.groups,
                                    "ieee")
        layer = replace(Problem.of_shape(c, direction), x_layout=called.x_layout, y_layout=called.y_layout,
                        w_minor=called.w_minor)
        assert store.normal(called) == store.normal(layer), c
    assert (called.x_layout, called.w_minor) == (layout, "co" if layout == "channels_last" else "tap")


def test_near_is_bounded(folder):
    keep(folder, entry(sized(32)))
    assert all(store.lookup(sized(depth), H200).source.count(", near: ") for depth in (16, 31, 33, 64))
    assert store.lookup(sized(15), H200) is store.lookup(sized(65), H200) is None
    assert store.choose(sized(65), H200).config == search.default(sized(65), H200)


def test_the_nearest_wins(folder):
    keep(folder, *(entry(sized(depth), config) for depth, config in zip((20, 24, 40, 48), TILES)))
    assert [store.lookup(sized(depth), H200).config for depth in (18, 25, 38, 60)] == TILES[:4]
    # As many positions, but its rows of 31 cannot be moved 16 bytes at a time: another kind of kernel.
    keep(folder, entry(sized(32, 32, 31), TILES[5]))
    assert store.lookup(sized(32), H200).config == TILES[2]
    assert store.lookup(sized(32, 31, 31), H200).config == TILES[5]


OTHERS = {
    "channels": dict(ci=32), "groups": dict(groups=2), "kernel": dict(kernel=(2, 2, 3)),
    "stride": dict(stride=(1, 2, 2)), "dilation": dict(dilation=(1, 2, 1)), "phases": dict(padding=(1, 0, 0)),
    "layout": dict(x_layout="channels_last"),
}


@pytest.mark.parametrize("changed", OTHERS.values(), ids=OTHERS)
def test_another_class_is_not_near(folder, changed):
    keep(folder, entry())
    assert store.lookup(replace(LAYER, **changed), H200) is None


@pytest.mark.parametrize("changed", (dict(epilogue=Epilogue(True, True, Activation("relu"))), dict(w_minor="co"),
                                     dict(padding=(2, 0, 0)), dict(wide=True)), ids=str)
def test_what_matters_less_is_near(folder, changed):
    keep(folder, entry())
    assert "near" in store.lookup(replace(LAYER, **changed), H200).source


def test_the_order_of_entries_does_not_matter(folder):
    """Also of entries as far away as each other, and of one problem that two people tuned."""
    depths = (16, 20, 24, 28, 36, 40, 48, 64)
    path = keep(folder, *(entry(sized(depth), config) for depth, config in zip(depths, TILES)))
    text = path.read_text()
    head, rows = text.splitlines()[:7], [line.rstrip(",") for line in text.splitlines()[7:-2]]
    better = Config("gather", 16, 16, 16)
    written = [json.dumps(configfile.config_fields(config)) for config in (TILES[3], better)]
    rows.append(rows[3].replace(*written).replace('"median": 10.0', '"median": 9.0'))
    asked = [sized(depth) for depth in (*depths, 18, 32, 44)]
    choices = set()
    for seed in range(6):
        random.Random(seed).shuffle(rows)
        path.write_text("\n".join([*head, ",\n".join(rows), "]", "}"]))
        choices.add(tuple(store.lookup(problem, H200).config for problem in asked))
    assert len(choices) == 1
    assert choices.pop()[3] == better  # the faster one of the problem tuned twice


def test_folders_in_the_order_of_the_search_path(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr(store, "search_path", lambda: [first, second, tmp_path / "none"])
    keep(second, entry(config=TILES[1]), entry(sized(16), TILES[2]))
    assert store.lookup(LAYER, H200).config == TILES[1]
    keep(first, entry(sized(30), TILES[3]))
    assert store.lookup(LAYER, H200).config == TILES[1]  # exact before near
    assert store.lookup(sized(29), H200).config == TILES[3]
    keep(first, entry(config=TILES[4], median=99.0))
    assert store.lookup(LAYER, H200).config == TILES[4]


def test_search_path(monkeypatch, tmp_path):
    monkeypatch.delenv("TRITON_CONV3DT_CONFIG_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = tmp_path / "cache" / "triton_conv3dt" / "configs"
    assert SEARCH_PATH() == [cache, ROOT / "triton_conv3dt" / "_configs", ROOT / "autotune_configs"]
    monkeypatch.setenv("TRITON_CONV3DT_CONFIG_DIR", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SEARCH_PATH()[:2] == [tmp_path / "mine", cache]
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert SEARCH_PATH()[1] == tmp_path / ".cache" / "triton_conv3dt" / "configs"


def test_a_change_of_the_file_is_seen(folder):
    keep(folder, entry())
    assert store.lookup(LAYER, H200).config == TILES[0]
    keep(folder, entry(config=TILES[1]))
    assert store.lookup(LAYER, H200).config == TILES[1]
    (folder / "nvidia_h200" / "forward.float16.json").unlink()
    assert store.lookup(LAYER, H200) is None


def test_an_entry_for_other_kernels_is_rejected(folder, monkeypatch):
    path = keep(folder, entry(sized(31), TILES[1]), made_with=MADE_WITH | {"kernel": "0123"})
    keep(folder, entry(sized(24), TILES[2]))
    assert store.lookup(LAYER, H200).config == TILES[2]  # the next that is near
    found = store.choose(sized(50), H200)
    assert found.config == search.default(sized(50), H200)
    assert f"default of search.py, not tuned; {path}:" in found.source
    keep(folder, *(entry(sized(depth)) for depth in (49, 51, 52)), made_with=MADE_WITH | {"kernel": "0123"})
    assert store.choose(sized(50), H200).source.count("is rejected") == 1
    assert store.choose(sized(50), H200).source.endswith("; and 3 more")
    assert f"tuned for other kernels (digest 0123, these have {store.kernel_digest()})" in found.source


def test_an_entry_of_other_versions_is_used_and_said(folder):
    keep(folder, entry(), made_with={"triton": "3.5.1", "torch": "2.11.0"})
    found = store.lookup(LAYER, H200)
    assert found.config == TILES[0]
    assert found.source.endswith(", exact, tuned with triton 3.5.1, this is 3.6.0")


def test_an_entry_that_does_not_fit_is_rejected(folder):
    """A file copied from a larger device, or edited by hand."""
    unfit = Config("gather", 64, 48, 64)
    keep(folder, entry(config=unfit), entry(sized(24), TILES[1]))
    assert store.lookup(LAYER, H200).config == TILES[1]
    keep(folder, entry(sized(24), replace(unfit, path="fft")))
    assert store.lookup(LAYER, H200) is None
    assert "block_n = 48 is not a power of two; and 1 more" in launch.plan(LAYER, H200).source
    assert "path 'fft' is not one of" in launch.plan(sized(24), H200).source


def test_kernel_digest_is_of_the_code_alone():
    source = '"""Doc."""\nimport a\n\n\ndef f(x):\n    """Doc."""\n    # why\n    return x + 1  # how\n'
    digest = lambda text: "".join(store._code(text))
    assert digest(source) == digest('import a\ndef f(x):\n\n        return x + 1')
    for old, new in (("x + 1", "x + 2"), ("import a", "import b"), ("    return", "return")):
        assert digest(source) != digest(source.replace(old, new))
    assert digest('f("a")') != digest('f("b")')
    assert len(store.kernel_digest()) == 16


def test_a_call_uses_the_tuned_config_and_looks_once(folder, monkeypatch, device):
    c = CORPUS[0]
    t = c.tensors(torch.float16, device=device)
    tuned = Config("gather", 32, 16, 16, merge=(False, True, False))
    problem = Problem.of_shape(c)
    here = launch.devices.current() if device == "cuda" else H200
    store.save([entry(problem, tuned)], here, MADE_WITH, folder)
    asked, records, search = [], {}, store._search
    monkeypatch.setattr(launch, "_records", records)
    monkeypatch.setattr(store, "_search", lambda *a: asked.append(a) or search(*a))
    for _ in range(3):
        y, _ = launch.forward(t.x, t.w, None, None, **c.geometry, out_size=c.out_size, activation=None,
                              precision="ieee")
    assert_exact(y.cpu(), reference.conv_transpose3d(t.x, t.w, None, None, **c.geometry, out_size=c.out_size).cpu())
    assert [record.plan.config for record in records.values()] == [tuned] and len(asked) == 1


def test_names_of_devices():
    """The variants of one GPU are one device, other GPUs are not, and new ones need no entry."""
    assert device.canonical_name("NVIDIA H200 NVL") == device.canonical_name("NVIDIA H200") == "nvidia_h200"
    assert device.canonical_name("NVIDIA A100-SXM4-40GB") == "nvidia_a100"
    assert device.canonical_name("NVIDIA H100 PCIe") == "nvidia_h100_pcie"  # 114 SMs
    assert device.canonical_name("NVIDIA GeForce RTX 4090 Laptop GPU") == "nvidia_geforce_rtx_4090_laptop_gpu"
    assert device.canonical_name("NVIDIA H100 80GB HBM3 MIG 1g.10gb") == "nvidia_h100_80gb_hbm3_mig_1g_10gb"
    table = json.loads((ROOT / "autotune_configs" / "devices.json").read_text())
    assert list(table) == sorted(table)
    for name in table.values():
        assert device.canonical_name(name) == name
    assert all(device.canonical_name(name) == name for name in device.KNOWN)


@pytest.mark.parametrize("name, known", [
    ("nvidia_h200", "nvidia_h200"), ("h200", "nvidia_h200"), ("H200", "nvidia_h200"),
    ("NVIDIA H200 NVL", "nvidia_h200"), ("NVIDIA H100 80GB HBM3", "nvidia_h100"), ("h100_80gb_hbm3", "nvidia_h100"),
    ("a100-sxm4-80gb", "nvidia_a100"),
    ("rtx4090", "nvidia_rtx_4090"), ("GeForce RTX 4090", "nvidia_rtx_4090"), ("a10", "nvidia_a10")])
def test_a_device_is_known_by_any_of_its_names(name, known):
    assert device.Device.named(name) is device.KNOWN[known]


@pytest.mark.parametrize("name", ["", "nvidia", "h20", "h2000", "H100 PCIe", "a100 h200", "rtx_4090_laptop_gpu"])
def test_another_device_is_not_taken_for_a_known_one(name):
    with pytest.raises(ValueError, match=f"device '{name}' is not known; known are nvidia_b200, nvidia_h200"):
        device.Device.named(name)
