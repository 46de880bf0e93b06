"""Parquet files with the photos' bytes, as datasets of the Hugging Face hub are published."""

from __future__ import annotations

import re
from pathlib import Path

from flip.data.classnames import clean_class_names
from flip.data.dataset import Dataset, Record
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.numbered import name_of, named_indices
from flip.data.parquet import parquet_files, read_parquet_schema
from flip.data.settings import DEFAULTS, ReadSettings
from flip.data.splits import UNLABELED, describe_splits, hash_splits, read_splits
from flip.data.tables import ALIASES
from flip.data.text import nfc, read_text
from flip.data.unpacked import PhotoTable, read_rows, unpacked
from flip.errors import DataError
from flip.reading import parse_json

_IMAGES = ("image", "img", "jpg", "png", "photo", "picture", "bytes", "image_bytes")
_LABELS = ("label", "labels", "fine_label", *ALIASES["label"][1:])
_CAPTIONS = ("captions", "caption", "text")


def is_parquet_images(data: Path) -> bool:
    """Return whether a file, or the first Parquet file in a folder or its ``data``, has a column of photos' bytes."""
    first = next(iter(_parquet_files(data)), None)
    return first is not None and _image_column(first) is not None


def read_parquet_images(data: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read Parquet files with the photos' bytes, which are unpacked into the cache once.

    The photos are in a column of bytes, or of bytes and paths, such as ``image``; the classes in ``label``, whose names
    are taken from the file's own description or the ``README.md`` beside it where it holds numbers. The split is the
    word in a file's name (``train-00000-of-00002.parquet``), else a hash decides.

    Raises
    ------
    DataError
        If a file has no such columns or cannot be read, or the cache cannot be written.
    """
    ledger = Ledger()
    files = _files(data, ledger)
    names = _class_names(files)
    folder = unpacked(files, data, settings.cache)
    rows = read_rows(folder)
    raw_labels = [name_of(row["label"], names) for row in rows]
    raw_names, labels = named_indices(raw_labels, names, ledger)
    hashed = hash_splits([row["path"] for row in rows], labels, settings.test_fraction)
    records = tuple(
        Record(row["path"], label, row["split"] or split, tuple(row["captions"]))
        for row, label, split in zip(rows, labels, hashed, strict=True)
    )
    clean = clean_class_names(raw_names)
    return Dataset(folder, LAYOUT.name, clean, raw_names, records, left_out=ledger.left_out, notes=ledger.notes)


def _parquet_files(data: Path) -> list[Path]:
    if data.is_file():
        return [data] if data.suffix.lower() == ".parquet" else []
    for folder in (data, data / "data"):
        found = parquet_files(folder)
        if found:
            return found
    return []


def _image_column(file: Path) -> str | None:
    """Return the column that holds photos: bytes, or a struct of bytes and path."""
    import pyarrow as pa

    try:
        schema = read_parquet_schema(file)
    except DataError:
        return None
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return str(field.name)
        if field.name.lower() in _IMAGES and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            return str(field.name)
    return None


def _files(data: Path, ledger: Ledger) -> list[PhotoTable]:
    """Return the files with their columns; those whose name says that they have no labels are left out."""
    paths = _parquet_files(data)
    words = {path: path.stem.split("-")[0] for path in paths}
    splits = read_splits(dict.fromkeys(words.values()))
    if None in (splits.get(word) for word in words.values()):
        splits = {}
    ledger.note(describe_splits(splits))
    files = []
    for path in paths:
        split = splits.get(words[path])
        image = _image_column(path)
        if split == UNLABELED or image is None:
            ledger.omit("files without photos or labels", path.name)
            continue
        there = read_parquet_schema(path).names
        label = next((name for name in _LABELS if name in there), None)
        if label is None:
            raise DataError(f"{path} has no column 'label'; it has {', '.join(there)}; rename the one with the classes")
        files.append(PhotoTable(path, image, label, next((n for n in _CAPTIONS if n in there), None), split))
    if not files:
        raise DataError(f"{data} has no Parquet file with a column of photos, such as image, and one of labels")
    return files


def _class_names(files: list[PhotoTable]) -> list[str] | None:
    """Return the names of numbered classes as the files, or the card beside them, have them."""
    first = files[0]
    names = _described_names(first)
    if names is None:
        cards = [place / "README.md" for place in (first.path.parent, first.path.parent.parent)]
        card = next((file for file in cards if file.is_file()), None)
        names = _names_of_card(card, str(first.label)) if card is not None else None
    return [nfc(str(name)) for name in names] if names else None


def _described_names(file: PhotoTable) -> list[str] | None:
    """Return the class names in a file's description of itself."""
    try:
        about: object = parse_json((read_parquet_schema(file.path).metadata or {}).get(b"huggingface", b"{}"))
    except ValueError:
        return None
    for key in ("info", "features", file.label, "names"):
        about = about.get(key) if isinstance(about, dict) else None
    return about if isinstance(about, list) else None


def _names_of_card(card: Path, label: str) -> list[str] | None:
    """Return the class names in the header of a dataset's card: lines ``'0': wren`` below ``- name: label``."""
    _, _, header = read_text(card).partition("---\n")
    _, found, below = header.partition("\n---")[0].partition(f"- name: {label}\n")
    names: dict[int, str] = {}
    for line in below.split("\n- name:")[0].split("\n"):
        if line.lstrip().startswith("- name:"):
            break
        if match := re.fullmatch(r"""\s*['"]?(\d+)['"]?:\s*(['"]?)(.*)\2\s*""", line):
            names[int(match[1])] = match[3]
    return [names[i] for i in range(len(names))] if found and names.keys() == set(range(len(names))) and names else None


LAYOUT = Layout(
    "parquet-images", is_parquet_images, read_parquet_images, "Parquet files with the photos' bytes", files=True
)
