"""A batch of CTAs in lockstep, one numpy item per thread: their registers, and what every instruction uses.

Execution is in the classes that a Machine inherits: scheduling (which threads run which block), clusters, copies, barriers,
warps and products.
"""

import numpy as np

from .barriers import Barriers
from .clusters import Clusters
from .copies import Copies
from .faults import PARAM_BASE, Fault, Options, Warnings
from .memory import Global, Region
from .products import Products
from .scheduling import Scheduling
from .shared import Shared
from .warps import Warps

UNSET = {"pred": np.bool_(False), "b16": np.uint16(0xFFFF), "b64": np.uint64(2**64 - 1)}  # of a register nobody wrote


def launch(program, grid, params: bytes, maps: dict, regions: list, shared_size: int, threads: int, options: Options,
           counters=None) -> Warnings:
    """Run a kernel for a whole grid. params: the buffer of parameters. maps: tensor maps by their place in it."""
    if program.kernel.threads and program.kernel.threads != threads:
        raise Fault(f"the kernel wants {program.kernel.threads} threads, launched with {threads}")
    warnings = Warnings()
    total = grid[0] * grid[1] * grid[2]
    cluster = program.kernel.cluster
    if grid[0] % cluster:
        raise Fault(f"clusters of {cluster} CTAs in a grid of {grid[0]}")
    per_batch = max(1, options.threads // threads // cluster) * cluster
    with np.errstate(all="ignore"):
        for first in range(0, total, per_batch):
            machine = Machine(program, params, maps, shared_size, options, counters, warnings)
            machine.place(grid, np.arange(first, min(total, first + per_batch)), threads)
            machine.prepare(regions)
            machine.run()
    return warnings


class Machine(Scheduling, Clusters, Copies, Barriers, Warps, Products):
    """place() and prepare() it, then run() it, once."""

    def __init__(self, program, params, maps, shared_size, options, counters, warnings):
        self.program, self.params, self.maps, self.shared_size = program, params, maps, shared_size
        self.options, self.counters, self.warnings, self.param_base = options, counters, warnings, PARAM_BASE

    def place(self, grid, ctas, threads):
        """Who runs here: so many threads of each of these CTAs."""
        self.ctas, self.threads, self.count, self.n = ctas, threads, len(ctas), len(ctas) * threads
        self.cta = np.repeat(np.arange(self.count), threads)
        tid = np.tile(np.arange(threads, dtype=np.uint32), self.count)
        self.warp, self.lane = (tid // 32).astype(np.int64), tid % 32
        each = lambda v: np.uint32(v[0]) if (v == v[0]).all() else np.repeat(v.astype(np.uint32), threads)
        zero, one = np.uint32(0), np.uint32(1)
        self.special = {"%tid.x": tid, "%tid.y": zero, "%tid.z": zero, "%ntid.x": np.uint32(threads), "%ntid.y": one,
                        "%ntid.z": one, "%laneid": self.lane, "%warpid": self.warp.astype(np.uint32)}
        places = ctas % grid[0], ctas // grid[0] % grid[1], ctas // grid[0] // grid[1]
        for axis, place, size in zip("xyz", places, grid):
            self.special |= {f"%ctaid.{axis}": each(place), f"%nctaid.{axis}": np.uint32(size)}
        self.place_clusters()

    def prepare(self, regions):
        """Memory, registers, and the queues of what is asynchronous."""
        self.memory = Global(self, regions)
        self.shared = Shared(self, self.count, self.shared_size, self.options.races)
        self.last_region = {}
        self.registers = [None] * len(self.program.registers)
        for name, i in self.program.registers.items():
            self.registers[i] = UNSET.get(self.program.kernel.register_type(name), np.uint32(2**32 - 1))
        self.prepare_copies()
        self.prepare_barriers()
        self.prepare_products()

    def who(self, thread: int) -> str:
        """A thread by name."""
        cta = int(self.ctas[self.cta[thread]])
        nx, ny = int(self.special["%nctaid.x"]), int(self.special["%nctaid.y"])
        return f"thread {thread % self.threads} of CTA ({cta % nx}, {cta // nx % ny}, {cta // nx // ny})"

    def warn(self, what, ins, count, text=None):
        """Note that something happened so many times."""
        if self.options.strict:
            raise Fault(text or f"{what} ({count}); {ins}")
        self.warnings.add(what, ins.line, count, text or f"{what}; {ins}")

    def wide(self, values):
        """One item per thread."""
        return values if np.ndim(values) == 1 else np.full(self.n, values)

    def wide_mask(self, mask):
        """A mask per thread, or None where all take part."""
        if mask is None or np.ndim(mask) == 1:
            return mask
        return None if mask else np.zeros(self.n, bool)

    def taking(self, mask):
        """The threads that take part, by number."""
        mask = self.wide_mask(mask)
        return np.arange(self.n) if mask is None else mask.nonzero()[0]

    def whole_warps(self, ins, mask):
        """Which warps take part: all threads of each."""
        mask = self.wide_mask(mask)
        if mask is None:
            return np.ones(self.n // 32, bool)
        lanes = mask.reshape(-1, 32)
        if (lanes.any(1) != lanes.all(1)).any():
            raise Fault(f"not all threads of a warp take part; {ins}")
        return lanes.all(1)

    def param(self, offset: int, size: int):
        """An item of the buffer of parameters."""
        return np.frombuffer(self.params, f"u{size}", 1, offset)[0]

    def region_of(self, ins, address) -> Region:
        """The argument in which an address lies."""
        for region in self.memory.regions:
            if region.lo <= address < region.lo + max(region.size, 1):
                return region
        raise Fault(f"address {address:#x} lies in no argument; {ins}")
