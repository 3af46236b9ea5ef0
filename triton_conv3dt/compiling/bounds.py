"""What a compiled kernel permits at best on a GPU that need not be here: a bound, never a time.

To the terms of the plan it adds the schedulers, which issue an instruction a clock each, the integer pipes, half as wide, and
shared memory, 128 bytes a clock. Loops are found in the machine code; how often they run, the plan says.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..planning.issue import SCHEDULERS
from ..planning.planned import Plan
from ..planning.terms import WAVEFRONT, Terms, described_bytes, terms, trips, warp_clocks, weight_fetches
from .conflicts import conflicts
from .machinecode import bits

INTEGER = {"LOP3", "IADD3", "ISETP", "SEL", "FSETP", "FSEL", "FMNMX", "PRMT", "LEA", "SHF", "IABS", "VIADD", "VIADDMNMX", "IMNMX",
           "PLOP3", "I2F", "F2I", "SGXT", "BMSK", "HSETP2", "P2R", "R2P", "VABSDIFF", "ISCADD", "LEPC", "VIMNMX"}
MULTIPLY = {"IMAD"}  # another pipe of the same width
LINE = re.compile(r"\s*(?:(?P<label>\.L_x?_?\d+|\$[\w$]+):|/\*[0-9a-f]{4,}\*/\s+(?P<text>.*?);)")
BRANCH = re.compile(r"BRA.*?`\((?P<label>\.L_x?_?\d+)\)")
PREDICATE = re.compile(r"^@!?U?P\w+\s+")
SHARED = {"LDS", "STS", "LDGSTS"}
MATRICES = re.compile(r"(?:LDSM|STSM)\..*?(?P<matrices>[124])$")  # of 8 rows of 16 bytes
PRODUCT = re.compile(r"[HIQ]GMMA\.64x(?P<columns>\d+)x")  # of a warpgroup, reduced by 32 bytes of each operand
SPIN, SMALLEST = 12, 20  # instructions: a shorter loop may wait at a barrier, a longer one is a loop of the source


@dataclass(frozen=True, kw_only=True)
class Bound(Terms):
    """The terms of a plan, with shared memory, issue slots and integer pipes as its machine code uses them.

    instructions: what one warp issues. trips: of the loop, by one program. wavefronts: clocks in which one warp holds the shared
    memory of its SM. conflicts: those of its accesses over their least, 1.0 where banks never conflict.
    """

    instructions: float
    trips: float
    wavefronts: float
    conflicts: float

    def as_json(self) -> dict:
        """In JSON's types; terms and passes as multiples of the roofline."""
        return {"limit": self.limit, "binds": self.binds, "roofline_seconds": self.roofline,
                "instructions": self.instructions, "trips": self.trips, "wavefronts": self.wavefronts,
                "conflicts": self.conflicts, **self.over, "passes": self.passes / self.roofline}


def bound(plan: Plan, disassembly: str, ptx: str) -> Bound | None:
    """The bound of a plan whose main kernel was compiled to this PTX and machine code; None for a device whose clock or rates are
    not known, and for float64, whose rate is not."""
    known, clocks = terms(plan), warp_clocks(plan)
    if known is None or not clocks:
        return None
    executed = execution(disassembly, trips(plan), weight_fetches(plan))
    issued, conflicting = count(executed), conflicts(ptx, trips(plan))
    held = wavefronts(executed, conflicting) + described_bytes(plan) / WAVEFRONT / plan.config.warps
    pipes = max(sum(issued[family] for family in families) for families in (INTEGER, MULTIPLY))
    counted = dict(shared=held * clocks, issue=issued.total() * clocks / SCHEDULERS, integer=2 * pipes * clocks / SCHEDULERS)
    return Bound(**vars(known) | counted, instructions=issued.total(), trips=trips(plan), wavefronts=held, conflicts=conflicting)


def execution(disassembly: str, trips: float, before: float = 0.0) -> list[tuple[str, float]]:
    """The instructions of a kernel, and how often one warp issues each when the loops of the source run so often. before: how often
    loops run that multiply nothing, where those of products follow them; 0 where there are none."""
    texts, labels = [], {}
    for match in map(LINE.match, disassembly.splitlines()):
        if match and match["label"]:
            labels[match["label"]] = len(texts)
        elif match:
            never = match["text"].startswith("@!PT ")  # issued for the hardware's sake
            texts.append("NOP" if never else PREDICATE.sub("", match["text"]))
    often, loops = [1.0] * len(texts), _loops(texts, labels)
    if before:
        multiply = [any(map(PRODUCT.match, texts[first:last + 1])) for first, last in loops]
        for (first, last), products in zip(loops, multiply):
            often[first:last + 1] = [1.0 if products else before] * (last + 1 - first)
        loops = [loop for loop, products in zip(loops, multiply) if products]
    for first, last in loops:  # one after another they share the trips: the two halves of a joined product, say
        often[first:last + 1] = [trips / len(loops)] * (last + 1 - first)
    return list(zip(texts, often))


def count(executed: Iterable[tuple[str, float]]) -> Counter:
    """How often one warp issues instructions of each family."""
    found = Counter()
    for text, times in executed:
        found[text.split()[0].split(".")[0]] += times
    return found


def wavefronts(executed: Iterable[tuple[str, float]], conflicts: float = 1.0) -> float:
    """Clocks in which one warp's instructions hold shared memory: 128 bytes each, whatever part of them is used, and more of them
    where accesses have bank conflicts. A product of a warpgroup reads both operands anew, or the second alone where the first
    lies in registers."""
    products = accesses = 0.0
    for text, times in executed:
        name, *operands = text.split()
        if match := PRODUCT.match(name):
            first = 0 if re.match(r"R\d", operands[1]) else 64
            products += times * (first + int(match["columns"])) * 32 / WAVEFRONT / 4
        elif match := MATRICES.match(name):
            accesses += times * int(match["matrices"])
        elif (parts := name.split("."))[0] in SHARED:
            accesses += times * max(1, bits(parts) / 32)
    return products + conflicts * accesses


def _loops(texts: Sequence[str], labels: dict[str, int]) -> list[tuple[int, int]]:
    """The outermost loops of the source: first and last instruction."""
    ends, waited = {}, -1
    for last, match in enumerate(map(BRANCH.search, texts)):
        first = labels.get(match["label"], len(texts)) if match else len(texts)
        if first > last:
            continue
        if last - first < SPIN and any("SYNCS" in text for text in texts[first:last + 1]):
            waited = last  # the assembler puts such loops behind the kernel, and from there goes back to where it was
        elif waited != last - 1:
            ends[first] = max(last, ends.get(first, 0))
    loops = [(first, last) for first, last in sorted(ends.items()) if last - first > SMALLEST]
    return [(a, b) for a, b in loops if not any(c < a and d >= b for c, d in loops)]
