"""Asynchronous copies into shared memory, cp.async and TMA.

Done at issue ("early") or when somebody waits for them ("late"). Until then their destination is poison.
"""

import numpy as np

from . import tma
from .faults import PARAM_BASE, Fault


class Copies:
    """The copies of a machine."""

    def prepare_copies(self):
        self.committed, self.pending = np.zeros(self.n, np.int64), []  # cp.async, groups by thread
        self.tensor_copies = []

    def copy_async(self, ins, target, source, size, amount, mask):
        """cp.async of `size` bytes of each thread, of which `amount` are read (None: all)."""
        mask = self.wide_mask(mask)
        if mask is not None and not mask.any():
            return
        target, source = self.wide(target), self.wide(source)
        rows = self.shared.index(ins, target, mask, size, self.cta)
        reading = mask if amount is None else self._reading(ins, self.wide(amount), size, mask)
        if self.counters:
            self.counters.copy_async(self, ins, source, target, mask, reading, size)
        if reading is None or reading.any():  # where it may read is checked at once
            self.memory.locate(ins, source, reading, size, False)
        copy = _CopyAsync(ins, rows, source, size, mask, reading, self.committed)
        if self.options.copies == "early":
            copy.run(self, mask)
            return
        here = rows if mask is None else rows[mask]
        if self.shared.races:
            self.shared.race_write(ins, here, size, self.warp if mask is None else self.warp[mask])
        self.shared.poison(here, size)
        self.pending.append(copy)

    def _reading(self, ins, amount, size, mask):
        """Which threads read: all of their bytes, or none, then zeros are copied. None where all do."""
        bad = (amount != 0) & (amount != size) & (True if mask is None else mask)
        if bad.any():
            if (amount[bad] > size).any():
                raise Fault(f"cp.async reads more bytes than it copies; {ins}")
            raise NotImplementedError(f"cp.async of some of the bytes; {ins}")
        reading = (amount != 0) & (True if mask is None else mask)
        return None if reading.all() else reading

    def commit(self, mask):
        """cp.async.commit_group."""
        self.committed = self.committed + (1 if mask is None else np.where(mask, 1, 0))

    def wait(self, count, mask):
        """cp.async.wait_group: all but the newest `count` groups land."""
        if not self.pending:
            return
        done_below, mask, left = self.committed - count, self.wide_mask(mask), []
        for copy in self.pending:
            now = copy.left & (copy.group < done_below)
            if mask is not None:
                now &= mask
            if now.all():
                copy.run(self, None)
                continue
            if now.any():
                copy.run(self, now)
                copy.left &= ~now
            if copy.left.any():
                left.append(copy)
        self.pending = left

    def _map(self, ins, addresses):
        if (addresses != addresses[0]).any():
            raise NotImplementedError(f"several tensor maps in one instruction; {ins}")
        found = self.maps.get(int(addresses[0]) - PARAM_BASE)
        if found is None:
            raise Fault(f"no tensor map lies at {int(addresses[0]):#x}; {ins}")
        return found

    def _corner(self, ins, described, coordinates, threads):
        """Where the box of each thread begins."""
        if len(coordinates) != len(described.box):
            raise Fault(f"{len(coordinates)} coordinates for a tensor map of rank {len(described.box)}; {ins}")
        return np.stack([self.wide(c)[threads].view(np.int32) for c in coordinates], 1)

    def tensor_load(self, ins, target, address, coordinates, barrier, mask, receivers=None):
        """cp.async.bulk.tensor into shared memory, one box for each thread that takes part.

        receivers: the ranks of the CTAs to which it goes, as bits; None: the thread's own.
        """
        threads = self.taking(mask)
        if not len(threads):
            return
        described = self._map(ins, self.wide(address)[threads])
        ctas, reads, away = self.cta[threads], None, None
        if receivers is not None:
            threads, ctas, reads, away = self.multicast(ins, threads, self.wide(receivers)[threads], self.wide(barrier))
        corner, target = self._corner(ins, described, coordinates, threads), self.wide(target)[threads]
        copy = tma.Copy(self, ins, described, target, corner, self.wide(barrier)[threads], ctas, reads)
        if self.shared.races:
            self.shared.check_overwrite(ins, copy.rows, self.warp[threads][:, None], away)
        if self.options.copies == "early":
            self.land(copy, copy.left.copy())
        else:
            copy.poison()
            self.tensor_copies.append(copy)

    def land(self, copy, which):
        """These boxes of a copy arrive, and their mbarriers are told."""
        size = copy.run(which)
        copy.left &= ~which
        for barrier in np.unique(copy.barrier[which]):
            here = which & (copy.barrier == barrier)
            ctas, counts = np.unique(copy.ctas[here], return_counts=True)
            self.barrier_at(copy.ins, int(barrier)).complete(ctas, counts * size)
            self.progress += 1

    def tensor_store(self, ins, source, address, coordinates, mask):
        """cp.async.bulk.tensor from shared memory: done at once."""
        threads = self.taking(mask)
        if not len(threads):
            return
        described = self._map(ins, self.wide(address)[threads])
        corner = self._corner(ins, described, coordinates, threads)
        tma.store(self, ins, described, self.wide(source)[threads], corner, self.cta[threads])


class _CopyAsync:
    """One cp.async of all threads that take part."""

    def __init__(self, ins, rows, source, size, mask, reading, committed):
        self.ins, self.rows, self.source, self.size, self.mask, self.reading = ins, rows, source, size, mask, reading
        self.group = committed.copy()
        self.left = np.ones(len(rows), bool) if mask is None else mask.copy()

    def run(self, machine, which):
        """Copy for these threads (None: all that take part)."""
        which = self.mask if which is None else which
        item, count = {16: (8, 2), 8: (8, 1), 4: (4, 1)}[self.size]
        reading = self.reading if which is None else which if self.reading is None else which & self.reading
        counters, machine.counters = machine.counters, None  # it was counted at issue
        values = machine.memory.load(self.ins, self.source, reading, item, count)
        machine.counters = counters
        if reading is not None:
            values = [np.where(reading, v, v.dtype.type(0)) for v in values]
        data = values[0] if count == 1 else np.stack(values, 1)
        rows, warp = self.rows, machine.warp
        if which is not None:
            rows, data, warp = rows[which], data[which], warp[which]
        machine.shared.note_write(self.ins, rows, self.size, warp, copied=True)
        machine.shared.view(item, count)[rows] = data
