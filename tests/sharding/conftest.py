"""Worlds of two, three and four ranks, each started once."""

import pytest

from ranks import Ranks


@pytest.fixture(scope="session")
def worlds():
    started = {}

    def world(n: int) -> Ranks:
        return started.get(n) or started.setdefault(n, Ranks(n))

    yield world
    for ranks in started.values():
        ranks.close()
