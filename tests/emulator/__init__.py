"""Runs the PTX that Triton compiles, with no GPU, on the memory of CPU tensors; README.md says what it finds.

ptx/ turns PTX into Python, machine/ executes it, driver.py is the Triton driver that is not there; only library.py and
what tests the library know triton_conv3dt.
"""
