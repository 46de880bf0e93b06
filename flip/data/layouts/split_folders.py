"""Split folders: ``train/<class>/*``, ``test/<class>/*``, optional ``val/``."""

from __future__ import annotations

from pathlib import Path

from flip.data.dataset import SPLIT_NAMES, Dataset
from flip.data.files import subfolders
from flip.data.layout import Layout
from flip.data.photo_folders import described, find_photos, has_photos, make_dataset, metadata_in, require_labels
from flip.data.settings import DEFAULTS, ReadSettings
from flip.errors import DataError


def are_split_folders(root: Path) -> bool:
    """Return whether a folder's folders are splits rather than classes: a class of vehicles may be called train."""
    if not root.is_dir():
        return False
    folders = subfolders(root)
    splits = {name: SPLIT_NAMES[name.casefold()] for name in folders if name.casefold() in SPLIT_NAMES}
    if "train" not in splits.values():
        return False
    if not any(has_photos(root / name) for name in folders if name not in splits):
        return True
    return len(set(splits.values())) > 1 and all(subfolders(root / name) for name in splits)


def read_split_folders(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read ``train/<class>/*``, ``test/<class>/*`` and, if it is there, ``val/`` (or ``valid/``, ``validation/``).

    A photo may lie in folders below its class. Captions, boxes and labels may come from ``metadata.csv``, ``.jsonl``
    or ``.parquet`` as Hugging Face's ImageFolder has them (``file_name``, and ``text``, ``caption`` or ``captions``,
    ``label``, ``bbox`` or ``x``, ``y``, ``w``, ``h``), in any folder; a label there wins over the folder's name. Its
    ``source`` is the photo that a generated image was made from.

    Raises
    ------
    DataError
        If there is no photo, a photo has no class, or a metadata file names a photo that is not there.
    """
    folders = {name: SPLIT_NAMES[name.casefold()] for name in subfolders(root) if name.casefold() in SPLIT_NAMES}
    if "train" not in folders.values():
        raise DataError(f"{root} has no folder train; split folders are train/<class>/* and test/<class>/*")
    photos, tables = [], metadata_in(root)
    for folder, split in folders.items():
        found, listed = find_photos(root, folder, split)
        photos += found
        tables += listed
    photos = described(root, photos, tables)
    require_labels(root, photos)
    return make_dataset(root, "split-folders", photos, settings.test_fraction)


LAYOUT = Layout("split-folders", are_split_folders, read_split_folders, "train/<class>/* and test/<class>/*")
