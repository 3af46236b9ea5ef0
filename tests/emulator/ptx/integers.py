"""Opcodes of integers and bits; add, mul and others that integers and floats share begin here."""

from .operands import DTYPES, NAMES
from .parse import SIZES

DOUBLE = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}  # what .wide gives


class Integers:
    """Opcodes of a translator."""

    def _binary(self, ins, parts, args, integer, floating=None):
        kind, mods = parts[-1], parts[:-1]
        a, b = args[1], args[2]
        if kind in ("s16x2", "u16x2"):
            self._check(mods)
            function, half = f"lambda a, b: {integer.format('a', 'b')}", "i2" if kind[0] == "s" else "u2"
            return self.write(args[0], f"A.halfwise({function}, {self.values((a, b), 'b32')}, {half})", "b32")
        if kind in ("f32", "f64", "f16", "bf16", "f16x2", "bf16x2"):
            if floating is None:
                raise NotImplementedError("of floats")
            return self._float(ins, kind, mods, args, floating)
        self._check(mods, "lo")
        self.write(args[0], integer.format(self.value(a, kind), self.value(b, kind)), kind)

    def op_add(self, ins, parts, args):
        self._carry(ins)
        self._binary(ins, parts, args, "{} + {}", "({} + {})")

    def op_sub(self, ins, parts, args):
        self._carry(ins)
        self._binary(ins, parts, args, "{} - {}", "({} - {})")

    def _carry(self, ins):
        if ".cc" in ins.op or ins.op.startswith(("addc", "subc")):
            raise NotImplementedError("carries")

    def op_mul(self, ins, parts, args):
        kind = parts[-1]
        if "wide" in parts:
            return self.write(args[0], self._wide_product(args, kind), DOUBLE[kind])
        if "hi" in parts:
            return self.write(args[0], f"A.mul_hi({self.value(args[1], kind)}, {self.value(args[2], kind)})", kind)
        self._binary(ins, parts, args, "{} * {}", "({} * {})")

    def op_mad(self, ins, parts, args):
        kind = parts[-1]
        if "wide" in parts:
            double = DOUBLE[kind]
            return self.write(args[0], f"{self._wide_product(args, kind)} + {self.value(args[3], double)}", double)
        self._check(parts[:-1], "lo")
        if kind[0] == "f":
            raise NotImplementedError("mad of floats")
        a, b, c = (self.value(arg, kind) for arg in args[1:4])
        self.write(args[0], f"{a} * {b} + {c}", kind)

    def _wide_product(self, args, kind):
        a, b = (f"{self.value(arg, kind)}.astype({DTYPES[DOUBLE[kind]]})" for arg in args[1:3])
        return f"{a} * {b}"

    def op_div(self, ins, parts, args):
        self._binary(ins, parts, args, "A.divide({}, {})", "({} / {})")

    def op_rem(self, ins, parts, args):
        self._binary(ins, parts, args, "A.remainder({}, {})")

    def op_min(self, ins, parts, args):
        name = "min_nan" if "NaN" in parts else "min_number"
        self._binary(ins, parts, args, "np.minimum({}, {})", f"A.{name}({{}}, {{}})")

    def op_max(self, ins, parts, args):
        name = "max_nan" if "NaN" in parts else "max_number"
        self._binary(ins, parts, args, "np.maximum({}, {})", f"A.{name}({{}}, {{}})")

    def op_neg(self, ins, parts, args):
        self._unary(ins, parts, args, "-{}")

    def op_abs(self, ins, parts, args):
        self._unary(ins, parts, args, "np.abs({})")

    def _unary(self, ins, parts, args, expression):
        kind = parts[-1]
        if kind in ("f16x2", "bf16x2", "bf16"):
            flip = {"-{}": "{} ^ ", "np.abs({})": "{} & "}[expression]
            half = (0x8000 if "^" in flip else 0x7FFF)
            bits = "b16" if kind == "bf16" else "b32"
            full = half if bits == "b16" else half << 16 | half
            mask = self.constant(NAMES[DTYPES[bits]](full))
            return self.write(args[0], flip.format(self.value(args[1], bits)) + mask, bits)
        text = expression.format(self.value(args[1], kind))
        self.write(args[0], f"A.flush({text})" if "ftz" in parts else text, kind)

    def _logic(self, ins, parts, args, symbol):
        kind = parts[-1]
        self.write(args[0], f"{self.value(args[1], kind)} {symbol} {self.value(args[2], kind)}", kind)

    def op_and(self, ins, parts, args):
        self._logic(ins, parts, args, "&")

    def op_or(self, ins, parts, args):
        self._logic(ins, parts, args, "|")

    def op_xor(self, ins, parts, args):
        self._logic(ins, parts, args, "^")

    def op_not(self, ins, parts, args):
        self.write(args[0], f"~{self.value(args[1], parts[-1])}", parts[-1])

    def op_shl(self, ins, parts, args):
        self._shift(ins, parts, args, "<<")

    def op_shr(self, ins, parts, args):
        self._shift(ins, parts, args, ">>")

    def _shift(self, ins, parts, args, symbol):
        kind = parts[-1]
        a, amount = self.value(args[1], kind), args[2]
        if amount[0] != "int":
            side = "left" if symbol == "<<" else "right"
            return self.write(args[0], f"A.shift_{side}({a}, {self.value(amount, 'b32')})", kind)
        if amount[1] >= 8 * SIZES[kind]:
            raise NotImplementedError("a constant shift by all bits")
        self.write(args[0], f"{a} {symbol} {self.constant(NAMES[DTYPES[kind]](amount[1]))}", kind)

    def op_shf(self, ins, parts, args):
        side, mode, _ = parts
        self.write(args[0], f"A.funnel({self.values(args[1:4], 'b32')}, {side == 'l'}, {mode == 'wrap'})", "b32")

    def op_bfe(self, ins, parts, args):
        kind = parts[-1]
        _, source, (first, start), (second, length) = args[0], args[1], args[2][:2], args[3][:2]
        bits, dtype = 8 * SIZES[kind], DTYPES[kind]
        if not (first == second == "int" and start + length <= bits and length > 0):
            value, place = self.value(source, kind), self.values(args[2:4], "b32")
            return self.write(args[0], f"A.bit_field({value}, {place})", kind)
        constant = lambda value: self.constant(NAMES[dtype](value))
        unsigned = self.value(source, kind.replace("s", "u"))
        if kind[0] == "u":
            return self.write(args[0], f"({unsigned} >> {constant(start)}) & {constant(2 ** length - 1)}", kind)
        left = self.constant(NAMES[dtype.replace("i", "u")](bits - start - length))
        self.write(args[0], f"({unsigned} << {left}).view({dtype}) >> {constant(bits - length)}", kind)

    def op_bfi(self, ins, parts, args):
        kind = parts[-1]
        self.write(args[0], f"A.insert({self.values(args[1:3], kind)}, {self.values(args[3:5], 'b32')})", kind)

    def op_popc(self, ins, parts, args):
        self.write(args[0], f"np.bitwise_count({self.value(args[1], parts[-1])}).astype(u4)", "b32")

    def op_clz(self, ins, parts, args):
        self.write(args[0], f"A.leading_zeros({self.value(args[1], parts[-1])})", "b32")

    def op_brev(self, ins, parts, args):
        self.write(args[0], f"A.reverse({self.value(args[1], parts[-1])})", parts[-1])

    def op_prmt(self, ins, parts, args):
        self._check(parts, "b32")
        self.write(args[0], f"A.permute({self.values(args[1:4], 'b32')})", "b32")

    def op_lop3(self, ins, parts, args):
        self._check(parts, "b32")
        self.write(args[0], f"A.lop3({self.values(args[1:4], 'b32')}, {args[4][1]})", "b32")
