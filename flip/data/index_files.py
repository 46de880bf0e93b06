"""Index files of CUB-200-2011 and NABirds: lines of an id and a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flip.data.archives import Archive, Entry, archive_dataset
from flip.data.dataset import Box, Dataset
from flip.data.files import FileIndex
from flip.data.ledger import Ledger
from flip.data.text import read_text
from flip.errors import DataError

INDEX_FILES = ("images.txt", "classes.txt", "train_test_split.txt")
_SPLITS = {"1": "train", "0": "test"}


class Line(NamedTuple):
    """A line's number and its value."""

    number: int
    value: str


def read_indexed(
    archive: Archive,
    captions: Sequence[tuple[str, ...]],
    ledger: Ledger,
    ranks: Mapping[str, Mapping[str, str]] | None = None,
) -> Dataset:
    """Read ``images.txt``, ``classes.txt``, ``train_test_split.txt``, and labels and boxes where they are there.

    Parameters
    ----------
    archive : Archive
    captions : sequence of tuple of str
        Captions of each photo in the order of ``images.txt``, or nothing.
    ledger : Ledger
    ranks : mapping, optional
        Name of a grouping to the group of each class id.

    Raises
    ------
    DataError
        If an index file is missing or malformed, or names a photo, class or id that is not there or is there twice;
        the message names file and line.
    """
    base = archive.base
    images = read_index(base / "images.txt")
    _require_photos(base, images)
    classes = {key: line.value for key, line in read_index(base / "classes.txt").items()}
    labels = _labels(base, images, classes)
    splits = aligned(base / "train_test_split.txt", images)
    boxes = _boxes(base / "bounding_boxes.txt", images)
    entries = [
        Entry(
            f"{base / 'images.txt'}:{line.number}",
            f"images/{line.value}",
            labels[i],
            _split(base, splits[i]),
            boxes.get(i),
            said,
        )
        for (i, line), said in zip(images.items(), captions or [()] * len(images), strict=True)
    ]
    return archive_dataset(archive, classes, entries, ledger, ranks=ranks)


def read_index(file: Path) -> dict[str, Line]:
    """Return the value of each id; an id that is there twice, or an empty file, is a DataError."""
    index: dict[str, Line] = {}
    for number, key, value in _lines(file):
        if key in index:
            raise DataError(f"{file}:{number}: id {key} was given to {index[key].value!r} on line {index[key].number}")
        index[key] = Line(number, value)
    if not index:
        raise DataError(f"{file} is empty; it needs a line for each id")
    return index


def aligned(file: Path, images: Mapping[str, Line]) -> dict[str, Line]:
    """Return an index that must have a line for every image, and no other."""
    index = read_index(file)
    for key, line in index.items():
        if key not in images:
            raise DataError(f"{file}:{line.number}: image id {key} is not in images.txt; take the line out")
    for key, line in images.items():
        if key not in index:
            raise DataError(f"{file} has no line for id {key} ({line.value}, images.txt:{line.number}); add one")
    return index


def _lines(file: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line number, id and the rest of each line that is not blank."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            key, *rest = line.split(maxsplit=1)
            if not rest:
                raise DataError(f"{file}:{number}: {line.strip()!r} is not an id and a value; write both")
            yield number, key, rest[0].strip()


def _require_photos(base: Path, images: Mapping[str, Line]) -> None:
    """Raise a DataError that names the first line whose photo is not there or was listed before."""
    files, first = FileIndex(base / "images"), dict[str, int]()
    for line in images.values():
        where = f"{base / 'images.txt'}:{line.number}"
        if line.value in first:
            raise DataError(f"{where}: {line.value} has an id on line {first[line.value]} already; take one out")
        if not files.has(line.value):
            raise DataError(
                f"{where}: no file {base / 'images' / line.value}; put the photo there or take the line out"
            )
        first[line.value] = line.number


def _labels(base: Path, images: Mapping[str, Line], classes: Mapping[str, str]) -> dict[str, str]:
    """Return the id of each image's class; without a list of them the photo's folder is its class."""
    file = base / "image_class_labels.txt"
    if file.is_file():
        given = aligned(file, images)
    else:
        file, key_of = base / "images.txt", {name: key for key, name in classes.items()}
        folders = {i: (line.number, line.value.partition("/")[0]) for i, line in images.items()}
        given = {i: Line(number, key_of.get(folder, folder)) for i, (number, folder) in folders.items()}
    for line in given.values():
        if line.value not in classes:
            raise DataError(f"{file}:{line.number}: class {line.value} is not in classes.txt ({len(classes)} classes)")
    return {i: line.value for i, line in given.items()}


def _split(base: Path, line: Line) -> str:
    if line.value not in _SPLITS:
        raise DataError(f"{base / 'train_test_split.txt'}:{line.number}: {line.value!r} is not 1 (train) or 0 (test)")
    return _SPLITS[line.value]


def _boxes(file: Path, images: Mapping[str, Line]) -> dict[str, Box]:
    boxes: dict[str, Box] = {}
    for key, line in (aligned(file, images) if file.is_file() else {}).items():
        try:
            x, y, w, h = map(float, line.value.split())
        except ValueError:
            raise DataError(f"{file}:{line.number}: {line.value!r} is not four numbers (x, y, width, height)") from None
        boxes[key] = (x, y, w, h)
    return boxes
