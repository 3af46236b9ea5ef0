"""Bank conflicts of a compiled kernel, from its PTX: wavefronts that its accesses of shared memory take, over the least.

The addresses of such accesses are functions of the thread's number alone, up to what moves whole buffers: the stage of a
pipeline, say. So they can be computed for one warp without running anything.
"""

import re
from collections.abc import Sequence
from operator import and_, or_, xor

LANES, BANKS, BANK_BYTES = 32, 32, 4
STATEMENT = re.compile(r"\s*(?:@(?P<negated>!?)(?P<predicate>%p\d+)\s+)?(?P<op>[a-z][\w.:]*)\s+(?P<operands>[^;]*);")
LABEL = re.compile(r"\s*(\$\w+):")
ACCESS = re.compile(r"(ld|st|ldmatrix|stmatrix|cp\.async\.c[ag])\.[\w.:]*shared")
ADDRESS = re.compile(r"\[\s*(?:(?P<register>%r\d+)|[A-Za-z_]\w*)?\s*\+?\s*(?P<offset>-?\d+)?\s*\]")
SPIN = "try_wait"  # what waits at a barrier, in a loop that is none of the source
MASK = 2**32 - 1
Lanes = tuple[int, ...]
ZERO: Lanes = (0,) * LANES


def conflicts(ptx: str, trips: float) -> float:
    """Wavefronts over their least, 1.0 at best, where the loops of the source share so many trips. Bulk copies and the operands
    that products read from shared memory have no conflicts and are left out."""
    program, taken, least = Program(ptx), 0.0, 0.0
    for line, op in program.accesses():
        times = trips / len(program.loops) if program.in_loop(line) else 1.0
        for addresses, width in program.parts(line, op):
            taken += times * wavefronts(addresses, width)
            least += times
    return taken / least if least else 1.0


def wavefronts(addresses: Sequence[int], width: int) -> int:
    """How often the fullest bank is asked for another word, by threads that each want width bytes."""
    words = {address // BANK_BYTES + i for address in addresses for i in range(max(1, width // BANK_BYTES))}
    banks = [word % BANKS for word in words]
    return max(map(banks.count, set(banks)))


class Program:
    """The statements of a kernel, and the values of its registers in the threads of the first warp."""

    def __init__(self, ptx: str):
        self.statements, self.definitions, self.values, labels, loops = {}, {}, {}, {}, []
        lines = ptx.splitlines()
        for i, line in enumerate(lines):
            if label := LABEL.match(line):
                labels[label[1]] = i
            if not (found := STATEMENT.match(line)):
                continue
            self.statements[i] = found
            operands = found["operands"]
            if found["op"].startswith("bra") and (first := labels.get(operands.split()[-1])) is not None:
                if not any(SPIN in text for text in lines[first:i]) or "mma" in "".join(lines[first:i]):
                    loops.append((first, i))
            elif operands.startswith("%"):
                for register in operands.split(",")[0].split("|"):
                    self.definitions.setdefault(register.strip(), []).append(i)
        self.loops = [(a, b) for a, b in loops if not any((c, d) != (a, b) and c <= a and b <= d for c, d in loops)]

    def accesses(self) -> list[tuple[int, str]]:
        """The lines that access shared memory, and their opcodes."""
        return [(i, found["op"]) for i, found in self.statements.items() if ACCESS.match(found["op"])]

    def in_loop(self, line: int) -> bool:
        """Whether a line is in one of the outermost loops."""
        return any(first <= line <= last for first, last in self.loops)

    def parts(self, line: int, op: str) -> list[tuple[Lanes, int]]:
        """The addresses that one wavefront serves at best, and how many bytes each thread wants: 8 bytes go by half warps, 16 by
        quarters, a matrix is 8 rows of 16 bytes."""
        found = self.statements[line]
        address = ADDRESS.search(found["operands"])
        start = self.register(address["register"], line) if address["register"] else ZERO
        addresses = [value + int(address["offset"] or 0) for value in start]
        taking = self.predicate(found, line)
        if "matrix" in op:
            return [(tuple(addresses[i:i + 8]), 16) for i in range(0, 8 * int(re.search(r"\.x([124])", op)[1]), 8)]
        width = self.width(op, found["operands"])
        lanes = LANES * BANK_BYTES // max(BANK_BYTES, width)
        served = [[a for a, here in zip(addresses[i:i + lanes], taking[i:i + lanes]) if here] for i in range(0, LANES, lanes)]
        return [(tuple(part), width) for part in served if part]

    @staticmethod
    def width(op: str, operands: str) -> int:
        """Bytes of one thread."""
        if op.startswith("cp."):
            return int(operands.split("]")[-1].split(",")[1], 0)
        vector, bits = re.search(r"\.v([248])", op), re.search(r"\.[bsuf](\d+)$", op)
        return int(vector[1] if vector else 1) * int(bits[1]) // 8

    def predicate(self, found: re.Match, line: int) -> Lanes:
        """Which threads take part, as far as that depends on the thread alone; else all."""
        values = self.register(found["predicate"], line) if found["predicate"] else None
        if not values or len(set(values)) == 1:
            return (1,) * LANES
        return tuple(not value for value in values) if found["negated"] else values

    def value(self, operand: str, line: int) -> Lanes:
        """An operand of a statement, in each thread."""
        operand = operand.strip()
        if re.fullmatch(r"-?(0x)?[0-9a-fA-F]+", operand):
            return (int(operand, 0) & MASK,) * LANES
        if operand == "%tid.x":
            return tuple(range(LANES))
        return self.register(operand, line) if operand.startswith("%") else ZERO

    def register(self, name: str, line: int) -> Lanes:
        """What the last statement before a line put there; in a loop so the value of its first trip. Zero where it is not a
        function of the thread."""
        before = [i for i in self.definitions.get(name, ()) if i < line]
        if not before:
            return ZERO
        if before[-1] not in self.values:
            self.values[before[-1]] = ZERO  # should it depend on itself
            found = self.statements[before[-1]]
            sources = [self.value(operand, before[-1]) for operand in found["operands"].split(",")[1:]]
            self.values[before[-1]] = evaluate(found["op"], sources)
        return self.values[before[-1]]


COMPARED = {"eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "gt": lambda a, b: a > b,
            "le": lambda a, b: a <= b, "ge": lambda a, b: a >= b}
COMPUTED = {
    "mov": lambda a: a, "cvt": lambda a: a, "not": lambda a: ~a, "neg": lambda a: -a, "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "mad": lambda a, b, c: a * b + c, "and": and_, "or": or_, "xor": xor,
    "shl": lambda a, b: a << min(b, 32), "shr": lambda a, b: a >> min(b, 32), "min": min, "max": max,
    "selp": lambda a, b, p: a if p else b, "bfe": lambda a, start, length: a >> start & (1 << length) - 1,
    "bfe signed": lambda a, start, length: (a >> start & (1 << length) - 1 ^ 1 << length - 1) - (1 << length - 1),
    "bfi": lambda a, b, start, length: b & ~((1 << length) - 1 << start) | (a & (1 << length) - 1) << start}


def evaluate(op: str, sources: list[Lanes]) -> Lanes:
    """The result of an instruction on 32-bit integers or predicates; zero where it is of another kind."""
    name, *modifiers = op.split(".")
    if name == "setp":
        compare = COMPARED.get(modifiers[0])
        return tuple(int(compare(a, b)) for a, b in zip(*sources[:2])) if compare else ZERO
    if name == "shfl" and "idx" in modifiers:
        return tuple(sources[0][lane % LANES] for lane in sources[1])
    if name == "lop3":
        table = sources[3][0]
        return tuple(sum((table >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1)) & 1) << i for i in range(32))
                     for a, b, c in zip(*sources[:3]))
    function = COMPUTED.get("bfe signed" if name == "bfe" and "s32" in modifiers else name)
    if function is None or "wide" in modifiers or "hi" in modifiers or modifiers[-1][0] == "f":
        return ZERO
    return tuple(function(*values) & MASK for values in zip(*sources))
