"""On a GPU: what the interpreter cannot show. bf16, tensor-core precisions, asynchronous copies, more than 2**31 elements.

One command runs them where a GPU is: PYTHONPATH=. python -m pytest -m gpu --require-gpu tests
"""

import pytest
import torch
from cases import CORPUS, layer_classes
from compile_rows import LAYERS
from layouts import RedZone
from test_backward import small
from tolerances import assert_exact

import triton_conv3dt as t3
from triton_conv3dt import binding, device, launch, operands, reference, search
from triton_conv3dt.problem import BACKWARD, DIRECTIONS, Problem

pytestmark = pytest.mark.gpu
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def products(case, t, precision):
    """The three products of a case and their exact values."""
    geometry = case.geometry
    y, _ = launch.forward(t.x, t.w, t.b, t.residual, **geometry, out_size=case.out_size, activation=None,
                          precision=precision)
    dx = launch.grad_input(t.dz, t.w, **geometry, in_size=case.in_size, precision=precision)
    dw = launch.grad_weight(t.x, t.dz, **geometry, kernel=case.kernel, precision=precision, strides=t.w.stride())
    x, w, b, residual, dz = (v.cpu() for v in (t.x, t.w, t.b, t.residual, t.dz))
    return ((y, reference.conv_transpose3d(x, w, b, residual, **geometry, out_size=case.out_size)),
            (dx, reference.grad_input(dz, w, **geometry, in_size=case.in_size)),
            (dw, reference.grad_weight(x, dz, **geometry, kernel=case.kernel)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "sliced", "misaligned_channels_last"])
@pytest.mark.parametrize("case", [*CORPUS, *layer_classes()], ids=str)
def test_integers_come_out_exactly(case, layout, dtype):
    for precision in ("tf32", "tf32x3", "ieee") if dtype is torch.float32 else ("tf32",):
        for actual, exact in products(case, case.tensors(dtype, layout, device="cuda"), precision):
            assert_exact(actual.cpu(), exact)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("name", ["k2s2", "k3s2p1op1", "two groups, k=s", "depthwise k3s2"])
def test_small_cases_of_every_kernel(name, layout, monkeypatch):
    """What `make gpu-sanitize` runs: every kernel and every form of reading, on little memory."""
    case = next(case for case in CORPUS if case.name == name)
    t = case.tensors(torch.float16, layout, device="cuda")
    for actual, exact in products(case, t, "tf32"):
        assert_exact(actual.cpu(), exact)
    monkeypatch.setattr(launch, "_records", {})
    monkeypatch.setattr(search, "one_pass", small)
    dx, dw, db = launch.backward(t.dz, t.x, t.w, None, True, t.w.stride(), case.stride, case.padding, case.dilation,
                                 case.groups, "tf32", None)
    assert_exact(db.cpu(), t.dz.double().sum((0, 2, 3, 4)).cpu())


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_the_surroundings_of_an_output_survive(layout):
    for case in CORPUS:
        if 0 in case.shapes.y:
            continue
        t = case.tensors(torch.float16, layout, device="cuda")
        zone = RedZone(case.shapes.y, torch.float16, f"concatenated_{layout}".replace("_channels_first", ""), device="cuda")
        launch.forward(t.x, t.w, t.b, None, **case.geometry, out_size=case.out_size, activation=None, precision="tf32",
                       out=zone.view)
        zone.check()


def test_twenty_runs_give_the_same_bits():
    x = torch.randn(2, 64, 24, 20, 28, device="cuda", dtype=torch.float16, requires_grad=True)
    w = torch.randn(64, 32, 3, 3, 3, device="cuda", dtype=torch.float16, requires_grad=True)
    results = []
    for _ in range(20):
        y = t3.conv_transpose3d(x, w, None, 2, 1, 1, activation="silu", backend="triton")
        results.append((y, *torch.autograd.grad(y.float().square().sum(), (x, w))))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_more_than_two_to_the_31_elements(layout):
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB")
    x = torch.randint(-3, 4, (1, 32, 256, 256, 150), device="cuda", dtype=torch.float16).contiguous(memory_format=layout)
    w = torch.randint(-3, 4, (32, 32, 2, 2, 2), device="cuda", dtype=torch.float16)
    y = t3.conv_transpose3d(x, w, None, 2, backend="triton")
    assert y.numel() > 2**31
    for d, h, v in ((0, 0, 0), (255, 255, 149), (218, 113, 77), (128, 0, 149)):  # corners and either side of 2**31
        exact = torch.einsum("c,cokji->okji", x[0, :, d, h, v].double(), w.double())
        assert torch.equal(y[0, :, 2 * d:2 * d + 2, 2 * h:2 * h + 2, 2 * v:2 * v + 2].double(), exact)


@pytest.mark.parametrize("way", ("one pass", "separate products"))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_gradients_of_a_sample_of_more_than_two_to_the_31_elements(layout, way, monkeypatch):
    """The last channels of dy lie beyond 2**31 where channels come first, the last rows where they come last."""
    if torch.cuda.mem_get_info()[0] < (least := 20 * 2**30):
        pytest.skip(f"needs {least / 2**30:.0f} GiB of free memory, {torch.cuda.mem_get_info()[0] / 2**30:.1f} are")
    if way == "one pass" and not device.current().warpgroups:
        pytest.skip("there is no one pass without warpgroups")
    ci, co, size = 32, 16, 264
    assert (co - 1) * (2 * size) ** 3 > 2**31
    x = torch.randint(-1, 2, (1, ci, *(size,) * 3), device="cuda", dtype=torch.float16).contiguous(memory_format=layout)
    w = torch.randint(-3, 4, (ci, co, 2, 2, 2), device="cuda", dtype=torch.float16)
    dy = torch.randint(-1, 2, (1, co, *(2 * size,) * 3), device="cuda", dtype=torch.float16).contiguous(memory_format=layout)
    monkeypatch.setattr(launch, "_records", {})
    if way == "separate products":
        monkeypatch.setattr(search, "one_pass", lambda problem, device: None)
    dx, dw, db = launch.backward(dy, x, w, None, True, w.stride(), (2,) * 3, (0,) * 3, (1,) * 3, 1, "tf32", None)
    taken = [r.plan.problem.direction for r in launch._records.values() if r is not None]
    assert (BACKWARD in taken) == (way == "one pass")
    for d, h, v in ((0, 0, 0), (size - 1,) * 3, (size - 1, 0, 77), (131, size - 1, 5), (240, 17, size - 1)):
        seen = dy[0, :, 2 * d:2 * d + 2, 2 * h:2 * h + 2, 2 * v:2 * v + 2]
        assert torch.equal(dx[0, :, d, h, v], torch.einsum("okji,cokji->c", seen.double(), w.double()).half())
    for i, o, tap in ((0, 0, (0, 0, 0)), (ci - 1, co - 1, (1, 1, 1)), (5, co - 1, (0, 1, 0)), (ci - 1, co - 2, (1, 0, 1))):
        seen = dy[0, o, tap[0]::2, tap[1]::2, tap[2]::2]
        assert dw[(i, o, *tap)] == (x[0, i].float() * seen.float()).sum(dtype=torch.float64).half()
    assert torch.equal(db, torch.stack([dy[0, o].sum(dtype=torch.float64) for o in range(co)]).half())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32"))
@pytest.mark.parametrize("name", LAYERS)
def test_sensible_configs_at_real_sizes(name, dtype, direction):
    """Tiles as they are used, pipelines that fill, every path: compilers have got kernels of this kind wrong."""
    problem = Problem.of_layer(direction, **LAYERS[name] | dict(dtype=dtype))
    given = operands.integers(problem, "cuda")
    truth = operands.exact(problem, given)
    for config in search.sensible(problem, device.current()):
        zone = operands.red_zone(problem, "cuda")
        tensors = dict(x=given.x, w=given.w, y=given.y) | {operands.written(problem): zone.view}
        record = binding.bind(launch.plan(problem, device.current(), config))
        launch.run(record, **tensors, b=given.b, residual=given.residual)
        zone.check(truth, operands.ulps(problem))


@pytest.mark.parametrize("activation", (None, "relu"))
@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last_3d))
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_one_pass_at_real_sizes(dtype, layout, activation):
    """All gradients at once are those of the separate products, whose integers are exact."""
    ci, co, size = 64, 32, 48
    integers = lambda *shape: torch.randint(-3, 4, shape, device="cuda").to(dtype)
    x = integers(2, ci, size, size, size).contiguous(memory_format=layout).requires_grad_()
    w = integers(ci, co, 2, 2, 2).contiguous(memory_format=layout).requires_grad_()
    b = integers(co).requires_grad_()
    y = t3.conv_transpose3d(x, w, b, 2, activation=activation, backend="triton")
    dy = torch.randint(-1, 2, y.shape, device="cuda").to(dtype).contiguous(memory_format=layout)
    separate = torch.autograd.grad(y, (x, w, b), dy, create_graph=True)
    together = torch.autograd.grad(y, (x, w, b), dy)
    taken = [r for r in launch._records.values() if r and r.plan.problem.direction == BACKWARD]
    assert taken or not device.current().warpgroups
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, separate))


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last_3d))
@pytest.mark.parametrize("kernel, padding", ((2, 0), (4, 1)))
def test_a_captured_graph_replays_on_new_values(kernel, padding, layout):
    """Nothing synchronises, allocates behind torch's back or looks at values."""
    normal = lambda *shape: torch.randn(shape, device="cuda", dtype=torch.float16).contiguous(memory_format=layout)
    x, w = normal(2, 32, 8, 8, 8).requires_grad_(), normal(32, 16, kernel, kernel, kernel).requires_grad_()

    def step():
        y = t3.conv_transpose3d(x, w, None, 2, padding, activation="relu", backend="triton")
        return y, *torch.autograd.grad(y, (x, w), torch.ones_like(y))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
        w.copy_(torch.randn_like(w))
    graph.replay()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(captured, step()))


def test_another_stream_and_a_busy_device_change_nothing():
    x = torch.randn(2, 64, 16, 16, 16, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(64, 32, 3, 3, 3, device="cuda", dtype=torch.bfloat16)
    alone = t3.conv_transpose3d(x, w, None, 2, 1, 1, backend="triton")
    busy, other = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    for _ in range(20):
        with torch.cuda.stream(busy):
            torch.mm(torch.ones(2048, 2048, device="cuda"), torch.ones(2048, 2048, device="cuda"))
        with torch.cuda.stream(other):
            assert torch.equal(t3.conv_transpose3d(x, w, None, 2, 1, 1, backend="triton"), alone)
