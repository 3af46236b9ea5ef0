"""A plan in words, and many plans as a table."""

import re
import shlex
from dataclasses import replace
from math import prod

from ..problems import case
from ..problems.problem import BACKWARD, Epilogue, Problem
from . import lowering, search
from .config import rows_and_reduction
from .device import LEAST_CAPABILITY
from .planned import Plan
from .terms import terms

COLUMNS = ("layer", "direction", "config", "launches", "GFLOP", "MB", "roofline us", "bound", "source")


def text(plan: Plan) -> str:
    """All there is to say about one plan, and the command that tunes what is not tuned."""
    lines = [f"case      {case.format(plan.problem)}", str(plan), f"product   {product(plan)}"]
    if plan.problem.direction != "forward":
        if config := search.one_pass(backward(plan.problem), plan.device, plan.constraints):
            lines.append(f"step      a training step takes this and the other gradients in one pass instead: {config}")
    if found := terms(plan):
        about = {"issue", "integer"}
        said = ", ".join(f"{name} {'about ' * (name in about)}{times:.2f}" for name, times in found.over.items() if times)
        lines.append(f"bound     {found.limit:.2f} times the roofline at best: {said}, passes {found.passes / found.roofline:.2f}; "
                     "inspect counts the instructions")
    if plan.device.capability < LEAST_CAPABILITY:
        lines.append(f"note      {too_old()}")
    elif tuned(plan) != "exact":
        lines.append(f"tune      triton-conv3dt tune --case {shlex.quote(case.format(plan.problem))}{without(plan)}")
    return "\n".join(lines)


def without(plan: Plan) -> str:
    """What a command needs after it to do without what the plan does without."""
    return f" --without {shlex.quote(str(plan.constraints))}" if plan.constraints else ""


def backward(problem: Problem) -> Problem:
    """All gradients of the layer of a gradient, its bias's among them."""
    return replace(problem, direction=BACKWARD, epilogue=Epilogue(bias=True))


def product(plan: Plan) -> str:
    """What is multiplied, in words: which phases share a product, its rows, its columns, and what it sums over."""
    p, c = plan.problem, plan.config
    written, summed = rows_and_reduction(p)
    positions = p.n * prod(lowering.steps(p, c))
    each = f" in each of {p.groups} groups" * (p.groups > 1)
    if p.direction == "grad_weight":
        shares = f" in {c.shares} shares" * (c.shares > 1)
        products = count(p.taps, "product") + ", one per tap" * (p.taps > 1)
        return (f"{products}: {p.ci_group} by {p.co_group} channels{each}, a sum over {count(positions, 'position')}"
                f"{shares}")
    if p.direction == "grad_input":
        return (f"1 product: {count(written, 'channel')}{each} by {count(positions, 'position')}, a sum over "
                f"{count(summed, 'channel')} and {count(p.taps, 'tap')}")
    merged = prod(a.stride for a, m in zip(p.axes, c.merge) if m)
    separate = prod(a.stride for a, m in zip(p.axes, c.merge) if not m)
    reached = [[constants.taps] if m else [phase.taps for phase in a.phases()]
               for a, m, constants in zip(p.axes, c.merge, lowering.axis_constants(p, c))]
    fewest, most = prod(map(min, reached)), prod(map(max, reached))
    taps = count(most, "tap") if fewest == most else f"{fewest} to {most} taps"
    if separate == 1:
        products, channels = "1 product" + f" of all {merged} phases" * (merged > 1), " of each phase" * (merged > 1)
    elif merged == 1:
        products, channels = f"{separate} products, one per phase", ""
    else:
        products, channels = f"{separate} products of {merged} phases each", " of each phase"
    return (f"{products}: {count(written, 'channel')}{channels}{each} by {count(positions, 'position')}, a sum over "
            f"{count(summed, 'channel')} and {taps}")


def too_old() -> str:
    """What is to be said of a device below LEAST_CAPABILITY."""
    return "a call on this device runs PyTorch: the kernels need capability {}.{} or later".format(*LEAST_CAPABILITY)


def tuned(plan: Plan) -> str:
    """Where a plan's config came from, in a word: "exact", "near", "rejected" (the default instead) or "default"."""
    if not plan.source.startswith("tuned"):
        return "rejected" if " is rejected: " in plan.source else "default"
    return "near" if ", near: " in plan.source else "exact"


def table(named: list[tuple[str, Plan]]) -> str:
    """One line per plan."""
    return aligned([COLUMNS, *(_row(name, plan) for name, plan in named)])


def aligned(rows: list[tuple[str, ...]]) -> str:
    """The cells in columns; those of numbers, below the heading, to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    right = [all(re.fullmatch("[-0-9.,%?]*", cell) for cell in cells[1:]) for cells in zip(*rows)]
    return "\n".join("  ".join(cell.rjust(width) if to_right else cell.ljust(width)
                               for cell, width, to_right in zip(row, widths, right)).rstrip() for row in rows)


def _row(name: str, plan: Plan) -> tuple[str, ...]:
    p, c = plan.problem, plan.config
    tile = f"{c.block_m}x{c.block_n}" + f"x{c.block_k}" * (c.path != "direct")
    time, bound = plan.roofline or (0.0, "")
    return (name, p.direction, f"{c.path} {tile}, {c.warps} warps", str(len(plan.steps)), f"{p.flops / 1e9:.2f}",
            f"{p.bytes / 1e6:.2f}", f"{time * 1e6:.1f}" if bound else "?", bound, tuned(plan))


def count(number: int, noun: str) -> str:
    """A number of things: "1 tap", "8 taps"."""
    return f"{number} {noun}" + "s" * (number != 1)
