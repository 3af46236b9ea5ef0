"""On a GPU: sensible configs at real sizes. Tiles as they are used, pipelines that fill, every path: compilers have
got kernels of this kind wrong."""

import pytest
import torch
from compile_rows import LAYERS

from triton_conv3dt.checking import trial_tensors
from triton_conv3dt.launching import launch
from triton_conv3dt.planning import device, search
from triton_conv3dt.problems.problem import DIRECTIONS, Problem
from triton_conv3dt.worker import failure

pytestmark = pytest.mark.gpu
NAMES = [name for name in LAYERS if name != "k2s2 tf32"]  # "k2s2" in another dtype, and every dtype is tried here
# Of float16 all configs are tried, of the others every third where there are many: as what varies in the list has
# powers of two as its numbers, that meets every tile, path and number of stages.
EVERY, MANY = {"float16": 1, "bfloat16": 3, "float32": 3}, 12
SHARES = 4  # of a problem's configs: processes get alike much to compile, and what breaks one share leaves the others


_prepared = {}


def prepared(problem):
    """Operands of a problem and the exact result, kept: a process often has several shares of one problem in a row."""
    if problem not in _prepared:
        _prepared.clear()
        torch.cuda.empty_cache()  # a dozen processes share the device
        given = trial_tensors.integers(problem, "cuda")
        _prepared[problem] = given, trial_tensors.exact(problem, given)
    return _prepared[problem]


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", EVERY)
@pytest.mark.parametrize("name", NAMES)
def test_results_are_exact(name, dtype, direction, share, trying):
    problem = Problem.of_layer(direction, **LAYERS[name] | dict(dtype=dtype))
    here, configs = device.current(), search.sensible(problem, device.current())
    if len(configs) > MANY:
        configs = list(dict.fromkeys([search.default(problem, here), *configs[::EVERY[dtype]]]))
    if share >= len(configs):
        pytest.skip(f"there are fewer than {SHARES} configs")
    failed = []
    for config in configs[share::SHARES]:
        trying(str(config))
        try:
            check(problem, config)
        except Exception as error:  # the other configs are tried as well, while the device works
            found = failure(error)
            if found.lost:
                raise
            failed.append(f"{config}: {found.kind}: {found.reason}")
    assert not failed, "\n".join(failed)


def check(problem, config):
    """Run a config into a red-zoned output.

    Raises:
        Wrong: the result or its surroundings are not what they should be.
        Exception: whatever compiling and launching raise.
    """
    given, truth = prepared(problem)
    zone = trial_tensors.red_zone(problem, "cuda")
    tensors = dict(x=given.x, w=given.w, y=given.y) | {trial_tensors.written(problem): zone.view}
    record = launch.bind(launch.plan(problem, device.current(), config))
    launch.run(record, **tensors, b=given.b, residual=given.residual)
    zone.check(truth, trial_tensors.ulps(problem))
