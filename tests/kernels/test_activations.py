"""The device functions of every activation, one by one, against their torch twins in fp64."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from tolerances import ACTIVATION_ULPS, ACTIVATION_ULPS_PER_UNIT
from triton_conv3dt.checking import reference
from triton_conv3dt.kernels import activations as kernels
from triton_conv3dt.problems.activations import ACTIVATIONS, Activation

PARAMETERS = [Activation.of(name) for name in ACTIVATIONS] + [Activation.of(spec) for spec in (
    ("leaky_relu", 0.0), ("leaky_relu", -0.5), ("elu", 0.5), ("elu", -1.5), ("softplus", 2.0, 3.0),
    ("softplus", -0.5, 20.0), ("hardtanh", -2.0, 0.5))]
INF, NAN = float("inf"), float("nan")
SPECIAL = (NAN, INF, -INF, 0.0, -0.0, 1e-30, -1e-30, 1e10, -1e10, 1e30, -1e30, 1, -1, 3, -3, 6, 20, -20, 100, -100)
BLOCK = 1024
AHEAD = (80, 90, 100)  # architectures to compile for
CLAMPED = ("relu", "relu6", "hardtanh", "hardsigmoid", "hardswish")  # where a clamp alone decides what NaN becomes


@triton.jit
def apply(x, y, FUNCTION: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    tl.store(y + o, FUNCTION(tl.load(x + o), A, B))


def constants(activation) -> tuple:
    return (*activation.parameters, 0.0, 0.0)[:2]


def run(function, x, activation):
    y = torch.empty_like(x)
    apply[(1,)](x, y, function, *constants(activation), BLOCK)
    return y


def points(dtype, device):
    """The special values, the range where something happens, and both sides of zero on a logarithmic scale."""
    special = torch.tensor(SPECIAL, dtype=dtype)
    small = torch.logspace(-9, 0, 150, dtype=dtype)
    rest = torch.linspace(-40, 40, BLOCK - len(special) - 2 * len(small), dtype=dtype)
    return torch.cat([special, small, -small, rest]).to(device)


def assert_near(actual, exact, z, floor=0.0, floor_per_unit=0.0):
    """Within a few ulp of the truth, plus the floor, element by element; NaN and infinities in the same places."""
    expected = exact.to(actual.dtype)
    assert actual.dtype == z.dtype
    special = ~expected.isfinite()
    torch.testing.assert_close(actual[special], expected[special], rtol=0, atol=0, equal_nan=True)
    info = torch.finfo(actual.dtype)
    ulp = info.eps * exact.abs().clamp(min=info.tiny)
    size = z.double().abs().nan_to_num(nan=0.0).clamp(max=100)
    allowed = (ACTIVATION_ULPS + ACTIVATION_ULPS_PER_UNIT * size) * ulp + floor + floor_per_unit * size
    allowed += info.tiny * (1 + size)  # subnormal numbers may come out as zero
    wrong = ~special & ~((actual.double() - exact).abs() <= allowed)
    assert not wrong.any(), [f"at {a:.9g}: {b:.9g}, expected {c:.9g}" for a, b, c in
                             zip(z[wrong][:5].tolist(), actual[wrong].tolist(), exact[wrong].tolist())]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, on the overflows that are meant to happen
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", PARAMETERS, ids=str)
def test_value(activation, dtype, device):
    z = points(dtype, device)
    exact = reference.activation(z.double(), activation.name, activation.parameters)
    cancels = activation.name in ("gelu", "gelu_tanh")  # 1 + erf and 1 + tanh; the second in torch alone
    assert_near(run(getattr(kernels, activation.name), z, activation), exact, z,
                floor_per_unit=4 * torch.finfo(dtype).eps if cancels else 0.0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", PARAMETERS, ids=str)
def test_derivative(activation, dtype, device):
    z = saved = points(dtype, device)
    if activation.derivative_from == "output":
        saved = reference.activation(z, activation.name, activation.parameters)
    exact = reference.activation_derivative(saved.double(), activation.name, activation.parameters)
    actual = run(getattr(kernels, f"{activation.name}_derivative"), saved, activation)
    assert_near(actual, exact, z, floor=8 * torch.finfo(dtype).eps)  # they cross zero


def compile_all():
    """Compile every function for GPUs that need not be here: the interpreter accepts more than the compiler does."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    for activation in PARAMETERS[:len(ACTIVATIONS)]:
        for function in (getattr(kernels, activation.name), getattr(kernels, f"{activation.name}_derivative")):
            values = dict(zip(("FUNCTION", "A", "B", "BLOCK"), (function, *constants(activation), BLOCK)))
            for pointer, architectures in (("*fp32", AHEAD), ("*fp64", AHEAD[1:2])):
                signature = {"x": pointer, "y": pointer} | {name: "constexpr" for name in values}
                source = ASTSource(apply, signature, {(list(signature).index(k),): v for k, v in values.items()})
                for arch in architectures:
                    code = triton.compile(source, target=GPUTarget("cuda", arch, 32)).asm["ptx"]
                    lost = re.findall(r"(?:max|min)\.f32.*", code)  # without .NaN, they return the other operand
                    assert not lost or activation.name not in CLAMPED, (activation, lost)


@pytest.mark.slow
def test_compiles_for_every_architecture(tmp_path):
    here = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(map(str, (here, here.parent / "support", here.parents[1])))}
    command = [sys.executable, "-c", "import test_activations; test_activations.compile_all()"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
