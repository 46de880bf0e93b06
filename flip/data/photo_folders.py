"""Common to the layouts of photo folders: photos and metadata files below a folder, captions, the dataset of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from posixpath import normpath
from typing import NamedTuple

from flip.data.captions import read_captions_json
from flip.data.classnames import clean_class_names, label_indices
from flip.data.dataset import Box, Dataset, Record
from flip.data.files import list_files, real_path, subfolders
from flip.data.formats import is_photo, suffix_advice
from flip.data.ledger import Ledger
from flip.data.levels import class_of_folders
from flip.data.settings import ReadSettings
from flip.data.splits import hash_splits
from flip.data.table_files import READERS, read_table
from flip.data.tables import Row
from flip.data.text import nfc
from flip.errors import DataError

METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

#: The one class of photos that have captions and no class.
UNNAMED_CLASS = "image"

#: Suffixes of files that nobody takes for photos: not worth a word.
_DOCUMENT_SUFFIXES = (
    ".cfg .csv .db .htm .html .ini .ipynb .json .jsonl .log .mat .md .npy .npz .parquet .pdf .pkl .py .rst .sh .tsv"
    " .txt .url .xml .yaml .yml"
)


_DOCUMENTS = frozenset(_DOCUMENT_SUFFIXES.split())


class Photo(NamedTuple):
    """A photo as its folders and metadata files describe it."""

    path: str  # relative to the root
    below: str  # relative to the folder that holds the classes: what is hashed, and whose folders are the class
    label: str | None = None
    split: str | None = None
    captions: tuple[str, ...] = ()
    box: Box | None = None
    source: str | None = None


def has_photos(folder: Path) -> bool:
    """Return whether a photo lies in a folder or below it."""
    return any(is_photo(folder, path) for path in list_files(folder))


def photos_below(folder: Path) -> list[str]:
    """Return the photos in a folder and below it, as paths relative to it, in sorted order."""
    return [path for path in list_files(folder) if is_photo(folder, path)]


def metadata_in(root: Path) -> list[str]:
    """Return the names of the metadata files in a folder."""
    return [name for name in METADATA_FILES if (root / name).is_file()]


def find_photos(root: Path, folder: str, split: str | None, ledger: Ledger) -> tuple[list[Photo], list[str]]:
    """Return the photos below a folder of the root, and the paths of metadata files there; the ledger gets the rest.

    Parameters
    ----------
    root : Path
    folder : str
        Relative to the root, with ``/``; "" for the root itself.
    split : str or None
        The split of these photos.
    ledger : Ledger
    """
    photos, tables = [], []
    prefix = f"{folder}/" if folder else ""
    for below in list_files(root / folder):
        name = below.rpartition("/")[2]
        if is_photo(root / folder, below):
            photos.append(Photo(prefix + below, below, split=split))
        elif name in METADATA_FILES:
            tables.append(prefix + below)
        else:
            _omit_file(prefix + below, name, ledger)
    filled = {photo.below.partition("/")[0] for photo in photos}
    for name in subfolders(root / folder):
        if name not in filled:
            ledger.omit("folders without photos", f"{prefix}{name}/")
    return photos, tables


def _omit_file(path: str, name: str, ledger: Ledger) -> None:
    suffix = PurePath(name).suffix.lower()
    if suffix in _DOCUMENTS or name.startswith("."):
        return
    advice = suffix_advice(suffix)
    kind = f"files with the suffix {suffix}" if suffix else "files without a suffix that are no photos"
    ledger.omit(f"{kind} ({advice})" if advice else kind, path)


def described(root: Path, photos: list[Photo], tables: Sequence[str]) -> list[Photo]:
    """Return the photos with what metadata files, given by their paths, say of them.

    Raises
    ------
    DataError
        If a file has no column of file names, or a row names no photo or one that was described before.
    """
    position = {nfc(photo.path): i for i, photo in enumerate(photos)}
    photos, seen = list(photos), dict[int, Row]()
    for table in tables:
        content = read_table(root / table)
        column = content.column("path")
        if content.rows and column is None:
            there = ", ".join(content.columns)
            raise DataError(f"{root / table} has no column 'file_name'; it has {there}; rename a column, or the file")
        folder = table.rpartition("/")[0] or "."
        for row in content.rows:
            given = (row.text(column or "") or "").replace("\\", "/")
            i = position.get(nfc(normpath(f"{folder}/{given}")))
            if i is None:
                raise DataError(f"{row.where}: no photo {given!r}; paths are relative to the file's folder")
            if i in seen:
                raise DataError(f"{row.where}: {photos[i].path} is described at {seen[i].where} already")
            seen[i] = row
            photos[i] = photos[i]._replace(
                label=row.label(content.column("label")),
                split=photos[i].split or row.split(content.splits),
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


def labelled(photos: Sequence[Photo], settings: ReadSettings, ledger: Ledger) -> list[Photo]:
    """Return the photos with the class that their folders give them, where no metadata file gave one.

    Where a level is asked for, photos above it are left out; else photos without a class stay.
    """
    classes = class_of_folders([photo.below for photo in photos], settings.class_level, ledger)
    known = {nfc(photo.label) for photo in photos if photo.label is not None}
    for photo, folder in zip(photos, classes, strict=True):
        if photo.label is not None and folder is not None and nfc(folder) in known and nfc(photo.label) != nfc(folder):
            ledger.notice("labels of the metadata that differ from the photo's folder", f"{photo.path}: {photo.label}")
    kept = [
        photo if photo.label is not None else photo._replace(label=folder)
        for photo, folder in zip(photos, classes, strict=True)
    ]
    if settings.class_level is None:
        return kept
    for photo in kept:
        if photo.label is None:
            ledger.omit(f"photos above class level {settings.class_level}", photo.path)
    return [photo for photo in kept if photo.label is not None]


def require_labels(root: Path, photos: Sequence[Photo]) -> None:
    """Raise a DataError that names the first photo without a class."""
    lost = next((photo for photo in photos if photo.label is None), None)
    if lost is not None:
        table = next((path.name for path in sorted(root.iterdir()) if path.suffix.lower() in READERS), None)
        raise DataError(
            f"{root / lost.path} has no class; put it in a folder named for its class, "
            "or label it in a metadata.csv with file_name and label"
            + (f"; {table} may be a manifest: pass it as --data" if table and table not in METADATA_FILES else "")
        )


def make_dataset(root: Path, layout: str, photos: Sequence[Photo], settings: ReadSettings, ledger: Ledger) -> Dataset:
    """Return the dataset of photos that all have a class; those without a split get one by the hash of their path.

    Raises
    ------
    DataError
        If there is no photo.
    """
    photos = _each_once(root, photos, ledger)
    if not photos:
        raise DataError(f"{root} holds no photo that {layout} could read; each class needs a folder with its photos")
    raw_names, labels = label_indices([photo.label or "" for photo in photos])
    hashed = hash_splits([photo.below for photo in photos], labels, settings.test_fraction)
    records = tuple(
        Record(photo.path, label, photo.split or split, photo.captions, photo.box, photo.source)
        for photo, label, split in zip(photos, labels, hashed, strict=True)
    )
    names = clean_class_names(raw_names)
    return Dataset(root, layout, names, raw_names, records, left_out=ledger.left_out, notes=ledger.notes)


def _each_once(root: Path, photos: Sequence[Photo], ledger: Ledger) -> list[Photo]:
    """Return the photos without links to others of the same class and split; other links are noticed."""
    first: dict[str, Photo] = {}
    folders: dict[str, str] = {}
    kept = []
    for photo in photos:
        other = first.setdefault(real_path(root, photo.path, folders), photo)
        if other is not photo and (other.label, other.split) == (photo.label, photo.split):
            ledger.omit("links to photos that are there already", photo.path)
            continue
        if other is not photo:
            where = "classes" if other.label != photo.label else "splits"
            ledger.notice(f"photos that are in two {where} by a link", f"{photo.path} and {other.path}")
        kept.append(photo)
    return kept
