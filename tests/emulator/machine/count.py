"""What a launch did, in the units of the hardware: warp instructions by class, sectors, wavefronts, FLOPs."""

import re

import numpy as np

CLASSES = ("integer", "float", "conversion", "predicate", "move", "load global", "store global", "copy async",
           "copy tensor", "load shared", "store shared", "ldmatrix", "stmatrix", "tensor core", "barrier", "branch",
           "warp", "param", "other")
HEADS = {  # classes of opcodes that their first word tells
    **dict.fromkeys(("mma",), "tensor core"), **dict.fromkeys(("bra", "ret", "exit"), "branch"),
    **dict.fromkeys(("bar", "barrier", "mbarrier", "fence", "membar", "wgmma", "cp"), "barrier"),
    **dict.fromkeys(("shfl", "elect", "vote", "activemask"), "warp"), **dict.fromkeys(("setp", "selp"), "predicate"),
    **dict.fromkeys(("mov", "cvta"), "move"), **{name: name for name in ("ldmatrix", "stmatrix")}, "cvt": "conversion"}
INTEGERS = {"add", "sub", "mul", "mad", "div", "rem", "min", "max", "neg", "abs", "and", "or", "xor", "not", "shl",
            "shr", "shf", "bfe", "bfi", "prmt", "lop3", "popc", "clz", "brev"}
FAR = np.uint64(2**63)  # beyond every address: of threads that do not take part


def class_of(ins) -> str:
    """The class of an instruction."""
    op = ins.op
    head = op.split(".")[0]
    if op.startswith("wgmma.mma_async"):
        return "tensor core"
    if op.startswith("ld.param"):
        return "param"
    if head in ("ld", "st"):
        return f"{'load' if head == 'ld' else 'store'} {'shared' if 'shared' in op else 'global'}"
    if op.startswith("cp.async.bulk"):
        return "copy tensor"
    if re.match(r"cp\.async\.c[ag]", op):
        return "copy async"
    if op.endswith(".pred"):
        return "predicate"
    if head in HEADS:
        return HEADS[head]
    if re.search(r"\.(f16|bf16|f32|f64|f16x2|bf16x2)$", op):
        return "float"
    return "integer" if head in INTEGERS else "other"


class Counters:
    """The counts of a launch; of global memory by "load", "store" and "copy" (cp.async)."""

    def __init__(self):
        self.blocks = {}
        self.requests = {"load": 0, "store": 0, "copy": 0}
        self.sectors = {"load": 0, "store": 0, "copy": 0}
        self.bytes = {"load": 0, "store": 0, "copy": 0}
        self.ideal_sectors = {"load": 0, "store": 0, "copy": 0}
        self.tensor_bytes = self.tensor_inside = self.tensor_sectors = self.tensor_copies = 0
        self.wavefronts = self.ideal_wavefronts = self.shared_requests = 0
        self.by_instruction = {}  # PTX line -> [text, requests, sectors or wavefronts, least]
        self.multiply_adds = 0

    # ---- called while running ----

    def block(self, program, block, warps):
        """So many warps have executed a block."""
        key = id(block)
        found = self.blocks.get(key)
        if found is None:
            classes = {}
            for ins in block.code + ([block.end] if block.end else []):
                name = class_of(ins)
                classes[name] = classes.get(name, 0) + 1
            found = self.blocks[key] = [block, classes, 0]
        found[2] += warps

    def product(self, multiply_adds, times):
        """So many products on tensor cores, each of so many multiply-adds."""
        self.multiply_adds += multiply_adds * times

    def _note(self, ins, requests, cost, least):
        found = self.by_instruction.setdefault(ins.line, [str(ins), 0, 0, 0])
        found[1] += requests
        found[2] += cost
        found[3] += least

    def global_access(self, machine, ins, address, mask, width, kind):
        """Sectors of 32 bytes that each warp's request touches; the least are those its distinct bytes would fill."""
        active = np.ones(len(address), bool) if mask is None else mask
        counts = active.reshape(-1, 32).sum(1)
        distinct = _distinct(np.where(active, address >> np.uint64(5), FAR), counts)
        least = (_distinct(np.where(active, address, FAR), counts) * width + 31) // 32
        requests = int((counts > 0).sum())
        self.requests[kind] += requests
        self.sectors[kind] += int(distinct.sum())
        self.ideal_sectors[kind] += int(least.sum())
        self.bytes[kind] += int(counts.sum()) * width
        self._note(ins, requests, int(distinct.sum()), int(least.sum()))

    def copy_async(self, machine, ins, source, target, mask, reading, size):
        """What a cp.async reads."""
        self.global_access(machine, ins, source, reading, size, "copy")

    def tensor_copy(self, machine, ins, m, offsets, inside):
        """Boxes that were read, by the offsets of their items."""
        self.tensor_copies += len(offsets)
        self.tensor_bytes += offsets.size * m.item
        self.tensor_inside += int(inside.sum()) * m.item
        for row, here in zip(offsets, inside):
            self.tensor_sectors += len(np.unique((row[here] + (m.address % 32)) >> 5))

    def shared_access(self, machine, ins, address, mask, width):
        """Wavefronts: 4 bytes of each of 32 banks at a time; 8 bytes go by half warps, 16 by quarters."""
        lanes = address.reshape(-1, 32).astype(np.int64)
        active = np.ones(lanes.shape, bool) if mask is None else mask.reshape(-1, 32)
        parts = {8: 2, 16: 4}.get(width, 1)
        lanes, part = lanes.reshape(-1, 32 // parts), active.reshape(-1, 32 // parts)
        words = max(1, width // 4)
        word = (lanes[:, :, None] // 4 + np.arange(words)).reshape(len(lanes), -1)
        part = np.repeat(part, words, 1)
        cost = _conflicts(word, part)
        warps = active.any(1)
        least = np.where(part.any(1), 1, 0)
        self.wavefronts += int(cost.sum())
        self.ideal_wavefronts += int(least.sum())
        self.shared_requests += int(warps.sum())
        self._note(ins, int(warps.sum()), int(cost.sum()), int(least.sum()))

    def matrix_access(self, machine, ins, rows, warps):
        """rows [warps, matrices, 8] addresses: one wavefront for each matrix at best."""
        rows = rows.astype(np.int64)[warps].reshape(-1, 8)
        if not len(rows):
            return
        word = (rows[:, :, None] // 4 + np.arange(4)).reshape(len(rows), -1)
        cost = _conflicts(word, np.ones(word.shape, bool))
        self.wavefronts += int(cost.sum())
        self.ideal_wavefronts += len(rows)
        self.shared_requests += int(warps.sum())
        self._note(ins, int(warps.sum()), int(cost.sum()), len(rows))

    # ---- afterwards ----

    def instructions(self) -> dict:
        """Warp instructions by class."""
        total = dict.fromkeys(CLASSES, 0)
        for _, classes, warps in self.blocks.values():
            for name, count in classes.items():
                total[name] += count * warps
        return {k: v for k, v in total.items() if v}

    def summary(self, regions=()) -> dict:
        """All of it in plain numbers."""
        classes = self.instructions()
        sectors, ideal = sum(self.sectors.values()), sum(self.ideal_sectors.values())
        return {
            "warp_instructions": sum(classes.values()), "classes": classes,
            "global_requests": dict(self.requests), "sectors": dict(self.sectors),
            "ideal_sectors": dict(self.ideal_sectors), "sector_efficiency": ideal / sectors if sectors else 1.0,
            "bytes_asked": dict(self.bytes), "tensor_copies": self.tensor_copies, "tensor_bytes": self.tensor_bytes,
            "tensor_bytes_inside": self.tensor_inside, "tensor_sectors": self.tensor_sectors,
            "shared_requests": self.shared_requests, "wavefronts": self.wavefronts,
            "ideal_wavefronts": self.ideal_wavefronts,
            "bank_conflict_factor": self.wavefronts / self.ideal_wavefronts if self.ideal_wavefronts else 1.0,
            "flops": 2 * self.multiply_adds,
            "unique_bytes": {region.name: _touched(region) for region in regions if region.read is not None},
        }

    def worst(self, count=8) -> list:
        """Memory instructions by what they cost beyond the least: (text, requests, cost, least)."""
        rows = [tuple(v) for v in self.by_instruction.values()]
        return sorted(rows, key=lambda r: r[3] - r[2])[:count]


def _touched(region) -> dict:
    return {"size": region.size, "read": int(region.read.sum()), "written": int(region.written.sum()),
            "rewritten": region.rewritten}


def _distinct(values, counts):
    """How many different values each warp has; counts: its threads that take part, the others have FAR."""
    lanes = np.sort(values.reshape(-1, 32), 1)
    return np.where(counts == 0, 0, (lanes[:, 1:] != lanes[:, :-1]).sum(1) + 1 - (counts < 32))


def _conflicts(word, active):
    """The most distinct words that one bank must give, for each row of word addresses."""
    rows, lanes = word.shape
    key = np.where(active, (word % 32) << 40 | word, 1 << 60)
    key = np.sort(key, 1)
    new = np.ones(key.shape, bool)
    new[:, 1:] = key[:, 1:] != key[:, :-1]
    new &= key < 1 << 60
    bank = np.where(key < 1 << 60, key >> 40, 32)
    counts = np.zeros((rows, 33), np.int64)
    np.add.at(counts, (np.repeat(np.arange(rows), lanes), bank.reshape(-1)), new.reshape(-1))
    return counts[:, :32].max(1)


def table(summary: dict) -> str:
    """A summary as text, a line for each entry."""
    lines = []
    for key, value in summary.items():
        if isinstance(value, dict):
            lines.append(f"{key}: " + ", ".join(f"{k} {v}" for k, v in value.items()))
        else:
            lines.append(f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}")
    return "\n".join(lines)
