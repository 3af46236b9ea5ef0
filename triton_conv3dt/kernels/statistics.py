"""Mean and variance of what a product writes: partial sums of its tiles, their combination, and the pass that normalises.

Every program of the product has the places of one sample. For each of its channels it leaves how many values it wrote, their
sum, and the sum of squares of what they differ from their own mean (Chan, Golub, LeVeque), in a place of its own: no atomics,
and the same order of sums on every run. parts: [sample, channel, share, 3] in the accumulator's type.
"""

import triton
import triton.language as tl


@triton.jit
def in_sample(i_tile, size, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """Of tiles of BLOCK flat positions that end with their sample: where one begins, where its sample ends."""
    places = tl.cast(size[0], INDEX) * size[1] * size[2]
    tiles = tl.cdiv(places, BLOCK)
    return i_tile // tiles * places + i_tile % tiles * BLOCK, (i_tile // tiles + 1) * places


@triton.jit
def tiles_of_sample(size, BLOCK: tl.constexpr, BOX: tl.constexpr, INDEX: tl.constexpr):
    """How many tiles a sample has."""
    if BOX is None:
        return tl.cdiv(tl.cast(size[0], INDEX) * size[1] * size[2], BLOCK)
    else:
        return tl.cdiv(tl.cast(size[0], INDEX), BOX[0]) * tl.cdiv(size[1], BOX[1]) * tl.cdiv(size[2], BOX[2])


@triton.jit
def by_channel(sums, PHASES: tl.constexpr, PHASE_MINOR: tl.constexpr):
    """Of lines (channel, phase), or (phase, channel), those of a channel added up."""
    LINES: tl.constexpr = sums.shape[0]
    if PHASES == 1:
        return sums
    elif PHASE_MINOR:
        return tl.sum(sums.reshape(LINES // PHASES, PHASES), axis=1)
    else:
        return tl.sum(sums.reshape(PHASES, LINES // PHASES), axis=0)


@triton.jit
def by_line(values, PHASES: tl.constexpr, PHASE_MINOR: tl.constexpr):
    """The same value for all lines of a channel: by_channel undone."""
    CHANNELS: tl.constexpr = values.shape[0]
    if PHASES == 1:
        return values
    elif PHASE_MINOR:
        return tl.broadcast_to(values[:, None], (CHANNELS, PHASES)).reshape(CHANNELS * PHASES)
    else:
        return tl.broadcast_to(values[None, :], (PHASES, CHANNELS)).reshape(PHASES * CHANNELS)


@triton.jit
def leave(parts, place, count, total, squares, live):
    """One partial result for each channel."""
    p = parts + place.to(tl.int64) * 3
    tl.store(p, count, mask=live)
    tl.store(p + 1, total, mask=live)
    tl.store(p + 2, squares, mask=live)


@triton.jit
def leave_tile(parts, tile, live, channel, live_line, sample, share, CHANNELS, SHARES, PHASES: tl.constexpr,
               PHASE_MINOR: tl.constexpr):
    """Partial results of a tile [lines, columns] of stored values. PHASES: how many lines of the tile are one channel's,
    side by side where PHASE_MINOR; share: of each line, which of the channel's shares it is.
    """
    count = by_channel(tl.sum(live.to(tile.dtype), axis=1), PHASES, PHASE_MINOR)
    total = by_channel(tl.sum(tl.where(live, tile, 0.0), axis=1), PHASES, PHASE_MINOR)
    mean = by_line(total / tl.maximum(count, 1.0), PHASES, PHASE_MINOR)
    away = tl.where(live, tile - mean[:, None], 0.0)
    squares = by_channel(tl.sum(away * away, axis=1), PHASES, PHASE_MINOR)
    place = (tl.cast(sample, tl.int64) * CHANNELS + channel) * SHARES + share
    place = tl.where(live_line, place, 0)
    if PHASES > 1:  # all lines of a channel have one place, and it is 0 or above
        LINES: tl.constexpr = tile.shape[0]
        if PHASE_MINOR:
            place = tl.max(place.reshape(LINES // PHASES, PHASES), axis=1)
            live_line = tl.max(live_line.to(tl.int32).reshape(LINES // PHASES, PHASES), axis=1) > 0
        else:
            place = tl.max(place.reshape(PHASES, LINES // PHASES), axis=0)
            live_line = tl.max(live_line.to(tl.int32).reshape(PHASES, LINES // PHASES), axis=0) > 0
    leave(parts, place, count, total, squares, live_line)


@triton.jit
def of_lanes(values, CHANNELS: tl.constexpr, LAST: tl.constexpr):
    """The sums of lanes by channel; channels are fastest where LAST."""
    PLACES: tl.constexpr = values.shape[0] // CHANNELS
    if LAST:
        return tl.sum(values.reshape(PLACES, CHANNELS), axis=0)
    else:
        return tl.sum(values.reshape(CHANNELS, PLACES), axis=1)


@triton.jit
def leave_lanes(parts, values, lives, first_channel, sample, share, SHARES, CO: tl.constexpr, CHANNELS: tl.constexpr,
                STEP: tl.constexpr, COUNT: tl.constexpr, LAST: tl.constexpr):
    """Partial results of COUNT rows of lanes of stored values, each of the same CHANNELS channels: of neighbours, STEP apart."""
    SIZE: tl.constexpr = values[0].shape[0]
    PLACES: tl.constexpr = SIZE // CHANNELS
    counts = lives[0].to(values[0].dtype)
    sums = tl.where(lives[0], values[0], 0.0)
    for i in tl.static_range(1, COUNT):
        counts += lives[i].to(values[0].dtype)
        sums += tl.where(lives[i], values[i], 0.0)
    count, total = of_lanes(counts, CHANNELS, LAST), of_lanes(sums, CHANNELS, LAST)
    mean = total / tl.maximum(count, 1.0)
    if LAST:
        mean = tl.broadcast_to(mean[None, :], (PLACES, CHANNELS)).reshape(SIZE)
    else:
        mean = tl.broadcast_to(mean[:, None], (CHANNELS, PLACES)).reshape(SIZE)
    squares = tl.zeros((SIZE,), values[0].dtype)
    for i in tl.static_range(COUNT):
        away = tl.where(lives[i], values[i] - mean, 0.0)
        squares += away * away
    channel = first_channel + tl.arange(0, CHANNELS) * STEP
    place = (tl.cast(sample, tl.int64) * CO + channel) * SHARES + share
    leave(parts, place, count, total, of_lanes(squares, CHANNELS, LAST), channel < CO)


@triton.jit
def combine(parts, mean, variance, CO, SHARES, SAMPLES, BLOCK: tl.constexpr):
    """Mean and biased variance from the shares of SAMPLES samples, added in fp64: the mean first, then what differs from it.

    Grid: the channels of the batch, or (sample, channel) with SAMPLES 1.
    """
    row = tl.program_id(0).to(tl.int64)
    count, total = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for start in range(0, SAMPLES * SHARES, BLOCK):
        i = start + tl.arange(0, BLOCK)
        p, live = parts + ((i // SHARES).to(tl.int64) * CO + row) * SHARES * 3 + i % SHARES * 3, i < SAMPLES * SHARES
        count += tl.load(p, mask=live, other=0.0).to(tl.float64)
        total += tl.load(p + 1, mask=live, other=0.0).to(tl.float64)
    values = tl.sum(count)
    middle = tl.sum(total) / values
    squares = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, SAMPLES * SHARES, BLOCK):
        i = start + tl.arange(0, BLOCK)
        p, live = parts + ((i // SHARES).to(tl.int64) * CO + row) * SHARES * 3 + i % SHARES * 3, i < SAMPLES * SHARES
        share = tl.load(p, mask=live, other=0.0).to(tl.float64)
        away = tl.load(p + 1, mask=live, other=0.0).to(tl.float64) / tl.maximum(share, 1.0) - middle
        squares += tl.load(p + 2, mask=live, other=0.0).to(tl.float64) + share * away * away
    tl.store(mean + row, middle.to(mean.dtype.element_ty))
    tl.store(variance + row, (tl.sum(squares) / values).to(variance.dtype.element_ty))


@triton.jit
def normalise(y, z, mean, variance, scale, shift, P, C, EPS: tl.constexpr, BATCH: tl.constexpr, LAST: tl.constexpr,
              ACTIVATION: tl.constexpr, PARAMETERS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
              ACC: tl.constexpr, INDEX: tl.constexpr):
    """z = activation((y - mean) / sqrt(variance + EPS) * scale + shift), one rounding; y and z are dense, of C channels and P
    places in each sample. mean and variance: [C] where BATCH, else [sample, C]; scale and shift may be None.
    """
    P_TILES, C_TILES = tl.cdiv(P, BLOCK_P), tl.cdiv(C, BLOCK_C)
    pid = tl.program_id(0).to(INDEX)
    rest = pid // P_TILES
    p = pid % P_TILES * BLOCK_P + tl.arange(0, BLOCK_P)
    c = rest % C_TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    n, live_c = rest // C_TILES, c < C
    row = c if BATCH else n * C + c
    middle = tl.load(mean + row, mask=live_c, other=0.0).to(ACC)
    factor = 1.0 / tl.sqrt(tl.load(variance + row, mask=live_c, other=1.0).to(ACC) + EPS)
    if scale is not None:
        factor *= tl.load(scale + c, mask=live_c, other=0.0).to(ACC)
    if LAST:
        offset = (n * P + p)[None, :] * C + c[:, None]
    else:
        offset = (n * C + c)[:, None] * P + p[None, :]
    live = live_c[:, None] & (p < P)[None, :]
    tile = (tl.load(y + offset, mask=live, other=0.0).to(ACC) - middle[:, None]) * factor[:, None]
    if shift is not None:
        tile += tl.load(shift + c, mask=live_c, other=0.0).to(ACC)[:, None]
    if ACTIVATION is not None:
        tile = ACTIVATION(tile, PARAMETERS[0], PARAMETERS[1])
    tl.store(z + offset, tile.to(z.dtype.element_ty), mask=live)
