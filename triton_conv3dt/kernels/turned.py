"""The order in which a channels-first tile [channel, place] is read where its runs go by registers to their product: lanes then meet
in no bank, neither where they read what was copied asynchronously nor where they write what they turn.

Such a tile is loaded in one row, so that its buffer has the order in which it is counted. What is gathered is summed over its channels,
and TURNED is a run of so many neighbours, 32 bytes;
how many of them follow each other; and how many times eight channels. Runs of four channels lie side by side, those of the four lanes of
a product's fragment, which of 16 bits have every other channel of eight. Then come the neighbouring runs, the four other channels, other
eights, the other places, and last other channels: a thread has few places, whose masks it works out.
"""

import triton
import triton.language as tl

PAIRS = tl.constexpr(16)  # elements in a run of 16 bits, of which a lane of a fragment has two neighbouring channels


@triton.jit
def turned(CHANNELS: tl.constexpr, PLACES: tl.constexpr, TURNED: tl.constexpr):
    """The channel and the place of each element, in one row."""
    RUN: tl.constexpr = TURNED[0]
    RUNS: tl.constexpr = TURNED[1]
    EIGHTS: tl.constexpr = TURNED[2]
    i = tl.arange(0, CHANNELS * PLACES)
    lane, half, rest = i // RUN % 4, i // (4 * RUN * RUNS) % 2, i // (8 * RUN * RUNS)
    eight = i // (8 * EIGHTS * PLACES) * EIGHTS + rest % EIGHTS
    place = rest // EIGHTS % (PLACES // (RUN * RUNS)) * (RUN * RUNS) + i // (4 * RUN) % RUNS * RUN + i % RUN
    return eight * 8 + (lane * 2 + half if RUN == PAIRS else half * 4 + lane), place


@triton.jit
def turned_back(row, CHANNELS: tl.constexpr, PLACES: tl.constexpr, TURNED: tl.constexpr):
    """The tile [channel, place] of such a row."""
    RUN: tl.constexpr = TURNED[0]
    RUNS: tl.constexpr = TURNED[1]
    EIGHTS: tl.constexpr = TURNED[2]
    parts = row.reshape(CHANNELS // (8 * EIGHTS), PLACES // (RUN * RUNS), EIGHTS, 2, RUNS, 4, RUN)
    parts = parts.permute(0, 2, 5, 3, 1, 4, 6) if RUN == PAIRS else parts.permute(0, 2, 3, 5, 1, 4, 6)
    return parts.reshape(CHANNELS, PLACES)


@triton.jit
def parted(LINES: tl.constexpr, PLACES: tl.constexpr, TURNED: tl.constexpr):
    """The line and the place of each element of a weight gradient's dz [line, place], in one row. It is summed over places, of which several
    neighbours are one. TURNED: a run of so many neighbours, how many of them a lane of a fragment has, and how many lines follow each other.
    Runs of four lanes lie side by side, then come those of these lines, other runs, other lines of eight, other places, and last other lines."""
    RUN: tl.constexpr = TURNED[0]
    RUNS: tl.constexpr = TURNED[1]
    NEAR: tl.constexpr = TURNED[2]
    i = tl.arange(0, LINES * PLACES)
    near, rest = i // (4 * RUN) % NEAR, i // (4 * RUN * NEAR)
    line = (i // (8 * PLACES) * (8 // NEAR) + rest // RUNS % (8 // NEAR)) * NEAR + near
    lane = i // (32 * RUN * RUNS) % (PLACES // (4 * RUN * RUNS)) * 4 + i // RUN % 4
    return line, (lane * RUNS + rest % RUNS) * RUN + i % RUN


@triton.jit
def parted_back(row, LINES: tl.constexpr, PLACES: tl.constexpr, TURNED: tl.constexpr):
    """The tile [line, place] of such a row."""
    RUN: tl.constexpr = TURNED[0]
    RUNS: tl.constexpr = TURNED[1]
    NEAR: tl.constexpr = TURNED[2]
    parts = row.reshape(LINES // 8, PLACES // (4 * RUN * RUNS), 8 // NEAR, RUNS, NEAR, 4, RUN)
    return parts.permute(0, 2, 4, 1, 5, 3, 6).reshape(LINES, PLACES)
