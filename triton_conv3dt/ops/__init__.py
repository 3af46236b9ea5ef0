"""What the operator is and what its derivatives are, as torch.library knows them. Knows no file, no clock, no tile."""
