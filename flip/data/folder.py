"""Folders of photos: split folders, an images folder, class folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from posixpath import normpath
from typing import NamedTuple

from flip.data.captions import read_captions_json
from flip.data.dataset import (
    DEFAULT_TEST_FRACTION,
    SPLIT_NAMES,
    Box,
    Dataset,
    Record,
    clean_class_name,
    hash_splits,
    label_indices,
)
from flip.data.files import list_files, subfolders
from flip.data.images import is_image_file
from flip.data.tables import Row, read_table
from flip.errors import DataError

METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

#: The one class of photos that have captions and no class.
UNNAMED_CLASS = "image"


class _Photo(NamedTuple):
    path: str  # relative to the root
    below: str  # relative to the folder that holds the classes: what is hashed
    label: str | None
    split: str | None
    captions: tuple[str, ...] = ()
    box: Box | None = None
    source: str | None = None


def read_split_folders(root: Path) -> Dataset:
    """Read ``train/<class>/*``, ``test/<class>/*`` and, if it is there, ``val/`` (or ``valid/``, ``validation/``).

    A photo may lie in folders below its class. Captions, boxes and labels may come from ``metadata.csv``, ``.jsonl``
    or ``.parquet`` as Hugging Face's ImageFolder has them (``file_name``, and ``text``, ``caption`` or ``captions``,
    ``label``, ``bbox`` or ``x``, ``y``, ``w``, ``h``), in any folder; a label there wins over the folder's name. Its
    ``source`` is the photo that a generated picture was made from.

    Raises
    ------
    DataError
        If there is no photo, a photo has no class, or a metadata file names a photo that is not there.
    """
    folders = {name: SPLIT_NAMES[name.casefold()] for name in subfolders(root) if name.casefold() in SPLIT_NAMES}
    if "train" not in folders.values():
        raise DataError(f"{root} has no folder train; split folders are train/<class>/* and test/<class>/*")
    photos, tables = [], _metadata_in(root)
    for folder, split in folders.items():
        found, described = _find(root, folder, split)
        photos += found
        tables += described
    photos = _described(root, photos, tables)
    _require_labels(root, photos)
    return _dataset(root, "split-folders", photos, DEFAULT_TEST_FRACTION)


def read_images_folder(root: Path, test_fraction: float = DEFAULT_TEST_FRACTION) -> Dataset:
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
    photos, tables = _find(root, "images", None)
    photos = _described(root, photos, [*_metadata_in(root), *tables])
    photos = _captioned(root, ("captions.json", "images/captions.json"), photos)
    if all(photo.label is None for photo in photos) and any(photo.captions for photo in photos):
        photos = [photo._replace(label=UNNAMED_CLASS) for photo in photos]
    _require_labels(root, photos)
    return _dataset(root, "images-folder", photos, test_fraction)


def read_class_folders(root: Path, test_fraction: float = DEFAULT_TEST_FRACTION) -> Dataset:
    """Read ``<class>/*``; photos that lie beside the class folders are left out.

    Metadata files and ``captions.json`` are read as for the other layouts. The split is a hash of the path, stable when
    photos are added; see :func:`flip.data.dataset.hash_splits`.

    Raises
    ------
    DataError
        As for an images folder.
    """
    photos, tables = _find(root, "", None)
    photos = _captioned(root, ("captions.json",), _described(root, photos, tables))
    return _dataset(root, "class-folders", [photo for photo in photos if photo.label is not None], test_fraction)


def has_photos(folder: Path) -> bool:
    """Return whether a photo lies in a folder or below it."""
    return any(map(is_image_file, list_files(folder)))


def _metadata_in(root: Path) -> list[str]:
    return [name for name in METADATA_FILES if (root / name).is_file()]


def _find(root: Path, folder: str, split: str | None) -> tuple[list[_Photo], list[str]]:
    """Return the photos below ``folder`` (a class is its first folder) and the paths of metadata files there."""
    photos, tables = [], []
    prefix = f"{folder}/" if folder else ""
    for below in list_files(root / folder):
        name, slash, _ = below.partition("/")
        if is_image_file(below):
            photos.append(_Photo(prefix + below, below, name if slash else None, split))
        elif below.rpartition("/")[2] in METADATA_FILES:
            tables.append(prefix + below)
    return photos, tables


def _described(root: Path, photos: list[_Photo], tables: Sequence[str]) -> list[_Photo]:
    """Return the photos with what metadata files, given by their paths, say of them."""
    position = {photo.path: i for i, photo in enumerate(photos)}
    photos, described = list(photos), dict[int, Row]()
    for table in tables:
        columns, rows = read_table(root / table)
        column = next((name for name in ("file_name", "path") if name in columns), None)
        if rows and column is None:
            there = ", ".join(columns)
            raise DataError(f"{root / table} has no column 'file_name'; it has {there}; rename a column, or the file")
        folder = table.rpartition("/")[0] or "."
        for row in rows:
            given = row.text(column or "") or ""
            i = position.get(normpath(f"{folder}/{given}"))
            if i is None:
                raise DataError(f"{row.where}: no photo {given!r}; paths are relative to the file's folder")
            if i in described:
                raise DataError(f"{row.where}: {photos[i].path} is described at {described[i].where} already")
            described[i] = row
            photos[i] = photos[i]._replace(
                label=row.text("label") or photos[i].label,
                split=photos[i].split or row.split(),
                captions=row.captions(),
                box=row.box(),
                source=row.text("source"),
            )
    return photos


def _captioned(root: Path, files: Sequence[str], photos: list[_Photo]) -> list[_Photo]:
    """Return the photos with the captions of the first of the files that is there."""
    file = next((root / name for name in files if (root / name).is_file()), None)
    if file is None:
        return photos
    captions = read_captions_json(file, [photo.path for photo in photos], every_key=True)
    return [p._replace(captions=c) if c else p for p, c in zip(photos, captions, strict=True)]


def _require_labels(root: Path, photos: Sequence[_Photo]) -> None:
    for photo in photos:
        if photo.label is None:
            raise DataError(
                f"{root / photo.path} has no class; put it in a folder named for its class, "
                "or label it in a metadata.csv with file_name and label"
            )


def _dataset(root: Path, layout: str, photos: Sequence[_Photo], test_fraction: float) -> Dataset:
    if not photos:
        raise DataError(f"{root} holds no photo that {layout} could read; each class needs a folder with its photos")
    raw_names, labels = label_indices([photo.label or "" for photo in photos])
    hashed = hash_splits([photo.below for photo in photos], labels, test_fraction)
    records = tuple(
        Record(photo.path, label, photo.split or split, photo.captions, photo.box, photo.source)
        for photo, label, split in zip(photos, labels, hashed, strict=True)
    )
    return Dataset(root, layout, tuple(map(clean_class_name, raw_names)), raw_names, records)
