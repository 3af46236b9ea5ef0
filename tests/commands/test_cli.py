"""The command line: what it prints, its exit codes, and that asking for help costs nothing."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from processes import refusal
import triton_conv3dt
from triton_conv3dt import cli
from triton_conv3dt.problems.problem import DIRECTIONS

LAYER = ["explain", "--input", "2,64,8,8,8", "--channels", "32", "--kernel", "2", "--stride", "2"]
EPILOGUE = dict(bias=True, activation="relu")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", [[], *([command.__name__.rpartition(".")[2]] for command in cli.COMMANDS)],
                         ids=lambda command: " ".join(command) or "none")
def test_help_imports_nothing_heavy(command):
    script = ("import sys\nfrom triton_conv3dt.cli import main\n"
              f"try: main({[*command, '--help']})\nexcept SystemExit as stopped: assert stopped.code == 0\n"
              "assert not {'torch', 'triton', 'numpy', 'matplotlib', 'nibabel'} & set(sys.modules)")
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
                           timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert "usage: triton-conv3dt" in shown.stdout


def test_module_runs_and_reports_usage_errors():
    result = subprocess.run([sys.executable, "-m", "triton_conv3dt", "nonsense"], cwd=ROOT, capture_output=True,
                            text=True, timeout=60)
    assert result.returncode == 2
    assert "info" in result.stderr and "explain" in result.stderr and "demo" in result.stderr


@pytest.mark.parametrize("arguments, expected", [
    ([], "COMMAND"),
    (LAYER[:3] + LAYER[5:], "--channels"),
    ([*LAYER, "--input", "2,64,8"], "N,CI,D,H,W"),
    ([*LAYER, "--input", "2,64,8,0,8"], "'2,64,8,0,8'"),
    ([*LAYER, "--kernel", "2,2"], "three as D,H,W"),
    ([*LAYER, "--stride", "0"], "at least 1"),
    ([*LAYER, "--dtype", "half"], "float16"),
    ([*LAYER, "--layout", "nhwc"], "channels_last"),
    ([*LAYER, "--direction", "backward"], "grad_input"),
    ([*LAYER, "--device", "v100"], "nvidia_h200"),
    ([*LAYER, "--activation", "rellu"], "leaky_relu"),
    ([*LAYER, "--groups", "3"], "--groups 3 does not divide"),
    ([*LAYER, "--output-padding", "2"], "smaller than --stride"),
    ([*LAYER, "--padding", "9"], "no output"),
    (["explain"], "one of --layers, --case, --model and --input says what is asked; received none"),
    (["explain", "--model", "nets.unet:UNet"], "--model needs --input"),
    (["explain", "--model", "nets.unet:UNet", "--layers", "nnunet"], "received --layers and --model"),
    ([*LAYER, "--model", "nets.unet:UNet"], "--channels, --kernel, --stride cannot be combined with --model"),
    ([*LAYER, "--device", "h201"], "device 'h201' is not known; known are nvidia_b200, nvidia_h200, nvidia_h100, "),
    ([*LAYER, "--device", "h201"], "did you mean 'nvidia_h200' or"),
    ([*LAYER, "--strid", "2", "--kernal", "3"], "unrecognized arguments: --kernal 3; did you mean '--kernel'?"),
    ([*LAYER, "--dtype", "flot16"], "; did you mean 'float16'"),
    (["explian"], "; did you mean 'explain'?"),
    (["inspect", "--jbos=2", "--layers", "nnunet"], "; did you mean '--jobs' or"),
    ([*LAYER, "--layers", "nnunet"], "received --layers and --input"),
    (["explain", "--layers", "nnunt"], "did you mean 'nnU-Net v2'"),
    (["explain", "--layers", "nnunet", "--kernel", "3"], "--kernel cannot be combined with --layers"),
    (["explain", "--case", "ci4 co4 in4 k2 stride2"], "'stride2' is not a word of a case"),
    (["explain", "--case", "ci4 co4 in4 k2", "--dtype", "float32"], "write it into the case"),
])
def test_refuses_with_what_would_work(capsys, arguments, expected):
    message = refusal(capsys, *arguments)
    assert expected in message and "usage:" in message


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == f"triton-conv3dt {triton_conv3dt.__version__}\n"


def test_info_names_versions_and_settings(capsys, monkeypatch):
    monkeypatch.setenv("TRITON_CONV3DT_FALLBACK", "error")
    monkeypatch.setattr("triton_conv3dt.planning.store.search_path", lambda: [ROOT / "autotune_configs", ROOT / "none"])
    assert cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    for fact in (metadata.version("torch"), "device", "interpreter", "TRITON_CONV3DT_FALLBACK=error",
                 "TRITON_CONV3DT_CONFIG_DIR=", f"{ROOT / 'autotune_configs'}: ", f"{ROOT / 'none'}: not there"):
        assert fact in shown


def test_info_counts_what_is_tuned_and_names_what_cannot_be_used(capsys, monkeypatch, tmp_path):
    from triton_conv3dt.planning import store
    from triton_conv3dt.problems import case
    from triton_conv3dt.planning.config import Config
    from triton_conv3dt.planning.device import Device

    monkeypatch.setattr(store, "search_path", lambda: [tmp_path])
    config = Config("gather", 32, 32, 32)
    entries = [store.Entry(case.parse(f"{direction} ci64 co32 in8 k2 s2"), config) for direction in DIRECTIONS]
    files = store.save(entries, Device.named("nvidia_h200"), {}, tmp_path)
    assert cli.main(["info"]) == 0
    assert f"{tmp_path}: 3 tuned problems in 3 files\n" in capsys.readouterr().out
    files[0].write_text("{}")
    assert cli.main(["info"]) == 0
    assert f"{tmp_path}: 2 tuned problems in 3 files; {files[0]}:1: not a file of tuned" in capsys.readouterr().out


@pytest.mark.parametrize("device", ["nvidia_h200", "nvidia_a100"])
@pytest.mark.parametrize("direction", ["forward", "grad_input", "grad_weight"])
def test_explain_prints_the_plan_of_the_layer_asked_for(capsys, device, direction):
    from triton_conv3dt.launching import launch
    from triton_conv3dt.planning.device import Device
    from triton_conv3dt.problems.problem import Problem

    problem = Problem.of_layer(direction, n=2, ci=64, co=32, in_size=(8, 16, 24), kernel=(1, 2, 2), stride=(1, 2, 2),
                               dtype="float16", layout="channels_last", **EPILOGUE if direction == "forward" else {})
    asked = ["explain", "--input", "2,64,8,16,24", "--channels", "32", "--kernel", "1,2,2", "--stride", "1,2,2",
             "--layout", "channels_last", "--bias", "--activation", "relu", "--direction", direction,
             "--device", device]
    assert cli.main(asked) == 0
    shown = capsys.readouterr().out
    assert f"\n{launch.plan(problem, Device.named(device))}\n" in shown
    line = shown.splitlines()[0].removeprefix("case").strip()
    assert f"triton-conv3dt tune --case '{line}'" in shown
    assert cli.main(["explain", "--case", line, "--device", device]) == 0
    assert capsys.readouterr().out == shown


def test_explain_says_what_runs_on_an_older_gpu(capsys, monkeypatch):
    from triton_conv3dt.planning import device

    monkeypatch.setattr(device, "current", lambda index=0: device.Device("nvidia_t4", (7, 5), 40, 65536))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert cli.main(LAYER) == 0
    assert "a call on this device runs PyTorch: the kernels need capability 8.0 or later" in capsys.readouterr().out


@pytest.mark.parametrize("device", ["nvidia_h200", "nvidia_a100", "nvidia_b200"])
def test_explain_all_layers(capsys, device):
    from triton_conv3dt.problems.layers import layers

    assert cli.main(["explain", "--layers", "all", "--direction", *DIRECTIONS, "--device", device]) == 0
    head, columns, *rows, tune = capsys.readouterr().out.splitlines()
    assert head == f"{device}: 660 problems, 660 of them not tuned"
    assert [row.split()[0] for row in rows] == [layer.name for layer in layers() for _ in DIRECTIONS]
    assert all(row[columns.index("source"):] == "default" for row in rows)
    assert not any("?" in row for row in rows), "the rates of these devices are known"
    assert tune.endswith("triton-conv3dt tune --layers all")


ALL, W = (True, True, True), (False, False, True)


@pytest.mark.parametrize("text, merge, expected", [
    ("ci64 co32 in8 k2 s2", ALL,
     "1 product of all 8 phases: 32 channels of each phase by 512 positions, a sum over 64 channels and 1 tap"),
    ("ci64 co64 in8 k3 s2 p1", (),
     "8 products, one per phase: 64 channels by 512 positions, a sum over 64 channels and 1 to 8 taps"),
    ("ci64 co32 in8 k4 s2 p1 channels_last", W,
     "4 products of 2 phases each: 32 channels of each phase by 576 positions, a sum over 64 channels and 8 taps"),
    ("ci64 co64 in8 k1 s2", (),
     "8 products, one per phase: 64 channels by 512 positions, a sum over 64 channels and 0 to 1 taps"),
    ("ci64 co32 in8 k3", (), "1 product: 32 channels by 1000 positions, a sum over 64 channels and 27 taps"),
    ("ci64 co32 in8 k3 g2", (),
     "1 product: 16 channels in each of 2 groups by 1000 positions, a sum over 32 channels and 27 taps"),
    ("grad_input n2 ci64 co32 in8 k3 s2", (),
     "1 product: 64 channels by 1024 positions, a sum over 32 channels and 27 taps"),
    ("grad_weight n2 ci64 co32 in8 k2 s2", (),
     "8 products, one per tap: 64 by 32 channels, a sum over 1024 positions in 4 shares"),
])
def test_explain_says_what_is_multiplied(text, merge, expected):
    from triton_conv3dt.launching import launch
    from triton_conv3dt.planning import explain
    from triton_conv3dt.problems import case
    from triton_conv3dt.planning.config import Config
    from triton_conv3dt.planning.device import Device

    problem = case.parse(text)
    config = Config("gather", 64, 32, 16, merge=merge or (False,) * 3, shares=4 if "weight" in text else 1)
    plan = launch.plan(problem, Device.named("nvidia_h200"), config)
    assert explain.product(plan) == expected
    assert f"product   {expected}\n" in explain.text(plan)


def test_explain_says_where_a_config_came_from(capsys, tmp_path, monkeypatch):
    from triton_conv3dt.planning import store
    from triton_conv3dt.problems import case
    from triton_conv3dt.planning.config import Config
    from triton_conv3dt.planning.device import Device

    monkeypatch.setattr(store, "search_path", lambda: [tmp_path])
    text = "forward n2 ci64 co32 in8 k2 s2 float16 channels_first"
    entry = store.Entry(case.parse(text), Config("gather", 32, 32, 32))
    path, = store.save([entry], Device.named("nvidia_h200"), {}, tmp_path)
    assert cli.main(["explain", "--case", text, "--device", "nvidia_h200"]) == 0
    shown = capsys.readouterr().out
    assert f"source    tuned: {path}:8, exact" in shown and "gather, 32x32x32" in shown and "tune  " not in shown
    assert cli.main(["explain", "--case", text.replace("in8", "in9"), "--device", "nvidia_h200"]) == 0
    shown = capsys.readouterr().out
    assert f"source    tuned: {path}:8, near: {text}" in shown and "tune --case" in shown
    unfit = store.Entry(case.parse(text.replace("k2", "k3")), Config("gather", 33, 32, 32))
    store.save([unfit], Device.named("nvidia_h200"), {}, tmp_path)
    assert cli.main(["explain", "--case", text.replace("k2", "k3"), "--device", "nvidia_h200"]) == 0
    assert "is rejected: block_m = 33 is not a power of two" in capsys.readouterr().out
    path.write_text(path.read_text()[:-9])
    assert cli.main(["explain", "--case", text, "--device", "nvidia_h200"]) == 1
    assert f"error: {path}:9: not valid JSON" in capsys.readouterr().err


def test_output_that_cannot_be_written_is_an_error():
    """A full disk: one line, not a traceback."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-m", "triton_conv3dt", "explain", "--layers", "nnunet"], cwd=ROOT,
                                stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 1 and result.stderr == "error: [Errno 28] No space left on device\n"


def test_explain_without_a_gpu_here_plans_for_a_common_one(capsys, monkeypatch):
    def absent(index=0):
        raise RuntimeError("no CUDA device is available")

    monkeypatch.setattr("triton_conv3dt.planning.device.current", absent)
    assert cli.main(LAYER) == 0
    assert "nvidia_h200" in capsys.readouterr().out


def test_explain_says_where_a_training_step_takes_one_pass(capsys):
    last = ["explain", "--layers", "nnunet_iso128_up4", "--direction", "grad_input", "--device"]
    assert cli.main([*last, "nvidia_h200"]) == 0
    assert "in one pass instead: onepass, 64x256x64" in capsys.readouterr().out
    assert cli.main([*last, "nvidia_a100"]) == 0
    assert "one pass" not in capsys.readouterr().out
