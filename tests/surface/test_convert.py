"""A model that exists is converted and reverted: which layers, what is kept, and what others then find."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import fx
from torch.nn.utils import parametrizations, parametrize

from triton_conv3dt import nn

X = 1, 2, 2, 2, 2


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.ConvTranspose3d(2, 3, 2, stride=2)
        self.again = self.up
        self.other = torch.nn.Sequential(torch.nn.Conv3d(3, 2, 1), torch.nn.ConvTranspose3d(2, 1, (1, 2, 2), (1, 2, 2)))
        self.parametrized = parametrizations.weight_norm(torch.nn.ConvTranspose3d(1, 1, 1))

    def forward(self, x):
        return self.parametrized(self.other(self.up(x)))


class Initialised(torch.nn.ConvTranspose3d):
    """A subclass with PyTorch's forward."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        torch.nn.init.ones_(self.weight)


class Activated(torch.nn.ConvTranspose3d):
    def forward(self, input, output_size=None):
        return super().forward(input, output_size).relu()


def layer(*arguments):
    return torch.nn.ConvTranspose3d(2, 2, 2, *arguments)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(model, before):
    after = model.state_dict()
    return list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_a_model_is_converted_and_reverted():
    model, x = Net(), torch.randn(X)
    expected, parameters, up, classes = model(x), list(model.parameters()), model.up, [*map(type, model.modules())]
    assert nn.convert(model, backend="torch", precision="ieee") == ["up", "other.1", "parametrized"]
    assert type(model.up) is nn.ConvTranspose3d and model.up is up is model.again
    assert "precision='ieee', backend='torch'" in repr(model.up)
    assert all(p is q for p, q in zip(model.parameters(), parameters)) and torch.equal(model(x), expected)
    assert nn.convert(model, backend="torch", precision="ieee") == []
    stored = pickle.loads(pickle.dumps(model.up))
    assert nn.revert(model) == ["up", "other.1", "parametrized"] and nn.revert(model) == []
    assert nn.revert(stored) == [""] and type(stored) is torch.nn.ConvTranspose3d
    assert [type(m).__bases__ if parametrize.is_parametrized(m) else type(m) for m in model.modules()] == [
        c.__bases__ if c.__name__ == "ParametrizedConvTranspose3d" else c for c in classes]
    assert vars(model.up).keys() == vars(Net().up).keys() and torch.equal(model(x), expected)


def test_a_model_may_be_the_layer_itself():
    model = layer()
    assert nn.convert(model) == [""] and type(model) is nn.ConvTranspose3d


def test_only_what_was_converted_is_reverted():
    model = torch.nn.Sequential(nn.ConvTranspose3d(2, 2, 2, activation="relu"), layer())
    assert nn.convert(model) == ["1"] and nn.revert(model) == ["1"]
    assert type(model[0]) is nn.ConvTranspose3d


def test_a_conversion_with_a_wrong_argument_changes_nothing():
    model = Net()
    with pytest.raises(ValueError, match="backend must be one of"):
        nn.convert(model, backend="cudnn")
    assert type(model.up) is torch.nn.ConvTranspose3d


def test_another_precision_takes_effect():
    model = Net()
    nn.convert(model)
    assert nn.convert(model, precision="tf32x3") == ["up", "other.1", "parametrized"]
    assert "precision='tf32x3'" in repr(model.up) and len(nn.revert(model)) == 3


def test_attributes_of_the_user_are_kept():
    model = layer()
    model.activation, model.precision, model.backend = torch.nn.PReLU(), "high", "mine"
    before, x = state(model), torch.randn(X)
    expected = model(x)
    nn.convert(model)
    assert same_state(model, before) and torch.equal(model(x), expected)
    assert (model.precision, model.backend) == ("high", "mine") and isinstance(model.activation, torch.nn.PReLU)
    nn.revert(model)
    assert same_state(model, before) and model.precision == "high"


DUPLICATES = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "torch.save": lambda m: (
    f := io.BytesIO(), torch.save(m, f), f.seek(0), torch.load(f, weights_only=False))[-1]}


@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES)
def test_subclasses_with_pytorchs_forward(duplicate):
    model, x = Initialised(2, 2, 2, 2), torch.randn(X)
    expected = model(x)
    assert nn.convert(model, precision="ieee") == [""]
    for converted in (model, duplicate(model)):
        assert isinstance(converted, Initialised) and isinstance(converted, nn.ConvTranspose3d)
        assert "precision='ieee'" in repr(converted) and torch.equal(converted(x), expected)
        assert nn.revert(converted) == [""] and type(converted) is Initialised


def test_what_cannot_be_converted_is_said():
    class Calls(torch.nn.Module):
        def forward(self, x):
            return [torch.nn.functional.conv_transpose3d(x, w) for w in (x,)]

    model = torch.nn.ModuleList([Activated(2, 2, 2), torch.jit.script(layer()), Calls()])
    said = "has converted nothing. 0: Activated has a forward of its own; 1: it is scripted"
    with pytest.warns(UserWarning, match=said):
        assert nn.convert(model) == []
    assert type(model[0]) is Activated
    rows = {row.name: row for row in nn.report(model)}
    assert list(rows) == ["0", "1", "2"] and "triton_conv3dt.conv_transpose3d" in rows["2"].left
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.convert(torch.nn.Linear(1, 1))  # which has no such layer
        assert nn.convert(torch.nn.ModuleList([*model, layer()])) == ["3"]
        replaced = layer()
        replaced.forward = lambda x: x
        assert nn.convert(torch.nn.ModuleList([layer(), replaced])) == ["0"]


def test_a_lazy_layer():
    model, x = torch.nn.LazyConvTranspose3d(3, 2, 2), torch.randn(X)
    assert nn.convert(model) == [""] and type(model) is nn.LazyConvTranspose3d
    assert nn.revert(model) == [""] and type(model) is torch.nn.LazyConvTranspose3d
    nn.convert(model, precision="ieee")
    y = model(x)
    assert type(model) is nn.ConvTranspose3d and "ieee" in repr(model)
    assert nn.revert(model) == [""] and type(model) is torch.nn.ConvTranspose3d and torch.equal(model(x), y)


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("converted_first", [True, False])
def test_parametrized_layers(wrap, converted_first):
    model, x = layer(), torch.randn(X)
    for step in (nn.convert, wrap) if converted_first else (wrap, nn.convert):
        step(model.eval())
    assert isinstance(model, nn.ConvTranspose3d) and parametrize.is_parametrized(model)
    before, y = state(model), copy.deepcopy(model)(x)
    assert torch.equal(model(x), y)
    assert nn.revert(model) == [""] and not isinstance(model, nn.ConvTranspose3d)
    assert same_state(model, before) and torch.equal(model(x), y)
    nn.convert(model)
    parametrize.remove_parametrizations(model, "weight")
    assert type(model) is nn.ConvTranspose3d and torch.allclose(model(x), y)
    assert nn.revert(model) == [""] and type(model) is torch.nn.ConvTranspose3d


@pytest.fixture
def one_process():
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available() or distributed.is_initialized():
        pytest.skip("no process group of our own can be made")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("converted_first", [True, False])
def test_layers_under_fully_shard(one_process, converted_first):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    model, x = torch.nn.Sequential(layer(), torch.nn.ReLU()), torch.randn(X)
    expected, mesh = model(x), init_device_mesh("cpu", (1,))
    shard = lambda model: [fully_shard(m, mesh=mesh) for m in (model[0], model)]
    for step in (nn.convert, shard) if converted_first else (shard, nn.convert):
        step(model)
    assert isinstance(model[0], nn.ConvTranspose3d) and isinstance(model[0], FSDPModule)
    assert torch.equal(model(x), expected)
    assert nn.convert(model, fuse=True) == ["0"] and torch.equal(model(x), expected)
    model(x).sum().backward()
    assert nn.revert(model) == ["0"]
    assert not isinstance(model[0], nn.ConvTranspose3d) and isinstance(model[0], FSDPModule)
    assert torch.equal(model(x), expected)


def test_a_graph_has_pytorchs_function():
    model, x = torch.nn.Sequential(layer(2), torch.nn.ReLU()).eval(), torch.randn(X)
    for fuse in (False, True):
        nn.convert(model, fuse=fuse)
        graph = fx.symbolic_trace(model)
        assert [node.target for node in graph.graph.nodes][-3] is torch.conv_transpose3d
        assert torch.equal(graph(x), model(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("fuse", [False, True])
def test_torchscript(fuse):
    model, x = torch.nn.Sequential(layer(2), torch.nn.BatchNorm3d(2), torch.nn.ReLU()).eval(), torch.randn(X)
    nn.convert(model, fuse=fuse)
    for compiled in (torch.jit.script(model), torch.jit.trace(model, (x,))):
        torch.testing.assert_close(compiled(x), model(x))
    assert isinstance(model[0], nn.ConvTranspose3d)  # TorchScript has put nothing in its place
    scripted, skip = torch.jit.script(model[0]), torch.randn(1, 2, 5, 5, 5)
    with_skip = dict(output_size=[5, 5, 5], residual=skip, concat=skip)
    assert torch.equal(scripted(x, **with_skip), model[0](x, **with_skip))
    with pytest.raises(RuntimeError, match="as a module of its own"):
        torch.jit.script(nn.ConvTranspose3d(2, 2, 2, activation="relu"))


@pytest.mark.filterwarnings("ignore")
def test_quantization_observes_the_layer():
    """prepare_fx observes the results of what it knows."""
    quantize_fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
    from torch.ao.quantization import get_default_qconfig_mapping

    model, x = torch.nn.Sequential(layer(2), torch.nn.ReLU()).eval(), torch.randn(X)
    nn.convert(model)
    prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping("qnnpack"), (x,))
    found, = (node for node in prepared.graph.nodes if node.target is torch.conv_transpose3d)
    assert all(str(user.target).startswith("activation_post_process") for user in found.users)
    torch.testing.assert_close(prepared(x), model(x))
