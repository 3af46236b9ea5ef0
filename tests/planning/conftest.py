"""What tests of planning share."""

from pathlib import Path

import pytest

from triton_conv3dt.planning import store


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(store, "search_path", lambda: [tmp_path])
    monkeypatch.setattr(store, "_installed", {"triton": "3.6.0", "torch": "2.11.0+cu130"}.get)
    return tmp_path
