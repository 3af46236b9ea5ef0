"""A plan made ready to launch: the kernel, its grid, and every constant that specialises it.

The first launch goes through Triton's jit function, which compiles; later ones call the compiled kernel, ten times
cheaper. A record serves calls of the same shapes, strides and alignments alone, so nothing is specialised again.
"""

import functools
from math import gcd, prod

import torch

from . import config as configs
from . import lowering
from .geometry import ceil_div, power_of_two_divisor


FUSION = dict(enable_fp_fusion=True)  # Triton's default, which it is about to change: multiply-adds may round once


class Record:
    """A plan bound to its kernel: everything of a launch but the tensors."""

    def __init__(self, plan, kernel, sizes, constants, options):
        self.plan, self.kernel, self.sizes, self.constants, self.options = plan, kernel, sizes, constants, options
        self.grid = lowering.grid(plan.problem, plan.config)
        self.copies, self.packs = lowering.copies(plan.problem, plan.config), lowering.packs(plan.problem, plan.config)
        self.compiled = self.arguments = self.get_stream = self.result = None
        self.describe: Descriptor | None = None  # made by the first launch, which knows the strides

    def launch(self, index: int | None, tensors: tuple, strides) -> None:
        """Launch on the current stream of CUDA device `index`. strides are looked at by the first launch alone."""
        compiled = self.compiled
        if compiled is None:
            self._first(tensors, strides)
        else:
            compiled.run(*self.grid, self.get_stream(index or 0), compiled.function, compiled.packed_metadata, None,
                         None, None, *tensors, *self.arguments)

    def _first(self, tensors, strides) -> None:
        compiled = self.kernel[self.grid](*tensors, *self.sizes, *strides, **self.constants, **self.options)
        if hasattr(compiled, "packed_metadata"):  # the interpreter compiles nothing
            from triton.runtime import driver

            names = self.kernel.arg_names[len(tensors) + len(self.sizes) + len(strides):]
            self.arguments = (*self.sizes, *strides, *(self.constants[name] for name in names))
            self.get_stream, self.compiled = driver.active.get_current_stream, compiled


class Descriptor:
    """Makes tensor descriptors that differ only in their tensor: the first is checked by Triton, the others are like it."""

    def __init__(self, tensor, shape, strides, block):
        self.kind = load()["descriptor"]
        self.fields = vars(self.kind(tensor, shape, strides, block)) | {"base": None}

    def __call__(self, tensor):
        described = object.__new__(self.kind)
        described.__dict__.update(self.fields)
        described.base = tensor
        return described


def bind(plan) -> Record:
    """The launch of a plan's main kernel: grid, run-time sizes, and what specialises it."""
    p, c, kernels = plan.problem, plan.config, load()
    axis_d, axis_h, axis_w = lowering.axis_constants(p, c)
    options = dict(num_warps=c.warps, num_stages=c.stages, **FUSION)
    limit, x_run, y_run = 16 // p.item, p.x_run, p.y_run
    accumulator = kernels[torch.float64 if p.dtype == "float64" else torch.float32]
    shared = dict(AXIS_D=axis_d, AXIS_H=axis_h, AXIS_W=axis_w, ACC=accumulator,
                  INDEX=kernels["int64" if p.wide else "int32"])
    td, th, tw = lowering.steps(p, c)
    places = p.n * td * th * tw
    if c.path == "onepass":
        activation = p.epilogue.activation
        last, z_last = p.x_layout == "channels_last", p.y_layout == "channels_last"
        a, b = (*(activation.parameters if activation else ()), 0.0, 0.0)[:2]
        constants = dict(zip(("SD", "SH", "SW"), p.stride)) | dict(
            CI=p.ci, CO=p.co, Z_LAST=z_last, Z_RUN=lowering.split_run(p), X_LAST=last,
            X_RUN=p.x_run if last else gcd(p.x_run, p.in_size[2]), O_LAST=z_last,  # dx is laid out as dy is
            O_RUN=power_of_two_divisor(p.ci if z_last else p.in_size[2], limit),
            DERIVATIVE=kernels["activations"][activation.name][1] if activation else None, A=a, B=b, BLOCK_M=c.block_m,
            BLOCK_N=c.block_n, BLOCK_K=c.block_k, STAGES=c.stages, ACC=accumulator,
            INDEX=kernels["int64" if p.wide else "int32"])
        return Record(plan, kernels["backward"], (places, td, th, tw), constants, options)
    if p.direction == "grad_weight":
        block = c.block_k if c.dense else c.block_n
        share = block * ceil_div(places, block * c.shares)
        shared |= dict(CI=p.ci_group, CO=p.co_group, X_LAST=p.x_layout == "channels_last",
                       Z_LAST=p.y_layout == "channels_last",
                       X_RUN=x_run if p.x_layout == "channels_last" else gcd(x_run, tw, block),
                       Z_RUN=lowering.gathered_run(p, c, p.y_layout, y_run))
        if c.dense:
            shared |= dict(SPLIT=configs.split_factor(p), BLOCK_M=c.block_m, BLOCK_N=c.block_n, BLOCK_K=c.block_k,
                           STAGES=c.stages, PRECISION=p.precision)
        else:
            shared |= dict(CHANNELS=p.co, BLOCK_C=c.block_m, BLOCK_P=c.block_n)
        name = "grad_weight" if c.dense else "grad_weight_direct"
        return Record(plan, kernels[name], (places, share, td, th, tw, *p.out_size), shared, options)
    forward = p.direction == "forward"
    x_layout, y_layout = (p.x_layout, p.y_layout) if forward else (p.y_layout, p.x_layout)
    x_run, y_run = (x_run, y_run) if forward else (y_run, x_run)
    if lowering.copies(p, c):
        x_layout, x_run = "channels_last", power_of_two_divisor(p.ci, limit)
    rows, red = configs.rows_and_reduction(p)
    activation = p.epilogue.activation
    value = kernels["activations"][activation.name][0] if activation else None
    a, b = (*(activation.parameters if activation else ()), 0.0, 0.0)[:2]
    shared |= dict(ROWS=rows, RED=red, JOIN=configs.join_factor(p, c.merge), X_LAST=x_layout == "channels_last",
                   X_RUN=lowering.gathered_run(p, c, x_layout, x_run), Y_LAST=y_layout == "channels_last",
                   Y_RUN=lowering.written_run(p, c, y_layout, y_run), ACTIVATION=value, A=a, B=b)
    if c.dense:
        minor = "co" if lowering.packs(p, c) else p.w_minor
        w_align = power_of_two_divisor(p.co_group, limit) if lowering.packs(p, c) else \
            p.w_alignment or power_of_two_divisor({"co": p.co_group, "ci": p.ci_group, "tap": p.taps}[minor], limit)
        role = {"tap": "tap", "co": "row" if forward else "red", "ci": "red" if forward else "row"}[minor]
        shared |= dict(SPLIT=configs.split_factor(p), FORM=lowering.form(p, c), BOX=c.box if any(c.box) else None,
                       PHASE_MINOR=lowering.phase_minor(p, c), W_MINOR=role,
                       W_RUN=lowering.weight_run(p, c, minor, w_align), BLOCK_M=c.block_m, BLOCK_N=c.block_n,
                       BLOCK_K=c.block_k, STAGES=c.stages, PRECISION=p.precision)
    else:
        shared |= dict(GROUPS=p.groups, BLOCK_C=c.block_m, BLOCK_P=c.block_n)
    source, target = (p.in_size, p.out_size) if forward else (p.out_size, p.in_size)
    kernel = kernels["gather" if c.dense else "direct"]
    return Record(plan, kernel, (places, td, th, tw, *source, *target), shared, options)


@functools.lru_cache(maxsize=None)
def load() -> dict:
    """The kernels and Triton's types by name; Triton is imported here, at the first launch."""
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor

    from .kernels import activations, backward, direct, gather, grad_weight, reduce

    return {
        "gather": gather.gather, "direct": direct.direct, "backward": backward.backward,
        "grad_weight": grad_weight.grad_weight, "grad_weight_direct": grad_weight.grad_weight_direct,
        "sum_parts": reduce.sum_parts, "grad_bias": reduce.grad_bias, "activation_grad": reduce.activation_grad,
        "pack": reduce.pack, "activations": activations.KERNELS, "descriptor": TensorDescriptor,
        torch.float32: tl.float32, torch.float64: tl.float64, "int32": tl.int32, "int64": tl.int64,
    }
