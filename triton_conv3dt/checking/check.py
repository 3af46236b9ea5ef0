"""Whether kernels compute what they should, on the GPU of this machine or, without one, in Triton's interpreter.

Operands are small integers among NaN, so that the result is known to the bit and a read outside them shows; the output
starts as NaN between bytes that nobody may touch. A kernel runs in a worker process: one that hangs or crashes is a
failure like another.
"""

import math
import os
from dataclasses import replace

from ..problems import sampling
from ..problems.problem import Problem
from ..worker import Failure, Worker

GPU_DTYPES = ("float16", "bfloat16", "float32")
INTERPRETER_DTYPES = ("float16", "float32")  # its products of bfloat16 are wrong
SECONDS = {True: 600.0, False: 120.0}  # that a problem may take, interpreted and not
MOST_WORK = 4e6  # multiply-adds of a problem that the interpreter runs as it is; seconds
MOST_TRIES = 40  # problems that are run to find a smaller one that fails
GUARD = 256  # elements of NaN before and after an operand; they keep it aligned


class Checker:
    """Runs problems and compares them with the definition. It lives in a worker process.

    interpret: run kernels in Triton's interpreter, on the CPU.

    Raises:
        RuntimeError: kernels cannot run here, with the reason.
    """

    def __init__(self, interpret: bool):
        if interpret:
            os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
        import torch

        from ..launching import launch

        self._where = "cpu" if interpret else "cuda"
        some = torch.empty(1, device=self._where)
        if reason := launch.unsupported(some, some):
            raise RuntimeError(reason)

    def check(self, problem: Problem) -> None:
        """Compute a problem with the config that a call would use.

        Raises:
            Wrong: the result is not exact, or something outside the output was written.
            Exception: whatever compiling and launching raise.
        """
        from ..launching import launch
        from ..planning import constraints, device
        from . import trial_tensors

        target = device.Device.named("nvidia_h200") if self._where == "cpu" else device.current()
        given, zone = trial_tensors.integers(problem, self._where), trial_tensors.red_zone(problem, self._where)
        truth = trial_tensors.truth(problem, given)
        tensors = {name: _among_nan(getattr(given, name)) for name in ("x", "w", "y", "b", "residual")}
        plan = launch.plan(problem, target, constraints=constraints.current())
        launch.run(launch.bind(plan), **tensors | {trial_tensors.written(problem): zone.view})
        zone.check(truth, trial_tensors.ulps(problem))


def interpreted() -> bool:
    """Kernels are checked in the interpreter: there is no GPU, or TRITON_INTERPRET asks for it."""
    import torch

    from ..launching import launch

    return launch.interpreting() or not torch.cuda.is_available()


def prepared(problem: Problem, interpret: bool) -> Problem:
    """The problem as it is checked: reduced to what the interpreter can run, without a second output."""
    problem = replace(problem, epilogue=replace(problem.epilogue, keep_pre=False))
    small = sampling.reduced(problem) if interpret and problem.flops > 2 * MOST_WORK else problem
    return problem if small == problem else replace(small, wide=False)


def unchecked(problem: Problem, interpret: bool) -> str | None:
    """Why a problem cannot be checked here, or None."""
    if interpret and problem.dtype == "bfloat16":
        return "Triton's interpreter computes products of bfloat16 wrongly"
    if 0 in (problem.n, problem.ci, problem.co):
        return "there is nothing to compute"
    return None


def check(problems: list[Problem], interpret: bool, progress=None):
    """Check problems in turn; yields each with None where it is right, else the smallest found that fails alike and
    its Failure.

    Raises:
        RuntimeError: kernels cannot run here, with the reason.
    """
    with Worker(Checker, interpret) as worker:
        for problem in problems:
            if progress:
                progress.step(str(problem))
            ask = lambda problem: worker.ask("check", problem, seconds=SECONDS[interpret])
            failure = ask(problem)
            yield shrunk(problem, failure, ask) if failure else (problem, None)


def shrunk(problem: Problem, failure: Failure, ask) -> tuple[Problem, Failure]:
    """The smallest problem, of those that a few steps lead to, that fails as this one does; and how it fails.

    ask: the Failure of a problem, None where it is right.
    """
    tries = 0 if failure.lost or failure.kind == "memory" else MOST_TRIES
    candidates = iter(sampling.smaller(problem))
    for _ in range(tries):
        candidate = next(candidates, None)
        if candidate is None:
            break
        answer = ask(candidate)
        if answer and answer.kind == failure.kind:
            problem, failure, candidates = candidate, answer, iter(sampling.smaller(candidate))
    return problem, failure


def _among_nan(t):
    """The values of a dense tensor at the same strides, with NaN before and after them."""
    import torch

    if t is None:
        return None
    storage = torch.full((t.numel() + 2 * GUARD,), math.nan, dtype=t.dtype, device=t.device)
    return storage.as_strided(t.shape, t.stride(), GUARD).copy_(t)
