"""Conv3DTranspose: TensorFlow's layer as a torch.nn.Module."""

import torch

from ..ops.arguments import BACKENDS, autocasting, check_choice
from ..problems.problem import PRECISIONS
from . import settings
from .activations import activation_of
from .arguments import DTYPES, remembered
from .base import Layer
from .lengths import crop, layer_length
from .operator import transposed


@remembered
def sizes(in_size, kernel_size, strides, dilation_rate, padding: str, output_padding) -> tuple:
    """The output's depth, height and width, and what is cropped before it."""
    numbers = list(zip(kernel_size, strides, dilation_rate, (padding.upper(),) * 3))
    out_size = tuple(layer_length(i, *n, e) for i, n, e in zip(in_size, numbers, output_padding or (None,) * 3))
    return out_size, tuple(crop(i, o, *n) for i, o, n in zip(in_size, out_size, numbers))


class Conv3DTranspose(Layer):
    """tf.compat.v1.layers.Conv3DTranspose: a transposed convolution, with bias and activation in the same launch.

    The weights are `kernel`, (KD, KH, KW, filters, in_channels) as TensorFlow has it, and `bias`, (filters,). They are
    made at the first call, for the channels, the dtype and the device of its input; until then they are uninitialized,
    as those of PyTorch's lazy modules are. An axis of length I becomes I * stride with "same" and
    I * stride + max(kernel - stride, 0) with "valid".

    Args:
        filters: the number of output channels.
        kernel_size, strides: an integer, or three.
        padding: "valid" or "same", in any case.
        data_format: "channels_last", inputs [N, D, H, W, C], or "channels_first", [N, C, D, H, W]; in any case.
        activation: None; a name that Keras or the kernels know; a pair such as ("leaky_relu", 0.01); or a callable.
            What the kernels know is computed in the same launch, anything else after it.
        use_bias: whether there is a bias.
        kernel_initializer, bias_initializer: a name, a pair (name, parameters), or a callable of (shape, dtype). None
            is TensorFlow's default for any variable, "glorot_uniform", for the bias as well. Keras reads the last two
            axes of a kernel as input and output channels, so that fan_in counts filters here, as there.
        kernel_regularizer, bias_regularizer, activity_regularizer: None, "l1", "l2", "l1_l2", a pair such as
            ("l2", 1e-4), or a callable that gives a scalar; see `losses`.
        kernel_constraint, bias_constraint: None, "max_norm", "non_neg", "unit_norm", "min_max_norm", a pair such as
            ("max_norm", {"max_value": 2, "axis": [0, 1, 2, 4]}), or a callable from weight to weight. It is applied
            after each step of a torch.optim optimizer that changed the weight, and never by a call.
        trainable: whether the weights require grad; an attribute that may be set later.
        name: of the layer; numbered where it is None.

    Keyword arguments:
        dtype: of the weights; None for that of the first input.
        output_padding: None, or less than the stride on each axis. Then the length is
            (I - 1) * stride + kernel + output_padding, less 2 * (kernel // 2) with "same", as in tf.keras.
        dilation_rate: an integer, or three. TensorFlow takes it and ignores it; here it dilates the kernel.
        groups: of channels. TensorFlow takes it and ignores it; here it divides the channels and the filters, and the
            kernel is (KD, KH, KW, filters / groups, in_channels).
        weights: what `set_weights` takes, in the place of what the initializers give.
        input_shape, batch_input_shape: without or with the batch size, None where a size is open. The weights are made
            at once.
        precision, backend: ours, as triton_conv3dt.conv_transpose3d takes them.

    Raises:
        TypeError: an argument of the wrong type, or an unknown one; an input of another dtype than the weights.
        ValueError: an argument or the shape of an input that cannot be.
    """

    def __init__(self, filters, kernel_size, strides=(1, 1, 1), padding="valid", data_format="channels_last",
                 activation=None, use_bias=True, kernel_initializer=None, bias_initializer="zeros",
                 kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None, kernel_constraint=None,
                 bias_constraint=None, trainable=True, name=None, **kwargs):
        extra = settings.keywords(kwargs)
        super().__init__(
            "conv3d_transpose", name, trainable, settings.dtype(extra["dtype"]), use_bias, dict(
                kernel_initializer=kernel_initializer, bias_initializer=bias_initializer,
                kernel_regularizer=kernel_regularizer, bias_regularizer=bias_regularizer,
                activity_regularizer=activity_regularizer, kernel_constraint=kernel_constraint,
                bias_constraint=bias_constraint), extra["_scope"], extra["weights"])
        self.filters = settings.positive("filters", filters)
        self.kernel_size = settings.three("kernel_size", kernel_size)
        self.strides = settings.three("strides", strides)
        self.padding = settings.lower("padding", padding, ("valid", "same"))
        formats = ("channels_last", "channels_first")
        self.data_format = settings.lower("data_format", formats[0] if data_format is None else data_format, formats)
        self.dilation_rate = settings.three("dilation_rate", extra["dilation_rate"])
        self.groups = settings.positive("groups", extra["groups"])
        if self.filters % self.groups:
            raise ValueError(f"groups must divide filters, received filters={self.filters} and groups={self.groups}")
        self.output_padding = settings.output_padding(extra["output_padding"], self.kernel_size, self.strides,
                                                      self.dilation_rate, self.padding)
        self.precision, self.backend = extra["precision"], extra["backend"]
        check_choice("backend", self.backend, BACKENDS)
        if self.precision is not None:
            check_choice("precision", self.precision, PRECISIONS)
        self._fused, then = activation_of(activation)
        self.activation = activation if then is None else then
        self._specified["activation"] = "linear" if activation is None else activation
        if (input_shape := settings.input_shape(extra)) is not None:
            self.build(input_shape)

    def forward(self, inputs, training=None):
        """activation(conv3d_transpose(inputs, kernel) + bias). `training` is taken and makes no difference."""
        self._check_inputs(inputs)
        # A module may have got a hook since it was given.
        fused, then = activation_of(self.activation) if callable(self.activation) else (self._fused, None)
        out_size, cropped = sizes(self._sizes(inputs.shape), self.kernel_size, self.strides, self.dilation_rate,
                                  self.padding, self.output_padding)
        y = transposed(inputs, self.kernel, self.bias, out_size=out_size, crop=cropped, strides=self.strides,
                       dilations=self.dilation_rate, groups=self.groups, activation=fused,
                       channels_last=self._channel_axis == -1, precision=self.precision, backend=self.backend)
        if then is not None:
            y = then(y)
        if self.activity_regularizer is not None:
            self._activity_loss = self.activity_regularizer(y) / max(1, y.shape[0])
        return y

    def compute_output_shape(self, input_shape) -> tuple:
        """The shape of the result for inputs of this shape, five sizes; what is None stays so."""
        shape = settings.shape("input_shape", input_shape)
        in_size = self._sizes(shape)
        known = [1 if i is None else i for i in in_size]
        out_size, _ = sizes(tuple(known), self.kernel_size, self.strides, self.dilation_rate, self.padding,
                            self.output_padding)
        out_size = [None if i is None else o for i, o in zip(in_size, out_size)]
        return (shape[0], *out_size, self.filters) if self._channel_axis == -1 else (shape[0], self.filters, *out_size)

    def get_config(self) -> dict:
        """The arguments of the constructor, of which `from_config` makes another layer, without the weights."""
        own = ("name", "trainable", "filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate",
               "groups", "use_bias", "output_padding", "precision", "backend")
        dtype = None if self.dtype is None else str(self.dtype).removeprefix("torch.")
        return {name: getattr(self, name) for name in own} | self._specified | {"dtype": dtype}

    @classmethod
    def from_config(cls, config: dict) -> "Conv3DTranspose":
        """A layer from what `get_config` gives, TensorFlow's included."""
        return cls(**config)

    def extra_repr(self) -> str:
        words = [f"{self.filters}, kernel_size={self.kernel_size}, strides={self.strides}, padding={self.padding!r}",
                 f"data_format={self.data_format!r}"]
        words += [f"dilation_rate={self.dilation_rate}"] * (self.dilation_rate != (1, 1, 1))
        words += [f"groups={self.groups}"] * (self.groups > 1)
        words += [f"output_padding={self.output_padding}"] * (self.output_padding is not None)
        if not isinstance(self.activation, torch.nn.Module):  # which is printed as a submodule
            words += [f"activation={self._specified['activation']!r}"] * (self.activation is not None)
        return ", ".join(words + ["use_bias=False"] * (not self.use_bias))

    @property
    def _channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def _sizes(self, shape) -> tuple:
        """Depth, height and width of a shape in data_format."""
        return tuple(shape[1:-1] if self._channel_axis == -1 else shape[2:])

    def _shapes(self, channels: int) -> dict[str, tuple[int, ...]]:
        """Of each weight, for inputs of that many channels."""
        if channels % self.groups:
            raise ValueError(f"groups must divide the channels of the input, received {channels} channels for layer "
                             f"{self.name} with groups={self.groups}")
        kernel = {"kernel": (*self.kernel_size, self.filters // self.groups, channels)}
        return kernel | {"bias": (self.filters,)} if self.use_bias else kernel

    def _check_inputs(self, inputs) -> None:
        if not isinstance(inputs, torch.Tensor):
            raise TypeError(f"inputs of layer {self.name} must be a torch.Tensor, received {type(inputs).__name__}")
        if inputs.dtype not in DTYPES:
            raise TypeError(f"inputs of layer {self.name} have dtype {inputs.dtype}: it must be float16, bfloat16, "
                            "float32 or float64")
        if inputs.dim() != 5:
            raise ValueError(f"Inputs should have rank 5, {self.data_format}: layer {self.name} received "
                             f"{list(inputs.shape)}")
        if not self.built:
            return
        channels, expected = inputs.shape[self._channel_axis], self.kernel.shape[-1]
        if channels != expected:
            raise ValueError(f"Input of layer {self.name} is incompatible with it: expected axis {self._channel_axis} "
                             f"to have {expected} channels, received {channels} in {list(inputs.shape)}")
        if inputs.dtype != self.kernel.dtype and not autocasting(inputs):
            raise TypeError(f"inputs of layer {self.name} have dtype {inputs.dtype} and its weights have "
                            f"{self.kernel.dtype}: nothing is promoted. Convert one of them, such as "
                            "layer.to(inputs.dtype), or use torch.autocast")
