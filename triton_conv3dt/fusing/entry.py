"""The backend that torch.compile finds by its name, and the record of what it did."""

import logging
from collections import deque

from torch import fx

from ..nn.rows import Report
from .graph import fuse

KEPT = 10_000  # rows
NEXT, DEFAULT = "then", "inductor"  # the option that names who compiles the rest, and who does without it
logger = logging.getLogger("triton_conv3dt")
_rows: deque = deque(maxlen=KEPT)


def backend(graph: fx.GraphModule, inputs, *, mode=None, options=None):
    """The backend of torch.compile(model, backend="triton_conv3dt"): layers and what follows them become single calls,
    and Inductor compiles the rest.

    In the compiler's graph, torch.nn.functional.conv_transpose3d, PyTorch's module and this package's function and
    module take along, where it follows and nothing else uses what is between: normalisation with fixed statistics (in
    eval mode; folded into weight and bias), an addition, an activation that the kernels fuse, and a concatenation of two
    along the channels. Batch or instance normalisation by the result's own statistics (in training) and an activation after
    it become one call, too, of conv_transpose3d_norm. Dropouts that are off and pads of nothing go. What cannot be fused
    stays as it was. Differentiable, for training as well.

    Args:
        graph, inputs: what Dynamo hands over.
        mode: Inductor's, as torch.compile takes it.
        options: Inductor's, as torch.compile takes them; and "then": the name of another backend, or a callable, which
            takes the place of Inductor and is given the rest of the options.

    Returns:
        What the next backend returns.
    """
    options = dict(options or {})
    then = options.pop(NEXT, DEFAULT)
    rows = fuse(graph)
    _rows.extend(rows)
    for row in rows:
        logger.info("%s", _said(row))
    return _next(then, mode, options)(graph, inputs)


def report() -> Report:
    """One row for each transposed convolution that torch.compile(backend="triton_conv3dt") has compiled in this
    process, equal ones once: its name, its shape, what follows, what of that is fused with it, and why not more. Prints
    as a table.
    """
    return Report(dict.fromkeys(_rows))


def clear() -> None:
    """Forget what `report` would say."""
    _rows.clear()


def _said(row) -> str:
    name, layer, _, fused, left = row.cells()
    return f"{name} ({layer}): {f'one call with {fused}' if fused else 'nothing fused'}{f'; {left}' if left else ''}"


def _next(then, mode, options):
    """The backend for the rest, with its mode and options."""
    if then == "inductor":
        from torch import _TorchCompileInductorWrapper

        return _TorchCompileInductorWrapper(mode, options, None)
    from torch._dynamo.backends.registry import lookup_backend

    keywords = ({"mode": mode} if mode else {}) | ({"options": options} if options else {})
    found = lookup_backend(then)
    return lambda graph, inputs: found(graph, inputs, **keywords)


def _reset() -> None:
    """Forget Inductor's CUDA graphs, when torch.compiler.reset is called."""
    from torch import _TorchCompileInductorWrapper

    _TorchCompileInductorWrapper(None, None, None).reset()


backend.reset = _reset
