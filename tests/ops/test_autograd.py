"""Derivatives of every order and kind, in fp64, and what they cost: which products run and which tensors are kept."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jvp, vjp

from triton_conv3dt import conv_transpose3d
from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch
from triton_conv3dt.ops import autograd

GEOMETRY = dict(stride=(2, 1, 2), padding=(1, 0, 1), dilation=(1, 1, 1), groups=1)
OUT_SIZE = (2, 2, 3)
# by what the derivative needs: nothing, the output, the pre-activation
ACTIVATIONS = [None, ("tanh", ()), ("silu", ())]
PRODUCTS = ("forward", "grad_input", "grad_weight_and_bias", "make_dz")


def operands(device, dtype=torch.float64, requires_grad=True):
    """x, w, b and residual of one small problem."""
    shapes = (1, 1, 2, 2, 2), (1, 2, 2, 1, 2), (2,), (1, 2, *OUT_SIZE)
    return [torch.randn(s, dtype=dtype, device=device, requires_grad=requires_grad) for s in shapes]


def layer(activation, keep_pre=False):
    """The operator as a function of its operands only."""
    name, parameters = activation or (None, ())

    def call(x, w, b=None, residual=None):
        y, pre = autograd.forward(x, w, b, residual, OUT_SIZE, *GEOMETRY.values(), None, name, parameters, keep_pre)
        return (y, pre) if keep_pre else y

    return call


def oracle(activation):
    """The same in differentiable torch expressions."""

    def call(x, w, b=None, residual=None):
        canvas = torch.nn.functional.conv_transpose3d(x, w, b, GEOMETRY["stride"])
        z = canvas[:, :, 1:1 + OUT_SIZE[0], :OUT_SIZE[1], 1:1 + OUT_SIZE[2]]
        z = z if residual is None else z + residual
        return reference.activation(z, *activation) if activation else z

    return call


@pytest.fixture
def launched(monkeypatch):
    """The names of the products as they are launched."""
    names = []

    def recorded(name, product):
        return lambda *args, **kwargs: names.append(name) or product(*args, **kwargs)

    for name in PRODUCTS:
        monkeypatch.setattr(launch, name, recorded(name.removesuffix("_and_bias"), getattr(launch, name)))
    return names


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("keep_pre", [False, True])
@pytest.mark.slow
def test_first_derivatives(device, activation, keep_pre):
    gradcheck(layer(activation, keep_pre), operands(device), fast_mode=True, check_forward_ad=True,
              check_batched_grad=True)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.slow
def test_second_derivatives(device, activation):
    """Forward over reverse, too, but for the second activation, whose derivative takes the same way."""
    gradgradcheck(layer(activation), operands(device), fast_mode=True, check_fwd_over_rev=activation != ACTIVATIONS[1])


def test_derivatives_of_the_gradient_products(device):
    x, w, b, dz = operands(device)
    geometry = (*GEOMETRY.values(), None)
    for product, arguments in ((lambda dz, w: autograd.grad_input(dz, w, (2, 2, 2), *geometry), (dz, w)),
                               (lambda x, dz: autograd.grad_weight(x, dz, (2, 1, 2), w.stride(), *geometry), (x, dz)),
                               (autograd.grad_bias, (dz,)),
                               (lambda dy, pre: autograd.activation_grad(dy, pre, "silu", ()), (dz, dz.detach() + 1))):
        gradcheck(product, arguments, fast_mode=True, check_forward_ad=True)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_the_transforms_of_torch_func(device, activation):
    x, w, *_ = operands(device, requires_grad=False)
    ours = lambda x, w: layer(activation)(x, w).pow(2).sum()
    truth = lambda x, w: oracle(activation)(x, w).pow(2).sum()
    along = torch.randn_like(x)
    close = torch.testing.assert_close
    for f in (lambda f: grad(f, (0, 1))(x, w),
              lambda f: vjp(f, x, w)[1](torch.ones((), dtype=x.dtype, device=device)),
              lambda f: jvp(lambda x: f(x, w), (x,), (along,)),
              lambda f: jvp(grad(lambda x: f(x, w)), (x,), (along,)),
              lambda f: grad(lambda x: jvp(lambda x: f(x, w), (x,), (along,))[1])(x),
              lambda f: grad(lambda w: grad(f)(x, w).pow(2).sum())(w)):
        close(f(ours), f(truth))


def test_hessian_without_a_loop(device, no_loop):
    x, w, *_ = operands(device, requires_grad=False)
    result = hessian(lambda w: layer(("tanh", ()))(x, w).pow(2).sum())(w)
    torch.testing.assert_close(result, hessian(lambda w: oracle(("tanh", ()))(x, w).pow(2).sum())(w))


def test_forward_mode_without_transforms(device):
    x, w, b, residual = operands(device, requires_grad=False)
    tangents = [torch.randn_like(t) for t in (x, w, b, residual)]
    for which in range(4):  # one dual operand at a time
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, tangents[i]) if i == which else t
                     for i, t in enumerate((x, w, b, residual))]
            ours = forward_ad.unpack_dual(layer(("silu", ()))(*duals)).tangent
            truth = forward_ad.unpack_dual(oracle(("silu", ()))(*duals)).tangent
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("wanted, products", [
    ("x", ["grad_input"]), ("w", ["grad_weight"]), ("b", ["make_dz"]), ("residual", []), ("xwb", ["grad_input", "grad_weight"])])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_only_the_gradients_asked_for_are_computed(device, launched, wanted, products, activation):
    x, w, b, residual = operands(device, torch.float32, requires_grad=False)
    y_like = torch.nn.functional.conv_transpose3d(x, w, b, 2)
    named = dict(x=x, w=w, b=b, residual=torch.randn_like(y_like))
    for name, t in named.items():
        t.requires_grad_(name in (wanted if wanted == "residual" else list(wanted)))
    y = conv_transpose3d(named["x"], named["w"], named["b"], 2, residual=named["residual"], activation=activation,
                         backend="triton")
    y.sum().backward()
    # dz and, of all gradients, the bias's by one pass; or that alone, where the weight gradient does not sum it on the way
    passes = ["make_dz"] * (activation is not None), ["make_dz"] * (activation is None and wanted == "xwb")
    assert launched == ["forward", *passes[0], *products, *passes[1]]
    assert all((t.grad is not None) == t.requires_grad for t in named.values())


def test_without_grad_nothing_but_the_forward_runs(device, launched):
    x, w, b, _ = operands(device, torch.float32)
    with torch.no_grad():
        y = conv_transpose3d(x, w, b, activation="silu", backend="triton")
    assert launched == ["forward"] and not y.requires_grad


@pytest.mark.parametrize("wanted, activation, kept", [
    ("x", None, "w"), ("w", None, "x"), ("b", None, ""), ("xw", None, "xw"), ("residual", None, ""),
    ("b", "relu", "y"), ("xw", "relu", "xwy"), ("b", "silu", "pre")])
def test_only_the_needed_tensors_are_kept(device, wanted, activation, kept):
    x, w, b, residual = operands(device, torch.float32, requires_grad=False)
    named = dict(x=x, w=w, b=b, residual=residual)
    for name, t in named.items():
        t.requires_grad_(name in (wanted if wanted == "residual" else list(wanted)))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = layer((activation, ()) if activation else None)(x, w, b, residual)
    found = [name for t in saved for name, known in (*named.items(), ("y", y)) if t.data_ptr() == known.data_ptr()]
    assert "".join(found) == kept.replace("pre", "") and len(saved) == len(found) + ("pre" in kept)


def test_a_weight_changed_in_place_is_noticed(device):
    x, w, b, _ = operands(device, torch.float32)
    y = layer(None)(x, w, b)
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def strided(shape, layout, device):
    w = torch.randn(shape, device=device)
    return {"channels_first": w, "channels_last": w.to(memory_format=torch.channels_last_3d),
            "channels swapped": w.transpose(0, 1).contiguous().transpose(0, 1),
            "sliced": torch.randn(*shape[:-1], 5, device=device)[..., :shape[-1]],
            "expanded": w[:, :, :1].expand(shape)}[layout]


@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "channels swapped", "sliced", "expanded"])
def test_gradients_come_in_the_strides_of_what_they_belong_to(device, layout):
    x = strided((2, 3, 2, 3, 2), layout, device).requires_grad_()
    w = strided((3, 4, 2, 2, 3), layout, device).requires_grad_()
    y = conv_transpose3d(x, w, backend="triton")
    dy = torch.randn_like(y)
    dx, dw = torch.autograd.grad(y, (x, w), dy)
    assert dw.stride() == torch.empty_like(w).stride()
    assert dx.is_contiguous(memory_format=torch.channels_last_3d) == (layout == "channels_last")
    expected = torch.autograd.grad(torch.nn.functional.conv_transpose3d(x, w), (x, w), dy)
    torch.testing.assert_close((dx, dw), expected)


@pytest.mark.parametrize("dy", [
    lambda y: torch.ones((), device=y.device).expand(y.shape),
    lambda y: torch.randn_like(y).to(memory_format=torch.channels_last_3d),
    lambda y: torch.randn(*y.shape, 2, device=y.device)[..., 1],
    lambda y: torch.randn_like(y.transpose(1, 4).contiguous()).transpose(1, 4)],
    ids=["expanded", "channels_last", "sliced", "transposed"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_incoming_gradients_of_any_strides(device, dy, activation):
    x, w, b, _ = operands(device, torch.float32)
    ours = conv_transpose3d(x, w, b, 2, activation=activation, backend="triton")
    truth = conv_transpose3d(x, w, b, 2, activation=activation, backend="torch")
    dy = dy(truth.detach())
    torch.testing.assert_close(torch.autograd.grad(ours, (x, w, b), dy), torch.autograd.grad(truth, (x, w, b), dy))


def test_backward_inside_autocast_keeps_the_dtypes_of_the_forward(device):
    x, w, b, _ = operands(device, torch.float32)
    y = layer(("tanh", ()))(x, w, b)
    expected = torch.autograd.grad(y.pow(2).sum(), (x, w), create_graph=True, retain_graph=True)
    with torch.autocast(device, torch.float16):
        y = y.pow(2).sum()
        found = torch.autograd.grad(y, (x, w), create_graph=True)
        torch.autograd.grad(found[0].sum(), w)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_an_empty_batch_has_gradients_of_zero(activation, device):
    x, w, b, _ = operands(device, torch.float32)
    x = x[:0].detach().requires_grad_()
    y = conv_transpose3d(x, w, b, activation=activation, backend="triton")
    dx, dw, db = torch.autograd.grad(y.sum(), (x, w, b))
    assert y.shape[0] == 0 and dx.shape == x.shape and not dw.any() and not db.any()
