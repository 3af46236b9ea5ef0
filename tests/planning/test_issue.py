"""The fit of the estimate of instructions; test_limits.py holds the estimate beside what was counted."""

import pytest

from fit_issue import fitted


def test_a_fit_finds_what_was_put_in():
    samples = [((1.0, trips, trips / 4, 16.0), 50 + 30 * trips + 3 * 16) for trips in (2.0, 9.0, 40.0)]
    costs = fitted(samples)
    assert min(costs) >= 0
    assert all(sum(c * f for c, f in zip(costs, features)) == pytest.approx(count, rel=0.01) for features, count in samples)
