"""Tensor maps and the bulk copies of tiles through them (TMA, tile mode, element strides of 1)."""

import numpy as np

from .faults import UNSIGNED, Fault, all_bytes
from ..ptx.arithmetic import to_tf32
from .tensorcore import swizzled

SPANS = {0: None, 1: 32, 2: 64, 3: 128}  # CU_TENSOR_MAP_SWIZZLE_*: bytes of the inner box at most
MASKS = {0: 0, 1: 1, 2: 3, 3: 7}
ELEMENT_SIZES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 5: 8, 6: 2, 7: 4, 8: 8, 9: 2, 10: 4, 11: 4, 12: 4}  # CUtensorMapDataType

ROUNDS_TO_TF32 = 11  # of these
NANS = {2: 0x7FFF, 4: 0x7FFFFFFF}
TARGET_ALIGNMENT = 128  # bytes, in shared memory
NOBODY = 62  # in place of a warp


class TensorMap:
    """What cuTensorMapEncodeTiled makes; sizes innermost first, strides in bytes. Refuses what it refuses.

    box, shape and strides are given as Triton has them: outermost first, strides in elements.
    """

    def __init__(self, address, swizzle, item, kind, box, shape, strides, fill_nan):
        rank = len(box)
        self.address, self.swizzle, self.item, self.kind, self.fill_nan = address, swizzle, item, kind, bool(fill_nan)
        self.box, self.shape = list(box)[::-1], [int(s) for s in shape][::-1]
        self.strides = [item] + [item * int(s) for s in list(strides)[-2::-1]]  # bytes
        self.bytes = item * int(np.prod(self.box))
        why = self._refused(rank, kind) or self._refused_box()
        if why:
            raise Fault(f"cuTensorMapEncodeTiled refuses: {why} (box {self.box}, shape {self.shape}, strides "
                        f"{self.strides} bytes, address {address:#x}, swizzle {swizzle}, items of {item} bytes)")
        if SPANS[swizzle] and self.box[0] * item != SPANS[swizzle]:
            raise NotImplementedError("an inner side of the box shorter than the span of the swizzle")
        self.rounds = kind == ROUNDS_TO_TF32

    def _refused(self, rank, kind) -> str | None:
        if not 1 <= rank <= 5 or len(self.shape) != rank or len(self.strides) != rank:
            return "the rank"
        if ELEMENT_SIZES.get(kind) != self.item:
            return f"data type {kind} has no items of {self.item} bytes"
        if self.address % 16:
            return "the address is no multiple of 16"
        if any(s % 16 or not 0 < s < 2**40 for s in self.strides[1:]):
            return "a stride is no multiple of 16 bytes, is not positive or is beyond 2**40"
        if any(not 0 < s <= 2**32 for s in self.shape):
            return "a size is not between 1 and 2**32"
        return None

    def _refused_box(self) -> str | None:
        if any(not 0 < b <= 256 for b in self.box):
            return "a side of the box is not between 1 and 256"
        if self.box[0] * self.item % 16:
            return "the inner side of the box is no multiple of 16 bytes"
        if self.swizzle not in SPANS:
            raise NotImplementedError(f"swizzle mode {self.swizzle}")
        if SPANS[self.swizzle] and self.box[0] * self.item > SPANS[self.swizzle]:
            return "the inner side of the box is beyond the span of the swizzle"
        return None

    def places(self, coordinates):
        """coordinates [copies, rank] -> byte offsets from the address [copies, items] and which items are inside."""
        offset, inside = np.zeros((len(coordinates), 1), np.int64), np.ones((len(coordinates), 1), bool)
        for d in reversed(range(len(self.box))):  # the outermost first, so that the innermost varies fastest
            at = coordinates[:, d, None].astype(np.int64) + np.arange(self.box[d])
            fine = (at >= 0) & (at < self.shape[d])
            offset = (offset[:, :, None] + (at * self.strides[d])[:, None, :]).reshape(len(at), -1)
            inside = (inside[:, :, None] & fine[:, None, :]).reshape(len(at), -1)
        return offset, inside

    def shared_rows(self, machine, ins, target, ctas):
        """Rows of 16 bytes of shared memory [copies, chunks] where the box lies."""
        if (target % TARGET_ALIGNMENT != 0).any():
            raise Fault(f"a tensor copy to shared address {int(target[0])}, no multiple of {TARGET_ALIGNMENT}; {ins}")
        linear = target.astype(np.int64)[:, None] + np.arange(0, self.bytes, 16)
        return machine.shared.index(ins, swizzled(linear, MASKS[self.swizzle]), None, 16, ctas[:, None])

    def in_memory(self, machine, ins, coordinates, verb):
        """(region, byte offsets in it, which items are inside) of the boxes at these coordinates."""
        region = machine.region_of(ins, self.address)
        offset, inside = self.places(coordinates)
        offset = offset + (self.address - region.lo)
        if inside.any():
            low, high = int(offset[inside].min()), int(offset[inside].max()) + self.item
            if low < 0 or high > region.size:
                raise Fault(f"a tensor copy {verb} bytes {low} to {high} of the {region.size} of {region.name}; {ins}")
        return region, offset, inside


class Copy:
    """One instruction's boxes, one for each thread that takes part; copied at once or when somebody waits for them."""

    def __init__(self, machine, ins, described, target, coordinates, barrier, ctas, reads):
        """reads: of boxes that several CTAs receive, the one that is counted as read from memory; None: all."""
        self.machine, self.ins, self.map, self.ctas, self.barrier = machine, ins, described, ctas, barrier
        self.reads = np.ones(len(ctas), bool) if reads is None else reads
        self.coordinates, self.left = coordinates, np.ones(len(ctas), bool)
        self.rows = described.shared_rows(machine, ins, target, ctas)

    def poison(self):
        """Until it lands, its destination is not to be read."""
        self.machine.shared.poison(self.rows, 16)

    def run(self, which) -> int:
        """Copy for these (a mask of the taking threads). Returns the bytes of a box."""
        machine, m = self.machine, self.map
        region, offset, inside = m.in_memory(machine, self.ins, self.coordinates[which], "reads")
        index = np.where(inside, offset // m.item, 0)
        rows = region.view(m.item)[index] if region.size else np.zeros(index.shape, UNSIGNED[m.item])
        if region.read is not None:
            region.view(m.item, 1, "read")[index[inside]] = all_bytes(m.item)
        if not _allowed(region, offset[inside]):
            machine.warn("tensor copy reads outside a view", self.ins, 1)
        fill = NANS[m.item] if m.fill_nan else 0
        data = np.ascontiguousarray(np.where(inside, rows, rows.dtype.type(fill)))
        if m.rounds:
            data = to_tf32(data.view(np.float32), away=False)  # as triton#11751 found on hardware
        data, target = data.view(np.uint64).reshape(len(index), -1, 2), self.rows[which]
        # The copy engine is no warp: what it writes is ordered by its mbarrier, and is no race.
        machine.shared.view(8, 2, "ready")[target] = all_bytes(8)
        machine.shared.view(8, 2)[target] = data
        if machine.counters:
            machine.counters.tensor_copy(machine, self.ins, m, offset[self.reads[which]], inside[self.reads[which]])
        return m.bytes


def store(machine, ins, m, source, coordinates, ctas):
    """Boxes from shared memory, one for each of these threads: written at once."""
    rows = m.shared_rows(machine, ins, source, ctas)
    if not machine.shared.races:
        machine.shared.note_read(ins, rows, None, 16, NOBODY)
    data = np.ascontiguousarray(machine.shared.view(8, 2)[rows]).view(UNSIGNED[m.item]).reshape(len(rows), -1)
    region, offset, inside = m.in_memory(machine, ins, coordinates, "writes")
    if not _allowed(region, offset[inside]):
        raise Fault(f"a tensor copy writes outside the view of {region.name}; {ins}")
    region.view(m.item)[offset[inside] // m.item] = data[inside]
    if region.written is not None:
        region.view(m.item, 1, "written")[offset[inside] // m.item] = all_bytes(m.item)


def _allowed(region, offsets) -> bool:
    return region.allowed is None or bool(region.allowed.view(np.uint8).reshape(-1)[offsets].all())
