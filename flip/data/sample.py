"""``--data sample``: the embedded field guide, drawn into the cache the first time it is asked for."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from flip.data.dataset import Dataset
from flip.data.layouts.cub import read_cub
from flip.errors import ConfigError, DataError, reason_of
from flip.files import cache_folder
from flip.sample.fieldguide import GUIDES, is_guide, write_guide

log = logging.getLogger(__name__)


def read_sample(name: str, cache: Path | None) -> Dataset:
    """Read a field guide, drawing it first where that was not done before.

    Parameters
    ----------
    name : str
        A key of ``flip.sample.fieldguide.GUIDES``.
    cache : Path or None
        The folder it is kept in; the platform's cache without it.

    Raises
    ------
    DataError
        If the cache cannot be written.
    """
    guide = GUIDES[name]()
    folder = cache_folder(cache) / "sample" / f"{name}-{guide.edition()}"
    if not is_guide(folder, guide):
        photos = len(guide.species) * guide.photos
        log.info("drawing %s photos of %d species into %s", f"{photos:,}", len(guide.species), folder)
        try:
            write_guide(guide, folder)
        except (OSError, ConfigError) as e:
            # Another process may have drawn the same meanwhile.
            if not is_guide(folder, guide):
                raise DataError(
                    f"the drawn birds cannot be kept in {folder} ({reason_of(e)}); pass --cache with a folder"
                ) from e
    return replace(read_cub(folder), layout=name)
