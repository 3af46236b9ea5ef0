"""What the kernels without tensor cores share: the elements of a program are lanes in one row, each a channel and a place of a
box, and a thread computes several lines and columns of each lane, which share what they read. A read that no box takes out of the
tensor (Reads.inside) has no mask: that, and the zero that a masked read needs first, cost as much as a product each.

LANES is a named tuple (channels, shared, lines, columns, box, last, join) of planning/constants.py; READS_H and READS_W are tables of
what is read along an axis (Reads). Both are known to the compiler, so that inside a box nothing is divided: a table's loop is
unrolled, its offsets are constants.
"""

import triton
import triton.language as tl


@triton.jit
def zeros(COUNT: tl.constexpr, SIZE: tl.constexpr, ACC: tl.constexpr):
    """COUNT sums of SIZE lanes."""
    items = ()
    for i in tl.static_range(COUNT):
        items = items + (tl.zeros((SIZE,), ACC),)
    return items


@triton.jit
def lane_parts(lane, LANES: tl.constexpr):
    """The channel and the place (d, h, w) of a lane in its box; channels are neighbours where they are in memory. What all lanes
    share is no tensor."""
    BOX: tl.constexpr = LANES.box
    PLACES: tl.constexpr = BOX[0] * BOX[1] * BOX[2]
    if LANES.channels == 1:
        channel, place = 0, lane
    elif LANES.last:
        channel, place = lane % LANES.channels, lane // LANES.channels
    else:
        channel, place = lane // PLACES, lane % PLACES
    d, h = 0, 0
    if BOX[0] > 1:
        d = place // (BOX[1] * BOX[2])
    if BOX[1] > 1:
        h = place // BOX[2] % BOX[1]
    return channel, d, h, place % BOX[2]


@triton.jit
def within(place, size):
    """Whether a place is inside: one comparison, as places before the first are large without their sign."""
    return tl.cast(place, tl.uint32) < tl.cast(size, tl.uint32)


@triton.jit
def taps_within(place, MOVE: tl.constexpr, taps, size):
    """The first of the taps whose place + tap * MOVE is inside, and the one after the last; none where they meet."""
    if MOVE > 0:
        first, end = tl.cdiv(tl.maximum(-place, 0), MOVE), tl.cdiv(tl.maximum(size - place, 0), MOVE)
    else:
        first, end = tl.cdiv(tl.maximum(place - size + 1, 0), -MOVE), tl.maximum(place - MOVE, 0) // -MOVE
    return first, tl.minimum(end, taps)


@triton.jit
def side_by_side(items, FIRST: tl.constexpr, STEP: tl.constexpr, COUNT: tl.constexpr):
    """COUNT (1, 2, 4 or 8) items as one row, in which those of a lane are neighbours."""
    if COUNT == 1:
        return items[FIRST]
    else:
        even = side_by_side(items, FIRST, 2 * STEP, COUNT // 2)
        odd = side_by_side(items, FIRST + STEP, 2 * STEP, COUNT // 2)
        return tl.join(even, odd).reshape(2 * even.shape[0])
