"""Run as a program: a Triton driver that is not there. Kernels compile for an H200 and are 'launched' on CPU tensors.

Prints as JSON, per layout, the launches of a forward and the time of a repeated call against torch.empty_like. Nothing is
computed. Public hooks of Triton alone (triton.runtime.driver.set_active).
"""

import json
import sys
import time
from pathlib import Path

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

sys.path.insert(0, str(Path(__file__).parents[1]))
import triton_conv3dt as t3  # noqa: E402
from triton_conv3dt import functional, launch  # noqa: E402
from triton_conv3dt.device import Device  # noqa: E402


class Launcher:
    """What a launcher is to a compiled kernel; keeps the names and grids of launches while a list is there."""

    launches = None

    def __init__(self, src, metadata):
        self.name = src.fn.__name__

    def __call__(self, *args):
        if Launcher.launches is not None:
            Launcher.launches.append((self.name, args[:3]))


class Utils:
    def get_device_properties(self, device):
        return dict(max_shared_mem=232448, max_num_regs=65536, multiprocessor_count=132, warpSize=32,
                    sm_clock_rate=1980000, mem_clock_rate=3201000, mem_bus_width=6144)

    def load_binary(self, name, binary, shared, device):
        return 1, 2, 90, 0, 1024  # module, function, registers, spills, threads at most


class StubDriver:
    launcher_cls, utils, binary_ext = Launcher, Utils(), "cubin"

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0

    def set_current_device(self, device):
        pass

    def get_active_torch_device(self):
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty):
        return ty

    def is_active(self):
        return True


def ratio(call, unit, calls=300, repeats=30):
    """The cost of call in units, taken in turns and the fastest of each: the machine has other things to do."""
    best = [float("inf")] * 2
    for _ in range(repeats):
        for i, function in enumerate((call, unit)):
            start = time.perf_counter()
            for _ in range(calls):
                function()
            best[i] = min(best[i], time.perf_counter() - start)
    return best[0] / best[1]


def measure(layout):
    x = torch.ones(2, 64, 8, 8, 8, dtype=torch.float16).contiguous(memory_format=layout)
    w = torch.ones(64, 32, 2, 2, 2, dtype=torch.float16).contiguous(memory_format=layout)
    b = torch.ones(32, dtype=torch.float16)
    call = lambda: t3.conv_transpose3d(x, w, b, 2, activation="relu", backend="triton")
    with torch.no_grad():
        y = call()
        Launcher.launches = []
        call()
        launches, Launcher.launches = Launcher.launches, None
        cost = ratio(call, lambda: torch.empty_like(y))
    return dict(launches=launches, ratio=cost)


if __name__ == "__main__":
    driver.set_active(StubDriver())
    launch.devices.current = lambda index=0: Device.named("nvidia_h200")
    functional.unsupported = lambda x, w: None
    layouts = dict(channels_first=torch.contiguous_format, channels_last=torch.channels_last_3d)
    print(json.dumps({name: measure(layout) for name, layout in layouts.items()}))
