"""tune, bench and merge as their users meet them: options, refusals, a machine without a GPU, a full disk."""

import errno
import os
import re
import stat
import threading
from pathlib import Path

import pytest

import trials
from trials import DEFAULT, OTHERS, PROBLEM
from processes import refusal
from triton_conv3dt import cli
from triton_conv3dt.commands import sweep
from triton_conv3dt.measuring import bench, journal, machine, naming, precompile, trace, trial, tune
from triton_conv3dt.planning import store
from triton_conv3dt.problems import case

ROOT = Path(__file__).parents[2]
CASE = case.format(PROBLEM)
FACTS = {"device": "nvidia_h200", "date": "2026-01-01 00:00 UTC", "command": "triton-conv3dt", "torch": "2"}


class NoCompilers:
    """Compiling ahead needs a compiler; kernels are interpreted here."""

    def __init__(self, device):
        pass

    def submit(self, problem, config):
        pass

    def wait(self, problem, config, seconds):
        pass

    def close(self):
        pass


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine that seems to have an H200: the interpreter computes and a table says how long it took."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "search_path", lambda: [store.user_cache()])
    monkeypatch.setattr(sweep, "device_here", lambda what: trials.H200)
    monkeypatch.setattr(trial, "here", trials.quick_trial)
    monkeypatch.setattr(naming, "here", trials.profiler)
    monkeypatch.setattr(machine, "facts", lambda device: FACTS)
    monkeypatch.setattr(precompile, "Compilers", NoCompilers)
    monkeypatch.setattr(tune.search, "ranked", lambda problem, device, without: [DEFAULT, *OTHERS])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["tune", "bench"])
def test_without_a_gpu_it_says_what_it_needs(capsys, command, monkeypatch, tmp_path):
    import torch

    from triton_conv3dt.launching import launch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, "--layers", "nnunet"]) == 1
    shown = capsys.readouterr()
    assert "compute capability 8.0" in shown.err and "--dry-run" in shown.err and not shown.out
    monkeypatch.setattr(launch, "interpreting", lambda: True)
    assert cli.main([command]) == 1
    assert "TRITON_INTERPRET is set: unset it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


@pytest.mark.parametrize("arguments, expected", [
    (["--layers", "nnunetx"], "did you mean"),
    (["--layers"], "expected at least one argument"),
    (["--case", "forward ci64"], "lacks co"),
    (["--case", CASE, "--layers", "nnunet"], "--layers and --case cannot be combined"),
    (["--case", CASE, "--dtype", "float32"], "write them into the case"),
    (["--model", "a:b"], "--model needs --input"),
    (["--input", "1,1,8,8,8"], "it goes with --model"),
    (["--direction", "backward"], "grad_input"),
    (["--dtype", "half"], "float16"),
    (["--layout", "nhwc"], "channels_last"),
    (["--budget", "soon"], "8m or 1h30m"),
    (["--budget", "0"], "8m or 1h30m"),
    (["--shard", "3/2"], "I from 1 to N"),
    (["--device", "nvidia_h200"], "--device is for --dry-run"),
    (["--device", "v100", "--dry-run"], "nvidia_h200"),
    (["--nonsense"], "unrecognized arguments"),
])
@pytest.mark.parametrize("command", ["tune", "bench"])
def test_options_that_cannot_be_meant(capsys, command, arguments, expected):
    message = refusal(capsys, command, *arguments)
    assert expected in message and "usage:" in message


def test_budgets_and_shards_are_read():
    assert [sweep.budget(text) for text in ("90", "90s", "8m", "1h30m", "2h", "1m5s")] == [90, 90, 480, 5400, 7200, 65]
    assert sweep.shard("2/4") == (2, 4)


def test_a_dry_run_needs_no_gpu_and_writes_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cli.main(["tune", "--layers", "nnunet_iso128_up4", "--dry-run", "--device", "nvidia_a100"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 4 and [line.split()[2] for line in shown[:3]] == ["forward", "grad_input", "grad_weight"]
    counts = [int(line.split()[0]) for line in shown[:3]]
    assert all(1 < count <= 20 for count in counts) and f"3 problems, {sum(counts)} candidates, at least" in shown[3]
    assert cli.main(["bench", "--layers", "nnunet_iso128_up4", "--direction", "forward", "step", "--dtype", "own",
                     "bfloat16", "--dry-run", "--device", "nvidia_b200"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 5 and "followed by concatenation, output first" in shown[0] and "nvidia_b200" in shown[-1]
    assert cli.main(["tune", "--layers", "nnunet", "--direction", "forward", "--shard", "2/5", "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_tune_from_the_first_run_to_the_last(gpu, capsys):
    given = ["tune", "--case", CASE]
    assert cli.main(given) == 0
    shown = capsys.readouterr().out
    assert "nvidia_h200: 1 problem, 0 known, 1 to do; journal" in shown and "better than the default: 1," in shown
    assert f"50.0 us (default 100.0, cuDNN 100.0)  {CASE}: {OTHERS[2]}" in shown
    assert store.lookup(PROBLEM, trials.H200).config == OTHERS[2], "it is found where it is looked for"
    written = sorted(str(path.relative_to(gpu / "cache")) for path in (gpu / "cache").rglob("*") if path.is_file())
    assert written == ["triton_conv3dt/configs/nvidia_h200/forward.float16.json",
                       "triton_conv3dt/journals/nvidia_h200.jsonl"]
    assert cli.main([*given, "--resume"]) == 0
    assert "1 problem, 1 known, 0 to do" in capsys.readouterr().out
    assert cli.main(["merge", str(gpu / "cache" / written[1]), "--output", str(gpu / "merged")]) == 0
    assert f"nvidia_h200: 1 result, configs in {gpu / 'merged' / 'nvidia_h200'}" in capsys.readouterr().out
    name = "nvidia_h200/forward.float16.json"
    assert (gpu / "merged" / name).read_bytes() == (gpu / "cache/triton_conv3dt/configs" / name).read_bytes()


def test_what_failed_is_told(gpu, capsys, monkeypatch):
    monkeypatch.setattr(trial, "here", trials.wrong_trial)
    assert cli.main(["tune", "--case", CASE]) == 0
    assert "candidates that failed: 1 red zone, 1 wrong result; the journal has the reasons" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_and_report_from_the_first_run_to_the_last(gpu, capsys):
    given = ["bench", "--case", CASE, "--peer", "cudnn", "matmul", "--output", "results"]
    assert cli.main(given) == 0
    shown = capsys.readouterr().out
    assert "1 setting, 0 known, 1 to do" in shown and "triton_conv3dt 100.0, cudnn 100.0, matmul 100.0" in shown
    assert cli.main([*given, "--resume"]) == 0
    assert "1 setting, 1 known, 0 to do" in capsys.readouterr().out
    assert cli.main(["report", "results"]) == 0
    assert sorted(path.name for path in (gpu / "results").iterdir()) == [
        "bench.csv", "bench.json", "bench.jsonl", "report.md", "roofline.png", "speedup.png"]


def test_ctrl_c_keeps_what_there_is_and_says_how_to_go_on(gpu, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tune.Sweep, "_examine", interrupted)
    assert cli.main(["tune", "--case", CASE]) == 130
    assert "--resume goes on" in capsys.readouterr().err
    monkeypatch.setattr(bench.Bench, "_checked", interrupted)
    assert cli.main(["bench", "--case", CASE]) == 130
    assert "--resume goes on" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["tune", "--journal", "at/tune.jsonl"], ["bench", "--output", "at"]])
def test_a_place_that_cannot_be_written(gpu, capsys, command):
    (gpu / "at").write_text("a file where a folder should be")
    assert cli.main([command[0], "--case", CASE, *command[1:]]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and "at" in shown.err and "Traceback" not in shown.err


@pytest.mark.parametrize("command", [["tune", "--journal", "at/tune.jsonl"], ["bench", "--output", "at"]])
def test_no_permission(gpu, capsys, monkeypatch, command):
    """The system says no, to root as well, who could write anywhere."""
    opened = os.open

    def forbidden(path, flags, *rest, **given):
        if "at" in Path(path).parts and flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *rest, **given)

    monkeypatch.setattr(os, "open", forbidden)
    assert cli.main([command[0], "--case", CASE, *command[1:]]) == 1
    shown = capsys.readouterr().err
    assert re.fullmatch(r"error: .*at/\w+\.jsonl: Permission denied\n", shown), shown
    assert not list(gpu.rglob("*.json*"))


@pytest.mark.parametrize("command", [["tune", "--journal", "tune.jsonl"], ["bench"]])
@pytest.mark.slow
def test_a_full_disk_ends_it_with_an_error_and_whole_files(gpu, capsys, monkeypatch, command):
    write, space = os.write, [900]

    def full(file, data):
        if threading.current_thread() is threading.main_thread() and os.fstat(file).st_mode & stat.S_IFREG:
            if space[0] < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            space[0] -= len(data)
        return write(file, data)

    monkeypatch.setattr(os, "write", full)
    assert cli.main([command[0], "--case", CASE, *command[1:]]) == 1
    assert "No space left on device" in capsys.readouterr().err
    for path in gpu.rglob("*.jsonl"):
        assert journal.read(path)[1] == [], "no torn line"
    assert not list(gpu.rglob("*.partial"))


def test_another_file_is_not_taken_for_a_journal(gpu, capsys):
    (gpu / "notes.txt").write_text("something of the user's\n")
    assert cli.main(["tune", "--case", CASE, "--journal", "notes.txt"]) == 1
    assert "is no journal" in capsys.readouterr().err
    assert cli.main(["merge", "notes.txt"]) == 1 and cli.main(["merge", "missing.jsonl"]) == 1
    shown = capsys.readouterr().err
    assert "is no journal" in shown and "missing.jsonl" in shown
    assert (gpu / "notes.txt").read_text() == "something of the user's\n"


def test_a_config_file_of_a_later_version_is_not_overwritten(gpu, capsys):
    path = gpu / "configs" / "nvidia_h200" / "forward.float16.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 99}')
    assert cli.main(["tune", "--case", CASE, "--output", "configs", "--journal", "tune.jsonl"]) == 1
    assert "later version" in capsys.readouterr().err and path.read_text() == '{"schema": 99}'
    assert not (gpu / "tune.jsonl").exists(), "it is found before anything is measured"
    path.unlink()
    assert cli.main(["tune", "--case", CASE, "--output", "configs", "--journal", "tune.jsonl"]) == 0
    path.write_text('{"schema": 99}')
    assert cli.main(["merge", "tune.jsonl", "--output", "configs"]) == 1
    assert "later version" in capsys.readouterr().err and path.read_text() == '{"schema": 99}'
    path.unlink()
    assert cli.main(["merge", "tune.jsonl", "--output", "configs"]) == 0 and path.exists(), "the journal has the result"


def test_output_into_a_file_has_no_control_characters(gpu, capsys):
    assert cli.main(["tune", "--case", CASE]) == 0
    shown = capsys.readouterr()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown.out + shown.err)


NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, halves=False):
        super().__init__()
        self.down = torch.nn.Conv3d(1, 8, 3, stride=2, padding=1)
        self.up = torch.nn.ConvTranspose3d(8, 4, 2, stride=2)
        self.more = torch.nn.ModuleList(
            [torch.nn.ConvTranspose3d(4, 4, 3, 2, 1, 1, bias=False, groups=2) for _ in range(2)])
        self.norm = torch.nn.BatchNorm3d(4)

    def forward(self, x):
        y = self.norm(self.up(self.down(x)))
        return self.more[1](self.more[0](y)), self.up(self.down(x))

def refuses():
    raise OSError("no weights")

plain, empty = 3, torch.nn.Sequential(torch.nn.ReLU())
"""


def test_a_models_own_layers(tmp_path, monkeypatch, capsys):
    name = f"net_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    found = trace.layers(trace.load(f"{name}:Net"), (2, 1, 16, 16, 12), name="net", layout="channels_last")
    assert [(layer.name, layer.in_size, layer.out_size, layer.groups, layer.bias) for layer in found] == [
        ("up", (8, 8, 6), (16, 16, 12), 1, True), ("more.0", (16, 16, 12), (32, 32, 24), 2, False),
        ("more.1", (32, 32, 24), (64, 64, 48), 2, False)]
    assert found[0].layout == "channels_last" and found[0].dtype == "float16" and found[1].output_padding == (1, 1, 1)
    assert cli.main(["tune", "--model", f"{name}:Net", "--input", "2,1,16,16,12", "--direction", "forward", "--dtype",
                     "bfloat16", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "n2 ci8 co4 in8x8x6 k2 s2 bfloat16" in shown and "3 problems" in shown
    for command in ("explain", "inspect", "check"):
        assert cli.main([command, "--model", f"{name}:empty", "--input", "2,1,16,16,12"]) == 1, command
        assert f"error: model '{name}:empty' has no torch.nn.ConvTranspose3d" in capsys.readouterr().err, command
    assert cli.main(["explain", "--model", f"{name}:Net", "--input", "2,1,16,16,12", "--device", "h200"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("nvidia_h200: 3 problems") and "\nmore.1 " in shown
    assert shown.endswith(f"tune --model {name}:Net --input 2,1,16,16,12\n")
    for spec, said in ((f"{name}:Nothing", "Nothing"), ("no_such_module:x", "No module named"),
                       (f"{name}", "module:factory"), (f"{name}:refuses", "OSError: no weights"),
                       (f"{name}:plain", "cannot be made"),
                       (f"{name}:empty", "has no torch.nn.ConvTranspose3d")):
        assert cli.main(["tune", "--model", spec, "--input", "2,1,16,16,12", "--dry-run"]) == 1
        assert said in capsys.readouterr().err, spec
    assert cli.main(["bench", "--model", f"{name}:Net", "--input", "2,3,16,16,12", "--dry-run"]) == 1
    assert "does not run on an input of [2, 3, 16, 16, 12]" in capsys.readouterr().err


@pytest.mark.slow
def test_tune_without_a_path_stores_where_nothing_better_is_hidden(gpu, capsys):
    given = ["tune", "--case", CASE]
    assert cli.main(given) == 0
    kept = sorted((path, path.read_bytes()) for path in (gpu / "cache").rglob("*") if path.is_file())
    capsys.readouterr()
    without = [*given, "--resume", "--without", "descriptor"]
    for output in ([], ["--output", str(store.user_cache())], ["--output", str(ROOT / "autotune_configs")]):
        assert cli.main([*without, *output]) == 1
        assert "error: what is best without descriptor would replace" in capsys.readouterr().err
    assert cli.main([*without, "--output", "own"]) == 0
    assert "1 problem, 0 known, 1 to do; journal own/nvidia_h200.jsonl" in capsys.readouterr().out
    assert cli.main([*without, "--output", "own"]) == 0
    assert "1 problem, 1 known, 0 to do" in capsys.readouterr().out
    assert store.lookup(PROBLEM, trials.H200, [gpu / "own"]).config == OTHERS[2]
    assert sorted((path, path.read_bytes()) for path in (gpu / "cache").rglob("*") if path.is_file()) == kept
    assert cli.main(["merge", "own/nvidia_h200.jsonl", "--output", "merged"]) == 1
    assert "says what is best without descriptor" in capsys.readouterr().err and not (gpu / "merged").exists()
