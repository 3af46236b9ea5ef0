"""What every layer of TensorFlow has: weights that are made at the first call, a name, losses, constraints."""

import collections
import itertools
from typing import NamedTuple

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy

from ..ops.arguments import autocasting
from . import settings
from .constraints import CONSTRAINTS, watch
from .initializers import INITIALIZERS, glorot_uniform
from .named import named
from .regularizers import REGULARIZERS

TABLES = {"initializer": (INITIALIZERS, 2), "regularizer": (REGULARIZERS, 1), "constraint": (CONSTRAINTS, 1)}

_numbers = itertools.count(1)  # of the layers without a name
_scopes = collections.Counter()


class InputSpec(NamedTuple):
    """What a layer takes: the number of axes, and the sizes of those that are settled."""

    ndim: int
    axes: dict[int, int]


class Layer(LazyModuleMixin, torch.nn.Module):
    """The weights `kernel` and `bias` of a layer of five axes, as PyTorch's lazy modules have theirs.

    A subclass says where the channels are (`_channel_axis`), what shapes they give (`_shapes`), and which inputs it
    takes (`_check_inputs`).

    Args:
        default_name: of a layer without a name.
        specified: the initializers, regularizers and constraints by the names of their arguments; each becomes an
            attribute, a callable or None.
        scope: what scope_name gives from the beginning, or None.
        weights: what set_weights takes, or None for what the initializers give.
    """

    def __init__(self, default_name: str, name, trainable, dtype, use_bias, specified: dict, scope, weights):
        super().__init__()
        self._specified = specified
        for argument, spec in specified.items():
            setattr(self, argument, named(argument, spec, *TABLES[argument.rpartition("_")[2]]))
        self.name = name or f"{default_name}_{next(_numbers)}"
        self._scope, self._scope_name = name or default_name, scope
        self.use_bias, self._has_dtype = bool(use_bias), dtype is not None
        self.built, self.input_spec = False, InputSpec(5, {})
        self._initial_weights, self._activity_loss = weights, None
        self.kernel = UninitializedParameter(dtype=dtype)
        self.register_parameter("bias", UninitializedParameter(dtype=dtype) if self.use_bias else None)
        self.trainable = trainable
        if self.constrained_weights():
            watch(self)

    def build(self, input_shape) -> None:
        """Make the weights for inputs of this shape: five sizes, of which only the channels may not be None. A layer
        that is built stays as it is.

        Raises:
            ValueError: not five sizes, or the channels are None, do not go into the groups, or are others than before.
        """
        channels = settings.shape("input_shape", input_shape)[self._channel_axis]
        if channels is None:
            raise ValueError("The channel dimension of the inputs should be defined, received input_shape="
                             f"{tuple(input_shape)}, where axis {self._channel_axis} is None")
        if not self.built:
            self._make(channels, self.kernel.dtype, self.kernel.device)
        elif channels != self.kernel.shape[-1]:
            raise ValueError(f"layer {self.name} is built for {self.kernel.shape[-1]} channels, received input_shape="
                             f"{tuple(input_shape)} with {channels}")

    def initialize_parameters(self, inputs, training=None) -> None:
        """Make the weights for these inputs. PyTorch calls it before the first call."""
        if not self.built:
            self._check_inputs(inputs)
            # Under autocast an input may have the lower dtype, in which no weights are kept.
            dtype = self.dtype or (self.kernel.dtype if autocasting(inputs) else inputs.dtype)
            self._make(int(inputs.shape[self._channel_axis]), dtype, inputs.device)

    def count_params(self) -> int:
        """How many numbers the weights are.

        Raises:
            ValueError: the layer is not built.
        """
        if not self.built:
            raise ValueError(f"layer {self.name} isn't built, so its weights cannot be counted. Call it, or "
                             "call build(input_shape)")
        return sum(w.numel() for w in self.weights)

    @property
    def weights(self) -> list[torch.nn.Parameter]:
        """[kernel, bias], or [kernel] without a bias; [] before the layer is built."""
        return [w for w in (self.kernel, self.bias) if w is not None] if self.built else []

    @property
    def trainable_weights(self) -> list[torch.nn.Parameter]:
        return self.weights if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[torch.nn.Parameter]:
        return [] if self.trainable else self.weights

    def get_weights(self) -> list:
        """The weights as numpy arrays, in the order of `weights`; bfloat16, which numpy has not, as float32."""
        dtype = torch.float32 if self.dtype is torch.bfloat16 else self.dtype
        return [w.detach().to("cpu", dtype, copy=True).numpy() for w in self.weights]

    def set_weights(self, weights) -> None:
        """Take the values of arrays or tensors, in the order and the shapes of `weights`. An unbuilt layer is built for
        them, in its dtype or else in theirs.

        Raises:
            TypeError: something that is no array.
            ValueError: another number of them, or a shape that does not fit. Nothing has changed then.
        """
        values = self._read(weights, self.kernel.shape[-1] if self.built else None)
        if not self.built:
            self._make(values[0].shape[-1], self.dtype or values[0].dtype, self.kernel.device, values)
        else:
            with torch.no_grad():
                for parameter, value in zip(self.weights, values):
                    parameter.copy_(value)

    @property
    def trainable(self) -> bool:
        """Whether the weights require grad."""
        return self.kernel.requires_grad

    @trainable.setter
    def trainable(self, value) -> None:
        for w in self.parameters(recurse=False):
            w.requires_grad = bool(value)

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the weights; None while the first input has yet to decide."""
        return self.kernel.dtype if self.built or self._has_dtype else None

    @property
    def losses(self) -> list[torch.Tensor]:
        """What the regularizers give: for kernel and bias as they are now, and for the activated output of the last
        call, divided by its batch size. Add sum(layer.losses) to what is minimised.

        As in TensorFlow, the weights of a layer that is not trainable have losses, too.
        """
        if not self.built:
            return []
        pairs = (self.kernel_regularizer, self.kernel), (self.bias_regularizer, self.bias)
        losses = [regularizer(w) for regularizer, w in pairs if regularizer is not None and w is not None]
        return losses if self._activity_loss is None else [*losses, self._activity_loss]

    @property
    def graph(self) -> None:
        """None, as TensorFlow's layers of this kind have no graph of their own."""
        return None

    @property
    def scope_name(self) -> str:
        """What stands before "/kernel:0" in the names of TensorFlow's variables; numbered where layers share a name.

        Raises:
            ValueError: the layer is not built.
        """
        if self._scope_name is None:
            raise ValueError(f"No name available for layer scope because the layer {self.name} has not been used yet. "
                             "The scope name is determined the first time the layer is called")
        return self._scope_name

    def constrained_weights(self) -> list[tuple]:
        """Pairs (weight, constraint), for each weight that has one."""
        pairs = (self.kernel, self.kernel_constraint), (self.bias, self.bias_constraint)
        return [(w, constraint) for w, constraint in pairs if w is not None and constraint is not None]

    def _make(self, channels: int, dtype, device, values=None) -> None:
        """Make the weights, with these values or the initializers'; all of them or, after an error, none."""
        shapes = self._shapes(channels)
        if values is None and self._initial_weights is not None:
            values = self._read(self._initial_weights, channels)
        if values is None:
            values = [self._initial(name, shape, dtype, device) for name, shape in shapes.items()]
        with torch.no_grad():
            for parameter, value, shape in zip(self.parameters(recurse=False), values, shapes.values()):
                parameter.materialize(shape, device, dtype)
                parameter.copy_(value)
        self.built, self.input_spec = True, InputSpec(5, {self._channel_axis: channels})
        self._initial_weights = None
        if self._scope_name is None:
            number = _scopes[self._scope]
            self._scope_name = f"{self._scope}_{number}" if number else self._scope
            _scopes[self._scope] += 1

    def _initial(self, name: str, shape, dtype, device) -> torch.Tensor:
        initializer = getattr(self, f"{name}_initializer") or glorot_uniform
        with torch.device(device):
            value = settings.as_tensor(f"what {name}_initializer returns", initializer(shape, dtype))
        if tuple(value.shape) != shape:
            raise ValueError(f"{name}_initializer was called with the shape {shape} and returned {tuple(value.shape)}")
        return value

    def _read(self, weights, channels: int | None) -> list[torch.Tensor]:
        """What set_weights is given, as tensors that fit inputs of so many channels; None where the kernel decides."""
        names = ["kernel", "bias"] if self.use_bias else ["kernel"]
        if not isinstance(weights, (list, tuple)) or len(weights) != len(names):
            received = len(weights) if isinstance(weights, (list, tuple)) else type(weights).__name__
            raise ValueError(f"layer {self.name} takes {len(names)} weights, [{', '.join(names)}], received {received}")
        values = {name: settings.as_tensor(name, w) for name, w in zip(names, weights)}
        self._check_shapes(values, channels)
        return list(values.values())

    def _check_shapes(self, values: dict, channels: int | None = None) -> None:
        kernel = values["kernel"]
        shapes = self._shapes(channels if channels is not None else kernel.shape[-1] if kernel.dim() else 0)
        for name, value in values.items():
            if tuple(value.shape) != shapes[name]:
                raise ValueError(f"{name} of layer {self.name} must have the shape {shapes[name]}, received one of "
                                 f"{tuple(value.shape)}. A kernel is (KD, KH, KW, filters, in_channels)")

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs):
        """Build a layer that is not, in its dtype or else in that of the kernel that is loaded."""
        kernel = state_dict.get(f"{prefix}kernel")
        if not self.built and isinstance(kernel, torch.Tensor) and not is_lazy(kernel):
            names = [name for name in self._shapes(0) if prefix + name in state_dict]
            try:
                self._check_shapes({name: state_dict[prefix + name] for name in names})
            except ValueError as error:
                error_msgs.append(str(error))
                return
            self._make(kernel.shape[-1], self.dtype or kernel.dtype, self.kernel.device)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)

    def __getstate__(self) -> dict:
        # The loss belongs to the graph of a call, which is not copied. Uninitialized parameters forget their dtype.
        return self.__dict__ | {"_activity_loss": None, "_pickled_dtype": self.dtype}

    def __setstate__(self, state: dict) -> None:
        dtype = state.pop("_pickled_dtype")
        super().__setstate__(state)
        if dtype is not None and not self.built:
            self.to(dtype)
        if self.constrained_weights():
            watch(self)
