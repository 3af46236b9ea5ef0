"""PTX text to Python functions over numpy arrays; nothing runs here, and the machine is unknown."""
