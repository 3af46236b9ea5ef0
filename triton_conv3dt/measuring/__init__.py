"""Tuning and measuring: what times kernels, and what is made of the times. Nothing else in the package knows a clock."""
