"""Whatever memory a call is given: each descriptor that is made of it is one that the hardware takes, and no result differs."""

import itertools

import pytest
import torch

from cases import case
from layouts import LAYOUTS, lay_out
from tolerances import assert_exact
from triton_conv3dt import conv_transpose3d
from triton_conv3dt.checking import reference
from triton_conv3dt.launching import binding, launch, tensors
from triton_conv3dt.planning import plan, search, weight_walks
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.constraints import Constraints
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.problem import Epilogue, Problem

H200 = Device.named("nvidia_h200")
DESCRIBED = Constraints(frozenset(("gather", "walk", "pair")))  # leaves descriptors and, where nothing has one, direct
SIZES = ((1, 1, 1), (1, 1, 4), (1, 2, 1), (2, 1, 1), (2, 2, 4))
KERNELS = (dict(kernel=1), dict(kernel=2, stride=2), dict(kernel=3, padding=1), dict(kernel=4, stride=2, padding=1),
           dict(kernel=(1, 2, 2), stride=(1, 2, 2)))
CHANNELS = (10, 8, 40)  # one run of no descriptor, one run, more


def odd_strides(t):
    """Axes of size 1 in other strides than a dense tensor has."""
    return t.as_strided(t.shape, [3 if n == 1 else s for n, s in zip(t.shape, t.stride())])


VIEWS = {layout: lambda t, layout=layout: lay_out(t, layout) for layout in LAYOUTS} | {
    "odd strides": odd_strides, "odd strides, channels_last": lambda t: odd_strides(lay_out(t, "channels_last")),
    "misaligned odd strides": lambda t: odd_strides(lay_out(t, "misaligned")),
    "a plane": lambda t: plane(t, 0), "a misaligned plane": lambda t: plane(t, 1), "one byte off": lambda t: shifted(t),
    "one byte off, channels_last": lambda t: shifted(t.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)}


def plane(t, offset):
    """A channels_last picture [N, C, D, H] that has become a volume: the stride of W is 1."""
    n, c, d, h, w = t.shape
    values = t[..., 0].permute(0, 2, 3, 1).reshape(-1)
    memory = torch.zeros(len(values) + offset, dtype=t.dtype, device=t.device)
    memory[offset:] = values
    return memory[offset:].view(n, d, h, c).permute(0, 3, 1, 2).unsqueeze(-1)


def shifted(t):
    """At an address that is no multiple of an element: torch.frombuffer makes such."""
    memory = bytearray(t.numel() * t.itemsize + 32)
    start = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
    return torch.frombuffer(memory, dtype=t.dtype, count=t.numel(), offset=17 - start % 16).view(t.shape).copy_(t)


def faults(d) -> list[str]:
    """What cuTensorMapEncodeTiled would refuse of a descriptor, and what of the tensor's memory it reaches beyond."""
    item, base = d.base.element_size(), d.base
    found = ["address"] * (base.data_ptr() % 16 != 0)
    found += ["strides"] * any(s % (16 // item) or not 0 < s * item < 2**40 for s in d.strides[:-1])
    found += ["unit stride"] * (d.strides[-1] != 1) + ["shape"] * (not all(0 < n <= 2**32 for n in d.shape))
    found += ["block"] * (max(d.block_shape) > 256 or d.block_shape[-1] * item % 16 != 0)
    reached = sum((n - 1) * s for n, s in zip(d.shape, d.strides))
    return found + ["extent"] * (reached >= tensors.extent(base))


@pytest.fixture
def described(monkeypatch):
    """The descriptors that launches make; nothing runs."""
    seen = []

    def launched(record, index, tensors):
        given = record.pick(tensors)
        seen.extend(describe(t) for describe, t in zip(binding.descriptors(record.given, given), given))
    monkeypatch.setattr(binding.Record, "launch", launched)
    return seen


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("direction", ["forward", "grad_input"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_descriptors_are_what_the_hardware_takes(view, direction, dtype, described):
    made = 0
    for n, c, size, layer in itertools.product((1, 2), CHANNELS, SIZES, KERNELS):
        one = case("", n=n, ci=c, co=c, in_size=size, **layer)
        shape = one.shapes.x if direction == "forward" else one.shapes.y
        if "plane" in view and shape[-1] > 1 or 0 in shape:
            continue
        gathered = VIEWS[view](torch.zeros(shape, dtype=dtype))
        written = tensors.empty(one.shapes.y if direction == "forward" else one.shapes.x, gathered)
        x, y = (gathered, written) if direction == "forward" else (written, gathered)
        for w in (torch.empty(one.shapes.w, dtype=dtype), lay_out(torch.zeros(one.shapes.w, dtype=dtype), "channels_last")):
            problem = tensors.problem_of(direction, x, w, y, Epilogue(), one.stride, one.padding, one.dilation, 1, "ieee")
            tried = search.sensible(problem, H200, DESCRIBED)
            boxes = {(c.box, c.block_m, c.block_n, c.block_k, c.copy): c for c in tried if c.path == "descriptor"}
            for config in boxes.values():
                launch.run(launch.bind(plan.plan(problem, H200, config)), x, w, y)
                made += 1
    assert len(described) == made
    assert not [(d, wrong) for d in described if (wrong := faults(d))]


@pytest.mark.parametrize("view", VIEWS)
def test_descriptors_of_a_walking_weight_gradient(view, described):
    for n, c, size, layer in itertools.product((1, 2), (24, 32), SIZES, (dict(padding=1), dict(kernel=4, stride=2, padding=1))):
        one = case("", n=n, ci=c, co=32, in_size=size, **dict(kernel=3) | layer)
        if "plane" in view and max(size[-1], one.shapes.y[-1]) > 1 or 0 in one.shapes.y:
            continue
        x, y = (VIEWS[view](torch.zeros(shape, dtype=torch.float16)) for shape in (one.shapes.x, one.shapes.y))
        w = torch.empty(one.shapes.w, dtype=torch.float16)
        problem = tensors.problem_of("grad_weight", x, w, y, Epilogue(), one.stride, one.padding, one.dilation, 1, "ieee")
        config = Config("walk", 64, 32, 64, 4, 2, box=(1, 8, 8), taps=weight_walks.WAYS[1])
        if fits(config, problem, H200) is None:
            launch.run(launch.bind(plan.plan(problem, H200, config)), x, w, y)
    assert described or view not in ("channels_last", "concatenated_channels_last", "odd strides, channels_last")
    assert not [(d, wrong) for d in described if (wrong := faults(d))]


def test_places_in_a_row_are_one_descriptor():
    """Kernel = stride reads each input once, so its places need no axes."""
    problem = Problem.of_layer(n=2, ci=64, co=32, in_size=8, kernel=2, stride=2, layout="channels_last")
    found = launch.plan(problem, H200, Config("descriptor", 128, 64, 32, 4, 3, (True,) * 3)).schedule.main
    memory = lay_out(torch.zeros(2, 64, 8, 8, 8, dtype=torch.float16), "channels_last")
    x, = (describe(memory) for describe in binding.descriptors(found, (memory,)))
    assert (list(x.shape), list(x.strides), list(x.block_shape)) == ([2 * 8**3, 64], [64, 1], [64, 32])
    assert list(found.grid) == [1024 // 64 * (8 * 32 // 128), 1, 1]


@pytest.mark.parametrize("view, even", (("channels_first", True), ("concatenated", True), ("odd strides", True), ("sliced", False),
                                        ("misaligned", False), ("transposed", False), ("expanded", False)))
def test_a_weight_gradient_is_even_where_planes_of_both_are(view, even):
    one = case("", n=2, ci=16, co=32, in_size=(2, 4, 6), kernel=2, stride=2)
    w = torch.empty(one.shapes.w, dtype=torch.float16)
    for odd in range(2):  # the one, or the other, lies so
        x, y = (VIEWS[view if i == odd else "channels_first"](torch.zeros(shape, dtype=torch.float16))
                for i, shape in enumerate((one.shapes.x, one.shapes.y)))
        problem = tensors.problem_of("grad_weight", x, w, y, Epilogue(), one.stride, one.padding, one.dilation, 1, "tf32")
        assert problem.even == even


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_descriptors_of_a_weight_gradient_by_clusters(view, dtype, described):
    layers = *KERNELS[1:], dict(kernel=3, stride=2, padding=1, output_padding=1)
    for n, c, size, layer in itertools.product((1, 2), (16, 48), ((1, 1, 16), (2, 2, 8), (1, 4, 6), (2, 3, 4)), layers):
        one = case("", n=n, ci=c, co=32, in_size=size, **layer)
        if "plane" in view or 0 in one.shapes.y:
            continue
        x, y = (VIEWS[view](torch.zeros(shape, dtype=dtype)) for shape in (one.shapes.x, one.shapes.y))
        w = torch.empty(one.shapes.w, dtype=dtype)
        problem = tensors.problem_of("grad_weight", x, w, y, Epilogue(), one.stride, one.padding, one.dilation, 1, "tf32")
        for n, way in itertools.product((128, 64), ("programs", "columns")):
            config = Config("pair", 128, n, 32, 4, 2, taps=(way,) * 3)
            if fits(config, problem, H200) is None:
                launch.run(launch.bind(plan.plan(problem, H200, config)), x, w, y)
    assert described or view not in ("channels_first", "concatenated", "odd strides")
    assert not [(d, wrong) for d in described if (wrong := faults(d))]


@pytest.mark.parametrize("n, channels, size, layer", [
    (1, 32, (1, 1, 1), dict(kernel=4, padding=1)), (2, 32, (1, 1, 1), dict(kernel=2)), (1, 10, (1, 1, 1), dict(kernel=2)),
    (2, 24, (1, 2, 1), dict(kernel=4, padding=1))], ids=str)
@pytest.mark.parametrize("view", ["misaligned", "misaligned_channels_last", "misaligned odd strides",
                                  "odd strides, channels_last", "a misaligned plane"])
def test_results_and_gradients_in_such_memory(n, channels, size, layer, view, device):
    """In and out: the gradient comes in the same kind of memory. But for 10, these are channels enough for tensor cores, and so
    for descriptors, in either memory format."""
    one = case("", n=n, ci=channels, co=channels, in_size=size, stride=2, **layer)
    t = one.tensors(torch.float16, device=device)
    x, w = VIEWS[view](t.x).requires_grad_(), t.w.requires_grad_()
    y = conv_transpose3d(x, w, None, one.stride, one.padding, backend="triton")
    exact = reference.conv_transpose3d(t.x, t.w, **one.geometry, out_size=one.out_size)
    assert_exact(y.detach().cpu(), exact.detach().cpu())
    dz = t.dz if "plane" in view else VIEWS[view](t.dz)
    dx, dw = torch.autograd.grad(y, (x, w), dz)
    assert_exact(dx.cpu(), reference.grad_input(t.dz, t.w.detach(), **one.geometry, in_size=size).cpu())
    assert_exact(dw.cpu(), reference.grad_weight(t.x, t.dz, **one.geometry, kernel=one.kernel).cpu())
