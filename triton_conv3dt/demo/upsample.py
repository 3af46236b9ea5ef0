"""The demo: a real MRI volume, upsampled by two per axis, checked against PyTorch, drawn."""

import os
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..progress import Progress

if TYPE_CHECKING:
    import torch

LAYER = {"stride": 2, "padding": 1}
BIAS = -0.1  # of a full scale of 1: with relu it clears the dim fringe around the head
FORMATS = (".png", ".pdf", ".svg")
# What the interpreter computes: planes 8 to 16 of D, in four slabs, and a part of H and W. It runs one program after
# another in Python, so the whole volume would take it many minutes.
CROP = (slice(8, 16), slice(48, 72), slice(48, 80))
SLAB = 2


@dataclass(frozen=True)
class Scan:
    """A series of volumes [N, D, H, W], float32 in 0 to 1, with the size of a voxel in mm, and what it is."""

    volumes: "torch.Tensor"
    voxel: tuple[float, float, float]
    name: str
    source: str


@dataclass(frozen=True)
class Run:
    """One line of the table: what computed what, how far from PyTorch in fp64 it was and how long it took."""

    backend: str
    part: str
    dtype: str
    config: str
    error: float
    limit: float
    seconds: float

    @property
    def ok(self) -> bool:
        return self.error <= self.limit


def writable(path: Path) -> Path:
    """The path itself, if a picture can be written there.

    Raises:
        ValueError: it cannot, with the reason.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{str(path)!r} must end in {', '.join(FORMATS)}")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a directory")
    if not path.parent.is_dir():
        raise ValueError(f"the directory {str(path.parent)!r} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{str(path)!r} cannot be written: no permission")
    return path


def run(output: Path, quiet: bool = False) -> bool:
    """Upsample, compare, draw and print. Returns whether every result was within its bound of PyTorch's in fp64.

    Raises:
        ValueError: output cannot be written; nothing has been computed then.
    """
    writable(output)
    say = (lambda *words: None) if quiet else print
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu and "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1"  # triton reads it when it is imported
    scan = load()
    x, w, b = scan.volumes[:, None], trilinear_kernel(), torch.tensor([BIAS])
    n, _, *size = x.shape
    say(f"volume   {scan.name} ({scan.source})")
    say(f"         {n} of {_by(size)} voxels of {_by(scan.voxel)} mm, upsampled to {_by(2 * s for s in size)}")
    say(f"layer    conv_transpose3d, kernel 4 (trilinear), stride 2, padding 1, bias {BIAS}, relu\n")
    runs, result, detail = (_on_gpu if on_gpu else _on_cpu)(x, w, b, quiet)
    print(_table(runs))
    say("\nerror: the largest difference from PyTorch's result in fp64, on a scale of 0 to 1")
    if not on_gpu:
        say("There is no CUDA device: the time of the interpreter says nothing about the speed of the kernels.")
    say(_draw(output, scan, result, detail, runs))
    return all(r.ok for r in runs)


def load() -> Scan:
    """The series that nibabel ships for its own tests, or a phantom of the same shape where it is not to be had."""
    import torch

    try:
        import nibabel

        file = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
        image = nibabel.load(file)
        data = torch.from_numpy(image.get_fdata(dtype="float32"))  # [W, H, D, N]
    except (ImportError, FileNotFoundError) as missing:
        why = "nibabel is not installed" if isinstance(missing, ImportError) else "this nibabel comes without its scan"
        return Scan(_phantom(), (2.2, 2.0, 2.0), "A synthetic phantom", f"{why}: pip install nibabel")
    voxel = tuple(round(float(v), 2) for v in image.header.get_zooms()[2::-1])
    return Scan((data / data.max()).permute(3, 2, 1, 0).contiguous(), voxel, "MRI of a head",
                f"{file.name} of nibabel {nibabel.__version__}")


def _phantom():
    """Nested ellipsoids in the shape of the real series. [2, 24, 96, 128]"""
    import torch

    axes = [torch.linspace(-1, 1, size) for size in (24, 96, 128)]
    d, h, w = torch.meshgrid(*axes, indexing="ij")
    value = torch.zeros_like(d)
    # (centre h, centre w, radius d, radius h, radius w, value added)
    for ch, cw, rd, rh, rw, add in ((0, 0, 1.6, 0.9, 0.55, 0.6), (0, 0, 1.5, 0.82, 0.48, -0.2),
                                    (0.2, 0.1, 0.9, 0.3, 0.08, 0.4), (0.2, -0.1, 0.9, 0.3, 0.08, 0.4),
                                    (-0.4, 0, 0.7, 0.15, 0.12, -0.25), (0.6, 0.05, 0.5, 0.06, 0.05, 0.3)):
        inside = (d / rd) ** 2 + ((h - ch) / rh) ** 2 + ((w - cw) / rw) ** 2 < 1
        value = value + add * inside
    return torch.stack([value, 0.9 * value])


def trilinear_kernel():
    """[1, 1, 4, 4, 4]: doubles every axis by linear interpolation."""
    import torch

    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    return torch.einsum("d,h,w->dhw", line, line, line)[None, None]


def _torch_layer(x, w, b):
    import torch.nn.functional as F

    return F.conv_transpose3d(x, w, b, **LAYER).relu_()


def _our_layer(backend, x, w, b):
    from ..functional import conv_transpose3d

    return conv_transpose3d(x, w, b, **LAYER, activation="relu", precision="ieee", backend=backend)


def _compare(backend, part, result, exact, config, seconds) -> Run:
    import torch

    error = (result.double() - exact).abs().max().item()
    # Values and the sum of the weights are at most 1, so every rounding costs at most half an eps; there are 9.
    return Run(backend, part, str(result.dtype).removeprefix("torch."), config, error,
               4.5 * torch.finfo(result.dtype).eps, seconds)


def _on_cpu(x, w, b, quiet):
    """The whole volume by PyTorch, the crop by the kernels in the interpreter: runs, result, detail."""
    import torch

    progress = Progress(2 + len(_slabs()), quiet)
    progress.step("the whole volume by PyTorch in fp64")
    exact = _torch_layer(x.double(), w.double(), b.double())
    progress.step("the whole volume by the PyTorch backend")
    start = time.perf_counter()
    result = _our_layer("torch", x, w, b)
    runs = [_compare("PyTorch, CPU", "whole volume", result, exact, "", time.perf_counter() - start)]
    if _kernels_missing(x, w):
        progress.close()
        return runs, result, None

    parts, config, start = [], "", time.perf_counter()
    for number, slab in enumerate(_slabs(), start=1):
        progress.step(f"slab {number} of {len(_slabs())} of the crop by the Triton kernels, interpreted")
        piece = x[(slice(None), slice(None), *_grow(slab))]
        config = config or _config(piece, w)
        parts.append(_our_layer("triton", piece, w, b)[..., 2:-2, 2:-2, 2:-2])
    progress.close()
    detail = torch.cat(parts, dim=2)
    doubled = tuple(slice(2 * s.start, 2 * s.stop) for s in CROP)
    runs.append(_compare("Triton, interpreter", f"crop of {_by(s.stop - s.start for s in CROP)}", detail,
                         exact[(..., *doubled)], config, time.perf_counter() - start))
    return runs, result, detail


def _kernels_missing(x, w) -> bool:
    """Whether the kernels cannot take these tensors here; says why."""
    try:
        from ..launching.launch import unsupported
    except ImportError as error:
        reason = f"{error}; Triton has packages for Linux (pip install triton)"
    else:
        reason = unsupported(x, w)
    if reason:
        print(f"The Triton kernels were left out: {reason}", file=sys.stderr)
    return bool(reason)


def _slabs() -> list[tuple[slice, ...]]:
    planes, *rest = CROP
    return [(slice(d, d + SLAB), *rest) for d in range(planes.start, planes.stop, SLAB)]


def _grow(block):
    """With one voxel around it, which the outermost outputs read."""
    return tuple(slice(s.start - 1, s.stop + 1) for s in block)


def _on_gpu(x, w, b, quiet):
    """The whole volume by the kernels and by cuDNN, in fp32 and fp16: runs, result, detail."""
    import torch

    progress, runs, result = Progress(2, quiet), [], None
    missing = _kernels_missing(x.cuda(), w.cuda())
    for dtype in (torch.float32, torch.float16):
        progress.step(f"the whole volume in {dtype}")
        here = [t.cuda().to(dtype) for t in (x, w, b)]
        exact = _torch_layer(*(t.cpu().double() for t in here)).cuda()
        # Both at full fp32 precision, and cuDNN with the best algorithm it finds.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            layers = {"PyTorch, cuDNN": _torch_layer} if missing else {
                "Triton": partial(_our_layer, "triton"), "PyTorch, cuDNN": _torch_layer}
            for backend, layer in layers.items():
                y = layer(*here)
                result = y.cpu() if result is None else result
                config = _config(*here[:2]) if backend == "Triton" else ""
                runs.append(_compare(backend, "whole volume", y, exact, config, _gpu_seconds(partial(layer, *here))))
    progress.close()
    return runs, result, None


def _gpu_seconds(call, repeats: int = 20) -> float:
    """Median time on the device, after a warm-up."""
    import torch

    times = []
    for repeat in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times[3:])


def _config(x, w) -> str:
    """The config that launch chooses for this call, in words."""
    from ..launching import launch
    from ..planning import constraints, device
    from ..problems.problem import Problem

    n, ci, *size = x.shape
    problem = Problem.of_layer(n=n, ci=ci, co=w.shape[1], in_size=tuple(size), kernel=4, **LAYER, bias=True,
                               activation="relu", dtype=str(x.dtype).removeprefix("torch."), precision="ieee")
    here = device.current() if x.is_cuda else device.Device.named("nvidia_h200")
    return str(launch.plan(problem, here, constraints=constraints.current()).config)


def _table(runs: list[Run]) -> str:
    head = ("what ran", "on", "dtype", "config", "error", "", "time")
    rows = [head] + [(r.backend, r.part, r.dtype, r.config or "-", f"{r.error:.1e}", "ok" if r.ok else "TOO LARGE",
                      _duration(r.seconds)) for r in runs]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(max(lines, key=len)), *lines[1:]])


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1e3:.3g} ms"


def _draw(output: Path, scan: Scan, result, detail, runs) -> str:
    """Write the picture; returns the sentence that says what became of it."""
    from . import figure

    doubled = tuple(slice(2 * s.start, 2 * s.stop) for s in CROP)
    sides = scan.volumes.shape[3]
    shown = slice(sides // 5, sides - sides // 5)  # left and right of the head there is only air
    box = (*CROP[:2], slice(CROP[2].start - shown.start, CROP[2].stop - shown.start))
    first = result[0, 0].float()
    white = 0.72 * first.max().item()
    notes = [f"{r.backend}, {r.part}, {r.dtype}: largest difference from PyTorch in fp64 is {r.error:.1e}"
             for r in runs]
    try:
        figure.draw(output, scan.volumes[0, ..., shown].numpy(),
                    first[..., 2 * shown.start:2 * shown.stop].numpy(), voxel=scan.voxel, box=box,
                    detail=(first[doubled] if detail is None else detail[0, 0]).numpy(),
                    by="" if detail is None else " (Triton kernels)",
                    windows=((-BIAS, white - BIAS), (0, white)), notes=notes,
                    title=f"{scan.name}, upsampled by two per axis with conv_transpose3d",
                    subtitle=f"{_by(scan.volumes.shape[1:])} → {_by(result.shape[2:])} voxels in one layer: kernel 4 "
                             f"(trilinear), stride 2, padding 1, bias {BIAS}, relu. A pixel is a voxel.")
    except ImportError as error:
        return f"No picture: {error} (pip install matplotlib)."
    return f"The picture is in {output}."


def _by(values) -> str:
    return " × ".join(f"{v:g}" for v in values)
