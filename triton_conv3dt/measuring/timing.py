"""Measuring on a GPU: device time with a cold or a warm L2, host time, and what this very card can do.

Only `tune` and `bench` measure, and nothing else may import this file.
"""

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Callable, Protocol

WARM_UP, FEWEST, MOST = 2, 5, 100  # calls before the first measurement, and measurements of a call
HOST_CALLS = 20  # between two synchronisations, so that the queue of the device never fills
CYCLES_PER_SECOND = 2e9  # about the clock of any recent GPU: how long the device is held back need not be exact
COPY_BYTES, MATMUL_SIZE = 2**30, 8192
FLUSH_BYTES = 2**28  # where the driver does not say how large the L2 is


@dataclass(frozen=True)
class Times:
    """Microseconds of one call: median, 20th and 80th percentile of so many measurements."""

    median: float
    p20: float
    p80: float
    rounds: int

    @staticmethod
    def of(microseconds: list[float]) -> "Times":
        """The summary of measurements in microseconds; there is at least one."""
        ordered = sorted(microseconds)
        at = lambda share: ordered[round(share * (len(ordered) - 1))]
        return Times(statistics.median(ordered), at(0.2), at(0.8), len(ordered))

    @property
    def noise(self) -> float:
        """Half the distance between the percentiles."""
        return (self.p80 - self.p20) / 2

    def fields(self) -> dict[str, float]:
        """As a row of a journal keeps it; to a nanosecond."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


class Timer(Protocol):
    """What tuning and benchmarking need of a clock. Tests hand in one that reads from a table."""

    def device(self, calls: dict[str, Callable], *, cold: bool, seconds: float) -> dict[str, Times]:
        """Device time of every call, measured in turns, for about so many seconds in all."""

    def host(self, call: Callable) -> Times:
        """What a call costs before it returns."""

    def wall(self, call: Callable) -> Times:
        """From the call to its end, for one that waits for a result of its own."""

    def bandwidth(self) -> float:
        """Bytes per second of a large copy, counting what is read and what is written."""

    def matmul_rate(self, dtype: str) -> float:
        """FLOP per second of a large matrix product; float32 in the precision that PyTorch is set to."""


def synchronize(where) -> None:
    """Wait for a torch device; raises where its context is lost."""
    import torch

    if torch.device(where).type == "cuda":
        torch.cuda.synchronize(where)


class EventTimer:
    """Times by CUDA events on the current stream of one device.

    Before each measurement the device is held back for longer than the host needs to hand in the call, so that what
    the host does is never part of device time, however small the kernel. A cold call finds another tensor in the L2; a
    warm one follows itself.
    """

    def __init__(self, index: int = 0):
        import torch

        self._torch, self._cuda = torch, torch.device("cuda", index)
        l2 = getattr(torch.cuda.get_device_properties(index), "L2_cache_size", 0)
        self._flush = torch.empty(max(4 * l2, FLUSH_BYTES), dtype=torch.int8, device=self._cuda)

    def device(self, calls: dict[str, Callable], *, cold: bool = True, seconds: float = 0.2) -> dict[str, Times]:
        held_back = {name: self._prepare(call) for name, call in calls.items()}
        found = {name: [] for name in calls}
        order, deadline, rounds = list(calls), time.perf_counter() + seconds, 0
        while rounds < FEWEST or (rounds < MOST and time.perf_counter() < deadline):
            events = [(name, *self._record(calls[name], held_back[name], cold)) for name in order]
            self._torch.cuda.synchronize(self._cuda)
            for name, start, end in events:
                found[name].append(start.elapsed_time(end) * 1e3)
            order.reverse()  # nobody always follows the same neighbour
            rounds += 1
        return {name: Times.of(times) for name, times in found.items()}

    def _prepare(self, call: Callable) -> int:
        """Warm the call up; the cycles for which the device is to be held back before it."""
        for _ in range(WARM_UP):
            call()
        self._torch.cuda.synchronize(self._cuda)
        start = time.perf_counter()
        call()
        host = time.perf_counter() - start
        self._torch.cuda.synchronize(self._cuda)
        return int(CYCLES_PER_SECOND * min(3 * host + 50e-6, 20e-3))

    def _record(self, call: Callable, held_back: int, cold: bool):
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._torch.cuda._sleep(held_back)
        if cold:
            self._flush.zero_()
        else:
            call()
        start.record()
        call()
        end.record()
        return start, end

    def host(self, call: Callable) -> Times:
        found = []
        for _ in range(FEWEST):
            self._torch.cuda.synchronize(self._cuda)
            for _ in range(HOST_CALLS):
                start = time.perf_counter()
                call()
                found.append((time.perf_counter() - start) * 1e6)
        self._torch.cuda.synchronize(self._cuda)
        return Times.of(found)

    def wall(self, call: Callable) -> Times:
        found = []
        for round_ in range(WARM_UP + 3 * FEWEST):
            start = time.perf_counter()
            call()
            if round_ >= WARM_UP:
                found.append((time.perf_counter() - start) * 1e6)
        return Times.of(found)

    def bandwidth(self) -> float:
        source = self._torch.empty(COPY_BYTES, dtype=self._torch.int8, device=self._cuda).zero_()
        target = self._torch.empty_like(source)
        return 2 * COPY_BYTES / self._seconds(lambda: target.copy_(source))

    def matmul_rate(self, dtype: str) -> float:
        kind, size = getattr(self._torch, dtype), MATMUL_SIZE
        a, b = (self._torch.randn(size, size, device=self._cuda).to(kind) for _ in range(2))
        product = self._torch.empty_like(a)
        return 2 * size**3 / self._seconds(lambda: self._torch.mm(a, b, out=product))

    def _seconds(self, call: Callable) -> float:
        return self.device({"": call}, cold=False)[""].median / 1e6
