"""Which class a module gets when it is converted, and which one it had.

PyTorch itself gives modules other classes, made for one module or for one class of modules: parametrizations do, and
`fully_shard`. There, the class below is the one that changes, so that PyTorch's own ways back go on working.
"""

import copyreg
import functools
import sys

import torch

from .layer import ConvTranspose3d, LazyConvTranspose3d

CONVERTED = {torch.nn.ConvTranspose3d: ConvTranspose3d, torch.nn.LazyConvTranspose3d: LazyConvTranspose3d}
REVERTED = {ours: theirs for theirs, ours in CONVERTED.items()}
MAKERS = ("torch.nn.utils.parametrize", "torch.distributed")


def _made_by_pytorch(cls: type) -> bool:
    """Whether a class is one that PyTorch made for a module: no name leads to it."""
    return cls.__module__.startswith(MAKERS) and getattr(sys.modules.get(cls.__module__), cls.__name__, None) is not cls


def own_class(module: torch.nn.Module) -> type:
    """A module's class, below those that PyTorch made for it."""
    cls = type(module)
    while _made_by_pytorch(cls):
        cls = cls.__bases__[-1]
    return cls


def change_class(module: torch.nn.Module, cls: type) -> None:
    """Put another class in the place of a module's own."""
    module.__class__ = _replaced(type(module), cls)


def _replaced(made: type, cls: type) -> type:
    if not _made_by_pytorch(made):
        return cls
    *others, below = made.__bases__
    namespace = {key: value for key, value in vars(made).items() if key not in ("__dict__", "__weakref__")}
    return type(made.__name__, (*others, _replaced(below, cls)), namespace)


def converted(cls: type) -> type:
    """The class of a layer of class `cls`, which has PyTorch's forward, when it is converted."""
    return CONVERTED.get(cls) or mixed((cls, ConvTranspose3d), cls)


def original(cls: type) -> type:
    """The class that a converted module had; what was not converted has its own."""
    return REVERTED.get(cls) or getattr(cls, "_triton_conv3dt_original", cls)


class _Mixed:
    """Of classes that no name leads to: modules of them are copied and stored by what the classes are made of."""

    def __reduce_ex__(self, protocol):
        function, arguments, *rest = super().__reduce_ex__(max(protocol, 2))
        made = vars(type(self)).get("_triton_conv3dt_made")
        if made is not None and function is copyreg.__newobj__:
            function, arguments = _new, made
        return (function, arguments, *rest)


@functools.cache
def mixed(bases: tuple[type, ...], cls: type) -> type:
    """A class like cls, a user's, that has these bases, cls and one of ours."""
    namespace = {"__module__": cls.__module__, "__doc__": cls.__doc__, "_triton_conv3dt_original": cls,
                 "_triton_conv3dt_made": (bases, cls)}
    return type(cls.__name__, (_Mixed, *bases), namespace)


def _new(bases, cls):
    made = mixed(bases, cls)
    return made.__new__(made)
