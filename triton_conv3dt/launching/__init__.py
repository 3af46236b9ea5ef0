"""How tensors reach a kernel: the problem they ask for, and its launches on them.

Knows the kernels, alone; decides nothing that a plan decides."""
