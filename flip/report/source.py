"""The photos behind a run: the folder they lie in and their cached embeddings, as far as both are still there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flip.data.dataset import Photo
from flip.errors import FlipError
from flip.results import Run

if TYPE_CHECKING:
    from flip.data.dataset import Dataset
    from flip.features import Features

log = logging.getLogger(__name__)


def features_of(run: Run) -> Features | None:
    """Return the cached embeddings of a run's training photos and of the photos it scored; None where any is absent.

    Nothing is embedded here: what is not in the cache stays out of the page.
    """
    evaluation, options = run.evaluation, _options(run, (*_DATA, *_VIEW))
    data = str(run.config.get("data") or evaluation.data)
    return _features(data, evaluation.model, evaluation.split, options, run.data_fingerprint)


#: Options of a run by name, as a key of a cache.
_Options = tuple[tuple[str, Any], ...]


@lru_cache(maxsize=4)
def _features(data: str, model: str, split: str, options: _Options, fingerprint: str) -> Features | None:
    from flip.clip.model import load_model
    from flip.embed.extractor import FeatureExtractor
    from flip.embed.settings import EmbedSettings
    from flip.embed.table import read_table_features, table_metadata

    dataset = _open(data, tuple(item for item in options if item[0] in _DATA))
    if dataset is None:
        return None
    cache = dict(options).get("cache")
    view = {name: value for name, value in options if name in _VIEW and name != "cache"}
    try:
        if dataset.select(split).fingerprint() != fingerprint:
            log.warning("%s is not what it was when the run was made; the page does without its embeddings", data)
            return None
        used = dataset.take(i for i, r in enumerate(dataset.records) if split == "all" or r.split in ("train", split))
        if dataset.embeddings is not None and table_metadata(dataset)["model"] == model:
            return read_table_features(used)
        extractor = FeatureExtractor(load_model(model, cache=cache), EmbedSettings(**view), cache)
        return extractor.features(used) if extractor.count_known(used) == len(used) else None
    except (FlipError, OSError, TypeError) as e:
        log.debug("no embeddings of %s by %s: %s", data, model, e)
        return None


#: Options that decide which photos are read, and what of them is embedded how.
_DATA = ("layout", "test_fraction", "class_level", "classnames", "cache", "embedding_column")
_VIEW = ("device", "precision", "crop", "tta", "decode")


def _options(run: Run, names: Sequence[str]) -> _Options:
    found = {name: run.config[name] for name in names if run.config.get(name) is not None}
    return tuple((name, Path(value) if name in ("classnames", "cache") else value) for name, value in found.items())


def dataset_of(run: Run) -> Dataset | None:
    """Return the data that a run was made on; None where it is no longer there."""
    return _open(str(run.config.get("data") or run.evaluation.data), _options(run, _DATA))


@lru_cache(maxsize=4)
def _open(data: str, options: _Options) -> Dataset | None:
    from flip.data.open import open_dataset

    try:
        return open_dataset(data, **dict(options))
    except (FlipError, OSError, TypeError) as e:
        log.debug("no photos for %s: %s", data, e)
        return None


def root_of(run: Run) -> Path | None:
    """Return the folder that a run's paths are relative to; None where it is no longer there."""
    dataset = dataset_of(run)
    if dataset is not None:
        return dataset.root.absolute()
    data = Path(str(run.config.get("data") or run.evaluation.data)).expanduser()
    # A manifest of which a photo is gone is refused as data; the other photos are where they were.
    folder = data if data.is_dir() else data.parent if data.is_file() else None
    return None if folder is None else folder.absolute()


def photos_of(run: Run, paths: Sequence[str], root: Path | None) -> list[Photo]:
    """Return the photos at paths of a run, each without what its dataset says is none of it, such as a banner."""
    dataset = dataset_of(run)
    frames = dataset.frames if dataset is not None else {}
    return [Photo(Path(path) if root is None else root / path, frames.get(path)) for path in paths]


def photo_url(path: str, root: Path | None, page: Path) -> str:
    """Return the link from a page to a photo: relative where it lies below the page's folder, else ``file://``.

    Parameters
    ----------
    path : str
        As a run's row has it.
    root : Path or None
        The folder it is relative to.
    page : Path
        The page's file.
    """
    file = Path(path) if root is None else root / path
    if not file.is_absolute():
        return quote(path, safe="/", errors="surrogateescape")
    try:
        return quote(file.relative_to(page.absolute().parent).as_posix(), safe="/", errors="surrogateescape")
    except ValueError:
        return file.as_uri()
