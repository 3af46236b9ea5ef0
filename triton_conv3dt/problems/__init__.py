"""What is asked: the integers of a transposed convolution, as values. Knows no device, no tile and no tensor."""
