"""docs/models.md: each recipe as it stands there, where its package is installed."""

import json
import re
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import triton_conv3dt as t3
from triton_conv3dt.fusing import entry

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def code(heading: str, language: str = "python", place: int = 0) -> str:
    section = PAGE[PAGE.index(f"## {heading}\n"):].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)[place]


@pytest.fixture(autouse=True)
def by_name(monkeypatch):
    """The backend is found by its name, wherever this was installed, and compiles nothing to machine code."""
    from torch._dynamo.backends import registry

    registry._lazy_import()
    monkeypatch.setitem(registry._BACKENDS, "triton_conv3dt",
                        EntryPoint("triton_conv3dt", "triton_conv3dt.fusing:backend", "torch_dynamo_backends"))
    monkeypatch.setattr(entry, "DEFAULT", "aot_eager")
    torch._dynamo.reset()
    t3.fusing.clear()


def test_plain_pytorch(capsys):
    namespace = {}
    exec(code("Plain PyTorch"), namespace)
    assert namespace["y"].shape == (1, 4, 8, 8, 8) and t3.fusing.report()[0].fused == ("batch_norm", "relu")
    exec(code("Plain PyTorch", place=1), namespace)
    assert "BatchNorm3d, ReLU" in capsys.readouterr().out
    assert type(namespace["model"][0]) is torch.nn.ConvTranspose3d


def test_nnunet():
    pytest.importorskip("nnunetv2", reason="nnU-Net is not installed; pip install nnunetv2")
    namespace = {}
    exec(code("nnU-Net v2"), namespace)
    sizes = dict(n_stages=2, features_per_stage=[2, 4], kernel_sizes=3, strides=[1, 2], n_conv_per_stage=1,
                 n_conv_per_stage_decoder=1, conv_bias=True, norm_op_kwargs={"affine": True},
                 nonlin_kwargs={"inplace": True})
    classes = dict(conv_op="torch.nn.modules.conv.Conv3d", norm_op="torch.nn.modules.instancenorm.InstanceNorm3d",
                   nonlin="torch.nn.LeakyReLU")
    plans = SimpleNamespace(network_arch_init_kwargs=sizes | classes, network_arch_init_kwargs_req_import=list(classes),
                            network_arch_class_name="dynamic_network_architectures.architectures.unet.PlainConvUNet")
    network = namespace["nnUNetTrainerTritonConv3dt"].build_network_architecture(None, plans, 1, 2, False)
    network(torch.randn(1, 1, 4, 4, 4)).sum().backward()
    assert [row.fused for row in t3.fusing.report()] == [("cat",)]
    assert not any("_orig_mod" in name for name in network.state_dict())


def test_monai():
    bundle = pytest.importorskip("monai.bundle", reason="MONAI is not installed; pip install monai")
    definition = dict(_target_="DynUNet", spatial_dims=3, in_channels=1, out_channels=1, kernel_size=[3, 3, 3],
                      strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[2, 4, 4])
    parser = bundle.ConfigParser({"imports": ["$import torch"], "device": "$torch.device('cpu')",
                                  "network_def": definition})
    parser.update(json.loads(code("MONAI", "json")))
    network = parser.get_parsed_content("network")
    assert network is parser.get_parsed_content("network_def")
    network(torch.randn(1, 1, 8, 8, 8)).sum().backward()
    assert [row.fused for row in t3.fusing.report()] == [("cat",)] * 2


def test_monai_where_the_compiler_stops(monkeypatch):
    nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed; pip install monai")
    monkeypatch.setattr(torch.jit, "isinstance", torch.jit.isinstance)  # and back
    exec(code("MONAI"))
    network = nets.BasicUNet(features=(2, 2, 4, 4, 4, 2)).eval()
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(network, backend="triton_conv3dt", fullgraph=True)(x), network(x))
    assert [row.fused[-1] for row in t3.fusing.report()] == ["cat"] * 4


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed; pip install lightning")
    namespace = {}
    exec(code("Lightning"), namespace)
    trainer = lightning.Trainer(fast_dev_run=True, accelerator="cpu", default_root_dir=tmp_path, logger=False,
                                enable_progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(namespace["Upsampling"](), torch.utils.data.DataLoader(torch.randn(2, 1, 2, 2, 2)))
    assert [row.fused for row in t3.fusing.report()] == [("relu",)]
