"""Reading compiled kernels: what is said of them, and the command that says it of many at once."""

import json
import os
from dataclasses import replace

import pytest

from triton_conv3dt import cli
from triton_conv3dt.compiling import machinecode, survey
from triton_conv3dt.compiling.machinecode import Resources
from triton_conv3dt.planning import store
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

H200, A100, B200 = map(Device.named, ("nvidia_h200", "nvidia_a100", "nvidia_b200"))
K2S2 = "forward n2 ci64 co32 in16 k2 s2 float16 channels_first"
DEPTHWISE = "forward n1 ci32 co32 in8 k3 s2 p1 g32 float16 channels_first"
HALF = case.parse(K2S2)
GATHER = Config("gather", 64, 64, 32)
GOOD = Resources(registers=100, stack=0, shared=32768, code=4096, instructions={"HGMMA": 4, "LDGSTS": 8, "STG": 4},
                 accesses={"LDGSTS": {128: 8}, "STG": {128: 4}}, register_operands=0)


DISASSEMBLY = """
        .section        .text.gather,"ax",@progbits
gather:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.U16 R2, desc[UR6][R4.64] ;
        /*0020*/                   LDGSTS.E.BYPASS.LTC128B.128 [R9], desc[UR6][R4.64], P1 ;
        /*0030*/              @!PT LDS RZ, [RZ] ;
        /*0040*/                   UTMALDG.5D [UR8], [UR4], desc[URZ] ;
.L_x_1:
        /*0050*/                   HGMMA.64x128x16.F32 R24, gdesc[UR4].tnspA.tnspB, RZ, !UPT ;
        /*0060*/                   HGMMA.64x128x16.F32 R24, R4, gdesc[UR8], R24, gsb0 ;
        /*0070*/                   STG.E.128 desc[UR6][R2.64], R24 ;
        /*0080*/             @!UP0 STG.E desc[UR6][R2.64+0x10], R28 ;
        /*0090*/                   STL [R1+0x8], R5 ;
        /*00a0*/              @P0  EXIT ;
"""


def test_disassembly_is_read():
    used = machinecode.read(" Function gather:\n  REG:96 STACK:16 SHARED:1024 LOCAL:0", DISASSEMBLY, 32768)
    assert (used.registers, used.stack, used.shared, used.code) == (96, 16, 32768, 11 * 16)
    assert used.accesses == {"LDG": {16: 1}, "LDGSTS": {128: 1}, "UTMALDG": {machinecode.BOX_BITS: 1},
                             "STG": {128: 1, 32: 1}}
    assert used.widths["STG"] == (32, 128) and used.tensor_cores == {"HGMMA": 2}
    assert used.register_operands == 1 and used.spills == 1 and used.instructions["EXIT"] == 1


@pytest.mark.parametrize("used, config, device, expected", [
    (GOOD, GATHER, H200, 4),  # registers: 104 * 32 of 65536 for each of 4 warps
    (replace(GOOD, registers=32), GATHER, H200, 6),  # shared memory: 33 of 228 KiB
    (replace(GOOD, registers=32, shared=0), GATHER, H200, 16),  # warps: 64 of them
    (replace(GOOD, registers=32, shared=0), replace(GATHER, warps=1), H200, 32),  # blocks
    (replace(GOOD, registers=255), replace(GATHER, warps=8), A100, 1),
    (replace(GOOD, shared=232448), GATHER, A100, 0),
    (GOOD, GATHER, replace(H200, capability=(13, 0)), None),
])
def test_blocks_of_an_sm(used, config, device, expected):
    """By hand, from the programming guide's limits."""
    assert machinecode.blocks(used, config, device) == expected
    warps = machinecode.LIMITS.get(device.capability, (0, 1, 0))[1]
    part = None if expected is None else expected * config.warps / warps
    assert machinecode.occupancy(used, config, device) == part


def without(**changes) -> Resources:
    return replace(GOOD, **changes)


REMARKS = {
    "spills": (without(instructions=GOOD.instructions | {"STL": 3, "LDL": 4}, stack=16), H200,
               "spills: 7 instructions, 16 bytes"),
    "none": (without(instructions={"FFMA": 99}), H200, "tensor cores not used"),
    "old": (without(instructions={"HMMA": 64}), B200, "tensor cores driven warp by warp (HMMA), not by warpgroups"),
    "operand": (without(register_operands=4), H200, "A operand goes through registers"),
    "stores": (without(accesses={"STG": {16: 4}}), H200, "scalar stores: 4 of 4 move 16 bits"),
    "loads": (without(accesses={"LDG": {16: 64}, "LDGSTS": {128: 8}, "STG": {128: 4}}), H200, "scalar loads: 64 of 72"),
    "narrow": (without(accesses={"LDGSTS": {64: 8}, "STG": {128: 4}}), H200, "narrow loads: 64 bits at most"),
    "occupancy": (without(shared=200000), H200, "low occupancy: 6%"),
    "block": (without(shared=300000), H200, "no block fits: 100 registers, 300000 bytes"),
}


@pytest.mark.parametrize("name", REMARKS)
def test_remarks(name):
    used, device, expected = REMARKS[name]
    found = machinecode.warnings(used, GATHER, HALF, device)
    assert len(found) == 1 and found[0].startswith(expected), found


def test_what_cannot_run_is_said():
    assert "544 columns of tensor memory are needed, nvidia_b200 has 512" == machinecode.unfit(GOOD, 2, 544, B200)
    assert "no block fits" in machinecode.unfit(GOOD, 0, 0, H200) and "no block fits" in machinecode.unfit(without(shared=300000), 2, 0, A100)
    assert machinecode.unfit(GOOD, 2, 512, B200) is None


def test_nothing_is_said_of_a_good_kernel():
    assert machinecode.warnings(GOOD, GATHER, HALF, H200) == []
    few = without(accesses={"LDG": {16: 8}, "UTMALDG": {machinecode.BOX_BITS: 2}, "STG": {128: 4}})
    assert machinecode.warnings(few, GATHER, HALF, H200) == []  # a bias
    assert machinecode.warnings(without(instructions={"FFMA": 99}), replace(GATHER, path="direct"), HALF, H200) == []
    assert machinecode.warnings(without(instructions={"HMMA": 64}), GATHER, HALF, A100) == []


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
def test_inspect_compiles_where_kernels_are_interpreted(cache, capsys):
    """Here TRITON_INTERPRET is set, unless there is a GPU; the processes that compile do not have it."""
    asked = ["inspect", "--case", K2S2, "--case", DEPTHWISE, "--arch", "sm_90", "80", "--jobs", "2", "--quiet"]
    assert cli.main([*asked, "--json"]) == 0
    found = {(row["case"], row["device"]): row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(found) == {(text, device) for text in (K2S2, DEPTHWISE) for device in ("nvidia_h200", "nvidia_a100")}
    for (text, device), row in found.items():
        assert row["failure"] is None and row["spills"] == row["stack"] == 0 and row["code"] > 1000
        assert row["source"].startswith("default")
        assert row["config"]["path"] == ("direct" if "g32" in text else "pair" if device == "nvidia_h200" else "gather")
        assert row["blocks"] >= 1 and 0 < row["occupancy"] <= 1 and row["registers"] > 16
        assert list(row["tensor_cores"]) == ([] if "g32" in text else ["HGMMA" if device == "nvidia_h200" else "HMMA"])
        assert row["triton"].startswith("3.")
        assert row["bound"]["limit"] >= 1 and row["bound"]["limit"] >= row["bound"][row["bound"]["binds"]]
    assert found[K2S2, "nvidia_h200"]["warnings"] == []
    assert "128" in found[K2S2, "nvidia_h200"]["accesses"]["STG"]
    assert cli.main(asked) == 0
    shown = capsys.readouterr().out
    assert "nvidia_a100, sm_80, compiled by triton 3." in shown and " HGMMA " in shown and "LDG" in shown
    assert "x dram" in shown or "x issue" in shown or "x l2" in shown or "x integer" in shown
    assert shown.count("2 kernels: 0 do not compile or fit") == 2 and "\x1b" not in shown and "\r" not in shown


class Bomb:
    """A config that ends the process that reads it."""

    def __reduce__(self):
        return os._exit, (3,)


@pytest.mark.slow
def test_what_goes_wrong_with_one_kernel_is_said_of_it_alone(cache):
    problem = case.parse(DEPTHWISE)
    direct = Config("direct", 16, 32)
    tasks = [survey.Task("good", problem, H200, direct), survey.Task("crash", problem, H200, Bomb()),
             survey.Task("unfit", problem, H200, replace(direct, block_m=24))]
    kernels = list(survey.inspect(tasks, processes=1))
    assert [kernel.task.name for kernel in kernels] == ["good", "crash", "unfit"]
    assert kernels[0].failure is None and kernels[1].failure == "the compiler crashed"
    assert "block_m = 24 is not a power of two" in kernels[2].failure
    shown = "\n".join(survey.table(kernels, tasks))
    assert "FAILED the compiler crashed" in shown and "3 kernels: 2 do not compile or fit" in shown


@pytest.mark.slow
def test_every_config_of_a_folder(cache, capsys, tmp_path):
    """Also of a device that this version does not know; an entry that does not fit is a failure."""
    assert cli.main(["inspect", "--configs", str(tmp_path), "--quiet"]) == 0
    assert "no tuned configs" in capsys.readouterr().out
    other, problem = Device("nvidia_l40s", (8, 9), 142, 101376), case.parse(DEPTHWISE)
    store.save([store.Entry(problem, Config("direct", 16, 32))], other, {}, tmp_path)
    path, = store.save([store.Entry(problem, Config("direct", 24, 32))], A100, {}, tmp_path)
    assert cli.main(["inspect", "--configs", str(tmp_path), "--quiet", "--json"]) == 1
    rows = {row["device"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["nvidia_l40s"]["failure"] is None and rows["nvidia_l40s"]["registers"] > 0
    assert rows["nvidia_a100"]["failure"].endswith("block_m = 24 is not a power of two")
    assert rows["nvidia_a100"]["source"] == f"{path}:8"
    path.write_text(path.read_text().replace('"8.0"', '"eight"').replace("nvidia_a100", "my_gpu"))
    assert cli.main(["inspect", "--configs", str(tmp_path)]) == 1
    assert f'error: {path}:3: "device" must have' in capsys.readouterr().err


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_kernel_is_shown_before_the_next_is_compiled(capsys, monkeypatch, form):
    shown = []

    def inspect(tasks, *_):
        for task in tasks:
            yield survey.Kernel(task, GOOD, 2, 0.25, failure="too wide" if task.device == A100 else None, triton="3")
            shown.append(capsys.readouterr().out)

    monkeypatch.setattr(survey, "inspect", inspect)
    devices = ["--device", "h200", "NVIDIA A100-SXM4-40GB"]
    assert cli.main(["inspect", "--case", K2S2, "--case", DEPTHWISE, *devices, "--quiet", *form]) == 1
    assert [[text in lines for text in (K2S2, DEPTHWISE)] for lines in shown] == [[True, False], [False, True]] * 2
    if not form:
        first, columns, row = shown[0].splitlines()
        assert first == "nvidia_h200, sm_90, compiled by triton 3" and "too wide" not in row
        assert row.index("100") + 3 == columns.index("regs") + 4, "numbers stand at the right of their columns"
        assert shown[2].startswith("2 kernels: 0 do not compile or fit, 0 with remarks\n\nnvidia_a100")
        assert "too wide" in shown[2]
        assert capsys.readouterr().out == "2 kernels: 2 do not compile or fit, 0 with remarks\n"


def test_every_core_compiles(monkeypatch):
    asked = []
    compiled = lambda tasks, processes: asked.append(processes) or map(survey.Kernel, tasks)
    monkeypatch.setattr(survey, "_in_parallel", compiled)
    monkeypatch.setattr(survey, "cores", lambda: 5)
    tasks = [survey.Task("", HALF, H200, GATHER)] * 8
    for some, given in ((tasks, None), (tasks, 3), (tasks[:2], None)):
        assert [kernel.task for kernel in survey.inspect(some, given)] == some
    assert asked == [5, 3, 2]


def test_the_default_is_compiled_whatever_has_been_tuned(cache, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "search_path", lambda: [tmp_path])
    tuned = Config("direct", 16, 16)
    store.save([store.Entry(case.parse(DEPTHWISE), tuned)], H200, {}, tmp_path)
    asked = []
    monkeypatch.setattr(survey, "inspect", lambda tasks, *_: asked.extend(tasks) or [])
    for extra in ([], ["--default"]):
        assert cli.main(["inspect", "--case", DEPTHWISE, "--device", "nvidia_h200", "--quiet", *extra]) == 0
    assert asked[0].config == tuned and asked[0].source.startswith("tuned")
    assert asked[1].config != tuned and asked[1].source.startswith("default")


@pytest.mark.parametrize("arguments, expected", [
    (["--arch", "sm_91", "--layers", "nnunet"], "expected one of sm_80, sm_86"),
    (["--arch", "sm_90", "--device", "nvidia_h200", "--layers", "nnunet"], "not allowed with argument"),
    (["--configs", "--layers", "nnunet"], "it stands alone"),
    (["--jobs", "0", "--layers", "nnunet"], "a positive integer"),
    ([], "one of --layers, --case, --model and --input"),
])
def test_refusals(capsys, arguments, expected):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["inspect", *arguments])
    assert stopped.value.code == 2 and expected in capsys.readouterr().err


def test_a_folder_that_is_not_there(capsys, tmp_path):
    assert cli.main(["inspect", "--configs", str(tmp_path / "none")]) == 1
    assert f"error: {tmp_path / 'none'} is not a folder" in capsys.readouterr().err


