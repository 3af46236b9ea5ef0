"""What a compiled kernel uses, read from its machine code, and what a kernel author would want to be told of it.

Triton's wheel brings the disassemblers, so no GPU and no CUDA installation is needed.
"""

import re
import subprocess
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..planning.config import Config
from ..planning.device import REGISTERS, Device
from ..problems.problem import Problem

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)([^;]*)")
LOADS, STORES = ("LDG", "LDGSTS", "UTMALDG"), ("STG", "UTMASTG")  # families that move global memory
BULK = ("UTMALDG", "UTMASTG")  # of the copy engine: one thread asks for a box
BOX_BITS = 1 << 15  # of 4 KiB, about; what such an instruction counts for beside those of all threads of a warp
TENSOR_CORES = re.compile(r"(H|I|Q|D)MMA|(H|I|Q)GMMA|UTC[A-Z]*MMA")
WARPGROUPS = re.compile(r"(H|I|Q)GMMA|UTC[A-Z]*MMA")
ONE_ACCESS = 128  # bits a thread moves at most
INSTRUCTION_BYTES = 16
REGISTER_UNIT = 256  # registers that a warp is given at a time
RESERVED = 1024  # bytes of shared memory that the system keeps of every block
# Blocks, warps and KiB of shared memory of an SM: CUDA C++ programming guide, technical specifications per capability.
LIMITS = {(8, 0): (32, 64, 164), (8, 6): (16, 48, 100), (8, 7): (16, 48, 164), (8, 9): (24, 48, 100),
          (9, 0): (32, 64, 228), (10, 0): (32, 64, 228), (10, 3): (32, 64, 228), (12, 0): (24, 48, 100)}


@dataclass(frozen=True)
class Resources:
    """What one block of a compiled kernel uses, and its instructions.

    registers are per thread, stack (bytes per thread, where spills go) and shared (bytes) as the driver will reserve
    them, code in bytes. instructions counts by family ("HGMMA"); accesses counts those that load or store global
    memory, by family and by the bits that each moves per thread, or as a box: {"LDGSTS": {128: 24}, "STG": {16: 2}}.
    register_operands counts the products of warpgroups that read their first operand from registers.
    """

    registers: int
    stack: int
    shared: int
    code: int
    instructions: dict[str, int]
    accesses: dict[str, dict[int, int]]
    register_operands: int

    @property
    def spills(self) -> int:
        """Instructions that move registers to the stack and back."""
        return self.instructions.get("LDL", 0) + self.instructions.get("STL", 0)

    @property
    def widths(self) -> dict[str, tuple[int, ...]]:
        """The bits that loads and stores move, by family: {"LDGSTS": (128,), "STG": (16, 128)}."""
        return {family: tuple(sorted(counts)) for family, counts in self.accesses.items()}

    @property
    def tensor_cores(self) -> dict[str, int]:
        """The instructions that multiply on tensor cores."""
        return {name: count for name, count in self.instructions.items() if TENSOR_CORES.fullmatch(name)}

    def moved(self, families: tuple[str, ...]) -> Counter:
        """How many instructions of some families move so many bits."""
        return sum((Counter(self.accesses.get(family, {})) for family in families), Counter())


def listing(kernel) -> tuple[str, str]:
    """What cuobjdump says of the use of one of Triton's compiled kernels, and what nvdisasm of its instructions."""
    with _cubin(kernel) as name:
        # Without its analysis of the data flow, which it does not print, nvdisasm is done a third sooner.
        return _tool("cuobjdump", "-res-usage", name), _tool("nvdisasm", "-c", "-ndf", name)


def spills(kernel) -> bool:
    """Whether a thread of one of Triton's compiled kernels has a stack, where spills go."""
    with _cubin(kernel) as name:
        return _limits(_tool("cuobjdump", "-res-usage", name))["STACK"] > 0


@contextmanager
def _cubin(kernel):
    """The name of a file that has the machine code of one of Triton's compiled kernels."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        yield cubin.name


def _limits(usage: str) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(r"(REG|STACK):(\d+)", usage)}


def resources(kernel) -> Resources:
    """What one of Triton's compiled kernels uses."""
    return read(*listing(kernel), kernel.metadata.shared)


def read(usage: str, disassembly: str, shared: int) -> Resources:
    """What cuobjdump and nvdisasm say of a kernel."""
    limits, found = _limits(usage), INSTRUCTION.findall(disassembly)
    instructions, accesses, register_operands = Counter(), {}, 0
    for name, operands in found:
        family, *modifiers = name.split(".")
        instructions[family] += 1
        if family in LOADS + STORES:
            accesses.setdefault(family, Counter())[BOX_BITS if family in BULK else bits(modifiers)] += 1
        # The accumulator comes first, then the first operand: a register, or a descriptor of shared memory.
        register_operands += bool(re.fullmatch("[HIQ]GMMA", family) and re.match(r"\s*R\w+, R\d", operands))
    return Resources(limits["REG"], limits["STACK"], shared, len(found) * INSTRUCTION_BYTES,
                     dict(instructions), {family: dict(counts) for family, counts in accesses.items()},
                     register_operands)


def blocks(used: Resources, config: Config, device: Device) -> int | None:
    """How many blocks an SM holds at once; None where the device's limits are not known."""
    if device.capability not in LIMITS:
        return None
    most, warps, shared = LIMITS[device.capability]
    per_warp = -(-used.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    return min(most, warps // config.warps, REGISTERS // per_warp // config.warps, (shared << 10) // (used.shared + RESERVED))


def unfit(used: Resources, blocks: int | None, columns: int, device: Device) -> str | None:
    """Why a kernel cannot run, or None. columns: of tensor memory, beyond which Triton compiles a trap alone."""
    if columns > device.tensor_memory:
        return f"{columns} columns of tensor memory are needed, {device.name} has {device.tensor_memory}"
    if blocks == 0 or used.shared > device.shared_memory:
        return f"no block fits {device.name}: {used.registers} registers per thread, {used.shared} bytes of shared memory"
    return None


def occupancy(used: Resources, config: Config, device: Device) -> float | None:
    """Which part of an SM's warps can be there at once; None where the device's limits are not known."""
    resident = blocks(used, config, device)
    return None if resident is None else resident * config.warps / LIMITS[device.capability][1]


def warnings(used: Resources, config: Config, problem: Problem, device: Device) -> list[str]:
    """What makes a kernel slower than it need be, worst first; empty for a good one."""
    found = []
    if used.spills or used.stack:
        found.append(f"spills: {used.spills} instructions, {used.stack} bytes of stack per thread")
    if config.path != "direct" and not used.tensor_cores:
        found.append("tensor cores not used")
    elif config.path != "direct" and device.warpgroups and not any(map(WARPGROUPS.fullmatch, used.tensor_cores)):
        found.append(f"tensor cores driven warp by warp ({', '.join(used.tensor_cores)}), not by warpgroups")
    if used.register_operands:
        found.append("A operand goes through registers")
    for what, families in (("stores", STORES), ("loads", LOADS)):
        found += _narrow(what, used.moved(families), 8 * problem.item)
    if blocks(used, config, device) == 0:
        found.append(f"no block fits: {used.registers} registers, {used.shared} bytes of shared memory")
    elif (part := occupancy(used, config, device)) is not None and part < 0.1:
        found.append(f"low occupancy: {part:.0%}")
    return found


def _narrow(what: str, moved: Counter, element: int) -> list[str]:
    """What is to be said of so many loads or stores of so many bits. A few single values, a bias say, are no matter."""
    scalar = {bits: number for bits, number in moved.items() if bits <= element}
    size = lambda accesses: sum(bits * number for bits, number in accesses.items())
    if 4 * size(scalar) > size(moved):
        return [f"scalar {what}: {sum(scalar.values())} of {moved.total()} move {element} bits"]
    return [f"narrow {what}: {max(moved)} bits at most"] if moved and max(moved) < ONE_ACCESS else []


def bits(modifiers: list[str]) -> int:
    """What an instruction with these modifiers moves per thread."""
    narrow = {"U8": 8, "S8": 8, "U16": 16, "S16": 16}
    numbers = [int(m) for m in modifiers if m in ("64", "128", "256")]
    return numbers[0] if numbers else next((narrow[m] for m in modifiers if m in narrow), 32)


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout
