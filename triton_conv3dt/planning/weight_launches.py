"""The launches of a weight gradient, in each of its forms, and of all gradients in one pass: products, and what is beside them."""

from math import gcd, prod

from ..problems.geometry import ceil_div, power_of_two_divisor
from ..problems.problem import Problem
from . import lanes, lowering, taps, weight_pairs, weight_turns, weight_walks
from .config import Config, walking
from .constants import Dot, Memory, Tile, WeightMemory
from .passes import (
    Launch, Workspace, activation_constants, divisions, index, lane_constants, offset_width, parts_of, product_constants, shares_to,
    sum_biases, sum_weights, to_residues, with_sums)


def builder(problem: Problem, config: Config):
    """What makes the launches of a weight gradient: a function of the two to launches and the memory that they need."""
    if config.path == "walk":
        return {weight_walks: _walked, weight_turns: _turned}[walking(problem)]
    return _paired if config.path == "pair" else _gathered


def _gathered(p: Problem, c: Config) -> tuple[list, list]:
    """Shares of a weight gradient, of copies or not, and their sum; one share is the result."""
    x_last, z_last = p.x_layout == "channels_last", p.y_layout == "channels_last"
    constants = product_constants(p, c) | dict(CI=p.ci_group, CO=p.co_group)
    if c.dense:
        boxes = taps.boxes(p, c)
        z_size = tuple(axis.places for axis in taps.copies(p, c)[1]) if c.copy else p.out_size
        sizes = boxes, ceil_div(boxes, c.shares), taps.positions(p, c), p.in_size, z_size
        constants |= dict(X=Memory(x_last, taps.x_run(p, c)), Z=Memory(z_last, taps.z_run(p, c), taps.reading(p, c)),
                          TILE=Tile(c.block_m, c.block_n, c.block_k, c.stages, taps.split_factor(p, c), box=taps.box(p, c),
                                    turned=taps.turned(p, c)),
                          DOT=Dot(p.precision, p.rounded and not c.copy))
    else:
        boxes, found = lanes.boxes(p, c), lanes.lanes(p, c)
        width = found.box[2] if p.x_layout == p.y_layout and found.columns == 1 else 1  # of neighbours that are lanes
        sizes = boxes, ceil_div(boxes, c.shares), p.in_size, p.out_size
        constants |= dict(X=Memory(x_last, p.x_run if x_last else gcd(p.x_run, p.in_size[2], width)),
                          Z=Memory(z_last, lowering.gathered_run(p, c, p.y_layout, p.y_run)), CHANNELS=p.co, **lane_constants(p, c))
    kernel = "grad_weight" if c.dense else "grad_weight_direct"
    target, strides = shares_to(p, c)
    copies, memory = zip(*(to_residues(p, axes, name) for name, axes in zip("xy", taps.copies(p, c)))) if c.copy else ((), ())
    x, z = (one.name for one in memory) if c.copy else "xy"
    product = Launch(
        kernel, lowering.grid(p, c), (x, z, target), sizes, (x, z, strides), constants,
        f"{kernel}, grid {lowering.grid(p, c)}, {offset_width(p)}", c.warps, c.stages)
    return with_sums(p, c, product, copies, memory)


def _walked(p: Problem, c: Config) -> tuple[list, list]:
    """Shares of a weight gradient that fetches every plane about once, and their sum; one share is the result."""
    steps, grid, (target, strides) = weight_walks.steps(p, c), lowering.grid(p, c), shares_to(p, c)
    product = Launch(
        "walk_weight", grid, ("x", "y", "y", target), (steps, ceil_div(steps, c.shares), weight_walks.sizes(p, c)), (strides,),
        dict(zip(("AXIS_D", "AXIS_H", "AXIS_W"), weight_walks.axes(p)), CI=p.ci, CO=p.co, WALK=weight_walks.walk(p, c),
             WARPS=c.warps),
        f"walk_weight along d, patches of {c.box[1]}x{c.box[2]} places, grid {grid}, {offset_width(p)}", c.warps, c.stages,
        tuple((reading, p, c) for reading in ("x", "patch", "line")))
    return with_sums(p, c, product)


def _turned(p: Problem, c: Config) -> tuple[list, list]:
    """The same of what no descriptor reads, with sums of dz for the bias where these are wanted."""
    steps, grid, (target, strides) = weight_turns.steps(p, c), lowering.grid(p, c), shares_to(p, c)
    summed = weight_turns.sums(p, c)
    product = Launch(
        "turn_weight", grid, ("x", "y", target, "sums" if summed else None),
        (steps, ceil_div(steps, c.shares), weight_turns.sizes(p, c), p.in_size, p.out_size),
        ("x", "y", strides), dict(zip(("AXIS_D", "AXIS_H", "AXIS_W"), weight_turns.axes(p)), CI=p.ci, CO=p.co,
                                  LAST=p.x_layout == "channels_last", TURN=weight_turns.walk(p, c), WARPS=c.warps),
        f"turn_weight along d, patches of {c.box[1]}x{c.box[2]} places, grid {grid}, {offset_width(p)}" + ", dz summed for the bias" * summed,
        c.warps, c.stages)
    return with_sums(p, c, product)


def _paired(p: Problem, c: Config) -> tuple[list, list]:
    """Shares of a weight gradient by pairs of programs, of copies where these are needed, and their sum; one share is the result."""
    boxes, grid, (target, strides) = taps.boxes(p, c), lowering.grid(p, c), shares_to(p, c)
    made = {name: to_residues(p, axes, name) for name, axes in weight_pairs.copies(p, c).items()}
    product = Launch(
        "pair_weight", grid, (*(made[name][1].name if name in made else name for name in "xy"), target),
        (boxes, ceil_div(boxes, c.shares), weight_pairs.boxes(p, c), p.in_size, p.out_size), (made["y"][1].name if "y" in made else "y", strides),
        dict(zip(("AXIS_D", "AXIS_H", "AXIS_W"), lowering.axis_constants(p, c)), CI=p.ci, CO=p.co, PAIR=weight_pairs.pair(p, c),
             WARPS=c.warps),
        f"pair_weight, boxes of {'x'.join(map(str, taps.box(p, c)))} positions, grid {grid} of {c.ctas}, {offset_width(p)}", c.warps, c.stages,
        tuple((reading, p, c) for reading in ("x lines", "dz lines")), c.ctas)
    return with_sums(p, c, product, *zip(*made.values()))


def one_pass(p: Problem, c: Config) -> tuple[list, list]:
    """All gradients of a kernel = stride layer, and the sums of their shares. dx is laid out as dy is."""
    x_last, z_last, limit = p.x_layout == "channels_last", p.y_layout == "channels_last", 16 // p.item
    constants = dict(
        STRIDE=p.stride, CI=p.ci, CO=p.co, Z=Memory(z_last, lowering.split_run(p)),
        X=Memory(x_last, p.x_run if x_last else gcd(p.x_run, p.in_size[2])),
        O=Memory(z_last, power_of_two_divisor(p.ci if z_last else p.in_size[2], limit)),
        W=WeightMemory(p.w_minor, lowering.one_pass_weight_run(p, c)),
        TILE=Tile(c.block_m, c.block_n, c.block_k, c.stages, 1 if z_last else p.stride[2]),
        **activation_constants("DERIVATIVE", p.epilogue.activation), INDEX=index(p))
    residues = p.taps if z_last else p.stride[0] * p.stride[1]
    launches = [Launch(
        "backward", lowering.grid(p, c),
        ("y", "x", "w", "saved" if p.epilogue.activation else None, "dx", "parts", "sums" if p.epilogue.bias else None),
        (p.n * prod(p.in_size), p.in_size, *divisions(p.in_size)), ("y", "x", "dx", ("w", "taps")), constants,
        f"backward, grid {lowering.grid(p, c)}, {offset_width(p)}", c.warps, c.stages)]
    launches.append(sum_weights(p, c.shares, "dw", tap_minor=not z_last))
    workspaces = [parts_of(p, c.shares, tap_minor=not z_last)]
    if p.epilogue.bias:
        launches.append(sum_biases(p.co, c.shares * residues, "sums", "db"))
        workspaces.append(Workspace("sums", (c.shares * residues, p.co), (p.co, 1), "float32"))
    return launches, workspaces
