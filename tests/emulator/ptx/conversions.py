"""Opcodes that move values and change their type."""

from .operands import BITS, DTYPES
from .parse import SIZES

TO_INTEGER = ("rni", "rzi", "rmi", "rpi")  # roundings


def _integer(kind: str) -> bool:
    return kind[0] in "usb" and kind != "bf16"


class Conversions:
    """Opcodes of a translator."""

    def op_mov(self, ins, parts, args):
        kind = parts[-1]
        if kind == "pred":
            return self.write(args[0], self.value(args[1], "pred"), "pred")
        size = SIZES[kind]
        if args[0][0] == "vec":  # parts of a register, the lowest first
            items = args[0][1]
            each = size // len(items)
            self.emit(f"t = {self.value(args[1], BITS[size])}")
            for i, item in enumerate(items):
                self.write(item, f"(t >> u{size}({8 * each * i})).astype(u{each})", BITS[each])
            return
        if args[1][0] == "vec":
            items = args[1][1]
            each = size // len(items)
            shifted = (f"({self.value(item, BITS[each])}.astype(u{size}) << u{size}({8 * each * i}))"
                       for i, item in enumerate(items))
            return self.write(args[0], " | ".join(shifted), BITS[size])
        self.write(args[0], self.value(args[1], BITS[size]), BITS[size])

    def op_cvta(self, ins, parts, args):
        self.write(args[0], self.value(args[1], "b64"), "b64")

    def op_cvt(self, ins, parts, args):
        to, source, mods = parts[-2], parts[-1], parts[:-2]
        self._check(mods, "rn", "rz", "rm", "rp", *TO_INTEGER, "rna", "ftz", "sat")
        if to in ("f16x2", "bf16x2"):
            if source != "f32" or "rn" not in mods:
                raise NotImplementedError("cvt to pairs")
            pack = "A.pack_f16" if to == "f16x2" else "A.pack_bf16"
            return self.write(args[0], f"{pack}({self.values((args[2], args[1]), 'f32')})", "b32")
        if to == "tf32":
            if "rna" not in mods and "rn" not in mods:
                raise NotImplementedError("cvt to tf32")
            return self.write(args[0], f"A.to_tf32({self.value(args[1], 'f32')}, {'rna' in mods})", "b32")
        if _integer(source):
            return self._from_integer(args, to, source, mods)
        a = f"A.from_bf16({self.value(args[1], 'b16')})" if source == "bf16" else self.value(args[1], source)
        if "ftz" in mods and source == "f32":
            a = f"A.flush({a})"
        rounding = next((m for m in mods if m in TO_INTEGER), None)
        if _integer(to):
            if rounding is None:
                raise NotImplementedError("to an integer with no rounding")
            return self.write(args[0], f"A.to_integer({a}, {rounding!r}, {DTYPES[to]})", to)
        self._between_floats(args, f"A.ROUND[{rounding!r}]({a})" if rounding else a, to, source, mods)

    def _from_integer(self, args, to, source, mods):
        a = self.value(args[1], source)
        if _integer(to):
            if "sat" in mods:
                raise NotImplementedError("saturation")
            return self.write(args[0], f"{a}.astype({DTYPES[to]})", to)
        if "rn" not in mods:
            raise NotImplementedError("rounding")
        if to == "bf16":
            small = SIZES[source] <= 2  # exact in f32
            return self.write(args[0], f"A.to_bf16({a}.astype(f4))" if small else f"A.int_to_bf16({a})", "b16")
        self.write(args[0], f"{a}.astype({DTYPES[to]})" if to != "f16" else f"{a}.astype(f8).astype(f2)", to)

    def _between_floats(self, args, a, to, source, mods):
        if any(m in mods for m in ("rz", "rm", "rp")):
            raise NotImplementedError("rounding mode")
        if to == "bf16":
            if source == "f64":
                raise NotImplementedError("f64 to bf16")
            text, to = f"A.to_bf16({a})", "b16"
        elif to == "f16":
            text = f"A.to_f16({a})"
        else:
            text = f"{a}.astype({DTYPES[to]})"
            if "ftz" in mods and to == "f32":
                text = f"A.flush({text})"
        self.write(args[0], f"A.saturate({text})" if "sat" in mods else text, to)
