"""Private names of PyTorch: one that disappears costs speed, and nothing else."""

import ast
import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import triton_conv3dt as t3
from triton_conv3dt import functional
from triton_conv3dt.ops import arguments, autograd, internals, schemas

# Not for speed: PyTorch's own tutorials on operators and on subclasses use them.
DOCUMENTED = {"_AutoDispatchBelowAutograd", "DisableTorchFunctionSubclass"}


class Lacking:
    """A module without some of its names; asked remembers which were looked for."""

    def __init__(self, module, lost=(), asked=None):
        self._given = module, lost, asked

    def __getattr__(self, name):
        module, lost, asked = self._given
        if asked is not None:
            asked.append(name)
        if name in lost:
            raise AttributeError(name)
        return getattr(module, name)


def loaded(monkeypatch, lost=(), asked=None):
    """internals.py as a PyTorch without these names would have it."""
    spec = importlib.util.find_spec(internals.__name__)
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "_C", Lacking(torch._C, lost, asked))
        patch.setattr(torch.autograd, "forward_ad", Lacking(torch.autograd.forward_ad, lost, asked))
        if "_profiler_enabled" in lost:
            patch.delattr(torch.autograd, "_profiler_enabled")
        spec.loader.exec_module(module)
    return module


def names() -> list[str]:
    asked = ["_profiler_enabled"]
    loaded(pytest.MonkeyPatch(), asked=asked)
    return sorted(set(asked) - {"AutocastCUDA", "AutocastCPU"})


NAMES = names()


@pytest.fixture
def without(monkeypatch, request):
    module = loaded(monkeypatch, request.param)
    for user in (arguments, autograd, functional, schemas):
        monkeypatch.setattr(user, "internals", module)
    monkeypatch.setattr(functional, "_calls", {})
    return module


each_name = pytest.mark.parametrize("without", [*((name,) for name in NAMES), tuple(NAMES)], indirect=True,
                                    ids=[*NAMES, "all"])


def test_names_are_found():
    assert {"_len_torch_dispatch_stack", "_current_level", "_is_any_autocast_enabled"} < set(NAMES)
    here = vars(internals)
    assert not {name for name, value in here.items() if value is internals._perhaps} - {"_perhaps"}


def layer(device):
    """x, w, our layer and PyTorch's."""
    x, w = (torch.randint(-3, 4, shape, dtype=torch.float32, device=device).requires_grad_()
            for shape in ((1, 1, 1, 2, 2), (1, 1, 1, 1, 1)))
    ours = lambda x, w: t3.conv_transpose3d(x, w, activation="silu", backend="triton", precision="ieee")
    return x, w, ours, lambda x, w: F.silu(F.conv_transpose3d(x, w))


@each_name
def test_a_call_and_its_derivatives_remain(without, device):
    x, w, ours, theirs = layer(device)
    y, expected = ours(x, w), theirs(x, w)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), (x, w)), torch.autograd.grad(expected.sum(), (x, w)))


@pytest.mark.parametrize("without", [tuple(NAMES)], indirect=True, ids=["all"])
def test_transforms_remain(without, device):
    x, w, ours, theirs = layer(device)
    assert without.has_dispatch_mode is without.is_wrapped is without._perhaps
    assert without.is_tracing is torch.jit.is_tracing
    expected = theirs(x, w)
    tangents = torch.ones_like(x), torch.ones_like(w)
    _, tangent = torch.func.jvp(ours, (x.detach(), w.detach()), tangents)
    torch.testing.assert_close(tangent, torch.func.jvp(theirs, (x.detach(), w.detach()), tangents)[1])
    torch.testing.assert_close(torch.vmap(ours, (0, None))(x[None].detach(), w.detach()), expected[None].detach())


@each_name
def test_autocast_and_out_remain(without, device):
    x, w = torch.ones(1, 2, 2, 2, 2, device=device), torch.ones(2, 1, 1, 1, 1, device=device)
    with torch.autocast(x.device.type, dtype=torch.float16):
        y = t3.conv_transpose3d(x, w, backend="triton")
        assert y.dtype == torch.float16 and torch.is_autocast_enabled(x.device.type)
        forward = getattr(torch.ops, schemas.NAMESPACE).forward
        z, _ = forward(x, w, None, None, (2,) * 3, (1,) * 3, (0,) * 3, (1,) * 3, 1, None, None, (), False)
        assert z.dtype == torch.float16
    out = torch.empty_like(y, dtype=x.dtype)
    t3.conv_transpose3d(x, w, out=out, backend="triton")
    assert torch.equal(out, y.float())
    with pytest.raises(RuntimeError, match="refer to a single place in memory"):
        t3.conv_transpose3d(x, w[:, :, :1].expand(2, 2, 1, 1, 1), out=x, backend="triton")


def test_they_stand_in_one_file():
    """Whoever else needs one gives it a public way, too."""
    for path in (Path(t3.__file__).parent).rglob("*.py"):
        tree = ast.parse(path.read_text())
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
                and ast.unparse(node.value) in ("_C", "torch._C")}
        used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "torch._C"
                 for alias in node.names}
        assert path.name == "internals.py" or used <= DOCUMENTED, f"{path.name}: {used - DOCUMENTED}"
