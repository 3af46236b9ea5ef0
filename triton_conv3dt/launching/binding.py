"""Launches made ready: kernels found, types and activations looked up, strides taken from the tensors of the first call.

The first launch of a kernel goes through Triton's jit function, which compiles; later ones call the compiled kernel, ten
times cheaper. What is bound serves calls of the same shapes, strides and alignments alone, so nothing is specialised again.
"""

import functools
import os
from operator import itemgetter

import torch

from ..planning import lowering
from ..planning.device import REGISTERS
from ..planning.passes import Launch, Schedule
from .tensors import DTYPES, place_stride, run_strides, weight_strides

FUSION = dict(enable_fp_fusion=True)  # Triton's default, which it is about to change: multiply-adds may round once

GLUON = ("walk", "walk_weight", "turn_weight", "pair", "pair_weight")  # kernels in it


@functools.lru_cache(maxsize=None)
def interpreting() -> bool:
    """Kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


class Call:
    """A schedule bound to its kernels: run(tensors) launches everything on the current stream.

    plan: what it was made for, where there is one. result: what a caller wants to remember beside it.
    """

    def __init__(self, schedule: Schedule, plan=None):
        names = (*schedule.operands, *(w.name for w in schedule.workspaces), None)
        self.schedule, self.plan, self.result = schedule, plan, None
        self.workspaces = [(w.shape, w.strides, w.dtype and DTYPES[w.dtype]) for w in schedule.workspaces]
        self.records = [Record(launch, names) for launch in schedule.launches]

    def run(self, tensors: tuple) -> None:
        """tensors: the schedule's operands in their order, None for one that is absent. Nothing is checked."""
        like = tensors[0]
        index = like.device.index or 0
        if like.is_cuda and torch.cuda.current_device() != index:
            with torch.cuda.device(index):
                return self.run(tensors)
        for shape, strides, dtype in self.workspaces:
            tensors += like.new_empty_strided(shape, strides, dtype=dtype),
        tensors += None,
        for record in self.records:
            record.launch(index, tensors)


class Record:
    """One launch of a call: its kernel, compiled by the first launch, and everything but the tensors."""

    def __init__(self, launch: Launch, names: tuple):
        self.kernel, self.grid, self.given = kernel(launch), launch.grid, launch
        self.pick = itemgetter(*(names.index(name) for name in launch.tensors))
        self.run = self.fixed = self.arguments = self.get_stream = None
        self.describe: tuple[type, ...] = ()

    def launch(self, index: int, tensors: tuple) -> None:
        """Launch on the current stream of CUDA device `index`. tensors: all that the call has."""
        tensors = self.pick(tensors)
        if self.run is None:
            self._first(tensors)
            return
        if self.describe:
            tensors = self._described(tensors)
        self.run(*self.grid, self.get_stream(index), *self.fixed, *tensors, *self.arguments)

    def _described(self, tensors: tuple) -> list:
        """The first of them as their descriptors."""
        tensors = list(tensors)
        for i, describe in enumerate(self.describe):
            tensors[i] = describe(tensors[i])
        return tensors

    def _first(self, tensors: tuple) -> None:
        numbers, constants = numbers_of(self.given, tensors), constants_of(self.given)
        self.describe = descriptors(self.given, tensors)
        tensors = self._described(tensors)
        ready = self.kernel.warmup(*tensors, *numbers, grid=self.grid, **constants, **options_of(self.given))
        spilled = bool(ready and ready.run and ready.n_spills)  # known once it is loaded, as `run` asks for
        compiled = self.kernel[self.grid](*tensors, *numbers, **constants, **options_of(self.given, spilled))
        if hasattr(compiled, "packed_metadata"):  # the interpreter compiles nothing
            from triton.runtime import driver

            names = self.kernel.arg_names[len(tensors) + len(numbers):]
            self.arguments = (*numbers, *(constants[name] for name in names))
            self.get_stream, self.run = driver.active.get_current_stream, compiled.run
            self.fixed = compiled.function, compiled.packed_metadata, None, None, None  # and what hooks would be told


def descriptor(kind: type, tensor, *shape_strides_block_and_more) -> type:
    """A class of tensor descriptors that differ only in their tensor: the first is checked by Triton, the others are like it."""
    fields = vars(kind(tensor, *shape_strides_block_and_more))
    return type(kind.__name__, (kind,), {**fields, "base": None, "__init__": _described_by})


def _described_by(self, tensor):
    self.base = tensor


def descriptors(launch: Launch, tensors: tuple) -> tuple[type, ...]:
    """Of the first tensors of a launch, those that are read by one."""
    found = []
    for (reading, problem, config), tensor in zip(launch.described, tensors):
        ci, co, tap = weight_strides(tensor) if reading == "weight" else (0, 0, 0)
        rows = (co, tap, ci) if problem.direction == "forward" else (ci, tap, co)
        steps = {"weight": rows} | dict.fromkeys(("planes", "lines", "strided lines"), tensor.stride()[:2])
        steps |= dict.fromkeys(("x lines", "dz lines"), tensor.stride())
        read = lowering.reading(problem, config) if reading == "halo" else reading
        step = steps[read] if read in steps else place_stride(tensor)
        parts = lowering.described(reading, problem, config, step)
        if launch.kernel in GLUON:
            found.append(descriptor(*load_gluon()["descriptor"](tensor, *parts)))
        else:
            found.append(descriptor(load()["descriptor"], tensor, *parts))
    return tuple(found)


# What a launch hands to Triton's jit function.

def kernel(launch: Launch):
    """The jit function of a launch."""
    return (load_gluon() if launch.kernel in GLUON else load())[launch.kernel]


def numbers_of(launch: Launch, tensors: tuple) -> tuple[int | tuple[int, ...], ...]:
    """What follows the tensors: sizes, and the strides of these tensors."""
    named, found = dict(zip(launch.tensors, tensors)), list(launch.sizes)
    for what in launch.strides:
        if isinstance(what, str):
            found.append(named[what].stride())
        elif isinstance(what[0], str):
            name, selection, *rest = what
            found.append(SELECTIONS[selection](named[name], *rest))
        else:
            found.append(what)
    return tuple(found)


def constants_of(launch: Launch) -> dict[str, object]:
    """What specialises the kernel, its types and functions looked up."""
    kernels, found = load(), dict(launch.constants)
    found |= {name: kernels[found[name]] for name in ("ACC", "INDEX") if name in found}
    for name, suffix in (("ACTIVATION", ""), ("DERIVATIVE", "_derivative")):
        if found.get(name) is not None:
            found[name] = getattr(kernels["activations"], found[name] + suffix)
    if interpreting():  # its products are of fp32, and it knows no assembly
        found |= {"ROUND": False} if "ROUND" in found else {}
        found |= {"DOT": found["DOT"]._replace(round=False)} if "DOT" in found else {}
    return found


def options_of(launch: Launch, spilled: bool = False) -> dict[str, object]:
    """How the kernel is compiled; spilled: once more, as the assembler, left to choose, spills a few registers for one more block on an
    SM."""
    return dict(num_warps=launch.warps, num_stages=launch.stages, num_ctas=launch.ctas, **FUSION) | (
        dict(maxnreg=min(255, REGISTERS // (32 * launch.warps))) if spilled else {})


def _of_rows(w, ci_group: int):
    """(row, reduction, tap, group) strides of a weight whose rows are output channels."""
    ci, co, tap = weight_strides(w)
    return co, ci, tap, ci_group * ci


def _of_sums(w, ci_group: int):
    """The same where output channels are what is summed over."""
    ci, co, tap = weight_strides(w)
    return ci, co, tap, ci_group * ci


def _of_one_share(w):
    """(share, ci, co, tap) strides of a weight gradient that is one share."""
    return 0, *weight_strides(w)


def _described(x):
    """The strides of a tensor with one step between all its places, which stands for the last of them."""
    return *x.stride()[:4], place_stride(x)


SELECTIONS = {"taps": weight_strides, "of rows": _of_rows, "of sums": _of_sums, "one share": _of_one_share,
              "described": _described, "runs": run_strides}


@functools.lru_cache(maxsize=None)
def load() -> dict:
    """The kernels and Triton's types by name; Triton is imported here, at the first launch."""
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor

    from ..kernels import activations, backward, direct, gather, grad_weight, grad_weight_direct, reduce, statistics

    return {
        "gather": gather.gather, "direct": direct.direct, "backward": backward.backward,
        "grad_weight": grad_weight.grad_weight, "grad_weight_direct": grad_weight_direct.grad_weight_direct,
        "sum_parts": reduce.sum_parts, "make_dz": reduce.make_dz, "pack": reduce.pack, "to_channels_last": reduce.to_channels_last,
        "to_residues": reduce.to_residues, "combine": statistics.combine,
        "normalise": statistics.normalise, "activations": activations,
        "descriptor": TensorDescriptor, "float32": tl.float32, "float64": tl.float64, "int32": tl.int32, "int64": tl.int64,
    }


@functools.lru_cache(maxsize=None)
def load_gluon() -> dict:
    """The kernels in Gluon, which not every Triton has, and what its descriptors are made of."""
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from ..kernels import gluon_names, turn_weight, walk, walk_weight
    from ..planning.device import gluon

    def descriptor(tensor, shape, strides, block, halved=None, rounded=False):
        """halved: the dimension of the block that each bit of the number of a cluster's programs halves; -1 where all have the whole.
        rounded: to TF32, by the copy engine."""
        side = block[-1] >> (halved or ()).count(len(block) - 1)  # what one program has of it
        layout = gluon_names.shared_layout(side, 8 * tensor.element_size(), len(shape), halved)
        return TensorDescriptor, tensor, shape, strides, block, layout, *(("zero", True) if rounded else ())

    found = {"walk": walk.walk, "walk_weight": walk_weight.walk_weight, "turn_weight": turn_weight.turn_weight,
             "descriptor": descriptor}
    if gluon() >= (3, 7):  # which know clusters
        from ..kernels import pair, pair_weight

        found |= {"pair": pair.pair, "pair_weight": pair_weight.pair_weight}
    return found
