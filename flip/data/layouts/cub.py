"""CUB-200-2011, in the folder shapes that people have it in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from flip.data.captions import read_captions_json
from flip.data.classnames import clean_class_names
from flip.data.dataset import Box, Dataset, Record
from flip.data.files import FileIndex
from flip.data.layout import Layout
from flip.data.settings import DEFAULTS, ReadSettings
from flip.errors import DataError

INDEX_FILES = ("images.txt", "classes.txt", "train_test_split.txt")
_SPLITS = {"1": "train", "0": "test"}


class _Line(NamedTuple):
    number: int
    value: str


def find_cub(folder: Path) -> Path | None:
    """Return the folder that holds CUB's index files: the folder itself, or its ``CUB_200_2011``; None if neither."""
    for base in (folder, folder / "CUB_200_2011"):
        if all((base / name).is_file() for name in INDEX_FILES):
            return base
    return None


def read_cub(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read CUB-200-2011 with its official split.

    ``bounding_boxes.txt`` gives boxes where it is there. Captions come from the first that has any of ``text/`` and
    ``text_c10/`` (``<class>/<image>.txt``, one per line) and ``captions.json``, inside the folder of the index files
    and then beside it.

    Parameters
    ----------
    root : Path
        The folder of the index files, or the one that holds it as ``CUB_200_2011``.

    Raises
    ------
    DataError
        If an index file is missing or malformed, or names a photo, class or id that is not there or is there twice;
        the message names file and line.
    """
    base = find_cub(root)
    if base is None:
        raise DataError(f"{root} is not CUB-200-2011: it, or its CUB_200_2011, must hold {', '.join(INDEX_FILES)}")
    images = _read_index(base / "images.txt")
    _check_photos(base, images)
    raw_names, labels = _labels(base, images)
    splits = _aligned(base / "train_test_split.txt", images)
    boxes = _boxes(base / "bounding_boxes.txt", images)
    photos = [line.value for line in images.values()]
    prefix = f"{base.relative_to(root).as_posix()}/images/" if base != root else "images/"
    captions = _captions(base, root, photos)
    records = tuple(
        Record(prefix + photo, labels[i], _split(base, splits[i]), captions[n], boxes.get(i))
        for n, (i, photo) in enumerate(zip(images, photos, strict=True))
    )
    return Dataset(root, "cub", clean_class_names(raw_names), raw_names, records)


def _lines(file: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line number, id and the rest of each line that is not blank."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            key, *rest = line.split(maxsplit=1)
            if not rest:
                raise DataError(f"{file}:{number}: {line.strip()!r} is not an id and a value; write both")
            yield number, key, rest[0].strip()


def _read_index(file: Path) -> dict[str, _Line]:
    index: dict[str, _Line] = {}
    for number, key, value in _lines(file):
        if key in index:
            raise DataError(f"{file}:{number}: id {key} was given to {index[key].value!r} on line {index[key].number}")
        index[key] = _Line(number, value)
    if not index:
        raise DataError(f"{file} is empty; it needs a line for each id")
    return index


def _aligned(file: Path, images: Mapping[str, _Line]) -> dict[str, _Line]:
    """Read an index that must have a line for every image, and no other."""
    index = _read_index(file)
    for key, line in index.items():
        if key not in images:
            raise DataError(f"{file}:{line.number}: image id {key} is not in images.txt; take the line out")
    for key, line in images.items():
        if key not in index:
            raise DataError(f"{file} has no line for id {key} ({line.value}, images.txt:{line.number}); add one")
    return index


def _check_photos(base: Path, images: Mapping[str, _Line]) -> None:
    folder = base / "images"
    files = FileIndex(folder)
    first: dict[str, int] = {}
    for line in images.values():
        where = f"{base / 'images.txt'}:{line.number}"
        if line.value in first:
            raise DataError(f"{where}: {line.value} has an id on line {first[line.value]} already; take one out")
        if not files.has(line.value):
            raise DataError(f"{where}: no file {folder / line.value}; put the photo there or take the line out")
        first[line.value] = line.number


def _labels(base: Path, images: Mapping[str, _Line]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the classes in the order of classes.txt and each image's index into them."""
    classes = _read_index(base / "classes.txt")
    position = {key: i for i, key in enumerate(classes)}
    names = tuple(line.value for line in classes.values())
    file = base / "image_class_labels.txt"
    if file.is_file():
        given = _aligned(file, images)
    else:
        # Without it, the photo's folder is its class.
        file, key_of = base / "images.txt", {line.value: key for key, line in classes.items()}
        folders = {i: (line, line.value.partition("/")[0]) for i, line in images.items()}
        given = {i: _Line(line.number, key_of.get(folder, folder)) for i, (line, folder) in folders.items()}
    for line in given.values():
        if line.value not in position:
            raise DataError(f"{file}:{line.number}: class {line.value} is not in classes.txt ({len(names)} classes)")
    return names, {key: position[line.value] for key, line in given.items()}


def _split(base: Path, line: _Line) -> str:
    if line.value not in _SPLITS:
        raise DataError(f"{base / 'train_test_split.txt'}:{line.number}: {line.value!r} is not 1 (train) or 0 (test)")
    return _SPLITS[line.value]


def _boxes(file: Path, images: Mapping[str, _Line]) -> dict[str, Box]:
    boxes: dict[str, Box] = {}
    for key, line in (_aligned(file, images) if file.is_file() else {}).items():
        try:
            x, y, w, h = map(float, line.value.split())
        except ValueError:
            raise DataError(f"{file}:{line.number}: {line.value!r} is not four numbers (x, y, width, height)") from None
        boxes[key] = (x, y, w, h)
    return boxes


def _captions(base: Path, root: Path, photos: list[str]) -> list[tuple[str, ...]]:
    places = dict.fromkeys((base, root, base.absolute().parent))
    for place in places:
        for name in ("text", "text_c10"):
            captions = _text_files(place / name, photos)
            if any(captions):
                return captions
        file = place / "captions.json"
        if file.is_file():
            captions = read_captions_json(file, photos, every_key=False)
            if any(captions):
                return captions
            if place in (base, root):  # further up it may well belong to something else
                raise DataError(f"{file} names none of the {len(photos)} photos; its keys must be file names")
    return [()] * len(photos)


def _text_files(folder: Path, photos: list[str]) -> list[tuple[str, ...]]:
    if not folder.is_dir():
        return []
    files = FileIndex(folder)
    names = [photo.rpartition(".")[0] + ".txt" for photo in photos]
    return [_caption_lines(folder / name) if files.has(name) else () for name in names]


def _caption_lines(file: Path) -> tuple[str, ...]:
    # A few of the caption files in circulation hold broken bytes; a caption is not worth refusing the dataset for.
    text = file.read_bytes().decode("utf-8-sig", errors="replace")
    return tuple(caption for line in text.split("\n") if (caption := line.strip()))


LAYOUT = Layout("cub", lambda root: find_cub(root) is not None, read_cub, "CUB-200-2011")
