"""Kernels compiled for GPUs that are not there: they fit, do not spill, and use the instructions they should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compile_rows import BLACKWELL, COPIES, FEW, FORWARD, LAYERS, PAIRS, WIDE

from triton_conv3dt.compiling import compile
from triton_conv3dt.launching import launch
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.problem import DIRECTIONS, Problem

ROOT = Path(__file__).parents[2]
TENSOR_CORES = {"nvidia_a100": "HMMA", "nvidia_h200": "HGMMA", "nvidia_b200": "UTCHMMA"}
DENSE = [name for name in LAYERS | FORWARD | WIDE if not name.startswith("depthwise")]
ROWS = [(name, direction, device) for device in TENSOR_CORES for name in LAYERS for direction in DIRECTIONS
        if name in DENSE or device == "nvidia_h200"]
# Where the default reads by descriptor, the pointer form is compiled, too.
ROWS += [(name, direction, "nvidia_h200", "gather") for name in DENSE if "channels_last" in name and name not in FORWARD
         for direction in DIRECTIONS[:2]]
# A weight gradient of overlapping taps walks there; where it may not, it reads by pointers.
WALKS = [(name, "grad_weight", "nvidia_h200", "walk") for name in ("k3s2p1op1 channels_last", "k4s2p1 channels_last")]
ROWS += WALKS + [(*row[:3], "gather") for row in WALKS]
ROWS += [(name, direction, "nvidia_h200", "walk") for name in ("k3s2p1op1", "k3s2p1op1 channels_last")
         for direction in DIRECTIONS[:2]]
# All gradients at once, where tensor cores read from shared memory.
ROWS += [(name, "backward", device) for device in ("nvidia_h200", "nvidia_b200")
         for name in ("k2s2", "k2s2 channels_last")]
ROWS += [(name, direction, "nvidia_h200") for name in WIDE for direction in DIRECTIONS]
ROWS += [(name, "forward", device) for name in FORWARD for device in ("nvidia_h200", "nvidia_a100")]
FEW_ROWS = [(name, "grad_input", device) for device in TENSOR_CORES for name in FEW]
BLACKWELL_ROWS = [(name, "grad_input", "nvidia_b200") for name in BLACKWELL]
COPIED = [(name, "grad_weight", "nvidia_h200", "gather") for name in COPIES]
PAIRED = [(name, "grad_weight", "nvidia_h200", "pair") for name in ("k2s2", "k2s2 tf32", *PAIRS, *COPIES)]
# One step may read all channels: nothing to overlap, so loads may go by registers and not by asynchronous copy.
ONE_STEP = {(name, "forward") for name in ("k2s2", "k2s2 channels_last", "k2s2 residual", "k2s2 channels_last residual",
                                          "k2s2 statistics")}
# Narrower copies beside wide ones: taps shift a channels-first dz by pairs; 1x2x2 taps are 64 bits of weight.
MIXED = {("k3s2p1op1", "grad_input"), ("k3s2p1op1", "grad_weight"), ("k122", "forward")}
# 32 rows, of which a warpgroup would pad half and read them: multiplied warp by warp.
NARROW = {("k4s2p1 wide channels_last", "grad_input", "nvidia_h200", "gather")}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict:
    """What each row uses. A process of its own: in this one the interpreter may have been chosen."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": str(ROOT)}
    rows = map(",".join, ROWS + FEW_ROWS + BLACKWELL_ROWS + COPIED + PAIRED)
    result = subprocess.run([sys.executable, ROOT / "tests" / "support" / "compile_rows.py", *rows], env=environment,
                            capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    return {tuple(row.split(",")): used for row, used in map(json.loads, result.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_compiled_kernel(compiled, row):
    used = compiled[row]
    assert "error" not in used, used["error"]
    assert used["spills"] == used["stack"] == 0, used
    assert used["shared"] <= used["limit"], used
    name, direction, device, *path = row
    if name in DENSE:
        assert used["shared"] <= used["budget"], used
        assert used["instructions"].get("HMMA" if row in NARROW else TENSOR_CORES[device], 0) > 0, used
        described = device != "nvidia_a100" and direction in DIRECTIONS[:2] and "channels_last" in name and not path
        expected = "onepass" if direction == "backward" else "descriptor" if described else "gather"
        overlapping = name.startswith(("k3s2p1op1", "k4s2p1"))  # which may walk on Hopper, or merge phases
        paired = used["path"] == "pair" and device == "nvidia_h200"
        assert used["path"] == (path or [expected])[0] or paired or overlapping and used["path"] in ("walk", "descriptor"), used
        # Else the copy and the packing do, or the copy engine.
        assert used["rounds"] == ("tf32" in name and "a copy" not in used["config"] and not paired), used
        check_loads(used, row[:3])
    # A weight gradient writes single sums of depthwise layers and, still, of a channels-first dz that is split along w.
    # Lanes of a depthwise layer lie side by side: a warp that writes 32 bits of each fills whole lines.
    # A walking one leaves its sums as the product has them, two side by side, or, channels-first, with all taps between them.
    if used["path"] == "walk":
        assert device == "nvidia_h200" and "LDL" not in used["instructions"], used
        assert direction != "grad_weight" or used["widths"]["STG"] == [64 if "channels_last" in name else 32], used
        assert direction == "grad_weight" or "channels_last" not in name or max(used["widths"]["STG"]) == 128, used
    elif direction != "grad_weight" or name in DENSE and "channels_last" in name:
        assert max(used["widths"]["STG"]) >= (128 if name in DENSE else 16 if "channels_last" in name else 32), used


@pytest.mark.slow
@pytest.mark.parametrize("row", FEW_ROWS, ids=" ".join)
def test_few_channels(compiled, row):
    """Taps beside the channels: on tensor cores, and what lies side by side is read so."""
    used = compiled[row]
    assert "error" not in used, used["error"]
    assert used["spills"] == used["stack"] == 0 and used["shared"] <= min(used["limit"], used["budget"]), used
    assert "among the channels" in used["config"], used
    assert sum(used["instructions"].get(name, 0) for name in ("HMMA", *TENSOR_CORES.values())) > 0, used
    if row[0] in ("k8s8 of three", "k32s32 of one"):
        assert used["widths"]["LDGSTS"] == [128], used


@pytest.mark.slow
@pytest.mark.parametrize("row", BLACKWELL_ROWS, ids=" ".join)
def test_memories_of_blackwell(compiled, row):
    """Its assemblers spill sooner; and of products that want more tensor memory than there is a trap alone is compiled."""
    used = compiled[row]
    assert "error" not in used and used["spills"] == used["stack"] == 0 and used["shared"] <= used["budget"] <= used["limit"], used
    assert used["widths"]["STG"] and (row[0].startswith("depthwise") or used["instructions"][TENSOR_CORES[row[2]]] > 0), used


def check_loads(used: dict, row: tuple[str, str, str]) -> None:
    """Global memory is read 128 bits at a time, and asynchronously where a loop can overlap it."""
    copies, loads = used["widths"].get("LDGSTS", []), used["widths"].get("LDG", [])
    if FORWARD.get(row[0], {}).get("bias"):  # one value a row
        loads = [width for width in loads if width > 16]
    # Channels-first walks read as it lies what is turned: a weight gradient copies words of dz, others load words of what is gathered.
    lies = used["path"] == "walk" and "channels_last" not in row[0]
    turned = lies and row[1] == "grad_weight"
    assert (used["instructions"].get("UTMALDG", 0) > 0) == (used["path"] in ("descriptor", "walk", "pair") and not turned), used
    if used["path"] == "pair":
        assert not copies, used
        return
    if used["path"] == "walk" and row[1] == "grad_weight":  # x, or dz, waits in registers, and the other is multiplied as it lies
        assert used["register_operands"] == used["instructions"]["HGMMA"], used
    if turned:
        assert copies == [32], used
        return
    if "a halo along w" in used["config"]:  # runs of channels, of few places beside a patch a part by each thread
        assert max(*copies, *loads) == 128, used
        return
    if used["path"] == "walk":  # all else that is multiplied comes by descriptor
        assert not copies and used["widths"].get("LDG", []) == [32] * lies or FORWARD.get(row[0], {}), used
        return
    plain = not row[0].endswith(("residual", "statistics"))
    if used["path"] == "descriptor" and "channels_last" in row[0] and plain:
        # From shared memory to the tensor cores, not by registers. (Phases of w joined for the store pass by LDSM.)
        assert "LDSM" not in used["instructions"], used
    if row[:2] in ONE_STEP:
        assert {*copies, *loads} == {128}, used
    elif row[1] == "backward":  # the weight is read once, in whatever order it lies
        assert copies == [128], used
    else:
        assert max(copies) == 128, used
        assert row[:2] in MIXED or {*copies, *loads} == {128}, used


@pytest.mark.slow
@pytest.mark.parametrize("row", COPIED, ids=" ".join)
def test_weight_gradients_of_copies(compiled, row):
    """x by 16 bytes, dz by single elements, and both from shared memory to the tensor cores as they lie."""
    used = compiled[row]
    assert "a copy first" in used["config"] and not used["rounds"] and used["spills"] == used["stack"] == 0, used
    assert used["shared"] <= used["budget"] <= used["limit"] and {*used["widths"]["LDGSTS"]} == {32, 128}, used
    assert used["instructions"][TENSOR_CORES[row[2]]] > 0 and used["register_operands"] == 0, used


@pytest.mark.slow
@pytest.mark.parametrize("row", PAIRED, ids=" ".join)
def test_weight_gradients_of_pairs(compiled, row):
    """All by descriptor, to the tensor cores as it lies, or dz by registers where its residues are parted there."""
    used = compiled[row]
    assert "error" not in used and used["path"] == "pair" and used["spills"] == used["stack"] == 0, used
    assert used["shared"] <= used["budget"] <= used["limit"] and not used["widths"].get("LDGSTS") and not used["rounds"], used
    assert used["instructions"]["UTMALDG"] > 0 and used["instructions"]["HGMMA"] > 0, used
    assert used["register_operands"] == (0 if "a copy" in used["config"] else used["instructions"]["HGMMA"]), used


def test_interpreted_kernels_are_refused(monkeypatch):
    monkeypatch.setattr(launch, "interpreting", lambda: True)
    plan = launch.plan(Problem.of_layer(**LAYERS["k2s2"]), Device.named("nvidia_h200"))
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET.*unset it"):
        compile.compile_plan(plan)
