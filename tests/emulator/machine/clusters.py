"""Clusters: CTAs that share a barrier and may write into one another's shared memory.

Nothing else keeps them together, so one of them runs ahead as far as it can: the first while copies are early, else the
last. What no barrier orders then goes wrong.
"""

import numpy as np

from .faults import Fault


class Clusters:
    """The clusters of a machine: CTAs that follow one another in the batch."""

    def place_clusters(self):
        """The place of every thread in its cluster, as registers too, and who goes before whom."""
        size = self.cluster = self.program.kernel.cluster
        zero, one, special = np.uint32(0), np.uint32(1), self.special
        rank = (self.cta % size).astype(np.uint32) if size > 1 else zero
        for axis in "xyz":
            special |= {f"%clusterid.{axis}": special[f"%ctaid.{axis}"], f"%nclusterid.{axis}": special[f"%nctaid.{axis}"],
                        f"%cluster_ctaid.{axis}": zero, f"%cluster_nctaid.{axis}": one}
        special |= {"%clusterid.x": special["%ctaid.x"] // np.uint32(size), "%cluster_ctarank": rank,
                    "%nclusterid.x": special["%nctaid.x"] // np.uint32(size), "%cluster_nctarank": np.uint32(size),
                    "%cluster_ctaid.x": rank, "%cluster_nctaid.x": np.uint32(size)}
        self.turns = [rank == r for r in range(size)] if size > 1 else []
        if self.options.copies == "late":
            self.turns.reverse()
        self.arrived, self.passed = np.zeros((2, self.n), np.int64)  # how often, at the barrier of the cluster

    def ahead(self, ready):
        """Of the threads that may go on those that do."""
        for turn in self.turns:
            if (ready & turn).any():
                return ready & turn
        return ready

    def cluster_barrier(self, ins, at, mask):
        """barrier.cluster.arrive and .wait, at the end of block `at`, which who has to wait will come back to."""
        if "aligned" in ins.op:
            self.whole_warps(ins, mask)
        if "arrive" in ins.op:
            self._arrive(ins, mask)
            return
        if (self.arrived[mask] == self.passed[mask]).any():
            raise Fault(f"a thread that has not arrived waits at the barrier of its cluster; {ins}")
        met = np.repeat(self._meetings(), self.cluster * self.threads) > self.passed
        self.passed[mask & met] += 1
        self.pcs[mask & ~met] = at
        self._stall(ins, mask & met, mask & ~met)

    def _meetings(self):
        """How often all threads of each cluster have arrived. Unlike on a GPU, who has left is waited for in vain."""
        return self.arrived.reshape(-1, self.cluster * self.threads).min(1)

    def _arrive(self, ins, mask):
        if (self.arrived[mask] != self.passed[mask]).any():
            raise Fault(f"a thread arrives twice at the barrier of its cluster with no wait between; {ins}")
        before = self._meetings()
        self.arrived[mask] += 1
        relaxed, ctas = "relaxed" in ins.op, np.unique(self.cta[mask])
        self.shared.note_arrival(ctas)
        if not relaxed:
            self.barrier_fence(ctas)
        met = self._meetings() > before
        if met.any():
            self.progress += 1
            self.shared.note_meeting(np.repeat(met, self.cluster), not relaxed)

    def multicast(self, ins, threads, receivers, barrier):
        """Boxes that these threads send to the CTAs of their clusters whose bits are set in `receivers`.

        Returns, for each box: its thread, the CTA that receives it, whether it is the first of its thread, and whether
        it goes to another CTA than the thread's.
        """
        bits = receivers[:, None] >> np.arange(16, dtype=np.uint16) & np.uint16(1)
        if bits[:, self.cluster:].any():
            raise Fault(f"a multicast to a CTA that its cluster does not have; {ins}")
        sender, rank = bits.nonzero()
        threads = threads[sender]
        ctas = self.cta[threads] // self.cluster * self.cluster + rank
        away = ctas != self.cta[threads]
        if (self.passed[threads[away]] == 0).any():
            raise Fault(f"another CTA's shared memory is written before any barrier of the cluster; {ins}")
        if not self.alive.reshape(self.count, self.threads).any(1)[ctas].all():
            raise Fault(f"the shared memory of a CTA that has left is written; {ins}")
        for a in np.unique(barrier[threads]):
            here = barrier[threads] == a
            self.barrier_at(ins, int(a)).check(ins, ctas[here])
            if not self.barrier_at(ins, int(a)).seen[ctas[here & away]].all():
                raise Fault(f"another CTA's mbarrier was initialised with no fence after; {ins}")
        return threads, ctas, np.diff(sender, prepend=-1) != 0, away
