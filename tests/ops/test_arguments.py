"""Whether `out` overlaps what is read: the exact test against enumerating every address."""

import itertools
import random

import pytest
import torch

from triton_conv3dt.ops import arguments


def addresses(t):
    """Every element's offset in the storage, one per index."""
    return [t.storage_offset() + sum(i * s for i, s in zip(index, t.stride()))
            for index in itertools.product(*map(range, t.shape))]


def random_view(buffer):
    """A view of some of a buffer's elements: sliced, permuted, or of arbitrary strides."""
    if random.random() < 0.4:
        shape = [random.randint(1, 3) for _ in range(3)]
        strides = [random.randint(0, 9) for _ in range(3)]
        return buffer.as_strided(shape, strides, random.randint(0, 12))
    block = buffer[:3 * 4 * 5].view(3, 4, 5)
    for axis, size in enumerate(block.shape):
        start = random.randrange(size)
        block = block.narrow(axis, start, random.randint(1, size - start))
    return block[..., ::random.randint(1, 2)].permute(random.sample(range(3), 3))


@pytest.mark.parametrize("seed", range(400))
def test_overlap_is_exact(seed):
    random.seed(seed)
    buffer = torch.empty(80)
    a, b = random_view(buffer), random_view(buffer)
    assert arguments._overlap(a, b) == arguments._overlap(b, a) == bool(set(addresses(a)) & set(addresses(b)))
    if len(set(addresses(a))) < a.numel():
        assert arguments._overlaps_itself(a.shape, a.stride())


@pytest.mark.parametrize("view", [
    lambda t: t, lambda t: t[:, 1:3], lambda t: t[..., ::2], lambda t: t.permute(0, 4, 1, 2, 3), lambda t: t[:, :1],
    lambda t: t.to(memory_format=torch.channels_last_3d)[:, 1:3], lambda t: t[:0], lambda t: t[:1, :1, :1, :1, :1]])
def test_slices_and_permutations_do_not_overlap_themselves(view):
    t = view(torch.empty(2, 4, 3, 5, 2))
    assert not arguments._overlaps_itself(t.shape, t.stride())


def test_memory_that_is_seen_at_another_address_modulo_the_element():
    bytes_ = torch.zeros(64, dtype=torch.uint8)
    a = torch.frombuffer(bytes_.numpy(), dtype=torch.float32, count=4, offset=2)
    b = torch.frombuffer(bytes_.numpy(), dtype=torch.float32, count=4, offset=16)
    c = torch.frombuffer(bytes_.numpy(), dtype=torch.float32, count=4, offset=20)
    assert arguments._overlap(a, b) and arguments._overlap(b, a)
    assert not arguments._overlap(a, c) and not arguments._overlap(c, a)
