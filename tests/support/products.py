"""The three products of a case by the kernels, and their exact values by the definition."""

from triton_conv3dt.checking import reference
from triton_conv3dt.launching import launch


def products(case, t, precision):
    """Pairs (computed, exact) of y, dx and dw from the tensors of a case; exact values are on the CPU."""
    geometry = case.geometry
    y, _ = launch.forward(t.x, t.w, t.b, t.residual, **geometry, out_size=case.out_size, activation=None,
                          precision=precision)
    dx = launch.grad_input(t.dz, t.w, **geometry, in_size=case.in_size, precision=precision)
    dw = launch.grad_weight(t.x, t.dz, **geometry, kernel=case.kernel, precision=precision, strides=t.w.stride())
    x, w, b, residual, dz = (v.cpu() for v in (t.x, t.w, t.b, t.residual, t.dz))
    return ((y, reference.conv_transpose3d(x, w, b, residual, **geometry, out_size=case.out_size)),
            (dx, reference.grad_input(dz, w, **geometry, in_size=case.in_size)),
            (dw, reference.grad_weight(x, dz, **geometry, kernel=case.kernel)))
