"""What a plan costs at least by resource, before anything is compiled: DRAM, L2, tensor cores, shared memory and the passes
beside the product; and, estimated, the instructions, which compiling/bounds.py counts in machine code.
"""

from dataclasses import dataclass
from math import ceil, prod
from typing import ClassVar

from ..problems.problem import BACKWARD, ITEM_SIZES
from . import costs, halos, issue, lanes
from .config import pairing, rows_and_reduction, seen, walking
from .planned import Plan
from .taps import split_factor

PRODUCTS = {"tf32": 1, "tf32x3": 3, "ieee": 0}  # on tensor cores, for one of fp32
WAVEFRONT = 128  # bytes that the shared memory of an SM moves in a clock
ROWS, COLUMNS = 64, 256  # of one instruction of a warpgroup, which reads both its operands from shared memory


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Least times in seconds, and the roofline's, which knows DRAM and tensor cores without padding.

    dram: every byte of the operands once. l2: what the loops read, 0 where that is not known. tensor: whole tiles. shared: what
    the loops write to shared memory and their products read from it, 0 where that is not known. issue: the schedulers of all SMs
    for the instructions, integer: the integer pipes, both estimated, 0 without a clock. passes: over workspaces beside the
    product, one after another.
    """

    resources: ClassVar = ("dram", "l2", "tensor", "shared", "issue", "integer")

    roofline: float
    dram: float
    l2: float
    tensor: float
    shared: float
    issue: float
    integer: float
    passes: float

    @property
    def over(self) -> dict[str, float]:
        """What may bind the product, as multiples of the roofline."""
        return {name: getattr(self, name) / self.roofline for name in self.resources}

    @property
    def binds(self) -> str:
        """The resource that bounds the product."""
        return max(self.over, key=self.over.get)

    @property
    def limit(self) -> float:
        """The bound of product and passes, as a multiple of the roofline: 1 is the least there is."""
        return self.over[self.binds] + self.passes / self.roofline


def terms(plan: Plan) -> Terms | None:
    """The terms of a plan; None for a device whose rates are not known, and for float64, whose rate is not."""
    p, c, device = plan.problem, plan.config, plan.device
    if plan.roofline is None or p.dtype == "float64":
        return None
    steps = prod(plan.schedule.main.grid) * trips(plan)
    read = costs.read_bytes(c, p) if c.path in ("gather", "descriptor", "walk", "pair") else 0
    passes = 2 * sum(prod(w.shape) * ITEM_SIZES[w.dtype or p.dtype] for w in plan.schedule.workspaces)
    slots = issue.instructions(plan, trips(plan)) * warp_clocks(plan) / issue.SCHEDULERS
    return Terms(roofline=plan.roofline[0], dram=p.bytes / device.bandwidth, l2=read / device.l2 if device.l2 else 0.0,
                 tensor=_tensor(plan, steps), shared=_shared(plan, steps), issue=slots,
                 integer=slots * issue.COSTS[issue.kind(plan)].integer, passes=passes / device.bandwidth)


def warp_clocks(plan: Plan) -> float:
    """Seconds in which every warp of the product has its SM for one clock; 0 for a device whose clock is not known."""
    device = plan.device
    warps = prod(plan.schedule.main.grid) * plan.config.ctas * plan.config.warps
    return warps / (device.sms * device.clock) if device.clock else 0.0


def trips(plan: Plan) -> float:
    """How often the loop of a program of the product runs, on average over programs."""
    p, c = plan.problem, plan.config
    if p.direction == BACKWARD:
        return ceil(p.n * prod(p.in_size) / c.block_k) / prod(plan.schedule.main.grid)
    if c.dense:
        return costs.loop_steps(c, p) / prod(plan.schedule.main.grid)
    if p.direction == "grad_weight":
        return ceil(lanes.boxes(p, c) / c.shares)
    phases = p.stride if p.direction == "forward" else (1, 1, 1)
    steps = prod(k / s for k, s, looped in zip(p.kernel, phases, lanes.looped(p, c)) if looped)
    return steps * rows_and_reduction(p)[1]


def weight_fetches(plan: Plan) -> int:
    """How often a program of a walk fetches weights before its loop, and one of a pair what its first steps read; 0 of others."""
    if plan.config.path == "pair" and plan.problem.direction == "grad_weight":
        return plan.config.stages - 1
    if plan.config.path != "walk" or plan.problem.direction == "grad_weight":
        return 0
    return walking(plan.problem).weight_fetches(plan.problem, plan.config)


def _shared(plan: Plan, steps: float) -> float:
    """Seconds for what the loops of a plan move through shared memory."""
    p, c, device = plan.problem, plan.config, plan.device
    if c.path == "walk" and device.clock:
        return steps * walking(p).shared_bytes(p, c) / (device.sms * WAVEFRONT * device.clock)
    if c.path == "pair" and device.clock:
        moved = steps * (pairing(p).read_bytes(p, c) + pairing(p).written_bytes(p, c))
        if p.direction != "grad_weight":
            moved += prod(plan.schedule.main.grid) * pairing(p).turned_bytes(p, c)
        return c.ctas * moved / (device.sms * WAVEFRONT * device.clock)
    if c.path not in ("gather", "descriptor") or not device.clock:
        return 0.0
    p = seen(p, c)
    columns, split = (split_factor(p, c), 1) if p.direction == "grad_weight" else (1, split_factor(p, c))
    m, n, k = c.block_m, c.block_n * columns, c.block_k * split
    read = p.item * k * (ceil(n / COLUMNS) * m + ceil(m / ROWS) * n)
    return steps * (costs.step_bytes(c, p) + read) / (device.sms * WAVEFRONT * device.clock)


def described_bytes(plan: Plan) -> float:
    """Bytes that the loop of a program reads by tensor descriptor, which machine code does not show."""
    p, c = plan.problem, plan.config
    if c.path == "walk":
        # What is turned comes by copies and stores that machine code shows.
        return walking(p).weight_bytes(p, c) + (0 if walking(p).turned(p, c) else trips(plan) * walking(p).step_bytes(p, c))
    if c.path == "pair":
        return trips(plan) * pairing(p).written_bytes(p, c)
    return p.item * c.block_k * c.block_n * trips(plan) if c.path == "descriptor" else 0


def _tensor(plan: Plan, steps: float) -> float:
    """Seconds for the products of all steps on tensor cores."""
    p, c, device = plan.problem, plan.config, plan.device
    if not c.dense:
        return 0.0
    products = PRODUCTS[p.precision] if p.dtype == "float32" else 1
    if c.path == "walk":
        return 2 * steps * walking(p).multiplied(p, c) / (device.rate_16bit if p.item == 2 else device.rate_tf32)
    of_a_step = 2 if p.direction == BACKWARD else split_factor(seen(p, c), c)  # dw and dx; or the columns that are split
    of_a_step *= halos.taps(p, c)
    multiplied = 2 * products * of_a_step * steps * c.block_m * c.block_n * c.block_k
    return multiplied / (device.rate_16bit if p.item == 2 else device.rate_tf32)
