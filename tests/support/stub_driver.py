"""Run as a program: a Triton driver that is not there. Kernels compile for an H200 and are 'launched' on CPU tensors.

Prints as JSON {"launches": {name: launches of a forward and its gradients}, "ratios": {name: CPU time of a repeated forward
against torch.empty_like}, "backwards": {name: that of all its gradients}, "operators": {name: [of a forward, of its gradients,
of a forward with a skip to concatenate, of its gradients]}}. A launch is [kernel, grid, arguments]; a tensor among the arguments is
its shape, a descriptor its shape, strides and block. An operator is [name, bytes it allocates], PyTorch's but for views, or
[kernel]. Nothing is computed. Public hooks of Triton alone (triton.runtime.driver.set_active).
"""

import json
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from absent_driver import AbsentDriver
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import driver

sys.path.insert(0, str(Path(__file__).parents[2]))
import triton_conv3dt as t3  # noqa: E402
from triton_conv3dt import backends  # noqa: E402
from triton_conv3dt.launching import launch  # noqa: E402
from triton_conv3dt.ops import internals  # noqa: E402
from triton_conv3dt.planning.device import Device  # noqa: E402
from triton_conv3dt.problems.activations import Activation  # noqa: E402


class Launcher:
    """What a launcher is to a compiled kernel; keeps launches, or names alone, while a list is there."""

    launches = names = None

    def __init__(self, src, metadata):
        self.name = src.fn.__name__

    def __call__(self, *args):
        if Launcher.names is not None:
            Launcher.names.append([self.name])
        if Launcher.launches is not None:  # grid, stream, function, metadata, three hooks, then the kernel's own
            Launcher.launches.append((self.name, args[:3], [shown(a) for a in args[9:]]))


def shown(argument):
    if isinstance(argument, torch.Tensor):
        return list(argument.shape)
    if hasattr(argument, "block_shape"):
        return dict(shape=argument.shape, strides=argument.strides, block=argument.block_shape)
    if isinstance(argument, tuple):
        return [shown(each) for each in argument]
    return argument if isinstance(argument, (int, type(None))) else str(argument)


class StubDriver(AbsentDriver):
    launcher_cls = Launcher

    def __init__(self):
        super().__init__(arch=90, shared=232448, sms=132)


def ratio(call, unit, calls=30, rounds=8, repeats=80):
    """The cost of call in units of the CPU time: the least of some rounds, in each of which the two take turns and the least
    of either counts. The machine has other things to do, which cost the one with more code more: turns are short, so that some
    are taken between two of those."""
    found = []
    for _ in range(rounds):
        best = [float("inf")] * 2
        for _ in range(repeats):
            for i, function in enumerate((call, unit)):
                start = time.thread_time()
                for _ in range(calls):
                    function()
                best[i] = min(best[i], time.thread_time() - start)
        found.append(best[0] / best[1])
        time.sleep(0.05)
    return min(found)


def tensors(layout, ci, co, size, kernel, groups=1):
    x = torch.ones(2, ci, *size, dtype=torch.float16).contiguous(memory_format=layout).requires_grad_()
    w = torch.ones(ci, co // groups, kernel, kernel, kernel, dtype=torch.float16).contiguous(memory_format=layout)
    return x, w.requires_grad_(), torch.ones(co, dtype=torch.float16, requires_grad=True)


def launches(x, w, b, padding, groups):
    call = lambda: t3.conv_transpose3d(x, w, b, 2, padding, groups=groups, activation="relu", backend="triton")
    back = lambda y: torch.autograd.grad(y, (x, w, b), torch.ones_like(y))
    back(call())  # the first time compiles
    Launcher.launches = []
    back(call())
    found, Launcher.launches = Launcher.launches, None
    return found


def ratio_of(x, w, b, padding, groups):
    with torch.no_grad():
        call = lambda: t3.conv_transpose3d(x, w, b, 2, padding, groups=groups, activation="relu", backend="triton")
        y = call()
        return ratio(call, lambda: torch.empty_like(y))


def backward_ratio_of(x, w, b, padding, groups):
    """All gradients as the operator computes them: PyTorch's autograd around it costs as much again, and is not ours."""
    with torch.no_grad():
        y = t3.conv_transpose3d(x, w, b, 2, padding, groups=groups, activation="relu", backend="triton")
        dy, geometry = torch.ones_like(y), ((2,) * 3, (padding,) * 3, (1,) * 3, groups, "tf32")
        call = lambda: launch.backward(dy, x, w, y, True, w.stride(), *geometry, Activation.of("relu"))
        call()
        return ratio(call, lambda: torch.empty_like(dy), calls=10)


class Operators(TorchDispatchMode):
    """Notes PyTorch's operators, but for views, and kernels. The package is told that nobody looks, or it would hand over an
    operator of its own."""

    def __enter__(self):
        self.found = Launcher.names = []
        return super().__enter__()

    def __exit__(self, *error):
        Launcher.names = None
        super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            made = function.name().startswith(("aten::empty", "aten::new_empty", "aten::clone", "aten::cat"))
            self.found.append((function.name(), result.nbytes if made else 0))
        return result


@mock.patch.object(internals, "has_dispatch_mode", lambda: False)
def operators(x, w, b, padding, groups):
    """Of a forward and its gradients, without a skip and with one, whose gradient must be a view of what comes in."""
    found, skip = [], None
    for _ in range(2):
        inputs = (x, w, b) if skip is None else (x, w, b, skip)
        for _ in range(2):  # the first time compiles
            with Operators() as forward:
                y = t3.conv_transpose3d(x, w, b, 2, padding, groups=groups, activation="relu", concat=skip, backend="triton")
            dy = torch.ones_like(y)
            with Operators() as backward:
                gradients = torch.autograd.grad(y, inputs, dy)
        found += forward.found, backward.found
        if skip is not None:
            assert gradients[3].data_ptr() == dy[:, skip.shape[1]:].data_ptr()
        skip = torch.ones_like(y).requires_grad_()
    return found


FIRST, LAST = torch.contiguous_format, torch.channels_last_3d
LAYERS = {  # layout, input and output channels, input size, kernel, groups; padding
    "k2s2 channels_first": ((FIRST, 64, 32, (8, 8, 8), 2), 0),
    "k2s2 channels_last": ((LAST, 64, 32, (8, 8, 8), 2), 0),
    "k4s2p1 channels_last": ((LAST, 64, 128, (4, 16, 16), 4), 1),
    "depthwise channels_first": ((FIRST, 32, 32, (4, 8, 8), 3, 32), 1),
}


if __name__ == "__main__":
    driver.set_active(StubDriver())
    launch.devices.current = lambda index=0: Device.named("nvidia_h200")
    backends.unsupported = lambda x, w: None
    given = {name: (*tensors(*shape), padding, shape[5] if len(shape) > 5 else 1)
             for name, (shape, padding) in LAYERS.items()}
    print(json.dumps(dict(launches={name: launches(*layer) for name, layer in given.items()},
                          ratios={name: ratio_of(*layer) for name, layer in given.items()},
                          backwards={name: backward_ratio_of(*layer) for name, layer in given.items()},
                          operators={name: operators(*layer) for name, layer in given.items()})))
