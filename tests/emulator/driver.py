"""A Triton driver that is not there: kernels compile for a GPU and their PTX runs here, on CPU tensors.

    with emulating("nvidia_h200") as emulator:
        kernel[grid](...)                          # any Triton kernel
    emulator.launches[-1]                          # its name, grid, ptx, warnings, regions, counters

A process that interprets (TRITON_INTERPRET=1) cannot emulate: Triton's own functions are not compilable there.
"""

import math
import os
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from unittest import mock

import quick_compiler
from absent_driver import AbsentDriver
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver as runtime

from .arguments import Arguments
from .machine.count import Counters
from .machine.faults import Options, Warnings
from .machine.machine import launch
from .ptx.parse import parse
from .ptx.translate import Program

quick_compiler.install()

TARGETS = {"nvidia_h200": (90, 232448, 132), "nvidia_a100": (80, 166912, 108)}  # capability, shared memory, SMs


@dataclass
class Launch:
    """What became of a launch. regions: the memory of its arguments. counters: None unless asked for."""

    name: str
    grid: tuple
    warps: int
    warnings: Warnings
    counters: Counters | None
    regions: list
    seconds: float
    ptx: str

    def summary(self) -> dict:
        """What was counted."""
        return self.counters.summary(self.regions)


@lru_cache(maxsize=16)
def translated(ptx: str) -> Program:
    """The program of a PTX text, which has no state: the same for all emulators."""
    return Program(parse(ptx))


class Emulator:
    """What is wanted of launches, and those that there were. The innermost `emulating` has the one that is asked.

    edit: a function from PTX to PTX, to plant a fault. counting: count what launches do. exact: the bytes of the
    tensors alone may be written, else the whole storages; reads beside them are warned of.
    """

    def __init__(self, target: str, options: Options, counting: bool, exact: bool):
        self.target, self.options, self.counting, self.exact = target, options, counting, exact
        self.launches, self.edit = [], None

    def program(self, ptx: str) -> Program:
        """The program of a PTX text, edited."""
        if self.edit is not None:
            ptx = self.edit(ptx)
        return translated(ptx)

    def warnings(self) -> list[str]:
        """What was warned of in all launches."""
        return [text for launch in self.launches for _, text in launch.warnings.found.values()]

    def modes(self, call, every=True):
        """call() with asynchronous work late and early; yields (copies, products, result). every: all four of these."""
        before = self.options
        try:
            for copies in ("late", "early"):
                for products in ("late", "early") if every else (copies,):
                    self.options = replace(before, copies=copies, products=products)
                    yield copies, products, call()
        finally:
            self.options = before


class Launcher:
    """What a launcher is to a compiled kernel."""

    def __init__(self, src, metadata):
        self.ptx = _compiling[-1].asm["ptx"]
        self.name, self.metadata = src.fn.__name__, metadata
        self.parameters = src.fn.arg_names, list(src.signature.values()), getattr(metadata, "tensordesc_meta", None)

    def given(self, x, y, z, args) -> tuple[Program, tuple[int, int, int], Arguments]:
        """What a launch runs, its CTAs, and its arguments."""
        program, arguments = _active[-1].program(self.ptx), Arguments(*self.parameters, args)
        grid = x * program.kernel.cluster, y, z  # who launches counts clusters
        arguments.add_scratch(math.prod(grid) * self.metadata.global_scratch_size)
        arguments.add_scratch(math.prod(grid) * self.metadata.profile_scratch_size)
        return program, grid, arguments

    def __call__(self, x, y, z, stream, function, kernel_metadata, launch_metadata, enter, leave, *args):
        if x * y * z == 0:
            return
        emulator, start = _active[-1], time.perf_counter()
        program, grid, arguments = self.given(x, y, z, args)
        params, maps = arguments.buffer(program)
        regions, counters = arguments.regions(emulator.exact), Counters() if emulator.counting else None
        if counters or emulator.options.races:
            for region in regions:
                region.watch()
        threads = program.kernel.threads or self.metadata.num_warps * 32
        warnings = launch(program, grid, params, maps, regions, self.metadata.shared, threads, emulator.options, counters)
        for region in regions if emulator.options.races else ():
            if region.rewritten:
                text = f"bytes of {region.name} were written more than once by {self.name}"
                warnings.add("rewritten", region.name, region.rewritten, text)
        seconds = time.perf_counter() - start
        emulator.launches.append(
            Launch(self.name, (x, y, z), threads // 32, warnings, counters, regions, seconds, self.ptx))


class Driver(AbsentDriver):
    """The driver of one target. Triton keeps compiled kernels by device, so each target has a number of its own."""

    launcher_cls = Launcher

    def __init__(self, target):
        arch, shared, sms = TARGETS[target]
        super().__init__(arch, shared, sms, device=arch)


_active: list[Emulator] = []
_compiling: list[CompiledKernel] = []
_init_handles = CompiledKernel._init_handles


def _handles(self):
    """A launcher is not told the PTX; this says whose it is."""
    _compiling.append(self)
    try:
        return _init_handles(self)
    finally:
        _compiling.pop()


def _not_assembled(self, src, metadata, opt, capability):
    """PTX is what runs; assembling it takes most of a compile. The name of the kernel is what Triton needs of it."""
    metadata["name"] = re.search(r"\.visible \.entry (\w+)", src).group(1)
    return b"not assembled"


@contextmanager
def emulating(target="nvidia_h200", *, counting=False, exact=False, assemble=False, **options):
    """Triton's driver is the emulator of this target meanwhile; yields it. options: fields of Options.

    assemble: run ptxas as well, to see that it takes the PTX. Else the "cubin" in Triton's cache is none, so the cache
    must be shared with nobody who has a GPU.

    Raises:
        RuntimeError: this process interprets kernels.
    """
    if os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes"):
        raise RuntimeError("TRITON_INTERPRET is set, so nothing can be compiled; unset it before Triton is imported")
    emulator, before = Emulator(target, Options(**options), counting, exact), runtime._active
    assembled = CUDABackend.make_cubin if assemble else _not_assembled
    with (mock.patch.object(CUDABackend, "make_cubin", assembled),
          mock.patch.object(CompiledKernel, "_init_handles", _handles)):
        runtime.set_active(Driver(target))
        _active.append(emulator)
        try:
            yield emulator
        finally:
            _active.pop()
            runtime.set_active(before)
