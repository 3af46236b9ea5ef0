"""info: versions, device and settings, to paste into a bug report."""

import os
import sys
from pathlib import Path

from ..planning import constraints

ENVIRONMENT = ("TRITON_INTERPRET", "TRITON_CONV3DT_FALLBACK", "TRITON_CONV3DT_CONFIG_DIR", constraints.VARIABLE,
               "CUDA_VISIBLE_DEVICES")
PACKAGE = Path(__file__).parents[1]


def add(commands) -> None:
    info = commands.add_parser("info", help="versions, device and settings, to paste into a bug report",
                               description="Print versions, device and settings, to paste into a bug report.")
    info.add_argument("--require-gpu", action="store_true",
                      help="only look whether kernels can be launched on a GPU here; where not, one line says what is "
                           "missing, and the exit status is 1")
    info.set_defaults(run=run)


def run(arguments) -> int:
    if arguments.require_gpu:
        return _require_gpu()
    for name, value in _facts():
        print(f"{name:<12} {value}")
    return 0


def _require_gpu() -> int:
    from ..launching import ready

    reason = ready.missing()
    if reason:
        print(f"error: {reason}", file=sys.stderr)
    return 1 if reason else 0


def _facts():
    """What a bug report needs, as pairs (name, value)."""
    import platform

    from ..launching import ready
    from ..planning import store

    version = _version("triton_conv3dt") or "(not installed, a checkout)"
    yield "package", f"triton_conv3dt {version} in {PACKAGE}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    try:
        import torch
    except ImportError as error:
        yield "torch", f"cannot be imported: {error}"
        return
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    yield "torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}, cuDNN {cudnn or 'none'}"
    yield "triton", _version("triton") or "not installed: the PyTorch backend remains"
    yield "numpy", _version("numpy") or "not installed"
    if not torch.cuda.is_available():
        yield "device", "none (no CUDA device)"
    for index in range(torch.cuda.device_count()):
        yield "device", f"{index}: {_gpu(index)}"
    yield "kernels", ready.missing() or "can be launched on the GPU"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    yield "interpreter", "on: backend=\"triton\" runs the kernels on CPU tensors" if interpreted else "off"
    for variable in ENVIRONMENT:
        yield "environment", f"{variable}={os.environ.get(variable, '(not set)')}"
    try:
        constraints.current()
    except ValueError as error:
        yield "environment", f"every call fails: {error}"
    for folder in store.search_path():
        yield "configs", f"{folder}: {_tuned(store.files(folder)) if folder.is_dir() else 'not there'}"


def _gpu(index: int) -> str:
    import torch

    from ..planning import device

    gpu = device.current(index)
    return (f"{torch.cuda.get_device_name(index)} ({gpu.name}), capability {gpu.capability[0]}.{gpu.capability[1]}, "
            f"{gpu.sms} SMs, {gpu.shared_memory >> 10} KiB of shared memory for a block"
            + f"; plans as with the rates of {gpu.rates_of}" * bool(gpu.rates_of))


def _tuned(files: list[Path]) -> str:
    """What config files hold, and which cannot be used."""
    from ..planning import configfile

    entries, refused = 0, []
    for path in files:
        try:
            entries += len(configfile.read(path))
        except configfile.ConfigFileError as error:
            refused.append(str(error))
    return "; ".join([f"{entries} tuned problems in {len(files)} files", *refused])


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
