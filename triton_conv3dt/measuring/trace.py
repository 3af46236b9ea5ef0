"""The transposed convolutions of somebody's own model, found by running it on tensors without data."""

import importlib
import os
import sys
from collections.abc import Iterable
from functools import partial

import torch

from ..launching.tensors import DTYPES
from ..problems.case import output_padding
from ..problems.layers import Layer
from ..problems.problem import Problem

Model = torch.nn.Module


def load(spec: str) -> Model:
    """The model that "module:factory" names; the module may be in the current directory.

    Raises:
        ValueError: there is no such module or factory, or it makes no torch.nn.Module, with the reason.
    """
    module_name, colon, factory = spec.partition(":")
    if not (module_name and colon and factory):
        raise ValueError(f"a model is named module:factory, such as nets.unet:UNet, received {spec!r}")
    sys.path.insert(0, os.getcwd())
    try:
        made = importlib.import_module(module_name)
        for part in factory.split("."):
            made = getattr(made, part)
        model = made if isinstance(made, Model) else made()
    except Exception as error:  # somebody's own code
        raise ValueError(f"model {spec!r} cannot be made: {type(error).__name__}: {error}") from None
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(model, Model):
        raise ValueError(f"{spec!r} makes a {type(model).__name__}, not a torch.nn.Module")
    return model


def layers(model: Model, size: tuple[int, ...], *, name: str, dtype: str = "float16",
           layout: str = "channels_first") -> list[Layer]:
    """The transposed convolutions that a model runs for an input of this size, in order, one of each kind of call.

    The model runs on meta tensors, without memory and without a device; it is moved there. layout: in which memory
    format it is used; tensors without data do not tell.

    Raises:
        ValueError: it does not run so, or it has no such layer.
    """
    found, handles = [], []

    def note(path, module, given, result):
        found.append(_layer(name, path, module, given[0], result, layout))

    for path, module in model.named_modules():
        if isinstance(module, torch.nn.ConvTranspose3d):
            handles.append(module.register_forward_hook(partial(note, path)))
    if not handles:
        raise ValueError(f"model {name!r} has no torch.nn.ConvTranspose3d")
    try:
        model.to(device="meta", dtype=DTYPES[dtype]).eval()
        with torch.no_grad():
            model(torch.empty(size, dtype=DTYPES[dtype], device="meta"))
    except Exception as error:  # somebody's own code
        raise ValueError(f"model {name!r} does not run on an input of {list(size)} without data: "
                         f"{type(error).__name__}: {error}") from None
    finally:
        for handle in handles:
            handle.remove()
    kinds = {}
    for layer in found:
        kinds.setdefault(layer.problem(), layer)
    return list(kinds.values())


def of_problems(problems: Iterable[Problem]) -> list[Layer]:
    """Problems as layers, so that they can be measured as those are."""
    return [_of(problem, f"case {number}", "given", bias=problem.epilogue.bias)
            for number, problem in enumerate(problems, 1)]


def _layer(network: str, path: str, module, x, y, layout: str) -> Layer:
    x, y = (t.unsqueeze(0) if t.dim() == 4 else t for t in (x, y))
    problem = Problem.of_layer(
        n=x.shape[0], ci=x.shape[1], co=y.shape[1], in_size=tuple(x.shape[2:]), out_size=tuple(y.shape[2:]),
        kernel=module.kernel_size, stride=module.stride, padding=module.padding, dilation=module.dilation,
        groups=module.groups, dtype=str(x.dtype).removeprefix("torch."), layout=layout)
    return _of(problem, path, network, bias=module.bias is not None)


def _of(p: Problem, name: str, network: str, bias: bool) -> Layer:
    return Layer(name=name, network=network, source="", n=p.n, ci=p.ci, co=p.co, in_size=p.in_size,
                 out_size=p.out_size, kernel=p.kernel, stride=p.stride, padding=p.padding,
                 output_padding=output_padding(p), dilation=p.dilation, groups=p.groups, bias=bias, dtype=p.dtype,
                 layout=p.x_layout, followed_by="", mode="train", tags=())
