"""Measuring without a GPU: whether every peer computes the same, what a row holds, what becomes of one who fails."""

import csv
import dataclasses
import json

import pytest
import torch

import trials
from measured import FACTS, H200, LAYERS, Answers, layer, run, setting
from triton_conv3dt.measuring import bench, budget, peers, records, selection
from triton_conv3dt.measuring.budget import Budget
from triton_conv3dt.measuring.journal import Journal
from triton_conv3dt.measuring.selection import CUDNN, CUDNN_LAST, JAX, MATMUL, OURS, Setting
from triton_conv3dt.measuring.trial import Trial
from triton_conv3dt.ops import schemas
from triton_conv3dt.problems.layers import select
from triton_conv3dt.problems.problem import LAYOUTS
from triton_conv3dt.worker import Failure


@pytest.fixture
def trial(device):
    return Trial(H200, trials.TableTimer({CUDNN: 120.0}), device)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", ["forward", "step"])
@pytest.mark.parametrize("name", LAYERS)
def test_whatever_computes_the_layer_computes_the_same(trial, name, direction, layout):
    own = setting(name, direction, layout)
    exact = own.problem.exact
    own_turn = layout == LAYOUTS[len(name) % 2]  # the interpreter takes its time
    for peer in (CUDNN, CUDNN_LAST, *[MATMUL] * exact, *[OURS] * own_turn):
        row = trial.check(peer, own)
        assert row["outcome"] == "ok" and row["error"] < row["limit"] / 2, (peer, row)
        result = trial._right[peer]()
        y = result[0] if direction == "step" else result
        after, p = own.after, own.problem
        assert y.shape == (p.n, p.co * (2 if after.concat else 1), *p.out_size)
        if peer == OURS:
            form = torch.channels_last_3d if layout == "channels_last" else torch.contiguous_format
            assert y.is_contiguous(memory_format=form)


@pytest.mark.parametrize("direction", ["grad_input", "grad_weight"])
def test_gradients_by_themselves(trial, direction):
    own = setting("relu", direction)
    for peer in (OURS, CUDNN, CUDNN_LAST):
        assert trial.check(peer, own)["outcome"] == "ok"
    assert selection.peers_of(own, selection.PEERS) == [OURS, CUDNN, CUDNN_LAST]


def test_who_cannot_take_a_setting_says_why(trial):
    cropped = dataclasses.replace(layer("norm"), out_size=(3, 6, 4), output_padding=None)
    own = Setting(cropped, "grad_input", "float32", "channels_first")
    assert "cannot express this crop" in trial.check(CUDNN, own)["reason"]
    assert trial.check(OURS, own)["outcome"] == "ok"
    assert "kernel and stride differ" in trial.check(MATMUL, setting("relu"))["reason"]
    assert trial.check(JAX, setting())["outcome"] == "unavailable"


def test_a_wrong_peer_is_never_timed(trial, monkeypatch):
    right = peers._BUILDERS[CUDNN]
    for spoil in (lambda y: y * 1.01, lambda y: torch.full_like(y, float("nan")), torch.zeros_like):
        monkeypatch.setitem(peers._BUILDERS, CUDNN, lambda s, t, spoil=spoil: lambda: spoil(right(s, t)()))
        row = trial.check(CUDNN, setting())
        assert row["outcome"] == "wrong result" and "explained by rounding" in row["reason"]
        assert CUDNN not in trial._right


def test_times_are_taken_cold_warm_and_on_the_host(trial):
    own = setting("norm")
    for peer in (CUDNN, CUDNN_LAST):
        trial.check(peer, own)
    found = trial.measure(own, [CUDNN, CUDNN_LAST])
    assert list(found) == [CUDNN, CUDNN_LAST]
    assert found[CUDNN]["cold"] == {"median": 120.0, "p20": 119.5, "p80": 120.5, "rounds": 7}
    assert found[CUDNN]["warm"]["median"] == 119.0 and found[CUDNN]["host"]["median"] == 5.0
    trial._right[JAX] = peers.SelfTimedCall(lambda: 1, torch.tensor)
    waited = trial.measure(own, [JAX])[JAX]
    assert waited == {"warm": trials.TableTimer.times(200.0).fields()}


@pytest.fixture
def settings_of_pytorch():
    """What of PyTorch's settings a test changes is as before after it."""
    backends, precision = torch.backends, torch.get_float32_matmul_precision()
    benchmark, conv = backends.cudnn.benchmark, backends.cudnn.conv.fp32_precision
    yield
    backends.cudnn.benchmark, backends.cudnn.conv.fp32_precision = benchmark, conv
    torch.set_float32_matmul_precision(precision)


def test_fp32_is_tf32_for_everybody_who_is_measured(settings_of_pytorch):
    """Ours and cuDNN follow one setting, a matrix product another; torch.compile asks for either by its older name."""
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.allow_tf32 = "ieee", False
    peers.settle()
    assert schemas._precision(None, torch.float32) == torch.backends.cudnn.conv.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("allowed, said", [(True, "tf32"), (False, "ieee")])
def test_the_card_says_in_which_precision_it_multiplied(trial, settings_of_pytorch, allowed, said):
    torch.backends.cuda.matmul.allow_tf32 = allowed
    card = trial.card()
    assert card["rate_float32"] == 3e14 and card["precision_float32"] in (said, *["none"] * (not allowed))


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "bench.jsonl")


def test_a_setting_is_one_row_with_the_work_and_the_roofline(journal):
    assert run(journal, Answers(times={CUDNN: 150.0}), [setting("concat first")]) == 0
    session, row = journal.rows()
    assert session["facts"] == FACTS and session["card"]["bandwidth"] == 4e12
    p = setting("concat first").problem
    moved = p.bytes + 2 * 4 * p.n * p.co * 4 * 6 * 4
    assert (row["bytes"], row["flops"], row["bound"]) == (moved, p.flops, "memory")
    assert row["roofline_us"] == round(moved / 4e12 * 1e6, 3) and row["follows"] == "concatenation, output first"
    assert row["peers"][CUDNN]["cold"]["median"] == 150.0 and row["peers"][OURS]["outcome"] == "ok"
    assert row["config"] and "default" in row["source"]


def test_a_step_counts_its_tensors_once_forward_and_once_backward(journal):
    run(journal, Answers(), [setting("norm", "step"), setting("norm")])
    _, step, forward = journal.rows()
    x, w, y = 2 * 2 * 8 * 12, 2 * 8 * 6 * 8, 2 * 2 * 6 * 96
    assert forward["bytes"] == x + w + y and step["bytes"] == forward["bytes"] + 2 * x + 2 * w + y
    assert step["flops"] == 3 * forward["flops"] and len(step["config"].split("; ")) == 3
    large = Setting(select(["nnunet_iso128_up4"])[0], "step", "float16", "channels_first")
    found = bench.configs_of(large, H200)
    assert [f.config.path for f in found][1:] == ["onepass"] and found[1].source == "all gradients in one pass"


def test_resuming_measures_what_is_missing_and_what_has_another_config(journal, monkeypatch):
    own = [setting("concat first"), setting("norm")]
    interrupted = Answers({CUDNN: KeyboardInterrupt()})
    run(journal, Answers(), own[:1])
    with pytest.raises(KeyboardInterrupt):
        run(journal, interrupted, own)
    assert len(bench.known(journal.rows())) == 1, "an interrupted setting has no row"
    worker = Answers()
    assert run(journal, worker, own) == 0
    assert {arguments[2] for arguments in worker.asked if arguments[0] == "check"} == {own[1]}
    again = Answers()
    assert run(journal, again, own) == 0 and again.asked == []
    assert run(journal, again, own, (OURS,)) == 0 and again.asked == [], "fewer peers are known, too"
    more = Answers()
    assert run(journal, more, own[:1], (OURS, CUDNN, CUDNN_LAST)) == 0 and len(more.asked) == 5, "more are not"
    monkeypatch.setattr(bench.store, "kernel_digest", lambda: "others")
    run(journal, again, own)
    assert len([a for a in again.asked if a[0] == "measure"]) == 2


def test_who_takes_the_worker_with_it_is_known_and_the_others_are_measured(journal):
    worker = Answers({CUDNN: Failure("illegal access", "CUDA error: misaligned address")})
    run(journal, worker, [setting("norm")], (OURS, CUDNN, CUDNN_LAST))
    row = journal.rows()[-1]["peers"]
    assert row[CUDNN] == {"outcome": "illegal access", "reason": "CUDA error: misaligned address"}
    assert "cold" in row[OURS] and "cold" in row[CUDNN_LAST]
    assert [a[1] for a in worker.asked if a[0] == "check"] == [OURS, CUDNN, OURS, CUDNN_LAST]


def test_the_budget_ends_between_settings(journal, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: clock[0])

    class Slow(Answers):
        def ask(self, method, *arguments, seconds):
            clock[0] += 10.0
            return super().ask(method, *arguments, seconds=seconds)

    own = [setting("concat first"), setting("norm"), setting("relu")]
    assert run(journal, Slow(), own, budget=Budget(35.0)) == 2
    hung = Answers({OURS: Failure("hang", "no answer in 30 s")})
    assert run(journal, hung, own, budget=Budget(5.0)) == 2, "too little time is no hang"
    assert len(bench.known(journal.rows())) == 1


def test_files_have_every_row_once(journal, tmp_path, monkeypatch):
    own = [setting("concat first"), setting("concat first", "step")]
    run(journal, Answers(times={OURS: 80.0}), own)
    monkeypatch.setattr(bench.store, "kernel_digest", lambda: "others")
    run(journal, Answers({CUDNN: {"outcome": "unavailable", "reason": "no"}}, {OURS: 70.0}), own[:1])
    written = records.write(journal, tmp_path)
    content = json.loads(written[0].read_text())
    assert content["schema"] == records.SCHEMA and len(content["sessions"]) == 2
    median = lambda row: row.get("cold", {}).get("median")
    place = lambda row: (row["session"], row["direction"], row["peer"], row["outcome"], median(row))
    assert sorted(map(place, content["rows"]), key=str) == [
        (0, "step", CUDNN, "ok", 100.0), (0, "step", OURS, "ok", 80.0), (1, "forward", CUDNN, "unavailable", None),
        (1, "forward", OURS, "ok", 70.0)]
    with open(written[1], newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4 and {row["peer"]: row["cold_median_us"] for row in table if row["direction"] == "step"} == {
        CUDNN: "100.0", OURS: "80.0"}
    assert table[0]["kernels"] == "k" and table[0]["clock"] == "events"
    assert (table[0]["torch"], table[0]["command"], table[0]["bandwidth"], table[0]["sm_mhz"]) == (
        "2", "triton-conv3dt bench", "4000000000000.0", "1980"), "every row says what it was measured with"
