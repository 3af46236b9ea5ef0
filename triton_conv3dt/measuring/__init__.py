"""Tuning and measuring: what times kernels, and what is made of the times. Nothing else does so."""
