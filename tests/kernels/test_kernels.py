"""Every launch against the definition. Integers: the exact result rounded once, bit for bit, whatever the tile,
the layout, the path or the dtype. Here without a GPU the kernels run in Triton's interpreter."""

import math
import random
from dataclasses import replace

import pytest
import torch

from cases import CORPUS, layer_classes, sample
from launched import check, use
from layouts import LAYOUTS, RedZone, lay_out
from tolerances import assert_exact, assert_smooth
from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch, tensors
from triton_conv3dt.planning import search
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.activations import ACTIVATIONS, Activation
from triton_conv3dt.problems.problem import DIRECTIONS, PRECISIONS, Problem

HAS_GPU = torch.cuda.is_available()
FORMATS = ("channels_first", "channels_last")
EXOTIC = tuple(layout for layout in LAYOUTS if layout not in FORMATS)
# The interpreter keeps bfloat16 as 16-bit integers: its products are not those of the numbers, and it truncates.
SIXTEEN = (torch.float16, torch.bfloat16) if HAS_GPU else (torch.float16,) * 2
SETTINGS = tuple((FORMATS[i % 2], dtype) for i, dtype in enumerate(  # of one test in turn, so that all are met
    (torch.float32, torch.float16, torch.float16, torch.float32, SIXTEEN[1], SIXTEEN[1])))
QUARTER = Activation.of(("leaky_relu", 0.25))  # exact in every dtype
RELU = Activation.of("relu")
EPILOGUES = ((True, False, None), (False, True, RELU), (True, True, QUARTER), (False, False, None), (True, True, RELU),
             (False, False, QUARTER), (False, True, None))  # bias, residual, activation
BY_NAME = {case.name: case for case in CORPUS}
GATHERED = ("k2s2", "k3s2p1op1", "k4s2p1")
DIRECT = ("two groups", "depthwise k3s2")
RANDOM = sample(7, 12)[4:]
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def numbered(items):
    """Each with its place, which decides what else it is combined with."""
    return [pytest.param(i, item, id=str(item)) for i, item in enumerate(items)]


def in_turn(i, direction):
    """A layout, a dtype, an epilogue and a precision; neighbours in the corpus, and directions, get others."""
    i += DIRECTIONS.index(direction)
    return (*SETTINGS[i % len(SETTINGS)], EPILOGUES[i % len(EPILOGUES)], PRECISIONS[i % len(PRECISIONS)])


@each_direction
@pytest.mark.parametrize("i, case", numbered(CORPUS))
def test_corpus(i, case, direction, device):
    layout, dtype, epilogue, precision = in_turn(i, direction)
    check(direction, case, case.tensors(dtype, layout, device=device), epilogue, precision)


@pytest.mark.parametrize("name", [case.name for case in CORPUS if case.name.startswith("dense, ")])
def test_tensor_cores_meet_phases_without_taps(name):
    """What the corpus asks of the forward, in case the choice of paths changes."""
    case, device = BY_NAME[name], Device.named("nvidia_h200")
    problem = Problem.of_shape(case)
    assert search.default(problem, device).dense
    assert any(phase.taps == 0 for axis in problem.axes for phase in axis.phases())


@each_direction
@pytest.mark.parametrize("i, layer", numbered(layer_classes()))
def test_layers_of_networks(i, layer, direction, device):
    """Each class of real layers in the layout it was found in; the directions take turns, large kernels run forward."""
    turn = i % len(DIRECTIONS) if math.prod(layer.kernel) <= 64 else 0
    if turn != DIRECTIONS.index(direction):
        pytest.skip("another direction's turn")
    check(direction, layer, layer.tensors(in_turn(i, direction)[1], layer.layout, device=device), EPILOGUES[i % 7])


@each_direction
@pytest.mark.parametrize("i, case", numbered(RANDOM))
def test_random_problems(i, case, direction, device):
    layout, dtype, epilogue, precision = in_turn(i, direction)
    check(direction, case, case.tensors(dtype, layout, device=device), epilogue, precision)


@each_direction
@pytest.mark.parametrize("layout", EXOTIC)
@pytest.mark.parametrize("name", ("k2s2", "k3s2p1op1", *DIRECT))
def test_strides(name, layout, direction, device):
    """Views of every kind, among NaN that must not be read."""
    dtype = (torch.float16, torch.float32)[EXOTIC.index(layout) % 2]
    check(direction, BY_NAME[name], BY_NAME[name].tensors(dtype, layout, device=device), (True, True, RELU))


@pytest.mark.parametrize("name", ("k2s2", "two groups"))
def test_mixed_formats(name, device):
    """x, residual, dz and the weight need not agree on a memory format."""
    case = BY_NAME[name]
    first, last = (case.tensors(torch.float16, layout, device=device) for layout in FORMATS)
    first.residual, last.residual, last.w, first.w = last.residual, first.residual, first.w, last.w
    check("forward", case, first, (True, True, RELU))
    check("forward", case, last, (True, True, RELU))
    first.dz, last.dz = last.dz, first.dz
    check("grad_weight", case, first)
    check("grad_weight", case, last)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "expanded"])
@pytest.mark.parametrize("name", ("k2s2", "k3s2p1op1", "two groups", "TF SAME, odd output"))
def test_writes_into_out_and_nothing_else(name, layout, device):
    case = BY_NAME[name]
    i = LAYOUTS.index(layout) + len(name)
    dtype = (torch.float16, torch.float32)[i % 2]
    zone = RedZone(case.shapes.y, dtype, layout, device=device)
    check("forward", case, case.tensors(dtype, FORMATS[i // 2 % 2], device=device), EPILOGUES[i % 7], out=zone.view)
    zone.check()


@each_direction
@pytest.mark.parametrize("name", ("k2s2", "k3s2p1op1", "two groups"))
@pytest.mark.parametrize("layout", FORMATS)
def test_float64(layout, name, direction, device):
    case = BY_NAME[name]
    check(direction, case, case.tensors(torch.float64, layout, device=device), (True, True, QUARTER))


WEIGHTS = {
    "contiguous": lambda w: w.contiguous(),
    "channels_last_3d": lambda w: w.contiguous(memory_format=torch.channels_last_3d),
    "input channels last": lambda w: w.permute(2, 3, 4, 1, 0).contiguous().permute(4, 3, 0, 1, 2),
    "sliced": lambda w: lay_out(w, "sliced"),
    "misaligned": lambda w: lay_out(w, "misaligned"),
}


@each_direction
@pytest.mark.parametrize("order", WEIGHTS)
@pytest.mark.parametrize("name", ("k2s2", "k3s2p1op1", "anisotropic k=s, no power of two", "two groups"))
def test_weights(name, order, direction, device):
    case = BY_NAME[name]
    t = case.tensors(torch.float16, FORMATS[len(name) % 2], device=device)
    t.w = WEIGHTS[order](t.w)
    check(direction, case, t)


@pytest.mark.parametrize("view", ("strided", "expanded", "misaligned"))
@pytest.mark.parametrize("name", ("k2s2", *DIRECT))
def test_biases(name, view, device):
    case = BY_NAME[name]
    t = case.tensors(torch.float16, device=device)
    t.b = {"strided": torch.stack((t.b, t.b + 1), 1)[:, 0], "expanded": t.b[:1].expand(t.b.shape),
           "misaligned": torch.cat((t.b[:1] + 1, t.b))[1:]}[view]
    assert view == "misaligned" or not t.b.is_contiguous()
    check("forward", case, t, (True, False, None))


@pytest.mark.parametrize("direction", DIRECTIONS[:2])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("path", ("gather", "descriptor", "default"))
@pytest.mark.parametrize("name", ("k2s2", "k3s2p1op1", "k4s2p1", "k3s4 holes, cropped", "TF SAME k3"))
def test_nan_reaches_its_own_taps_alone(name, path, layout, direction, device, monkeypatch):
    """A tap that does not exist is left out, not multiplied by zero."""
    case = replace(BY_NAME[name], ci=16, co=16)
    t = case.tensors(torch.float32, layout, device=device)
    if path != "default":
        rng = random.Random(f"{name} {layout} {direction}")
        described = layout == "channels_last" and not any(o % s for o, s in zip(case.out_size, case.stride))
        use(monkeypatch, random_config(rng, paths=(path if described else "gather",)))
    for tensor in (t.x, t.dz):
        for value in (math.nan, math.inf):
            tensor[tuple(random.randrange(size) for size in tensor.shape)] = value
    given = dict(**case.geometry)
    if direction == "forward":
        found, _ = launch.forward(t.x, t.w, None, None, **given, out_size=case.out_size, activation=None, precision="ieee")
        exact = reference.conv_transpose3d(t.x.cpu(), t.w.cpu(), **given, out_size=case.out_size)
    else:
        found = launch.grad_input(t.dz, t.w, **given, in_size=case.in_size, precision="ieee")
        exact = reference.grad_input(t.dz.cpu(), t.w.cpu(), **given, in_size=case.in_size)
    assert torch.equal(found.cpu().isfinite(), exact.isfinite())


def test_a_residual_out_of_a_huge_tensor(device):
    """Offsets are as wide as the farthest of all operands asks for."""
    case = BY_NAME["batch of three"]
    t = case.tensors(torch.float16, device=device)
    apart = torch.empty(2**31 + 2**16, dtype=torch.float16, device=device)  # of which a few pages are touched
    strides = (2**30, *t.residual.stride()[1:])
    t.residual = apart.as_strided(t.residual.shape, strides).copy_(t.residual)
    check("forward", case, t, (True, True, RELU))


def random_config(rng, paths=("gather", "descriptor", "direct")):
    """A chooser in place of search.default: small tiles of one of the paths, any merged axes that fit the problem."""
    def choose(problem, device):
        while True:
            path = rng.choice(paths)
            if path == "direct" and problem.direction == "grad_weight" and problem.taps > 27:
                continue  # a program for every tap and channel: more than the interpreter bears
            if path == "direct":
                tried = Config("direct", rng.choice((16, 32)), rng.choice((32, 64)))
            else:
                blocks = (rng.choice((16, 32, 64)), rng.choice((16, 32)), rng.choice((16, 32)))
                merge = tuple(rng.random() < 0.5 for _ in range(3)) if problem.direction == "forward" else (False,) * 3
                d, h = rng.choice((1, 1, 2)), rng.choice((1, 2, 4))
                box = rng.choice(((d, h, blocks[1] // (d * h)), (0, 0, 0))) if path == "descriptor" else (0, 0, 0)
                tried = Config(path, *blocks, merge=merge, box=box)
            tried = replace(tried, shares=rng.choice((1, 2, 5)) if problem.direction == "grad_weight" else 1)
            if fits(tried, problem, device) is None:
                return tried
    return choose


@each_direction
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("name", (*GATHERED, "k3s4 holes, cropped", "TF SAME, odd output", "channels 17 and 7",
                                  "two groups, k=s"))
def test_any_config_computes_the_same(name, layout, direction, device, monkeypatch):
    rng = random.Random(f"{name} {layout} {direction}")
    use(monkeypatch, random_config(rng))
    t = BY_NAME[name].tensors(torch.float16, layout, device=device)
    check(direction, BY_NAME[name], t, (True, True, RELU))


def described():
    """The corpus with channels enough for a descriptor, wherever one can see what is gathered."""
    for case in CORPUS:
        groups = case.groups if case.groups == 2 else 1
        wide = replace(case, ci=16 * groups, co=16 * groups, groups=groups)
        if case.n:
            yield wide, "forward"
            if not any(out % s for out, s in zip(case.out_size[1:], case.stride[1:])):
                yield wide, "grad_input"


@pytest.mark.parametrize("i, asked", [pytest.param(i, asked, id=f"{asked[0]}, {asked[1]}")
                                      for i, asked in enumerate(described())])
def test_descriptors(i, asked, device, monkeypatch):
    """Every form of descriptor, of dense tensors and of channel slices, whose margins are NaN."""
    (case, direction), used = asked, []
    choose = random_config(random.Random(i), paths=("descriptor",))
    use(monkeypatch, lambda problem, device: used.append(choose(problem, device)) or used[-1])
    layout = ("channels_last", "concatenated_channels_last")[i % 2]
    dtype = (torch.float16, torch.float32)[i // 2 % 2]
    check(direction, case, case.tensors(dtype, layout, device=device), EPILOGUES[i % 7])
    assert [config.path for config in used] == ["descriptor"]


@each_direction
@pytest.mark.parametrize("name", ("k3s2p1op1", "two groups"))
def test_offsets_of_64_bits(name, direction, device, monkeypatch):
    monkeypatch.setattr(launch, "_records", {})
    monkeypatch.setattr(tensors, "extent", lambda t: 2**31)
    check(direction, BY_NAME[name], BY_NAME[name].tensors(torch.float32, device=device))


@each_direction
@pytest.mark.parametrize("name", ("k3s2p1op1", "depthwise k3s2"))
def test_two_runs_are_equal(name, direction, device, monkeypatch):
    """With data whose sum depends on the order, and with the reduction over positions shared."""
    case, default = BY_NAME[name], search.default
    shared = lambda problem: problem.direction == "grad_weight"
    use(monkeypatch, lambda problem, device: replace(default(problem, device), shares=3 if shared(problem) else 1))
    t = case.tensors(torch.float32, device=device)
    for tensor in (t.x, t.w, t.dz):
        tensor.copy_(torch.randn(tensor.shape))
    given = dict(**case.geometry, precision="ieee")
    run = {"forward": lambda: launch.forward(t.x, t.w, t.b, None, **given, out_size=case.out_size, activation=None)[0],
           "grad_input": lambda: launch.grad_input(t.dz, t.w, **given, in_size=case.in_size),
           "grad_weight": lambda: launch.grad_weight(t.x, t.dz, **given, kernel=case.kernel, strides=t.w.stride()),
           }[direction]
    assert torch.equal(run(), run())
    assert torch.equal(launch.grad_bias(t.dz), launch.grad_bias(t.dz))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (*SIXTEEN, torch.float32, torch.float64))
def test_grad_bias(dtype, layout, device):
    for shape in ((3, 37, 2, 7, 9), (2, 1, 1, 1, 3), (0, 5, 2, 2, 2), (1, 3, 4, 0, 2)):
        dz = lay_out(torch.randint(-7, 8, shape).to(device=device, dtype=dtype), layout)
        db = launch.grad_bias(dz)
        assert db.dtype == dtype and db.shape == shape[1:2]
        assert_exact(db.cpu(), dz.double().sum((0, 2, 3, 4)).cpu())


def fractions(shape, dtype, device, bound=4):
    """Multiples of a quarter, exact in every dtype and in every sum of a few products."""
    return (torch.randint(-bound, bound + 1, shape) / 4).to(device=device, dtype=dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.float32))
@pytest.mark.parametrize("case", [BY_NAME["k2s2"], BY_NAME["two groups"]], ids=str)
def test_activation_and_what_is_kept_for_it(case, dtype, name, device):
    """y comes from the accumulator, not from the rounded pre-activation beside it."""
    activation, shapes = Activation.of(name), case.shapes
    x, w, b, residual = (fractions(shape, dtype, device, bound=2) for shape in vars(shapes).values())
    x = x.contiguous(memory_format=torch.channels_last_3d) if dtype == torch.float16 else x
    given = dict(**case.geometry, out_size=case.out_size)
    y, pre = launch.forward(x, w, b, residual, **given, activation=activation, precision="ieee", keep_pre=True)
    z = reference.conv_transpose3d(x, w, b, residual, **given).cpu()
    assert_exact(pre.cpu(), z)
    assert pre.stride() == y.stride()
    assert_smooth(y.cpu(), reference.activation(z, name, activation.parameters), stride=case.stride)
    alone, nothing = launch.forward(x, w, b, residual, **given, activation=activation, precision="ieee")
    assert nothing is None and torch.equal(alone, y)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.float32))
def test_activation_grad(dtype, name, device):
    activation, shape = Activation.of(name), (2, 5, 3, 4, 7)
    for i, layout in enumerate(LAYOUTS):
        saved = lay_out(fractions(shape, dtype, device, bound=24), LAYOUTS[(i + i // 2) % 2])
        if activation.derivative_from == "output":
            saved = reference.activation(saved, name, activation.parameters)
        dy = lay_out(fractions(shape, dtype, device), layout)
        dz = launch.activation_grad(dy, saved, activation)
        assert dz.dtype == dtype and dz.is_contiguous(memory_format=tensors.memory_format(saved))
        slope = reference.activation_derivative(saved.double(), name, activation.parameters)
        assert_smooth(dz.cpu(), (dy.double() * slope).cpu())
    empty = torch.empty((0, *shape[1:]), dtype=dtype, device=device)
    assert launch.activation_grad(empty, empty, activation).shape == empty.shape


def test_nothing_to_compute(device):
    """Sizes of zero: results of the right shape, zeros where a sum is over nothing."""
    case = BY_NAME["empty batch"]
    t = case.tensors(torch.float32, device=device)
    assert check("forward", case, t).numel() == 0 == check("grad_input", case, t).numel()
    assert not check("grad_weight", case, t).any()
    none = replace(BY_NAME["k2s2"], ci=0)
    t = none.tensors(torch.float32, device=device)
    assert check("forward", none, t, (True, False, None)).shape == none.shapes.y
    assert check("grad_weight", none, t).numel() == 0 == math.prod(none.shapes.x)
