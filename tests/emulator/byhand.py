"""What the emulator's own tests share: PTX by hand, and bits of exactly rounded numbers."""

import math
import struct
from fractions import Fraction

import torch

from .arguments import regions
from .machine.faults import Options
from .machine.machine import launch
from .ptx.parse import parse
from .ptx.translate import Program

MODULE = """
.version 8.7
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry k(
{params}
)
.reqntid {threads}
.reqnctapercluster {cluster}
{{
.reg .pred %p<50>; .reg .b16 %rs<50>; .reg .b32 %r<100>; .reg .b64 %rd<50>;
{registers}
{body}
ret;
}}
"""
PREFIX = {2: "%rs", 4: "%r", 8: "%rd"}  # of registers, by their bytes
DTYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def run_ptx(body, *args, registers="", grid=(1, 1, 1), threads=32, cluster=1, shared=0, counters=None, **options):
    """Run a body of PTX; its warnings. grid: CTAs. A tensor is a parameter of 64 bits, an int one of 32; parameter i is p_i."""
    kinds = ["u64" if isinstance(a, torch.Tensor) else "u32" for a in args]
    params = ",\n".join(f".param .{kind} p_{i}" for i, kind in enumerate(kinds))
    text = MODULE.format(params=params, threads=threads, cluster=cluster, registers=registers, body=body)
    program = Program(parse(text))
    raw = bytearray(program.param_size)
    for i, a in enumerate(args):
        value = struct.pack("<Q", a.data_ptr()) if isinstance(a, torch.Tensor) else struct.pack("<I", a % 2**32)
        raw[program.params[f"p_{i}"]:program.params[f"p_{i}"] + len(value)] = value
    memory = regions([(f"p_{i}", a) for i, a in enumerate(args) if isinstance(a, torch.Tensor)], False)
    for region in memory:
        region.watch()
    return launch(program, grid, bytes(raw), {}, memory, shared, threads, Options(**options), counters)


def elementwise(instruction, inputs, sizes, out_size=None):
    """Apply one instruction to columns of bits, each of so many bytes; the bits of the results."""
    sizes = sizes if isinstance(sizes, tuple) else (sizes,) * len(inputs)
    n, out_size = (len(inputs[0]) + 31) // 32 * 32, out_size or sizes[0]
    tensors = [torch.tensor([signed(int(v), 8 * size) for v in column] + [0] * (n - len(column)), dtype=DTYPES[size])
               for column, size in zip(inputs, sizes)]
    out = torch.zeros(n, dtype=DTYPES[out_size])
    lines = ["mov.u32 %r90, %tid.x; mov.u32 %r91, %ctaid.x; mad.lo.s32 %r90, %r91, 32, %r90;"]
    for i, size in enumerate(sizes):
        lines.append(f"ld.param.b64 %rd{40 + i}, [p_{i}]; mad.wide.s32 %rd{40 + i}, %r90, {size}, %rd{40 + i}; "
                     f"ld.global.b{8 * size} {PREFIX[size]}{i + 1}, [%rd{40 + i}];")
    result = f"{PREFIX[out_size]}20"
    lines.append(instruction.format(*(f"{PREFIX[size]}{i + 1}" for i, size in enumerate(sizes)), d=result))
    lines.append(f"ld.param.b64 %rd48, [p_{len(inputs)}]; mad.wide.s32 %rd48, %r90, {out_size}, %rd48; "
                 f"st.global.b{8 * out_size} [%rd48], {result};")
    run_ptx("\n".join(lines), *tensors, out, grid=(n // 32, 1, 1))
    return [int(v) % 2 ** (8 * out_size) for v in out[:len(inputs[0])].tolist()]


def signed(value: int, bits: int) -> int:
    """The number that these bits are in two's complement."""
    value %= 2**bits
    return value - 2**bits if value >> (bits - 1) & 1 else value


def f32(bits: int) -> float:
    """The number that these bits are."""
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def bits32(value: float) -> int:
    """The bits of a number of 32 bits."""
    return struct.unpack("<I", struct.pack("<f", value))[0]


def rounded32(exact: Fraction) -> int:
    """The bits of the fp32 nearest to an exact value, ties to even."""
    return round_to(exact, 24, -149, 127, bits32)


def round_to(exact: Fraction, digits: int, least: int, most: int, pack) -> int:
    """pack() of the nearest number of so many binary digits, with exponents from the least one to the largest."""
    a = abs(exact)
    if not a:
        return pack(0.0)
    e = max(a.numerator.bit_length() - a.denominator.bit_length() - digits, least)
    while a >= Fraction(2) ** (e + digits):
        e += 1
    while e > least and a < Fraction(2) ** (e + digits - 1):
        e -= 1
    value = Fraction(round(a / Fraction(2) ** e)) * Fraction(2) ** e
    infinite = value >= Fraction(2) ** (most + 1)
    return pack(math.copysign(math.inf if infinite else float(value), exact))
