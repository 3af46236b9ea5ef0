"""torch.nn.ConvTranspose3d with the kernels behind it, and a way to put them into a model that exists."""

import torch

from .functional import conv_transpose3d
from .ops import activations, arguments
from .problems.activations import Activation
from .problems.problem import PRECISIONS


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

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1,
                 bias=True, dilation=1, padding_mode="zeros", device=None, dtype=None, *, activation=None,
                 precision=None, backend="auto"):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias,
                         dilation, padding_mode, device, dtype)
        if not callable(spec := activations.recognised(activation)):
            Activation.of(spec)
        _check(precision, backend)
        self.activation, self.precision, self.backend = activation, precision, backend

    def forward(self, input, output_size=None, *, residual=None, concat=None, concat_first=False, out=None):
        """cat((activation(conv_transpose(input) + bias + residual), concat), dim=1).

        Args:
            input: [N, CI, D, H, W] or [CI, D, H, W].
            output_size: the output's size, where more than one is possible; as torch.nn.ConvTranspose3d takes it.
            residual, concat, concat_first, out: as conv_transpose3d takes them.
        """
        output_padding = self._output_padding(input, output_size, self.stride, self.padding, self.kernel_size, 3,
                                              self.dilation)
        return conv_transpose3d(input, self.weight, self.bias, self.stride, self.padding, output_padding, self.groups,
                                self.dilation, activation=self.activation, residual=residual, concat=concat,
                                concat_first=concat_first, out=out, precision=self.precision, backend=self.backend)

    def extra_repr(self) -> str:
        words = [super().extra_repr()]
        if not isinstance(self.activation, torch.nn.Module):  # which is printed as a submodule
            words += [f"activation={self.activation!r}"] * (self.activation is not None)
        words += [f"precision={self.precision!r}"] * (self.precision is not None)
        words += [f"backend={self.backend!r}"] * (self.backend != "auto")
        return ", ".join(words)


def convert(model: torch.nn.Module, *, precision=None, backend="auto") -> list[str]:
    """Make every torch.nn.ConvTranspose3d in a model one of ours, in place; convert before compiling the model.

    The modules stay the same objects, so parameters, hooks, optimizers and references to them hold. Subclasses, of
    which nothing is known, are left alone.

    Args:
        precision, backend: as conv_transpose3d takes them.

    Returns:
        The names of the converted modules, as named_modules gives them ("" is the model itself).
    """
    _check(precision, backend)
    names = []
    for name, module in model.named_modules():
        if type(module) is torch.nn.ConvTranspose3d:
            module.__class__ = ConvTranspose3d
            module.activation, module.precision, module.backend, module.converted = None, precision, backend, True
            names.append(name)
    return names


def revert(model: torch.nn.Module) -> list[str]:
    """Undo `convert`: every module it changed is PyTorch's again. Returns their names.

    A ConvTranspose3d that was made by its constructor stays: it may have an activation, which PyTorch's has not.
    """
    names = []
    for name, module in model.named_modules():
        if type(module) is ConvTranspose3d and module.__dict__.get("converted"):
            module.__class__ = torch.nn.ConvTranspose3d
            del module.activation, module.precision, module.backend, module.converted
            names.append(name)
    return names


def _check(precision, backend) -> None:
    arguments.check_choice("backend", backend, arguments.BACKENDS)
    if precision is not None:
        arguments.check_choice("precision", precision, PRECISIONS)
