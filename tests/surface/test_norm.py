"""statistics= and conv_transpose3d_norm: the numbers of PyTorch's norms, their derivatives, and every way to call them."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import triton_conv3dt as t3
from triton_conv3dt.launching import binding
from triton_conv3dt.launching.tensors import statistics_of

LAST = torch.channels_last_3d
STRIDE = (1, 1, 2)
KINDS = ("instance", "batch")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_backend = pytest.mark.parametrize("backend", ["triton", "torch"])


def operands(device, dtype=torch.float32, n=2, requires_grad=False):
    """x, w, b, and the scale and shift of a norm."""
    generator = torch.Generator().manual_seed(0)
    shapes = (n, 2, 1, 2, 2), (2, 3, 1, 1, 2), (3,), (3,), (3,)
    return [torch.randn(s, generator=generator).to(device, dtype).requires_grad_(requires_grad) for s in shapes]


def layer(kind, backend="triton", **given):
    """The layer with its statistics, as a function of x, w and b."""
    return lambda x, w, b, *_: t3.conv_transpose3d(x, w, b, STRIDE, statistics=kind, backend=backend, **given)


def normed(kind, backend="triton", **given):
    """The layer and its norm, as a function of x, w, b, scale and shift."""
    return lambda x, w, b, scale, shift: t3.conv_transpose3d_norm(
        x, w, b, STRIDE, norm=kind, norm_weight=scale, norm_bias=shift, backend=backend, **given)


def by_pytorch(kind, activation=None, running=(None, None), **given):
    """The same of PyTorch's functions."""
    norm = F.batch_norm if kind == "batch" else F.instance_norm

    def run(x, w, b, scale, shift):
        z = norm(F.conv_transpose3d(x, w, b, STRIDE), *running, scale, shift, True, **given)
        return z if activation is None else getattr(F, activation)(z)

    return run


@each_kind
@pytest.mark.parametrize("dtype, memory_format", [(torch.float16, LAST), (torch.float32, torch.contiguous_format),
                                                  (torch.float64, torch.contiguous_format)], ids=str)
def test_statistics_are_those_of_what_is_returned(device, kind, dtype, memory_format):
    x, w, b, *_ = operands(device, dtype)
    x = x.contiguous(memory_format=memory_format)
    given = dict(activation="tanh", residual=t3.conv_transpose3d(x, w, None, STRIDE, backend="torch"))
    y, *found = layer(kind, **given)(x, w, b)
    assert torch.equal(y, t3.conv_transpose3d(x, w, b, STRIDE, backend="triton", **given))
    for moment, exact in zip(found, statistics_of(y.double(), kind)):
        assert moment.dtype == torch.promote_types(dtype, torch.float32) and moment.shape == exact.shape
        torch.testing.assert_close(moment.double(), exact, rtol=1e-14 if dtype == torch.float64 else 3e-7, atol=1e-8)


@each_kind
def test_integers_are_exact(device, kind):
    x, w = torch.arange(16.0, device=device).view(2, 2, 1, 2, 2), torch.ones(2, 3, 1, 1, 2, device=device)
    y, *found = layer(kind)(x, w, None)
    assert all(map(torch.equal, found, statistics_of(y, kind)))


@each_kind
@each_backend
def test_unbatched_empty_and_called_activations(device, kind, backend):
    x, w, b, scale, shift = operands(device)
    for activation in ("relu", lambda y: y * 2):
        y, mean, variance = layer(kind, backend, activation=activation)(x[0], w, b)
        batched = layer(kind, backend, activation=activation)(x[:1], w, b)
        assert torch.equal(y, batched[0][0]) and mean.shape == variance.shape == (3,)
        torch.testing.assert_close(mean, batched[1].view(3)), torch.testing.assert_close(variance, batched[2].view(3))
        z = normed(kind, backend, activation=activation)
        torch.testing.assert_close(z(x[0], w, b, scale, shift), z(x[:1], w, b, scale, shift)[0])
    running = torch.ones(3, device=device), torch.ones(3, device=device)
    z = normed(kind, backend, running_mean=running[0], running_var=running[1])(x[:0], w, b, scale, shift)
    assert z.shape == (0, 3, 1, 2, 4) and running[0].all() and running[1].all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of means of nothing
        _, mean, variance = layer(kind, backend)(x[:0], w, b)
    assert mean.shape == variance.shape == ((3,) if kind == "batch" else (0, 3)) and mean.isnan().all()


@each_kind
@pytest.mark.parametrize("dtype, affine", [(torch.float16, torch.float32), (torch.float16, torch.float16),
                                           (torch.float32, None)], ids=str)
def test_numbers_and_running_statistics_are_pytorchs(device, kind, dtype, affine):
    """Within twice PyTorch's own error of the fp64 norm of the same rounded result."""
    x, w, b, scale, shift = operands(device, dtype, n=3)
    scale, shift = (None, None) if affine is None else (scale.to(affine), shift.to(affine))
    running = [[torch.tensor([0.5, -1, 2], device=device).to(d) for _ in range(2)]
               for d in (torch.float32, torch.float32, torch.float64)]
    given = dict(momentum=0.3, eps=1e-3)
    z = normed(kind, running_mean=running[0][0], running_var=running[0][1], precision="ieee", **given)(x, w, b, scale, shift)
    y = t3.conv_transpose3d(x, w, b, STRIDE, backend="triton", precision="ieee")
    function, wide = F.batch_norm if kind == "batch" else F.instance_norm, lambda t: None if t is None else t.double()
    narrow = lambda t: None if t is None else t.float()  # as CPUs have it
    theirs = function(y, *running[1], narrow(scale), narrow(shift), True, **given)
    exact = function(y.double(), *running[2], wide(scale), wide(shift), True, **given)
    error = lambda found: (found.double() - exact).abs().max().item()
    assert z.dtype == dtype and error(z) <= 2 * error(theirs) + torch.finfo(dtype).eps
    for found, expected in zip(running[0], running[2]):
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind, activation", [("instance", "silu"), ("batch", "tanh")])
def test_derivatives_are_pytorchs(device, kind, activation):
    """First and second, and forward, in fp64: those of PyTorch's functions one after the other."""
    inputs = operands(device, torch.float64, requires_grad=True)
    statistics = lambda run: lambda *t: torch.cat([part.flatten() for part in run(*t)])
    for ours, theirs in ((normed(kind, activation=activation), by_pytorch(kind, activation)),
                         (statistics(layer(kind, activation=activation)),
                          statistics(layer(kind, "torch", activation=activation)))):
        found = []
        for run in (ours, theirs):
            z = run(*inputs)
            first = torch.autograd.grad(z, inputs, torch.cos(torch.arange(z.numel(), device=device)).view_as(z).to(z),
                                        create_graph=True, allow_unused=True)
            first = [t for t in first if t is not None]
            second = torch.autograd.grad(sum(t.sin().sum() for t in first), inputs, allow_unused=True)
            with forward_ad.dual_level():
                tangent = forward_ad.unpack_dual(run(*(forward_ad.make_dual(t.detach(), t.detach().cos()) for t in inputs)))
            found.append((*first, *(t for t in second if t is not None), tangent.tangent))
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_gradcheck(device):
    x, w, *vectors = operands(device, torch.float64)
    inputs = [t.detach().requires_grad_() for t in (x[:, :1, :, :1], w[:1], *vectors)]
    gradcheck(layer("instance", "torch"), inputs[:3], fast_mode=True, check_forward_ad=True)
    gradgradcheck(layer("batch", "torch"), inputs[:3], fast_mode=True)
    gradcheck(normed("batch"), inputs, fast_mode=True)


@pytest.mark.parametrize("kind, dtype, scaled", [("instance", torch.float16, torch.float16), ("batch", torch.float32, None),
                                                 ("batch", torch.float16, torch.float32)])
def test_gradients_in_narrow_types(device, kind, dtype, scaled):
    x, w, b, scale, shift = operands(device, dtype, requires_grad=True)
    scale, shift = [None if scaled is None else t.detach().to(scaled).requires_grad_() for t in (scale, shift)]
    inputs = [t for t in (x, w, b, scale, shift) if t is not None]
    found = torch.autograd.grad(normed(kind, precision="ieee")(x, w, b, scale, shift).square().sum(), inputs[:2] + inputs[3:])
    wide = [None if t is None else t.detach().double().requires_grad_() for t in (x, w, b, scale, shift)]
    exact = torch.autograd.grad(by_pytorch(kind)(*wide).square().sum(), [t for t in wide[:2] + wide[3:] if t is not None])
    for a, e in zip(found, exact):
        assert (a.double() - e).abs().max() <= 64 * torch.finfo(dtype).eps * max(1, e.abs().max())


def test_what_is_launched(device, monkeypatch):
    """The layer, its statistics, and one pass that reads the result; with derivatives, too."""
    names, right = [], binding.Record.launch
    monkeypatch.setattr(binding.Record, "launch", lambda self, *args: names.append(self.given.kernel) or right(self, *args))
    normed("batch", activation="relu")(*operands(device, torch.float64, requires_grad=True))
    assert names == ["direct", "combine", "normalise"]


@each_kind
def test_transforms(device, kind, no_loop):
    inputs = operands(device)
    loss = lambda run: lambda *t: sum(part.pow(3).sum() for part in run(*t))
    dims = (0, None, None, None, 0) if kind == "batch" else (None, 0, None, 0, None)
    many = [t if d is None else torch.stack((t, 2 * t)) for t, d in zip(inputs, dims)]
    for ours, theirs in ((layer(kind), layer(kind, "torch")), (lambda *t: (normed(kind)(*t),),
                                                             lambda *t: (by_pytorch(kind)(*t),))):
        gradient = lambda run: torch.func.grad(loss(run), (0, 1))(*inputs)
        torch.testing.assert_close(gradient(ours), gradient(theirs), rtol=1e-3, atol=1e-3)
        each = lambda run: [torch.stack([run(*(t if d is None else t[i] for t, d in zip(many, dims)))[part]
                                         for i in range(2)]) for part in range(len(run(*inputs)))]
        torch.testing.assert_close(list(torch.vmap(ours, dims)(*many)), each(theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind, backend", [("instance", "triton"), ("batch", "torch")])
def test_compiled_whole(device, kind, backend):
    inputs = operands(device, requires_grad=True)
    running = [torch.zeros(3, device=device) for _ in range(4)]

    def step(running, *t):
        z = normed(kind, backend, activation="relu", running_mean=running[0], running_var=running[1])(*t)
        y, mean, variance = layer(kind, backend)(*t)
        return z.square().sum() + (mean * variance).sum() + y.sum()

    torch._dynamo.reset()
    fast = torch.compile(step, backend="aot_eager", fullgraph=True)
    values = [run(stats, *inputs) for run, stats in ((fast, running[:2]), (step, running[2:]))]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, inputs) for value in values), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(running[:2], running[2:])
    assert running[0].any()


@pytest.mark.parametrize("backend, lower", [("triton", torch.float16), ("torch", torch.bfloat16)])
def test_autocast(device, backend, lower):
    inputs = operands(device)
    with torch.autocast(device, lower):
        y, mean, _ = layer("instance", backend)(*inputs)
        z = normed("batch", backend)(*inputs)
    assert y.dtype == z.dtype == lower and mean.dtype == torch.float32


X, W = torch.ones(2, 4, 1, 1, 1), torch.ones(4, 3, 1, 1, 1)
Y, V = torch.ones(2, 3, 1, 1, 1), torch.ones(3)


@each_backend
@pytest.mark.parametrize("arguments, error, phrase", [
    (dict(statistics="layer"), ValueError, "statistics must be one of 'instance', 'batch', received 'layer'"),
    (dict(statistics="batch", out=Y), RuntimeError, "not with concat= or out="),
    (dict(statistics="batch", concat=Y), RuntimeError, "not with concat= or out="),
    (dict(norm="layer"), ValueError, "norm must be one of 'instance', 'batch'"),
    (dict(norm="instance"), ValueError, "more than 1 spatial element when training"),
    (dict(norm="batch", norm_weight=V[:2]), RuntimeError, r"norm_weight to be 1-dimensional with 3 elements.*\[2\]"),
    (dict(norm="batch", norm_bias=1.0), TypeError, "'norm_bias' must be Tensor or None, not float"),
    (dict(norm="batch", running_mean=V, running_var=V, momentum=None), TypeError, "momentum must be a number"),
    (dict(norm="batch", running_mean=V), RuntimeError, "both or neither"),
    (dict(norm="batch", running_mean=V, running_var=V.to("meta")), RuntimeError, "running_var is on meta"),
])
def test_refusals(backend, arguments, error, phrase):
    function = t3.conv_transpose3d_norm if "norm" in arguments else t3.conv_transpose3d
    with pytest.raises(error, match=phrase):
        function(X, W, backend=backend, **arguments)
