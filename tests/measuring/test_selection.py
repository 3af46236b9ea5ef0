"""What is swept, in which order, and what a network does with each result."""

import dataclasses

from triton_conv3dt.measuring import selection
from triton_conv3dt.measuring.selection import MEASURED, After
from triton_conv3dt.problems.layers import layers, select
from triton_conv3dt.problems.problem import LAYOUTS


def test_what_follows_is_read_from_the_words():
    said = {step: str(After.of(dataclasses.replace(layers()[0], followed_by=step))) for step in (
        "concat(x, skip) along C (deconv output FIRST) -> Conv3d", "concat(prev, y) -> 1x1 Conv", "BatchNorm3d -> ReLU",
        "(replicate pad if odd) -> concat(skip, x) (deconv output LAST) -> Conv", "(activation None) -> concat", "",
        "ReLU (fused bias+ReLU) -> crop -> concat", "GELU (fused bias+GELU) -> 1x1 Conv", "+= second conv_transpose3d")}
    first, last = "concatenation, output first", "concatenation, output last"
    assert list(said.values()) == [first, last, "nothing", last, first, "nothing", "relu", "gelu", "residual"]
    assert all(After.of(own) for own in layers())


def test_what_is_swept_and_in_which_order():
    heavy = selection.by_weight(layers())
    assert len(heavy) == len(layers()) and not any("public benchmark" in own.tags for own in heavy[:100])
    networks = [own.network for own in heavy[:40]]
    assert len(set(networks)) == 40, "the heaviest layer of each network comes before the second of any"
    nnunet = select(["nnU-Net v2"])
    weight = [own.problem().bytes for own in selection.by_weight(nnunet)]
    assert weight == sorted(weight, reverse=True)
    for own in nnunet:
        found = selection.settings([own])
        assert [s.direction for s in found] == list(MEASURED if own.mode == "train" else MEASURED[:1])
    assert len(selection.settings(nnunet[:1], ["forward"], ["own", "float16", "float32"], LAYOUTS)) == 4
    parts = [selection.shard(range(10), (i, 3)) for i in (1, 2, 3)]
    assert sorted(sum(parts, [])) == list(range(10)) and parts[0] == [0, 3, 6, 9]
