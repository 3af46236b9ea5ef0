"""conv_transpose3d as PyTorch's function: what it accepts, what it refuses, and which backend runs."""

import inspect
import warnings

import numpy
import pytest
import torch
import torch.nn.functional as F

from triton_conv3dt import backends, conv_transpose3d, conv_transpose3d_sized, functional
from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch
from triton_conv3dt.ops import composite

BACKENDS = ("triton", "torch")


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def operands(device, n=1, ci=2, co=2, size=(2, 3, 2), kernel=2, dtype=torch.float32, groups=1):
    x = torch.randn(n, ci, *size, dtype=dtype, device=device)
    w = torch.randn(ci, co // groups, kernel, kernel, kernel, dtype=dtype, device=device)
    return x, w, torch.randn(co, dtype=dtype, device=device)


ACCEPTED = {
    "nothing": {},
    "int": dict(stride=2, padding=1, output_padding=1, dilation=2),
    "tuple of 1": dict(stride=(2,), padding=(1,), output_padding=(1,), dilation=(2,)),
    "lists": dict(stride=[2, 1, 3], padding=[0, 1, 0], output_padding=[1, 0, 2], dilation=[1, 2, 1]),
    "tuple of 3": dict(stride=(1, 2, 3), padding=(0, 1, 1), output_padding=(0, 1, 2)),
    "torch.Size": dict(stride=torch.Size([2, 2, 2])),
    "numpy integers": dict(stride=numpy.int64(2), padding=(numpy.int32(0), 1, 0)),
    "integer tensors": dict(stride=torch.tensor(2), padding=(torch.tensor(1), 0, 0)),
    "output_padding up to the dilation": dict(output_padding=1, dilation=2),
    "padding larger than the kernel": dict(stride=3, padding=(1, 3, 1), output_padding=2),
}


@pytest.mark.parametrize("arguments", ACCEPTED.values(), ids=ACCEPTED)
def test_arguments_mean_what_they_mean_in_pytorch(device, backend, arguments):
    x, w, b = operands(device)
    for input in (x, x[0], x[:0]):
        expected = F.conv_transpose3d(input, w, b, **arguments)
        torch.testing.assert_close(conv_transpose3d(input, w, b, **arguments, backend=backend), expected)


def test_groups_and_positional_arguments(device, backend):
    x, w, b = operands(device, ci=4, co=4, groups=2)
    arguments = (x, w, b, 2, 1, 1, 2, 1)
    torch.testing.assert_close(conv_transpose3d(*arguments, backend=backend), F.conv_transpose3d(*arguments))


def test_an_output_axis_of_nothing(device):
    x, w, b = operands(device, size=(2, 2, 2), kernel=1)
    assert conv_transpose3d(x, w, b, padding=(1, 0, 0), backend="triton").shape == (1, 2, 0, 2, 2)


X, W, B = torch.ones(1, 4, 2, 2, 2), torch.ones(4, 3, 2, 2, 2), torch.ones(3)
TRIPLES = ("stride", "padding", "output_padding", "dilation")
REFUSED = [  # operands, arguments, and a phrase of the message: PyTorch's where it has one that says what is wrong
    *(((X, W, B), {name: value}, None) for name in TRIPLES
      for value in (1.0, (1.0, 1, 1), True, (True, 1, 1), "1", None, torch.tensor([1, 1, 1]), torch.tensor(1.0),
                    numpy.array([1, 1, 1]))),
    *(((X, W, B), {name: value}, f"expected {name} to be") for name in TRIPLES for value in ((), (1, 1), (1, 1, 1, 1))),
    *(((X, W, B), dict(stride=value), "non-positive stride is not supported") for value in (0, -1, (1, 0, 1))),
    *(((X, W, B), dict(dilation=value), None) for value in (0, -1, (1, 0, 1))),
    ((X, W, B), dict(dilation=-1), "dilation should be greater than zero"),
    ((X, W, B), dict(padding=-1), "negative padding is not supported"),
    ((X, W, B), dict(padding=(0, -1, 0)), "negative padding is not supported"),
    ((X, W, B), dict(padding="same"), None),
    ((X, W, B), dict(output_padding=-1), "negative output_padding is not supported"),
    ((X, W, B), dict(output_padding=1), "output padding must be smaller than either stride or dilation"),
    ((X, W, B), dict(output_padding=2, stride=2), "output padding must be smaller than either stride or dilation"),
    ((X, W, B), dict(output_padding=(0, 1, 0), stride=(1, 1, 2)), "output padding must be smaller"),
    ((X.double(), W.double(), B.double()), dict(padding=2), "too small"),
    ((X, W, B), dict(groups=0), "non-positive groups is not supported"),
    ((X, W, B), dict(groups=-1), "non-positive groups is not supported"),
    ((X, W, B), dict(groups=1.0), "groups"),
    ((X, W, B), dict(groups=True), "groups"),
    ((X, W, B), dict(groups=(1,)), "groups"),
    ((X, W, B), dict(groups=3), "expected weight to be divisible by 3 at dimension 0"),
    ((X, W, B), dict(groups=8), "expected weight to be at least 8 at dimension 0"),
    ((X[0, 0], W, B), {}, r"Expected 4D \(unbatched\) or 5D \(batched\) input to conv_transpose3d"),
    ((X[None], W, B), {}, r"Expected 4D \(unbatched\) or 5D \(batched\) input to conv_transpose3d"),
    ((X, W[0], B), {}, None),
    ((X, W[None], B), {}, None),
    ((X[:, :3], W, B), {}, "to have 4 channels, but got 3 channels"),
    ((X[0, :3], W, B), {}, "to have 4 channels, but got 3 channels"),
    ((X[:, :0], W[:0], B), {}, "expected weight to be at least 1 at dimension 0"),
    ((X, W[:, :0], B[:0]), {}, None),
    ((X, W[:, :, :0], B), {}, None),
    ((X[:, :, :0], W, B), {}, "Only zero batch"),
    ((X, W, torch.ones(4)), {}, "expected bias to be 1-dimensional with 3 elements, but got bias of size"),
    ((X, W, torch.ones(1)), {}, "expected bias to be 1-dimensional with 3 elements, but got bias of size"),
    ((X, W, torch.ones(1, 3)), {}, "expected bias to be 1-dimensional with 3 elements, but got bias of size"),
    ((X, W, torch.tensor(1.0)), {}, "expected bias to be 1-dimensional with 3 elements, but got bias of size"),
    ((X, W.double(), B), {}, "should be the same"),
    ((X, W, B.double()), {}, "should be the same"),
    ((X.half(), W, B), {}, None),
    ((None, W, B), {}, "'input'"),
    (([1.0], W, B), {}, "'input'"),
    ((X, None, B), {}, "'weight'"),
    ((X, W, [1.0]), {}, "'bias'"),
    ((X, W, 1.0), {}, "'bias'"),
    ((X, W, B), dict(unknown=1), "unknown"),
]


@pytest.mark.parametrize("operands, arguments, phrase", REFUSED, ids=lambda value: None)
def test_what_pytorch_refuses_is_refused_in_kind(operands, arguments, phrase):
    with pytest.raises(Exception) as expected:
        F.conv_transpose3d(*operands, **arguments)
    for backend in (*BACKENDS, "auto"):
        with pytest.raises(expected.type, match=phrase):
            conv_transpose3d(*operands, **arguments, backend=backend)


def test_a_float_stride_is_refused_after_an_equal_integer(device):
    x, w, b = operands(device)
    conv_transpose3d(x, w, b, stride=1)
    for equal in (1.0, True):
        with pytest.raises(TypeError, match="'stride' must be an integer"):
            conv_transpose3d(x, w, b, stride=equal)


@pytest.mark.parametrize("arguments, error, phrase", [
    (dict(activation="reloo"), ValueError, "'reloo' is not known; known are relu"),
    (dict(activation=3), TypeError, "a name, a pair"),
    (dict(precision="tf64"), ValueError, "precision must be one of 'tf32', 'tf32x3', 'ieee', received 'tf64'"),
    (dict(backend="cudnn"), ValueError, "backend must be one of 'auto', 'triton', 'torch', received 'cudnn'"),
    (dict(residual=1.0), TypeError, "'residual' must be Tensor or None, not float"),
    (dict(residual=torch.ones(1, 3, 3, 3)), RuntimeError, r"expected residual .* \[1, 3, 3, 3, 3\], received"),
    (dict(residual=torch.ones(1, 1, 1, 1, 1)), RuntimeError, "neither broadcast nor resized; use .expand"),
    (dict(residual=torch.ones(1, 3, 3, 3, 3).double()), RuntimeError, "should be the same"),
    (dict(out=[1.0]), TypeError, "'out' must be Tensor or None, not list"),
    (dict(out=torch.ones(1, 3, 3, 3, 2)), RuntimeError, r"expected out .* \[1, 3, 3, 3, 3\], received"),
    (dict(out=torch.ones(1, 3, 3, 3, 3).double()), RuntimeError, "should be the same"),
    (dict(out=torch.ones(1, 3, 3, 3, 3, device="meta")), RuntimeError, "out is on meta"),
    (dict(out=torch.ones(1, 3, 3, 3, 1).expand(1, 3, 3, 3, 3)), RuntimeError, "more than one element of out"),
    (dict(out=torch.ones(1, 3, 3, 3, 3, requires_grad=True)), RuntimeError, "don't support automatic diff"),
])
def test_refusals_of_the_additional_arguments(arguments, error, phrase):
    for backend in (*BACKENDS, "auto"):
        with pytest.raises(error, match=phrase):
            conv_transpose3d(X, W, B, **{"backend": backend} | arguments)


def test_operands_on_another_device_are_refused():
    for operands in ((X, W.to("meta"), B), (X, W, B.to("meta"))):
        with pytest.raises(RuntimeError, match="same device"):
            conv_transpose3d(*operands)


def test_a_sized_call_takes_any_crop(device, backend):
    x, w, b = operands(device)
    for padding, out_size in (((-2, 0, 1), (9, 3, 2)), ((0, 1, 3), (4, 6, 9)), ((1, 1, 1), (2, 4, 2)),
                              ((30, 0, -30), (3, 2, 3)), ((-30, 1, 1), (2, 2, 2)), ((2, 2, 2), (1, 3, 1))):
        arguments = dict(stride=(2, 2, 2), padding=padding, dilation=(1, 2, 1), out_size=out_size, groups=1)
        expected = reference.conv_transpose3d(x, w, b, **arguments, dtype=x.dtype)
        torch.testing.assert_close(conv_transpose3d_sized(x, w, b, **arguments, backend=backend), expected)
    with pytest.raises(RuntimeError, match="output is too small|output size is too small"):
        conv_transpose3d_sized(x, w, b, stride=2, padding=0, out_size=(2, 2, -1), backend=backend)


@pytest.mark.parametrize("activation", [None, "relu", ("leaky_relu", 0.2), "silu", torch.tanh])
@pytest.mark.parametrize("unbatched", [False, True])
def test_the_epilogue(device, backend, activation, unbatched):
    x, w, b = operands(device)
    x = x[0] if unbatched else x
    plain = F.conv_transpose3d(x, w, b, 2)
    residual = torch.randn_like(plain)
    functions = {None: lambda z: z, "relu": F.relu, ("leaky_relu", 0.2): lambda z: F.leaky_relu(z, 0.2), "silu": F.silu,
                 torch.tanh: torch.tanh}
    expected = functions[activation](plain + residual)
    arguments = dict(stride=2, activation=activation, residual=residual, backend=backend)
    torch.testing.assert_close(conv_transpose3d(x, w, b, **arguments), expected)
    out = torch.full_like(expected, torch.nan)
    assert conv_transpose3d(x, w, b, **arguments, out=out) is out
    torch.testing.assert_close(out, expected)


def test_results_have_the_memory_format_of_the_input(device):
    x, w, b = operands(device, ci=4)
    y = conv_transpose3d(x.to(memory_format=torch.channels_last_3d), w, b, backend="triton")
    assert y.is_contiguous(memory_format=torch.channels_last_3d) and not y.is_contiguous()
    assert conv_transpose3d(x, w.to(memory_format=torch.channels_last_3d), b, backend="triton").is_contiguous()


@pytest.mark.parametrize("backend, dtype", [("torch", torch.bfloat16), ("triton", torch.float16)])
def test_autocast_is_that_of_a_convolution(device, backend, dtype):
    x, w, b = operands(device)
    residual = torch.randn(1, 2, 3, 4, 3, device=device)
    with torch.autocast(device, dtype):
        y = conv_transpose3d(x, w, b, residual=residual, activation="softplus", backend=backend)
        mixed = conv_transpose3d(x.to(dtype), w, b, residual=residual, activation="softplus", backend=backend)
        assert conv_transpose3d(x.double(), w.double(), backend=backend).dtype == torch.float64
        with pytest.raises(TypeError, match="'weight' must be Tensor, not NoneType"):
            conv_transpose3d(x, None, backend=backend)
    lower = [t.to(dtype) for t in (x, w, b)]
    expected = conv_transpose3d(*lower, residual=residual.to(dtype), activation="softplus", backend=backend)
    assert y.dtype == mixed.dtype == dtype and torch.equal(y, expected) and torch.equal(mixed, expected)
    assert conv_transpose3d(x, w, b, residual=residual, activation="softplus", backend=backend).dtype == torch.float32


def test_subclasses_with_a_torch_function_see_the_call():
    class Tagged(torch.Tensor):
        seen = []

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.seen.append(function)
            return super().__torch_function__(function, types, args, kwargs)

    y = conv_transpose3d(X.as_subclass(Tagged), W, B)
    assert type(y) is Tagged and Tagged.seen[0] is conv_transpose3d
    assert torch.equal(y.as_subclass(torch.Tensor), F.conv_transpose3d(X, W, B))


def test_without_a_kernel_for_it_the_triton_backend_says_why():
    with pytest.raises(RuntimeError, match='backend="triton" cannot take this call: .*complex'):
        conv_transpose3d(X.cfloat(), W.cfloat(), backend="triton")
    assert torch.equal(conv_transpose3d(X.cfloat(), W.cfloat()), F.conv_transpose3d(X.cfloat(), W.cfloat()))


class OnAGpu(torch.Tensor):
    """A CPU tensor that says it is on a GPU."""

    device = torch.device("cuda", 0)
    __torch_function__ = torch._C._disabled_torch_function_impl


@pytest.fixture
def unsupported(monkeypatch):
    monkeypatch.setattr(backends, "unsupported", lambda x, w: "of the test")
    monkeypatch.setattr(backends, "_warned", set())
    monkeypatch.delenv("TRITON_CONV3DT_FALLBACK", raising=False)


def test_falling_back_on_a_gpu_warns_once_per_reason(unsupported, monkeypatch):
    operands = [t.as_subclass(OnAGpu) for t in (X, W, B)]
    with pytest.warns(UserWarning, match="falls back to PyTorch: of the test.*TRITON_CONV3DT_FALLBACK") as caught:
        y = conv_transpose3d(*operands)
    assert torch.equal(torch.Tensor(y), F.conv_transpose3d(X, W, B)) and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conv_transpose3d(*operands)
        conv_transpose3d(operands[0], operands[1])
    monkeypatch.setattr(backends, "unsupported", lambda x, w: "another")
    with pytest.warns(UserWarning, match="another"):
        conv_transpose3d(*operands, stride=2)


def test_falling_back_can_be_forbidden(unsupported, monkeypatch):
    monkeypatch.setenv("TRITON_CONV3DT_FALLBACK", "error")
    operands = [t.as_subclass(OnAGpu) for t in (X, W, B)]
    with pytest.raises(RuntimeError, match="of the test, and TRITON_CONV3DT_FALLBACK=error forbids it"):
        conv_transpose3d(*operands)
    conv_transpose3d(*operands, backend="torch")


def test_on_a_cpu_pytorch_is_normal_and_silent(monkeypatch):
    monkeypatch.setenv("TRITON_CONV3DT_FALLBACK", "error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(conv_transpose3d(X, W, B), F.conv_transpose3d(X, W, B))


def test_remembered_calls_are_bounded(monkeypatch):
    monkeypatch.setattr(functional, "_calls", calls := {})
    monkeypatch.setattr(functional, "_REMEMBERED_CALLS", 4)
    for size in range(1, 8):
        assert conv_transpose3d(torch.ones(1, 4, size, 1, 1), W, B).shape == (1, 3, size + 1, 2, 2)
    assert 0 < len(calls) <= 4


def test_calls_with_a_callable_are_not_remembered(monkeypatch):
    monkeypatch.setattr(functional, "_calls", calls := {})
    conv_transpose3d(X, W, B, activation=lambda z: z + 1)
    assert not calls


@pytest.mark.parametrize("setting, expected", [("tf32", "tf32"), ("ieee", "ieee")])
def test_precision_follows_the_setting_of_convolutions(device, monkeypatch, setting, expected):
    seen, names = [], inspect.signature(launch.forward)
    monkeypatch.setattr(launch, "forward",
                        lambda *args: seen.append(names.bind(*args).arguments["precision"]) or args[:2])
    x, w, b = operands(device)
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cudnn.conv.fp32_precision = setting
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            conv_transpose3d(x, w, b, backend="triton")
            conv_transpose3d(x, w, b, precision="tf32x3", backend="triton")
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    assert seen == [expected, "tf32x3"]


def test_precision_of_the_torch_backend_is_restored():
    before = torch.backends.cudnn.conv.fp32_precision
    with composite._precision("ieee"):
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cudnn.conv.fp32_precision == before
