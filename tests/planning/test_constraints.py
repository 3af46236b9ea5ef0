"""Doing without a path or deep pipelines: the text, the plans, and what calls remember."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from compile_rows import LAYERS
from launched import small

import triton_conv3dt as t3
from triton_conv3dt import functional
from triton_conv3dt.checking import check
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import constraints, explain, search, store
from triton_conv3dt.planning.config import PATHS, Config
from triton_conv3dt.planning.constraints import NONE, VARIABLE, Constraints, parse
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case
from triton_conv3dt.problems.problem import BACKWARD, DIRECTIONS, Problem

ROOT = Path(__file__).parents[2]
H200 = Device.named("nvidia_h200")
LAST = LAYERS["k2s2 channels_last"]
pytestmark = pytest.mark.usefixtures("nothing_excluded")


@pytest.mark.parametrize("text, expected", (
    ("", NONE), (" , ", NONE), ("descriptor", Constraints(frozenset({"descriptor"}))),
    ("onepass,descriptor onepass", Constraints(frozenset({"descriptor", "onepass"}))),
    ("stages>2", Constraints(most_stages=2)), ("stages>12, gather", Constraints(frozenset({"gather"}), 12)),
    ("stages>3,stages>2", Constraints(most_stages=2))))
def test_texts(text, expected):
    found = parse(text)
    assert found == expected == parse(str(found)) and hash(found) == hash(expected)
    assert bool(found) == (found != NONE) == bool(str(found))


def test_the_text_does_not_depend_on_the_order():
    for text in ("stages>2 onepass,descriptor", "descriptor onepass stages>2"):
        assert str(parse(text)) == "descriptor,onepass,stages>2"


@pytest.mark.parametrize("text, expected", (
    ("descripter", "received 'descripter'"), ("gather;direct", "received 'gather;direct'"),
    ("Direct", "received 'Direct'"),
    ("stages", "quote it, 'stages>2'"), ("stages>", "received 'stages>'"), ("stages > 2", "quote it"),
    ("stages>-1", "received 'stages>-1'"), ("stages>0", "'stages>0' leaves nothing")))
def test_texts_that_mean_nothing(text, expected):
    with pytest.raises(ValueError) as raised:
        parse(text)
    assert expected in str(raised.value)
    assert "leaves nothing" in expected or all(word in str(raised.value) for word in (*PATHS, "stages>N"))


def test_both_exclude_what_either_does():
    assert parse("gather,stages>3").union(parse("direct,stages>2")) == parse("gather,direct,stages>2")
    assert parse("gather").union(NONE) == NONE.union(parse("gather")) == parse("gather")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_plans_do_without(name, direction):
    problem = Problem.of_layer(direction, **LAYERS[name])
    free = launch.plan(problem, H200)
    assert free.constraints == NONE and "without" not in str(free)
    pointers = launch.plan(problem, H200, constraints=parse("descriptor"))
    assert pointers.config.path == ("direct" if name.startswith("depthwise") else "gather")
    assert free.config.path in ("descriptor", "walk", "pair") or pointers.config == free.config
    assert "without   descriptor\n" in str(pointers)
    for most in (1, 2):
        shallow = launch.plan(problem, H200, constraints=parse(f"stages>{most}"))
        otherwise = free.config.path == "walk" and most == 1 or free.config.path == "pair" and shallow.config.path in ("gather", "descriptor", "walk")
        assert shallow.config.stages <= most and (shallow.config.path == free.config.path or otherwise)
    dense = launch.plan(problem, H200, constraints=parse("direct"))
    assert dense.config.dense and (dense.config == free.config or name.startswith("depthwise"))
    assert launch.plan(problem, H200, constraints=parse("gather,descriptor")).config.path == "direct"


def test_descriptors_and_deep_pipelines_are_what_is_escaped():
    """Otherwise the plans above would hold of nothing. A kernel = stride has no more stages than steps."""
    for name, stages in (("k2s2 channels_last", 2), ("k4s2p1 channels_last", 3)):
        default = search.default(Problem.of_layer(**LAYERS[name]), H200)
        assert default.path == "pair" and default.stages >= stages
    assert search.default(Problem.of_layer(**LAYERS["k4s2p1 channels_last"]), H200, parse("pair")).path == "descriptor"


@pytest.mark.parametrize("text", ("stages>2", "descriptor,direct"))
def test_all_that_is_tried_may_be_used(text):
    without, problem = parse(text), Problem.of_layer(**LAST)
    for configs in (search.sensible, search.candidates, search.ranked):
        found = configs(problem, H200, without)
        assert found and not any(map(without.refuses, found))
        assert any(map(without.refuses, configs(problem, H200)))
    assert search.ranked(problem, H200, without)[0] == search.default(problem, H200, without)


def test_one_pass():
    problem = Problem.of_layer(BACKWARD, **LAST)
    assert search.one_pass(problem, H200).stages == 3
    assert search.one_pass(problem, H200, parse("onepass")) is None
    assert search.one_pass(problem, H200, parse("stages>2")).stages == 2
    assert search.one_pass(problem, H200, parse("descriptor")) == search.one_pass(problem, H200)
    gradient = Problem.of_layer("grad_input", **LAST)
    assert "in one pass instead" in explain.text(launch.plan(gradient, H200))
    assert "in one pass" not in explain.text(launch.plan(gradient, H200, constraints=parse("onepass")))


@pytest.mark.parametrize("config, text, reason", (
    (Config("descriptor", 64, 64, 32), "descriptor,direct", "the descriptor path is excluded by 'descriptor,direct'"),
    (Config("gather", 64, 64, 32, stages=3), "stages>2", "a pipeline of 3 stages is excluded by 'stages>2'")))
def test_a_given_config_may_be_refused(config, text, reason):
    problem = Problem.of_layer(**LAST)
    assert launch.plan(problem, H200, config, NONE).config == config
    with pytest.raises(ValueError) as raised:
        launch.plan(problem, H200, config, parse(text))
    assert reason in str(raised.value) and str(config) in str(raised.value)


def test_a_tuned_config_may_be_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "search_path", lambda: [tmp_path])
    problem, tuned = Problem.of_layer(**LAST), Config("descriptor", 64, 32, 32, stages=4)
    path, = store.save([store.Entry(problem, tuned)], H200, {}, tmp_path)
    assert store.choose(problem, H200).config == tuned
    assert store.lookup(problem, H200, constraints=parse("direct")).config == tuned
    for text in ("descriptor", "stages>2"):
        found = store.choose(problem, H200, parse(text))
        assert found.config == search.default(problem, H200, parse(text))
        assert f"{path}:8 is rejected: " in found.source and f"is excluded by {text!r}" in found.source
        assert store.lookup(problem, H200, constraints=parse(text)) is None


@pytest.mark.parametrize("changed, text, allow", (
    ({"dtype": "float64"}, "direct", "allow direct again"),
    ({}, "gather,descriptor,direct", "allow descriptor or gather or pair or direct again"),
    ({"layout": "channels_first"}, "gather,direct,pair", "allow gather or pair or direct again"),
    ({"direction": "grad_weight"}, "gather,direct", "allow gather or direct again")))
def test_where_nothing_is_left_it_says_what_would_do(changed, text, allow):
    problem = Problem.of_layer(**LAST | changed)
    with pytest.raises(ValueError, match=f"without {text}: {allow}"):
        launch.plan(problem, H200, constraints=parse(text))


@pytest.fixture
def planned(monkeypatch):
    """The plans that calls make, in order; nothing is remembered from before."""
    plans, plan = [], launch.plan
    monkeypatch.setattr(launch, "_records", {})
    monkeypatch.setattr(functional, "_calls", {})
    monkeypatch.setattr(launch, "plan", lambda *given, **named: plans.append(plan(*given, **named)) or plans[-1])
    return plans


def operands(device):
    """x and w of a layer that a descriptor can read, and dy."""
    normal = lambda *shape: torch.randn(shape, dtype=torch.float16, device=device)
    last = dict(memory_format=torch.channels_last_3d)
    return (normal(1, 32, 2, 2, 3).contiguous(**last).requires_grad_(), normal(32, 32, 1, 1, 2).requires_grad_(),
            normal(1, 32, 2, 2, 6).contiguous(**last))


GIVEN = dict(stride=(1, 1, 2), padding=(0, 0, 0), dilation=(1, 1, 1), groups=1, precision="tf32")
CALLS = {
    "a call": lambda x, w, dy: t3.conv_transpose3d(x, w, stride=(1, 1, 2), backend="triton").detach(),
    "the operator": lambda x, w, dy: launch.forward(x, w, None, None, (2, 2, 6), activation=None, **GIVEN)[0],
    "the input gradient": lambda x, w, dy: launch.grad_input(dy, w, in_size=(2, 2, 3), **GIVEN),
    "the weight gradient": lambda x, w, dy: launch.grad_weight(x, dy, kernel=(1, 1, 2), strides=w.stride(), **GIVEN),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_remembered_is_for_these_constraints(name, device, planned):
    """The same call free, without the path it took, and both again: each is planned once, and its own plan runs."""
    given = [t.detach() for t in operands(device)]
    free = CALLS[name](*given)
    without = parse(planned[0].config.path)
    for excluded in (without, NONE, without):
        with constraints.using(excluded):
            torch.testing.assert_close(CALLS[name](*given), free)
    assert len(planned) == 2 and planned[1].config.path != planned[0].config.path
    assert [plan.constraints for plan in planned] == [NONE, without]


def test_one_pass_is_remembered_for_these_constraints(device, planned, monkeypatch):
    few_places = lambda problem, device, without: None if without.refuses(c := small(problem, device)) else c
    monkeypatch.setattr(search, "one_pass", few_places)  # the default wants more than the interpreter bears
    x, w, dy = (t.detach() for t in operands(device))
    if small(Problem.of_layer(BACKWARD, n=1, ci=8, co=8, in_size=2, kernel=1), launch._device(x)) is None:
        pytest.skip("this device has no one pass")

    def gradients():
        return launch.backward(dy, x, w, None, False, w.stride(), (1, 1, 2), (0,) * 3, (1,) * 3, 1, "tf32", None)[:2]

    together = gradients()
    assert [plan.config.path for plan in planned] == ["onepass"]
    with constraints.using(parse("onepass")):
        apart = gradients()
    assert [plan.problem.direction for plan in planned[1:]] == ["grad_input", "grad_weight"]
    gradients()
    assert len(planned) == 3
    for ours, theirs in zip(together, apart):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_a_compiled_graph_follows(device, planned):
    """The operator is planned when it runs, the constraints are not part of the graph."""
    x, w, dy = operands(device)
    layer = lambda x, w: t3.conv_transpose3d(x, w, stride=(1, 1, 2), backend="triton")
    fast = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = []
    for without in (NONE, parse("gather,descriptor"), NONE):
        with constraints.using(without):
            y = fast(x, w)
            found.append((y, *torch.autograd.grad(y, (x, w), dy)))
    assert [plan.constraints for plan in planned] == [NONE] * 3 + [parse("gather,descriptor")] * 3
    assert {plan.config.path for plan in planned[3:]} == {"direct"} and planned[0].config.path != "direct"
    for free, constrained in zip(*found[:2]):
        torch.testing.assert_close(free, constrained, rtol=2e-2, atol=2e-2)


def test_other_threads_follow():
    seen = []
    with constraints.using(parse("direct")):
        thread = threading.Thread(target=lambda: seen.append(constraints.current()))
        thread.start()
        thread.join()
    assert seen == [parse("direct")] and constraints.current() == NONE


SCRIPT = """
import torch, triton_conv3dt as t3
x, w = torch.ones(1, 8, 2, 2, 2, dtype=torch.float16), torch.ones(8, 8, 2, 2, 2, dtype=torch.float16)
t3.conv_transpose3d(x, w, stride=2)
for _ in range(2):
    try:
        t3.conv_transpose3d(x, w, stride=2, backend="triton")
    except ValueError as error:
        print("refused:", error)
from triton_conv3dt import functional
print([record.plan.config.path for call in functional._calls.values() for record in call.records.values()])
"""


@pytest.mark.parametrize("text, expected", (
    ("gather descriptor", "['direct']\n"),
    ("descripter", ("refused: TRITON_CONV3DT_WITHOUT='descripter': expected words of gather, descriptor, direct, onepass, walk, pair, "
                    "and stages>N for pipelines of more than N stages, received 'descripter'\n") * 2 + "[]\n")))
def test_the_environment_variable(text, expected):
    """A malformed one is an error of every call that needs it; importing and PyTorch's path do not."""
    environment = os.environ | {VARIABLE: text, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    shown = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True,
                           timeout=120)
    assert (shown.returncode, shown.stdout) == (0, expected), shown.stderr


def test_the_checker_takes_another_path(planned):
    with constraints.using(parse("gather,descriptor")):
        check.Checker(check.interpreted()).check(case.parse("ci32 co16 in2x3x4 k2 s2 channels_last"))
    assert [plan.config.path for plan in planned] == ["direct"]
