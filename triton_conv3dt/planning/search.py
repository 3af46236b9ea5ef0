"""Which configs are worth trying for a problem, and which is the default: the one that is expected to cost the least (costs.py).

Pure functions of problem, device and constraints: nothing is timed here and no file is read.
"""

from itertools import chain, product
from math import prod

from ..problems.geometry import ceil_div
from ..problems.problem import Problem
from . import banks, flat, lanes, lowering, pair_tiles, pairs, readings, taps, walk_tiles, weight_pair_tiles, weight_tiles
from .config import SMALLEST_DOT, Config, copyable, fits, join_factor, rows_and_reduction, seen
from .constraints import NONE, VARIABLE, Constraints
from .costs import cost, loop_steps
from .device import Device, gluon
from .launches import schedule
from .planned import Plan
from .terms import terms

NEAR = 1.2  # times the least cost: what the model cannot tell apart
SLOTS, CROWDING = 0.4, 0.1  # of the slots to issue in, what a forward in place may take; and what as many more add to its limit
BRIEF = 4e-7  # seconds: what takes less waits for its launch alone


def default(problem: Problem, device: Device, constraints: Constraints = NONE) -> Config:
    """The config for a problem that nobody has tuned: of a few sensible ones, and of those that are expected to cost about as little as
    the cheapest, the one whose kernel asks little of what binds it. This counts double: it is known better than the cost.

    Raises:
        ValueError: the constraints leave none; the message says which path would do.
    """
    seconds = {config: cost(config, problem, device) for config in sensible(problem, device, constraints)}
    least = min(seconds.values())
    near = [config for config in seconds if seconds[config] <= NEAR * least]
    return min(near, key=lambda config: (_limit(config, problem, device, seconds[config])**2 * seconds[config], seconds[config]))


def _limit(config: Config, problem: Problem, device: Device, seconds: float) -> float:
    """What bounds a config at least, over the roofline; without tensor cores its expected cost, which is what it issues. 0 where nothing
    is known."""
    found = terms(Plan(problem, device, config, "default", schedule(problem, config)))
    if found is None:
        return 0.0
    if not config.dense:
        return seconds / found.roofline
    crowded = max(0.0, found.over["issue"] / SLOTS - 1) if pairs.in_place(problem) and found.roofline > BRIEF else 0.0
    return found.limit + CROWDING * crowded


def sensible(problem: Problem, device: Device, constraints: Constraints = NONE) -> list[Config]:
    """The few configs that the default is chosen from; at least one, and all fit. Raises as `default` does."""
    found = list(_tried(problem, device, constraints, thorough=False))
    if not found:
        paths = dict.fromkeys([*(config.path for config in sensible(problem, device)), "direct"])
        raise ValueError(f"nothing is left that computes {problem} on {device.name} without {constraints}: allow "
                         f"{' or '.join(paths)} again ({VARIABLE}, --without), or take backend=\"torch\"")
    return found


def candidates(problem: Problem, device: Device, constraints: Constraints = NONE) -> list[Config]:
    """Every config worth trying, in a fixed order; all fit."""
    return list(dict.fromkeys(_tried(problem, device, constraints, thorough=True)))


def ranked(problem: Problem, device: Device, constraints: Constraints = NONE) -> list[Config]:
    """The candidates, cheapest first: the default leads. Raises as `default` does."""
    first = default(problem, device, constraints)
    rest = sorted((c for c in candidates(problem, device, constraints) if c != first),
                  key=lambda c: cost(c, problem, device))
    return [first, *rest]


def one_pass(problem: Problem, device: Device, constraints: Constraints = NONE) -> Config | None:
    """The config for all gradients at once, a problem of direction "backward"; None where separate products are better or
    alone may be used."""
    tiles = lambda block_k: ceil_div(_positions(problem), block_k)
    parted = problem.stride[2] if problem.y_layout == "channels_first" else 1  # in registers, where each part is a product
    block_m, block_n = _power_of_two(problem.ci, 64, 256), _power_of_two(problem.co * problem.taps, SMALLEST_DOT * parted, 1024)
    narrow = problem.item * min(problem.x_run, problem.y_run) < 8  # whose many addresses spill beside so many sums
    lean = not (narrow or problem.wide or problem.epilogue.activation)
    warps = 8 if block_m * block_n >= 64 * (256 if lean else 128) else 4  # fewer begin fewer products, where sums have registers
    pipelines = ((64, 3), (64, 2), (32, 3), (32, 2))
    for block_k, stages in pipelines[2:] if narrow and block_m * block_n >= 64 * 256 else pipelines:
        # Each program should have a few tiles to overlap, or the shares cost more than they save.
        config = Config("onepass", block_m, block_n, block_k, warps, stages, shares=min(device.sms, tiles(block_k)))
        refused = constraints.refuses(config) or fits(config, problem, device)
        if refused is None and tiles(block_k) >= 4 * device.sms:
            return config
    return None


def _tried(problem: Problem, device: Device, constraints: Constraints, thorough: bool):
    """Configs that fit and may be used: a few sensible ones, or all that may be worth timing. Where nothing is excluded
    there is always one."""
    fewest = min(rows_and_reduction(problem))
    narrow = problem.groups > 1 and fewest < SMALLEST_DOT // 4
    few = fewest <= SMALLEST_DOT and (problem.direction != "grad_weight" or problem.groups > 1)  # either may be better
    direct = problem.dtype == "float64" or narrow
    allowed, found = lambda config: constraints.refuses(config) is None, False
    if thorough or not direct or "direct" in constraints.without:
        shapes = _weight_gradients if problem.direction == "grad_weight" else _products
        for config in filter(allowed, shapes(problem, device, constraints, thorough)):
            if fits(config, problem, device) is None:
                found = True
                yield config
        copies = (False, True) if problem.direction == "grad_input" and copyable(problem) else (False,)
        for copy, axes in [*product(copies, (0, *flat.choices(problem, SMALLEST_DOT)))][1:]:
            read = seen(problem, Config("gather", 16, 16, copy=copy))
            otherwise = (c.but(copy=copy) for c in _products(read, device, constraints, thorough, axes))
            yield from (c for c in filter(allowed, otherwise) if fits(c, problem, device) is None)
        walks = walk_tiles.tiles(problem, device, thorough)
        clusters = chain(pair_tiles.tiles(problem, device, _merges(problem, thorough), constraints, thorough),
                         weight_pair_tiles.tiles(problem, device, constraints, thorough))
        for tiles in [t for path, t in (("walk", walks), ("pair", clusters)) if path not in constraints.without]:
            for config in filter(allowed, tiles):
                if fits(config, problem, device) is None:
                    found = True
                    yield config
    if direct or few or thorough or not found:
        yield from filter(allowed, _direct(problem, device, thorough))


def _products(problem: Problem, device: Device, constraints: Constraints, thorough: bool, axes: int = 0):
    """Tiles of a forward or an input gradient on tensor cores."""
    rows, shape = rows_and_reduction(problem)[0], Config("gather", 16, 16, flat=axes)
    reduction, wide = flat.reduction(problem, shape), (64 if problem.item == 2 else 32) // taps.split_factor(problem, shape)
    stages, most = (2, 3, 4, 5) if thorough else (3, 4), 256 if thorough or device.warpgroups else 128
    for merge in _merges(problem, thorough, axes if device.warpgroups else 0):  # pairs fill the rows of a warpgroup
        merged = rows * (flat.places(shape.but(merge=merge)) if axes else prod(a.stride for a, m in zip(problem.axes, merge) if m))
        joined = join_factor(problem, merge)
        least, fewest = max(SMALLEST_DOT, joined if merge[2] else 1), 3 if min(merged, most) > 128 else 2
        for block_m in _around(merged, least, most, thorough, fewest):
            for block_n in _around(_positions(problem), SMALLEST_DOT, 256, thorough, fewest=4):
                read = list(readings.readings(problem, device, merge, block_m, block_n, thorough, axes))
                # Without warpgroups fragments of both operands stand in registers beside the accumulator.
                long = thorough or axes and (device.warpgroups or block_m * block_n <= 64 * 64)
                for block_k in _around(reduction, SMALLEST_DOT, 2 * wide if long else wide, thorough):
                    # Where all is summed over in one step a lane has a position, whose elements it then stores side by side.
                    busy = block_n // 32 if axes == 3 and block_k >= reduction else 8
                    accumulators = block_m * block_n * (2 if joined > 1 and not merge[2] else 1)
                    for warps in dict.fromkeys(min(n, busy) for n in _warps(accumulators, thorough)):
                        for path, box, copy in read:
                            config = Config(path, block_m, block_n, block_k, warps, 1, merge, box=box, copy=copy, flat=axes)
                            if _crowded(problem, config, device):
                                continue
                            for n_stages in constraints.stages(_stages(config, problem, device, stages)):
                                yield config.but(stages=n_stages)
                                if problem.direction == "grad_input" and (shares := _step_shares(config, problem, device)) > 1:
                                    yield config.but(stages=n_stages, shares=shares)


def _weight_gradients(problem: Problem, device: Device, constraints: Constraints, thorough: bool):
    """Tiles of a weight gradient on tensor cores, and how many programs share a reduction."""
    wide = 64 if problem.item == 2 else 32
    stages = (2, 3, 4) if thorough else (3,)
    for tile in weight_tiles.tiles(problem, device, thorough):
        accumulators = tile.block_m * tile.block_n * taps.split_factor(problem, tile)
        longest = 2 * wide if accumulators <= 4096 else wide
        if accumulators > 128 * 128 and not device.warpgroups:
            longest = wide // 2  # fragments of both operands stand in registers beside so many
        few = accumulators <= 1024 and taps.split_factor(problem, tile) == 4  # of which four warps would read single elements
        for block_k in _around(_positions(problem), SMALLEST_DOT, longest, thorough):
            for warps in (2,) if few and not thorough else _warps(accumulators, thorough):
                tried = tile.but(block_k=block_k, warps=warps)
                turned = gluon() < (3, 7) and not device.warpgroups and taps.x_run(problem, tried) == 1  # kernels/tiles.py says how
                if turned and tried.block_m * block_k >= 64 * 32 * warps:
                    continue  # so many addresses leave fragments no registers
                if device.tensor_memory and tried.copy and accumulators >= 4096 * warps and tried.taps[2] == "crossed":
                    continue  # nor have so many beside masks of both operands, which come back from that memory all at once
                many = accumulators >= 4096 * warps and taps.z_run(problem, tried) == 1
                if many and (block_k > 16 and not tried.copy or tried.copy and weight_tiles.scattered(problem, tried)):
                    continue  # addresses of single elements leave such an accumulator no registers
                programs = taps.tiles(problem, tried) * problem.groups
                for n_stages in constraints.stages(_stages(tried, problem, device, stages)):
                    for shares in _shares(problem, block_k, programs, device.sms, thorough):
                        yield tried.but(stages=n_stages, shares=shares)


def _stages(config: Config, problem: Problem, device: Device, pipelined: tuple[int, ...]) -> tuple[int, ...]:
    """How many stages may be worth it: one, too, where the banks of a pipeline's buffers conflict more; one alone where one step is
    all."""
    if config.flat == 3 and flat.at_once(problem, config):
        return (1,)
    conflicts = [banks.conflicting(config.but(stages=n), problem, device) for n in (1, 2)]
    return (*pipelined, 1) if conflicts[1] > conflicts[0] else pipelined


def _direct(problem: Problem, device: Device, thorough: bool):
    """Channels and places of a program without tensor cores, as many lanes as threads or a few times as many."""
    weights = problem.direction == "grad_weight"
    channels, rows = problem.ci if problem.direction == "grad_input" else problem.co, rows_and_reduction(problem)[0]
    last = (problem.x_layout if problem.direction == "grad_input" else problem.y_layout) == "channels_last"
    most = 64 if last else 1 if weights else 8
    counts = {_power_of_two(channels if last else min(channels, rows & -rows), 1, n)
              for n in ((4, 16, most) if thorough else (16, 32, most) if last else (2, most))}
    counts |= {1} if thorough else set()
    if not last and not weights and prod(lowering.steps(problem, Config("direct", 1, 1))[1:]) < 32:
        counts |= {16}  # lanes that a small volume leaves idle take other channels
    spare = 512 // _power_of_two(prod(problem.in_size[1:]), 1, 512)
    if not last and problem.direction != "forward" and spare <= 8:
        counts |= {spare}  # and so do those that would take other planes, and need masks for what these read
    found = []
    for block_m, warps, values in product(sorted(counts), (1, 2, 4, 8) if thorough else (1,) if weights else (1, 4), (1, 2, 4, 8)):
        shape = Config("direct", block_m, 1, warps=warps)
        threads = max(1, 32 * warps * values * (1 if weights else lanes.lanes(problem, shape).shared) // block_m)
        for config in (shape.but(block_n=threads * lines) for lines in (1, 2, 4, 8)):
            fewer = config.block_n <= 2 * _power_of_two(_positions(problem), 1, 8192)
            whole = lanes.lanes(problem, config).lines * threads == config.block_n
            if fewer and whole and lanes.kept(problem, config, values, device):
                found.append(config)
    for config in found or [Config("direct", 1, 32, warps=1)]:
        tiles = lowering.grid(problem, config)[0]
        for shares in _shares(problem, config.block_n, tiles, device.sms * 4 // config.warps, thorough):
            yield config.but(shares=shares)


def _merges(problem: Problem, thorough: bool, axes: int = 0):
    """Which axes have their phases among the rows: all where kernel = stride, else whatever the cost says. Phases of unequal
    taps multiply zeros, and read what they share once. axes: as config.flat, where pairs along w are of use."""
    if problem.direction != "forward":
        return [(False, False, merged) for merged in (False, True)[:1 + (axes > 0 and flat.mergeable(problem))]]
    able = [a.stride > 1 and a.dilation == 1 for a in problem.axes]
    whole = tuple(able)
    if not thorough and all(a.stride == 1 or (m and a.kernel == a.stride) for a, m in zip(problem.axes, able)):
        if problem.y_layout == "channels_last" or (w := problem.axes[2]).stride == 1 or (
                w.aligned_origin == 0 and w.stride & (w.stride - 1) == 0):
            return [whole]
    return list(product(*((False, True) if m else (False,) for m in able)))


def _around(value: int, low: int, high: int, thorough: bool, fewest: int = 2):
    """Powers of two up to the one that holds value, largest first: all between low and high, or a few."""
    largest = _power_of_two(value, low, high)
    sizes = [largest >> i for i in range(largest.bit_length()) if largest >> i >= low]
    return sizes if thorough else sizes[:fewest]


def _warps(accumulators: int, thorough: bool):
    sensible = 8 if accumulators >= 128 * 128 else 4
    return (2, 4, 8) if thorough else (sensible,)


def _shares(problem: Problem, block: int, programs: int, sms: int, thorough: bool):
    """Programs that share a reduction: as many as fill half a wave, one or two, or begin another, each with at least eight blocks of
    positions; or one."""
    if problem.direction != "grad_weight":
        return (1,)
    blocks = _positions(problem) // (8 * block)
    waves = (0.5, 1, 2, 4) if thorough else (0.5, 1, 2)
    wanted = (shares for n in waves for shares in (int(n * sms) // programs, ceil_div(int(n * sms), programs)))
    return dict.fromkeys((*(max(1, min(shares, blocks, 256)) for shares in wanted), 1))


def _crowded(problem: Problem, config: Config, device: Device) -> bool:
    """Addresses of single elements, fragments of long steps and the accumulator leave hardly a register, where fragments are held; nor
    do many neighbours of TF32 that are parted and rounded, which a copy has apart."""
    if config.flat:
        return flat.crowded(problem, config, device)
    if device.warpgroups or config.path != "gather":
        return False
    if _brief(problem, config):
        return True
    if problem.rounded:
        return copyable(problem) and taps.split_factor(problem, config) >= 4
    many = config.block_k * config.block_n >= 32 * 32 * config.warps and config.block_m * config.block_n >= 64 * 32 * config.warps
    return many and problem.item == 2 and banks.source_run(config, problem) == 1


def _brief(problem: Problem, config: Config) -> bool:
    """Two accumulators of TF32, one after the other, by loops of so few steps that assemblers unroll them: only that of Triton 3.7 is known
    to spill nothing then."""
    joined = join_factor(problem, config.merge) > 1 and not config.merge[2]
    if not joined or not problem.rounded or config.block_m * config.block_n < 32 * 32 * config.warps or gluon() == (3, 7):
        return False
    return loop_steps(config, problem) <= 16 * prod(lowering.grid(problem, config))


def _step_shares(config: Config, problem: Problem, device: Device) -> int:
    """Programs that share the steps of a tile of an input gradient: as many as fill the device, with eight steps or more.
    Beside more sums of a thread, addresses of shares have no registers."""
    if config.block_m * config.block_n > 64 * 32 * config.warps:
        return 1
    programs = prod(lowering.grid(problem, config))
    return min(device.sms // programs, loop_steps(config, problem) // programs // 8)


def _positions(problem: Problem) -> int:
    """Places that a product runs over; those of a forward counted without merging."""
    return problem.n * prod(a.steps(0) if problem.direction == "forward" else a.size for a in problem.axes)


def _power_of_two(value: int, low: int, high: int) -> int:
    return max(low, min(high, 1 << max(0, value - 1).bit_length()))
