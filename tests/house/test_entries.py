"""An activation is one entry, two kernels and a definition: where one is missing, its file is named."""

import ast
from inspect import signature
from pathlib import Path

import pytest

from triton_conv3dt.checking import reference
from triton_conv3dt.ops import activations
from triton_conv3dt.problems.activations import ACTIVATIONS, ALIASES, Activation
from triton_conv3dt.tf.activations import APPLIED

ENTRIES, KERNELS, DEFINITIONS = (f"triton_conv3dt/{path}.py" for path in (
    "problems/activations", "kernels/activations", "checking/reference"))


def functions() -> dict[str, list[str]]:
    """The functions of the kernels' file with the names of their arguments."""
    text = Path(__file__).parents[2].joinpath(KERNELS).read_text()
    return {node.name: [argument.arg for argument in node.args.args] for node in ast.parse(text).body
            if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_entry_has_its_kernels_and_its_definition(name):
    found, parameters = functions(), ACTIVATIONS[name].parameters
    for function, argument in ((name, "z"), (f"{name}_derivative", "saved")):
        assert function in found, f"{ENTRIES} has {name!r}: {KERNELS} lacks {function}({argument}, A, B)"
        assert found[function][1:] == ["A", "B"], f"{KERNELS}: {function} does not take what it is given, A and B"
    assert name in reference._ACTIVATIONS, f"{ENTRIES} has {name!r}: the table at the end of {DEFINITIONS} lacks it"
    assert len(parameters) <= 2, f"{ENTRIES}: {name!r} has more parameters than A and B"
    if parameters:
        defaults = [p.default for p in signature(reference._ACTIVATIONS[name][1]).parameters.values()][1:]
        assert defaults == list(parameters.values()), f"{DEFINITIONS}: {name!r} has other defaults than in {ENTRIES}"


def test_what_has_a_kernel_or_a_definition_has_an_entry():
    kernels = {name.removesuffix("_derivative") for name in functions() if name.endswith("_derivative")}
    for path, names in ((KERNELS, kernels), (DEFINITIONS, set(reference._ACTIVATIONS))):
        unknown = ", ".join(sorted(names - set(ACTIVATIONS)))
        assert not unknown, f"{path} has {unknown}, of which {ENTRIES} knows nothing"


def test_a_name_means_one_activation():
    entries = ACTIVATIONS.values()
    keras = [name for entry in entries for name in entry.keras]
    pytorch = [activations._named(function) for entry in entries for function in entry.functions]
    for names in (keras, pytorch, [*ACTIVATIONS, *ALIASES]):
        assert len(names) == len(set(names)), f"{ENTRIES}: two entries have a name in common"
    assert not APPLIED.keys() & {*keras, *ACTIVATIONS}, "triton_conv3dt/tf/activations.py applies what is fused"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_parameters_are_attributes_of_the_module(name):
    entry = ACTIVATIONS[name]
    if entry.module:
        module = activations._named(entry.module)(**entry.where)
        assert Activation.of(activations.recognised(module)) == Activation.of(name), f"{ENTRIES}: {name!r}"
