"""Every activation that the kernels fuse: its value, and its derivative from the one tensor that is kept for it.

They are found by their names, `name` and `name_derivative` for every entry of problems/activations.py. All are computed
in the type of the accumulator, fp32 or fp64. A and B are the parameters of the entry, in its order; activations that
take fewer ignore the rest. A constant stands right of a tensor: on the left, the
interpreter of Triton 3.7 makes a constant of the product. NaN comes out as NaN, infinities as torch has them.

Accuracy: a few ulp, near zero as well, except that tl.exp rounds z * log2(e) to fp32 and so loses half an ulp per unit
of |z|. That is felt in the far tails alone, where it would cost every element more instructions than the store takes.
"""

import math

import triton
import triton.language as tl

SQRT_HALF = tl.constexpr(math.sqrt(0.5))
NORMAL = tl.constexpr(1 / math.sqrt(2 * math.pi))
TANH_SCALE = tl.constexpr(math.sqrt(8 / math.pi))  # gelu_tanh, 0.5 * (1 + tanh(u)) written as sigmoid(2 * u)
TANH_CUBIC = tl.constexpr(0.044715)
SELU_ALPHA = tl.constexpr(1.6732632423543772)
SELU_SCALE = tl.constexpr(1.0507009873554805)
EXPM1_SERIES = tl.constexpr(tuple(1 / math.factorial(k + 1) for k in range(16)))
ATANH_SERIES = tl.constexpr(tuple(1 / (2 * k + 1) for k in range(16)))


@triton.jit
def constants(condition, INSIDE: tl.constexpr, OUTSIDE: tl.constexpr, like):
    """tl.where of two numbers in the type of `like`: by themselves they would be fp32."""
    return tl.where(condition, INSIDE, tl.full(like.shape, OUTSIDE, like.dtype))


@triton.jit
def series(z, COEFFICIENTS: tl.constexpr):
    """The sum of COEFFICIENTS[k] * z**k, eight of them in fp32 and sixteen in fp64."""
    TERMS: tl.constexpr = 16 if z.dtype == tl.float64 else 8
    total = z * COEFFICIENTS[TERMS - 1] + COEFFICIENTS[TERMS - 2]
    for k in tl.static_range(2, TERMS):
        total = total * z + COEFFICIENTS[TERMS - 1 - k]
    return total


@triton.jit
def expm1(z):
    """exp(z) - 1 for z <= 0, without cancellation near zero."""
    return tl.where(z > -0.5, z * series(z, EXPM1_SERIES), tl.exp(z) - 1.0)


@triton.jit
def log1p_exp(z):
    """log(1 + exp(z)): log1p(e) = 2 * atanh(e / (2 + e)) for e = exp(-abs(z)) <= 1."""
    e = tl.exp(-tl.abs(z))
    s = e / (e + 2.0)
    return tl.where(z > 0, z, 0.0) + 2.0 * s * series(s * s, ATANH_SERIES)


@triton.jit
def logistic(z):
    """sigmoid(z) and its derivative, which s * (1 - s) would not give where s rounds to 1."""
    e = tl.exp(-tl.abs(z))
    s = 1.0 / (1.0 + e)
    return tl.where(z > 0, s, e * s), e * s * s


@triton.jit
def relu(z, A: tl.constexpr, B: tl.constexpr):
    return tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def relu_derivative(y, A: tl.constexpr, B: tl.constexpr):
    return constants(y <= 0, 0.0, 1.0, y)


@triton.jit
def relu6(z, A: tl.constexpr, B: tl.constexpr):
    return hardtanh(z, 0.0, 6.0)


@triton.jit
def relu6_derivative(y, A: tl.constexpr, B: tl.constexpr):
    return hardtanh_derivative(y, 0.0, 6.0)


@triton.jit
def leaky_relu(z, A: tl.constexpr, B: tl.constexpr):
    return tl.where(z > 0, z, z * A)


@triton.jit
def leaky_relu_derivative(saved, A: tl.constexpr, B: tl.constexpr):
    return constants(saved > 0, 1.0, A, saved)


@triton.jit
def elu(z, A: tl.constexpr, B: tl.constexpr):
    return tl.where(z > 0, z, expm1(z) * A)


@triton.jit
def elu_derivative(saved, A: tl.constexpr, B: tl.constexpr):
    if A > 0:  # from the output
        return tl.where(saved <= 0, saved + A, 1.0)
    else:
        return tl.where(saved <= 0, tl.exp(saved) * A, 1.0)


@triton.jit
def selu(z, A: tl.constexpr, B: tl.constexpr):
    return elu(z, SELU_ALPHA, B) * SELU_SCALE


@triton.jit
def selu_derivative(y, A: tl.constexpr, B: tl.constexpr):
    return tl.where(y <= 0, y + SELU_SCALE * SELU_ALPHA, SELU_SCALE)


@triton.jit
def sigmoid(z, A: tl.constexpr, B: tl.constexpr):
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def sigmoid_derivative(y, A: tl.constexpr, B: tl.constexpr):
    return y * (1.0 - y)


@triton.jit
def tanh(z, A: tl.constexpr, B: tl.constexpr):
    e = expm1(-2.0 * tl.abs(z))
    t = e / (e + 2.0)
    return tl.where(z < 0, t, -t)


@triton.jit
def tanh_derivative(y, A: tl.constexpr, B: tl.constexpr):
    return 1.0 - y * y


@triton.jit
def softplus(z, A: tl.constexpr, B: tl.constexpr):
    return tl.where(z * A > B, z, log1p_exp(z * A) * (1.0 / A))


@triton.jit
def softplus_derivative(z, A: tl.constexpr, B: tl.constexpr):
    return tl.where(z * A > B, 1.0, sigmoid(z * A, A, B))


@triton.jit
def hardsigmoid(z, A: tl.constexpr, B: tl.constexpr):
    return hardtanh(z + 3.0, 0.0, 6.0) * (1.0 / 6.0)


@triton.jit
def hardsigmoid_derivative(y, A: tl.constexpr, B: tl.constexpr):
    return constants((y > 0) & (y < 1), 1.0 / 6.0, 0.0, y)


@triton.jit
def hardtanh(z, A: tl.constexpr, B: tl.constexpr):
    above = tl.maximum(z, A, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(above, B, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def hardtanh_derivative(y, A: tl.constexpr, B: tl.constexpr):
    return constants((y <= A) | (y >= B), 0.0, 1.0, y)


@triton.jit
def exponential(z, A: tl.constexpr, B: tl.constexpr):
    return tl.exp(z)


@triton.jit
def exponential_derivative(y, A: tl.constexpr, B: tl.constexpr):
    return y


@triton.jit
def gelu(z, A: tl.constexpr, B: tl.constexpr):
    return 0.5 * z * (1.0 + tl.math.erf(z * SQRT_HALF))


@triton.jit
def gelu_derivative(z, A: tl.constexpr, B: tl.constexpr):
    return 0.5 * (1.0 + tl.math.erf(z * SQRT_HALF)) + z * tl.exp(-0.5 * z * z) * NORMAL


@triton.jit
def gelu_tanh(z, A: tl.constexpr, B: tl.constexpr):
    return z * sigmoid(z * TANH_SCALE * (z * z * TANH_CUBIC + 1.0), A, B)


@triton.jit
def gelu_tanh_derivative(z, A: tl.constexpr, B: tl.constexpr):
    square = tl.minimum(z * z, 1e4)  # beyond it the derivative is 0 or 1, and inf * 0 would be NaN
    s, slope = logistic(z * TANH_SCALE * (square * TANH_CUBIC + 1.0))
    return s + z * slope * TANH_SCALE * (square * (3.0 * TANH_CUBIC) + 1.0)


@triton.jit
def silu(z, A: tl.constexpr, B: tl.constexpr):
    return z * sigmoid(z, A, B)


@triton.jit
def silu_derivative(z, A: tl.constexpr, B: tl.constexpr):
    s, slope = logistic(z)
    return s + z * slope


@triton.jit
def tanh_softplus(z):
    """tanh(log(1 + exp(z))) = (1 + 2e) / (1 + 2e + 2e**2) with e = exp(-z), or multiplied by exp(2z) where z < 0."""
    e = tl.exp(-tl.abs(z))
    top = tl.where(z < 0, e * (e + 2.0), 1.0 + 2.0 * e)
    return top / (top + 2.0 * tl.where(z < 0, 1.0, e * e))


@triton.jit
def mish(z, A: tl.constexpr, B: tl.constexpr):
    return z * tanh_softplus(z)


@triton.jit
def mish_derivative(z, A: tl.constexpr, B: tl.constexpr):
    t = tanh_softplus(z)
    return t + z * sigmoid(z, A, B) * (1.0 - t * t)


@triton.jit
def hardswish(z, A: tl.constexpr, B: tl.constexpr):
    return z * hardsigmoid(z, A, B)


@triton.jit
def hardswish_derivative(z, A: tl.constexpr, B: tl.constexpr):
    return tl.where(z <= -3.0, 0.0, tl.where(z < 3.0, z * (1.0 / 3.0) + 0.5, 1.0))


@triton.jit
def softsign(z, A: tl.constexpr, B: tl.constexpr):
    return z / (1.0 + tl.abs(z))


@triton.jit
def softsign_derivative(z, A: tl.constexpr, B: tl.constexpr):
    slope = 1.0 / (1.0 + tl.abs(z))
    return slope * slope
