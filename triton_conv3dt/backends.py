"""Who runs a call, the kernels or PyTorch, and what is said where it is not who was expected."""

import os
import sys
import warnings

import torch

from .launching.launch import unsupported


def takes_triton(backend: str, x, w) -> bool:
    """Whether the call goes to the kernels.

    Raises:
        RuntimeError: it was to go there and cannot.
    """
    # What torch.jit.trace records may run where this package is not.
    if backend == "torch" or backend == "auto" and (x.device.type != "cuda" or torch.jit.is_tracing()):
        return False
    reason = unsupported(x, w)
    if reason is None:
        return True
    if backend == "triton":
        raise RuntimeError(f'backend="triton" cannot take this call: {reason}. backend="auto" or "torch" would run it '
                           "by PyTorch's operators")
    _fall_back(reason)
    return False


_warned: set[str] = set()


def _fall_back(reason: str) -> None:
    """Say once per reason that PyTorch runs what Triton was expected to run.

    Raises:
        RuntimeError: TRITON_CONV3DT_FALLBACK=error.
    """
    message = f"triton_conv3dt falls back to PyTorch: {reason}"
    if os.environ.get("TRITON_CONV3DT_FALLBACK") == "error":
        raise RuntimeError(f"{message}, and TRITON_CONV3DT_FALLBACK=error forbids it")
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(f'{message}. backend="torch" says that this is wanted; TRITON_CONV3DT_FALLBACK=error makes it an '
                      "error", stacklevel=_outside())


def _outside() -> int:
    """The stack level, for a warning of the caller, of the first frame that is not of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    return level


# What torch.compiler.assume_constant_result sets: the compiler runs it, warning included, instead of tracing it. The
# decorator itself imports the whole compiler, a second at the first call of anybody.
_fall_back._dynamo_marked_constant = True
