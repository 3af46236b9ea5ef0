"""Compile every kernel with run-time integers of every kind and print, as JSON, what is wrong: the worker of
test_compile_sizes.py.

Triton makes a constant of an argument that is 1, marks one that 16 divides and gives 64 bits to a large one: each is
another program. Kernels are lowered to Triton's own IR, where a fault in the source shows, some of them to PTX.

    python compile_sizes.py ROW ...
"""

import json
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import quick_compiler
import torch

from triton_conv3dt.compiling import compile
from triton_conv3dt.launching import binding, launch
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.constants import Memory
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.problem import BACKWARD, Problem

ONE, SIXTEEN, NEITHER, HUGE = 1, 16, 7, 2**31 + 7
COUNTS = ("P", "SIZE", "SHARE", "BOXES")  # that may be huge, as strides may; sizes of an axis are not
PARTS = 4  # of a large kernel's integers that are 1 at a time
H200 = Device.named("nvidia_h200")
LAYER = dict(n=2, ci=32, co=32, in_size=8, kernel=3, stride=2, padding=1, output_padding=1, bias=True, residual=True)
LAST, WHOLE = dict(layout="channels_last"), dict(kernel=2, padding=0, output_padding=0)
TF32, ONE_PHASE, DILATED = dict(dtype="float32"), dict(stride=1, output_padding=0), dict(dilation=2, output_padding=0)
GATHER = Config("gather", 64, 32, 32, stages=3)
MERGED, DESCRIPTOR = replace(GATHER, merge=(True, True, True)), replace(GATHER, path="descriptor")
DIRECT, SHARES = Config("direct", 16, 64), dict(shares=3)
LOW, LINES = dict(in_size=(8, 2, 8)), Config("direct", 16, 16)  # as many forms, fewer lines of each
CROSSED = replace(GATHER, taps=("crossed", "columns", "crossed"), **SHARES)
ONE_PASS = Config("onepass", 32, 256, 32, 8, 2, shares=132)
WALK_WEIGHT = Config("walk", 64, 32, 64, 4, 2, box=(1, 8, 8), taps=("crossed", "columns", "columns"), **SHARES)
TURN_WEIGHT = Config("walk", 16, 16, 64, 4, 2, box=(1, 8, 8), taps=("crossed", "columns", "columns"), **SHARES)
PAIR = Config("pair", 32, 128, 32, 4, 3, merge=(False, False, True), box=(2, 8, 8))
HALO = replace(PAIR, merge=(False,) * 3, box=(1, 8, 16), halo=True)
PAIR_WEIGHT = Config("pair", 128, 128, 32, 4, 3, taps=("crossed", "columns", "crossed"), **SHARES)

WALK, WALKED = Config("walk", 16, 64, 32, 4, 2, merge=(False, False, True), box=(2, 8, 8), copy=True), dict(in_size=9, co=16)

HALF, SINGLE = torch.float16, torch.float32
COPY = dict(X_RUN=8, C_RUN=8, ROUND=False, PADDED=False, APART=(1, 1), BLOCK_C=32, BLOCK_P=64)
APART = dict(ROUND=True, BLOCK_H=16, BLOCK_W=64)
DZ = dict(LIVE=(1, 8), G=Memory(False, 8), S=Memory(False, 8), O=Memory(False, 8), DERIVATIVE="silu", PARAMETERS=(0.0, 0.0), BLOCK_C=1,
          BLOCK_P=1024, ACC="float32")
DZ_LAST = DZ | dict(LIVE=(8, 1), S=Memory(True, 8), O=Memory(True, 8), BLOCK_C=32, BLOCK_P=32)
BIAS = DZ | dict(DERIVATIVE=None, S=None, O=None)
NORM = dict(EPS=1e-5, ACTIVATION=None, PARAMETERS=(0.0, 0.0), BLOCK_C=32, BLOCK_P=32, ACC="float32")
REDUCTIONS = {  # the kernel, its pointers, its constants; whatever else it takes is an integer
    "sum_parts": ("sum_parts", (SINGLE, HALF), dict(TAP_MINOR=False, BLOCK=1024)),
    "pack": ("pack", (HALF, HALF), dict(ROUND=False, CI_INNER=False, SLOTS=None, BLOCK=1024)),
    "pack slots": ("pack", (HALF, HALF), dict(ROUND=False, CI_INNER=True, SLOTS=(1, -1, 0), BLOCK=1024)),
    "pack rounded": ("pack", (SINGLE, SINGLE), dict(ROUND=True, CI_INNER=True, SLOTS=None, BLOCK=1024)),
    "to_channels_last": ("to_channels_last", (HALF, HALF), COPY | dict(INDEX="int32")),
    "to_channels_last padded": ("to_channels_last", (HALF, HALF), COPY | dict(PADDED=True, INDEX="int32")),
    "to_channels_last apart": ("to_channels_last", (HALF, HALF), COPY | dict(PADDED=True, APART=(2, 3), INDEX="int64")),
    "to_channels_last wide": ("to_channels_last", (HALF, HALF), COPY | dict(INDEX="int64")),
    "to_residues": ("to_residues", (SINGLE, SINGLE), APART | dict(RESIDUES=(2, 3, 2), X_RUN=1, C_RUN=1, INDEX="int32")),
    "to_residues of one": ("to_residues", (SINGLE, SINGLE), APART | dict(RESIDUES=(1, 1, 1), X_RUN=4, C_RUN=4, INDEX="int32")),
    "to_residues wide": ("to_residues", (SINGLE, SINGLE), APART | dict(RESIDUES=(2, 3, 2), X_RUN=1, C_RUN=1, INDEX="int64")),
    "make_dz": ("make_dz", (HALF, HALF, HALF, SINGLE), DZ | dict(INDEX="int32")),
    "make_dz alone": ("make_dz", (HALF, HALF, HALF, None), DZ | dict(INDEX="int32")),
    "make_dz last": ("make_dz", (HALF, HALF, HALF, SINGLE), DZ_LAST | dict(INDEX="int32")),
    "make_dz bias": ("make_dz", (HALF, None, None, SINGLE), BIAS | dict(INDEX="int32")),
    "make_dz wide": ("make_dz", (HALF, HALF, HALF, SINGLE), DZ_LAST | dict(INDEX="int64")),
    "combine": ("combine", (SINGLE,) * 3, dict(BLOCK=1024)),
    "normalise first": ("normalise", (HALF, HALF, SINGLE, SINGLE, None, None), NORM | dict(LAST=False, BATCH=True, INDEX="int32")),
    "normalise last": ("normalise", (HALF, HALF, SINGLE, SINGLE, HALF, HALF), NORM | dict(LAST=True, BATCH=False, INDEX="int64")),
}
PRODUCTS = {  # direction, what differs from LAYER, config: every form that other lines of the source compute
    "gather forward": ("forward", dict(activation="relu"), GATHER),
    "gather forward last": ("forward", LAST, GATHER),
    "gather forward groups": ("forward", LAST | dict(groups=2), GATHER),
    "gather forward one phase": ("forward", ONE_PHASE, GATHER),
    "gather forward dilated": ("forward", DILATED, GATHER),
    "gather forward merged": ("forward", WHOLE, MERGED),
    "gather grad_input": ("grad_input", {}, GATHER),
    "gather grad_input last": ("grad_input", LAST, GATHER),
    "gather grad_input, shares": ("grad_input", {}, replace(GATHER, shares=3)),
    "gather grad_input flat": ("grad_input", dict(co=3), replace(GATHER, flat=2)),
    "gather grad_input flat, shares": ("grad_input", dict(co=3), replace(GATHER, flat=2, shares=3)),
    "gather grad_input flat, one step": ("grad_input", dict(co=1), replace(GATHER, flat=3)),
    "gather grad_input flat last": ("grad_input", LAST | dict(co=4), replace(GATHER, flat=3)),
    "gather grad_input flat, pairs": ("grad_input", LAST | dict(co=1, kernel=9, padding=3), replace(GATHER, flat=3, merge=(False, False, True))),
    "gather forward turned": ("forward", TF32 | WHOLE, MERGED),
    "gather grad_input turned": ("grad_input", TF32 | WHOLE, GATHER),
    "gather grad_input parted": ("grad_input", WHOLE, GATHER),
    "gather grad_input turned, some outside": ("grad_input", TF32, GATHER),
    "gather grad_input flat, nothing outside": ("grad_input", WHOLE | dict(co=4), replace(GATHER, flat=1)),
    "descriptor rows": ("forward", LAST | WHOLE, replace(MERGED, path="descriptor")),
    "descriptor box": ("forward", LAST, replace(DESCRIPTOR, box=(2, 4, 4))),
    "descriptor strided": ("grad_input", LAST, replace(DESCRIPTOR, box=(1, 4, 8))),
    "direct forward": ("forward", dict(activation="relu"), DIRECT),
    "direct forward groups last": ("forward", LAST | LOW | dict(groups=32), LINES),
    "direct forward one phase": ("forward", ONE_PHASE, DIRECT),
    "direct forward dilated": ("forward", DILATED, DIRECT),
    "direct forward along d and h": ("forward", dict(kernel=11, padding=5), DIRECT),
    "direct forward along all axes": ("forward", LOW | dict(kernel=(1, 3, 120)), LINES),
    "direct grad_input": ("grad_input", LOW | dict(groups=32), LINES),
    "direct grad_input last": ("grad_input", LAST, DIRECT),
    "direct grad_input along all axes": ("grad_input", LAST | LOW | dict(kernel=(1, 3, 120)), LINES),
    "grad_weight": ("grad_weight", {}, replace(GATHER, **SHARES)),
    "grad_weight last": ("grad_weight", LAST | dict(groups=2), replace(GATHER, **SHARES)),
    "grad_weight crossed": ("grad_weight", {}, CROSSED),
    "grad_weight crossed last": ("grad_weight", LAST | dict(groups=2), CROSSED),
    "grad_weight of neighbours": ("grad_weight", LAST | TF32 | dict(co=1, kernel=9, padding=3), replace(CROSSED, taps=("crossed", "by two", "by four"))),
    "grad_weight dilated": ("grad_weight", DILATED, replace(CROSSED, taps=("columns",) * 3)),
    "grad_weight of copies": ("grad_weight", TF32, replace(CROSSED, copy=True)),
    "grad_weight_direct": ("grad_weight", LOW | dict(groups=32), replace(LINES, **SHARES)),
    "grad_weight_direct last": ("grad_weight", LAST | LOW, replace(LINES, **SHARES)),
    "grad_weight_direct along all axes": ("grad_weight", LOW | dict(groups=32, kernel=(1, 3, 120)), replace(LINES, **SHARES)),
    "walk forward": ("forward", WALKED | dict(activation="relu"), WALK),
    "walk forward last": ("forward", WALKED | LAST, replace(WALK, copy=False)),
    "walk grad_input": ("grad_input", WALKED, replace(WALK, block_k=16, merge=(False,) * 3)),
    "walk_weight": ("grad_weight", LAST, WALK_WEIGHT),
    "walk_weight of residues along h": ("grad_weight", LAST, replace(WALK_WEIGHT, taps=("crossed", "programs", "columns"))),
    "turn_weight": ("grad_weight", TF32, TURN_WEIGHT),
    "turn_weight last": ("grad_weight", TF32 | LAST, TURN_WEIGHT),
    "turn_weight of words": ("grad_weight", {}, TURN_WEIGHT),
    "turn_weight of words, summed for the bias": ("grad_weight", dict(bias=True), TURN_WEIGHT),
    "pair": ("forward", LAST, PAIR),
    "pair of planes": ("forward", WHOLE, replace(PAIR, block_m=128, merge=(True, True, True), box=(0, 0, 0))),
    "pair of lines": ("forward", TF32, PAIR),
    "pair of strided lines": ("grad_input", {}, replace(PAIR, merge=(False,) * 3)),
    "pair with a halo": ("grad_input", LAST, HALO),
    "pair with a halo of a copy": ("grad_input", TF32, replace(HALO, copy=True)),
    "pair with a halo of planes": ("forward", TF32 | ONE_PHASE, replace(HALO, box=(2, 8, 8))),
    "pair_weight": ("grad_weight", TF32, PAIR_WEIGHT),
    "pair_weight of a copy": ("grad_weight", TF32, replace(PAIR_WEIGHT, copy=True)),
    "pair_weight of four": ("grad_weight", TF32, replace(PAIR_WEIGHT, copy=True, cluster=4)),
    "pair_weight of 16 bits": ("grad_weight", {}, replace(PAIR_WEIGHT, taps=("crossed", "programs", "crossed"))),
    "pair_weight of rows": ("grad_weight", WHOLE, replace(PAIR_WEIGHT, taps=("columns", "programs", "programs"))),
    "pair_weight of planes": ("grad_weight", WHOLE | dict(in_size=(4, 4, 6)), replace(PAIR_WEIGHT, taps=("programs",) * 3)),
    "pair_weight of planes by chunks": ("grad_weight", WHOLE | dict(in_size=(4, 4, 6)), replace(PAIR_WEIGHT, taps=("columns",) * 3)),
    "backward": (BACKWARD, WHOLE | dict(activation="relu"), ONE_PASS),
    "backward last": (BACKWARD, WHOLE | LAST | dict(activation="relu"), ONE_PASS),
}
WIDE = " wide"
NARROW = [name for name, (direction, *_) in PRODUCTS.items() if name.startswith("walk") or direction != "grad_input" and name.startswith("pair")]
NAMES = (*REDUCTIONS, *PRODUCTS, *(name + WIDE for name in PRODUCTS if name not in NARROW))  # 32 bits suffice these


@dataclass(frozen=True)
class Row:
    """A kernel, its arguments in order, and its constants; integers among the arguments stand for any integer."""

    kernel: object
    arguments: tuple
    constants: dict

    @property
    def integers(self) -> list[str]:
        """Names such as "P", and "x_stride 1" of one among several."""
        named = zip(self.kernel.arg_names, self.arguments)
        return [each for name, value in named if isinstance(value, (int, tuple)) for each in _names(name, value)]

    @property
    def counts_and_strides(self) -> list[str]:
        return [name for name in self.integers if "stride" in name or name in COUNTS]

    @property
    def wide(self) -> bool:
        """Offsets have 64 bits, by its INDEX or always."""
        return str(self.constants.get("INDEX", "int64")) == "int64" and not self.kernel.is_gluon()  # those in Gluon never are

    def called(self, **values: int) -> tuple:
        """The arguments with these values, and integers of no kind for the rest."""
        given = dict.fromkeys(self.integers, NEITHER) | values
        return tuple(tuple(given[each] for each in _names(name, value)) if isinstance(value, tuple) else given.get(name, value)
                     for name, value in zip(self.kernel.arg_names, self.arguments))

    def in_text(self, text: str) -> dict[str, str]:
        """The integers, all of no kind, by the names that Triton's IR has for them."""
        arguments = re.findall(r"(%[A-Za-z]\w*?)(_\d+)?: ", text.partition("tt.func")[2].partition("\n")[0])
        found = {}
        for name, value in zip(self.kernel.arg_names, self.arguments):
            if isinstance(value, (int, tuple)):
                found |= zip([base + suffix for base, suffix in arguments if base == f"%{name}"], _names(name, value))
        assert sorted(found.values()) == sorted(self.integers), (found, self.integers)
        return found

    def kinds(self):
        """Values for its integers: all of a kind, and some 1 among others, each alone in a small kernel."""
        names = self.integers
        yield from (dict.fromkeys(names, ONE), dict.fromkeys(names, SIXTEEN), dict.fromkeys(self.counts_and_strides, HUGE))
        parts = len(names) if len(names) < 24 else PARTS
        yield from (dict.fromkeys(names[i::parts], ONE) for i in range(parts))


def _names(name: str, value) -> list[str]:
    return [f"{name} {place}" for place in range(len(value))] if isinstance(value, tuple) else [name]


@cache
def row(name: str) -> Row:
    """A row by its name, one of NAMES."""
    if name in REDUCTIONS:
        kernel, dtypes, constants = REDUCTIONS[name]
        known = binding.load()
        derivative = lambda name: name and getattr(known["activations"], f"{name}_derivative")
        named = lambda value: known.get(value, value) if isinstance(value, str) else value
        constants = {k: derivative(v) if k == "DERIVATIVE" else named(v) for k, v in constants.items()}
        pointers = tuple(dtype and torch.empty(0, dtype=dtype, device="meta") for dtype in dtypes)
        rest = known[kernel].arg_names[len(pointers):len(known[kernel].arg_names) - len(constants)]
        tuples = dict.fromkeys(("size", "x_size", "first", "count", "places"), (0,) * 3)
        several = tuples | {name: (0,) * 5 for name in rest if name.endswith("_stride")}
        return Row(known[kernel], pointers + tuple(several.get(name, 0) for name in rest), constants)
    direction, changed, config = PRODUCTS[name.removesuffix(WIDE)]
    problem = replace(Problem.of_layer(direction, **LAYER | changed), wide=name.endswith(WIDE))
    plan = launch.plan(problem, H200, config)
    product = plan.schedule.main
    constants = binding.constants_of(product) | binding.options_of(product)
    return Row(binding.kernel(product), compile.arguments(plan, product), constants)


def kernels_without_a_row() -> list[str]:
    from triton.runtime.jit import JITFunction

    tried = [row(name).kernel for name in NAMES]
    known = binding.load() | binding.load_gluon()
    return [name for name, value in known.items() if isinstance(value, JITFunction) and value not in tried]


def lowered(kernel, arguments: tuple, constants: dict, last: str) -> str:
    """The kernel as text at a stage of the compiler, "ttir" to "ptx"."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    target = GPUTarget("cuda", H200.arch, 32)
    source, options = compile.specialise(kernel, arguments, constants, target)
    backend, context, stages = make_backend(target), ir.context(), {}
    ir.load_dialects(context)
    backend.load_dialects(context)
    backend.add_stages(stages, options, source.language)
    module = source.make_ir(target, options, backend.get_codegen_implementation(options), backend.get_module_map(), context)
    metadata = dict(options.__dict__, target=target, hash="")
    for stage, lower in stages.items():
        module = lower(module, metadata)
        if stage == last:
            return str(module)
    raise ValueError(f"there is no stage {last!r} among {', '.join(stages)}")


class Arithmetic:
    """What a kernel in Triton's IR multiplies and divides by; read in order, as inner blocks reuse names."""

    def __init__(self, text: str):
        self.origins, self.sound, self.factors, self.doubtful = {}, set(), set(), []
        # Sizes of axes, at least 1, and whatever else is the same for all programs.
        self.sound |= set(re.findall(r"(%\w+): ", text.partition("tt.func")[2].partition("\n")[0]))
        for result, operation, rest in re.findall(r"^ *(%\w+) = ([\w.]+) (.*)$", text, re.MULTILINE):
            given, _, kind = rest.partition(" loc(")[0].rpartition(" : ")
            self._read(result, operation, re.findall(r"%\w+", given), given, kind)

    def _read(self, result, operation, values, given, kind):
        self.origins.pop(result, None)
        if operation in ("tt.splat", "tt.broadcast", "tt.expand_dims"):
            self.origins[result] = self.origins.get(values[0], values[0])
        if operation == "arith.muli" and re.search(r"\bi32|xi32", kind):
            self.factors |= {self.origins.get(value, value) for value in values}
        if operation in ("arith.divsi", "arith.remsi") and values[1] not in self.sound:
            self.doubtful.append(f"{values[1]} in {result} = {operation} {given}")
        if operation == "arith.constant":
            sound = not re.search(r"(dense<)?\b0\b", given)
        else:
            sound = bool(values) and (any if operation == "arith.maxsi" else all)(value in self.sound for value in values)
        (self.sound.add if sound else self.sound.discard)(result)


def faults(name: str) -> tuple[str, list[str]]:
    """What is wrong with a row; nothing is how it should be."""
    tried, found = row(name), []

    def text(last: str, values: dict) -> str:
        try:
            return lowered(tried.kernel, tried.called(**values), tried.constants, last)
        except Exception as error:
            found.append(f"to {last} with {values or 'integers of no kind'}: {type(error).__name__}: {error}")
            return ""

    first = "ttgir" if tried.kernel.is_gluon() else "ttir"
    plain = text(first, {})
    arithmetic = Arithmetic(plain)
    if tried.wide and plain:
        multiplied = {name for ssa, name in tried.in_text(plain).items() if ssa in arithmetic.factors}
        found += [f"{name} is multiplied in 32 bits" for name in tried.counts_and_strides if name in multiplied]
    found += [f"a divisor may be 0: {divisor}" for divisor in arithmetic.doubtful]
    if name.endswith(WIDE):  # the same source, whose integers were of every kind in the row without
        text(first, dict.fromkeys(tried.integers, ONE))
    else:
        for values in tried.kinds():
            text(first, values)
        text("ptx", dict.fromkeys(tried.integers, SIXTEEN))
    return name, found


if __name__ == "__main__":
    quick_compiler.install()
    print(json.dumps(["kernels without a row", kernels_without_a_row()]))
    with ProcessPoolExecutor(2) as pool:
        for answer in pool.map(faults, sys.argv[1:]):
            print(json.dumps(answer), flush=True)
