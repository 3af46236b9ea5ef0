"""Plans and configs as values: for any device, none of which is here."""

import math
from dataclasses import replace

import pytest

from triton_conv3dt.launching.launch import plan
from triton_conv3dt.planning import banks, costs, explain, lowering, weight_pairs
from triton_conv3dt.planning.config import Config, fits, sums_bias
from triton_conv3dt.planning.constraints import parse
from triton_conv3dt.planning.device import Device
from triton_conv3dt.planning.search import default, sensible
from triton_conv3dt.planning.terms import terms
from triton_conv3dt.problems.layers import layers
from triton_conv3dt.problems.problem import DIRECTIONS, LAYOUTS, Epilogue, Problem

DATACENTER = ("nvidia_h200", "nvidia_a100", "nvidia_b200")
ANY = (*DATACENTER, "nvidia_l4", "nvidia_rtx_4090")
H200 = Device.named("nvidia_h200")
LAYER = dict(n=2, ci=32, co=32, in_size=(8, 8, 8), kernel=2, stride=2)


def problem_of(layer, direction, layout, dtype, w_minor=None) -> Problem:
    return Problem.of_shape(layer, direction, dtype, layout, w_minor=w_minor, epilogue=Epilogue(bias=layer.bias))


@pytest.mark.parametrize("dtype", ("float16", "float32"))
@pytest.mark.parametrize("name", ANY)
@pytest.mark.slow
def test_default_fits_all_layers(name, dtype):
    """Every real layer has a plan in every direction, dtypes and layouts in turn; asking again, here and there, gives the
    same."""
    device, turn = Device.named(name), ANY.index(name)
    for i, layer in enumerate(layers()[(turn + (dtype == "float16")) % 2::2]):
        for direction in DIRECTIONS:
            problem = problem_of(layer, direction, LAYOUTS[(i + turn) % 2], dtype)
            found = plan(problem, device)
            assert fits(found.config, problem, device) is None, (layer, found)
            assert (i + turn) % 8 or found.config == default(replace(problem), replace(device)), layer
            assert_says_what_runs(found)


def assert_says_what_runs(p):
    """One step per launch, and each in the text."""
    copies, packs = p.config.copy, lowering.packs(p.problem, p.config)
    weights = p.problem.direction == "grad_weight"
    # A weight gradient copies both, rounded to TF32, or by pairs what these do not read as it lies.
    made = len(weight_pairs.copies(p.problem, p.config)) if weights and p.config.path == "pair" else copies * (1 + weights)
    assert sum(step.startswith("copy ") for step in p.steps) == made
    assert any(step.startswith("pack the weight") for step in p.steps) == packs
    sums = p.problem.direction != "forward" and any(step.startswith("sum_parts") and " of db" not in step for step in p.steps)
    summed = sums_bias(p.config, p.problem)
    assert any(step.startswith("sum_parts of db") for step in p.steps) is summed
    assert len(p.steps) == 1 + made + packs + sums + summed
    text = str(p)
    assert (" to channels_last (" in text, "pack the weight" in text) == (copies and not weights, packs)
    assert all(f"launch {i}  {step}" in text for i, step in enumerate(p.steps, 1))
    assert p.device.name in text and str(p.config) in text


@pytest.mark.parametrize("w_minor", ("tap", "co"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_launch_for_kernel_2_stride_2(layout, w_minor):
    """nnU-Net's layers run as they come: nothing is copied or packed, in either order of the weight."""
    found = [layer for layer in layers() if layer.network.startswith("nnU-Net")
             and layer.kernel == layer.stride == (2, 2, 2)]
    assert len(found) > 5
    for layer in found:
        for name in DATACENTER:
            p = plan(problem_of(layer, "forward", layout, "float16", w_minor), Device.named(name))
            assert len(p.steps) == 1, (layer, p.steps)


@pytest.mark.parametrize("name, copies", (
    ("tats_up1", True), ("physicsnemo_pix2pix3d_1", True), ("memae_dec1", True), ("kb_2_61", False), ("gwcnet_train_1", False),
    ("dsgn_hg_0", False)))
def test_weight_gradients_of_copies(name, copies):
    """Worth it where taps overlap, of many channels: what is rounded in registers conflicts on its way, and what is split there allows
    small tiles only. Few channels leave little to multiply for what is copied."""
    problem, = (layer.problem("grad_weight") for layer in layers() if layer.name == name)
    p = plan(problem, H200, constraints=parse("pair,walk"))
    assert p.config.copy == copies
    assert_says_what_runs(p)
    if copies:
        assert p.config.block_m * p.config.block_n == 256 * 128 and not p.schedule.main.constants["DOT"].round
        assert {"to_residues"} == {launch.kernel for launch in p.schedule.launches[:2]}
        read = sum(w.shape[0] * w.shape[1] * math.prod(w.shape[2:]) for w in p.schedule.workspaces[:2])
        alone = problem.n * (problem.ci * math.prod(problem.in_size) + problem.co * math.prod(problem.out_size))
        assert alone <= read < 1.7 * alone  # with zeros around: tats crops what would be most of them


def test_copies_whose_addresses_spill_are_not_tried():
    """Sums of 256x128 leave few registers: x is read 16 bytes at a time beside them, and columns are of 16 channels or of none."""
    layer = LAYER | dict(ci=256, kernel=3, padding=1, dtype="float32")
    large = lambda co: [c for c in sensible(Problem.of_layer("grad_weight", **layer | dict(co=co)), H200)
                        if c.path == "gather" and c.copy and c.block_m * c.block_n == 256 * 128]
    assert large(112) and not large(120)
    assert all(c.taps[2] != "crossed" for c in large(112))


@pytest.mark.parametrize("layout, w_minor, copies, packs", (
    ("channels_first", "tap", False, True), ("channels_first", "co", False, True),
    ("channels_last", "tap", False, True), ("channels_last", "co", False, False)))
def test_overlapping_kernels_say_what_is_copied(layout, w_minor, copies, packs):
    p = plan(Problem.of_layer(**LAYER | dict(kernel=4, padding=1), layout=layout, w_minor=w_minor), H200, constraints=parse("pair"))
    assert (p.config.copy, lowering.packs(p.problem, p.config)) == (copies, packs)
    assert_says_what_runs(p)


GATHER = Config("gather", 64, 64, 32)
LAST, ROWS = {"layout": "channels_last"}, Config("descriptor", 64, 64, 32)
COPIED = {"direction": "grad_weight", "dtype": "float32"}
WALKED = LAST | {"kernel": 3, "padding": 1, "output_padding": 1}
WALK = Config("walk", 16, 64, 32, 4, 2, merge=(True, False, False), box=(4, 8, 8))
REFUSED = {  # problem, device, config: the reason
    "path": ({}, "nvidia_h200", replace(GATHER, path="fft"), "path 'fft' is not one of gather, descriptor, direct"),
    "power of two": ({}, "nvidia_h200", replace(GATHER, block_n=48), "block_n = 48 is not a power of two"),
    "warps": ({}, "nvidia_h200", replace(GATHER, warps=3), "warps = 3 is not a power of two"),
    "merged gradient": ({"direction": "grad_input"}, "nvidia_h200", replace(GATHER, merge=(True, False, False)),
                        "phases along d cannot be merged"),
    "merged dilation": ({"dilation": (1, 3, 1)}, "nvidia_h200", replace(GATHER, merge=(False, True, False)),
                        "phases along h cannot be merged"),
    "merged direct": ({}, "nvidia_h200", Config("direct", 8, 8, merge=(True, True, True)), "does not merge phases"),
    "boxes": ({}, "nvidia_h200", replace(GATHER, box=(1, 8, 8)), "path 'gather' has no boxes"),
    "idle shares": ({"direction": "grad_weight"}, "nvidia_h200", replace(GATHER, block_k=64, shares=2**15),
                    "may count 2097152 positions beyond the last"),
    "crossed dilation": ({"direction": "grad_weight", "dilation": (1, 3, 1)}, "nvidia_h200",
                         replace(GATHER, taps=("programs", "crossed", "programs")), "taps along h cannot be crossed"),
    "unknown way": ({"direction": "grad_weight"}, "nvidia_h200", replace(GATHER, taps=("rows", "programs", "programs")),
                    "taps along d are programs, columns, crossed, by two, by four, received 'rows'"),
    "neighbours of copies": (COPIED, "nvidia_h200", replace(GATHER, copy=True, taps=("programs", "by two", "programs")),
                             "taps along h are programs, columns, crossed, received 'by two'"),
    "neighbours of what is split": ({"direction": "grad_weight"}, "nvidia_h200", replace(GATHER, taps=("by two", "programs", "by two")),
                                    "taps along w cannot be by two: places of dz are split"),
    "dilated neighbours": ({"direction": "grad_weight", "dilation": (1, 3, 1)}, "nvidia_h200",
                           replace(GATHER, taps=("programs", "by four", "programs")), "taps along h cannot be by four: their dilation is 3"),
    "many shifts": ({"direction": "grad_weight", "kernel": (1, 31, 1), "padding": (0, 15, 0)} | LAST, "nvidia_h200",
                    replace(GATHER, taps=("programs", "columns", "programs")), "30 shifts of the three axes"),
    "taps forward": ({}, "nvidia_h200", replace(GATHER, taps=("columns", "programs", "programs")), "are those of a grad_weight"),
    "axis beyond 31 bits": (dict(direction="grad_weight", ci=8, in_size=(2**30, 1, 1), stride=2), "nvidia_h200", GATHER,
                            "an axis has more places than 31 bits can count"),
    "rows beyond 31 bits": (LAST | {"ci": 8, "in_size": (2**11, 2**10, 2**10)}, "nvidia_h200",
                            replace(ROWS, merge=(True, True, True)), "4294967296 places in a row are more than"),
    "boxes beyond 31 bits": (LAST | {"ci": 8, "in_size": (2**31, 1, 1), "kernel": 3, "padding": 1}, "nvidia_h200",
                             replace(ROWS, box=(8, 1, 8)), "2147483648 places in a row are more than"),
    "shares": ({}, "nvidia_h200", replace(GATHER, shares=2), "shares are those of a grad_weight"),
    "shares of steps": ({"direction": "grad_input"}, "nvidia_h200", Config("direct", 8, 64, shares=2), "a grad_input by gather or"),
    "descriptor on Ampere": (LAST, "nvidia_a100", ROWS, "no engine for tensor descriptors"),
    "descriptor of a weight gradient": (LAST | {"direction": "grad_weight"}, "nvidia_h200", ROWS, "has no descriptor form"),
    "descriptor of channels first": ({}, "nvidia_h200", ROWS, "a descriptor reads channels_last tensors"),
    "misaligned descriptor": (LAST | {"ci": 28}, "nvidia_h200", ROWS, "16-byte alignment"),
    "descriptor of two groups": (LAST | {"ci": 48, "groups": 2}, "nvidia_h200", ROWS, "does not divide 24 channels"),
    "rows of overlapping taps": (LAST | {"kernel": 4, "padding": 1}, "nvidia_h200", ROWS, "a box is needed"),
    "box of another size": (LAST, "nvidia_h200", replace(ROWS, box=(2, 8, 8)), "does not hold block_n = 64 places"),
    "box across planes": (LAST | {"direction": "grad_input"}, "nvidia_h200",
                          replace(ROWS, merge=(False,) * 3, box=(4, 4, 4)), "lies in one plane"),
    "box of an odd output": (LAST | {"direction": "grad_input", "kernel": 3, "padding": 1}, "nvidia_h200",
                             replace(ROWS, box=(1, 8, 8)), "whose height and width the stride divides"),
    "float64": ({"dtype": "float64"}, "nvidia_h200", GATHER, "do not take float64; use the direct path"),
    "small": ({}, "nvidia_h200", replace(GATHER, block_k=8), "64x64x8 is below 16 on an axis"),
    "joined": ({"kernel": 3, "stride": 3}, "nvidia_h200", replace(GATHER, merge=(False, False, True)),
               "3 phases along w cannot be joined"),
    "joined rows": ({"kernel": 32, "stride": 32, "in_size": (1, 1, 2)}, "nvidia_h200",
                    Config("gather", 16, 16, 16, merge=(False, False, True)), "less than one joined run of 32 phases"),
    "registers": ({}, "nvidia_h200", Config("gather", 256, 256, 32), "leaves 4 warps without registers"),
    "tensor memory": ({"direction": "grad_input", "dtype": "float32"}, "nvidia_b200", Config("gather", 128, 256, 16, 8, 3),
                      "576 columns of tensor memory are needed, nvidia_b200 has 512"),
    "registers of a residual": (LAST | {"residual": True}, "nvidia_h200", Config("gather", 128, 256, 32, 8),
                                "leaves 8 warps without registers"),
    "copy of channels last": (LAST | {"kernel": 4, "padding": 1}, "nvidia_h200", replace(GATHER, copy=True),
                              "a copy to channels_last is made"),
    "copy of aligned taps": ({}, "nvidia_h200", replace(GATHER, copy=True), "a copy to channels_last is made"),
    "copies of 16 bits": ({"direction": "grad_weight"}, "nvidia_h200", replace(GATHER, copy=True), "that is TF32 and channels-first"),
    "copies of channels last": (LAST | {"direction": "grad_weight", "dtype": "float32"}, "nvidia_h200", replace(GATHER, copy=True),
                                "that is TF32 and channels-first"),
    "copies without tensor cores": ({"direction": "grad_weight", "dtype": "float32"}, "nvidia_h200", Config("direct", 8, 8, copy=True),
                                    "on tensor cores"),
    "a large copy": (dict(direction="grad_weight", dtype="float32", in_size=(3, 3, 2**19 - 2**15), ci=8, co=32, kernel=(9, 9, 1), stride=1,
                          padding=(4, 4, 0)), "nvidia_h200", replace(GATHER, copy=True), "a copy has more elements than 31 bits"),
    "one pass of long runs": ({"direction": "backward", "kernel": (1, 1, 4), "stride": (1, 1, 4)}, "nvidia_h200",
                              Config("onepass", 64, 128, 32, 8), "one pass parts pairs"),
    "scattered weight": ({"direction": "backward", "w_minor": "scattered"}, "nvidia_h200", Config("onepass", 64, 256, 32, 8),
                         "one stride from tap to tap"),
    "walk on Ampere": (WALKED, "nvidia_a100", WALK, "nvidia_a100 does not walk: it takes Hopper"),
    "walk of fp32": (WALKED | {"dtype": "float32", "precision": "ieee"}, "nvidia_h200", WALK, "a walk takes 16 bits and TF32"),
    "walk of groups": (WALKED | {"groups": 2}, "nvidia_h200", WALK, "a walk takes one group"),
    "walk that copies channels last": (WALKED, "nvidia_h200", replace(WALK, copy=True), "of what cannot be read as it is"),
    "walk of odd channels": (WALKED | {"ci": 20}, "nvidia_h200", WALK, "reads a copy, channels_first tensors, or"),
    "walk of many single elements": (WALKED | {"direction": "grad_input", "dtype": "float32", "co": 64}, "nvidia_h200",
                                     replace(WALK, merge=(False,) * 3, stages=1, box=(4, 8, 8)), "2 residues by 2 blocks of channels"),
    "walk between single elements": (
        LAST | dict(direction="grad_input", dtype="float32", kernel=5, padding=2, ci=64, layout="channels_first"), "nvidia_h200",
        replace(WALK, block_m=64, merge=(False,) * 3), "96 sums of each thread leave it no registers"),
    "walk of an odd output": (WALKED | {"direction": "grad_input", "output_padding": 0}, "nvidia_h200", replace(WALK, merge=(False,) * 3),
                              "whose height and width the stride divides"),
    "walk of a merged gradient": (WALKED | {"direction": "grad_input"}, "nvidia_h200", WALK, "only a forward has phases to merge"),
    "walk of merged residues that are no copy": (WALKED | {"direction": "grad_input"}, "nvidia_h200", replace(WALK, merge=(False, False, True)),
                                                 "merges residues along w, those of a copy"),
    "walk of rows that end in another place": (WALKED | {"direction": "grad_input", "co": 40}, "nvidia_h200",
                                               replace(WALK, merge=(False,) * 3), "may not end in the channels of the next place"),
    "walk of empty phases": (WALKED | {"kernel": (1, 3, 3), "padding": (0, 1, 1)}, "nvidia_h200", WALK, "phases that all have taps"),
    "patch": (WALKED, "nvidia_h200", replace(WALK, box=(4, 16, 4)), "a patch of 16x4 does not hold block_n = 64 places, 8 or more"),
    "warps of a walk": (WALKED, "nvidia_h200", replace(WALK, warps=8), "8 warps do not share 64 places by 16"),
    "channels of a walk": (WALKED, "nvidia_h200", replace(WALK, block_k=64), "none that they need not"),
    "narrow rows of a walk": (WALKED, "nvidia_h200", replace(WALK, block_k=8), "rows have 32 to 128 bytes"),
    "columns of a walk": (WALKED, "nvidia_h200", replace(WALK, block_m=64, merge=(True,) * 3), "no product of 8 to 256 columns"),
    "sums of a walk": (WALKED, "nvidia_h200", replace(WALK, block_m=64), "sums of each thread leave it no registers"),
    "taps of a forward among channels": ({"co": 2}, "nvidia_h200", replace(GATHER, flat=1), "by the gather of an input gradient alone"),
    "taps among channels of a descriptor": (LAST | {"direction": "grad_input"}, "nvidia_h200", replace(ROWS, flat=1),
                                            "by the gather of an input gradient alone"),
    "taps of four axes": ({"direction": "grad_input"}, "nvidia_h200", replace(GATHER, flat=4), "flat = 4 is not a number of axes"),
    "taps without bits": ({"direction": "grad_input", "co": 1, "kernel": 11, "padding": 4}, "nvidia_h200", replace(GATHER, flat=2),
                          "33 taps of axes with places outside are more than the 29"),
    "taps among channels, many addresses": ({"direction": "grad_input", "co": 2, "kernel": 5, "padding": 2}, "nvidia_h200",
                                            replace(GATHER, block_n=128, block_k=64, flat=3), "addresses of 64x128 single elements"),
    "shared memory": ({"dtype": "float32"}, "nvidia_l4", Config("gather", 128, 128, 64, 8, stages=3),
                      "bytes of shared memory are needed, nvidia_l4 has 101376"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name):
    changed, device, config, reason = REFUSED[name]
    problem, device = Problem.of_layer(**LAYER | changed), Device.named(device)
    assert reason in (fits(config, problem, device) or "it fits")
    with pytest.raises(ValueError) as raised:
        plan(problem, device, config)
    assert reason in str(raised.value) and str(config) in str(raised.value) and device.name in str(raised.value)


@pytest.mark.parametrize("name, direction", (("fnet_up0", "forward"), ("map2map_up", "forward"), ("fnet_up2", "grad_input")))
def test_tf32_that_products_would_turn_is_read_in_groups(name, direction):
    """Side by side lie places, and products sum over channels: lanes that read a few runs each meet in no bank, whether some are outside
    or none."""
    named = {layer.name: layer.problem(direction) for layer in layers()}
    found = default(named[name], H200, parse("pair"))
    assert found.path == "gather" and lowering.turned(named[name], found)
    assert not banks.conflicting(found, named[name], H200) and not banks.conflicting(replace(found, copy=True), named[name], H200)
    tile, overlapping = Config("gather", 64, 128, 32, 8, 3), replace(named["gwcnet_train_1"], direction="grad_input")
    assert lowering.turned(overlapping, tile) and not banks.conflicting(tile, overlapping, H200)
    assert banks.masked(tile, overlapping) and not banks.masked(found, named[name])
    assert lowering.turned(overlapping, replace(tile, copy=True)) is None


def test_few_programs_are_given_more_of_the_cache():
    """One SM takes 64 bytes in a clock, and all together what L2 has: tiles of a small layer may be large."""
    problem = Problem.of_layer(**LAYER | dict(n=1, ci=768, co=32, in_size=6))
    large, small = Config("gather", 128, 64, 64, 4, 3, (True,) * 3), Config("gather", 64, 16, 64, 4, 3, (True,) * 3)
    slower = lambda config: costs.cost(config, problem, replace(H200, l2=H200.l2 / 4)) / costs.cost(config, problem, H200)
    assert 1.05 < slower(large) < slower(small)


def test_a_given_config_is_used():
    p = plan(Problem.of_layer(**LAYER), H200, GATHER)
    assert (p.config, p.source) == (GATHER, "given")
    assert plan(Problem.of_layer(**LAYER), H200).source != "given"


@pytest.mark.parametrize("device", ("nvidia_h200", "nvidia_a100"))
@pytest.mark.parametrize("name", ("swinunetr_ssl_large_kernel", "pcc_geo_train64_2", "omnitok_to_pixels", "jax31662",
                                  "grnet_dconv10", "monai_unet_train_up3"))
def test_few_channels_are_summed_over_with_their_taps(name, device):
    """By the default of an input gradient, and by no other config where the channels are many."""
    layer = next(layer for layer in layers() if layer.name == name)
    assert plan(layer.problem("grad_input"), Device.named(device)).config.flat, name
    assert not any(c.flat for c in sensible(replace(layer.problem("grad_input"), co=16), Device.named(device)))


@pytest.mark.parametrize("layout, w_minor, copy, packs, minor, runs", (
    ("channels_first", "tap", False, False, "tap", (4, 8)), ("channels_first", "co", False, False, "red", (4, 1)),
    ("channels_first", "ci", False, False, "row", (4, 8)), ("channels_last", "tap", False, True, "red", (2, 2)),
    ("channels_last", "co", False, False, "red", (2, 2))))
def test_runs_of_taps_among_channels(layout, w_minor, copy, packs, minor, runs):
    """Taps or channels run fastest, as in memory; of dz and of a weight in the same order, which is not packed."""
    problem = Problem.of_layer("grad_input", n=2, ci=64, co=2, in_size=8, kernel=4, stride=4, layout=layout, w_minor=w_minor)
    main = plan(problem, H200, Config("gather", 64, 64, 32, 4, 3, flat=3, copy=copy))
    product = main.schedule.main.constants
    assert lowering.packs(problem, main.config) == packs
    assert (product["W"].minor, product["X"].run, product["W"].run) == (minor, *runs)
    assert [product[name].flat for name in ("AXIS_D", "AXIS_H", "AXIS_W")] == [4, 4, 4]


@pytest.mark.parametrize("name, device", (
    ("swinunetr_ssl_large_kernel", "nvidia_h200"), ("swinunetr_ssl_large_kernel", "nvidia_a100"), ("wolny_resunet_up0", "nvidia_h200")))
def test_few_positions_share_their_steps(name, device):
    """Where tiles alone would leave most of a device idle, their steps are shared; and summed in order."""
    layer = next(layer for layer in layers() if layer.name == name)
    p = plan(layer.problem("grad_input"), Device.named(device))
    shares = [memory for memory in p.schedule.workspaces if memory.name == "parts"]
    assert p.config.shares > 4 and math.prod(p.schedule.main.grid) * p.config.ctas > 0.75 * p.device.sms
    assert p.steps[-1] == f"sum_parts of dx, {p.config.shares} shares in order"
    assert [memory.shape for memory in shares] == [(p.config.shares, layer.n * layer.ci * math.prod(layer.in_size))]
    least = 8 * math.prod(shares[0].shape) / p.device.bandwidth
    assert terms(p).passes == least if p.schedule.workspaces == tuple(shares) else terms(p).passes > least
    assert_says_what_runs(p)


def test_shares_are_summed_in_order():
    problem = Problem.of_layer("grad_weight", **LAYER)
    steps = plan(problem, H200, replace(GATHER, shares=4)).steps
    assert "sum_parts, 4 shares in order" in steps
    assert math.prod(problem.kernel) == problem.taps == 8


def test_explain_says_what_binds_before_anything_is_compiled():
    problem = Problem.of_layer(n=2, ci=64, co=32, in_size=16, kernel=4, stride=2, padding=1)
    found, = [line for line in explain.text(plan(problem, H200)).splitlines() if line.startswith("bound ")]
    known = terms(plan(problem, H200))
    assert found.startswith(f"bound     {known.limit:.2f} times the roofline at best: dram {known.over['dram']:.2f}, l2 ")
    assert f"passes {known.passes / known.roofline:.2f}" in found and known.passes > 0
    unknown = Device("nvidia_own", (9, 0), 132, 232448)
    assert "bound  " not in explain.text(plan(problem, unknown)), "its rates are not known"
