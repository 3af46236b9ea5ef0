"""Global memory: the storages behind the arguments. Every access is checked for bounds and alignment.

An address is the real address of the CPU tensor, so pointers have the alignment that the kernel was compiled for.
Values travel as unsigned numpy arrays, one item per thread; a mask says which threads take part.
"""

import ctypes

import numpy as np

from .faults import UNSIGNED, Fault, all_bytes


class Region:
    """The storage behind one or more arguments. `allowed` narrows it to some bytes (None: all)."""

    def __init__(self, name: str, address: int, size: int, allowed=None):
        if address % 16:
            raise Fault(f"argument {name}: its storage begins at {address:#x}, which is no multiple of 16")
        self.name, self.lo, self.size, self.allowed = name, address, size, allowed
        self.bytes = np.zeros(0, np.uint8)
        if size:
            self.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self.low = np.uint64(address)
        self.views = {}
        self.read = self.written = None  # which bytes were touched; set by counters
        self.rewritten = 0

    def view(self, item: int, count: int = 1, of: str = "bytes"):
        """The region as rows of `count` items of `item` bytes."""
        key = item, count, of
        found = self.views.get(key)
        if found is None:
            raw = getattr(self, of)
            raw = raw.view(np.uint8)[:raw.nbytes // (item * count) * (item * count)]
            found = raw.view(UNSIGNED[item])
            found = self.views[key] = found if count == 1 else found.reshape(-1, count)
        return found

    def watch(self):
        """Remember from now on which bytes are read and written."""
        if self.read is None:
            self.read, self.written = np.zeros(self.size, np.bool_), np.zeros(self.size, np.bool_)


class Global:
    """All regions of a launch."""

    def __init__(self, machine, regions):
        self.machine, self.regions = machine, regions

    def locate(self, ins, address, mask, width, store):
        """[(region, mask, byte offsets)]: which threads go where. Raises Fault for an access to nowhere."""
        last = self.machine.last_region.get(ins.line)  # mostly, an instruction reads the same argument again
        if last is not None and last.size >= width:
            offset = address - last.low
            outside = offset > np.uint64(last.size - width)
            if not (outside if mask is None else outside & mask).any():
                self._aligned(ins, address, mask, width)
                self._narrow(ins, last, address, mask, width, store)
                return [(last, mask, offset)]
        rest = np.ones(self.machine.n, bool) if mask is None else mask.copy()
        found = []
        for region in self.regions:
            if region.size < width or not rest.any():
                continue
            offset = address - region.low
            here = rest & (offset <= np.uint64(region.size - width))
            if here.any():
                found.append((region, here, offset))
                rest &= ~here
        if rest.any():
            raise Fault(self._nowhere(ins, address, rest, width, store))
        self._aligned(ins, address, mask, width)
        for region, here, offset in found:
            self._narrow(ins, region, address, here, width, store)
        if len(found) == 1:
            self.machine.last_region[ins.line] = found[0][0]
            return [(found[0][0], mask, found[0][2])]
        return found

    def _nowhere(self, ins, address, threads, width, store) -> str:
        where = int(address[threads.argmax()])
        inside = lambda r: r.lo <= where < r.lo + r.size
        distance = lambda r: 0 if inside(r) else min(abs(where - r.lo), abs(where - r.lo - r.size))
        near = min(self.regions, default=None, key=distance)
        text = f"{where - near.lo} bytes from the start of {near.name}, which has {near.size}" if near else "no regions"
        return (f"{_verb(store)} of {width} bytes outside every argument, at {where:#x} ({text}), "
                f"by {self._who(threads)}; {ins}")

    def _who(self, threads) -> str:
        """These threads (a mask) in words."""
        return f"{self.machine.who(int(threads.argmax()))} and {int(threads.sum()) - 1} other threads"

    def _aligned(self, ins, address, mask, width):
        if width == 1:
            return
        bad = (address & np.uint64(width - 1)) != 0
        if mask is not None:
            bad = bad & mask
        if bad.any():
            where = int(address[bad.argmax()])
            raise Fault(f"misaligned access of {width} bytes at {where:#x} by {self._who(bad)}; {ins}")

    def _narrow(self, ins, region, address, mask, width, store):
        """Writes beside the views are refused, reads warned of."""
        if region.allowed is None:
            return
        offset = (address - region.low).astype(np.int64)
        if mask is not None:
            offset = np.where(mask, offset, 0)
        item = min(width, 8)
        row = region.view(item, width // item, "allowed")[offset // width]
        bad = row != all_bytes(item)
        bad = bad if row.ndim == 1 else bad.any(1)
        if mask is not None:
            bad = bad & mask
        if bad.any():
            where = int(offset[bad.argmax()])
            text = (f"{_verb(store)} of {width} bytes outside the view of {region.name}, {where} bytes into its "
                    f"storage, by {self._who(bad)}; {ins}")
            if store:
                raise Fault(text)
            self.machine.warn("read outside a view", ins, int(bad.sum()), text)

    def load(self, ins, address, mask, item, count):
        """`count` arrays of items; where mask is false the values mean nothing."""
        machine, width = self.machine, item * count
        address, mask = machine.wide(address), machine.wide_mask(mask)
        if mask is not None and not mask.any():
            return [np.zeros(machine.n, UNSIGNED[item])] * count
        places = self.locate(ins, address, mask, width, False)
        if machine.counters:
            machine.counters.global_access(machine, ins, address, mask, width, "load")
        result = None
        for region, here, offset in places:
            index = offset if here is None else np.where(here, offset, np.uint64(0))
            index = (index // np.uint64(width)).astype(np.int64)
            if region.read is not None:
                touch(region, "read", index, here, item, count)
            rows = region.view(item, count)[index]
            if result is None:
                result = rows
            else:
                result = np.where(here if count == 1 else here[:, None], rows, result)
        return [result] if count == 1 else list(np.ascontiguousarray(result.T))

    def store(self, ins, address, values, mask, item):
        """Write one item of every array, side by side, for each thread."""
        machine, count = self.machine, len(values)
        address, mask = machine.wide(address), machine.wide_mask(mask)
        if mask is not None and not mask.any():
            return
        places = self.locate(ins, address, mask, item * count, True)
        if machine.counters:
            machine.counters.global_access(machine, ins, address, mask, item * count, "store")
        values = [machine.wide(v) for v in values]
        rows = values[0] if count == 1 else np.stack(values, 1)
        for region, here, offset in places:
            index = (offset // np.uint64(item * count)).astype(np.int64)
            data = rows
            if here is not None:
                index, data = index[here], rows[here]
            if region.written is not None:
                region.rewritten += touch(region, "written", index, None, item, count)
            view = region.view(item, count)
            view[index] = data
            at_once(machine, ins, view, index, data, region.name)


def _verb(store) -> str:
    return "write" if store else "read"


def at_once(machine, ins, view, index, data, name):
    """One instruction's threads that write different values to one place: which of them stays is up to the hardware."""
    differs = view[index] != data
    if differs.any():
        machine.warn("several threads write different values to one place at once", ins, int(differs.sum()),
                     f"several threads write different values to one place of {name} at once; {ins}")


def touch(region, of, index, mask, item, count) -> int:
    """Mark bytes; returns how many that are written had been written before."""
    if mask is not None:
        index = index[mask]
    marks = region.view(item, count, of)
    before = int(np.count_nonzero(marks[index])) * item if of == "written" else 0
    marks[index] = all_bytes(item)
    return before
