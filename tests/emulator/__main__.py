"""Runs the library as compiled, at random, until the time is up: `make test-compiled ARGS="--minutes 30 --seed 7"`.

A case follows from the seed, its part and its number alone, so --case with those runs it again.
"""

import argparse
import random
import sys
import time
import warnings
from collections import Counter

from triton_conv3dt.planning.device import Device
from triton_conv3dt.progress import Progress

from .cases import Cases, Failed, Skip
from .driver import TARGETS
from .library import emulated
from .parts import PARTS


def arguments():
    """What may be typed."""
    parser = argparse.ArgumentParser(
        prog="make test-compiled ARGS=...",
        description="Run the library's compiled kernels with no GPU, on random problems, until the time is up.")
    parser.add_argument("--minutes", type=float, default=5, help="of all parts and targets together (5)")
    parser.add_argument("--seed", type=int, default=0, help="what is drawn follows from it (0)")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="of what is run; all by default")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS), help="GPUs; both by default")
    parser.add_argument("--case", type=int, help="run this one case of every part and target, not those from 0 on")
    return parser.parse_args()


def main() -> int:
    """1 where something failed."""
    args, failed, found = arguments(), 0, Counter()
    warnings.simplefilter("ignore")
    turns = [(part, target) for part in args.part for target in args.target
             if part != "onepass" or Device.named(target).warpgroups]  # its kernel is for no other
    progress = Progress(round(60 * args.minutes) if args.case is None else len(turns), every=20.0)
    end, seconds = time.monotonic() + 60 * args.minutes, 0
    for i, (part, target) in enumerate(turns):
        with emulated(target, exact=True) as emulator:
            cases, device = Cases(emulator), Device.named(target)
            budget = time.monotonic() + (end - time.monotonic()) / (len(turns) - i)
            numbers = range(2**31) if args.case is None else (args.case,)
            for number in numbers:
                if args.case is None and number and time.monotonic() > budget:  # one at least, however late it is
                    break
                failed += not run(cases, part, number, args.seed, target, device, progress)
                spent = round(time.monotonic() - end + 60 * args.minutes)
                for _ in range(max(0, spent - seconds) if args.case is None else 1):
                    progress.step(f"{part} on {target}, case {number}, {failed} failed")
                seconds = max(seconds, spent)
        found.update({f"cases of {part} on {target}": cases.done, "skipped": cases.skipped})
        found.update({f"launches of {name}": count for name, count in cases.kernels.items()})
        found.update({f"launches with {name}": count for name, count in cases.forms.items()})
    progress.close()
    for name, count in found.items():
        print(f"{count:8d} {name}")
    print(f"{failed} failed")
    return 1 if failed else 0


def run(cases, part, number, seed, target, device, progress) -> bool:
    """Whether a case is right; if not, it is said what runs it again."""
    try:
        cases.run(*PARTS[part](random.Random(f"{seed} {part} {target} {number}"), device))
    except Skip:
        cases.skipped += 1
    except Failed as failure:
        progress.say(f'FAILED make test-compiled ARGS="--seed {seed} --part {part} --target {target} --case {number}"\n'
                     f"       {failure}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
