"""What tests/support/quick_interpreter.py leaves out of the interpreter is only what was done already."""

import inspect

import pytest
import quick_interpreter
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here")
PYTHONS = ("range", "static_range", "__bool__", "__index__", "__repr__", "T", "reduce", "to_ir")
OWNERS = (tl, tl.core, tl.math, tl.tensor, tl.core.tensor_descriptor_base)


def operators(owner):
    """What a launch patches: the builtins, and what Python itself would do otherwise."""
    return {name: value for name, value in inspect.getmembers(owner) if tl.core.is_builtin(value) or name in PYTHONS}


@triton.jit
def doubled(values):
    return values + values


@triton.jit
def totals(x, y, N: tl.constexpr, FAILS: tl.constexpr = False):
    values = tl.load(x + tl.arange(0, N))
    if FAILS:
        values.nothing_like_this()
    tl.store(y, tl.sum(doubled(values), 0) + tl.cdiv(N, 3))  # a function of ours, and of Triton's in tl.core


def test_this_triton_is_helped():
    assert quick_interpreter.install() and isinstance(interpreter._patch_lang, quick_interpreter.Patches)


def test_a_launch_leaves_the_language_as_it_was():
    x, y = torch.arange(8), torch.zeros(1, dtype=torch.int64)
    before = [operators(owner) for owner in OWNERS]
    for _ in range(3):
        totals[(1,)](x, y, 8)
        assert y == 2 * 28 + 3
        with pytest.raises(Exception, match="nothing_like_this"):
            totals[(1,)](x, y, 8, FAILS=True)
        assert [operators(owner) for owner in OWNERS] == before


def test_types_are_those_that_triton_makes():
    for scalar in (tl.int1, tl.int32, tl.bfloat16, tl.float64, tl.pointer_type(tl.float16)):
        for _ in range(2):
            block = tl.block_type(scalar, [4, tl.constexpr(2)])
            found = tl.tensor(interpreter.TensorHandle(torch.zeros(4, 2, dtype=torch.bool).numpy(), scalar), block)
            assert block.element_ty is scalar and list(block.shape) == [4, 2] and block.numel == 8
            assert found.type is block and found.dtype is scalar and found.numel.value == 8
            assert [size.value for size in found.shape] == [4, 2] and not tl.tensor(found.handle, scalar).shape
        assert interpreter._get_np_dtype(block) == interpreter._get_np_dtype(scalar)
