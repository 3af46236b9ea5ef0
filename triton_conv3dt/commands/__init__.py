"""What may be typed: one file per command, its options (add) and what it does with them (run). Nothing knows it but cli.py."""
