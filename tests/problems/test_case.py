"""The textual form of a problem: what is printed can be read back, by this program and by people."""

from dataclasses import fields, replace

import pytest

from cases import CORPUS, sample
from triton_conv3dt.problems import case
from triton_conv3dt.problems.layers import layers, select
from triton_conv3dt.problems.activations import ACTIVATIONS, Activation
from triton_conv3dt.problems.problem import DIRECTIONS, Epilogue, Problem

LAYER = dict(n=2, ci=64, co=32, in_size=(64, 64, 64), kernel=(2, 2, 2), stride=(2, 2, 2))


def test_the_example_is_what_it_says():
    assert case.parse(case.EXAMPLE) == Problem.of_layer(**LAYER, bias=True)
    assert case.format(case.parse(case.EXAMPLE)) == case.EXAMPLE


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_problem_comes_back(direction):
    """The corpus has crops that PyTorch's arguments cannot express, holes, no batch."""
    for c in (*CORPUS, *sample(3, 200), *layers()):
        problem = Problem.of_shape(c, direction)
        assert case.parse(case.format(problem)) == problem, c
    for layer in layers():
        problem = layer.problem(direction)
        assert case.parse(case.format(problem)) == problem, layer.name


@pytest.mark.parametrize("changed", (
    dict(dtype="float32", precision="ieee"), dict(precision="tf32x3"), dict(y_layout="channels_last"),
    dict(x_layout="channels_last"), dict(w_minor="other"), dict(x_alignment=1, y_alignment=4, w_alignment=8),
    dict(wide=True, even=False), dict(epilogue=Epilogue(True, True, Activation.of(("softplus", 2.0, 10.0)), True)),
    dict(epilogue=Epilogue(statistics="batch")),
), ids=str)
def test_every_field_comes_back(changed):
    problem = replace(Problem.of_layer(**LAYER), **changed)
    assert case.parse(case.format(problem)) == problem
    assert case.format(problem) != case.format(Problem.of_layer(**LAYER))


def test_no_field_is_forgotten():
    told = {"direction", "dtype", "precision", "x_layout", "epilogue", *case.FIELDS}
    told.update(case.COUNTS.values(), case.SIZES.values())
    assert {field.name for field in fields(Problem)} == told - {"output_padding"}
    said = {*case.FLAGS, "activation", *case.VALUES} - {*case.FIELDS}
    assert {field.name for field in fields(Epilogue)} == said


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_comes_back(name):
    problem = Problem.of_layer(**LAYER, activation=name)
    assert case.parse(case.format(problem)) == problem
    assert case.parse(f"ci64 co32 n2 in64 k2 s2 {name}") == problem


def test_large_tensors_have_wide_offsets_unless_they_are_told_not_to():
    assert case.parse("n1 ci1 co1 in1024 k2 s2").wide
    assert not case.parse("n1 ci1 co1 in1024 k2 s2 wide=False").wide


@pytest.mark.parametrize("text, expected", (
    ("", "lacks ci, co, in, k"),
    ("ci64 co32 in64", "lacks k"),
    ("ci64 co32 in64 k2 stride2", "'stride2' is not a word of a case"),
    ("ci64 co32 in64 k2 k3", "kernel is said twice"),
    ("ci64 co32 in64 k2 bias bias", "bias is said twice"),
    ("ci64 co32 in64x64 k2", "'in64x64' is not a word"),
    ("ci64 co32 in64x0x64 k2", "in must be at least 1"),
    ("ci6x6x6 co32 in64 k2", "ci is one integer"),
    ("ci64 co32 in64 k2 g3", "g3 in case"),
    ("ci64 co32 in64 k2 s2 op2", "op2 in case"),
    ("ci64 co32 in64 k2 s2 op1 out128", "both op and out"),
    ("ci64 co32 in4 k2 p9", "no output"),
    ("ci64 co32 in4 k2 w_minor=row", "w_minor is one of tap, co, ci, other"),
    ("ci64 co32 in4 k2 relu(1,2)", "takes 0 parameters"),
    ("ci64 co32 in4 k2 elu(one)", "could not convert"),
))
def test_refusals_say_what_was_read(text, expected):
    with pytest.raises(ValueError) as raised:
        case.parse(text)
    assert expected in str(raised.value)


def test_layers_are_chosen_by_name_network_kind_and_tag():
    names = lambda *patterns: {layer.name for layer in select(patterns)}
    assert names("nnunet_iso128_up1") == {"nnunet_iso128_up1"}
    assert names("nnunet") == names("NNU-NET") >= names("nnU-Net v2") != set()
    assert names("k=s") == {layer.name for layer in layers() if "k=s" in layer.tags}
    assert names("k3s2") == {layer.name for layer in layers() if (layer.kernel, layer.stride) == ((3,) * 3, (2,) * 3)}
    assert names("*_up4", "depthwise") == names("*_up4") | names("depthwise")
    assert names("all") == {layer.name for layer in layers()} and len(names("all")) == len(select(["all"])) == 220
    assert list(select(["medn", "nnunet"])) == sorted(select(["nnunet", "medn"]), key=layers().index)


@pytest.mark.parametrize("pattern, hint", (("nnunt", "nnU-Net v2"), ("k7s9", "k9s2"), ("zzz", "explain --layers all"),
                                           ("", "explain --layers all")))
def test_an_unknown_layer_is_refused_with_what_comes_close(pattern, hint):
    with pytest.raises(ValueError, match="no layer, network or tag") as raised:
        select([pattern])
    assert hint in str(raised.value)


def test_a_layer_is_a_problem_in_its_own_dtype_and_layout_or_another():
    layer = select(["nnunet_iso128_up4"])[0]
    assert layer.problem() == Problem.of_layer(**LAYER, bias=True)
    other = layer.problem("grad_input", "bfloat16", "channels_last")
    assert (other.dtype, other.x_layout, other.y_layout, other.w_minor) == ("bfloat16", *("channels_last",) * 2, "co")
    assert not other.epilogue.bias
