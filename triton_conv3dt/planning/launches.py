"""What a call launches, as values: every kernel in order, with its grid, what specialises it, and the tensors it is given.

Whoever runs a problem, explains it or compiles it ahead of time walks the same list. No tensors and no Triton here: tensors
are names, and so are types and activations.

The tensors of a problem are the layer's x, w and y, or the gradients of these, whatever the direction.
"""

from dataclasses import replace
from math import prod

from ..problems.geometry import ceil_div, power_of_two_divisor
from ..problems.problem import BACKWARD, Problem
from . import config as configs
from . import halos, lowering, pairs, taps, walk_memory, walks, weight_launches, weight_turns
from .config import Config
from .constants import Dot, Memory, Tile, WeightMemory
from .passes import (
    BLOCK, SUMMED, Launch, Schedule, Workspace, accumulator, activation_constants, copy, division, divisions, index, lane_constants,
    offset_width, pack, packed, product_constants, sum_biases)

OPERANDS = {  # what a caller brings, in this order
    "forward": ("x", "w", "y", "b", "residual", "pre"),  # and where statistics are wanted, "mean" and "variance"
    "grad_input": ("x", "w", "y"),
    "grad_weight": ("x", "w", "y"),
    BACKWARD: ("y", "x", "w", "saved", "dx", "dw", "db"),
}
READINGS = {"pointers": "pointers", "rows": "a descriptor of neighbours in a row", "box": "a descriptor of boxes",
            "strided": "a descriptor of strided boxes", "apart": "a descriptor of boxes of residues", "planes": "a descriptor of planes",
            "lines": "a descriptor of lines", "strided lines": "a descriptor of strided lines"}


def schedule(problem: Problem, config: Config) -> Schedule:
    """The launches of a problem with a config that fits it."""
    build = {"walk": _walk, "pair": _pair}.get(config.path, _gather)
    if problem.direction == "grad_weight":
        build = weight_launches.builder(problem, config)
    if problem.direction == BACKWARD:
        build = weight_launches.one_pass
    launches, workspaces = build(problem, config)
    if configs.shares_steps(config, problem):
        launches[-1:], parts = _shared(problem, config, launches[-1])
        workspaces.append(parts)
    operands = OPERANDS[problem.direction] + (("mean", "variance") if problem.epilogue.statistics else ())
    if configs.sums_bias(config, problem):
        operands += "db",
        launches.append(sum_biases(problem.co, rows := weight_turns.sum_rows(problem, config), "sums", "db"))
        workspaces.append(Workspace("sums", (rows, problem.co), (problem.co, 1), "float32"))
    return Schedule(operands, tuple(launches), tuple(workspaces))


def _gather(p: Problem, c: Config) -> tuple[list, list]:
    """A forward or an input gradient: x in another layout and w in another order where that is wanted, and the product."""
    forward, launches, workspaces = p.direction == "forward", [], []
    source, target, weight = ("x", "y", "w") if forward else ("y", "x", "w")
    if c.copy:
        first, memory = copy(p, source)
        source, launches, workspaces = "copied", [first], [memory]
    p = configs.seen(p, c)
    x_layout, y_layout = (p.x_layout, p.y_layout) if forward else (p.y_layout, p.x_layout)
    x_run, y_run = (p.x_run, p.y_run) if forward else (p.y_run, p.x_run)
    limit, minor = 16 // p.item, p.w_minor
    if c.copy:
        x_layout, x_run = "channels_last", power_of_two_divisor(p.ci if forward else p.co, limit)
    if lowering.packs(p, c):
        rounded = lowering.rounded_before(p, c)
        weight, minor = "packed", "ci" if rounded and forward else "co"
        launches.append(pack(p, minor, rounded))
        workspaces.append(packed(p, minor))
    rows, red = configs.rows_and_reduction(p)
    written = lambda alignment: lowering.written_run(p, c, y_layout, alignment)
    y_last, join = y_layout == "channels_last", configs.join_factor(p, c.merge)
    r_run = written(p.r_run) if p.epilogue.residual else 1
    if not c.dense and not y_last and written(y_run) == 1:  # then phases are written one by one, and are no neighbours
        r_run = 1
    constants = product_constants(p, c) | dict(
        ROWS=rows, RED=red,
        X=Memory(x_layout == "channels_last", lowering.gathered_run(p, c, x_layout, x_run), lowering.reading(p, c)),
        Y=Memory(y_last, written(y_run)), R=Memory(y_last and r_run > 1, r_run),
        **activation_constants("ACTIVATION", p.epilogue.activation))
    if c.dense:
        dense = power_of_two_divisor({"co": p.co_group, "ci": p.ci_group, "tap": p.taps}.get(minor, 1), limit)
        role = {"co": "row" if forward else "red", "ci": "red" if forward else "row"}.get(minor, "tap")
        alignment = dense if weight == "packed" else p.w_alignment or dense
        constants |= dict(
            W=WeightMemory(role, lowering.weight_run(p, c, minor, alignment)),
            TILE=Tile(c.block_m, c.block_n, c.block_k, c.stages, taps.split_factor(p, c), join, lowering.phase_minor(p, c),
                      c.box if any(c.box) else None,
                      lowering.together(p, c) if p.epilogue.statistics else 1, turned=lowering.turned(p, c)),
            DOT=Dot(p.precision, p.rounded and not c.copy))
    else:
        constants |= dict(GROUPS=p.groups, **lane_constants(p, c))
    described = ((lowering.reading(p, c), p, c),) if c.path == "descriptor" else ()
    steps, sizes = lowering.steps(p, c), (p.in_size, p.out_size) if forward else (p.out_size, p.in_size)
    tensors = (source, weight, target, *(name if present else None for name, present in (
        ("b", p.epilogue.bias), ("residual", p.epilogue.residual), ("pre", p.epilogue.keep_pre),
        ("parts", p.epilogue.statistics))))
    kernel = "gather" if c.dense else "direct"
    read = f", reads by {READINGS[lowering.reading(p, c)]}" * c.dense
    launches.append(Launch(
        kernel, lowering.grid(p, c), tensors, ((p.n * prod(steps), steps, *_factors(p, c, steps)) if c.dense else (steps,)) + sizes,
        ((source, "described") if described else source, (weight, "of rows" if forward else "of sums", p.ci_group), target,
         "residual" if p.epilogue.residual else (0,) * 5),
        constants, f"{kernel}{read}, grid {lowering.grid(p, c)}, {offset_width(p)}", c.warps, c.stages, described))
    if p.epilogue.statistics:
        combine, shares = _combine(p, c)
        launches.append(combine)
        workspaces.append(shares)
    return launches, workspaces


def _shared(p: Problem, c: Config, product: Launch) -> tuple[list, Workspace]:
    """The product of an input gradient in shares, which lie in channels_last one after the other, and their sum."""
    size, shape = p.n * p.ci * prod(p.in_size), (p.n, p.ci, *p.in_size)
    tile, run = product.constants["TILE"]._replace(shares=c.shares), power_of_two_divisor(p.ci_group, 4)
    shared = replace(
        product, tensors=tuple("parts" if name == "x" else name for name in product.tensors),
        strides=tuple(lowering.dense_strides(shape, "channels_last") if name == "x" else name for name in product.strides),
        constants=product.constants | dict(TILE=tile, Y=Memory(True, run)))
    total = Launch("sum_parts", (ceil_div(size, SUMMED), 1, 1), ("parts", "x"), (size, c.shares, p.ci, prod(p.in_size), *p.in_size[1:]),
                   ("x",), dict(TAP_MINOR=False, BLOCK=SUMMED), f"sum_parts of dx, {c.shares} shares in order")
    return [shared, total], Workspace("parts", (c.shares, size), (size, 1), accumulator(p))


def _walk(p: Problem, c: Config) -> tuple[list, list]:
    """A forward or an input gradient that fetches every plane once."""
    forward, launches, workspaces = p.direction == "forward", [], []
    source, target, weight = ("x", "y", "w") if forward else ("y", "x", "w")
    shape, channels = walk_memory.shape(p, c), walk_memory.weight_channels(p, c)
    (layout, run), written_size = walk_memory.written(p), p.out_size if forward else p.in_size
    if c.copy:
        first, memory = copy(p, source, shape)
        source, launches, workspaces = "copied", [first], [memory]
    if lowering.packs(p, c):
        weight, minor, slots = "packed", "ci" if forward else "co", walks.reordered(p, c)
        launches.append(pack(p, minor, p.rounded, slots, channels))
        workspaces.append(packed(p, minor, slots, channels))
    steps, last = lowering.steps(p, c), layout == "channels_last"
    r_run = walks.written_run(p, c, p.r_run) if p.epilogue.residual else 1
    constants = dict(
        zip(("AXIS_D", "AXIS_H", "AXIS_W"), lowering.axis_constants(p, c)), COLUMNS=configs.rows_and_reduction(p)[0],
        Y=Memory(last, walks.written_run(p, c, run)), R=Memory(last and r_run > 1, r_run),
        **activation_constants("ACTIVATION", p.epilogue.activation), WALK=walks.walk(p, c), WARPS=c.warps)
    grid = lowering.grid(p, c)
    turned = walk_memory.turned(p, c)
    launches.append(Launch(
        "walk", grid, (weight, source, None if turned else source, target, *(name if present else None for name, present in (
            ("b", p.epilogue.bias), ("residual", p.epilogue.residual), ("pre", p.epilogue.keep_pre)))),
        (shape[1], c.box[0], steps, written_size),
        (source if turned else (source, "described"), target, "residual" if p.epilogue.residual else (0,) * 5),
        constants, f"walk along d, {'x'.join(map(str, c.box))} places a program, grid {grid}, {offset_width(p)}", c.warps, c.stages,
        tuple((reading, p, c) for reading in (("weight",) if turned else ("weight", "patch", "line")))))
    return launches, workspaces


def _pair(p: Problem, c: Config) -> tuple[list, list]:
    """A forward or an input gradient by two programs of a cluster."""
    forward, launches, workspaces = p.direction == "forward", [], []
    source, target, weight = ("x", "y", "w") if forward else ("y", "x", "w")
    (layout, run), written_size = walk_memory.written(p), p.out_size if forward else p.in_size
    reading, steps, last = lowering.reading(p, c), lowering.steps(p, c), layout == "channels_last"
    if c.copy:
        first, memory = copy(p, source, walk_memory.shape(p, c), walk_memory.apart(p, c))
        source, launches, workspaces = "copied", [first], [memory]
    if lowering.packs(p, c):
        weight, minor = "packed", "ci" if forward else "co"
        launches.append(pack(p, minor, p.rounded))
        workspaces.append(packed(p, minor))
    written = lambda alignment: lowering.written_run(p, c, layout, alignment)
    r_run = written(p.r_run) if p.epilogue.residual else 1
    rows, red = configs.rows_and_reduction(p)
    constants = dict(
        zip(("AXIS_D", "AXIS_H", "AXIS_W"), lowering.axis_constants(p, c)), ROWS=rows, RED=red, INDEX=index(p),
        X=Memory(reading not in (*pairs.LINES, "planes"), 1, reading),
        W=WeightMemory("red", 1, pairs.weight_reading(p, c)), Y=Memory(last, written(run)), R=Memory(last and r_run > 1, r_run),
        TILE=Tile(c.block_m, c.block_n, c.block_k, c.stages, pairs.split(p, c), pairs.joined(p, c), lowering.phase_minor(p, c),
                  c.box if any(c.box) else None, bands=halos.bands(p, c)),
        BOXES=pairs.weight_boxes(p, c), **activation_constants("ACTIVATION", p.epilogue.activation), WARPS=c.warps)
    grid = lowering.grid(p, c)
    launches.append(Launch(
        "pair", grid, (weight, source, source if c.halo else None, target, *(name if present else None for name, present in (
            ("b", p.epilogue.bias), ("residual", p.epilogue.residual), ("pre", p.epilogue.keep_pre)))),
        (p.n * prod(steps), sum(_factors(p, c, steps), steps), p.in_size if forward else p.out_size, written_size),
        ((source, "described") if constants["X"].last else source, target, "residual" if p.epilogue.residual else (0,) * 5), constants,
        f"pairs of programs, reads by {READINGS[reading]}{' with a halo along h' * c.halo}, grid {grid}, {offset_width(p)}", c.warps, c.stages,
        tuple((kind, p, c) for kind in ("weight", reading, *("halo",) * c.halo)), c.ctas))
    return launches, workspaces


def _combine(p: Problem, c: Config) -> tuple[Launch, Workspace]:
    """Mean and variance of what is written, and the partial results from which they come."""
    shares, batch = lowering.statistics_shares(p, c), p.epilogue.statistics == "batch"
    samples, rows = (p.n, p.co) if batch else (1, p.n * p.co)
    return Launch(
        "combine", (rows, 1, 1), ("parts", "mean", "variance"), (p.co, shares, samples), (), dict(BLOCK=BLOCK),
        f"combine the statistics of each {'channel' if batch else 'sample and channel'}, {samples * shares} shares"
    ), Workspace("parts", (p.n, p.co, shares, 3), (3 * p.co * shares, 3 * shares, 3, 1), accumulator(p))


def _factors(p: Problem, c: Config, steps: tuple[int, int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What flat positions are divided by, where a kernel does so by factors: where no mask depends on their places. Tiles of planes, which
    samples have so many of, are always."""
    masked = any(axis.edge or axis.halo and c.path != "pair" for axis in lowering.axis_constants(p, c))
    factors, shifts = ((0, 0, 0),) * 2 if masked or p.wide or any(c.box) else divisions(steps)
    if c.path == "pair" and lowering.reading(p, c) == "planes":
        tiles = division(ceil_div(prod(steps), c.block_n))
        factors, shifts = (tiles[0], *factors[1:]), (tiles[1], *shifts[1:])
    return factors, shifts
