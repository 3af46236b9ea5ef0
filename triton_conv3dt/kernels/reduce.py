"""Small ordered sums and passes over memory: shares of a split reduction, dz with the bias gradient, and other orders of x and w."""

import triton
import triton.language as tl

from .tiles import apart, inside, place, position, round_tf32, widen


@triton.jit
def sum_parts(parts, out, SIZE, SHARES, CO, TAPS, KH, KW, o_stride, TAP_MINOR: tl.constexpr, BLOCK: tl.constexpr):
    """out[ci, co, tap] = parts[0] + parts[1] + ... in that order, one rounding at the end; parts [SHARES, ci, tap, co], or TAP_MINOR
    [SHARES, ci, co, tap]."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), parts.dtype.element_ty)
    for share in tl.range(0, SHARES, loop_unroll_factor=16):  # loads of many at once; a sum after the other
        total += tl.load(parts + tl.cast(share, tl.int64) * SIZE + index, mask=index < SIZE, other=0.0)
    if TAP_MINOR:
        tap, rest = index % TAPS, index // TAPS
        co, ci = rest % CO, rest // CO
    else:
        co, rest = index % CO, index // CO
        tap, ci = rest % TAPS, rest // TAPS
    kw, rest = tap % KW, tap // KW
    offset = ci * o_stride[0] + co * o_stride[1] + rest // KH * o_stride[2] + rest % KH * o_stride[3] + kw * o_stride[4]
    tl.store(out + offset, total.to(out.dtype.element_ty), mask=index < SIZE)


@triton.jit
def make_dz(dy, saved, dz, parts, C, CHUNKS, SHARE, size, g_stride, s_stride, o_stride, LIVE: tl.constexpr, G: tl.constexpr,
            S: tl.constexpr, O: tl.constexpr, DERIVATIVE: tl.constexpr, PARAMETERS: tl.constexpr, BLOCK_C: tl.constexpr,
            BLOCK_P: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr):
    """dz = dy * derivative(saved), in any layout, and parts[share, c], its sum over a share of the chunks: each where it is wanted.

    A chunk is BLOCK_P places of one run: size[2] places that one stride steps through, of which each (n, d, h) of size (d, h) has one.
    LIVE: (channels, places) that are neighbours and all live or none, for the masks. Grid: (share, channels).
    """
    share = tl.program_id(0).to(INDEX)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    LIVE_C: tl.constexpr = LIVE[0]
    LIVE_P: tl.constexpr = LIVE[1]
    acc = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    for chunk in range(share * SHARE, tl.minimum(CHUNKS, share * SHARE + SHARE)):
        n, d, h, run = position(chunk, (size[0], size[1], tl.cdiv(size[2], BLOCK_P)))
        p = tl.cast(run, INDEX) * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (channel // LIVE_C < C // LIVE_C)[:, None] & (p // LIVE_P < size[2] // LIVE_P)[None, :]
        value = tl.load(beside(dy, n, channel, d, h, p, g_stride, G, INDEX), mask=mask, other=0.0)
        if DERIVATIVE is not None:
            kept = tl.load(beside(saved, n, channel, d, h, p, s_stride, S, INDEX), mask=mask, other=0.0)
            slope = tl.where(mask, DERIVATIVE(kept.to(ACC), PARAMETERS[0], PARAMETERS[1]), 0.0)
            value = (value.to(ACC) * slope).to(kept.dtype)
        if dz is not None:
            tl.store(beside(dz, n, channel, d, h, p, o_stride, O, INDEX), value, mask=mask)
        if parts is not None:
            acc += value.to(ACC)
    if parts is not None:
        tl.store(parts + share * C + channel, tl.sum(acc, axis=1), mask=channel < C)


@triton.jit
def beside(t, n, channel, d, h, p, stride, M: tl.constexpr, INDEX: tl.constexpr):
    """Addresses [channel, place] of places of one run, of which the last stride steps through."""
    RUN: tl.constexpr = M.run
    strides = widen(stride, M.last, INDEX)
    if M.last:
        along = tl.multiple_of(place(n, 0, d, h, 0, strides) + p * strides[4], RUN)
        across = tl.max_contiguous(tl.multiple_of(channel, RUN), RUN)
    else:
        across = tl.multiple_of(place(n, 0, d, h, 0, strides) + channel * strides[1], RUN)
        along = tl.max_contiguous(tl.multiple_of(p * strides[4], RUN), RUN)
    return t + (across[:, None] + along[None, :])


@triton.jit
def pack(w, packed, SIZE, INNER, LIVE, TAPS, KH, KW, w_stride, ROUND: tl.constexpr, CI_INNER: tl.constexpr, SLOTS: tl.constexpr,
         BLOCK: tl.constexpr):
    """packed[ci, tap, co] = w[ci, co, tap]: output channels side by side, as channels_last_3d keeps a weight; or, with
    CI_INNER, packed[co, tap, ci]. INNER: how many lie side by side, LIVE of them channels, and zeros beyond; TAPS: how many taps
    follow another, those of SLOTS in this order where it is not None, zeros where one is -1."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inner, rest = index % INNER, index // INNER
    tap, outer = rest % TAPS, rest // TAPS
    if SLOTS is not None:
        slot, tap = tap, tap * 0
        for i in tl.static_range(len(SLOTS)):
            tap = tl.where(slot == i, SLOTS[i], tap)
    ci, co = (inner, outer) if CI_INNER else (outer, inner)
    kw, rest = tap % KW, tap // KW
    source = ci * w_stride[0] + co * w_stride[1] + (rest // KH) * w_stride[2] + (rest % KH) * w_stride[3] + kw * w_stride[4]
    tile = tl.load(w + source, mask=(index < SIZE) & (inner < LIVE) & (tap >= 0), other=0.0)
    tl.store(packed + index, round_tf32(tile) if ROUND else tile, mask=index < SIZE)


@triton.jit
def to_channels_last(x, copied, P, C, size, x_channels, x_size, x_stride, X_RUN: tl.constexpr, C_RUN: tl.constexpr,
                     ROUND: tl.constexpr, PADDED: tl.constexpr, APART: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
                     INDEX: tl.constexpr):
    """copied[place, c] = x[c, place], dense; P = N * D * H * W places. Grid: (places, channels).

    X_RUN neighbouring places of x and C_RUN channels of the copy are moved at once. PADDED: x has fewer channels or is smaller
    along an axis, and there the copy is zero. APART: so many residues along d and h lie one after another, in each sample.
    """
    index = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(INDEX)
    mask = (channel < C)[:, None] & (index < P)[None, :]
    SD: tl.constexpr = APART[0]
    SH: tl.constexpr = APART[1]
    n, d, h, w = position(index, (size[0] // SD, size[1] // SH, size[2]))
    if SD * SH > 1:
        n, d, h = n // (SD * SH), d * SD + n // SH % SD, h * SH + n % SH
    source = tl.multiple_of(place(n, 0, d, h, 0, x_stride) + w * x_stride[4], X_RUN)
    source = tl.max_contiguous(source, X_RUN)
    live = mask
    if PADDED:
        live = live & (channel < x_channels)[:, None] & ((h < x_size[1]) & (w < x_size[2]))[None, :]
        if SD > 1:
            live = live & (d < x_size[0])[None, :]
    tile = tl.load(x + (channel * x_stride[1])[:, None] + source[None, :], mask=live, other=0.0)
    target = tl.multiple_of(index * C, C_RUN)
    channel = tl.max_contiguous(tl.multiple_of(channel, C_RUN), C_RUN)
    tl.store(copied + target[None, :] + channel[:, None], round_tf32(tile) if ROUND else tile, mask=mask)


@triton.jit
def to_residues(x, copied, C, first, count, places, size, x_stride, c_stride, RESIDUES: tl.constexpr, X_RUN: tl.constexpr,
                C_RUN: tl.constexpr, ROUND: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, INDEX: tl.constexpr):
    """copied[n, c, place] = x[n, c, first + place], zeros where x has no such place: `count` places along each axis, which lie
    residue after residue, `places` from one to the next. Grid: (tile along h of a plane, tile along w).

    X_RUN neighbours along w of x and C_RUN of the copy are moved at once. Lanes count places as x does, so those of one residue
    write neighbours. Planes are counted by programs: no lane divides.
    """
    n, c, d, h = position(tl.program_id(0).to(INDEX), (C, count[0], tl.cdiv(count[1], BLOCK_H)))
    h = h * BLOCK_H + tl.arange(0, BLOCK_H)
    w = (tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)).to(INDEX)
    target = tl.multiple_of(place(n, c, apart(d, RESIDUES[0], places[0]), apart(h, RESIDUES[1], places[1]), 0, c_stride), C_RUN)
    across = tl.max_contiguous(tl.multiple_of(apart(w, RESIDUES[2], places[2]), C_RUN), C_RUN)
    live = (h < count[1])[:, None] & (w // C_RUN < count[2] // C_RUN)[None, :]
    source = tl.multiple_of(place(n, c, first[0] + d, first[1] + h, 0, x_stride), X_RUN)
    along = tl.max_contiguous(tl.multiple_of((first[2] + w) * x_stride[4], X_RUN), X_RUN)
    there = inside(first[0] + d, size[0]) & inside(first[1] + h, size[1])
    there = there[:, None] & inside(first[2] // X_RUN + w // X_RUN, size[2] // X_RUN)[None, :]
    tile = tl.load(x + (source[:, None] + along[None, :]), mask=there, other=0.0)
    tl.store(copied + (target[:, None] + across[None, :]), round_tf32(tile) if ROUND else tile, mask=live)
