"""PTX instructions to Python source: each basic block becomes one function f(R, X, m) over numpy arrays.

R is the list of registers: unsigned arrays (one item per thread of the batch, or one scalar where all threads agree),
bool for predicates. X is the machine. m is the mask of threads that execute the block, None where all do. An
instruction that is not known raises NotImplementedError when its kernel is translated.
"""

import re

import numpy as np

from . import arithmetic
from .conversions import Conversions
from .floats import Floats
from .integers import Integers
from .memory import Memory
from .operands import NAMES, Operands
from .parse import Instruction, Kernel
from .warps import Warps

TERMINATORS = ("bra", "bra.uni", "ret", "exit", "bar.sync", "barrier.sync", "barrier.sync.aligned",
               "barrier.cta.sync.aligned", "barrier.cta.sync", "trap")
CLUSTER_BARRIER = re.compile(r"barrier\.cluster\.(arrive(\.release|\.relaxed)?|wait(\.acquire)?)(\.aligned)?")


class Block:
    """Instructions that are executed one after the other, and the one that ends them."""

    def __init__(self, code, end, index):
        self.code, self.end, self.index = code, end, index  # end: the terminator, or None to fall through
        self.target = None
        self.source = self.full = self.masked = None


class Program:
    """A kernel ready to run: blocks, and how many registers there are."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.registers = {}
        self.params, at = {}, 0
        for name, size, align in kernel.params:
            at = (at + align - 1) // align * align
            self.params[name] = at
            at += size
        self.param_size = at
        self.blocks = _blocks(kernel)
        for block in self.blocks:  # everything must be known before anything runs
            block.source = self._translated(block, False)

    def register(self, name: str) -> int:
        """The place of a register in the list."""
        self.kernel.register_type(name)
        return self.registers.setdefault(name, len(self.registers))

    def function(self, block: Block, masked: bool):
        """The block as a function, compiled when it is first met."""
        found = block.masked if masked else block.full
        if found is None:
            source, constants = self._translated(block, True) if masked else block.source
            scope = dict(NAMES, np=np, where=np.where, true=np.bool_(True), A=arithmetic) | constants
            exec(compile(source, f"<block {block.index} of {self.kernel.name}>", "exec"), scope)
            found = scope["block"]
            setattr(block, "masked" if masked else "full", found)
        return found

    def _translated(self, block: Block, masked: bool) -> tuple[str, dict]:
        """The source of a block, and its constants by name."""
        translator = Translator(self, block, masked)
        return translator.source(), translator.constants


def _blocks(kernel: Kernel) -> list[Block]:
    """The code between labels that somebody jumps to and what ends a block, in the order of the program."""
    targets = {c.args[0][1] for c in kernel.code if isinstance(c, Instruction) and c.op.startswith("bra")}
    blocks, labels, code = [], {}, []

    def close(end=None):
        nonlocal code
        blocks.append(Block(code, end, len(blocks)))
        code = []

    for item in kernel.code:
        if isinstance(item, tuple):
            if item[1] in targets:
                if code or not blocks or blocks[-1].end is None:
                    close()
                labels[item[1]] = len(blocks)
            continue
        if CLUSTER_BARRIER.fullmatch(item.op):
            if kernel.cluster == 1 or item.guard is not None:
                raise NotImplementedError(f"without a cluster, or for some threads: {item}")
            if code and "wait" in item.op:  # who has to wait comes back to the block, in which there is nothing else
                close()
            close(item)
        elif item.op in TERMINATORS:
            close(item)
        else:
            code.append(item)
    close()
    for block in blocks:
        if block.end is not None and block.end.op.startswith("bra"):
            block.target = labels[block.end.args[0][1]]
    return blocks


class Translator(Integers, Floats, Conversions, Memory, Warps, Operands):
    """The source of one block, for all threads or for those of a mask. op_NAME translates the opcodes that begin so."""

    def __init__(self, program: Program, block: Block, masked: bool):
        self.program, self.block, self.masked = program, block, masked
        self.kernel, self.lines, self.constants, self.mask = program.kernel, [], {}, None

    def source(self) -> str:
        self.lines = []
        for ins in self.block.code:
            self.instruction(ins)
        return "def block(R, X, m):\n" + "".join(f"    {line}\n" for line in self.lines or ["pass"])

    def instruction(self, ins: Instruction) -> None:
        self.mask = "m" if self.masked else None
        if ins.guard is not None:
            name, negated = ins.guard
            text = ("~" if negated else "") + f"R[{self.program.register(name)}]"
            self.emit(f"q = {'m & ' if self.masked else ''}{text}")
            self.mask = "q"
        parts = ins.op.split(".")
        method = getattr(self, "op_" + parts[0], None)
        try:
            if method is None:
                raise NotImplementedError("an unknown opcode")
            method(ins, parts[1:], ins.args)
        except NotImplementedError as error:
            raise NotImplementedError(f"{error}: {ins}") from None
        except (KeyError, IndexError, ValueError) as error:
            raise NotImplementedError(f"{type(error).__name__} {error}: {ins}") from error
