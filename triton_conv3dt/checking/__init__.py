"""Whether a result is right: the definition, operands whose truth is known, and the comparison.

The definition shares no code with what it judges."""
