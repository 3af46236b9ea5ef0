"""Which planes travel, against the definition: every input that an output reads, and no other."""

import random
import runpy
from pathlib import Path

import pytest
import torch

from triton_conv3dt.distributed import traffic
from triton_conv3dt.problems.geometry import Axis
from triton_conv3dt.sharding.halo import Split, chunk, inputs_of, interior, places, plan


def reads(axis, output):
    return {i for i in range(axis.size) for k in range(axis.kernel)
            if i * axis.stride - axis.padding + k * axis.dilation == output}


def axes(n):
    rng = random.Random(0)
    for _ in range(n):
        yield Axis(rng.randint(1, 9), rng.randint(0, 20), rng.randint(1, 5), rng.randint(1, 3), rng.randint(-3, 6),
                   rng.randint(1, 4))


def test_shards_are_those_of_torch_chunk():
    for length in range(12):
        for parts in range(1, 6):
            chunks = [t.tolist() for t in torch.arange(length).chunk(parts)] if length else []
            for index in range(parts):
                expected = chunks[index] if index < len(chunks) else []
                assert list(chunk(range(length), parts, index)) == expected


def test_the_inputs_of_outputs_are_exact():
    for axis in axes(300):
        for parts in (1, 2, 5):
            for index in range(parts):
                outputs = chunk(range(axis.out), parts, index)
                expected = set().union(*(reads(axis, o) for o in outputs))
                assert {i for run in inputs_of(axis, outputs) for i in run} == expected, (axis, outputs)


def test_interior_outputs_read_nothing_of_others():
    for axis in axes(300):
        for index in range(3):
            own, outputs = (chunk(range(n), 3, index) for n in (axis.size, axis.out))
            inner = interior(axis, own, outputs)
            if own:
                assert all(reads(axis, o) <= set(own) for o in inner), (axis, own, outputs)


@pytest.mark.parametrize("sizes, split", [((3,), (0,)), ((2, 2), (0, 1)), ((2, 2), (0, 0)), ((2, 1, 2), (2, 0, 1))])
def test_parts_cover_the_outputs_once_and_messages_are_what_they_read(sizes, split):
    several = iter(axes(30))
    for three in zip(several, several, several):
        for rank in range(Split(sizes, split).ranks):
            ours = plan(three, Split(sizes, split), rank)
            assert sum(places(part.outputs) for part in ours.parts) == places(ours.outputs)
            read = [set().union(*(reads(axis, o) for o in outputs)) for axis, outputs in zip(three, ours.outputs)]
            wanted = len(read[0]) * len(read[1]) * len(read[2]) if places(ours.outputs) else 0
            held = len(read[0] & set(ours.own[0])) * len(read[1] & set(ours.own[1])) * len(read[2] & set(ours.own[2]))
            assert sum(ours.receive_places) == ours.received(rank) == (wanted - held if wanted else 0)
            for other in range(ours.split.ranks):
                assert ours.send_places[other] == plan(three, ours.split, other).receive_places[rank]
                assert ours.exchanges == plan(three, ours.split, other).exchanges


def test_kernel_equal_to_stride_on_aligned_shards_sends_nothing():
    assert traffic((1, 8, 16, 4, 4), (8, 4, 2, 2, 2), (8,), (2,), stride=2).halo == 0
    assert traffic((1, 8, 15, 4, 4), (8, 4, 2, 2, 2), (8,), (2,), stride=2).halo == 0  # 2 planes each, 4 of the output
    assert traffic((1, 8, 9, 4, 4), (8, 4, 2, 2, 2), (4,), (2,), stride=2).halo > 0  # 3 planes each, and 5


def test_traffic_in_bytes():
    """Kernel 3, stride 1: a plane from each side."""
    plane = 4 * 6 * 6 * 2
    summed = 4 * 4 * 27 + 4
    layer = (1, 4, 8, 6, 6), (4, 4, 3, 3, 3)
    assert traffic(*layer, (2,), (2,), padding=1) == (4 * plane, plane, 2 * summed // 2 * 2)
    assert traffic(*layer, (4,), (2,), padding=1).halo == 2 * plane
    assert traffic(*layer, (4,), (2,), padding=1, dtype=torch.float32).halo == 4 * plane
    assert traffic(*layer, (2, 2), (2, 3), padding=1).weight == 2 * (2 * summed // 2 * 2)


def test_the_table_of_the_page_is_up_to_date():
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "sharding.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(docs / "sharding_bytes.py"))["page"](page) == page, "run python docs/sharding_bytes.py"
