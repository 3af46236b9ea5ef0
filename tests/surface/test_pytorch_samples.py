"""PyTorch's own samples and error inputs for the function and the module, which ship in torch.testing._internal."""

import pytest
import torch
import torch.nn.functional as F

from triton_conv3dt import conv_transpose3d, nn

# Importing them freezes PyTorch's flags, which other tests in this process set: here until the end of this block only.
with torch.backends.__allow_nonbracketed_mutation():
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

CONV_TRANSPOSE, CONV = (next(op for op in op_db if op.name == f"nn.functional.{name}")
                        for name in ("conv_transpose3d", "conv3d"))
MODULE = next(m for m in module_db if m.module_cls is torch.nn.ConvTranspose3d)
SMALLEST = 4  # input elements per axis that the interpreter is given


def samples(device, dtype, requires_grad=False):
    return list(CONV_TRANSPOSE.sample_inputs(device, dtype, requires_grad))


def small(sample):
    """The sample's operands with small integer values and at most SMALLEST elements per axis of the input."""
    x, *others = (t if t is None else t.detach().round() for t in (sample.input, *sample.args))
    x = x[..., :SMALLEST, :SMALLEST, :SMALLEST]
    return [t if t is None else t.requires_grad_() for t in (x, *others)]


@pytest.mark.parametrize("dtype", sorted(CONV_TRANSPOSE.dtypes, key=str), ids=str)
def test_samples_on_the_torch_backend(dtype):
    requires_grad = dtype.is_floating_point or dtype.is_complex
    # These have few channels, and few in 16 bits go through fp32: ops/test_composite.py.
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    for sample in samples("cpu", dtype, requires_grad):
        expected = F.conv_transpose3d(*(t if t is None else t.to(wide) for t in (sample.input, *sample.args)),
                                      **sample.kwargs).to(dtype)
        found = conv_transpose3d(sample.input, *sample.args, **sample.kwargs, backend="torch")
        assert torch.equal(found, expected) and found.dtype == dtype
        if requires_grad:
            operands = [t for t in (sample.input, *sample.args) if t is not None]
            gradients = (torch.autograd.grad(y.abs().sum(), operands) for y in (found, expected))
            assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("index", range(len(samples("cpu", torch.float32))))
def test_samples_on_the_triton_backend(device, index):
    sample = samples(device, torch.float32)[index]
    operands = small(sample)
    expected = F.conv_transpose3d(*operands, **sample.kwargs)
    found = conv_transpose3d(*operands, **sample.kwargs, backend="triton", precision="ieee")
    assert torch.equal(found, expected)
    present, dy = [t for t in operands if t is not None], torch.randint_like(expected, -4, 5)
    assert all(map(torch.equal, *(torch.autograd.grad(y, present, dy) for y in (found, expected))))


def transposed(sample):
    """An error input of conv3d as conv_transpose3d would receive it: input and output channels of w swapped."""
    weight, *rest = sample.args
    return (sample.input, weight.transpose(0, 1) if weight.dim() == 5 else weight, *rest), sample.kwargs


@pytest.mark.parametrize("error", list(CONV.error_inputs("cpu")), ids=lambda error: None)
@pytest.mark.parametrize("backend", ["torch", "triton", "auto"])
def test_error_inputs_of_the_convolution(error, backend):
    operands, keywords = transposed(error.sample_input)
    with pytest.raises((TypeError, RuntimeError)) as expected:
        F.conv_transpose3d(*operands, **keywords)
    with pytest.raises(expected.type):
        conv_transpose3d(*operands, **keywords, backend=backend)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_module_inputs(device, backend, training):
    for case in MODULE.module_inputs_func(MODULE, device, torch.float32, True, training):
        constructor, call = case.constructor_input, case.forward_input
        ours = nn.ConvTranspose3d(*constructor.args, **constructor.kwargs, backend=backend, device=device)
        theirs = torch.nn.ConvTranspose3d(*constructor.args, **constructor.kwargs, device=device)
        theirs.load_state_dict(ours.state_dict())
        ours.train(training)
        theirs.train(training)
        arguments = [a[..., :SMALLEST, :SMALLEST, :SMALLEST] for a in call.args]
        torch.testing.assert_close(ours(*arguments, **call.kwargs), theirs(*arguments, **call.kwargs))
        if case.reference_fn is not None:
            expected = case.reference_fn(ours, *call.args, **call.kwargs)
            torch.testing.assert_close(ours(*call.args, **call.kwargs), expected)
