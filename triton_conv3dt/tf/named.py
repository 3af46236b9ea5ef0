"""What a layer may be given by name: one look-up for initializers, regularizers and constraints."""

import inspect
from functools import partial


def named(kind: str, spec, table: dict, operands: int):
    """The function that spec stands for: None and callables as they are, else one of table with its parameters bound.

    Args:
        kind: of what, for messages.
        spec: None; a callable; a name, "he_normal" or "HeNormal"; a pair such as ("l2", 1e-4), or with a dictionary of
            parameters, ("random_normal", {"stddev": 0.02}); or what Keras's get_config gives,
            {"class_name": "L2", "config": {"l2": 1e-4}}.
        table: the functions by their names, which are given without underscores and in lower case.
        operands: how many arguments of theirs are no parameters.

    Raises:
        TypeError: spec is none of these.
        ValueError: the name or a parameter is not known.
    """
    if isinstance(spec, type):
        raise TypeError(f"{kind} must be a callable, received the class {spec.__name__}: pass an instance, "
                        f"{spec.__name__}()")
    if spec is None or callable(spec):
        return spec
    name, given = spec, ()
    if isinstance(spec, dict) and isinstance(spec.get("class_name"), str):
        name, given = spec["class_name"], (spec.get("config") or {},)
    elif isinstance(spec, (tuple, list)) and spec:
        name, *given = spec
    if not isinstance(name, str):
        raise TypeError(f"{kind} must be None, a callable, a name or a pair (name, parameter), received {spec!r} of "
                        f"type {type(spec).__name__}")
    function = table.get(name.replace("_", "").lower())
    if function is None:
        known = ", ".join(dict.fromkeys(f.__name__ for f in table.values()))
        raise ValueError(f"{kind} {name!r} is not known; known are {known}, or pass a callable")
    parameters = list(inspect.signature(function).parameters)[operands:]
    by_name = len(given) == 1 and isinstance(given[0], dict)
    if by_name:
        bound = {k: v for k, v in given[0].items() if k != "dtype"}  # of Keras's older initializers
    else:
        bound = dict(zip(parameters, given))
    if not bound.keys() <= set(parameters) or not by_name and len(given) > len(parameters):
        raise ValueError(f"{kind} {name!r} takes {', '.join(parameters) or 'no parameters'}; received {spec!r}")
    return partial(function, **bound) if bound else function
