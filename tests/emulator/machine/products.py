"""Products on tensor cores: mma.sync of a warp, and wgmma of a warpgroup, which is asynchronous.

A wgmma is done at issue ("early") or when somebody waits for it ("late"), and then reads shared memory as it is at that
time. Until then its accumulators are NaN, and the registers that it reads must stay as they are.
"""

import numpy as np

from . import tensorcore
from .faults import Fault

KEPT_FRAGMENTS = 64


class Products:
    """The products of a machine. What is kept for wgmma has one item per warpgroup."""

    def prepare_products(self):
        self.fragments = {}
        self.groups, per_cta = self.n // 128, self.threads // 128
        self.group_in_cta = np.tile(np.arange(max(per_cta, 1)), self.count)[:self.groups]
        self.group_cta = np.repeat(np.arange(self.count), per_cta) if self.groups else None
        self.wide_committed = np.zeros(self.groups, np.int64)
        self.wide_pending, self.accumulators = [], {}  # products in flight; by their registers, _Accumulators

    def load_matrix(self, ins, address, mask, count, transposed):
        """ldmatrix."""
        return tensorcore.load_matrix(self, ins, address, mask, count, transposed)

    def store_matrix(self, ins, address, values, mask, count, transposed):
        """stmatrix."""
        tensorcore.store_matrix(self, ins, address, values, mask, count, transposed)

    def mma(self, ins, a, b, c, k, kind, mask):
        """mma.sync of whole warps: the registers of D."""
        warps = self.whole_warps(ins, mask)
        left = self._fragment(tensorcore.a_fragment, a, k, kind)
        right = self._fragment(tensorcore.b_fragment, b, k, kind)
        if self.counters:
            self.counters.product(16 * 8 * k, int(warps.sum()))
        return tensorcore.c_registers(np.matmul(left, right) + tensorcore.c_fragment([self.wide(r) for r in c]))

    def _fragment(self, function, registers, k, kind):
        """Decoded fragments, kept while the same register values are used again."""
        key = function, k, kind, tuple(map(id, registers))
        found = self.fragments.get(key)
        if found is None:
            if len(self.fragments) > KEPT_FRAGMENTS:
                self.fragments.clear()
            fragment = function([self.wide(r) for r in registers], k, kind)
            found = self.fragments[key] = registers, fragment  # the registers, to keep their ids alive
        return found[1]

    def proxy_fence(self, mask):
        """fence.proxy.async: tensor cores and tensor copies see what was written before it."""
        if self.shared.races:
            self.shared.clock += 1
            self.shared.fence[np.unique(self.cta[self.taking(mask)])] = self.shared.clock

    def _warpgroups(self, ins, mask):
        """Which warpgroups take part."""
        mask = self.wide_mask(mask)
        if mask is None:
            return np.ones(self.groups, bool)
        groups = mask.reshape(-1, 128)
        some, whole = groups.any(1), groups.all(1)
        if (some != whole).any():
            raise Fault(f"not all threads of a warpgroup take part; {ins}")
        return whole

    def wide_mma(self, ins, registers, a, b, scale_d, scales, transposes, n, kind, mask):
        """wgmma.mma_async. registers, and a where it is a list: places in the list of registers; else descriptors."""
        active = self._warpgroups(ins, mask)
        if not active.any():
            return
        state = self._accumulator(ins, tuple(registers), n, active)
        each = lambda v, what: self._per_group(ins, v, active, what)
        left = a if isinstance(a, list) else each(a, "descriptors of A")
        adds = each(np.asarray(scale_d).astype(np.uint8), "scale-d").astype(bool)
        operands = left, each(b, "descriptors of B")
        group = self.wide_committed.copy()
        op = _Product(ins, tuple(registers), operands, adds, scales, transposes, n, kind, active, group)
        op.keep(self)
        if self.counters:
            self.counters.product(64 * n * (8 if kind == "tf32" else 16), int(active.sum()))
        state.outstanding += active
        if self.options.products == "early":
            op.run(self, active)
            op.done = True
        elif self.shared.races:
            op.operands(self, active.nonzero()[0], values=False)  # they must be there now, and nobody may write them from now on
        self.wide_pending.append(op)
        nan, whole = np.full(self.n, 0xFFFFFFFF, np.uint32), active.all()
        for r in registers:
            self.registers[r] = nan if whole else self._changed(self.registers[r], active, nan[0])

    def _per_group(self, ins, value, active, what):
        if np.ndim(value) == 0:
            return np.full(self.groups, value)
        rows = self.wide(value).reshape(-1, 128)
        if (rows[active] != rows[active][:, :1]).any():
            raise Fault(f"threads of a warpgroup give different {what}; {ins}")
        return rows[:, 0].copy()

    def _changed(self, register, groups, values):
        """A register with these values, an item for each thread or one for all, in some warpgroups."""
        changed = np.array(self.wide(register)).reshape(-1, 128)
        changed[groups] = values
        return changed.reshape(-1)

    def _accumulator(self, ins, key, n, active):
        """The accumulators of these registers as a matrix, in flight or, of the warpgroups that take part, read from them now."""
        state = self.accumulators.get(key)
        for other, there in self.accumulators.items():
            if other != key and there.outstanding.any() and set(other) & set(key):
                raise Fault(f"accumulators of a product in flight are used by another shape of product; {ins}")
        if state is None:
            state = self.accumulators[key] = _Accumulators(self.groups)
        fresh = active & (state.outstanding == 0)
        if fresh.any():
            changed = any(self.registers[r] is not v for r, v in zip(key, state.arrays))
            if state.matrix is None:
                state.matrix = np.zeros((self.groups, 64, n), np.float32)
            if not state.arrays or changed:
                some = slice(None) if fresh.all() else fresh
                rows = [self.wide(self.registers[r]).reshape(-1, 128)[some] for r in key]
                state.matrix[some] = tensorcore.accumulator(rows, n)
        return state

    def wide_commit(self, mask):
        """wgmma.commit_group."""
        self.wide_committed += self._warpgroups(None, mask)

    def wide_wait(self, count, mask):
        """wgmma.wait_group: all but the newest `count` groups are done."""
        if not self.wide_pending:
            return
        active = self._warpgroups(None, mask)
        below = self.wide_committed - count
        left, touched = [], {}
        for op in self.wide_pending:
            now = op.left & active & (op.group < below)
            if now.any():
                op.check(self, now)
                if not op.done:
                    op.run(self, now)
                op.left &= ~now
                state = self.accumulators[op.key]
                state.outstanding -= now
                touched[op.key] = touched.get(op.key, False) | now
            if op.left.any():
                left.append(op)
        self.wide_pending = left
        for key, groups in touched.items():
            self._deliver(key, groups)

    def _deliver(self, key, groups):
        """The sums of these warpgroups are in their registers once no product is in flight."""
        state = self.accumulators[key]
        ready = groups & (state.outstanding == 0)
        if not ready.any():
            return
        whole = ready.all()
        arrays = tensorcore.accumulator_registers(state.matrix if whole else state.matrix[ready])
        if not whole:
            arrays = [self._changed(self.registers[r], ready, new.reshape(-1, 128)) for r, new in zip(key, arrays)]
        for r, v in zip(key, arrays):
            self.registers[r] = v
        state.arrays = arrays if whole else ()  # others may have changed theirs meanwhile: read again


class _Accumulators:
    """The sums in some registers: products in flight by warpgroup, a matrix, and the registers that it was put into."""

    def __init__(self, groups):
        self.outstanding, self.matrix, self.arrays = np.zeros(groups, np.int64), None, ()


class _Product:
    """One wgmma of the warpgroups that take part."""

    def __init__(self, ins, key, operands, adds, scales, transposes, n, kind, active, group):
        self.ins, self.key, (self.a, self.b), self.adds, self.scales = ins, key, operands, adds, scales
        self.transposes, self.n, self.kind, self.left, self.group = transposes, n, kind, active.copy(), group
        self.done, self.given = False, ()

    def keep(self, machine):
        """Note the registers of A as they are now."""
        self.given = [(r, machine.registers[r]) for r in self.a] if isinstance(self.a, list) else ()

    def check(self, machine, which):
        """The registers of A still hold what these warpgroups gave."""
        for r, before in self.given:
            now = machine.registers[r]
            if now is not before and (machine.wide(now) != machine.wide(before)).reshape(-1, 128)[which].any():
                raise Fault(f"a register of A was written while a product in flight reads it; {self.ins}")

    def operands(self, machine, some, values=True):
        """A [groups, 64, k] and B [groups, n, k] of these warpgroups, as shared memory and registers are now; or as read_operand."""
        groups, ctas = machine.group_in_cta[some], machine.group_cta[some]
        read = lambda descriptors, extent, transposed: tensorcore.read_operand(
            machine, self.ins, descriptors[some], extent, self.kind, transposed, groups, ctas, values)
        if isinstance(self.a, list) and not values:
            left = None
        elif isinstance(self.a, list):
            registers = [machine.wide(machine.registers[r]).reshape(-1, 128)[some].reshape(-1) for r in self.a]
            left = tensorcore.wide_a_fragment(registers, self.kind)
        else:
            left = read(self.a, 64, self.transposes[0])
        return left, read(self.b, self.n, self.transposes[1])

    def run(self, machine, which):
        """Multiply for these warpgroups."""
        some = which.nonzero()[0]
        left, right = self.operands(machine, some)
        if self.scales[0] * self.scales[1] < 0:
            left = -left
        product = np.matmul(left, right.transpose(0, 2, 1))
        state, adds = machine.accumulators[self.key], self.adds[some]
        if len(some) == machine.groups and adds.all():
            np.add(product, state.matrix, out=state.matrix)
            return
        state.matrix[some] = product + np.where(adds[:, None, None], state.matrix[some], np.float32(0))
