"""check: whether kernels compute what they should, here."""

import shlex
import sys

from ..problems.problem import DIRECTIONS
from . import options

RANDOM = 20  # problems where nothing else is asked


def add(commands) -> None:
    check = commands.add_parser(
        "check", help="whether kernels compute what they should, here",
        description="Run layers or random problems on the GPU of this machine, or in Triton's interpreter where there "
                    "is none, and compare the results with the definition, to the bit, in integers; watch what is "
                    "written around them.",
        epilog="exit status 1 where a result is wrong; each is one line, a small problem that fails alike, to be "
               "pasted back. examples: triton-conv3dt check; triton-conv3dt check --layers nnunet k3s2; "
               "triton-conv3dt check --n 500 --seed 7")
    options.add_problems(check)
    check.usage = check.usage.replace("(--layers", "([--n N] [--seed S] | --layers")
    drawn = check.add_argument_group("random problems")
    drawn.add_argument("--n", type=options.positive, metavar="N",
                       help=f"how many (default: {RANDOM} where nothing else is asked)")
    drawn.add_argument("--seed", type=int, metavar="S", help="the same problems for the same seed (default: 0)")
    options.add_run(check, DIRECTIONS)
    options.add_without(check)
    check.add_argument("--quiet", action="store_true", help="no progress")
    check.set_defaults(run=run, refuse=check.error)


def run(arguments) -> int:
    try:
        asked = _asked(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from ..checking import check
    from ..planning import constraints
    from ..planning.explain import count
    from ..problems import case
    from ..progress import Progress

    interpret = check.interpreted()
    if asked is None:
        asked = _random(arguments, check.INTERPRETER_DTYPES if interpret else check.GPU_DTYPES)
    left_out = [reason for problem in asked if (reason := check.unchecked(problem, interpret))]
    kept = [problem for problem in asked if not check.unchecked(problem, interpret)]
    problems = [check.prepared(problem, interpret) for problem in kept]
    _say_what_is_checked(interpret, sum(a.flops != b.flops for a, b in zip(kept, problems)), left_out)
    problems, wrong, large = list(dict.fromkeys(problems)), 0, 0
    without = f" --without {shlex.quote(str(constraints.current()))}" if constraints.current() else ""
    progress = Progress(len(problems), arguments.quiet, every=10.0)
    try:
        for problem, failure in check.check(problems, interpret, progress):
            if failure:
                replay = f"triton-conv3dt check --case {shlex.quote(case.format(problem))}{without}"
                progress.say(f"{replay}  # {failure.kind}: {failure.reason}")
                wrong += failure.kind != "memory"
                large += failure.kind == "memory"
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        progress.close()
    print(f"{count(len(problems) - large, 'problem')}: " + (f"{wrong} wrong" if wrong else "all right")
          + f"; {count(large, 'problem')} too large for this machine's memory" * (large > 0))
    return 1 if wrong else 0


def _asked(arguments):
    """The problems that were named, None where random ones are wanted."""
    named = [f"--{name}" for name in ("layers", "case", "model", "input") if getattr(arguments, name)]
    drawn = [f"--{name}" for name in ("n", "seed") if getattr(arguments, name) is not None]
    run = [f"--{name}" for name in ("direction", "precision", "layout") if getattr(arguments, name)]
    if named and drawn:
        arguments.refuse(f"{', '.join(drawn)} cannot be combined with {named[0]}: they are of random problems")
    if run and not named:
        arguments.refuse(f"{', '.join(run)} cannot be combined with random problems, which are of every kind")
    return [problem for _, problem in options.problems_of(arguments)] if named else None


def _random(arguments, dtypes):
    from ..problems import sampling

    dtypes = (arguments.dtype,) if arguments.dtype else dtypes
    return sampling.problems(arguments.seed or 0, arguments.n or RANDOM, dtypes)


def _say_what_is_checked(interpret: bool, reduced: int, left_out: list[str]) -> None:
    from ..planning import constraints
    from ..planning.explain import count

    without = f", without {constraints.current()}" if constraints.current() else ""
    if interpret:
        print("in Triton's interpreter on the CPU, which shows wrong results and accesses but no races" + without
              + f"; {count(reduced, 'problem')} reduced in size" * (reduced > 0))
    else:
        from ..planning import device

        print(f"on {device.current().name}{without}")
    for reason in dict.fromkeys(left_out):
        print(f"{count(left_out.count(reason), 'problem')} left out: {reason}")
