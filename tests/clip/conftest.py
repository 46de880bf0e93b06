"""Models are remembered in a folder of the test's own."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
