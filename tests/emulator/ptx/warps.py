"""Opcodes that a warp or a warpgroup executes together: shuffles, votes and tensor cores."""

import re

KINDS = {("f16", 8), ("f16", 16), ("bf16", 8), ("bf16", 16), ("tf32", 4), ("tf32", 8)}  # of mma.sync, with its k


class Warps:
    """Opcodes of a translator."""

    def op_elect(self, ins, parts, args):
        target, predicate = (args[0][1], args[0][2]) if args[0][0] == "pair" else (("sink",), args[0])
        self.emit(f"t, t1 = X.elect({self.value(args[1], 'b32')}, {self.mask})")
        self.write(target, "t", "b32")
        self.write(predicate, "t1", "pred")

    def op_shfl(self, ins, parts, args):
        target, predicate = (args[0][1], args[0][2]) if args[0][0] == "pair" else (args[0], ("sink",))
        self.emit(f"t, t1 = X.shuffle({self.me(ins)}, {parts[1]!r}, {self.values(args[1:4], 'b32')}, {self.mask})")
        self.write(target, "t", "b32")
        self.write(predicate, "t1", "pred")

    def op_vote(self, ins, parts, args):
        self.emit(f"t = X.vote({self.me(ins)}, {parts[1]!r}, {self.value(args[1], 'pred')}, {self.mask})")
        self.write(args[0], "t", "b32" if parts[1] == "ballot" else "pred")

    def op_redux(self, ins, parts, args):
        if parts[0] != "sync" or parts[2] not in ("s32", "u32", "b32"):
            raise NotImplementedError("redux")
        self.emit(f"t = X.reduce({self.me(ins)}, {parts[1]!r}, {self.value(args[1], parts[2])}, {self.mask})")
        self.write(args[0], "t", parts[2])

    def op_activemask(self, ins, parts, args):
        self.emit(f"t = X.vote({self.me(ins)}, 'ballot', true, {self.mask})")
        self.write(args[0], "t", "b32")

    def op_ldmatrix(self, ins, parts, args):
        count = int(next(p for p in parts if re.fullmatch("x[124]", p))[1:])
        if parts[-1] != "b16" or "m8n8" not in parts:
            raise NotImplementedError("ldmatrix")
        targets = args[0][1] if args[0][0] == "vec" else [args[0]]
        where, transposed = self.address(args[1], 4), "trans" in parts
        self.emit(f"t = X.load_matrix({self.me(ins)}, {where}, {self.mask}, {count}, {transposed})")
        for i, target in enumerate(targets):
            self.write(target, f"t[{i}]", "b32")

    def op_stmatrix(self, ins, parts, args):
        count = int(next(p for p in parts if re.fullmatch("x[124]", p))[1:])
        if parts[-1] != "b16" or "m8n8" not in parts:
            raise NotImplementedError("stmatrix")
        sources = args[1][1] if args[1][0] == "vec" else [args[1]]
        where, values, transposed = self.address(args[0], 4), self.values(sources, "b32"), "trans" in parts
        self.emit(f"X.store_matrix({self.me(ins)}, {where}, [{values}], {self.mask}, {count}, {transposed})")

    def op_mma(self, ins, parts, args):
        match = re.fullmatch(r"mma\.sync\.aligned\.m16n8k(4|8|16)\.row\.col\.f32\.(f16|bf16|tf32)\.\2\.f32", ins.op)
        if not match or (match.group(2), int(match.group(1))) not in KINDS:
            raise NotImplementedError("mma")
        lists = ", ".join(f"[{self.values(arg[1], 'b32')}]" for arg in args[1:4])
        self.emit(f"t = X.mma({self.me(ins)}, {lists}, {match.group(1)}, {match.group(2)!r}, {self.mask})")
        for i, target in enumerate(args[0][1]):
            self.write(target, f"t[{i}]", "b32")

    def op_wgmma(self, ins, parts, args):
        if parts[0] == "fence":
            return self.emit("pass")
        if parts[0] == "commit_group":
            return self.emit(f"X.wide_commit({self.mask})")
        if parts[0] == "wait_group":
            return self.emit(f"X.wide_wait({args[0][1]}, {self.mask})")
        match = re.fullmatch(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k(8|16)\.f32\.(f16|bf16|tf32)\.\3", ins.op)
        if not match:
            raise NotImplementedError("wgmma")
        n, k, kind = int(match.group(1)), int(match.group(2)), match.group(3)
        if (k == 8) != (kind == "tf32"):
            raise NotImplementedError("wgmma shape")
        registers = [self.program.register(r[1]) for r in args[0][1]]
        if len(registers) != n // 2:
            raise NotImplementedError("accumulators")
        in_registers = args[1][0] == "vec"
        a = str([self.program.register(r[1]) for r in args[1][1]]) if in_registers else self.value(args[1], "b64")
        immediates = [x[1] for x in args[4:]]
        scales, transposes = immediates[:2], immediates[2:]
        want = 0 if kind == "tf32" else 1 if in_registers else 2
        if len(transposes) != want or any(s not in (1, -1) for s in scales):
            raise NotImplementedError("wgmma immediates")
        if in_registers:
            transposes = [0] + transposes
        transposes = (transposes + [0, 0])[:2]
        b, scale_d = self.value(args[2], "b64"), self.value(args[3], "pred")
        operands = f"{registers}, {a}, {b}, {scale_d}, {scales}, {transposes}, {n}, {kind!r}"
        self.emit(f"X.wide_mma({self.me(ins)}, {operands}, {self.mask})")
