"""An images folder: ``images/<class>/*``, or photos right in ``images/`` with captions."""

from __future__ import annotations

from pathlib import Path

from flip.data.dataset import Dataset
from flip.data.files import subfolders
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.levels import require_class_names
from flip.data.photo_folders import (
    METADATA_FILES,
    UNNAMED_CLASS,
    captioned,
    described,
    find_photos,
    has_photos,
    labelled,
    make_dataset,
    metadata_in,
    require_labels,
)
from flip.data.settings import DEFAULTS, ReadSettings
from flip.errors import DataError


def is_images_folder(root: Path) -> bool:
    """Return whether photos lie in a folder's ``images``, and that is not one class folder among others."""
    if not (root / "images").is_dir():
        return False
    if any(has_photos(root / name) for name in subfolders(root) if name != "images" and not subfolders(root / name)):
        return False
    places = (root, root / "images")
    has_table = any((place / name).is_file() for place in places for name in ("captions.json", *METADATA_FILES))
    return has_table or any(has_photos(root / "images" / name) for name in subfolders(root / "images"))


def read_images_folder(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read ``images/<class>/*``, or photos right in ``images/`` with ``captions.json``.

    ``captions.json`` maps a file's name to its caption or captions and may lie beside or in ``images``; metadata files
    are read as for split folders. Photos that have captions and no class at all become the single class ``image``:
    enough to train on captions. The split is a hash of the path below ``images``.

    Raises
    ------
    DataError
        As for split folders, or if ``captions.json`` names a photo that is not there.
    """
    if not (root / "images").is_dir():
        raise DataError(
            f"{root} has no folder images; an images folder is images/<class>/*, or images/* and captions.json"
        )
    ledger = Ledger()
    photos, tables = find_photos(root, "images", None, ledger)
    photos = described(root, photos, [*metadata_in(root), *tables])
    if settings.class_level is None and not any(photo.label for photo in photos):
        tops = (photo.below.partition("/") for photo in photos)
        require_class_names(root / "images", dict.fromkeys(name for name, slash, _ in tops if slash), ledger)
    photos = captioned(root, ("captions.json", "images/captions.json"), labelled(photos, settings, ledger))
    if all(photo.label is None for photo in photos) and any(photo.captions for photo in photos):
        photos = [photo._replace(label=UNNAMED_CLASS) for photo in photos]
    require_labels(root, photos)
    for name in subfolders(root):
        if name != "images" and has_photos(root / name):
            ledger.omit("folders of photos beside images/", f"{name}/")
    return make_dataset(root, "images-folder", photos, settings, ledger)


LAYOUT = Layout("images-folder", is_images_folder, read_images_folder, "images/<class>/*")
