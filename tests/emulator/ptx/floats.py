"""Opcodes of floating point numbers, and comparisons."""

from .operands import BITS
from .parse import SIZES

COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
               "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
UNORDERED = {"equ": "!=", "neu": "==", "ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<"}  # each with its opposite
FMA = {"f32": "fma32", "f64": "fma64", "f16": "fma16", "f16x2": "fma16f", "bf16": "fmab", "bf16x2": "fmab"}


class Floats:
    """Opcodes of a translator."""

    def _float(self, ins, kind, mods, args, expression, count=2):
        """expression over {0}, {1}, {2} in the type's own arithmetic; bf16 in f32, rounded once."""
        self._check(mods, "rn", "ftz", "approx", "full", "sat", "NaN")
        ftz = "ftz" in mods
        operands = args[1:1 + count]
        if kind in ("f32", "f64", "f16"):
            values = [self.value(o, kind) for o in operands]
            if ftz:
                values = [f"A.flush({v})" for v in values]
            text = expression.format(*values)
            if ftz:
                text = f"A.flush({text})"
            if "sat" in mods:
                text = f"A.saturate({text})"
            return self.write(args[0], text, kind)
        if kind == "bf16":
            values = [f"A.from_bf16({self.value(o, 'b16')})" for o in operands]
            return self.write(args[0], f"A.to_bf16({expression.format(*values)})", "b16")
        if ftz:
            raise NotImplementedError("ftz of pairs")
        values = [self.value(o, "b32") for o in operands]
        for i, v in enumerate(values):
            self.emit(f"t{i} = {v}")
        unpack = "A.f16_half(t{}, {})" if kind == "f16x2" else "A.bf16_half(t{}, {})"
        pack = "A.pack_f16" if kind == "f16x2" else "A.pack_bf16"
        low, high = (expression.format(*(unpack.format(i, h) for i in range(count))) for h in (0, 1))
        self.write(args[0], f"{pack}({low}, {high})", "b32")

    def op_fma(self, ins, parts, args):
        kind, mods = parts[-1], parts[:-1]
        self._check(mods, "rn", "ftz", "sat")
        self._float(ins, kind, mods, args, f"A.{FMA[kind]}({{}}, {{}}, {{}})", 3)

    def _approximate(self, ins, parts, args, function):
        kind, mods = parts[-1], parts[:-1]
        if kind not in ("f32", "f64", "f16"):
            raise NotImplementedError(f"of {kind}")
        self._float(ins, kind, mods, args, f"A.{function}({{}})", 1)

    def op_ex2(self, ins, parts, args):
        self._approximate(ins, parts, args, "exp2")

    def op_lg2(self, ins, parts, args):
        self._approximate(ins, parts, args, "log2")

    def op_rcp(self, ins, parts, args):
        self._approximate(ins, parts, args, "reciprocal")

    def op_sqrt(self, ins, parts, args):
        self._approximate(ins, parts, args, "sqrt")

    def op_rsqrt(self, ins, parts, args):
        self._approximate(ins, parts, args, "rsqrt")

    def op_tanh(self, ins, parts, args):
        self._approximate(ins, parts, args, "tanh")

    def op_sin(self, ins, parts, args):
        self._approximate(ins, parts, args, "sin")

    def op_cos(self, ins, parts, args):
        self._approximate(ins, parts, args, "cos")

    def op_copysign(self, ins, parts, args):
        kind = parts[-1]  # copysign d, a, b: the sign of a, the magnitude of b
        self.write(args[0], f"np.copysign({self.value(args[2], kind)}, {self.value(args[1], kind)})", kind)

    def op_testp(self, ins, parts, args):
        kind, what = parts[-1], parts[0]
        a = self.value(args[1], kind)
        text = {"notanumber": f"np.isnan({a})", "infinite": f"np.isinf({a})", "finite": f"np.isfinite({a})",
                "number": f"(~np.isnan({a}))"}[what]
        self.write(args[0], text, "pred")

    def op_setp(self, ins, parts, args):
        comparison, kind = parts[0], parts[-1]
        mods = parts[1:-1]
        join = next((m for m in mods if m in ("and", "or", "xor")), None)
        self._check(mods, "and", "or", "xor", "ftz")
        first, second = (args[0][1], args[0][2]) if args[0][0] == "pair" else (args[0], None)
        if kind in ("f16x2", "bf16x2"):
            if join or second is None:
                raise NotImplementedError("setp of pairs")
            half = "A.f16_half" if kind == "f16x2" else "A.bf16_half"
            self.emit(f"t0 = {self.value(args[1], 'b32')}")
            self.emit(f"t1 = {self.value(args[2], 'b32')}")
            lows = [self._compare(comparison, f"{half}(t0, {h})", f"{half}(t1, {h})", "f32") for h in (0, 1)]
            self.emit(f"t2, t3 = {lows[0]}, {lows[1]}")
            self.write(first, "t2", "pred")
            self.write(second, "t3", "pred")
            return
        a, b = self.value(args[1], kind), self.value(args[2], kind)
        if kind == "bf16":
            a, b = f"A.from_bf16({a})", f"A.from_bf16({b})"
        if "ftz" in mods:
            a, b = f"A.flush({a})", f"A.flush({b})"
        self.emit(f"t = {self._compare(comparison, a, b, kind)}")
        symbol = {"and": "&", "or": "|", "xor": "^"}.get(join)
        other = self.value(args[3], "pred") if join else None
        if second is not None:  # both before the first may overwrite what the second reads
            self.emit(f"t1 = {'(~t) ' + symbol + ' ' + other if join else '~t'}")
        self.write(first, f"t {symbol} {other}" if join else "t", "pred")
        if second is not None:
            self.write(second, "t1", "pred")

    def _compare(self, comparison, a, b, kind):
        floating = kind[0] == "f" or kind == "bf16"
        if not floating:
            return f"({a} {COMPARISONS[comparison]} {b})"
        if comparison == "num":
            return f"(~(np.isnan({a}) | np.isnan({b})))"
        if comparison == "nan":
            return f"(np.isnan({a}) | np.isnan({b}))"
        if comparison == "equ":
            return f"(({a} == {b}) | np.isnan({a}) | np.isnan({b}))"
        if comparison in UNORDERED:
            return f"(~({a} {UNORDERED[comparison]} {b}))"
        if comparison == "ne":
            return f"(({a} != {b}) & ~(np.isnan({a}) | np.isnan({b})))"
        return f"({a} {COMPARISONS[comparison]} {b})"

    def op_selp(self, ins, parts, args):
        kind = parts[-1]
        bits = BITS[SIZES[kind]]
        self.write(args[0], f"where({self.value(args[3], 'pred')}, {self.values(args[1:3], bits)})", bits)
