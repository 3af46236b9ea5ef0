"""Run as a program: compile plans ahead as tune does, then launch them with a driver that is not there.

Prints, as JSON, what compiling ahead answered, and which kernels the launches compiled that were not in the cache.
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
CASES = ("forward ci64 co32 in16 k2 s2 bias", "grad_input ci64 co32 in16 k2 s2 channels_last")


def compiled() -> set[Path]:
    """The main kernels in Triton's cache."""
    return {path for path in Path(os.environ["TRITON_CACHE_DIR"]).rglob("*.cubin")
            if path.stem in ("gather", "pair", "grad_weight")}


if __name__ == "__main__":
    from triton.runtime import driver

    import stub_driver
    from triton_conv3dt.checking import trial_tensors
    from triton_conv3dt.launching import launch
    from triton_conv3dt.planning import search
    from triton_conv3dt.problems import case
    from triton_conv3dt.measuring.precompile import Compilers

    device = launch.devices.Device.named("nvidia_h200")
    todo = [(problem, search.default(problem, device)) for problem in map(case.parse, CASES)]
    compilers = Compilers(device, 1)
    for one in todo:
        compilers.submit(*one)
    answers = [compilers.wait(*one, 120) for one in todo]
    compilers.close()
    before = compiled()
    driver.set_active(stub_driver.StubDriver())
    for problem, config in todo:
        given = trial_tensors.normals(problem, "cpu")
        launch.run(launch.bind(launch.plan(problem, device, config)), given.x, given.w, given.y, given.b)
    print(json.dumps(dict(answers=answers, ahead=len(before), later=sorted(path.stem for path in compiled() - before))))
