"""Class folders: ``<class>/*``."""

from __future__ import annotations

from pathlib import Path

from flip.data.dataset import Dataset
from flip.data.files import subfolders
from flip.data.layout import Layout
from flip.data.layouts.cub import find_cub
from flip.data.photo_folders import captioned, described, find_photos, has_photos, make_dataset
from flip.data.settings import DEFAULTS, ReadSettings
from flip.errors import DataError


def are_class_folders(root: Path) -> bool:
    """Return whether a folder holds folders of photos.

    Raises
    ------
    DataError
        If its one class would be a whole dataset: an archive that was unpacked into a folder of its own.
    """
    with_photos = [name for name in subfolders(root) if has_photos(root / name)] if root.is_dir() else []
    only = root / with_photos[0] if len(with_photos) == 1 else None
    if only is not None and (find_cub(only) or len(subfolders(only)) > 1):
        raise DataError(
            f"{root} would be a single class, {only.name!r}; its photos lie in folders of {only}: "
            "pass that one, or --layout class-folders if it is a class"
        )
    return bool(with_photos)


def read_class_folders(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read ``<class>/*``; photos that lie beside the class folders are left out.

    Metadata files and ``captions.json`` are read as for the other layouts. The split is a hash of the path, stable when
    photos are added; see :func:`flip.data.dataset.hash_splits`.

    Raises
    ------
    DataError
        As for an images folder.
    """
    photos, tables = find_photos(root, "", None)
    photos = captioned(root, ("captions.json",), described(root, photos, tables))
    photos = [photo for photo in photos if photo.label is not None]
    return make_dataset(root, "class-folders", photos, settings.test_fraction)


LAYOUT = Layout("class-folders", are_class_folders, read_class_folders, "<class>/*")
