"""What a plan costs at least by resource, before anything is compiled: DRAM, L2, tensor cores and the passes beside the
product. What only machine code can say, compiling/bounds.py adds.
"""

from dataclasses import dataclass
from math import ceil, prod
from typing import ClassVar

from ..problems.problem import BACKWARD, ITEM_SIZES
from . import search
from .config import split_factor
from .plan import Plan

PRODUCTS = {"tf32": 1, "tf32x3": 3, "ieee": 0}  # on tensor cores, for one of fp32


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Least times in seconds, and the roofline's, which knows DRAM and tensor cores without padding.

    dram: every byte of the operands once. l2: what the loops read, 0 where that is not known. tensor: whole tiles. passes:
    over workspaces beside the product, one after another.
    """

    resources: ClassVar = ("dram", "l2", "tensor")

    roofline: float
    dram: float
    l2: float
    tensor: float
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
    read = steps * search.step_bytes(c, p) if c.path in ("gather", "descriptor") else 0
    passes = 2 * sum(prod(w.shape) * ITEM_SIZES[w.dtype or p.dtype] for w in plan.schedule.workspaces)
    return Terms(roofline=plan.roofline[0], dram=p.bytes / device.bandwidth, l2=read / device.l2 if device.l2 else 0.0,
                 tensor=_tensor(plan, steps), passes=passes / device.bandwidth)


def trips(plan: Plan) -> float:
    """How often the loop of a program of the product runs, on average over programs."""
    p, c = plan.problem, plan.config
    if p.direction == BACKWARD:
        return ceil(p.n * prod(p.in_size) / c.block_k) / prod(plan.schedule.main.grid)
    if c.dense:
        return search.loop_steps(c, p) / prod(plan.schedule.main.grid)
    if p.direction == "grad_weight":
        return ceil(p.n * prod(p.in_size) / c.block_n / c.shares)
    return p.taps * p.ci_group / prod(p.stride) if p.direction == "forward" else p.taps * p.co_group


def _tensor(plan: Plan, steps: float) -> float:
    """Seconds for the products of all steps on tensor cores."""
    p, c, device = plan.problem, plan.config, plan.device
    if not c.dense:
        return 0.0
    products = PRODUCTS[p.precision] if p.dtype == "float32" else 1
    of_a_step = 2 if p.direction == BACKWARD else split_factor(p)  # dw and dx; or the columns that are split
    multiplied = 2 * products * of_a_step * steps * c.block_m * c.block_n * c.block_k
    return multiplied / (device.rate_16bit if p.item == 2 else device.rate_tf32)
