"""What follows the layer, found in the graph that torch.compile hands over, and made one call with it.

    torch.compile(model, backend="triton_conv3dt")   the backend, found by its entry point: nothing has to be imported
    report                                           which layers were compiled, what was fused with them, why not more

Knows graphs and the public function; what the call runs, and on which device, is decided there.
"""



from .entry import backend, clear, report

__all__ = ["backend", "report", "clear"]
