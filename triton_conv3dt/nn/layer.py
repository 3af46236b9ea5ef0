"""torch.nn.ConvTranspose3d with the kernels behind it."""

from typing import List, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from ..functional import conv_transpose3d
from ..ops import activations, arguments
from ..problems.activations import Activation
from ..problems.problem import PRECISIONS


class Settings(NamedTuple):
    """What `convert` was given for a layer."""

    precision: str | None
    backend: str


class ConvTranspose3d(torch.nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d, with what follows the layer in the same kernel.

    Parameters, initialisation and state_dict are PyTorch's, and so are the arguments up to `dtype`.

    Args:
        activation, precision, backend: as conv_transpose3d takes them. An activation that is a module becomes a
            submodule, fused or not.

    Raises:
        TypeError: an activation that is a class, or nothing that could be one.
        ValueError: what torch.nn.ConvTranspose3d refuses, or an activation, precision or backend that does not exist.
    """

    # Of a converted layer: its settings, under a name that no attribute of a user's has.
    _triton_conv3dt_settings: Settings | None = None

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1,
                 bias=True, dilation=1, padding_mode="zeros", device=None, dtype=None, *, activation=None,
                 precision=None, backend="auto"):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias,
                         dilation, padding_mode, device, dtype)
        self._set(activation, precision, backend)

    def _set(self, activation, precision, backend) -> None:
        if not callable(spec := activations.recognised(activation)):
            Activation.of(spec)
        check_choices(precision, backend)
        self.activation, self.precision, self.backend = activation, precision, backend

    # TorchScript reads the annotations, and takes no arguments that are keyword-only.
    def forward(self, input: Tensor, output_size: Optional[List[int]] = None, residual: Optional[Tensor] = None,
                concat: Optional[Tensor] = None, concat_first: bool = False, out: Optional[Tensor] = None) -> Tensor:
        """cat((activation(conv_transpose(input) + bias + residual), concat), dim=1).

        Args:
            input: [N, CI, D, H, W] or [CI, D, H, W].
            output_size: the output's size, where more than one is possible; as torch.nn.ConvTranspose3d takes it.
            residual, concat, concat_first, out: as conv_transpose3d takes them.
        """
        assert isinstance(self.padding, tuple)
        output_padding = self._output_padding(input, output_size, self.stride, self.padding, self.kernel_size, 3,
                                              self.dilation)
        if torch.jit.is_scripting():  # which takes no more than PyTorch's functions
            assert out is None, "a scripted layer cannot write to `out`"
            y = F.conv_transpose3d(input, self.weight, self.bias, self.stride, self.padding, output_padding,
                                   self.groups, self.dilation)
            if residual is not None:
                y = y + residual
            if concat is not None:
                y = torch.cat([concat, y] if concat_first else [y, concat], -4)
        else:
            y = self._run(input, output_padding, residual, concat, concat_first, out)
        return y

    def _run(self, input, output_padding, residual, concat, concat_first, out):
        geometry = self.stride, self.padding, output_padding, self.groups, self.dilation
        activation, precision, backend = self.settings()
        if isinstance(input, fx.Proxy) and (activation, residual, concat, out) == (None,) * 4:
            return F.conv_transpose3d(input, self.weight, self.bias, *geometry)  # what passes over FX graphs look for
        return conv_transpose3d(input, self.weight, self.bias, *geometry, activation=activation, residual=residual,
                                concat=concat, concat_first=concat_first, out=out, precision=precision, backend=backend)

    def settings(self):
        """activation, precision and backend: what its constructor or `convert` was given."""
        if self._triton_conv3dt_settings is not None:
            return (None, *self._triton_conv3dt_settings)
        return self.activation, self.precision, self.backend

    def extra_repr(self) -> str:
        activation, precision, backend = self.settings()
        words = [super().extra_repr()]
        if not isinstance(activation, torch.nn.Module):  # which is printed as a submodule
            words += [f"activation={activation!r}"] * (activation is not None)
        words += [f"precision={precision!r}"] * (precision is not None) + [f"backend={backend!r}"] * (backend != "auto")
        return ", ".join(words)

    def __prepare_scriptable__(self):
        """What torch.jit.script compiles: the layer itself, by PyTorch's function.

        Raises:
            RuntimeError: the layer has an activation, which TorchScript would not see.
        """
        if self.settings()[0] is not None:
            raise RuntimeError(f"torch.jit.script cannot take a ConvTranspose3d with activation={self.activation!r}: "
                               "it compiles PyTorch's function alone. Put the activation behind the layer as a module "
                               "of its own, or use torch.export")
        return self


class LazyConvTranspose3d(torch.nn.LazyConvTranspose3d, ConvTranspose3d):
    """torch.nn.LazyConvTranspose3d: a ConvTranspose3d that takes its number of input channels from its first input.

    Args:
        out_channels and what follows up to `dtype`: as torch.nn.LazyConvTranspose3d takes them.
        activation, precision, backend: as ConvTranspose3d takes them.

    Raises:
        TypeError, ValueError: as ConvTranspose3d.
    """

    cls_to_become = ConvTranspose3d

    def __init__(self, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1, bias=True,
                 dilation=1, padding_mode="zeros", device=None, dtype=None, *, activation=None, precision=None,
                 backend="auto"):
        super().__init__(out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation,
                         padding_mode, device, dtype)
        self._set(activation, precision, backend)


def check_choices(precision, backend) -> None:
    """Raises:
        ValueError: one of them does not exist.
    """
    arguments.check_choice("backend", backend, arguments.BACKENDS)
    if precision is not None:
        arguments.check_choice("precision", precision, PRECISIONS)
