"""Tests that need a GPU: ``pytest -m gpu``. They are skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from flip.data.open import open_dataset


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in this folder, and skip it without a GPU."""
    import torch

    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache folder for the whole run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def birds(cache):
    """The drawn sample: 24 species, 240 training and 720 test photos."""
    return open_dataset("sample", cache=cache)
