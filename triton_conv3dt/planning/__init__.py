"""What runs for a problem on a device, with which tile, and why. Knows neither tensors nor kernels: values in, values out."""
