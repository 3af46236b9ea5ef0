"""Keras's regularizers: the loss of a tensor, a scalar."""


def l1(x, l1=0.01):
    return l1 * x.abs().sum()


def l2(x, l2=0.01):
    return l2 * x.square().sum()


def l1_l2(x, l1=0.01, l2=0.01):
    return l1 * x.abs().sum() + l2 * x.square().sum()


REGULARIZERS = {"l1": l1, "l2": l2, "l1l2": l1_l2}
