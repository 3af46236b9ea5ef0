"""Shared memory. Every access is checked: bounds, alignment, whether anybody wrote what is read, and races.

For races every two bytes have a tag of their last write and of their last read: a clock, and the warp. Barriers note
the clock: what another warp did since the last barrier is ordered by nothing.
"""

import numpy as np

from .faults import SHARED_BASE, UNSIGNED, Fault, all_bytes
from .memory import at_once

SEVERAL = 63  # in place of a warp: read by more than one


class Shared:
    """The shared memory of a batch of CTAs, with shadows: bytes that were written, and tags for races."""

    def __init__(self, machine, ctas: int, size: int, races: bool):
        self.machine, self.size = machine, size
        self.stride = (max(size, 16) + 1023) // 1024 * 1024
        self.bytes = np.full(ctas * self.stride, 0xFF, np.uint8)
        self.ready = np.zeros(ctas * self.stride, np.bool_)
        self.views = {}
        self.races = races
        if races:  # one tag for two bytes: clock * 64 + warp
            self.write_tag = np.zeros(ctas * self.stride // 2, np.int64)
            self.read_tag = np.zeros(ctas * self.stride // 2, np.int64)
            self.fence = np.zeros(ctas, np.int64)  # clock of the last fence.proxy.async
            self.copied = np.zeros(ctas * self.stride // 2, np.bool_)  # what was written last by an asynchronous copy
            self.barrier = np.zeros(ctas, np.int64)  # clock of the last bar.sync of all threads
            self.arrival, self.met = np.zeros((2, ctas), np.int64)  # at the cluster's barrier: last, and when it last opened
            self.clock = 1

    def view(self, item, count, of="bytes"):
        """All of it as rows of `count` items of `item` bytes."""
        key = item, count, of
        found = self.views.get(key)
        if found is None:
            found = getattr(self, of).view(UNSIGNED[item])
            found = self.views[key] = found if count == 1 else found.reshape(-1, count)
        return found

    def index(self, ins, address, mask, width, cta):
        """Row of every thread in rows of `width` bytes, checked; addresses are uint32."""
        offset = address.astype(np.int64) - SHARED_BASE
        misaligned = (offset & (width - 1)) != 0
        self._refuse(ins, offset, misaligned, mask, f"misaligned access of {width} bytes to shared memory")
        outside = (offset < 0) | (offset > self.size - width)
        self._refuse(ins, offset, outside, mask, f"access of {width} bytes outside the {self.size} of shared memory")
        index = (offset + cta * self.stride) // width
        return index if mask is None else np.where(mask, index, 0)

    @staticmethod
    def _refuse(ins, offset, bad, mask, what):
        if mask is not None:
            bad = bad & mask
        if bad.any():
            first = int(offset.reshape(-1)[bad.reshape(-1).argmax()])
            raise Fault(f"{what}, at {first} ({int(bad.sum())} of {bad.size}); {ins}")

    def load(self, ins, address, mask, item, count):
        """`count` arrays of items; where mask is false the values mean nothing."""
        machine, width = self.machine, item * count
        address, mask = machine.wide(address), machine.wide_mask(mask)
        if mask is not None and not mask.any():
            return [np.zeros(machine.n, UNSIGNED[item])] * count
        index = self.index(ins, address, mask, width, machine.cta)
        if machine.counters:
            machine.counters.shared_access(machine, ins, address, mask, width)
        self.note_read(ins, index, mask, width, machine.warp)
        rows = self.view(item, count)[index]
        return [rows] if count == 1 else list(np.ascontiguousarray(rows.T))

    def store(self, ins, address, values, mask, item):
        """Write one item of every array, side by side, for each thread."""
        machine, count = self.machine, len(values)
        address, mask = machine.wide(address), machine.wide_mask(mask)
        if mask is not None and not mask.any():
            return
        index = self.index(ins, address, mask, item * count, machine.cta)
        if machine.counters:
            machine.counters.shared_access(machine, ins, address, mask, item * count)
        values = [machine.wide(v) for v in values]
        rows = values[0] if count == 1 else np.stack(values, 1)
        warp = machine.warp
        if mask is not None:
            index, rows, warp = index[mask], rows[mask], warp[mask]
        view = self.view(item, count)
        changes = None
        if self.races:
            changes = view[index] != rows
            changes = changes if count == 1 else changes.any(1)
        self.note_write(ins, index, item * count, warp, changes)
        view[index] = rows
        at_once(self.machine, ins, view, index, rows, "shared memory")

    def note_read(self, ins, index, mask, width, warp):
        """Rows of `width` bytes are read. warp: who reads, broadcast to index. Returns when they were written, as `race_read` does."""
        item = min(width, 8)
        rows = self.view(item, width // item, "ready")[index]
        bad = (rows != all_bytes(item)) if width <= 8 else (rows != all_bytes(item)).any(-1)
        if mask is not None:
            bad = bad & mask
        if bad.any():
            self.machine.warn("read of shared memory that nobody wrote", ins, int(bad.sum()))
        if self.races and width > 1:
            return self.race_read(ins, index, mask, width, warp)
        return None

    def note_write(self, ins, index, width, warp, changes=None, copied=False):
        """Rows of `width` bytes are written, by an asynchronous copy or not. changes: which get another value; two writers of the same
        are no race."""
        item = min(width, 8)
        self.view(item, width // item, "ready")[index] = all_bytes(item)
        if self.races and width > 1:
            self.race_write(ins, index, width, warp, changes)
            self._rows("copied", width)[index.reshape(-1)] = copied

    def note_barrier(self, ctas):
        """All threads of these CTAs (a mask; None: of all) have met."""
        if self.races:
            self.clock += 1
            self.barrier[slice(None) if ctas is None else ctas] = self.clock

    def note_arrival(self, ctas):
        """Threads of these CTAs arrive at the barrier of their cluster."""
        if self.races:
            self.clock += 1
            self.arrival[ctas] = self.clock

    def note_meeting(self, ctas, ordered):
        """All threads of the clusters of these CTAs have arrived. ordered: a CTA sees what its threads wrote before."""
        if self.races:
            self.met[ctas] = self.arrival[ctas]
            if ordered:
                self.barrier[ctas] = np.maximum(self.barrier[ctas], self.arrival[ctas])

    def _rows(self, of, width):
        """What every two bytes have, as that of rows of `width` bytes."""
        return getattr(self, of).reshape(-1, width // 2)

    def _since(self, index, width, of="barrier"):
        """The clock of the last barrier of each row's CTA, one column."""
        return getattr(self, of)[index // (self.stride // width), None]

    def race_read(self, ins, index, mask, width, warp):
        """Warn of what other warps wrote here since the last barrier, and tag the rows. Returns the tags of who wrote them."""
        warp = np.broadcast_to(warp, index.shape)
        if mask is not None:
            mask = np.broadcast_to(mask, index.shape)
            index, warp = index[mask], warp[mask]
        index, warp = index.reshape(-1), warp.reshape(-1, 1)
        tags, reads = self._rows("write_tag", width).take(index, 0), self._rows("read_tag", width)
        latest = self._since(index, width) * 64 + 63  # no tag from before the barrier is greater
        bad = _others(tags, latest, warp)
        if bad is not None and bad.any():
            self.machine.warn("race: read of what another warp wrote with no barrier between", ins, int(bad.sum()))
        several = _others(reads.take(index, 0), latest, warp)
        self.clock += 1
        # One instruction may read a cell by several warps; what is left then is the last of them, so mark twice.
        marks = self.clock * 64 + (warp if several is None else np.where(several, SEVERAL, warp))
        reads[index] = marks
        mixed = reads.take(index, 0) != marks
        if mixed.any():
            row, cell = mixed.nonzero()
            reads[index[row], cell] = self.clock * 64 + SEVERAL
        return tags

    def race_write(self, ins, index, width, warp, changes=None):
        """Warn of what other warps did here since the last barrier, and tag the rows."""
        index, warp = index.reshape(-1), np.broadcast_to(warp, index.shape).reshape(-1, 1)
        changes = True if changes is None else changes.reshape(-1, 1)
        latest = self._since(index, width) * 64 + 63
        for of, what in (("read_tag", "write over what another warp read"), ("write_tag", "two warps write")):
            bad = _others(self._rows(of, width).take(index, 0), latest, warp)
            if bad is not None and (bad & changes).any():
                self.machine.warn(f"race: {what} with no barrier between", ins, int((bad & changes).sum()))
        self.clock += 1
        self._rows("write_tag", width)[index] = self.clock * 64 + warp

    def check_overwrite(self, ins, index, warp, away=None):
        """A tensor copy into rows of 16 bytes begins: nobody else may have used them since the last barrier.

        away: which of the boxes go to another CTA, which only the cluster's barrier keeps from using them; None: none.
        """
        warp = np.broadcast_to(warp, index.shape).reshape(-1, 1)
        columns, index = index.shape[1], index.reshape(-1)
        since = self._since(index, 16)
        if away is not None:
            away = np.repeat(away, columns)[:, None]
            warp, since = np.where(away, -1, warp), np.where(away, self._since(index, 16, "met"), since)
        for of in ("read_tag", "write_tag"):
            bad = _others(self._rows(of, 16).take(index, 0), since * 64 + 63, warp)
            if bad is not None and bad.any():
                what = "race: a tensor copy over what another warp uses with no barrier between"
                self.machine.warn(what, ins, int(bad.sum()))

    def poison(self, index, width):
        """Rows of `width` bytes whose contents are not there yet: NaN in every format, and not readable."""
        item = min(width, 8)
        self.view(item, width // item)[index] = np.uint64(2 ** (8 * item) - 1).astype(UNSIGNED[item])
        self.view(item, width // item, "ready")[index] = 0


def _others(tags, latest, warp):
    """Which tags are newer than `latest` and another warp's; None where none is newer."""
    newer = tags > latest
    return newer & ((tags & 63) != warp) if newer.any() else None
