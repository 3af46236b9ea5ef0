"""A config is checked before it is timed, into an output whose surroundings are watched."""

import pytest
import torch

import trials
from triton_conv3dt.checking import trial_tensors
from triton_conv3dt.checking.trial_tensors import RedZone, Wrong
from triton_conv3dt.measuring import peers
from triton_conv3dt.measuring.trial import Trial
from triton_conv3dt.measuring.verification import Unprepared
from triton_conv3dt.planning import search
from triton_conv3dt.problems.problem import DIRECTIONS, LAYOUTS, Problem
from triton_conv3dt.worker import failure

PROBLEMS = {
    f"{direction} {layout}": Problem.of_layer(
        direction, n=2, ci=16, co=8, in_size=(2, 3, 4), kernel=k, stride=2, padding=p, layout=layout, dtype=dtype,
        bias=direction == "forward", activation=activation)
    for direction, k, p, activation in zip(DIRECTIONS, (2, 3, 2), (0, 1, 0), ("relu", None, None))
    for layout, dtype in zip(LAYOUTS, ("float16", "float32"))
}


class Spy(trials.TableTimer):
    """Remembers what was timed, and how."""

    timed = ()

    def device(self, calls, *, cold, seconds):
        assert cold, "a config is chosen by its time with a cold L2"
        self.timed += tuple(calls)
        return super().device(calls, cold=cold, seconds=seconds)


@pytest.mark.parametrize("name", PROBLEMS)
def test_right_configs_are_timed_and_compared(name, device):
    problem, spy = PROBLEMS[name], Spy({"default": 50.0})
    trial = Trial(trials.H200, spy, device)
    config = search.default(problem, trials.H200)
    assert trial.examine(problem, config, 0.1).median == 100.0
    times = trial.compare(problem, {"default": config, "other": config}, 1.0)
    assert {name: t.median for name, t in times.items()} == {"default": 50.0, "other": 100.0, "cudnn": 100.0}
    assert spy.timed == (str(config), "default", "other", "cudnn")


@pytest.mark.parametrize("fault, kind, said", [
    ("wrong result", "wrong result", "1 of"), ("unwritten", "wrong result", "NaN"),
    ("red zone", "red zone", "bytes around the output were overwritten")])
@pytest.mark.parametrize("name", list(PROBLEMS)[::2])
def test_a_config_that_does_harm_is_never_timed(name, fault, kind, said, device):
    problem = PROBLEMS[name]
    config = search.default(problem, trials.H200)
    trial = trials.FaultyTrial(faults={str(config): fault}, where=device)
    trial._timer = spy = Spy()
    with pytest.raises(Wrong, match=said) as raised:
        trial.examine(problem, config, 0.1)
    assert raised.value.kind == kind and spy.timed == ()


def test_a_baseline_that_fails_is_left_out(monkeypatch, device):
    problem = PROBLEMS["grad_input channels_first"]

    def unavailable(*_):
        raise peers.Unavailable("no")

    monkeypatch.setattr(peers, "product", unavailable)
    trial, config = Trial(trials.H200, Spy(), device), search.default(problem, trials.H200)
    assert list(trial.compare(problem, {"default": config}, 1.0)) == ["default"]


def test_a_problem_that_no_config_can_be_tried_for(monkeypatch, device):
    """It is told apart from a config that fails, but not from a lost context."""
    problem = PROBLEMS["forward channels_first"]
    trial = Trial(trials.H200, Spy(), device)
    for raised, expected in ((trials._memory, Unprepared), (trials._illegal_access, RuntimeError)):
        monkeypatch.setattr(trial_tensors, "exact", lambda *_: raised())
        with pytest.raises(expected) as seen:
            trial.examine(problem, search.default(problem, trials.H200), 0.1)
        assert failure(seen.value).kind == ("problem" if expected is Unprepared else "illegal access")


@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "ci"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_red_zone_sees_every_byte_around_the_output(layout, dtype):
    shape = (2, 3, 2, 1, 4)
    truth = torch.arange(48.0).view(shape)
    zone = RedZone(shape, trial_tensors.dense_strides(shape, layout), dtype)
    assert zone.view.stride() == trial_tensors.dense_strides(shape, layout) and zone.view.isnan().all()
    assert zone.view.data_ptr() % 16 == 0
    with pytest.raises(Wrong, match="48 of them NaN"):
        zone.check(truth)
    zone.view.copy_(truth)
    zone.check(truth)
    for place in (0, trial_tensors.GUARD * dtype.itemsize - 1, -trial_tensors.GUARD * dtype.itemsize, -1):
        before = int(zone._bytes[place])
        zone._bytes[place] = 0
        with pytest.raises(Wrong, match="1 of the .* bytes around"):
            zone.check(truth)
        zone._bytes[place] = before
    zone.view[1, 2, 1, 0, 3] += 1
    with pytest.raises(Wrong, match=r"1 of 48 values are wrong; the first at \[1, 2, 1, 0, 3\]: 48.0, expected 47.0"):
        zone.check(truth)
    zone.check(truth, ulps=1 / (40 * torch.finfo(dtype).eps))


def test_integers_stay_exact():
    """A long reduction takes smaller integers; every sum is far below what fp32 counts exactly and fp16 can hold."""
    small = Problem.of_layer(n=1, ci=64, co=8, in_size=(2, 2, 2), kernel=2, stride=2)
    long = Problem.of_layer("grad_weight", n=2, ci=1, co=1, in_size=(96, 96, 96), kernel=1)
    for problem, largest in ((small, 15), (long, 3)):
        given = trial_tensors.integers(problem, "cpu")
        assert given.x.abs().max() <= largest and torch.equal(given.x, given.x.round()) and given.x.unique().numel() > 2
        exact = trial_tensors.exact(problem, given)
        assert exact.abs().max() < trial_tensors.LARGEST_SUM
        assert torch.equal(exact, trial_tensors.exact(problem, given, torch.float64).float())
    assert trial_tensors.integers(small, "cpu", 1).x.equal(trial_tensors.integers(small, "cpu", 1).x)


def test_operands_lie_in_memory_as_the_problem_says():
    for layout in LAYOUTS:
        problem = Problem.of_layer(n=2, ci=3, co=5, in_size=(2, 3, 4), kernel=2, stride=2, layout=layout, residual=True)
        given = trial_tensors.normals(problem, "cpu")
        form = torch.channels_last_3d if layout == "channels_last" else torch.contiguous_format
        for t in (given.x, given.w, given.y, given.residual):
            assert t.is_contiguous(memory_format=form)
        assert given.b is None and given.x.dtype is torch.float16
