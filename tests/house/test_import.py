"""Importing the package costs nothing and asks nothing of the machine."""

import subprocess
import sys

import triton_conv3dt


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_triton():
    assert run("import sys, triton_conv3dt; print({'torch', 'triton', 'numpy'} & sys.modules.keys())") == "set()"


def test_importing_takes_a_small_part_of_the_time_of_torch():
    clock = """
import time
times = [time.perf_counter()]
import torch
times.append(time.perf_counter())
import triton_conv3dt
times.append(time.perf_counter())
triton_conv3dt.conv_transpose3d, triton_conv3dt.nn.ConvTranspose3d
times.append(time.perf_counter())
print(*(b - a for a, b in zip(times, times[1:])))
"""
    torch_time, import_time, first_use = min([float(t) for t in run(clock).split()] for _ in range(2))
    assert import_time < 0.05 * torch_time, f"importing took {import_time:.3f} s, torch {torch_time:.3f} s"
    assert first_use < 0.5 * torch_time, f"the first look-up took {first_use:.3f} s, torch {torch_time:.3f} s"


def test_using_it_on_a_cpu_touches_no_gpu():
    assert run("import torch, triton_conv3dt as t3; t3.nn.ConvTranspose3d(1, 1, 1)(torch.ones(1, 1, 1, 1, 1));"
               "print(torch.cuda.is_initialized())") == "False"


def test_the_operators_are_registered_without_triton():
    assert run("import sys, torch, triton_conv3dt.ops.autograd; print('triton' in sys.modules,"
               "torch.ops.triton_conv3dt.forward.default._schema.name)") == "False triton_conv3dt::forward"


def test_without_triton_pytorchs_backend_remains():
    assert run("""
import sys
sys.modules["triton"] = None
import torch, triton_conv3dt as t3
x, w = torch.ones(1, 2, 2, 2, 2), torch.ones(2, 1, 2, 2, 2)
assert torch.equal(t3.conv_transpose3d(x, w), torch.nn.functional.conv_transpose3d(x, w))
try:
    t3.conv_transpose3d(x, w, backend="triton")
except RuntimeError as error:
    print(error)
""").startswith('backend="triton" cannot take this call: Triton is not installed')


def test_public_names():
    from triton_conv3dt import functional, nn

    assert triton_conv3dt.conv_transpose3d is functional.conv_transpose3d and triton_conv3dt.nn is nn
    assert triton_conv3dt.conv_transpose3d_sized is functional.conv_transpose3d_sized
    assert {"conv_transpose3d", "conv_transpose3d_sized", "nn", "tf", "fusing", "__version__"} <= set(dir(triton_conv3dt))
    assert not hasattr(triton_conv3dt, "conv_transpose2d")
