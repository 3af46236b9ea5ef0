"""Which threads run which block.

While all threads of the batch stand at the same block they run it together; where they part, the block that comes first
in the program runs for those who stand there. A barrier holds a CTA's threads until all are there; who spins on an
mbarrier that is not complete is left out until somebody has made progress. In a kernel of clusters their CTAs never run
together.
"""

import numpy as np

from .faults import Deadlock, Fault


class Scheduling:
    """The control flow of a machine."""

    def run(self):
        """From the first block until all threads have left."""
        at = 0
        if self.turns:  # nothing keeps the CTAs of a cluster at one pace
            self.pcs, self.waiting, self.alive = np.zeros(self.n, np.int64), np.zeros(self.n, bool), np.ones(self.n, bool)
            at = self._apart()
        while at is not None:
            at = self._apart() if self._together(at) else None
        if self.wide_pending:
            self.warn("the kernel ends with products that nobody waited for", self.wide_pending[0].ins,
                      len(self.wide_pending))
        if self.turns and self.tensor_copies:
            self.warn("the kernel ends with tensor copies that nobody waited for", self.tensor_copies[0].ins,
                      len(self.tensor_copies))

    def _together(self, at: int) -> bool:
        """All threads run the same blocks, from this one. Whether they part in the end, else they have left."""
        blocks, functions, warps = self.program.blocks, self.program.function, self.n // 32
        while True:
            block = blocks[at]
            functions(block, False)(self.registers, self, None)
            if self.counters:
                self.counters.block(self.program, block, warps)
            end = block.end
            if end is None or end.op.startswith("bar"):
                if end is not None:
                    self.shared.note_barrier(None)
                at += 1
                continue
            condition = self._condition(end)
            if condition is None or np.ndim(condition) == 0:
                taken = condition is None or bool(condition)
            elif condition.all() or not condition.any():
                taken = bool(condition[0])
            else:
                self._part(at, block, condition)
                return True
            if not taken:
                at += 1
            elif end.op in ("ret", "exit"):
                return False
            elif end.op == "trap":
                raise Fault(f"trap; {end}")
            else:
                at = block.target

    def _part(self, at, block, condition):
        """The end of a block holds for some threads: pcs has the block of each from now on."""
        if block.end.op == "trap":
            raise Fault(f"trap; {block.end}")
        self.pcs, self.waiting = np.full(self.n, at + 1), np.zeros(self.n, bool)
        leave = block.end.op in ("ret", "exit")
        self.alive = ~condition if leave else np.ones(self.n, bool)
        if not leave:
            self.pcs[condition] = block.target

    def _apart(self) -> int | None:
        """Threads run where they stand. Returns the block where all stand again; None when all have left."""
        while self.alive.any():
            ready = self.ahead(self._ready())
            at = int(self.pcs[ready].min())
            mask, block = ready & (self.pcs == at), self.program.blocks[at]
            self.program.function(block, True)(self.registers, self, mask)
            if self.counters:
                self.counters.block(self.program, block, int(mask.reshape(-1, 32).any(1).sum()))
            self.pcs[mask] = at + 1
            if block.end is not None and block.end.op.startswith("barrier.cluster"):
                self.cluster_barrier(block.end, at, mask)
            elif block.end is not None and block.end.op.startswith("bar"):
                self._wait_at(block.end, mask)
            elif block.end is not None:
                self._jump(block, mask)
            if self.turns:
                continue
            if self.alive.all() and not self.waiting.any() and self.stalled is None and (self.pcs == self.pcs[0]).all():
                return int(self.pcs[0])
        return None

    def _ready(self):
        """The threads that may go on; there are some."""
        ready = self.alive & ~self.waiting
        if self.stalled is not None and self.turns and self.progress != self.progress_then:
            self.stalled = None  # who comes first goes on at once
        if self.stalled is not None:
            running = ready & ~self.stalled
            if running.any():
                return running
            if not ready.any() or self.progress == self.progress_then:
                raise Deadlock(self._deadlock())
            self.stalled, self.progress_then = None, self.progress
        if not ready.any():
            raise Deadlock(self._deadlock())
        return ready

    def _jump(self, block, mask):
        """The end of a block, for the threads of a mask: a jump, or they leave."""
        condition = self._condition(block.end)
        taken = mask if condition is None else mask & condition
        if block.end.op == "trap" and taken.any():
            raise Fault(f"trap; {block.end}")
        if block.end.op not in ("ret", "exit"):
            self.pcs[taken] = block.target
            return
        self.alive = self.alive & ~taken
        if self.waiting.any():  # those that left may have been the last to be waited for
            self.waiting &= ~np.repeat(self._held(), self.threads)

    def _held(self):
        """CTAs of which every thread waits or has left."""
        return (self.waiting | ~self.alive).reshape(self.count, self.threads).all(1)

    def _wait_at(self, end, mask):
        """Threads arrive at a barrier; it opens for the CTAs of which all are there."""
        self.waiting |= mask
        if len(end.args) > 1:
            raise NotImplementedError(f"a barrier of some threads; {end}")
        held = self._held()
        where = np.where(self.waiting, self.pcs, -1).reshape(self.count, self.threads)[held]
        if where.size and (where != where[0, 0]).any():  # else all of them wait at the same barrier
            for cta, places in zip(held.nonzero()[0], where):
                ends = [self.program.blocks[place - 1].end for place in np.unique(places) if place >= 0]
                numbers = {barrier.args[0][1] for barrier in ends}
                if len(numbers) > 1:
                    raise Deadlock(f"threads of CTA {int(self.ctas[cta])} wait at different barriers {numbers}; {end}")
        self.shared.note_barrier(held)
        self.waiting &= ~np.repeat(held, self.threads)

    def _condition(self, end):
        if end.guard is None:
            return None
        name, negated = end.guard
        value = self.registers[self.program.registers[name]]
        return ~value if negated else value

    def _deadlock(self) -> str:
        lines = ["deadlock: nobody can go on"]
        for at in np.unique(self.pcs[self.alive]):
            here = self.alive & (self.pcs == at)
            block, thread = self.program.blocks[at], int(here.argmax())
            how = "wait before" if self.waiting[thread] else "stand at"
            lines.append(f"{int(here.sum())} threads, {self.who(thread)} the first, {how} "
                         f"{block.code[0] if block.code else block.end}")
        return "\n".join(lines)
