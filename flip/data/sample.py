"""``--data sample``: the embedded field guide, drawn into the cache the first time it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flip.config import cache_folder, worker_count
from flip.data.cub import read_cub
from flip.data.dataset import Dataset
from flip.errors import ConfigError, DataError
from flip.sample.fieldguide import GUIDES, is_guide, write_guide


def read_sample(name: str, cache: Path | None, say: Callable[[str], None]) -> Dataset:
    """Read a field guide, drawing it first where that was not done before.

    Parameters
    ----------
    name : str
        A key of ``flip.sample.fieldguide.GUIDES``.
    cache : Path or None
        Where it is kept; the platform's cache without it.
    say : callable
        Called with a line before the drawing begins.

    Raises
    ------
    DataError
        If the cache cannot be written.
    """
    guide = GUIDES[name]()
    folder = cache_folder(cache) / "sample" / f"{name}-{guide.edition()}"
    if not is_guide(folder, guide):
        say(f"drawing {len(guide.species) * guide.photos:,} photos of {len(guide.species)} species into {folder}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_guide(guide, folder, workers=worker_count(None))
        except (OSError, ConfigError) as e:
            # Another process may have drawn the same meanwhile.
            if not is_guide(folder, guide):
                raise DataError(f"the drawn birds cannot be kept in {folder} ({e}); pass --cache with a folder") from e
    return replace(read_cub(folder), layout=name)
