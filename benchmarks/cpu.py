"""How long layers take on a CPU in 16 bits: PyTorch's function, and ours, which goes through fp32 where that is faster.

    OMP_NUM_THREADS=1 python benchmarks/cpu.py

Processor time, the least of some repetitions, so that other programs matter little. Every row has a forward pass and a
training step (forward and all gradients), in milliseconds, for contiguous inputs and in channels_last_3d.
"""

import time

import torch
import torch.nn.functional as F

import triton_conv3dt as t3

LAYERS = {  # (n, ci, co), size of the input, kernel, stride, padding, output padding, groups
    "64->32 k2 s2": ((1, 64, 32), 16, 2, 2, 0, 0, 1), "320->256 k2 s2": ((2, 320, 256), 4, 2, 2, 0, 0, 1),
    "64->32 k3 s2": ((1, 64, 32), 12, 3, 2, 1, 1, 1), "32->16 k4 s2": ((1, 32, 16), 16, 4, 2, 1, 0, 1),
    "8->8 k2 s2": ((1, 8, 8), 16, 2, 2, 0, 0, 1), "64->32 k2 s2, 4 groups": ((1, 64, 32), 12, 2, 2, 0, 0, 4),
    "32 k3 s2, depthwise": ((1, 32, 32), 16, 3, 2, 1, 1, 32)}
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}
SECONDS = 0.5  # for one time


def least(function) -> float:
    """Milliseconds of processor time."""
    function()
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return 1e3 * min(times)


def row(dtype, layer) -> list[str]:
    (n, ci, co), size, kernel, stride, padding, output_padding, groups = layer
    arguments, cells = (stride, padding, output_padding, groups), []
    for memory_format in FORMATS.values():
        x = torch.randn(n, ci, size, size, size).to(dtype, memory_format=memory_format).requires_grad_()
        w = torch.randn(ci, co // groups, kernel, kernel, kernel).mul(0.1).to(dtype).requires_grad_()
        b = torch.randn(co).to(dtype).requires_grad_()
        for function in (F.conv_transpose3d, t3.conv_transpose3d):
            with torch.no_grad():
                forward = least(lambda: function(x, w, b, *arguments))
                dy = torch.ones_like(function(x, w, b, *arguments))
            step = least(lambda: torch.autograd.grad(function(x, w, b, *arguments), (x, w, b), dy))
            cells.append(f"{forward:.2f} / {step:.2f}")
    return cells


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; "
          f"oneDNN has bfloat16: {torch.ops.mkldnn._is_mkldnn_bf16_supported()}, float16: "
          f"{torch.ops.mkldnn._is_mkldnn_fp16_supported()}")
    heads = [f"{who}, {name}" for name in FORMATS for who in ("PyTorch", "ours")]
    print(f"{'forward / step in ms':34}" + "".join(f"{head:24}" for head in heads))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name, layer in LAYERS.items():
            cells = "".join(f"{cell:24}" for cell in row(dtype, layer))
            print(f"{f'{name}, {dtype}'.replace('torch.', ''):34}{cells}", flush=True)
