"""On a GPU: clocks that tell the truth, and the commands from end to end."""

import json

import pytest
import torch

from triton_conv3dt import cli
from triton_conv3dt.measuring import trial
from triton_conv3dt.measuring.timing import EventTimer
from triton_conv3dt.planning import device, search, store
from triton_conv3dt.problems import case
from triton_conv3dt.worker import Failure, Worker

pytestmark = pytest.mark.gpu
CASES = ("forward n2 ci64 co32 in32 k2 s2 bias", "grad_input n2 ci64 co32 in16 k3 s2 p1 op1 channels_last",
         "grad_weight n1 ci32 co32 in24 k4 s2 p1")


@pytest.fixture(scope="module")
def timer():
    return EventTimer()


@pytest.fixture(scope="module")
def worker():
    with Worker(trial.here) as worker:
        yield worker


def test_a_copy_takes_as_long_as_its_bytes_do(timer):
    source = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    found = timer.device({"all": lambda: target.copy_(source), "half": lambda: target[:2**27].copy_(source[:2**27])},
                         cold=True, seconds=0.3)
    assert found["all"].median / found["half"].median == pytest.approx(2, rel=0.15)
    assert timer.bandwidth() == pytest.approx(2**29 / found["all"].median * 1e6, rel=0.2)
    assert 1e11 < timer.bandwidth() < 2e13 and 1e13 < timer.matmul_rate("float16") < 1e16


def test_a_warm_cache_is_faster_and_the_host_has_no_part(timer):
    t = torch.ones(2**22, dtype=torch.float32, device="cuda")  # 16 MiB: it fits into the L2
    cold, warm = (timer.device({"": lambda: t.sum()}, cold=cold, seconds=0.2)[""].median for cold in (True, False))
    assert warm < 0.97 * cold

    def many():  # much host, little device
        for _ in range(20):
            t[:1024].add_(1)

    assert timer.device({"": many}, cold=True, seconds=0.2)[""].median < 0.8 * timer.host(many).median


@pytest.mark.parametrize("text", CASES)
def test_the_default_and_the_best_candidates_are_right_and_can_be_compared(text, worker):
    problem, here = case.parse(text), device.current()
    configs = search.ranked(problem, here)[:4]
    for config in configs:
        answer = worker.ask("examine", problem, config, 0.05, seconds=60)
        assert not isinstance(answer, Failure) and answer.median > 0, answer
    times = worker.ask("compare", problem, {str(config): config for config in configs}, 0.5, seconds=60)
    assert set(times) == {*map(str, configs), "cudnn"}


def test_tune_stores_what_is_looked_up(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "search_path", lambda: [tmp_path / "configs"])
    journal, output = tmp_path / "tune.jsonl", tmp_path / "configs"
    given = ["tune", "--case", CASES[0], "--budget", "30s"]
    assert cli.main([*given, "--journal", str(journal), "--output", str(output)]) == 0
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    outcomes = [row["outcome"] for row in rows if row["event"] == "candidate"]
    assert outcomes.count("ok") >= len(outcomes) / 2
    assert not {"wrong result", "red zone", "illegal access"} & set(outcomes)
    result = next(row for row in rows if row["event"] == "result")
    assert result["us"]["median"] <= result["us"]["default"]
    if result["better"]:
        assert "exact" in store.choose(case.parse(CASES[0]), device.current()).source


def test_bench_and_report(tmp_path):
    theirs = ["cudnn", "cudnn_channels_last", "matmul"]
    given = ["bench", "--layers", "nnunet_iso128_up2", "--peer", *theirs, "--budget", "60s"]
    assert cli.main([*given, "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert {row["direction"] for row in rows} == {"forward", "grad_input", "grad_weight", "step"}
    for row in rows:
        assert row["outcome"] == "ok", row
        assert row["cold"]["median"] > 0.5 * row["roofline_us"], "nobody is faster than the card"
        assert row["kernels"] or row["kernels_unknown"], "which kernel ran is known, or why it is not"
    assert cli.main(["report", str(tmp_path)]) == 0 and (tmp_path / "report.md").exists()


def test_demo(tmp_path, capsys):
    pytest.importorskip("nibabel")
    assert cli.main(["demo", "--quiet", "--output", str(tmp_path / "demo.png")]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("  ")[0] for row in rows] == 2 * ["Triton", "PyTorch, cuDNN"]
