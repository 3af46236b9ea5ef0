"""What a compiled kernel permits at best on a GPU that need not be here: a bound, never a time.

Every term is a least time by one resource: the schedulers, which issue an instruction a clock each; the integer pipes, half as
wide; bytes from L2; products on tensor cores, padding included; bytes of DRAM, each once; and the passes over workspaces
beside the kernel, which come on top. Loops are found in the machine code; how often they run, the plan says.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from ..planning import lowering, search
from ..planning.config import split_factor
from ..planning.plan import Plan
from ..problems.problem import BACKWARD, ITEM_SIZES

SCHEDULERS = 4  # of an SM, on every architecture from sm_80 on
INTEGER = {"LOP3", "IADD3", "ISETP", "SEL", "FSETP", "FSEL", "FMNMX", "PRMT", "LEA", "SHF", "IABS", "VIADD", "VIADDMNMX", "IMNMX",
           "PLOP3", "I2F", "F2I", "SGXT", "BMSK", "HSETP2", "P2R", "R2P", "VABSDIFF", "ISCADD", "LEPC", "VIMNMX"}
MULTIPLY = {"IMAD"}  # another pipe of the same width
PRODUCTS = {"tf32": 1, "tf32x3": 3, "ieee": 0}  # on tensor cores for one of fp32
LINE = re.compile(r"\s*(?:(?P<label>\.L_x?_?\d+|\$[\w$]+):|/\*[0-9a-f]{4,}\*/\s+(?P<text>.*?);)")
BRANCH = re.compile(r"BRA.*?`\((?P<label>\.L_x?_?\d+)\)")
PREDICATE = re.compile(r"^@!?U?P\w+\s+")
SPIN, SMALLEST = 12, 20  # instructions: a shorter loop may wait at a barrier, a longer one is a loop of the source


@dataclass(frozen=True)
class Bound:
    """Least times in seconds by resource, and the roofline's, which knows DRAM and tensor cores without padding.

    instructions: what one warp issues. trips: of the loop, by one program. passes: beside the kernel, one after another.
    """

    roofline: float
    instructions: float
    trips: float
    issue: float
    integer: float
    l2: float
    tensor: float
    dram: float
    passes: float

    @property
    def terms(self) -> dict[str, float]:
        """What may bind, as multiples of the roofline."""
        return {name: getattr(self, name) / self.roofline for name in ("issue", "integer", "l2", "tensor", "dram")}

    @property
    def binds(self) -> str:
        """The resource that bounds the kernel."""
        return max(self.terms, key=self.terms.get)

    @property
    def limit(self) -> float:
        """The bound of kernel and passes, as a multiple of the roofline: 1 is the least there is."""
        return max(self.terms.values()) + self.passes / self.roofline

    def as_json(self) -> dict:
        """In JSON's types; terms and passes as multiples of the roofline."""
        return {"limit": self.limit, "binds": self.binds, "roofline_seconds": self.roofline,
                "instructions": self.instructions, "trips": self.trips, **self.terms, "passes": self.passes / self.roofline}


def bound(plan: Plan, disassembly: str) -> Bound | None:
    """The bound of a plan whose main kernel was compiled to this machine code; None for a device whose clock or rates are not
    known, and for float64, whose rate is not."""
    p, c, device = plan.problem, plan.config, plan.device
    if not device.clock or plan.roofline is None or p.dtype == "float64":
        return None
    programs = prod(plan.schedule.main.grid)
    trips = _trips(plan, programs)
    issued = count(disassembly, trips)
    slots = device.sms * SCHEDULERS * device.clock / (programs * c.warps)  # a second has them for each warp
    pipes = max(_of(issued, INTEGER), _of(issued, MULTIPLY))
    read = programs * trips * search.step_bytes(c, p) if c.path in ("gather", "descriptor") else 0
    passes = 2 * sum(prod(w.shape) * ITEM_SIZES[w.dtype or p.dtype] for w in plan.schedule.workspaces)
    return Bound(roofline=plan.roofline[0], instructions=issued.total(), trips=trips, issue=issued.total() / slots,
                 integer=2 * pipes / slots, l2=read / device.l2 if device.l2 else 0.0, tensor=_tensor(plan, programs * trips),
                 dram=p.bytes / device.bandwidth, passes=passes / device.bandwidth)


def count(disassembly: str, trips: float) -> Counter:
    """How often one warp issues instructions of each family, when the loops of the source run so often."""
    texts, labels = [], {}
    for match in map(LINE.match, disassembly.splitlines()):
        if match and match["label"]:
            labels[match["label"]] = len(texts)
        elif match:
            texts.append(PREDICATE.sub("", match["text"]))
    often, loops = [1.0] * len(texts), _loops(texts, labels)
    for first, last in loops:  # one after another they share the trips: the two halves of a joined product, say
        often[first:last + 1] = [trips / len(loops)] * (last + 1 - first)
    found = Counter()
    for text, times in zip(texts, often):
        found[text.split()[0].split(".")[0]] += times
    return found


def _loops(texts: Sequence[str], labels: dict[str, int]) -> list[tuple[int, int]]:
    """The outermost loops of the source: first and last instruction."""
    ends = {}
    for last, match in enumerate(map(BRANCH.search, texts)):
        first = labels.get(match["label"], len(texts)) if match else len(texts)
        waits = last - first < SPIN and any("SYNCS" in text for text in texts[first:last + 1])
        if first <= last and not waits:
            ends[first] = max(last, ends.get(first, 0))
    loops = [(first, last) for first, last in sorted(ends.items()) if last - first > SMALLEST]
    return [(a, b) for a, b in loops if not any(c < a and d >= b for c, d in loops)]


def _trips(plan: Plan, programs: int) -> float:
    """How often the loop of a program runs, on average over programs."""
    p, c = plan.problem, plan.config
    if p.direction == BACKWARD:
        return ceil(p.n * prod(p.in_size) / c.block_k) / programs
    if c.dense:
        return search.loop_steps(c, p) / programs
    if p.direction == "grad_weight":
        return ceil(p.n * prod(p.in_size) / c.block_n / c.shares)
    return p.taps * p.ci_group / prod(p.stride) if p.direction == "forward" else p.taps * p.co_group


def _tensor(plan: Plan, steps: float) -> float:
    """Seconds for the products of all steps on tensor cores, whole tiles."""
    p, c, device = plan.problem, plan.config, plan.device
    if not c.dense:
        return 0.0
    rate = device.rate_16bit if p.item == 2 else device.rate_tf32
    if p.direction == BACKWARD:  # two products of a tile
        return 2 * 2 * steps * c.block_m * c.block_n * c.block_k / rate
    products = PRODUCTS[p.precision] if p.dtype == "float32" else 1
    return 2 * products * steps * c.block_m * c.block_n * c.block_k * split_factor(p) / rate


def _of(issued: Counter, families: set[str]) -> float:
    return sum(issued[family] for family in families)
