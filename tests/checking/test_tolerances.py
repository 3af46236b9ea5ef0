"""The yardsticks see the faults they are there for, and nothing else: a correct result in any order of summation."""

import pytest
import torch

import tolerances
from cases import CORPUS, case
from layouts import LAYOUTS, RedZone, lay_out
from triton_conv3dt.checking import reference
from triton_conv3dt.checking.trial_tensors import Wrong

HALVES = (torch.float16, torch.bfloat16)
DEEP = case("1728 terms", n=2, ci=64, co=16, in_size=(3, 4, 5), kernel=3, padding=1)


def layer(dtype, x, w, b, split=1, second_rounding=False, partials=torch.float32, dropped=0):
    """DEEP in fp32 from x and w in dtype, in `split` parts, with one fault or none."""
    w = w.clone()
    w[:dropped, 0, 1, 1, 1] = 0
    parts = (reference.conv_transpose3d(*half, out_size=DEEP.out_size, dtype=torch.float32, **DEEP.geometry)
             for half in zip(x.chunk(split, 1), w.chunk(split, 0)))
    z = sum(part.to(partials).float() for part in parts)
    if second_rounding:
        z = z.to(dtype).float()
    return (z + b.float().view(-1, 1, 1, 1)).to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_exact_passes_any_order_and_catches_every_fault(dtype):
    t = DEEP.tensors(dtype)
    exact = reference.conv_transpose3d(t.x, t.w, t.b, out_size=DEEP.out_size, **DEEP.geometry)
    for split in (1, 2, 8):
        tolerances.assert_exact(layer(dtype, t.x, t.w, t.b, split), exact)
    for fault in (dict(second_rounding=True), dict(split=4, partials=dtype), dict(dropped=1)):
        with pytest.raises(AssertionError, match="not exact"):
            tolerances.assert_exact(layer(dtype, t.x, t.w, t.b, **fault), exact)


@pytest.mark.parametrize("dtype", HALVES)
def test_close_sees_a_second_rounding(dtype):
    shapes = DEEP.shapes
    x, w, b = torch.randn(shapes.x).to(dtype), (torch.randn(shapes.w) / 8).to(dtype), torch.randn(shapes.b).to(dtype)
    exact = reference.conv_transpose3d(x, w, b, out_size=DEEP.out_size, **DEEP.geometry)
    right = layer(dtype, x, w, b)
    tolerances.assert_close(layer(dtype, x, w, b, split=4), exact, right)
    with pytest.raises(AssertionError, match="RMS error"):
        tolerances.assert_close(layer(dtype, x, w, b, second_rounding=True), exact, right)
    with pytest.raises(AssertionError, match="error above"):
        tolerances.assert_close(layer(dtype, x, w, b, dropped=64), exact, right)
    cap = dict(terms=1728, scale=1 / 8, precision=str(dtype)[6:])
    tolerances.assert_capped(right, exact, **cap)
    with pytest.raises(AssertionError, match="rounding explains"):
        tolerances.assert_capped(layer(dtype, x, w, b, dropped=64), exact, **cap)


def test_failure_says_where():
    exact = torch.zeros(2, 3, 4, 6, 8, dtype=torch.float64)
    actual = exact.float()
    actual[:, 1, :, :, 1::2] += 1
    actual[1, 1, 2, 3, 5] = float("nan")
    with pytest.raises(AssertionError) as failure:
        tolerances.assert_exact(actual, exact, stride=(1, 1, 2), padding=(0, 0, 1))
    message = str(failure.value)
    assert "192 of 1152 wrong" in message
    assert "first at n=0, c=1, d=0, h=0, w=1, phase [0, 0, 0]: 1.0, expected 0.0" in message
    assert "worst at n=1, c=1, d=2, h=3, w=5, phase [0, 0, 0]: nan" in message
    assert "all at c=1" in message and "all in phases [[0, 0, 0]]" in message


def test_smooth_allows_one_unit_in_the_last_place():
    exact = torch.rand(4, 5, dtype=torch.float64) * 100
    near = exact.half()
    tolerances.assert_smooth(near, exact)
    tolerances.assert_smooth(torch.nextafter(near.float(), near.float() + 1).half(), exact)
    with pytest.raises(AssertionError, match="beyond the last place"):
        tolerances.assert_smooth((near.double() * (1 + 2**-9)).half(), exact)
    tolerances.assert_smooth(torch.full((1,), float("inf")).half(), torch.full((1,), 1e6, dtype=torch.float64))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_hold_the_values_among_nan(layout):
    t = torch.arange(2 * 3 * 2 * 4 * 5).reshape(2, 3, 2, 4, 5).float()
    placed = lay_out(t, layout)
    if layout == "expanded":
        assert placed.stride()[0] == placed.stride()[4] == 0
        return
    assert torch.equal(placed, t)
    storage = torch.empty(0).set_(placed.untyped_storage())
    assert int((~storage.isnan()).sum()) == t.numel()
    assert placed.data_ptr() % 16 or "misaligned" not in layout
    assert (placed.stride(1) == 1) == ("channels_last" in layout)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded"])
def test_red_zone_sees_a_write_outside_and_a_hole_inside(layout):
    zone = RedZone((2, 3, 2, 4, 5), torch.float16, layout)
    with pytest.raises(Wrong, match="240 of 240 values are NaN"):
        zone.check()
    zone.view.copy_(torch.randn(zone.view.shape))
    before = zone.view.clone()
    zone.check()
    assert torch.equal(zone.view, before)
    last = zone.view.storage_offset() + sum((n - 1) * s for n, s in zip(zone.view.shape, zone.view.stride()))
    for outside in (zone.view.storage_offset() - 1, last + 1):
        zone.view.as_strided((1,), (1,), outside).fill_(1.0)
        with pytest.raises(Wrong, match="2 of the .* bytes around the output"):
            zone.check()
        zone._bytes.view(torch.float16)[outside] = zone._pattern[0]


def test_integer_tensors_are_exact_in_fp32():
    for one in (*CORPUS, DEEP, case("deep", ci=4096, co=1, in_size=1, kernel=(5, 5, 6)),
                case("wide", n=4, ci=1, co=1, in_size=(50, 40, 40), kernel=1)):
        t = one.tensors()
        bound = lambda a, b, terms: float(a.abs().max()) * float(b.abs().max()) * terms if a.numel() else 0
        taps, group = t.w[0, 0].numel(), one.groups
        assert bound(t.x, t.w, one.ci // group * taps) + 30 < 2**24
        assert bound(t.dz, t.w, one.co // group * taps) < 2**24
        assert bound(t.x, t.dz, t.x[:, 0].numel()) < 2**24


def test_memory_that_the_package_asks_for_is_poisoned():
    calls = ("torch.empty(3)", "torch.empty_like(x)", "torch.empty_strided((3,), (1,))", "x.new_empty(3)")
    for call in calls:
        ours = eval(call, {"__name__": "triton_conv3dt.launching.launch", "torch": torch, "x": torch.ones(3)})
        assert ours.isnan().all(), call
    ints = eval("torch.empty(3, dtype=torch.int32)", {"__name__": "triton_conv3dt.launching.launch", "torch": torch})
    assert (ints == 0x7F7F7F7F).all()
