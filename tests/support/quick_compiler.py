"""Triton's compiler without what its frontend does over and over: the same PTX, to the byte, sooner.

    install()       once, in a process that compiles

For every sum and product of integers it writes a dozen operations that look for overflow, which go into an assertion where
somebody debugs and are removed else; and it asks Python for the signature of a builtin at every call of it. A Triton that does
this otherwise is left as it is.
"""

import functools
import inspect
from types import SimpleNamespace

from triton.compiler import code_generator
from triton.language.semantic import TritonSemantic

LOOKS = "binary_op_sanitize_overflow_impl"
replaced = []  # what was: owner, name, value


def install() -> bool:
    """Whether this Triton could be helped."""
    if not replaced and hasattr(TritonSemantic, LOOKS) and getattr(code_generator, "inspect", None) is inspect:
        _replace(TritonSemantic, LOOKS, _where_somebody_debugs(getattr(TritonSemantic, LOOKS)))
        known = functools.lru_cache(maxsize=None)(inspect.signature)
        # Of a bound method it is asked which names there are, which its function knows; values are not to be kept.
        signature = lambda fn: known(getattr(fn, "__func__", fn))
        _replace(code_generator, "inspect", SimpleNamespace(**vars(inspect) | {"signature": signature}))
    return bool(replaced)


def _replace(owner, name, value):
    replaced.append((owner, name, getattr(owner, name)))
    setattr(owner, name, value)


def _where_somebody_debugs(look):
    def looked(self, *given):
        if self.builder.options.debug:
            look(self, *given)

    return looked
