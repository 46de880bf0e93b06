"""WebDataset: tars of photos, each with files of the same key that hold its label and captions."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from flip.data.classnames import clean_class_names
from flip.data.dataset import Box, Dataset, Record
from flip.data.files import list_files, subfolders
from flip.data.formats import is_image_file
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.levels import class_of_folders
from flip.data.numbered import name_of, named_indices
from flip.data.photo_folders import UNNAMED_CLASS
from flip.data.samples import Sample, expand, is_pattern, is_unlabeled, read_samples, split_of
from flip.data.settings import DEFAULTS, ReadSettings, require_test_fraction
from flip.data.splits import hash_splits, named_split
from flip.data.tables import ALIASES, Row, Table
from flip.data.text import nfc, read_text
from flip.errors import DataError
from flip.reading import is_file

#: The names of numbered classes, one per line, beside the tars or one folder above.
_NAMES_FILE = "classnames.txt"

_T = TypeVar("_T")


class _Photo(NamedTuple):
    """A photo before its label and split are known. Rows are not kept, since there may be millions.

    ``said`` is the row of a photo that has a column for the split, else None.
    """

    path: str  # "shard.tar/key", relative to the root
    tar: str
    label: str | None
    said: Row | None
    captions: tuple[str, ...]
    box: Box | None
    source: str | None
    frame: Box | None

    @property
    def key(self) -> str:
        return self.path[len(self.tar) + 1 :]


def is_webdataset(data: Path) -> bool:
    """Return whether a path is a tar, or a folder that holds some, in it or in its folders of splits, and no photos."""
    if not data.is_dir():
        return data.suffix.lower() == ".tar"
    places = [data, *(data / name for name in subfolders(data) if named_split(name))]
    if not any(_is_tar(path.name) for place in places for path in place.iterdir()):
        return False
    return not any(is_image_file(path) for path in list_files(data))


def read_webdataset(data: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read a tar, a folder of tars, or a pattern such as ``birds-{0000..0003}.tar``; photos stay in the tars.

    The files of a tar that share a key are a sample: an image, ``.cls`` (the class, by name or number), ``.txt`` (the
    caption) and ``.json`` (the columns of a manifest). ``classnames.txt`` names numbered classes. Where no sample has
    a class, the folder in its key is it. The split is a column of the JSON, else a word in the name of the tar or its
    folder, else a hash decides.

    Raises
    ------
    DataError
        If a tar is not there, cannot be read or is none, or no sample has an image.
    MissingDependencyError
        If the webdataset library is not installed.
    """
    root, tars = _tars(data)
    ledger = Ledger()
    photos = [photo for tar in tars for photo in _photos(root, tar, ledger)]
    if not photos:
        raise DataError(f"{data} holds no image; a tar of WebDataset has files such as 0001.jpg and 0001.cls")
    labels = _labels(photos, settings, ledger)
    photos, raw_labels = (list(part) for part in zip(*_labelled(photos, labels, ledger), strict=True))
    names = _class_names(root)
    numbered = names is not None and all(label.isdecimal() for label in set(raw_labels))
    raw_names, indices = named_indices(
        [name_of(int(label), names) for label in raw_labels] if numbered else raw_labels,
        names if numbered else None,
        ledger,
    )
    splits = _splits(photos, indices, settings, ledger)
    records = tuple(_records(photos, indices, splits))
    clean = clean_class_names(raw_names)
    return Dataset(root, LAYOUT.name, clean, raw_names, records, left_out=ledger.left_out, notes=ledger.notes)


def _is_tar(name: str) -> bool:
    return name.lower().endswith(".tar")


def _tars(data: Path) -> tuple[Path, list[str]]:
    """Return a folder, and the tars below it as paths relative to it."""
    if data.is_dir():
        tars = [path for path in list_files(data) if _is_tar(path)]
        if not tars:
            raise DataError(
                f"{data} holds no .tar; pass a folder of tars, or a pattern such as birds-{{0000..0003}}.tar"
            )
        return data, tars
    if not is_pattern(data):
        return data.parent, [data.name]
    paths = list(dict.fromkeys(expand(str(data))))
    absent = next((path for path in paths if not is_file(path)), None)
    if absent is not None:
        raise DataError(
            f"no file {absent}, one of the {len(paths):,} that {data} stands for; name those that are there"
        )
    root = Path(os.path.commonpath([Path(path).parent for path in paths]))
    return root, [os.path.relpath(path, root) for path in paths]


def _photos(root: Path, tar: str, ledger: Ledger) -> Iterator[_Photo]:
    if is_unlabeled(split_of(tar)):
        ledger.omit("tars of photos without labels", tar)
        return
    samples = read_samples(root / tar, ledger)
    if not samples:
        ledger.omit("tars without an image", tar)
    for sample in samples:
        yield _photo(tar, sample, ledger)


def _photo(tar: str, sample: Sample, ledger: Ledger) -> _Photo:
    path, row = f"{tar}/{sample.key}", sample.row

    def told(read: Callable[[Row], _T | None]) -> _T | None:
        return _told(read, path, row, ledger)

    column = Table(list(row.cells), []).column("label")
    label = told(lambda row: row.label(column)) if column else None
    # One string for all photos of a class.
    label = None if label is None else sys.intern(label)
    if not row.cells.keys() - {column}:
        return _Photo(path, tar, label, None, (), None, None, None)
    return _Photo(
        path,
        tar,
        label,
        None if row.cells.keys().isdisjoint(ALIASES["split"]) else row,
        told(Row.captions) or (),
        told(Row.box),
        row.text("source"),
        told(Row.frame),
    )


def _labels(photos: Sequence[_Photo], settings: ReadSettings, ledger: Ledger) -> list[str | None]:
    """Return the class of each photo, None where it has none and others have one."""
    labels = [photo.label for photo in photos]
    if any(label is not None for label in labels):
        return labels
    keys = [photo.key for photo in photos]
    if settings.class_level is not None:
        return class_of_folders(keys, settings.class_level, ledger)
    if any("/" in key for key in keys):
        ledger.note("the classes are the folders in the tars")
        return [sys.intern(key.rpartition("/")[0].rpartition("/")[2]) or None for key in keys]
    ledger.note(f"no sample has a class (.cls, or label in .json): all are of one, {UNNAMED_CLASS!r}")
    return [UNNAMED_CLASS for _ in keys]


def _labelled(photos: Sequence[_Photo], labels: Sequence[str | None], ledger: Ledger) -> list[tuple[_Photo, str]]:
    kept = []
    for photo, label in zip(photos, labels, strict=True):
        if label is None:
            ledger.omit("samples without a class", photo.path)
        else:
            kept.append((photo, label))
    return kept


def _class_names(root: Path) -> list[str] | None:
    file = next((place / _NAMES_FILE for place in (root, root.parent) if (place / _NAMES_FILE).is_file()), None)
    names = [] if file is None else [nfc(line.strip()) for line in read_text(file).split("\n") if line.strip()]
    return names or None


def _splits(photos: Sequence[_Photo], labels: Sequence[int], settings: ReadSettings, ledger: Ledger) -> list[str]:
    """Return the split of each photo: its own, else that of its tar, else by the hash of its path."""
    rows = [photo.said for photo in photos if photo.said is not None]
    words = Table(list(dict.fromkeys(name for row in rows for name in row.cells)), rows).splits
    of_tar = {tar: split_of(tar) for tar in {photo.tar for photo in photos}}

    def split(photo: _Photo) -> str | None:
        row = photo.said
        said = None if row is None else _told(lambda row: row.split(words), photo.path, row, ledger)
        return said if said and not is_unlabeled(said) else of_tar[photo.tar]

    splits = [split(photo) for photo in photos]
    require_test_fraction(settings.test_fraction)
    if None not in splits:
        return [sys.intern(split) for split in splits if split is not None]
    hashed = hash_splits([photo.path for photo in photos], labels, settings.test_fraction)
    # One string for all photos of a split.
    return [sys.intern(split or by_hash) for split, by_hash in zip(splits, hashed, strict=True)]


def _records(photos: list[_Photo], labels: Sequence[int], splits: Sequence[str]) -> Iterator[Record]:
    """Yield the records of photos, removing each photo from the list to save memory."""
    photos.reverse()
    for label, split in zip(labels, splits, strict=True):
        photo = photos.pop()
        yield Record(photo.path, label, split, photo.captions, photo.box, photo.source, photo.frame)


def _told(read: Callable[[Row], _T | None], path: str, row: Row, ledger: Ledger) -> _T | None:
    """Parse a value from a row; a row that cannot be parsed gives None and a note in the ledger."""
    try:
        return read(row)
    except DataError as error:
        ledger.notice("entries of samples that make no sense", f"{path} ({str(error).partition(': ')[2]})")
        return None


LAYOUT = Layout("webdataset", is_webdataset, read_webdataset, "tars of WebDataset (.tar)", files=True)
