"""The same layer from PyTorch's own operators: the backend for devices and dtypes that the kernels do not take."""

import contextlib

import torch
import torch.nn.functional as F

from ..checking import reference
from . import arguments, internals

# From so many channels of a group on, oneDNN's kernels for 16 bits are faster than those for fp32 and casts: without
# groups, and with some. benchmarks/cpu.py measures it.
NATIVE_CHANNELS = (16, 32)


def conv_transpose3d(x, w, b, residual, out_size, stride, padding, dilation, groups, precision, activation, parameters):
    """activation(conv_transpose(x, w) + b + residual), x [N, CI, D, H, W]; padding is any crop before the output.

    precision holds for this forward pass on CUDA; None leaves PyTorch's setting alone. On a CPU, fp16 and bf16 are
    computed in fp32 and rounded once, where that is faster.
    """
    if _faster_in_fp32(x, w, groups):
        wide = (None if t is None else t.float() for t in (x, w, b, residual))
        with torch.autocast("cpu", enabled=False) if arguments.autocasting(x) else contextlib.nullcontext():
            return conv_transpose3d(*wide, out_size, stride, padding, dilation, groups, precision, activation,
                                    parameters).to(x.dtype)
    with _precision(precision) if precision is not None and x.is_cuda else contextlib.nullcontext():
        z = _linear(x, w, b, out_size, stride, padding, dilation, groups)
    if residual is not None:
        z = z + residual
    # Under autocast some activations return fp32.
    return reference.activation(z, activation, parameters).to(z.dtype) if activation else z


def _faster_in_fp32(x, w, groups) -> bool:
    """Whether to cast there and back. An exported or traced program, which may run anywhere, keeps its dtype."""
    if x.device.type != "cpu" or x.dtype not in (torch.float16, torch.bfloat16) or exporting():
        return False
    if not torch.compiler.is_compiling() and internals.is_tracing():
        return False
    least = NATIVE_CHANNELS[1 if groups > 1 else 0]  # Dynamo of torch 2.11 takes no bool for an index
    return not _native(x.dtype) or min(w.shape[0] // groups, w.shape[1]) < least


def _native(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies 16 bits on this CPU."""
    supported = internals.bfloat16_on_cpu if dtype is torch.bfloat16 else internals.float16_on_cpu
    return torch.backends.mkldnn.enabled and supported()


def exporting() -> bool:
    """Whether torch.export is at work. Dynamo of torch 2.11, where it traces the question, always says so."""
    return torch.compiler.is_exporting()


_native._dynamo_marked_constant = exporting._dynamo_marked_constant = True  # it runs them instead, as in arguments.py


def _linear(x, w, b, out_size, stride, padding, dilation, groups):
    full = [(i - 1) * s + (k - 1) * d + 1 for i, k, s, d in zip(x.shape[2:], w.shape[2:], stride, dilation)]
    after = [f - p - o for f, p, o in zip(full, padding, out_size)]
    extra = [p - a for p, a in zip(padding, after)]
    by_onednn = x.device.type == "cpu" and not x.dtype.is_complex
    most = [(k - 1) * d // 2 if by_onednn else p for k, d, p in zip(w.shape[2:], dilation, padding)]
    if (all(0 <= p <= m for p, m in zip(padding, most))
            and all(0 <= e < max(s, d) for e, s, d in zip(extra, stride, dilation))):
        return F.conv_transpose3d(x, w, b, stride, padding, extra, groups, dilation)
    # PyTorch crops both ends alike: leave the common part to it, and cut or fill the rest. oneDNN is not given more than half
    # of the kernel's reach: it writes outside its memory in the gradients of kernel 4, stride 2, padding 3, size 3.
    common = [max(0, min(p, a, m)) for p, a, m in zip(padding, after, most)]
    rest = [(c - p, c - a) for c, p, a in zip(common, padding, after)]
    filled = any(n > 0 for pair in rest for n in pair)
    z = F.conv_transpose3d(x, w, None if filled else b, stride, common, 0, groups, dilation)
    z = F.pad(z, [n for pair in map(_within, rest[::-1], z.shape[:1:-1], out_size[::-1]) for n in pair])
    return z + b.view(-1, 1, 1, 1) if filled and b is not None else z


def _within(pair, size, out):
    """What F.pad cuts or fills at both ends; no more is cut than is there."""
    before, after = pair
    return (-size, out) if before < -size else (out, -size) if after < -size else pair


@contextlib.contextmanager
def _precision(precision: str):
    """cuDNN's fp32 convolutions in TF32 or not; it has nothing between, so three products count as fp32."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
