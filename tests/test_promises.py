"""What is promised to the compiler is true of random problems on random memory, and a false promise is seen."""

import random
from dataclasses import replace

import promises
import pytest

from triton_conv3dt import lowering

PROBLEMS = 4000


def test_every_promise_is_kept():
    """A few of the million that `python tests/promises.py 1000000` tries."""
    kinds, found = promises.main(PROBLEMS, seed=11)
    assert not found, found[0]
    tried = " ".join(kinds)
    for kind in ("forward pointers", "box", "rows", "strided", "direct", "grad_weight gather", "onepass", "of a copy", "wide"):
        assert kind in tried, f"{kind!r} was not drawn: {kinds}"


@pytest.mark.parametrize("name", ("gathered_run", "written_run", "weight_run", "split_run"))
def test_a_run_that_is_too_long_is_noticed(name, monkeypatch):
    right = getattr(lowering, name)
    monkeypatch.setattr(lowering, name, lambda *args: 2 * right(*args))
    assert promises.main(1000, seed=random.randrange(2**16))[1]


def test_31_bits_that_do_not_hold_an_offset_are_noticed(monkeypatch):
    right = promises.problem_of
    monkeypatch.setattr(promises, "problem_of", lambda *args: replace(right(*args), wide=False))
    assert promises.main(PROBLEMS, seed=3)[1]
