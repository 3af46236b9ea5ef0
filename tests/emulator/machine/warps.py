"""What the threads of a warp do together: shuffles, votes, elections and sums."""

import numpy as np

REDUCTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
              "xor": np.bitwise_xor}


class Warps:
    """The warps of a machine."""

    def elect(self, members, mask):
        """elect.sync: (the first lane that takes part, whether a thread is it)."""
        mask = self.wide_mask(mask)
        if mask is None:
            return np.zeros(self.n, np.uint32), self.lane == 0
        lanes = mask.reshape(-1, 32)
        leader = np.repeat(lanes.argmax(1).astype(np.uint32), 32)
        return leader, (self.lane == leader) & mask

    def shuffle(self, ins, mode, values, b, c, mask):
        """shfl.sync: (values of other lanes, whether their lane is inside the segment)."""
        if np.ndim(values) == 0 and mask is None and mode == "idx":
            return values, np.bool_(True)
        values, b, c = self.wide(values), self.wide(b) & np.uint32(31), self.wide(c)
        segment, clamp = c >> np.uint32(8) & np.uint32(31), c & np.uint32(31)
        lane = self.lane
        high, low = (lane & segment) | (clamp & ~segment), lane & segment
        if mode == "up":
            j = lane.astype(np.int64) - b
            fine = j >= high
        elif mode == "down":
            j = lane.astype(np.int64) + b
            fine = j <= high
        elif mode == "bfly":
            j = (lane ^ b).astype(np.int64)
            fine = j <= high
        else:
            j = (low | (b & ~segment)).astype(np.int64)
            fine = j <= high
        j = np.where(fine, j, lane)
        source = np.arange(self.n) // 32 * 32 + j
        if mask is not None and not mask[source[mask]].all():
            self.warn("a shuffle reads a thread that does not take part", ins, 1)
        return values[source], fine

    def vote(self, ins, mode, predicate, mask):
        """vote.sync over the threads that take part."""
        predicate = np.broadcast_to(predicate, self.n)
        taking = np.ones(self.n, bool) if mask is None else mask
        lanes, part = predicate.reshape(-1, 32), taking.reshape(-1, 32)
        if mode == "all":
            return np.repeat((lanes | ~part).all(1), 32)
        if mode == "any":
            return np.repeat((lanes & part).any(1), 32)
        if mode == "ballot":
            bits = ((lanes & part).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1)
            return np.repeat(bits.astype(np.uint32), 32)
        raise NotImplementedError(f"vote.{mode}; {ins}")

    def reduce(self, ins, what, values, mask):
        """redux.sync of whole warps."""
        self.whole_warps(ins, mask)
        lanes = self.wide(values).reshape(-1, 32)
        return np.repeat(REDUCTIONS[what].reduce(lanes, axis=1, dtype=lanes.dtype), 32)
