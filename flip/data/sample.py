"""``--data sample``: the embedded field guide, drawn into the cache the first time it is asked for."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from flip.data.dataset import Dataset
from flip.data.layouts.cub import read_cub
from flip.errors import ConfigError, DataError, reason_of
from flip.files import cache_folder, folder_of_process
from flip.sample.fieldguide import GUIDES, FieldGuide, is_guide, write_guide

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
        If it can be kept nowhere.
    """
    guide = GUIDES[name]()
    folder = cache_folder(cache) / "sample" / f"{name}-{guide.edition()}"
    if not is_guide(folder, guide):
        try:
            _draw(guide, folder)
        except (OSError, ConfigError) as e:
            # Another process may have drawn the same meanwhile.
            if not is_guide(folder, guide):
                folder = _draw_for_now(guide, name, folder, e)
    return replace(read_cub(folder), layout=name)


def _draw_for_now(guide: FieldGuide, name: str, folder: Path, error: Exception) -> Path:
    """Draw a guide into a folder that goes with this process."""
    place = folder_of_process() / name
    if not is_guide(place, guide):
        log.warning(
            "the drawn birds cannot be kept in %s (%s) and are drawn for this run alone; pass --cache DIR, or set "
            "FLIP_CACHE, to a folder that can be written",
            *(folder, reason_of(error)),
        )
        try:
            _draw(guide, place)
        except (OSError, ConfigError) as e:
            raise DataError(f"the drawn birds cannot be kept in {place} ({reason_of(e)}); pass --cache DIR") from e
    return place


def _draw(guide: FieldGuide, folder: Path) -> None:
    photos = len(guide.species) * guide.photos
    log.info("drawing %s photos of %d species into %s", f"{photos:,}", len(guide.species), folder)
    write_guide(guide, folder)
