"""One file per command: its options (add), and what it does with them (run)."""
