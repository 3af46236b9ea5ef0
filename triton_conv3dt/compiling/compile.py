"""Compile the kernels of a plan for its device, present or not. Triton brings the assembler; no GPU is needed."""

import torch

from ..launching import binding, launch, tensors
from ..planning.passes import Launch
from ..planning.lowering import dense_strides
from ..planning.planned import Plan
from ..problems.problem import Problem
from . import machinecode


def compile_plan(plan: Plan):
    """The compiled main kernel of a plan, as the launcher would have it for dense, aligned tensors.

    Returns:
        Triton's CompiledKernel; its .asm holds every stage from "ttir" to "cubin".

    Raises:
        RuntimeError: TRITON_INTERPRET is set; kernels are then Python functions and nothing can be compiled.
    """
    return compile_launch(plan, plan.schedule.main)


def compile_launch(plan: Plan, one: Launch):
    """One launch of a plan, compiled as compile_plan does."""
    if launch.interpreting():
        raise RuntimeError("TRITON_INTERPRET is set, so kernels are interpreted and cannot be compiled; unset it "
                           "before triton is imported, in a new process")
    import triton
    from triton.backends.compiler import GPUTarget

    target = GPUTarget("cuda", plan.device.arch, 32)

    def compiled(spilled: bool):
        given = binding.constants_of(one) | binding.options_of(one, spilled)
        source, options = specialise(binding.kernel(one), arguments(plan, one), given, target)
        return triton.compile(source, target=target, options=options.__dict__)

    found = compiled(spilled=False)
    return compiled(spilled=True) if machinecode.spills(found) else found  # as binding.Record does


def specialise(kernel, positional: tuple, given: dict, target):
    """What Triton's launcher would compile for these arguments, and with which options: its own specialisation, for what is
    1, divisible by 16 or None is decided by Triton and not repeated here."""
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(target)
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = binder(*positional, **given)
    options, signature, constants, attributes = kernel._pack_args(backend, given, bound, specialization, options)
    if kernel.is_gluon():
        from triton.experimental.gluon._runtime import GluonASTSource as ASTSource
    return ASTSource(kernel, signature, constants, attributes), options


def arguments(plan: Plan, one: Launch) -> tuple:
    """What a launch is given, with tensors that have no storage: dense, in the problem's layouts."""
    named = _operands(plan.problem) | {w.name: _meta(w.shape, w.strides, w.dtype or plan.problem.dtype)
                                       for w in plan.schedule.workspaces}
    found = tuple(None if name is None else named[name] for name in one.tensors)
    numbers = binding.numbers_of(one, found)
    described = binding.descriptors(one, found)
    found = *(describe(t) for describe, t in zip(described, found)), *found[len(described):]
    return *found, *numbers


def _operands(p: Problem) -> dict[str, torch.Tensor]:
    """Every tensor that a launch of a problem may be given, by name."""
    x_size, w_size, y_size = (p.n, p.ci, *p.in_size), (p.ci, p.co_group, *p.kernel), (p.n, p.co, *p.out_size)
    x, y = _meta(x_size, dense_strides(x_size, p.x_layout), p.dtype), _meta(y_size, dense_strides(y_size, p.y_layout), p.dtype)
    order = {"co": "channels_last", "ci": "ci"}.get(p.w_minor, "channels_first")
    w, b = _meta(w_size, dense_strides(w_size, order), p.dtype), _meta((p.co,), (1,), p.dtype)
    moments = _meta((p.n, p.co), (p.co, 1), "float64" if p.dtype == "float64" else "float32")
    return dict(x=x, y=y, w=w, b=b, residual=y, pre=y, saved=y, dw=w, db=b, mean=moments, variance=moments,
                dx=_meta(x_size, dense_strides(x_size, p.y_layout), p.dtype))


def _meta(size: tuple[int, ...], stride: tuple[int, ...], dtype: str) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=tensors.DTYPES[dtype], device="meta")
