"""TensorFlow's lengths of one axis: which outputs it accepts, what it crops from them, and what its layer asks for.

    y[o] = sum of x[i] * f[k]  over all i and k with  o = i * stride + k * dilation - crop

The convolution that this one transposes takes `out` back to `size`: VALID gives floor((out - reach + stride) / stride),
SAME gives ceil(out / stride). Every `out` that comes back to `size` is accepted, up to `stride` of them.

Only integers here, so that all of it can be tested exhaustively.
"""


def reach(kernel: int, dilation: int) -> int:
    """The length that a dilated kernel covers, its holes included."""
    return (kernel - 1) * dilation + 1


def accepted(size: int, kernel: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    """The smallest and the largest output length, for padding "SAME" or "VALID"; an empty interval where there is none.

    Without input, VALID accepts what TensorFlow's division, which rounds towards zero, brings back to 0.
    """
    if padding == "SAME":
        return max(0, (size - 1) * stride + 1), size * stride
    covered = reach(kernel, dilation)
    if size == 0:
        return max(0, covered - 2 * stride + 1), covered - 1
    low = (size - 1) * stride + covered
    return max(0, low), low + stride - 1


def crop(size: int, out: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    """What is cropped before the output. It depends on the output's length; an odd rest is cropped after it."""
    if padding == "VALID":
        return 0
    return max(0, (size - 1) * stride + reach(kernel, dilation) - out) // 2


def layer_length(size: int, kernel: int, stride: int, dilation: int, padding: str, output_padding: int | None) -> int:
    """The output length of tf.layers.Conv3DTranspose; with an output_padding, that of tf.keras's layer."""
    covered = reach(kernel, dilation)
    if output_padding is None:
        return size * stride + (max(covered - stride, 0) if padding == "VALID" else 0)
    cropped = 2 * (covered // 2) if padding == "SAME" else 0
    return max(0, (size - 1) * stride + covered - cropped + output_padding)
