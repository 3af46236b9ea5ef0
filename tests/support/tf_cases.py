"""TensorFlow's results (data/tf_cases.json, data/tf_gradients.json), a reference by the definition, and more cases.

The reference shares nothing with the package: along each axis it writes down which input meets which output through
which tap, as a tensor of zeros and ones, and multiplies those out in numpy.
"""

import json
import math
import random
from functools import lru_cache
from pathlib import Path

import numpy
import torch

DATA = Path(__file__).parents[1] / "data"


@lru_cache(maxsize=None)
def recorded() -> dict:
    return json.loads((DATA / "tf_cases.json").read_text())


@lru_cache(maxsize=None)
def recorded_gradients() -> list:
    return json.loads((DATA / "tf_gradients.json").read_text())["cases"]


def of_kind(kind: str) -> list:
    return [case for case in recorded()["cases"] if case["kind"] == kind]


def pattern(fill: str, shape, dtype=torch.float32) -> torch.Tensor:
    """The integers that the recorded results were computed from: "X" or "F"."""
    i = torch.arange(math.prod(shape))
    values = (7 * i + 3) % 11 - 5 if fill == "X" else (5 * i + 1) % 7 - 3
    return values.reshape(tuple(shape)).to(dtype)


def kernel_pattern(shape, dtype):
    return pattern("F", shape, dtype)


def bias_pattern(shape, dtype):
    return torch.arange(1, shape[0] + 1).to(dtype)


def decoded(value, device="cpu"):
    """An argument from its JSON."""
    if not isinstance(value, dict):
        return value
    if "fill" in value:
        return pattern(value["fill"], value["shape"], getattr(torch, value["dtype"])).to(device)
    if "initializer" in value:
        return {"FI": kernel_pattern, "BI": bias_pattern}[value["initializer"]]
    return tuple(value["tuple"])


def error_of(case) -> type:
    """What we raise where TensorFlow refuses: for its InvalidArgumentError, TypeError where a type is wrong."""
    types = "dtype/int64", "dtype/uint8", "output_shape/listfloat", "output_shape/string", "layer/call-int32"
    if case["id"] in types:
        return TypeError  # what TensorFlow itself raises for these in graph mode
    return {"TypeError": TypeError, "AttributeError": TypeError}.get(case["error"]["type"], ValueError)


def assert_recorded(y, expected, rtol=0.0):
    """y has the recorded shape, dtype, values and checksums."""
    assert list(y.shape) == expected["shape"] and str(y.dtype) == f"torch.{expected['dtype']}"
    flat = y.detach().double().cpu().flatten()
    values = torch.tensor(expected.get("values", expected.get("head")), dtype=torch.float64)
    weights = (3 * torch.arange(len(flat))) % 13 - 6
    sums = torch.tensor([expected["sum"], expected["wsum"]], dtype=torch.float64)
    torch.testing.assert_close(flat[:len(values)], values, rtol=rtol, atol=rtol * 1e-3)
    torch.testing.assert_close(torch.stack([flat.sum(), (flat * weights).sum()]), sums, rtol=rtol, atol=0)


def incidence(size, out, kernel, stride, dilation, padding):
    """[kernel, out, size]: 1 where input i meets output o through tap k."""
    k, o, i = numpy.ogrid[:kernel, :out, :size]
    total = (size - 1) * stride + (kernel - 1) * dilation + 1 - out if padding == "SAME" else 0
    return (i * stride + k * dilation - max(0, total) // 2 == o).astype(numpy.float64)


def truth(value, filter, out_size, strides, dilations, padding, groups=1):
    """conv3d_transpose of NDHWC tensors in fp64, [N, *out_size, groups * CO]."""
    x, f = value.double().cpu().numpy(), filter.double().cpu().numpy()
    axes = [incidence(*each, padding) for each in zip(x.shape[1:4], out_size, f.shape[:3], strides, dilations)]
    parts = [numpy.einsum("adp,beq,cfr,npqrx,abcox->ndefo", *axes, x_part, f_part, optimize=True)
             for x_part, f_part in zip(numpy.split(x, groups, -1), numpy.split(f, groups, -1))]
    return torch.from_numpy(numpy.concatenate(parts, -1))


def convolved(out, kernel, stride, dilation, padding):
    """The length that a convolution makes of `out`: the definition of what its transpose accepts."""
    covered = (kernel - 1) * dilation + 1
    return -(-out // stride) if padding == "SAME" else (out - covered) // stride + 1


def draw(seed: int) -> tuple[dict, torch.Tensor]:
    """Random arguments of conv3d_transpose, each in one of the forms that it takes, and the result in fp64."""
    rng = random.Random(seed)
    triple = lambda *choices: [rng.choice(choices) for _ in range(3)]
    in_size, kernel, strides = triple(1, 1, 2, 3), triple(1, 1, 2, 3), triple(1, 1, 2, 3)
    while math.prod(kernel) * math.prod(strides) > 24:  # more takes the interpreter long
        kernel, strides = triple(1, 1, 2, 3, 4), triple(1, 1, 2, 3)
    dilations = triple(1, 2, 3) if rng.random() < 0.4 else [1, 1, 1]
    if rng.random() < 0.3:
        strides = strides[:1] * 3
    padding, groups = rng.choice(("SAME", "VALID")), rng.choice((1, 1, 1, 2, 3))
    lengths = []
    for i, k, s, d in zip(in_size, kernel, strides, dilations):
        lengths.append(rng.choice([o for o in range(1, i * s + k * d + s) if convolved(o, k, s, d, padding) == i]))
    n, ci, co = rng.choice((1, 1, 2, 3)), groups * rng.choice((1, 2, 3, 5)), rng.choice((1, 2, 3, 4))
    generator = torch.Generator().manual_seed(seed)
    value = torch.randint(-8, 9, (n, *in_size, ci), generator=generator)
    filter = torch.randint(-8, 9, (*kernel, co, ci), generator=generator)
    expected = truth(value, filter, lengths, strides, dilations, padding, groups)
    output_shape, first = [n, *lengths, groups * co], rng.random() < 0.4
    if first:
        value, expected = value.permute(0, 4, 1, 2, 3).contiguous(), expected.permute(0, 4, 1, 2, 3)
        output_shape = [n, groups * co, *lengths]
    dtype = rng.choice((torch.float16, torch.float32, torch.float32, torch.float64))
    arguments = dict(filter=filter.to(dtype), strides=_form(rng, strides, first), padding=padding,
                     output_shape=rng.choice((list, tuple, torch.Size, torch.tensor, numpy.array, _mixed))(
                         output_shape),
                     data_format="NCDHW" if first else rng.choice((None, "NDHWC")))
    arguments[rng.choice(("value", "input"))] = value.to(dtype)
    if dilations != [1, 1, 1] or rng.random() < 0.3:
        arguments["dilations"] = _form(rng, dilations, first)
    return arguments, expected


def _form(rng, values, first):
    """Three numbers as one, three or five, in a list, a tuple or a tensor."""
    if len(set(values)) == 1 and rng.random() < 0.6:
        return values[0] if rng.random() < 0.6 else [values[0]]
    if rng.random() < 0.5:
        values = [1, 1, *values] if first else [1, *values, 1]
    return rng.choice((list, tuple, torch.tensor))(values)


def _mixed(sizes):
    return [torch.tensor(s) if i % 2 else numpy.int32(s) for i, s in enumerate(sizes)]
