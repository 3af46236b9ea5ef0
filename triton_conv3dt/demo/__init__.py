"""The demonstration on a real scan: `python -m triton_conv3dt demo`. Nothing knows it but its command."""
