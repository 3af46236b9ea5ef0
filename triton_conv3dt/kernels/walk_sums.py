"""The sums of a walk: which tensors they are, and how they change from step to step.

Sums are tuples of tensors: of every group of phases, by age, which is how many steps will still add to them. While a step adds to
them, ages may lie side by side, in bundles: what they all meet is then read once.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma_wait


@gluon.constexpr_function
def product_layout(columns, warps, bits):
    return gl.NVMMADistributedLayout([3, 0], [warps, 1], [16, columns, 256 // bits])


@gluon.constexpr_function
def columns_at(WALK, age):
    """Columns of the sums that have so many steps to come: fewer where some phases along d begin later."""
    return WALK.live[min(age, WALK.span - 1)] * WALK.columns


@gluon.constexpr_function
def first_of(WALK, bundle):
    """The first age of a bundle."""
    return sum(WALK.bundles[:bundle])


@gluon.constexpr_function
def width_of(WALK, bundle):
    """Columns of the products of a bundle."""
    return WALK.bundles[bundle] * WALK.live[min(sum(WALK.bundles[:bundle]), WALK.span - 1)] * WALK.columns


@gluon.constexpr_function
def size_of(WALK, bundle):
    return WALK.bundles[bundle]


@gluon.jit
def zeros(AGE: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    WIDTH: gl.constexpr = columns_at(WALK, AGE)
    return gl.zeros([WALK.high * WALK.wide, WIDTH], gl.float32, product_layout(WIDTH, WARPS, BITS))


@gluon.jit
def nothing(WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """The sums of all groups before the first step, by age but for the last."""
    found = ()
    GROUPS: gl.constexpr = len(WALK.groups)
    SPAN: gl.constexpr = WALK.span
    for _ in gl.static_range(GROUPS):
        for age in gl.static_range(1, SPAN):
            found = found + (zeros(age, WALK, WARPS, BITS),)
    return found


@gluon.jit
def beside(first, second, WARPS: gl.constexpr, BITS: gl.constexpr):
    """The columns of two tiles in one: a thread that has them still has them."""
    M: gl.constexpr = first.shape[0]
    WIDTH: gl.constexpr = 2 * first.shape[1]
    tile = gl.join(first, second).permute((0, 2, 1)).reshape([M, WIDTH])
    return gl.convert_layout(tile, product_layout(WIDTH, WARPS, BITS), assert_trivial=True)


@gluon.jit
def as_one(tiles, WARPS: gl.constexpr, BITS: gl.constexpr):
    """The columns of tiles, a power of two of them, in one."""
    HALF: gl.constexpr = len(tiles) // 2
    if HALF > 0:
        found = ()
        for i in gl.static_range(HALF):
            found = found + (beside(tiles[2 * i], tiles[2 * i + 1], WARPS, BITS),)
        return as_one(found, WARPS, BITS)
    else:
        return tiles[0]


@gluon.jit
def as_many(tiles, BUNDLE: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """Tiles cut in half until each has one age of a bundle: what `as_one` made one."""
    COUNT: gl.constexpr = len(tiles)
    WANTED: gl.constexpr = size_of(WALK, BUNDLE)
    if COUNT < WANTED:
        M: gl.constexpr = tiles[0].shape[0]
        WIDTH: gl.constexpr = tiles[0].shape[1] // 2
        found = ()
        for i in gl.static_range(COUNT):
            first, second = gl.split(tiles[i].reshape([M, 2, WIDTH]).permute((0, 2, 1)))
            found = found + (gl.convert_layout(first, product_layout(WIDTH, WARPS, BITS), assert_trivial=True),
                             gl.convert_layout(second, product_layout(WIDTH, WARPS, BITS), assert_trivial=True))
        return as_many(found, BUNDLE, WALK, WARPS, BITS)
    else:
        return tiles


@gluon.jit
def widened(tile, AGE: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """Sums that have had AGE + 1 steps to come, with room for the phases that begin now."""
    WIDTH: gl.constexpr = columns_at(WALK, AGE)
    if columns_at(WALK, AGE + 1) < WIDTH:
        tile = beside(tile, gl.zeros_like(tile), WARPS, BITS)
    return tile


@gluon.jit
def bundled(ages, BUNDLE: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """The tiles of the ages of a bundle, as one."""
    FIRST: gl.constexpr = first_of(WALK, BUNDLE)
    SIZE: gl.constexpr = size_of(WALK, BUNDLE)
    tiles = ()
    for i in gl.static_range(SIZE):
        tiles = tiles + (ages[FIRST + i],)
    return as_one(tiles, WARPS, BITS)


@gluon.jit
def unbundled(sums, NUMBER: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """The tiles of a group, the NUMBER-th of those whose sums these are, age by age."""
    BUNDLES: gl.constexpr = len(WALK.bundles)
    SPAN: gl.constexpr = WALK.span
    tiles = ()
    for bundle in gl.static_range(BUNDLES):
        tiles = tiles + as_many((sums[NUMBER * BUNDLES + bundle],), bundle, WALK, WARPS, BITS)
    ages = ()
    for age in gl.static_range(SPAN):
        ages = ages + (tiles[age],)
    return ages


@gluon.jit
def copied(tile, APART: gl.constexpr):
    """The tile in other registers: were it only renamed, the compiler would move what takes turns before the wait for its
    products, and read what they are still writing."""
    if APART:
        tile = gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [tile], dtype=gl.float32, is_pure=True, pack=1)
    return tile


@gluon.jit
def begun_of(older, GROUP: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """The sums of a group that a step adds to, by bundle: those of before, and new ones."""
    SPAN: gl.constexpr = WALK.span
    BUNDLES: gl.constexpr = len(WALK.bundles)
    LAST: gl.constexpr = first_of(WALK, BUNDLES)
    ages = ()
    for age in gl.static_range(SPAN - 1):
        ages = ages + (widened(copied(older[GROUP * (SPAN - 1) + age], SPAN > 2 or BUNDLES < SPAN), age, WALK, WARPS, BITS),)
    for age in gl.static_range(SPAN - 1, LAST):
        ages = ages + (zeros(age, WALK, WARPS, BITS),)
    sums = ()
    for bundle in gl.static_range(BUNDLES):
        sums = sums + (bundled(ages, bundle, WALK, WARPS, BITS),)
    return sums


@gluon.jit
def begun(older, TURN: gl.constexpr, WALK: gl.constexpr, WARPS: gl.constexpr, BITS: gl.constexpr):
    """The sums of the groups of a turn that a step adds to, group by group."""
    EACH: gl.constexpr = WALK.abreast
    sums = ()
    for i in gl.static_range(EACH):
        sums = sums + begun_of(older, TURN * EACH + i, WALK, WARPS, BITS)
    return sums


@gluon.jit
def wait_for(sums, PENDING: gl.constexpr):
    """The sums of a group, finished but for so many products that were issued later."""
    if len(sums) > 1:
        return warpgroup_mma_wait(PENDING, deps=sums)
    else:
        return (warpgroup_mma_wait(PENDING, deps=sums),)
