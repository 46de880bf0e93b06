"""Parquet files with the photos' bytes, as datasets of the Hugging Face hub are published."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flip.data.classnames import clean_class_names, label_indices
from flip.data.dataset import Dataset, Record
from flip.data.files import is_hidden
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.settings import DEFAULTS, ReadSettings
from flip.data.splits import UNLABELED, describe_splits, hash_splits, read_splits
from flip.data.tables import ALIASES
from flip.data.text import nfc, read_text
from flip.errors import DataError
from flip.files import cache_folder, folder_aside

log = logging.getLogger(__name__)

_IMAGES = ("image", "img", "jpg", "png", "photo", "picture", "bytes", "image_bytes")
_LABELS = ("label", "labels", "fine_label", *ALIASES["label"][1:])
_CAPTIONS = ("captions", "caption", "text")
#: How unpacked photos begin, and the suffix they get; what is none of these is read by its content all the same.
_SUFFIXES = ((b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"), (b"II*\0", ".tif"))


class _File(NamedTuple):
    """One Parquet file: its path, its columns of photos, labels and captions, and the split its name says."""

    path: Path
    image: str
    label: str | None
    caption: str | None
    split: str | None


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
    names = _class_names(data, files)
    folder = _unpacked(files, data, settings)
    rows = _read_rows(folder)
    raw_labels = [_label(row["label"], names) for row in rows]
    raw_names, labels = _indices(raw_labels, names, ledger)
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
        found = sorted(path for path in folder.glob("*.parquet") if not is_hidden(path.name))
        if found:
            return found
    return []


def _image_column(file: Path) -> str | None:
    """Return the column that holds photos: bytes, or a struct of bytes and path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return None
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return str(field.name)
        if field.name.lower() in _IMAGES and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            return str(field.name)
    return None


def _files(data: Path, ledger: Ledger) -> list[_File]:
    """Return the files with their columns; those whose name says that they have no labels are left out."""
    import pyarrow.parquet as pq

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
        there = pq.read_schema(path).names
        label = next((name for name in _LABELS if name in there), None)
        if label is None:
            raise DataError(f"{path} has no column 'label'; it has {', '.join(there)}; rename the one with the classes")
        files.append(_File(path, image, label, next((n for n in _CAPTIONS if n in there), None), split))
    if not files:
        raise DataError(f"{data} has no Parquet file with a column of photos, such as image, and one of labels")
    return files


def _class_names(data: Path, files: list[_File]) -> list[str] | None:
    """Return the names of numbered classes as the files, or the card beside them, have them."""
    import pyarrow.parquet as pq

    first = files[0]
    about = json.loads((pq.read_schema(first.path).metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    names = features.get(first.label, {}).get("names") if isinstance(features, dict) else None
    if names is None:
        cards = [place / "README.md" for place in (first.path.parent, first.path.parent.parent)]
        card = next((file for file in cards if file.is_file()), None)
        names = _names_of_card(card, str(first.label)) if card is not None else None
    return [nfc(str(name)) for name in names] if names else None


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


def _label(value: Any, names: list[str] | None) -> str:
    if names is not None and isinstance(value, int):
        if not 0 <= value < len(names):
            raise DataError(f"label {value} has no name; the table names {len(names)} classes")
        return names[value]
    return str(value)


def _indices(raw_labels: list[str], names: list[str] | None, ledger: Ledger) -> tuple[tuple[str, ...], list[int]]:
    """Return the classes and each row's label: in the order of the named classes, where they are named."""
    raw_names, labels = label_indices(raw_labels)
    if names is None or not set(raw_names) <= set(names):
        return raw_names, labels
    for name in names:
        if name not in raw_names:
            ledger.omit("classes without photos", name)
    ordered = tuple(name for name in dict.fromkeys(names) if name in set(raw_names))
    place = {name: i for i, name in enumerate(ordered)}
    return ordered, [place[nfc(raw)] for raw in raw_labels]


def _unpacked(files: list[_File], data: Path, settings: ReadSettings) -> Path:
    """Return the folder in the cache that holds the photos of these files, writing it first where it is not there."""
    state = [(str(f.path.absolute()), f.path.stat().st_size, f.path.stat().st_mtime_ns, f[1:]) for f in files]
    digest = hashlib.sha256(repr(state).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    folder = cache_folder(settings.cache) / "unpacked" / f"{data.absolute().stem}-{digest}"
    if not (folder / _ROWS).is_file():
        log.info("unpacking the photos of %s into %s", data, folder)
        try:
            with folder_aside(folder) as aside:
                _unpack(files, aside)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"the photos of {data} cannot be kept in {folder} ({reason}); pass --cache") from error
    return folder


_ROWS = "rows.jsonl"


def _unpack(files: list[_File], folder: Path) -> None:
    with (folder / _ROWS).open("w", encoding="utf-8") as rows:
        for file in files:
            for number, cells in enumerate(_cells(file)):
                name = f"{file.path.stem}/{number:06d}"
                content = cells["image"]
                if content is None:
                    raise DataError(
                        f"{file.path}:{number + 1}: no bytes of a photo; download the photos with the table"
                    )
                name += next((suffix for head, suffix in _SUFFIXES if content.startswith(head)), ".jpg")
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
                row = {"path": name, "label": cells["label"], "split": file.split, "captions": cells["captions"]}
                rows.write(json.dumps(row, ensure_ascii=False) + "\n")


def _cells(file: _File) -> Iterator[Mapping[str, Any]]:
    """Yield the bytes, label and captions of each row, a few rows in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from flip.data.captions import parse_captions

    wanted = [name for name in (file.image, file.label, file.caption) if name]
    try:
        for batch in pq.ParquetFile(file.path).iter_batches(64, columns=wanted):
            for row in batch.to_pylist():
                image, label = row[file.image], row[str(file.label)]
                if label is None:
                    raise DataError(f"{file.path}: a row has no {file.label}; every row needs one")
                yield {
                    "image": image.get("bytes") if isinstance(image, dict) else image,
                    "label": label.decode("utf-8", "replace") if isinstance(label, bytes) else label,
                    "captions": parse_captions(row[file.caption]) if file.caption else (),
                }
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{file.path} cannot be read: {str(error).splitlines()[0]}") from error


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in read_text(folder / _ROWS).split("\n") if line]
    if not rows:
        raise DataError(f"{folder} has no photos; the table is empty")
    return rows


LAYOUT = Layout(
    "parquet-images", is_parquet_images, read_parquet_images, "Parquet files with the photos' bytes", files=True
)
