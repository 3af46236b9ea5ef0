"""Compile the kernel of a plan for its device, present or not, and read what the compiler made of it.

Triton's wheel brings the assembler and the disassemblers, so no GPU and no CUDA installation is needed.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from . import launch, lowering
from .binding import Record, bind
from .launch import Plan
from .problem import Problem

DTYPES = {name: dtype for dtype, name in launch.DTYPES.items()}
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)")
MOVES = ("LDGSTS", "LDG", "STG", "UTMALDG", "UTMASTG")  # families that move global memory


@dataclass(frozen=True)
class Resources:
    """What one block of a compiled kernel uses, and its instructions.

    registers are per thread, stack (bytes per thread, where spills go) and shared (bytes) as the driver will reserve
    them. instructions counts by family ("HGMMA"), and widths gives the bits that each load or store of global memory
    moves per thread, the set of them by family: {"LDGSTS": (128,), "STG": (16, 128)}.
    """

    registers: int
    stack: int
    shared: int
    instructions: dict[str, int]
    widths: dict[str, tuple[int, ...]]

    @property
    def spills(self) -> int:
        """Instructions that move registers to the stack and back."""
        return self.instructions.get("LDL", 0) + self.instructions.get("STL", 0)

    def widest(self, family: str) -> int:
        """Bits of the widest instruction of a family, 0 where there is none."""
        return max(self.widths.get(family, (0,)))


def compile_plan(plan: Plan):
    """The compiled main kernel of a plan, as the launcher would have it for dense, aligned tensors.

    Returns:
        Triton's CompiledKernel; its .asm holds every stage from "ttir" to "cubin".

    Raises:
        RuntimeError: TRITON_INTERPRET is set; kernels are then Python functions and nothing can be compiled.
    """
    if launch.interpreting():
        raise RuntimeError("TRITON_INTERPRET is set, so kernels are interpreted and cannot be compiled; unset it "
                           "before triton is imported, in a new process")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    record = bind(plan)
    kernel, given = record.kernel, record.constants | record.options
    target = GPUTarget("cuda", plan.device.arch, 32)
    backend = make_backend(target)
    # The launcher's own specialisation: what is 1, divisible by 16 or None is decided by Triton, not repeated here.
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = binder(*_arguments(record), **given)
    options, signature, constants, attributes = kernel._pack_args(backend, given, bound, specialization, options)
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=options.__dict__)


def resources(kernel) -> Resources:
    """What a kernel of `compile_plan` uses, read from its machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        usage = dict(re.findall(r"(REG|STACK):(\d+)", _tool("cuobjdump", "-res-usage", cubin.name)))
        names = Counter(INSTRUCTION.findall(_tool("nvdisasm", "-c", cubin.name)))
    instructions, widths = Counter(), {}
    for name, count in names.items():
        family, *modifiers = name.split(".")
        instructions[family] += count
        if family in MOVES:
            widths.setdefault(family, set()).add(_bits(modifiers))
    return Resources(int(usage["REG"]), int(usage["STACK"]), kernel.metadata.shared, dict(instructions),
                     {family: tuple(sorted(bits)) for family, bits in widths.items()})


def _bits(modifiers: list[str]) -> int:
    narrow = {"U8": 8, "S8": 8, "U16": 16, "S16": 16}
    numbers = [int(m) for m in modifiers if m in ("64", "128", "256")]
    return numbers[0] if numbers else next((narrow[m] for m in modifiers if m in narrow), 32)


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout


def _arguments(record: Record) -> tuple:
    """What launch.py passes, with tensors that have no storage: dense, in the problem's layouts."""
    p = record.plan.problem
    x = _meta((p.n, p.ci, *p.in_size), p.dtype, p.x_layout)
    y = _meta((p.n, p.co, *p.out_size), p.dtype, p.y_layout)
    if p.direction == "grad_weight":
        accumulator = "float64" if p.dtype == "float64" else "float32"
        parts = _meta((record.plan.config.shares, p.ci, p.taps, p.co_group), accumulator)
        return x, y, parts, *record.sizes, *x.stride(), *y.stride(), *(parts.stride(i) for i in (0, 1, 3, 2))
    source, target = (x, y) if p.direction == "forward" else (y, x)
    if record.copies:
        source = source.contiguous(memory_format=torch.channels_last_3d)
    w, (ci, co, tap) = _weight(p, packed=record.packs)
    row, red = (co, ci) if p.direction == "forward" else (ci, co)
    extra = target if p.epilogue.residual else None
    strides = source.stride()
    if record.plan.config.path == "descriptor":
        source = record.descriptor(source, *lowering.described(p, record.plan.config, source.shape[1]))
    return (source, w, target, w.new_empty(p.co) if p.epilogue.bias else None, extra,
            target if p.epilogue.keep_pre else None, *record.sizes, *strides, row, red, tap, p.ci_group * ci,
            *target.stride(), *(extra.stride() if p.epilogue.residual else (0,) * 5))


def _weight(p: Problem, packed: bool):
    """A weight and its (ci, co, tap) strides."""
    order = "co" if packed else p.w_minor
    ci, co, taps = p.ci, p.co_group, p.taps
    strides = {"co": (taps * co, 1, co), "ci": (1, ci, ci * co)}.get(order, (co * taps, taps, 1))
    return torch.empty_strided((ci, co, taps), strides, dtype=DTYPES[p.dtype], device="meta"), strides


def _meta(size: tuple[int, ...], dtype: str, layout: str = "channels_first") -> torch.Tensor:
    memory_format = torch.channels_last_3d if layout == "channels_last" else torch.contiguous_format
    return torch.empty(size, dtype=DTYPES[dtype], device="meta", memory_format=memory_format)
