"""Keras's initializers: functions of (shape, dtype) and their parameters.

The distributions are Keras's; the numbers come from PyTorch's generator, torch.manual_seed's or that of `seed`, and are
others than TensorFlow's. 16-bit tensors are drawn in fp32 and rounded.
"""

import math

import torch

TRUNCATED_STDDEV = 0.87962566103423978  # of a unit normal distribution that is cut off at two standard deviations


def fans(shape) -> tuple[int, int]:
    """fan_in and fan_out as Keras reads a shape, whose last two axes it takes for input and output channels. The last
    two of a transposed convolution's kernel are (filters, in_channels), so its fan_in counts filters.
    """
    if len(shape) < 2:
        return (shape[0],) * 2 if shape else (1, 1)
    field = math.prod(shape[:-2])
    return field * shape[-2], field * shape[-1]


def zeros(shape, dtype):
    return torch.zeros(shape, dtype=dtype)


def ones(shape, dtype):
    return torch.ones(shape, dtype=dtype)


def constant(shape, dtype, value=0.0):
    return torch.full(shape, value, dtype=dtype)


def random_uniform(shape, dtype, minval=-0.05, maxval=0.05, seed=None):
    return _empty(shape, dtype).uniform_(minval, maxval, generator=_generator(seed)).to(dtype)


def random_normal(shape, dtype, mean=0.0, stddev=0.05, seed=None):
    return _empty(shape, dtype).normal_(mean, stddev, generator=_generator(seed)).to(dtype)


def truncated_normal(shape, dtype, mean=0.0, stddev=0.05, seed=None):
    """Normal, without what is more than two standard deviations from the mean."""
    low, high = mean - 2 * stddev, mean + 2 * stddev
    return torch.nn.init.trunc_normal_(_empty(shape, dtype), mean, stddev, low, high, _generator(seed)).to(dtype)


def variance_scaling(shape, dtype, scale=1.0, mode="fan_in", distribution="truncated_normal", seed=None):
    """Of variance scale / n, with n the fan_in, the fan_out, or their mean for "fan_avg".

    distribution: "truncated_normal" (also "normal"), "untruncated_normal" or "uniform".
    """
    fan_in, fan_out = fans(shape)
    sizes = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    if mode not in sizes:
        raise ValueError(f"mode must be one of {', '.join(map(repr, sizes))}, received {mode!r}")
    variance = scale / max(1.0, sizes[mode])
    if distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return random_uniform(shape, dtype, -limit, limit, seed)
    if distribution == "untruncated_normal":
        return random_normal(shape, dtype, 0.0, math.sqrt(variance), seed)
    if distribution not in ("truncated_normal", "normal"):
        raise ValueError("distribution must be 'truncated_normal', 'untruncated_normal' or 'uniform', received "
                         f"{distribution!r}")
    return truncated_normal(shape, dtype, 0.0, math.sqrt(variance) / TRUNCATED_STDDEV, seed)


def glorot_uniform(shape, dtype, seed=None):
    return variance_scaling(shape, dtype, 1.0, "fan_avg", "uniform", seed)


def glorot_normal(shape, dtype, seed=None):
    return variance_scaling(shape, dtype, 1.0, "fan_avg", "truncated_normal", seed)


def he_uniform(shape, dtype, seed=None):
    return variance_scaling(shape, dtype, 2.0, "fan_in", "uniform", seed)


def he_normal(shape, dtype, seed=None):
    return variance_scaling(shape, dtype, 2.0, "fan_in", "truncated_normal", seed)


def lecun_uniform(shape, dtype, seed=None):
    return variance_scaling(shape, dtype, 1.0, "fan_in", "uniform", seed)


def lecun_normal(shape, dtype, seed=None):
    return variance_scaling(shape, dtype, 1.0, "fan_in", "truncated_normal", seed)


def orthogonal(shape, dtype, gain=1.0, seed=None):
    """Orthonormal rows or columns, whichever there are fewer of, of the matrix [the product of all axes but the last,
    the last]."""
    if len(shape) < 2:
        raise ValueError(f"initializer 'orthogonal' needs two axes or more, received the shape {list(shape)}")
    rows, columns = math.prod(shape[:-1]), shape[-1]
    q, r = torch.linalg.qr(random_normal((max(rows, columns), min(rows, columns)), _wide(dtype), 0.0, 1.0, seed))
    q = q * r.diagonal().sign()  # without it the matrices would not be uniformly distributed
    return (gain * (q.T if rows < columns else q)).reshape(shape).to(dtype)


INITIALIZERS = {f.__name__.replace("_", ""): f for f in (
    zeros, ones, constant, random_uniform, random_normal, truncated_normal, variance_scaling, glorot_uniform,
    glorot_normal, he_uniform, he_normal, lecun_uniform, lecun_normal, orthogonal)}
INITIALIZERS |= {"zero": zeros, "one": ones, "uniform": random_uniform, "normal": random_normal}


def _wide(dtype):
    return torch.promote_types(dtype, torch.float32)


def _empty(shape, dtype):
    return torch.empty(shape, dtype=_wide(dtype))


def _generator(seed):
    return None if seed is None else torch.Generator(torch.get_default_device()).manual_seed(seed)
