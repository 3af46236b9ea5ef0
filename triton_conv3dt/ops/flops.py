"""What torch.utils.flop_counter counts for the operators: what it counts for PyTorch's, by its own formula.

That module imports Triton, which nobody should wait for who counts nothing. So the formulas are registered when
somebody else has imported it, or does.
"""

import importlib.util
import sys

import torch

from .schemas import NAMESPACE, SCHEMAS

COUNTER = "torch.utils.flop_counter"


def register(counter) -> None:
    """Register the formulas with the module that counts."""
    def forward(x, w, *args, out_shape=None, **kwargs):
        return counter.conv_flop_count(x, w, None, transposed=True)

    def grad_input(dz, w, in_size, *args, out_shape=None, **kwargs):
        return counter.conv_flop_count(dz, w, (dz[0], w[0], *in_size))

    def grad_weight(x, dz, kernel, *args, out_shape=None, **kwargs):
        return counter.conv_flop_count(_swapped(dz), _swapped(x), (dz[1], x[1], *kernel))

    def backward(dy, x, w, *args, out_shape=None, **kwargs):
        return grad_input(dy, w, x[2:]) + grad_weight(x, dy, w[2:])

    operators = getattr(torch.ops, NAMESPACE)
    formulas = {name: forward for name in SCHEMAS if name.startswith("forward")}
    for name, formula in (formulas | dict(grad_input=grad_input, grad_weight=grad_weight, backward=backward)).items():
        counter.register_flop_formula(getattr(operators, name))(formula)


def _swapped(shape):
    return shape[1], shape[0], *shape[2:]


class _WhenImported:
    """A finder that is asked for every import until that of the counter, and then registers with it when it has run."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != COUNTER:
            return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            register(module)

        spec.loader.exec_module = exec_module
        return spec


if COUNTER in sys.modules:
    register(sys.modules[COUNTER])
else:
    sys.meta_path.insert(0, _WhenImported)
