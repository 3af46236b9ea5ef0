"""Triton's own launcher, on a libcuda that stands for the driver's, hands over what the emulator runs: grids, clusters, shared memory,
every parameter and every tensor map, when a kernel is launched first and when it is launched again."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from triton.backends.nvidia import driver as nvidia

import triton_conv3dt as t3
from triton_conv3dt.checking import trial_tensors
from triton_conv3dt.launching import binding, launch
from triton_conv3dt.planning import search
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from . import driver
from .library import emulated
from .parts.onepass import config_of

H200 = Device.named("nvidia_h200")
SOURCE = Path(__file__).with_name("libcuda.c")
K3 = "ci16 co16 in3x8x16 k3 s2 p1 op1"
PROBLEMS = {  # the path of a config, a problem for it
    "gather": f"forward {K3} float16 channels_first bias residual relu",
    "descriptor": f"forward {K3} float16 channels_last bias",
    "walk": f"forward n2 {K3} float16 channels_last bias leaky_relu(0.25)",
    "walk, turned": f"grad_input {K3} float16 channels_first",
    "pair": "forward ci64 co32 in2x8x16 k2 s2 float16 channels_first bias elu(1.0)",
    "pair, a gradient": "grad_input ci64 co32 in2x8x16 k2 s2 float16 channels_last",
    "direct": "forward ci8 co8 in3x4x6 k3 p1 g8 float32 ieee channels_first bias silu",
    "gather, weights": f"grad_weight {K3} float32 tf32 channels_first",
    "direct, weights": "grad_weight ci8 co8 in3x4x6 k3 p1 g8 float16 channels_first",
    "walk, weights": f"grad_weight {K3} float16 channels_last",
    "walk, turned weights": f"grad_weight {K3} float16 channels_first",
    "pair, copied weights": "grad_weight n2 ci64 co32 in3x5x8 k3 s2 p1 op1 float32 tf32 channels_first",
    "gather, copied": f"forward {K3} float32 tf32 channels_first"}
CONFIGS = {"pair, copied weights": Config("pair", 128, 64, 32, 4, 3, box=(1, 4, 8), copy=True)}  # else the smallest that there is
told = []  # of each launch: extents, and the bytes of its parameters
ran = set()


@ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint), ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
def tell(extents, function, params):
    launcher = Both.launching
    told.append((tuple(extents[:8]), [ctypes.string_at(params[i], size) for i, (_, size, _) in enumerate(launcher.declared)]))


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory):
    """The driver's library that is not there, loaded."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc builds what launches, and is not installed")
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("the driver is installed: the tests that need a GPU launch with it")
    folder = tmp_path_factory.mktemp("libcuda")
    include = Path(nvidia.__file__).with_name("include")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", f"-I{include}", str(SOURCE), "-o",
                    str(folder / "libcuda.so.1")], check=True)
    library = ctypes.CDLL(str(folder / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    library.tell(tell)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_LIBCUDA_PATH", str(folder))
        nvidia.libcuda_dirs.cache_clear()
        nvidia.library_dirs.cache_clear()
        yield nvidia.CudaUtils()


class Both(driver.Launcher):
    """The emulator's launcher, and then Triton's with the same arguments: what reaches libcuda is compared."""

    def __init__(self, src, metadata):
        super().__init__(src, metadata)
        self.real = nvidia.CudaLauncher(src, metadata)

    def __call__(self, x, y, z, stream, function, *rest):
        super().__call__(x, y, z, stream, function, *rest)
        before, (program, grid, arguments) = len(told), self.given(x, y, z, rest[4:])
        self.declared, Both.launching = program.kernel.params, self
        self.real(x, y, z, stream, function, *rest)
        (extents, params), = told[before:]
        assert extents == (*grid, 32 * self.metadata.num_warps, 1, 1, self.metadata.shared, program.kernel.cluster)
        assert not self.metadata.global_scratch_size + self.metadata.profile_scratch_size, "nobody has told Triton how to allocate it"
        wanted, maps = arguments.buffer(program)
        for (name, size, _), found in zip(self.declared, params, strict=True):
            at = program.params[name]
            assert read_map(found) == written_map(maps[at]) if at in maps else found == wanted[at:at + size], f"{self.name}: {name}"


def read_map(raw: bytes) -> tuple:
    """What libcuda.c notes of a tensor map: address, rank, swizzle, sizes, and strides in bytes, boxes and steps of every side."""
    words = [int.from_bytes(raw[i:i + 8], "little") for i in range(0, 128, 8)]
    rank, swizzle = words[1] >> 8 & 0xFF, words[1] >> 24 & 0xFF
    sides = [(word >> 16, word >> 4 & 0xFFF, word & 0xF) for word in words[7:7 + rank]]
    return words[0], words[1] & 0xFF, swizzle, bool(words[1] >> 32 & 1), words[2:2 + rank], sides


def written_map(tensor_map) -> tuple:
    sides = [(stride * (i > 0), box, 1) for i, (stride, box) in enumerate(zip(tensor_map.strides, tensor_map.box))]
    return tensor_map.address, tensor_map.kind, tensor_map.swizzle, tensor_map.fill_nan, tensor_map.shape, sides


@pytest.fixture
def launching(libcuda, monkeypatch):
    class Driver(driver.Driver):
        launcher_cls = Both

        def __init__(self, target):
            super().__init__(target)
            self.utils = libcuda

    monkeypatch.setattr(driver, "Driver", Driver)
    told.clear()
    return told


@pytest.mark.parametrize("name", PROBLEMS)
def test_products(name, launching):
    problem, path = case.parse(PROBLEMS[name]), name.partition(",")[0]
    found = [c for c in search.candidates(problem, H200) if c.path == path and (c.copy or "copied" not in name)]
    if not found and not H200.pairs:
        pytest.skip(f"this Triton makes no {path} of it")
    config = CONFIGS.get(name) or min(found, key=lambda c: c.block_m * c.block_n)
    with emulated("nvidia_h200", exact=True) as emulator:
        bound = launch.bind(launch.plan(problem, H200, config))
        for _ in range(2):  # other tensors each time; the second time by what the first has left
            given, zone = trial_tensors.integers(problem, "cpu"), trial_tensors.red_zone(problem, "cpu")
            launch.run(bound, **{name: getattr(given, name) for name in ("x", "w", "y", "b", "residual")}
                       | {trial_tensors.written(problem): zone.view})
            zone.check(trial_tensors.truth(problem, given), trial_tensors.ulps(problem))
    assert all(record.run for record in bound.records) and len(launching) == 2 * len(bound.records)
    ran.update(launch.name for launch in emulator.launches)


@pytest.mark.parametrize("kernel, stride, padding, kind, once", ((2, 2, 0, "instance", True), (3, 2, 1, "batch", False)))
def test_gradients_and_norms(kernel, stride, padding, kind, once, launching, monkeypatch):
    tile = dict(block_k=16, warps=4, stages=2, shares=2, rows=1, columns=1)
    monkeypatch.setattr(search, "one_pass", lambda problem, device, _: config_of(problem, device, **tile) if once else None)
    integers = lambda *shape: torch.randint(-2, 3, shape).half()
    with emulated("nvidia_h200", exact=True) as emulator:
        for _ in range(2):
            x, w, b = integers(1, 16, 3, 4, 8), integers(16, 16, *(kernel,) * 3), integers(16)
            inputs, exact = ([t.clone().to(dtype).requires_grad_() for t in (x, w, b)] for dtype in (torch.float16, torch.float64))
            y = t3.conv_transpose3d(*inputs, stride, padding, activation="relu", backend="triton")
            z = torch.nn.functional.conv_transpose3d(*exact, stride, padding).relu()
            dy = integers(*y.shape)
            y.backward(dy)
            z.backward(dy.double())
            assert all(torch.equal(t.grad.double(), e.grad.to(torch.float16).double()) for t, e in zip(inputs, exact))
            t3.conv_transpose3d_norm(x, w, b, stride, padding, norm=kind, norm_weight=b, norm_bias=b, backend="triton")
    ran.update(launch.name for launch in emulator.launches)


@pytest.mark.slow
def test_every_kernel_was_launched(request):
    if sum(item.path == request.path for item in request.session.items) < len(PROBLEMS) + 3 or not H200.pairs:
        pytest.skip("a part of this file was chosen")
    assert ran == {name for name, found in (binding.load() | binding.load_gluon()).items() if hasattr(found, "warmup")}
