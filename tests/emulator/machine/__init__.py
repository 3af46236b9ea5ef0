"""What executes the functions of a kernel: threads, memory, asynchronous work and tensor cores; Triton is unknown."""
