"""The weight gradient of two programs as compiled: exact on integers in every mode, with nothing to warn of."""

from dataclasses import replace

import pytest

from triton_conv3dt.planning import costs, search, weight_pairs
from triton_conv3dt.planning.config import Config, fits
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

from .cases import MODES, Cases, Failed
from .library import emulated
from .parts.problems import computed, run, run_with, without

H200 = Device.named("nvidia_h200")
if not H200.pairs:
    pytest.skip("this Triton makes no pairs", allow_module_level=True)
ROWS, COLUMNS = Config("pair", 128, 32, 32, 4, 3, copy=True), Config("pair", 128, 512, 32, 8, 2, copy=True)  # which side is halved
AS_IT_LIES, PARTED = replace(ROWS, copy=False), replace(ROWS, block_n=128, copy=False)
DEEP = Config("pair", 128, 256, 64, 4, 3)  # of 16 bits
PAIRS = {  # layer, config, ways along d, h, w
    "k3s2p1": ("n2 ci64 co32 in3x5x8 k3 s2 p1 op1", ROWS, "columns columns columns"),
    "k3s2p1 of more rows": ("n1 ci64 co32 in3x5x9 k3 s2 p1 op1", replace(ROWS, block_m=256, block_n=64, warps=8), "crossed crossed crossed"),
    "k3s2p1 of long rows": ("n1 ci32 co16 in2x3x40 k3 s2 p1 op1", replace(ROWS, stages=4), "crossed columns crossed"),
    "k3s2p1 of rows of 42": ("n1 ci96 co24 in2x3x42 k3 s2 p1 op1", replace(ROWS, block_k=64), "columns crossed programs"),
    "k4s2p1": ("n2 ci64 co32 in3x5x8 k4 s2 p1", replace(ROWS, block_n=128), "crossed crossed crossed"),
    "k1x4x4": ("n2 ci64 co16 in3x5x20 k1x4x4 s1x2x2 p0x1x1", COLUMNS, "programs crossed columns"),
    "k1x4x4 of few rows": ("n1 ci32 co16 in3x5x20 k1x4x4 s1x2x2 p0x1x1", replace(COLUMNS, block_m=64, warps=4), "programs columns crossed"),
    "k3s1p1, no copy": ("n1 ci32 co16 in3x6x12 k3 s1 p1", AS_IT_LIES, "columns crossed crossed"),
    "k3s1, a copy of dz": ("n1 ci32 co16 in3x6x12 k3 s1 p0", ROWS, "programs programs columns"),
    "k3s1p1, copies": ("n1 ci32 co16 in3x6x11 k3 s1 p1", ROWS, "crossed programs columns"),
    "k3x3x1s2x2x1, no copy": ("n1 ci16 co40 in3x6x12 k3x3x1 s2x2x1 p1x1x0", AS_IT_LIES, "columns crossed programs"),
    "k3s3d2": ("n1 ci48 co24 in3x5x6 k3 s3 p2 d2", ROWS, "programs columns columns"),
    "k5s3p2": ("n1 ci16 co24 in4x5x6 k5 s3 p2 op2", ROWS, "crossed columns crossed"),
    "k2s2": ("n1 ci48 co40 in3x5x16 k2 s2", replace(ROWS, block_k=16), "columns columns crossed"),
    "k2s4": ("n1 ci16 co16 in3x2x9 k2 s4 p1 op1", replace(ROWS, block_k=8), "crossed columns crossed"),
    "k4s2p1 parted, no copy": ("n1 ci64 co32 in3x5x8 k4 s2 p1", PARTED, "columns columns columns"),
    "k3s2p1 parted, no copy": ("n2 ci64 co32 in3x5x16 k3 s2 p1 op1", replace(PARTED, block_m=256), "columns crossed crossed"),
    "k4s2p1 parted, dz halved, no copy": ("n1 ci32 co64 in3x4x20 k4 s2 p1", replace(COLUMNS, copy=False), "programs crossed programs"),
    "k1x4x4s1x4x4 parted, no copy": ("n1 ci32 co64 in2x4x12 k1x4x4 s1x4x4", replace(PARTED, block_n=256, stages=2), "programs columns columns"),
    "k5s2p2 parted, a copy of x": ("n1 ci96 co24 in2x3x10 k5 s2 p2 op1", Config("pair", 64, 256, 16, 8, 4), "crossed columns columns"),
    "k3s2p1 by four": ("n2 ci64 co32 in3x5x16 k3 s2 p1 op1", replace(ROWS, block_n=128, cluster=4), "columns crossed crossed"),
    "k4s2p1 parted by four, no copy": ("n1 ci64 co32 in3x5x8 k4 s2 p1", Config("pair", 256, 512, 16, 8, 2, cluster=4), "columns columns columns"),
    "k2s2 parted, no copy": ("n2 ci32 co32 in3x4x16 k2 s2", Config("pair", 256, 256, 32, 8, 3), "columns columns crossed"),
    "k2s2 of planes, no copy": ("n2 ci64 co32 in2x6x5 k2 s2", PARTED, "columns programs columns"),
    "fp16, k3s2p1": ("n2 ci64 co32 in3x5x16 k3 s2 p1 op1 float16", ROWS, "columns columns crossed"),
    "bf16, k3s2p1 of rows of 13": ("n1 ci48 co24 in2x3x13 k3 s2 p1 op1 bfloat16", replace(ROWS, block_k=64), "crossed crossed columns"),
    "bf16, k3s1p1, no copy": ("n1 ci32 co16 in3x6x24 k3 s1 p1 bfloat16", AS_IT_LIES, "columns crossed crossed"),
    "fp16, k3s1p1 of rows of 8, no copy": ("n2 ci32 co16 in2x6x8 k3 s1 p1 float16", replace(AS_IT_LIES, block_k=64), "columns crossed programs"),
    "bf16, k4s2p1 parted, no copy": ("n1 ci64 co32 in3x5x24 k4 s2 p1 bfloat16", replace(PARTED, block_m=256), "columns columns columns"),
    "fp16, k3s2p1 parted by four, a copy of x": ("n1 ci64 co32 in3x5x12 k3 s2 p1 op1 float16", Config("pair", 256, 512, 32, 8, 2, cluster=4),
                                                 "columns columns columns"),
    "fp16, k4s2p1 parted by four, dz as rows, no copy": ("n2 ci64 co128 in3x6x16 k4 s2 p1 float16", replace(DEEP, cluster=4),
                                                         "programs programs programs"),
    "bf16, k4s4 parted, no copy": ("n1 ci32 co64 in2x3x16 k1x4x4 s1x4x4 bfloat16", replace(DEEP, block_k=32), "programs columns columns"),
    "fp16, k2s2 parted, no copy": ("n2 ci64 co32 in3x5x16 k2 s2 float16", PARTED, "columns columns columns"),
    "fp16, k2s2 of rows of 8, no copy": ("n2 ci64 co32 in3x5x8 k2 s2 float16", replace(DEEP, block_n=128), "columns columns columns"),
    "bf16, k2s2 of rows of 8 by four, no copy": ("n1 ci96 co80 in3x9x8 k2 s2 bfloat16", replace(DEEP, cluster=4), "programs programs columns"),
    "fp16, k2s2 of planes, no copy": ("n2 ci64 co32 in2x3x12 k2 s2 float16", PARTED, "columns columns columns"),
    "bf16, k2s2 of short rows, no copy": ("n2 ci48 co64 in4x5x6 k2 s2 bfloat16", replace(DEEP, block_n=128), "programs columns programs"),
    "fp16, k2s2 of short rows by four, no copy": ("n2 ci80 co64 in4x9x6 k2 s2 float16", replace(DEEP, cluster=4), "programs programs programs"),
    "fp16, k1x2x2 of rows of 5, no copy": ("n1 ci64 co64 in4x6x5 k1x2x2 s1x2x2 float16", replace(DEEP, block_m=256, block_k=32, stages=4, cluster=4),
                                           "programs columns programs"),
    "bf16, k1x2x2 of rows of 20, no copy": ("n1 ci64 co64 in2x6x20 k1x2x2 s1x2x2 bfloat16", DEEP, "columns programs columns"),
    "fp16, k4s4 of planes, no copy": ("n1 ci32 co64 in2x4x3 k4 s4 float16", replace(PARTED, block_n=256, block_k=16), "columns columns columns"),
}


def drawn(name: str, **changed):
    """The problem and the config of a name."""
    layer, config, ways = PAIRS[name]
    return case.parse(f"grad_weight {layer} {'' if 'float' in layer else 'float32 tf32'} channels_first"), replace(config, taps=tuple(ways.split()), **changed)


@pytest.mark.parametrize("shares", (1, 3))
@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name, shares):
    problem, config = drawn(name, shares=shares)
    assert fits(config, problem, H200) is None
    cases = run(problem, config, H200)
    assert (cases.done, cases.skipped) == (1, 0)
    assert cases.kernels["pair_weight"] and cases.forms["wgmma"] and cases.forms["tensor copies"]
    assert bool(cases.kernels["to_residues"]) == bool(weight_pairs.copies(problem, config)) == ("no copy" not in name)


@pytest.mark.parametrize("name", ("k4s2p1", "k1x4x4", "k4s2p1 parted, no copy", "k4s2p1 parted by four, no copy",
                                  "fp16, k2s2 of rows of 8, no copy", "bf16, k2s2 of short rows, no copy"))
def test_every_mode(name):
    problem, config = drawn(name, shares=2)
    with emulated(H200.name, exact=True, races=True) as emulator:
        for copies, products in MODES:
            emulator.options = replace(emulator.options, copies=copies, products=products)
            computed(problem, config, H200)[1]()
        assert not emulator.warnings()


@pytest.mark.parametrize("chosen", (ROWS, PARTED), ids=("apart", "parted"))
def test_what_is_fetched(chosen):
    """The boxes of a launch are those that its plan counts; what both programs read is read once."""
    problem, config = case.parse("grad_weight n1 ci64 co32 in4x8x16 k2 s2 float32 tf32"), replace(chosen, taps=("columns",) * 3)
    with emulated(H200.name, counting=True) as emulator:
        Cases(emulator).run(*computed(problem, config, H200))
        launch, = (one for one in emulator.launches if one.name == "pair_weight")
    tiles, places = 8 * 32 // config.block_n, 4 * 8 * 16
    assert launch.summary()["tensor_bytes"] == costs.read_bytes(config, problem) == 4 * tiles * places * (config.block_m + config.block_n)


def test_default():
    problem = case.parse("grad_weight n2 ci256 co128 in16x32x32 k3 s2 p1 op1 float32 tf32")
    assert search.default(problem, H200).path == "pair"


@pytest.mark.parametrize("name", ("k4s2p1", "k4s2p1 parted, no copy", "fp16, k2s2 of short rows by four, no copy"))
@pytest.mark.parametrize("pattern", (r"mbarrier\.try_wait[^;]*;|@!complete bra\.uni waitLoop;", r"wgmma\.wait_group\.sync\.aligned \d+;",
                                     r"barrier\.cluster\.(arrive|wait)\.aligned;", r"\.multicast::cluster|, %rs\d+(?=;)"))
def test_what_holds_programs_together_is_needed(pattern, name):
    """Without waits for copies or products, without the barrier of both programs, or with columns for one of them, something is found."""
    problem, config = drawn(name)
    with pytest.raises(Failed):
        run_with(without(pattern, "pair_weight"), problem, config, H200)


@pytest.mark.parametrize("change", (
    dict(x_chunks=2), dict(channels=(32, 32)), dict(halved=(1,)), dict(box=(2, 1, 16)), dict(bytes=8), dict(apart=False)))
def test_a_wrong_pair_is_noticed(monkeypatch, change):
    problem, config = drawn("k3s2p1 of more rows")
    right = weight_pairs.pair
    monkeypatch.setattr(weight_pairs, "pair", lambda problem, config: right(problem, config)._replace(**change))
    with emulated(H200.name, exact=True) as emulator, pytest.raises(Failed):
        Cases(emulator).run(*computed(problem, config, H200))


@pytest.mark.parametrize("name, change", (
    ("fp16, k2s2 of planes, no copy", dict(flat=False)), ("bf16, k2s2 of rows of 8 by four, no copy", dict(x_runs=1)),
    ("bf16, k2s2 of rows of 8 by four, no copy", dict(z_runs=1)), ("fp16, k2s2 of short rows by four, no copy", dict(z_runs=4))))
def test_runs_that_are_fetched_otherwise_are_noticed(monkeypatch, name, change):
    problem, config = drawn(name)
    right = weight_pairs.pair
    assert all(getattr(right(problem, config), name) != value for name, value in change.items())
    monkeypatch.setattr(weight_pairs, "pair", lambda problem, config: right(problem, config)._replace(**change))
    with emulated(H200.name, exact=True) as emulator, pytest.raises(Failed):
        Cases(emulator).run(*computed(problem, config, H200))


@pytest.mark.parametrize("name", ("k3s2p1", "k3s1p1, copies"))
def test_residues_elsewhere_are_noticed(monkeypatch, name):
    problem, config = drawn(name)
    right = weight_pairs.copies

    def wrong(problem, config):
        return {name: [*axes[:2], axes[2]._replace(first=axes[2].first + 1)] for name, axes in right(problem, config).items()}

    monkeypatch.setattr(weight_pairs, "copies", wrong)
    with emulated(H200.name, exact=True) as emulator, pytest.raises(Failed):
        Cases(emulator).run(*computed(problem, config, H200))


@pytest.mark.parametrize("change", (
    lambda axis: axis._replace(z=axis.z._replace(first=axis.z.first + 1)), lambda axis: axis._replace(tap_first=axis.tap_first + 1),
    lambda axis: axis._replace(guard=False), lambda axis: axis._replace(tap_column=axis.tap_column + 1),
    lambda axis: axis._replace(z=axis.z._replace(move=axis.z.move - 1))))
def test_a_wrong_axis_is_noticed(monkeypatch, change):
    problem, config = drawn("k5s2p2 parted, a copy of x")
    right = weight_pairs.axes
    monkeypatch.setattr(weight_pairs, "axes", lambda problem, config: [*(axes := right(problem, config))[:2], change(axes[2])])
    with emulated(H200.name, exact=True) as emulator, pytest.raises(Failed):
        Cases(emulator).run(*computed(problem, config, H200))
