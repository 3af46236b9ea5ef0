"""The device code: `@triton.jit` functions, and `@gluon.jit` ones of walks, that know no tensors, configs or environment."""
