"""Warnings about a cache that cannot be written."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)


def say_not_kept(folder: Path, error: Exception) -> None:
    """Say once for each folder that what is embedded now is not kept, and what to do."""
    _say(folder, getattr(error, "strerror", None) or getattr(error.__cause__, "strerror", None) or str(error))


@cache
def _say(folder: Path, reason: str) -> None:
    log.warning(
        "the cache %s cannot be written (%s): it is read, and new embeddings are not kept; "
        "pass --cache DIR, or set FLIP_CACHE, to a folder that can be written",
        folder,
        reason,
    )
