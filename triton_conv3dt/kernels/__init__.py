"""The device code: plain `@triton.jit` functions that know nothing of tensors, configurations or the environment."""
