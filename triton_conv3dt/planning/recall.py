"""What a function said last, of a problem and a config that are asked about several times in turn."""

from functools import wraps


def recalled(function):
    """The function, which knows its last answer: planning asks the same of each config that it tries many times. Whether they are the
    very same values takes no time to see; to find them among many, both would be hashed."""
    last = None, None, None

    @wraps(function)
    def asked(one, other):
        nonlocal last
        known, beside, found = last
        if one is not known or other is not beside:
            found = function(one, other)
            last = one, other, found  # at once, whichever thread
        return found

    return asked
