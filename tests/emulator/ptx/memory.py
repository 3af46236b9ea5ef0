"""Opcodes of memory: loads, stores, asynchronous copies and what is waited for."""

import re

from .operands import BITS
from .parse import SIZES

TENSOR_LOAD = (r"cp\.async\.bulk\.tensor\.\dd\.shared::(cta|cluster)\.global\.mbarrier::complete_tx::bytes"
               r"(?P<multicast>\.multicast::cluster)?")
TENSOR_STORE = r"cp\.async\.bulk\.tensor\.\dd\.global\.shared::cta\.bulk_group"


class Memory:
    """Opcodes of a translator."""

    def _memory(self, parts):
        space = next((p for p in parts if p.split("::")[0] in ("global", "shared", "param", "local", "const")), None)
        vector = next((int(p[1:]) for p in parts if re.fullmatch(r"v[248]", p)), 1)
        return space, vector, parts[-1]

    def op_ld(self, ins, parts, args):
        space, vector, kind = self._memory(parts)
        targets = args[0][1] if args[0][0] == "vec" else [args[0]]
        if len(targets) != vector:
            raise NotImplementedError("vector size")
        size, signed = SIZES[kind], kind[0] == "s"
        bits, view = (kind, f".view(i{size})") if signed else (f"u{8 * size}", "")
        if space == "param":
            _, base, offset = args[1]
            first = self.program.params[base[1]] + offset
            for i, target in enumerate(targets):
                self.write(target, f"X.param({first + i * size}, {size}){view}", bits)
            return
        memory, where = self._place(space, args[1])
        self.emit(f"t = {memory}.load({self.me(ins)}, {where}, {self.mask}, {size}, {vector})")
        for i, target in enumerate(targets):
            self.write(target, f"t[{i}]{view}", bits)

    def op_st(self, ins, parts, args):
        space, vector, kind = self._memory(parts)
        sources = args[1][1] if args[1][0] == "vec" else [args[1]]
        if len(sources) != vector:
            raise NotImplementedError("vector size")
        size = SIZES[kind]
        memory, where = self._place(space, args[0])
        values = self.values(sources, BITS[size])
        self.emit(f"{memory}.store({self.me(ins)}, {where}, [{values}], {self.mask}, {size})")

    def _place(self, space, operand):
        if space == "global":
            return "X.memory", self.address(operand, 8)
        if space in ("shared", "shared::cta"):
            return "X.shared", self.address(operand, 4)
        raise NotImplementedError(f"memory of space {space}")

    def op_cp(self, ins, parts, args):
        op = ins.op
        if op == "cp.async.commit_group":
            return self.emit(f"X.commit({self.mask})")
        if op == "cp.async.wait_group":
            return self.emit(f"X.wait({args[0][1]}, {self.mask})")
        if op == "cp.async.wait_all":
            self.emit(f"X.commit({self.mask})")
            return self.emit(f"X.wait(0, {self.mask})")
        if op.startswith(("cp.async.ca.shared", "cp.async.cg.shared")):
            size = args[2][1]
            if size not in ((4, 8, 16) if parts[1] == "ca" else (16,)):
                raise NotImplementedError(f"cp.async of {size} bytes")
            amount = self.value(args[3], "b32") if len(args) > 3 else "None"
            target, source = self.address(args[0], 4), self.address(args[1], 8)
            return self.emit(f"X.copy_async({self.me(ins)}, {target}, {source}, {size}, {amount}, {self.mask})")
        if op.startswith("cp.async.bulk.tensor"):
            return self._tensor_copy(ins, args)
        if op in ("cp.async.bulk.commit_group", "cp.async.bulk.wait_group", "cp.async.bulk.wait_group.read"):
            return self.emit("pass")  # of stores, which are done at issue
        raise NotImplementedError("cp")

    def _tensor_copy(self, ins, args):
        into, out_of = re.fullmatch(TENSOR_LOAD, ins.op), re.fullmatch(TENSOR_STORE, ins.op)
        if not (into or out_of):
            raise NotImplementedError("cp")
        _, base, coordinates = args[1 if into else 0]
        described = f"{self.value(base, 'b64')}, [{self.values(coordinates, 'b32')}]"
        shared = self.address(args[0 if into else 1], 4)
        if into:
            multicast = into["multicast"] is not None
            if "shared::cluster" in ins.op and (self.kernel.cluster > 1) != multicast:
                raise NotImplementedError("a tensor copy to another CTA but by multicast, or a multicast without a cluster")
            barrier, ctas = self.address(args[2], 4), self.value(args[3], "b16") if multicast else "None"
            return self.emit(f"X.tensor_load({self.me(ins)}, {shared}, {described}, {barrier}, {self.mask}, {ctas})")
        self.emit(f"X.tensor_store({self.me(ins)}, {shared}, {described}, {self.mask})")

    def op_fence(self, ins, parts, args):
        if parts[0] == "proxy":
            return self.emit(f"X.proxy_fence({self.mask})")
        if parts[0] == "mbarrier_init":
            return self.emit(f"X.barrier_fence(X.cta[X.taking({self.mask})])")
        self.emit("pass")

    def op_membar(self, ins, parts, args):
        self.emit("pass")

    def op_griddepcontrol(self, ins, parts, args):
        self.emit("pass")

    def op_bar(self, ins, parts, args):
        if parts[0] == "warp":
            return self.emit("pass")
        raise NotImplementedError("bar")

    def op_nanosleep(self, ins, parts, args):
        self.emit("pass")

    def op_prefetch(self, ins, parts, args):
        self.emit("pass")

    def op_mbarrier(self, ins, parts, args):
        what = parts[0]
        if "shared::cluster" in parts and self.kernel.cluster > 1:
            raise NotImplementedError("an mbarrier that may be of another CTA")
        if what in ("init", "inval"):
            count = args[1][1] if what == "init" else 0
            return self.emit(f"X.barrier_{what}({self.me(ins)}, {self.address(args[0], 4)}, {count}, {self.mask})")
        if what == "arrive":
            expect = "expect_tx" in parts
            if args[0][0] not in ("sink", "reg") or expect and len(args) < 3:
                raise NotImplementedError("arrive")
            extra = self.value(args[2], "b32") if len(args) > 2 else "u4(1)"
            where = self.address(args[1], 4)
            return self.emit(f"X.barrier_arrive({self.me(ins)}, {where}, {extra}, {expect}, {self.mask})")
        if what in ("try_wait", "test_wait") and "parity" in parts:
            where, parity = self.address(args[1], 4), self.value(args[2], "b32")
            self.emit(f"t = X.barrier_wait({self.me(ins)}, {where}, {parity}, {self.mask})")
            return self.write(args[0], "t", "pred")
        raise NotImplementedError("mbarrier")
