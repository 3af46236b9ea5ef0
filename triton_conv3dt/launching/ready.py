"""Whether kernels can be launched on a GPU here: looked at before time is spent on finding out.

What Triton needs beside itself is a C compiler and Python's headers: it builds the code that launches kernels where it
runs.
"""

import os
import shutil
import sysconfig
from pathlib import Path

DEBIAN = "Debian: apt-get install"


def missing() -> str | None:
    """What is missing and what helps, in one line; None where kernels can be launched."""
    return _gpu() or _toolchain() or _triton()


def _gpu() -> str | None:
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported ({error}): pip install torch, or name another Python"
    from ..planning import device
    from . import launch

    if launch.interpreting():
        return "TRITON_INTERPRET is set: unset it"
    least = "{}.{}".format(*device.LEAST_CAPABILITY)
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA: install one built with it"
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        hides = f"; CUDA_VISIBLE_DEVICES={hidden!r} may hide it" if hidden is not None else ""
        return (f"no CUDA device is available; it takes an NVIDIA GPU of compute capability {least} or later and its "
                f"driver (torch {torch.__version__} was built {built}{hides})")
    here = device.current()
    if here.capability < device.LEAST_CAPABILITY:
        has = "{}.{}".format(*here.capability)
        return f"{here.name} has compute capability {has}; the kernels need {least} or later"
    return None


def _toolchain() -> str | None:
    """What Triton's build.py looks for, in the same places."""
    named = os.environ.get("CC")
    if named is not None and not shutil.which(named):
        return f"the C compiler that CC names, {named!r}, is not there: unset CC or correct it"
    if named is None and not (shutil.which("gcc") or shutil.which("clang")):
        return f"Triton needs a C compiler and finds neither gcc nor clang: install one ({DEBIAN} gcc) or set CC to one"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's own has no headers
    header = Path(sysconfig.get_paths(scheme=scheme)["include"]) / "Python.h"
    if not header.exists():
        return f"Triton needs Python's headers and {header} is not there: install them ({DEBIAN} python3-dev)"
    return None


def _triton() -> str | None:
    """Whatever else keeps Triton from its driver, by trying."""
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except ImportError as error:
        return f"Triton cannot be imported ({error}): pip install triton"
    except Exception as error:
        return f"Triton cannot use this GPU: {type(error).__name__}: {' '.join(str(error).split())}"
    return None
