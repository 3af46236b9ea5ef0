"""How close is close enough: the only numbers of that kind in the tests. Changing one needs a reason.

    assert_exact   integers: the exact result, rounded once. Bit for bit, in every dtype, path, config and layout.
    assert_smooth  integers through a smooth activation: a unit in the last place.
    assert_close   random data: at most about as far from the truth as PyTorch in the same dtype.
    assert_capped  random data: what rounding the inputs can explain, whatever PyTorch does.

`exact` is always the fp64 truth (triton_conv3dt.checking.reference). A failure names the first and the worst place, its phase
when it is given the stride and the crop, how many are wrong, and what they have in common.
"""

import math

import torch

MAX_RATIO, GRADIENT_MAX_RATIO = 2.0, 3.0  # of the largest error of PyTorch: FlashAttention's bounds
RMS_RATIO = 1.25  # 16 bits: a second rounding makes it 1.41, while the largest error hardly moves
RMS_RATIO_LONG = 2.0  # fp32 and fp64: the order of summation, not the last rounding, makes the error
CAP = 8.0  # of the standard deviation of a sum of rounding errors; no element of any test may be beyond it
SMOOTH_ULPS = {torch.float16: 1.0, torch.bfloat16: 1.0, torch.float32: 4.0, torch.float64: 16.0}
FLOOR = 32  # rounding errors of the accumulator, for values that cancelled
ACTIVATION_ULPS = 4.0  # of one activation by itself, in the accumulator's type
ACTIVATION_ULPS_PER_UNIT = 0.5  # of |z|: the GPU's exp rounds z * log2(e)
INPUT_EPS = {"float16": 0.0, "bfloat16": 0.0, "float64": 2.0**-53, "ieee": 2.0**-24, "tf32": 2.0**-11,
             "tf32x3": 2.0**-21}  # what one input loses on its way to the accumulator
AXES = ("n", "c", "d", "h", "w")


def assert_exact(actual, exact, *, stride=None, padding=None):
    """actual equals exact rounded once to its dtype, everywhere."""
    expected = _comparable(actual, exact)
    if not torch.equal(actual, expected):
        _fail("not exact", actual, expected, (actual != expected) | actual.isnan(), stride, padding)


def assert_smooth(actual, exact, *, stride=None, padding=None):
    """actual is exact within a unit in the last place of a 16-bit dtype, a few of a longer one."""
    expected = _comparable(actual, exact)
    allowed = SMOOTH_ULPS[actual.dtype] * _ulp(exact, actual.dtype) + FLOOR * _accumulator_eps(actual.dtype)
    wrong = ~((actual.double() - exact).abs() <= allowed) & (actual != expected)
    if wrong.any():
        _fail("beyond the last place", actual, expected, wrong, stride, padding)


def assert_close(actual, exact, same_dtype, *, gradient=False, stride=None, padding=None):
    """The largest and the RMS error are within a small factor of those of same_dtype, PyTorch's result."""
    expected = _comparable(actual, exact)
    assert same_dtype.dtype == actual.dtype, f"compare {actual.dtype} with the same, not with {same_dtype.dtype}"
    error, theirs = (actual.double() - exact).abs(), (same_dtype.double() - exact).abs()
    floor = 2 * ((expected + 0.3 - 0.3) - expected).abs().max().item() if expected.numel() else 0.0
    largest = (GRADIENT_MAX_RATIO if gradient else MAX_RATIO) * _max(theirs) + floor
    wrong = ~(error <= largest)
    if wrong.any():
        _fail(f"error above {largest:.3g}, PyTorch's is {_max(theirs):.3g}", actual, expected, wrong, stride, padding)
    if actual.dtype.itemsize == 2:  # against one rounding of the truth: PyTorch's own result may have had two
        bound = RMS_RATIO * _rms(expected.double() - exact)
    else:
        bound = RMS_RATIO_LONG * _rms(theirs)
    bound += FLOOR * _accumulator_eps(actual.dtype) * _rms(exact)
    assert _rms(error) <= bound, f"RMS error {_rms(error):.4g} above {bound:.4g}; PyTorch's is {_rms(theirs):.4g}"


def assert_capped(actual, exact, *, terms, scale, precision, stride=None, padding=None):
    """Every error is within what rounding `terms` products can explain, whatever PyTorch does.

    scale: rms(first operand) * rms(second). precision: what the products are formed in, a key of INPUT_EPS.
    """
    expected = _comparable(actual, exact)
    noise = math.sqrt(2 * terms) * INPUT_EPS[precision] + terms * _accumulator_eps(actual.dtype) / 2
    wrong = ~((actual.double() - exact).abs() <= CAP * noise * scale + 0.5001 * _ulp(exact, actual.dtype))
    if wrong.any():
        _fail("error beyond what rounding explains", actual, expected, wrong, stride, padding)


def _comparable(actual, exact):
    assert exact.dtype == torch.float64, f"the truth is float64, received {exact.dtype}"
    assert actual.shape == exact.shape, f"shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    return exact.to(actual.dtype)


def _ulp(exact, dtype):
    """The distance between neighbours of dtype around |exact|."""
    info = torch.finfo(dtype)
    return info.eps * exact.abs().clamp(min=info.tiny).log2().floor().exp2()


def _accumulator_eps(dtype) -> float:
    return torch.finfo(torch.promote_types(dtype, torch.float32)).eps


def _max(t) -> float:
    return t.max().item() if t.numel() else 0.0


def _rms(t) -> float:
    return t.square().mean().sqrt().item() if t.numel() else 0.0


def _fail(what, actual, expected, wrong, stride, padding):
    places = wrong.nonzero()
    error = (actual.double() - expected.double()).abs().nan_to_num(nan=math.inf)
    worst = places[error[wrong].argmax()]
    lines = [f"{what}: {len(places)} of {wrong.numel()} wrong in {tuple(actual.shape)} {actual.dtype}"]
    for name, place in (("first", places[0]), ("worst", worst)):
        at = tuple(place.tolist())
        phase = f", phase {_phases(place[None], stride, padding)[0].tolist()}" if stride and actual.ndim == 5 else ""
        lines.append(f"{name} at {_named(at)}{phase}: {actual[at].item()!r}, expected {expected[at].item()!r}")
    raise AssertionError("\n  ".join(lines + _common(places, actual.shape, stride, padding)))


def _named(at) -> str:
    return ", ".join(f"{axis}={i}" for axis, i in zip(AXES, at)) if len(at) == 5 else str(at)


def _phases(places, stride, padding):
    return (places[:, 2:] + torch.tensor(padding or (0, 0, 0), device=places.device)).remainder(
        torch.tensor(stride, device=places.device))


def _common(places, shape, stride, padding) -> list[str]:
    """What the wrong places share that the right ones do not: a coordinate, a block of channels, a phase."""
    found = []
    for axis, size in enumerate(shape):
        low, high = int(places[:, axis].min()), int(places[:, axis].max())
        if len(places) > 1 and high - low + 1 < size:
            name = AXES[axis] if len(shape) == 5 else f"axis {axis}"
            found.append(f"all at {name}={low}" if low == high else f"all within {name}={low}..{high} of 0..{size - 1}")
    if stride and len(shape) == 5 and math.prod(stride) > 1:
        phases = _phases(places, stride, padding).unique(dim=0).tolist()
        if len(phases) <= math.prod(stride) // 2:
            found.append(f"all in phases {phases}")
    return found
