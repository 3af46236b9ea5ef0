"""What a user of DTensors meets: modules, other layers around, PyTorch's own rule, refusals, a rank that is lost."""

import os
import re
import time

import pytest
import torch
import torch.nn.functional as F
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor import init_device_mesh

import triton_conv3dt as t3
from ranks import Ranks, interpreted
from sharded import mesh_of
from triton_conv3dt.launching import launch
from triton_conv3dt.sharding import exchange

X, W = (1, 2, 5, 3, 2), (2, 3, 3, 3, 3)


def integers(*shape):
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(sum(shape))).float()


def split(t, *placements, sizes=(2,)):
    return distribute_tensor(t, mesh_of(sizes), placements)


def modules():
    """A decoder in which nothing calls us by name, and what its gradients are without and with shards."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.ConvTranspose3d(2, 4, 3, 2, 1, 1), torch.nn.ReLU(),
                              torch.nn.ConvTranspose3d(4, 2, 4, 2, 1), torch.nn.LeakyReLU(0.25)).double()
    for p in net.parameters():
        p.data = integers(*p.shape).double()
    t3.nn.convert(net)
    x = integers(*X).double()
    expected = net(x)
    whole = torch.autograd.grad(expected, list(net.parameters()), torch.ones_like(expected))
    distribute_module(net, mesh_of((2,)))
    y = net(split(x, Shard(2)))
    assert y.placements == (Shard(2),) and torch.equal(y.full_tensor(), expected)
    found = torch.autograd.grad(y, list(net.parameters()), torch.ones_like(y))
    for gradient, other in zip(found, whole):
        assert gradient.placements == (Replicate(),) and torch.equal(gradient.to_local(), other)


def data_parallel(kind):
    """A mesh of two axes: FSDP or DDP has the batch, the layers the volume. Averaged over two samples, gradients halve.
    """
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "space"))
    net = torch.nn.Sequential(t3.nn.ConvTranspose3d(2, 4, 3, 2, 1, 1, activation="relu"),
                              t3.nn.ConvTranspose3d(4, 2, 4, 2, 1)).double()
    for p in net.parameters():
        p.data = integers(*p.shape).double()
    x = integers(2, *X[1:]).double()
    expected = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    distribute_module(net, mesh["space"])
    if kind == "fsdp":
        for one in net:  # whose parameters are gathered for its forward and again for its backward
            torch.distributed.fsdp.fully_shard(one, mesh=mesh["data"])
        net = torch.distributed.fsdp.fully_shard(net, mesh=mesh["data"])
    else:
        net = torch.nn.parallel.DistributedDataParallel(net, device_mesh=mesh["data"])
    parameters = list(net.parameters())
    sample = x[mesh.get_local_rank("data")][None]
    net(distribute_tensor(sample, mesh["space"], [Shard(2)])).sum().full_tensor().backward()
    for p, other in zip(parameters, expected, strict=True):
        found = p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
        assert torch.equal(2 * found, other)


def surfaces():
    x, w, b = integers(*X), integers(*W), integers(3)
    sx, sw, sb = split(x, Shard(2)), split(w, Replicate()), split(b, Replicate())
    expected = t3.conv_transpose3d(x, w, b, 2, 1)
    named = t3.distributed.conv_transpose3d(sx, sw, sb, stride=2, padding=1)
    assert torch.equal(named.full_tensor(), expected)
    called = t3.conv_transpose3d(sx, sw, sb, 2, 1, activation=lambda t: t * 2)
    assert isinstance(called, DTensor) and torch.equal(called.full_tensor(), expected * 2)
    last = t3.conv_transpose3d(split(x.contiguous(memory_format=torch.channels_last_3d), Shard(2)), sw, sb, 2, 1)
    assert torch.equal(last.full_tensor(), expected)
    assert last.stride() == expected.contiguous(memory_format=torch.channels_last_3d).stride()
    with torch.autocast("cpu", torch.bfloat16):
        low = t3.conv_transpose3d(sx, sw, sb, 2, 1)
    assert low.dtype == torch.bfloat16 and torch.equal(low.full_tensor(), expected.bfloat16())
    value, kernel = x.movedim(1, -1), w.permute(2, 3, 4, 1, 0)
    keras = dict(output_shape=(1, 10, 6, 4, 3), strides=2)
    same = t3.tf.conv3d_transpose(split(value, Shard(1)), split(kernel, Replicate()), **keras)
    assert torch.equal(same.full_tensor(), t3.tf.conv3d_transpose(value, kernel, **keras))
    skip = integers(*expected.shape).double()
    joined = t3.conv_transpose3d(sx, sw, sb, 2, 1, concat=split(skip, Shard(2)), concat_first=True)
    assert joined.dtype == torch.float64 and torch.equal(joined.full_tensor(), torch.cat((skip, expected), 1))
    lazily = split(x, Shard(3)).redistribute(placements=[Shard(2)], async_op=True)  # is waited for
    assert torch.equal(t3.conv_transpose3d(lazily, sw, sb, 2, 1).full_tensor(), expected)


def compiled():
    layer = t3.nn.ConvTranspose3d(2, 3, 3, 2, 1)
    distribute_module(layer, mesh_of((2,)))
    x = split(integers(*X), Shard(2)).requires_grad_()
    results = [f(x) for f in (layer, torch.compile(layer, backend="eager"))]
    gradients = [torch.autograd.grad(y, (x, layer.weight), torch.ones_like(y)) for y in results]
    for found, expected in zip((results[1], *gradients[1]), (results[0], *gradients[0])):
        assert torch.equal(found.full_tensor(), expected.full_tensor())


def changed():
    """What is kept for derivatives and changed before them is an error, as it is with plain tensors."""
    x, w = split(integers(*X), Shard(2)), split(integers(*W), Replicate()).requires_grad_()
    for activation, change in (("relu", "result"), (None, "result"), (None, "input")):
        given = x.clone()
        y = t3.conv_transpose3d(given, w, None, 2, 1, activation=activation)
        (given if change == "input" else y).mul_(2)
        if activation or change == "input":
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                torch.autograd.grad(y, w, torch.ones_like(y))
        else:
            torch.autograd.grad(y, w, torch.ones_like(y))


class Logged:
    """Work that logs when it is waited for."""

    def __init__(self, work, events):
        self.work, self.events = work, events

    def wait(self):
        self.events.append("wait")
        self.work.wait()


def overlapped() -> list[str]:
    """What happens in which order on a rank with two neighbours, forward and backward."""
    events, begin = [], exchange.Link.begin

    def logged(link, flat):
        events.append("begin")
        work, arrived = begin(link, flat)
        return Logged(work, events), arrived

    def product(*args, **kwargs):
        events.append("product")
        return forward(*args, **kwargs)

    def gradients(*args, **kwargs):
        events.append("gradients")
        return backward(*args, **kwargs)

    x = split(integers(1, 1, 9, 1, 1), Shard(2), sizes=(3,)).requires_grad_()
    w = split(integers(1, 1, 3, 1, 1), Replicate(), sizes=(3,)).requires_grad_()
    forward, backward = launch.forward, launch.backward
    exchange.Link.begin, launch.forward, launch.backward = logged, product, gradients
    try:
        y = t3.conv_transpose3d(x, w, padding=(1, 0, 0), backend="triton")
        torch.autograd.grad(y, (x, w), torch.ones_like(y))
    finally:
        exchange.Link.begin, launch.forward, launch.backward = begin, forward, backward
    return events


def pytorchs_own():
    """Whether F.conv_transpose3d of the same DTensors raises or is wrong, for an ordinary and an upsampling layer."""
    found = []
    for stride, padding in ((1, 1), (2, 1)):
        x, w = integers(*X), integers(*W)
        expected = F.conv_transpose3d(x, w, None, stride, padding)
        sharded = split(x, Shard(2)), split(w, Replicate())
        try:
            y = F.conv_transpose3d(*sharded, None, stride, padding).full_tensor()
            found.append(y.shape != expected.shape or not torch.equal(y, expected))
        except Exception:
            found.append(True)
        assert torch.equal(t3.conv_transpose3d(*sharded, None, stride, padding).full_tensor(), expected)
    return found


def deterministic():
    """Gradients of the weight, of floats, from several runs: the same bits."""
    torch.manual_seed(0)
    x, w, b = torch.randn(X), torch.randn(W), torch.randn(3)
    operands = [split(t, p).requires_grad_() for t, p in ((x, Shard(2)), (w, Replicate()), (b, Replicate()))]
    results = []
    for _ in range(3):
        y = t3.conv_transpose3d(*operands, 2, 1, activation="gelu")
        results.append([g.to_local() for g in torch.autograd.grad(y.pow(2).sum(), operands)])
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))
    whole = [t.clone().requires_grad_() for t in (x, w, b)]
    expected = torch.autograd.grad(t3.conv_transpose3d(*whole, 2, 1, activation="gelu").pow(2).sum(), whole)
    torch.testing.assert_close(results[0][1:], list(expected[1:]), rtol=1e-5, atol=1e-4)
    return [t.tolist() for t in results[0][1:]]


def refusal(name) -> str:
    """The message of a call that must be refused."""
    x, w, b = integers(*X), integers(*W), integers(3)
    calls = {
        "channels": lambda: t3.conv_transpose3d(split(x, Shard(1)), split(w, Replicate())),
        "partial": lambda: t3.conv_transpose3d(DTensor.from_local(x, mesh_of((2,)), [Partial()]),
                                               split(w, Replicate())),
        "weight": lambda: t3.conv_transpose3d(split(x, Shard(2)), split(w, Shard(1))),
        "taps": lambda: t3.conv_transpose3d(split(x, Replicate()), split(w, Shard(2))),
        "groups": lambda: t3.conv_transpose3d(split(x, Replicate()), split(w, Shard(1)), groups=2),
        "bias": lambda: t3.conv_transpose3d(split(x, Shard(2)), split(w, Replicate()), split(b, Shard(0))),
        "plain": lambda: t3.conv_transpose3d(split(x, Shard(2)), w),
        "mesh": lambda: t3.conv_transpose3d(split(x, Shard(2)), split(w, Replicate(), Replicate(), sizes=(1, 2))),
        "residual": lambda: t3.conv_transpose3d(split(x, Shard(2)), split(w, Replicate()), padding=1,
                                                residual=split(integers(1, 3, 5, 3, 2), Shard(3))),
        "out": lambda: t3.conv_transpose3d(split(x, Shard(2)).requires_grad_(), split(w, Replicate()), padding=1,
                                           out=split(integers(1, 3, 5, 3, 2), Shard(2))),
        "concat": lambda: t3.conv_transpose3d(split(x, Replicate()), split(w, Shard(1)), padding=1,
                                              concat=split(integers(1, 1, 5, 3, 2), Replicate())),
        "shapes": lambda: t3.conv_transpose3d(split(x[:, :1], Shard(2)), split(w, Replicate())),
        "undistributed": lambda: t3.distributed.conv_transpose3d(x, w),
    }
    try:
        calls[name]()
    except RuntimeError as error:
        return str(error)
    return "taken"


REFUSED = {
    "channels": r"input .*\[Shard\(dim=1\)\].*input.redistribute\(placements=\[Replicate\(\)\]\)",
    "partial": r"input .*Partial.*input.redistribute\(placements=\[Replicate\(\)\]\)",
    "weight": r"weight .*the input has \[Shard\(dim=2\)\].*weight.redistribute\(placements=\[Replicate\(\)\]\)",
    "taps": r"weight .*\[Shard\(dim=2\)\].*Shard\(1\) \(output channels\)",
    "groups": r"weight .*groups=2",
    "bias": r"bias .*bias.redistribute\(placements=\[Replicate\(\)\]\)",
    "plain": r"input is a DTensor and weight a plain tensor.*distribute_module",
    "mesh": "have to be on the same mesh",
    "residual": r"residual .*residual.redistribute\(placements=\[Shard\(dim=2\)\]\)",
    "out": "don't support automatic differentiation",
    "concat": r"weight .*concatenated.*weight.redistribute\(placements=\[Replicate\(\)\]\)",
    "shapes": "expected input of size",
    "undistributed": "takes DTensors, and input is a Tensor",
}


@pytest.mark.parametrize("case", [modules, surfaces, compiled, changed], ids=lambda case: case.__name__)
def test_what_is_called_with_dtensors(worlds, case):
    worlds(2).run(case)


@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
def test_data_parallel_on_another_axis(worlds, kind):
    worlds(4).run(data_parallel, kind)


@interpreted
def test_what_needs_no_halo_is_computed_while_it_is_under_way(worlds):
    _, middle, _ = worlds(3).run(overlapped)
    assert middle == ["begin", "product", "wait", *["product"] * 2,  # two borders; and in reverse:
                      *["gradients"] * 2, "begin", "gradients", "wait"]


def test_pytorchs_rule_is_wrong_or_refuses_where_ours_is_right(worlds):
    for wrong in worlds(2).run(pytorchs_own):
        assert all(wrong), "PyTorch shards this right now: say so in docs/sharding.md"


def test_gradients_are_the_same_bits_on_every_run_and_rank(worlds):
    first, *others = worlds(3).run(with_ranks, 3)
    assert all(other == first for other in others)


def with_ranks(n):
    global split
    two = split
    split = lambda t, *placements: two(t, *placements, sizes=(n,))
    try:
        return deterministic()
    finally:
        split = two


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_would_work(worlds, name):
    for message in worlds(2).run(refusal, name):
        assert re.search(REFUSED[name], message), message


def lost(seconds):
    """The second rank leaves, at once or after some seconds, where the first waits for its planes."""
    x, w = split(integers(*X), Shard(2)), split(integers(*W), Replicate())
    if torch.distributed.get_rank():
        time.sleep(seconds)
        os._exit(1)
    begun = time.monotonic()
    try:
        t3.conv_transpose3d(x, w, None, 2, 1)
    except RuntimeError:
        return time.monotonic() - begun


@pytest.mark.parametrize("seconds", [0, 5])
def test_a_rank_that_is_lost_or_late_is_an_error_in_time(seconds):
    ranks = Ranks(2, timeout=2)
    try:
        (fine, waited), other = ranks.attempt(lost, seconds)
        assert fine and waited is not None and waited < 4.5, waited
    finally:
        ranks.close()
