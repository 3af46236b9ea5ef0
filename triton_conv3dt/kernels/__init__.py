"""The device code: plain `@triton.jit` functions, walks `@gluon.jit` ones, that know nothing of tensors, configurations or the environment."""
