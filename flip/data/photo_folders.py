"""What the layouts of photo folders share: finding photos, metadata files, captions, and making the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from posixpath import normpath
from typing import NamedTuple

from flip.data.captions import read_captions_json
from flip.data.dataset import (
    Box,
    Dataset,
    Record,
    clean_class_name,
    hash_splits,
    label_indices,
)
from flip.data.files import list_files
from flip.data.images import is_image_file
from flip.data.tables import Row, read_table
from flip.errors import DataError

METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

#: The one class of photos that have captions and no class.
UNNAMED_CLASS = "image"


class Photo(NamedTuple):
    """A photo as its folders and metadata files describe it."""

    path: str  # relative to the root
    below: str  # relative to the folder that holds the classes: what is hashed
    label: str | None
    split: str | None
    captions: tuple[str, ...] = ()
    box: Box | None = None
    source: str | None = None


def has_photos(folder: Path) -> bool:
    """Return whether a photo lies in a folder or below it."""
    return any(map(is_image_file, list_files(folder)))


def metadata_in(root: Path) -> list[str]:
    """Return the names of the metadata files in a folder."""
    return [name for name in METADATA_FILES if (root / name).is_file()]


def find_photos(root: Path, folder: str, split: str | None) -> tuple[list[Photo], list[str]]:
    """Return the photos below ``folder`` (a class is its first folder) and the paths of metadata files there."""
    photos, tables = [], []
    prefix = f"{folder}/" if folder else ""
    for below in list_files(root / folder):
        name, slash, _ = below.partition("/")
        if is_image_file(below):
            photos.append(Photo(prefix + below, below, name if slash else None, split))
        elif below.rpartition("/")[2] in METADATA_FILES:
            tables.append(prefix + below)
    return photos, tables


def described(root: Path, photos: list[Photo], tables: Sequence[str]) -> list[Photo]:
    """Return the photos with what metadata files, given by their paths, say of them."""
    position = {photo.path: i for i, photo in enumerate(photos)}
    photos, seen = list(photos), dict[int, Row]()
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
            if i in seen:
                raise DataError(f"{row.where}: {photos[i].path} is described at {seen[i].where} already")
            seen[i] = row
            photos[i] = photos[i]._replace(
                label=row.text("label") or photos[i].label,
                split=photos[i].split or row.split(),
                captions=row.captions(),
                box=row.box(),
                source=row.text("source"),
            )
    return photos


def captioned(root: Path, files: Sequence[str], photos: list[Photo]) -> list[Photo]:
    """Return the photos with the captions of the first of the files that is there."""
    file = next((root / name for name in files if (root / name).is_file()), None)
    if file is None:
        return photos
    captions = read_captions_json(file, [photo.path for photo in photos], every_key=True)
    return [p._replace(captions=c) if c else p for p, c in zip(photos, captions, strict=True)]


def require_labels(root: Path, photos: Sequence[Photo]) -> None:
    """Raise a DataError that names the first photo without a class."""
    for photo in photos:
        if photo.label is None:
            raise DataError(
                f"{root / photo.path} has no class; put it in a folder named for its class, "
                "or label it in a metadata.csv with file_name and label"
            )


def make_dataset(root: Path, layout: str, photos: Sequence[Photo], test_fraction: float) -> Dataset:
    """Return the dataset of photos that all have a class; those without a split get one by the hash of their path.

    Raises
    ------
    DataError
        If there is no photo.
    """
    if not photos:
        raise DataError(f"{root} holds no photo that {layout} could read; each class needs a folder with its photos")
    raw_names, labels = label_indices([photo.label or "" for photo in photos])
    hashed = hash_splits([photo.below for photo in photos], labels, test_fraction)
    records = tuple(
        Record(photo.path, label, photo.split or split, photo.captions, photo.box, photo.source)
        for photo, label, split in zip(photos, labels, hashed, strict=True)
    )
    return Dataset(root, layout, tuple(map(clean_class_name, raw_names)), raw_names, records)
