"""The operators as torch.library knows them: schemas, implementations, fake results and autocast.

    forward          y = activation(conv_transpose(x, w) + b + residual), and the value before the activation
    forward_out      the same into `out`, which may be any view
    forward_concat   forward's y beside a copy of `concat`, in one tensor
    forward_statistics  forward, and mean and variance of y, of each "instance" [N, CO] or of the "batch" [CO]
    normalise        y by its mean and variance, scaled, shifted and activated
    grad_input       dx from dz and w
    grad_weight      dw from x and dz, in the strides of the weight
    grad_bias        db from dz
    backward         all three from dy, in one pass where that is possible; without derivatives of its own
    activation_grad  dz from dy and the one tensor that the activation's derivative needs

Derivatives are in autograd.py and statistics.py, the rules for vmap in vmap.py. `padding` is what is cropped before the output, any
integers; `out_size` settles what is cropped after it. A `precision` of None follows PyTorch's setting when a kernel is
launched.
"""

import functools

import torch

from ..launching import launch
from ..launching.tensors import channel_parts, empty, memory_format
from ..problems.activations import Activation
from . import internals
from .arguments import lower_precision

NAMESPACE = "triton_conv3dt"
GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, str? precision"
SCHEMAS = {
    "forward": f"(Tensor x, Tensor w, Tensor? b, Tensor? residual, SymInt[] out_size, {GEOMETRY}, "
               "str? activation, float[] parameters, bool keep_pre) -> (Tensor y, Tensor pre)",
    "forward_out": f"(Tensor x, Tensor w, Tensor? b, Tensor? residual, Tensor(a!) out, SymInt[] out_size, {GEOMETRY}, "
                   "str? activation, float[] parameters) -> ()",
    "forward_concat": "(Tensor x, Tensor w, Tensor? b, Tensor? residual, Tensor concat, bool concat_first, "
                      f"SymInt[] out_size, {GEOMETRY}, str? activation, float[] parameters, bool keep_pre) "
                      "-> (Tensor y, Tensor pre)",
    "forward_statistics": f"(Tensor x, Tensor w, Tensor? b, Tensor? residual, SymInt[] out_size, {GEOMETRY}, "
                          "str? activation, float[] parameters, bool keep_pre, str statistics) "
                          "-> (Tensor y, Tensor pre, Tensor mean, Tensor variance)",
    "normalise": "(Tensor y, Tensor mean, Tensor variance, Tensor? scale, Tensor? shift, float eps, str? activation, "
                 "float[] parameters) -> Tensor",
    "grad_input": f"(Tensor dz, Tensor w, SymInt[] in_size, {GEOMETRY}) -> Tensor",
    "grad_weight": f"(Tensor x, Tensor dz, SymInt[] kernel, SymInt[] w_strides, {GEOMETRY}) -> Tensor",
    "grad_bias": "(Tensor dz) -> Tensor",
    "backward": f"(Tensor dy, Tensor x, Tensor w, Tensor? saved, bool bias, SymInt[] w_strides, {GEOMETRY}, "
                "str? activation, float[] parameters) -> (Tensor dx, Tensor dw, Tensor db)",
    "activation_grad": "(Tensor dy, Tensor saved, str activation, float[] parameters) -> Tensor",
}

FORWARDS = "forward", "forward_out", "forward_concat", "forward_statistics"

library = torch.library.Library(NAMESPACE, "DEF")
# The fake results have exact strides, so the compiler must not choose others for what it hands in.
for _name, _schema in SCHEMAS.items():
    library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))

activation_of = functools.lru_cache(Activation)  # (name, parameters) -> Activation


def _precision(given: str | None, dtype: torch.dtype) -> str:
    """The precision of the products: only fp32 has a choice, and without one it follows PyTorch's convolutions."""
    if dtype is not torch.float32:
        return "tf32"
    if given is not None:
        return given
    return "tf32" if internals.convolution_precision() == "tf32" else "ieee"


# Implementations: every sequence is a tuple. None is returned for a pre-activation that is not kept.

def forward(x, w, b, residual, out_size, stride, padding, dilation, groups, precision, activation, parameters,
            keep_pre, records=None, into=None):
    return launch.forward(x, w, b, residual, out_size, stride, padding, dilation, groups, _precision(precision, x.dtype),
                          activation_of(activation, parameters) if activation else None, into, keep_pre, records)


def forward_out(x, w, b, residual, out, out_size, stride, padding, dilation, groups, precision, activation, parameters):
    launch.forward(x, w, b, residual, out_size, stride, padding, dilation, groups, _precision(precision, x.dtype),
                   activation_of(activation, parameters) if activation else None, out)
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)


def forward_concat(x, w, b, residual, concat, concat_first, out_size, stride, padding, dilation, groups, precision,
                   activation, parameters, keep_pre, records=None):
    return launch.forward(x, w, b, residual, out_size, stride, padding, dilation, groups, _precision(precision, x.dtype),
                          activation_of(activation, parameters) if activation else None, None, keep_pre, records, concat,
                          concat_first)


def forward_statistics(x, w, b, residual, out_size, stride, padding, dilation, groups, precision, activation, parameters,
                       keep_pre, statistics, records=None):
    return launch.forward(x, w, b, residual, out_size, stride, padding, dilation, groups, _precision(precision, x.dtype),
                          activation_of(activation, parameters) if activation else None, None, keep_pre, records,
                          statistics=statistics)


def normalise(y, mean, variance, scale, shift, eps, activation, parameters):
    return launch.normalise(y, mean, variance, scale, shift, eps, activation_of(activation, parameters) if activation else None)


def backward(dy, x, w, saved, bias, w_strides, stride, padding, dilation, groups, precision, activation, parameters):
    return launch.backward(dy, x, w, saved, bias, w_strides, stride, padding, dilation, groups,
                           _precision(precision, x.dtype), activation_of(activation, parameters) if activation else None)


def grad_input(dz, w, in_size, stride, padding, dilation, groups, precision):
    return launch.grad_input(dz, w, in_size=in_size, stride=stride, padding=padding, dilation=dilation, groups=groups,
                             precision=_precision(precision, dz.dtype))


def grad_weight(x, dz, kernel, w_strides, stride, padding, dilation, groups, precision):
    return launch.grad_weight(x, dz, kernel=kernel, strides=w_strides, stride=stride, padding=padding, dilation=dilation,
                              groups=groups, precision=_precision(precision, x.dtype))


def grad_bias(dz):
    return launch.grad_bias(dz)


def activation_grad(dy, saved, activation, parameters):
    return launch.activation_grad(dy, saved, activation_of(activation, parameters))


IMPLEMENTATIONS = {f.__name__: f for f in (
    forward, forward_out, forward_concat, forward_statistics, normalise, grad_input, grad_weight, grad_bias, backward,
    activation_grad)}


def with_tuples(args):
    """The arguments with every list that the dispatcher made a tuple again."""
    return [tuple(a) if isinstance(a, list) else a for a in args]


def _plain(t):
    """A tensor of a subclass, which may have methods of its own, as one of torch.Tensor in the same memory."""
    if not isinstance(t, torch.Tensor) or type(t) in (torch.Tensor, torch.nn.Parameter):
        return t
    with torch._C.DisableTorchFunctionSubclass():
        return torch.Tensor.as_subclass(t, torch.Tensor)


def _dispatched(name: str):
    """The implementation as the dispatcher calls it: only tensors are results, and none is of a subclass."""
    implementation = IMPLEMENTATIONS[name]

    def run(*args):
        args = list(map(_plain, with_tuples(args)))
        reason = launch.unsupported(args[0], args[1]) if name in FORWARDS else None
        if reason is not None:
            raise RuntimeError(f"{NAMESPACE}::{name} cannot run on {args[0].device}: {reason}")
        result = implementation(*args)
        if isinstance(result, tuple) and any(t is None for t in result):
            return tuple([args[0].new_empty((0,)) if t is None else t for t in result])
        return result

    return run


# Fake results.

def _fake_forward(x, w, b, residual, out_size, stride, padding, dilation, groups, precision, activation, parameters,
                  keep_pre):
    size = (x.shape[0], w.shape[1] * groups, *out_size)
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
    return y, torch.empty_like(y) if keep_pre else x.new_empty((0,))


def _fake_forward_concat(x, w, b, residual, concat, concat_first, out_size, stride, padding, dilation, groups, precision,
                         activation, parameters, keep_pre):
    channels = w.shape[1] * groups
    y = empty((x.shape[0], channels + concat.shape[1], *out_size), x)
    own, _ = channel_parts(y, channels, concat_first)
    return y, own.new_empty_strided(own.shape, own.stride()) if keep_pre else x.new_empty((0,))


def _fake_forward_statistics(x, w, b, residual, out_size, *rest):
    y, pre = _fake_forward(x, w, b, residual, out_size, *rest[:-1])
    size = y.shape[1:2] if rest[-1] == "batch" else y.shape[:2]
    dtype = torch.promote_types(y.dtype, torch.float32)
    return y, pre, y.new_empty(size, dtype=dtype), y.new_empty(size, dtype=dtype)


def _fake_normalise(y, *rest):
    return torch.empty(y.shape, dtype=y.dtype, device=y.device, memory_format=memory_format(y))


def _fake_grad_input(dz, w, in_size, *geometry):
    size = (dz.shape[0], w.shape[0], *in_size)
    return torch.empty(size, dtype=dz.dtype, device=dz.device, memory_format=memory_format(dz))


def _fake_grad_weight(x, dz, kernel, w_strides, stride, padding, dilation, groups, precision):
    size = (x.shape[1], dz.shape[1] // groups, *kernel)
    return torch.empty_strided(size, w_strides, dtype=x.dtype, device=x.device)


def _fake_backward(dy, x, w, saved, bias, w_strides, *geometry):
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format(dy if saved is None else saved))
    dw = torch.empty_strided(w.shape, w_strides, dtype=w.dtype, device=w.device)
    return dx, dw, x.new_empty((dy.shape[1] if bias else 0,))


def _fake_activation_grad(dy, saved, activation, parameters):
    return torch.empty(saved.shape, dtype=saved.dtype, device=saved.device, memory_format=memory_format(saved))


FAKES = {
    "forward": _fake_forward,
    "forward_out": lambda *args: None,
    "forward_concat": _fake_forward_concat,
    "forward_statistics": _fake_forward_statistics,
    "normalise": _fake_normalise,
    "grad_input": _fake_grad_input,
    "grad_weight": _fake_grad_weight,
    "grad_bias": lambda dz: dz.new_empty((dz.shape[1],)),
    "backward": _fake_backward,
    "activation_grad": _fake_activation_grad,
}


def _autocast(name: str, device_type: str):
    operator = getattr(getattr(torch.ops, NAMESPACE), name).default

    def cast(x, w, b, residual, *rest):
        with internals.without_autocast():
            return operator(*lower_precision(device_type, x, w, b, residual), *rest)

    return cast


for _name in SCHEMAS:
    library.impl(_name, _dispatched(_name), "CUDA")
    library.impl(_name, _dispatched(_name), "CPU")
    torch.library.register_fake(f"{NAMESPACE}::{_name}", FAKES[_name], lib=library)
for _name in FORWARDS:
    for _device_type, _key in internals.AUTOCAST_KEYS.items():
        library.impl(_name, _autocast(_name, _device_type), _key)
