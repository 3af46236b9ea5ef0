"""On a GPU: captured graphs, streams and repetition change no bit."""

import pytest
import torch

import triton_conv3dt as t3

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last_3d), ids=str)
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


def test_twenty_runs_give_the_same_bits():
    x = torch.randn(2, 64, 24, 20, 28, device="cuda", dtype=torch.float16, requires_grad=True)
    w = torch.randn(64, 32, 3, 3, 3, device="cuda", dtype=torch.float16, requires_grad=True)
    results = []
    for _ in range(20):
        y = t3.conv_transpose3d(x, w, None, 2, 1, 1, activation="silu", backend="triton")
        results.append((y, *torch.autograd.grad(y.float().square().sum(), (x, w))))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))
