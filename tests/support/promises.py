"""What is promised to the compiler, against the true offsets as integers: no kernel runs.

A promise is a run of a tensor: along some axis of a tile, so many neighbours lie side by side in memory and begin at a
multiple of their number, wherever one of them is live. Another is that 31 bits hold every offset and every count of
positions unless Problem.wide. Random problems on random memory; of each, one tile of one program.

    python promises.py [number] [seed]      as many problems as you like, and how many promises were false
"""

import random
import sys
from collections import Counter

from promise_calls import H200, Call, choose, draw
from promise_gradients import Copy, OnePass, Residues, WeightGradient
from promise_lanes import Lanes
from promise_products import Product
from triton_conv3dt.launching.tensors import empty, layout_of
from triton_conv3dt.planning.plan import plan
from triton_conv3dt.problems.problem import BACKWARD


def check(call: Call, rng: random.Random) -> tuple[str, list[str]]:
    """What is computed of a call, "" where no config was found; and the promises that are false."""
    problem = call.problem()
    if problem.direction == BACKWARD and problem.y_layout != layout_of(empty(call.x.shape, call.y)):
        return "", []
    config = choose(rng, problem)
    if config is None:
        return "", []
    schedule = plan(problem, H200, config).schedule
    kind = {"grad_weight": WeightGradient, BACKWARD: OnePass}.get(problem.direction, Product) if config.dense else Lanes
    found, runs = [], 1
    copies = [schedule.workspaces[:2]] if problem.direction == "grad_weight" and config.copy else []
    tried = [kind(call, problem, config, schedule.main, rng, *copies)]
    tried += [Residues(call, *made, rng) for each in copies for made in zip(schedule.launches, each)]
    tried += [Copy(call, launch, rng) for launch in schedule.launches if launch.kernel == "to_channels_last"]
    for access in (access for one in tried for access in one.accesses()):
        found += access.false_promises(problem.wide)
        runs = max(runs, getattr(access, "run", 1))
    product = schedule.main
    form = (product.constants["X"].reading if product.kernel == "gather" else config.path) + " of a copy" * config.copy
    return f"{problem.direction} {form}{' wide' * problem.wide}{', runs' * (runs > 1)}", [
        f"{reason}: {problem}, {config}, {call}" for reason in found]


def main(n: int, seed: int, report=lambda text: None, sought: str | None = None) -> tuple[Counter, list[str]]:
    """Check n random calls; how many there were of each kind, and the false promises.

    Where a text is sought, the first false promise that says it is the end.
    """
    rng, kinds, found = random.Random(seed), Counter(), []
    for i in range(n):
        kind, false = check(draw(rng), rng)
        kinds[kind] += 1
        found += false
        if false or i % 50000 == 49999:
            report(f"{i + 1} problems, {len(found)} false promises" + "".join(f"\n  {text}" for text in false))
        if sought and any(sought in text for text in false):
            break
    return kinds, found


if __name__ == "__main__":
    given = [*map(int, sys.argv[1:]), 1000, 0]
    kinds, found = main(given[0], given[1 if len(given) > 3 else -1], lambda text: print(text, flush=True))
    print(*(f"{count:8} {kind or 'nothing that fits'}" for kind, count in sorted(kinds.items())), sep="\n")
    sys.exit(f"{len(found)} false promises" if found else 0)
