"""The order in which a channels-first tile [channel, place] is read where its runs go by registers to their product: lanes then meet
in no bank, neither where they read what was copied asynchronously nor where they write what they turn.

Such a tile is loaded in one row, so that its buffer has the order in which it is counted. TURNED: a run of so many neighbours, 32 bytes;
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
