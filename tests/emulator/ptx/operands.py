"""Operands of PTX as Python expressions, and registers as what is assigned to."""

import numpy as np

from .parse import SIZES, Instruction, Kernel

DTYPES = {"b8": "u1", "u8": "u1", "s8": "i1", "b16": "u2", "u16": "u2", "s16": "i2", "f16": "f2", "bf16": "u2",
          "b32": "u4", "u32": "u4", "s32": "i4", "f32": "f4", "b64": "u8", "u64": "u8", "s64": "i8", "f64": "f8"}
NAMES = {f"{k}{s}": np.dtype(f"{k}{s}").type for k in "ui" for s in (1, 2, 4, 8)} | {
    f"f{s}": np.dtype(f"f{s}").type for s in (2, 4, 8)}
BITS = {1: "b8", 2: "b16", 4: "b32", 8: "b64"}  # the untyped kind of a size
DYNAMIC_SHARED = 1024  # where the dynamic shared memory begins; see machine/faults.py
SPECIAL = {f"%{name}.{axis}" for axis in "xyz" for name in (
    "tid", "ctaid", "ntid", "nctaid", "clusterid", "nclusterid", "cluster_ctaid", "cluster_nctaid")}
SPECIAL |= {"%laneid", "%warpid", "%cluster_ctarank", "%cluster_nctarank"}


class Operands:
    """The part of a translator that every opcode uses."""

    def constant(self, value) -> str:
        """The name of a value that is known now."""
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def value(self, operand, kind: str) -> str:
        """An expression of dtype DTYPES[kind] (bool for pred)."""
        what = operand[0]
        if kind == "pred":
            if what == "reg":
                return f"R[{self.program.register(operand[1])}]"
            if what == "not":
                return f"(~R[{self.program.register(operand[1])}])"
            if what == "int":
                return self.constant(np.bool_(operand[1] != 0))
        dtype = DTYPES[kind]
        size = SIZES[kind]
        if what == "reg":
            have = self.kernel.register_type(operand[1])
            text = f"R[{self.program.register(operand[1])}]"
            if SIZES[have] > size:
                text = f"{text}.astype(u{size})"
            elif SIZES[have] < size:
                raise NotImplementedError(f"{operand[1]} ({have}) read as {kind}")
            return text if dtype[0] == "u" else f"{text}.view({dtype})"
        if what == "int":
            return self.constant(NAMES[f"u{size}"](operand[1] & (2 ** (8 * size) - 1)).view(NAMES[dtype]))
        if what in ("f32", "f64"):
            bits = np.uint32(operand[1]) if what == "f32" else np.uint64(operand[1])
            if SIZES[what] != size:
                raise NotImplementedError(f"a constant of {what} read as {kind}")
            return self.constant(bits.view(NAMES[dtype]))
        if what == "sym":
            return self._symbol(operand[1], dtype, size)
        raise NotImplementedError(f"operand {operand} as {kind}")

    def _symbol(self, name: str, dtype: str, size: int) -> str:
        if name in SPECIAL:
            text = f"X.special[{name!r}]"
            return text if dtype == "u4" else f"{text}.astype({dtype})"
        if name in self.program.params and size >= 4:  # the space of parameters is small: Triton 3.9 takes 32 bits of it
            return f"u{size}(X.param_base + {self.program.params[name]}).astype({dtype})"
        if name in self.kernel.static_shared:
            return f"{self.constant(np.uint64(DYNAMIC_SHARED))}.astype({dtype})"
        raise NotImplementedError(f"symbol {name}")

    def values(self, operands, kind: str) -> str:
        """Several values, separated by commas."""
        return ", ".join(self.value(operand, kind) for operand in operands)

    def address(self, operand, size=8) -> str:
        """A memory operand's address as u8 (global) or u4 (shared)."""
        _, base, offset = operand
        kind = "b64" if size == 8 else "b32"
        if base[0] == "reg" and self.kernel.register_type(base[1]) == "b64" and size == 4:
            text = self.value(base, "b64") + ".astype(u4)"
        else:
            text = self.value(base, kind)
        if offset:
            text = f"{text} + {self.constant(NAMES[f'u{size}'](offset % 2 ** (8 * size)))}"
        return text

    def emit(self, line: str) -> None:
        """A line of the block's source."""
        self.lines.append(line)

    def write(self, operand, expression: str, kind: str) -> None:
        """Assign an expression of this kind to a register, where the mask says so; narrow values are extended."""
        if operand[0] == "sink":
            return
        if operand[0] != "reg":
            raise NotImplementedError(f"write to {operand}")
        i, have = self.program.register(operand[1]), self.kernel.register_type(operand[1])
        if kind != "pred":
            dtype, size, room = DTYPES[kind], SIZES[kind], SIZES[have]
            if size > room or have == "pred":
                raise NotImplementedError(f"a {kind} into {operand[1]} ({have})")
            if size < room:
                if dtype[0] == "i":
                    expression = f"({expression}).astype(i{room}).view(u{room})"
                elif dtype[0] == "u":
                    expression = f"({expression}).astype(u{room})"
                else:
                    expression = f"({expression}).view(u{size}).astype(u{room})"
            elif dtype[0] != "u":
                expression = f"({expression}).view(u{room})"
        if self.mask is None:
            self.emit(f"R[{i}] = {expression}")
        else:
            self.emit(f"R[{i}] = where({self.mask}, {expression}, R[{i}])")

    def me(self, ins) -> str:
        """The instruction itself, for messages."""
        return self.constant(ins)

    def _check(self, mods, *known):
        if rest := [m for m in mods if m not in known]:
            raise NotImplementedError(f"modifier {rest}")
