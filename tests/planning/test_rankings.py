"""What the cost model prefers, as it was looked at: a change of the model shows what it does to every class of layers."""

import pytest
import rankings


@pytest.mark.parametrize("kind", rankings.CLASSES)
def test_the_first_candidates_are_those_on_record(kind, nothing_excluded):
    """`python tests/support/rankings.py` writes them anew; read the diff."""
    recorded = rankings.FILE.read_text()
    begin = recorded.index(f"{kind}: ")
    end = recorded.find("\n\n", begin)
    assert rankings.rankings(kind).splitlines() == recorded[begin:end if end > 0 else None].splitlines()
