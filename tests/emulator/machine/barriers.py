"""mbarriers: objects in shared memory that count arrivals and bytes, and turn from phase to phase."""

import numpy as np

from .faults import Deadlock, Fault


class Barriers:
    """The mbarriers of a machine, by their address in shared memory, which all CTAs of the batch share."""

    def prepare_barriers(self):
        self.barriers, self.progress = {}, 0  # progress: counts what somebody may wait for
        self.stalled, self.progress_then = None, 0  # threads that wait for a phase, since so much progress

    def barrier_at(self, ins, address):
        """The mbarrier at an address."""
        found = self.barriers.get(address)
        if found is None:
            raise Fault(f"no mbarrier lies at shared address {address}; {ins}")
        return found

    def _each_barrier(self, address, mask):
        """(address, threads) of those that take part."""
        threads = self.taking(mask)
        address = self.wide(address)[threads]
        for a in np.unique(address):
            yield int(a), threads[address == a]

    def barrier_init(self, ins, address, count, mask):
        """mbarrier.init."""
        for a, threads in self._each_barrier(address, mask):
            if a % 8:
                raise Fault(f"a misaligned mbarrier at {a}; {ins}")
            self.shared.index(ins, np.array([a], np.uint32), None, 8, 0)
            self.barriers.setdefault(a, _Barrier(self.count)).init(ins, self.cta[threads], count)

    def barrier_inval(self, ins, address, count, mask):
        """mbarrier.inval: its place is memory again, with nothing in it."""
        for a, threads in self._each_barrier(address, mask):
            barrier = self.barrier_at(ins, a)
            barrier.check(ins, self.cta[threads])
            barrier.alive[self.cta[threads]] = False
            rows = self.shared.index(ins, np.full(len(threads), a, np.uint32), None, 8, self.cta[threads])
            self.shared.poison(rows, 8)

    def barrier_fence(self, ctas):
        """The other CTAs of the cluster will see the mbarriers that these have initialised."""
        for barrier in self.barriers.values():
            barrier.seen[ctas] = True

    def barrier_arrive(self, ins, address, extra, expect, mask):
        """mbarrier.arrive: `extra` arrivals, or one that expects so many bytes."""
        for a, threads in self._each_barrier(address, mask):
            barrier = self.barrier_at(ins, a)
            barrier.check(ins, self.cta[threads])
            amount = self.wide(extra)[threads].astype(np.int64)
            for thread, n in zip(threads, amount):
                barrier.arrive(ins, int(self.cta[thread]), 1 if expect else int(n), int(n) if expect else 0)
            self.progress += 1

    def barrier_wait(self, ins, address, parity, mask):
        """Whether the phase of this parity is complete, for each thread; late copies land now."""
        result, parity = np.zeros(self.n, bool), self.wide(parity)
        for a, threads in self._each_barrier(address, mask):
            barrier, ctas = self.barrier_at(ins, a), self.cta[threads]
            barrier.check(ins, ctas)
            complete = (barrier.phase[ctas] & 1) != parity[threads]
            if not complete.all() and self.tensor_copies:
                self._land_for(a, ctas[~complete])
                complete = (barrier.phase[ctas] & 1) != parity[threads]
            result[threads] = complete
        wide = self.wide_mask(mask)
        self._stall(ins, result, ~result if wide is None else wide & ~result)
        return result

    def _land_for(self, address, ctas):
        """Late copies of these CTAs that report to this mbarrier arrive."""
        wanted = np.zeros(self.count, bool)
        wanted[ctas] = True
        for copy in self.tensor_copies:
            which = copy.left & (copy.barrier == address) & wanted[copy.ctas]
            if which.any():
                self.land(copy, which)
        self.tensor_copies = [copy for copy in self.tensor_copies if copy.left.any()]

    def _stall(self, ins, result, missing):
        """Remember who has to wait, so that others run first."""
        if missing.any():
            if self.stalled is not None:
                self.stalled = self.stalled | missing
                return
            self.stalled, self.progress_then = missing, self.progress
            if missing.all():
                raise Deadlock(f"deadlock: all threads wait for an mbarrier; {ins}")
        elif self.stalled is not None:
            self.stalled = self.stalled & ~result
            if not self.stalled.any():
                self.stalled = None


class _Barrier:
    """An mbarrier at one address, in every CTA of the batch."""

    def __init__(self, ctas):
        self.count, self.pending, self.bytes, self.phase = (np.zeros(ctas, np.int64) for _ in range(4))
        self.alive, self.seen = np.zeros((2, ctas), bool)  # seen: by the other CTAs of the cluster

    def init(self, ins, ctas, count):
        if self.alive[ctas].any():
            raise Fault(f"an mbarrier is initialised while it is in use; {ins}")
        self.alive[ctas], self.count[ctas], self.pending[ctas] = True, count, count
        self.bytes[ctas], self.phase[ctas], self.seen[ctas] = 0, 0, False

    def check(self, ins, ctas):
        if not self.alive[ctas].all():
            raise Fault(f"an mbarrier that is not initialised is used; {ins}")

    def arrive(self, ins, cta, arrivals, expected):
        self.bytes[cta] += expected
        self.pending[cta] -= arrivals
        if self.pending[cta] < 0:
            raise Fault(f"more arrivals at an mbarrier than it counts; {ins}")
        self._turn(cta)

    def complete(self, ctas, sizes):
        """So many bytes have arrived."""
        for cta, size in zip(ctas, sizes):
            self.bytes[cta] -= size
            self._turn(cta)

    def _turn(self, cta):
        if self.pending[cta] == 0 and self.bytes[cta] == 0:
            self.phase[cta] += 1
            self.pending[cta] = self.count[cta]
