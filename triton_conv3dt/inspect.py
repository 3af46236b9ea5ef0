"""Compile the kernel of a plan for its device, present or not. Triton brings the assembler; no GPU is needed."""

import torch

from . import launch, lowering, tensors
from .binding import Descriptor, Record, bind
from .plan import Plan
from .problem import BACKWARD, Problem

DTYPES = {name: dtype for dtype, name in tensors.DTYPES.items()}


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

    record = bind(plan)
    target = GPUTarget("cuda", plan.device.arch, 32)
    source, options = specialise(record.kernel, arguments(record), record.constants | record.options, target)
    return triton.compile(source, target=target, options=options.__dict__)


def specialise(kernel, positional: tuple, given: dict, target):
    """What Triton's launcher would compile for these arguments, and with which options: its own specialisation, for what is
    1, divisible by 16 or None is decided by Triton and not repeated here."""
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(target)
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = binder(*positional, **given)
    options, signature, constants, attributes = kernel._pack_args(backend, given, bound, specialization, options)
    return ASTSource(kernel, signature, constants, attributes), options


def arguments(record: Record) -> tuple:
    """What launch.py passes, with tensors that have no storage: dense, in the problem's layouts."""
    p = record.plan.problem
    x = _meta((p.n, p.ci, *p.in_size), p.dtype, p.x_layout)
    y = _meta((p.n, p.co, *p.out_size), p.dtype, p.y_layout)
    if p.direction == "grad_weight":
        accumulator = "float64" if p.dtype == "float64" else "float32"
        parts = _meta((record.plan.config.shares, p.ci, p.taps, p.co_group), accumulator)
        return x, y, parts, *record.sizes, *x.stride(), *y.stride(), *(parts.stride(i) for i in (0, 1, 3, 2))
    if p.direction == BACKWARD:
        w, strides = _weight(p, packed=False)
        shares = record.plan.config.shares
        residues = p.taps if p.y_layout == "channels_last" else p.stride[0] * p.stride[1]
        parts, sums = _meta((shares, p.ci, p.taps, p.co), "float32"), _meta((shares, residues, p.co), "float32")
        return (y, x, w, y if p.epilogue.activation else None, x, parts, sums if p.epilogue.bias else None, *record.sizes,
                *y.stride(), *x.stride(), *x.stride(), *strides, *(parts.stride(i) for i in (0, 1, 3, 2)))
    source, target = (x, y) if p.direction == "forward" else (y, x)
    if record.copies:
        source = source.contiguous(memory_format=torch.channels_last_3d)
    w, (ci, co, tap) = _weight(p, packed=record.packs)
    row, red = (co, ci) if p.direction == "forward" else (ci, co)
    extra = target if p.epilogue.residual else None
    strides = source.stride()
    if record.plan.config.path == "descriptor":
        source = Descriptor(source, *lowering.described(p, record.plan.config, source.shape[1]))(source)
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
