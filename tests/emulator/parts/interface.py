"""The public interface with autograd: every activation, residual, concat=, out= and views."""

import torch
from layouts import lay_out

import triton_conv3dt as t3
from triton_conv3dt.checking import reference
from triton_conv3dt.launching.tensors import channel_parts
from triton_conv3dt.problems.activations import ACTIVATIONS, Activation

LAYERS = {  # n, ci, co, sizes, kernel; stride, padding, output_padding, groups, dilation
    "k2s2": (2, 32, 16, (3, 4, 8), 2, 2, 0, 0, 1, 1), "k122": (2, 16, 24, (3, 4, 6), (1, 2, 2), (1, 2, 2), 0, 0, 1, 1),
    "k3s2p1op1": (1, 32, 24, (3, 4, 6), 3, 2, 1, 1, 1, 1), "k4s2p1": (1, 28, 42, (3, 4, 5), 4, 2, 1, 0, 1, 1),
    "depthwise k5": (2, 16, 16, (3, 4, 6), 5, 1, 2, 0, 16, 1), "k3 from 3": (2, 3, 16, (3, 4, 6), 3, 2, 1, 1, 1, 1),
    "84 to 3": (1, 84, 3, (3, 3, 5), 2, 2, 0, 0, 1, 1), "groups": (1, 32, 32, (3, 4, 4), 3, 2, 1, 0, 2, 1),
    "dilated": (1, 16, 8, (3, 4, 5), 3, 1, 0, 0, 1, 2), "ones": (1, 1, 1, (1, 1, 1), 1, 1, 0, 0, 1, 1),
    "one to one": (1, 1, 1, (1, 2, 3), 2, 2, 0, 0, 1, 1)}
VIEWS = ("channels_first", "channels_last", "misaligned", "misaligned_channels_last", "concatenated",
         "concatenated_channels_last", "sliced")
HOWS = ("plain", "residual", "out", "skip first", "skip last")
TOLERANCES = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 2.0**-18}  # behind a smooth activation


def interface(rng, device):
    """One of the layers, with any activation in any view."""
    return chosen(rng.choice(tuple(LAYERS)), rng.choice((None, *ACTIVATIONS)), rng.choice(VIEWS),
                  rng.choice(tuple(TOLERANCES)), rng.choice(HOWS))


def chosen(layer, activation, view, dtype, how):
    """The case of a layer; how: one of HOWS, of which "out" has no gradients."""
    what = dict(layer=layer, activation=activation, view=view, dtype=str(dtype), how=how)
    return what, lambda: check(LAYERS[layer], activation, view, dtype, how)


def check(layer, activation, view, dtype, how):
    """The layer and its gradients, against the definition."""
    geometry, fused = layer[5:], Activation.of(activation)
    # Gradients behind an activation are no integers: tf32, the default, loses digits that the bound does not allow.
    precision = "ieee" if fused and dtype is torch.float32 else None
    given = dict(activation=activation, precision=precision, backend="triton")
    x, w, b, residual, dy = tensors(layer, view, dtype, 16 if fused else 1)
    skip, first, residual = residual if "skip" in how else None, how == "skip first", residual if how == "residual" else None
    exact = [t.double().requires_grad_() for t in (x, w, b)]
    z = torch.nn.functional.conv_transpose3d(*exact, *geometry)
    z = z if residual is None else z + residual.double()
    truth = reference.activation(z, fused.name, fused.parameters) if fused else z
    tolerance = TOLERANCES[dtype] if fused else 0
    if how == "out":
        near(written(x, w, b, geometry, truth.shape, given, "last" in view), truth.detach(), tolerance, "out")
        return
    inputs = [t.requires_grad_() for t in (x, w, b)]
    y = result = t3.conv_transpose3d(*inputs, *geometry, residual=residual, concat=skip, concat_first=first, **given)
    upstream = dy
    if skip is not None:
        y, copy = channel_parts(result, skip.shape[1], first)
        assert torch.equal(copy, skip), "the skip is not what it was"
        upstream = torch.cat((skip, dy) if first else (dy, skip), 1)
    near(y.detach(), truth.detach(), tolerance, "y")
    dz = dy.double()
    if fused:  # the derivative by the definition, from what was saved, rounded as the kernel rounds
        kept = y.detach() if fused.derivative_from == "output" else z.detach().to(dtype)
        dz = dz * reference.activation_derivative(kept.double(), fused.name, fused.parameters)
    found, wanted = torch.autograd.grad(result, inputs, upstream), torch.autograd.grad(z, exact, dz)
    for name, found, wanted in zip(("dx", "dw", "db"), found, wanted):
        near(found, wanted, 6 * tolerance, name)


def tensors(layer, view, dtype, divisor):
    """x, w, b, a residual and dy of a layer; integers, but for dy divided."""
    n, ci, co, sizes, kernel, *geometry = layer
    generator, kernel = torch.Generator().manual_seed(0), kernel if isinstance(kernel, tuple) else (kernel,) * 3
    draw = lambda shape, bound: torch.randint(-bound, bound + 1, shape, generator=generator).to(dtype) / divisor
    x, w, b = lay_out(draw((n, ci, *sizes), 3), view), draw((ci, co // geometry[3], *kernel), 3), draw((co,), 5)
    w = w.contiguous(memory_format=torch.channels_last_3d) if "last" in view else w
    shape = torch.nn.functional.conv_transpose3d(x.float(), w.float(), None, *geometry).shape
    dy = torch.randint(-2, 3, shape, generator=generator).to(dtype)
    return x, w, b, lay_out(draw(shape, 4), view), lay_out(dy, view)


def written(x, w, b, geometry, shape, given, last):
    """What a call writes into some channels of a larger tensor; the others must stay as they are."""
    storage = torch.full((shape[0], shape[1] + 24, *shape[2:]), -77.0, dtype=x.dtype)
    storage = storage.contiguous(memory_format=torch.channels_last_3d) if last else storage
    out = storage[:, 8:8 + shape[1]]
    t3.conv_transpose3d(x, w, b, *geometry, out=out, **given)
    assert (storage[:, :8] == -77).all() and (storage[:, 8 + shape[1]:] == -77).all(), "written beside out"
    return out


def near(actual, exact, tolerance, name):
    """Within a tolerance of the largest value; without one, exact once rounded."""
    if not tolerance:
        exact = exact.to(actual.dtype)
    scale = exact.abs().max().clamp(min=1).item()
    error = (actual.double() - exact.double()).abs().max().item()
    assert error <= tolerance * scale, f"{name}: an error of {error} where the largest value is {scale}"
