"""How a GPU is timed, by way of a CUDA that only notes what it is asked: the order of things, and the statistics."""

from types import SimpleNamespace

import pytest

from triton_conv3dt.measuring import timing
from triton_conv3dt.measuring.timing import EventTimer, Times


class FakeCuda:
    """Device and host clocks in microseconds: work that is handed in takes its time after what was handed in before."""

    def __init__(self):
        self.host, self.free, self.log = 0.0, 0.0, []
        self.Event = lambda enable_timing: FakeEvent(self)

    def work(self, name, microseconds, host=0.0):
        self.log.append(name)
        self.host += host
        self.free = max(self.free, self.host) + microseconds

    def _sleep(self, cycles):
        self.work("sleep", cycles / timing.CYCLES_PER_SECOND * 1e6)

    def synchronize(self, device=None):
        self.log.append("wait")
        self.host = max(self.host, self.free)


class FakeEvent:
    def __init__(self, cuda):
        self.cuda = cuda

    def record(self):
        self.cuda.log.append("event")
        self.at = max(self.cuda.free, self.cuda.host)

    def elapsed_time(self, other):
        return (other.at - self.at) / 1e3


@pytest.fixture
def cuda(monkeypatch):
    cuda = FakeCuda()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: cuda.host / 1e6)
    return cuda


@pytest.fixture
def timer(cuda):
    timer = EventTimer.__new__(EventTimer)
    timer._torch, timer._cuda = SimpleNamespace(cuda=cuda), "cuda:0"
    timer._flush = SimpleNamespace(zero_=lambda: cuda.work("flush", 60.0))
    return timer


def test_device_time_has_no_part_of_the_host_in_it(timer, cuda):
    """A call of 5 us that takes the host 300 us to hand in: an event pair alone would show 300."""
    slow = lambda: cuda.work("slow", 5.0, host=300.0)
    found = timer.device({"slow": slow}, cold=True, seconds=0.1)["slow"]
    assert found.median == pytest.approx(5.0) and found.p20 == pytest.approx(5.0) and found.rounds >= timing.FEWEST


@pytest.mark.parametrize("cold, expected", [(True, ["sleep", "flush", "event", "a", "event"]),
                                            (False, ["sleep", "a", "event", "a", "event"])])
def test_cold_calls_find_another_tensor_in_the_cache_and_warm_ones_follow_themselves(timer, cuda, cold, expected):
    timer.device({"a": lambda: cuda.work("a", 5.0)}, cold=cold, seconds=0.001)
    first = cuda.log.index("sleep")
    assert cuda.log[first:first + 5] == expected
    assert cuda.log[:first].count("a") > timing.WARM_UP, "it is warmed up before"


def test_calls_take_turns_in_alternating_order(timer, cuda):
    calls = {name: lambda name=name: cuda.work(name, 5.0) for name in "abc"}
    timer.device(calls, cold=True, seconds=0.01)
    log = [name for name in cuda.log[cuda.log.index("sleep"):] if name in calls]
    assert "".join(log[:12]) == "abccbaabccba"


def test_the_time_for_measuring_is_kept_to(timer, cuda):
    quick = timer.device({"a": lambda: cuda.work("a", 1.0, host=1.0)}, cold=True, seconds=10)["a"]
    assert quick.rounds == timing.MOST
    slow = timer.device({"a": lambda: cuda.work("a", 1e6)}, cold=True, seconds=0.1)["a"]
    assert slow.rounds == timing.FEWEST
    some = timer.device({"a": lambda: cuda.work("a", 4000.0)}, cold=True, seconds=0.1)["a"]
    assert timing.FEWEST < some.rounds < timing.MOST


def test_host_time_is_what_a_call_costs_before_it_returns(timer, cuda):
    assert timer.host(lambda: cuda.work("a", 50.0, host=7.0)).median == pytest.approx(7.0)
    assert timer.wall(lambda: (cuda.work("a", 50.0, host=7.0), cuda.synchronize())).median == pytest.approx(57.0)


def test_summaries():
    assert Times.of([5.0]) == Times(5.0, 5.0, 5.0, 1)
    found = Times.of([float(i) for i in range(100, -1, -1)])
    assert found == Times(50.0, 20.0, 80.0, 101) and found.noise == 30.0
    assert Times(1.23456, 1.0, 2.0, 7).fields() == {"median": 1.235, "p20": 1.0, "p80": 2.0, "rounds": 7}
