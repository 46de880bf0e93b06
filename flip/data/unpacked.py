"""Photos that lie as bytes in Parquet files, unpacked into the cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from flip.data.captions import parse_captions
from flip.data.formats import photo_suffix
from flip.data.parquet import open_parquet
from flip.data.text import read_text
from flip.errors import DataError, reason_of
from flip.files import cache_folder, folder_aside, folder_of_process, json_text
from flip.reading import parse_json

log = logging.getLogger(__name__)

_ROWS = "rows.jsonl"


class PhotoTable(NamedTuple):
    """One Parquet file: its path, its columns of photos, labels and captions, and the split its name says."""

    path: Path
    image: str
    label: str | None
    caption: str | None
    split: str | None


def unpacked(files: Sequence[PhotoTable], data: Path, cache: Path | None) -> Path:
    """Return the folder in the cache that holds the photos of these files, writing it first where it is not there.

    Parameters
    ----------
    files : sequence of PhotoTable
    data : Path
        What was given, for messages and the folder's name.
    cache : Path or None
        The cache; the platform's without it.

    Raises
    ------
    DataError
        If a file cannot be read, a row has no photo or no label, or nothing can be written.
    """
    state = [(str(f.path.absolute()), f.path.stat().st_size, f.path.stat().st_mtime_ns, f[1:]) for f in files]
    digest = hashlib.sha256(repr(state).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    name = f"{data.absolute().stem}-{digest}"
    folder = cache_folder(cache) / "unpacked" / name
    if not (folder / _ROWS).is_file():
        log.info("unpacking the photos of %s into %s", data, folder)
        try:
            _unpack_aside(files, folder)
        except OSError as error:
            folder = _unpacked_for_now(files, data, name, folder, error)
    return folder


def _unpacked_for_now(files: Sequence[PhotoTable], data: Path, name: str, folder: Path, error: OSError) -> Path:
    """Unpack photos into a folder that goes with this process."""
    log.warning(
        "the photos of %s cannot be kept in %s (%s) and are unpacked for this run alone; pass --cache DIR, or set "
        "FLIP_CACHE, to a folder that can be written",
        *(data, folder, reason_of(error)),
    )
    try:
        place = folder_of_process() / name
        if not (place / _ROWS).is_file():
            _unpack_aside(files, place)
    except OSError as e:
        raise DataError(f"the photos of {data} cannot be unpacked ({reason_of(e)}); pass --cache DIR") from e
    return place


def _unpack_aside(files: Sequence[PhotoTable], folder: Path) -> None:
    with folder_aside(folder) as aside:
        _unpack(files, aside)


class _Cells(NamedTuple):
    image: bytes | None
    label: str | int
    captions: tuple[str, ...]


class PhotoRow(TypedDict):
    """One unpacked photo: its path in the folder, label, split (None where the files say nothing) and captions."""

    path: str
    label: str | int
    split: str | None
    captions: list[str]


def _unpack(files: Sequence[PhotoTable], folder: Path) -> None:
    with (folder / _ROWS).open("w", encoding="utf-8") as rows:
        for file in files:
            for number, cells in enumerate(_cells(file)):
                name = f"{file.path.stem}/{number:06d}"
                content = cells.image
                if content is None:
                    raise DataError(
                        f"{file.path}:{number + 1}: no bytes of a photo; download the photos with the table"
                    )
                name += photo_suffix(content)
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
                row = {"path": name, "label": cells.label, "split": file.split, "captions": cells.captions}
                rows.write(json_text(row) + "\n")


def _cells(file: PhotoTable) -> Iterator[_Cells]:
    """Yield the bytes, label and captions of each row, a few rows in memory at a time."""
    wanted = [name for name in (file.image, file.label, file.caption) if name]
    with open_parquet(file.path) as opened:
        for batch in opened.iter_batches(64, columns=wanted):
            for row in batch.to_pylist():
                image, label = row[file.image], row[str(file.label)]
                if label is None:
                    raise DataError(f"{file.path}: a row has no {file.label}; every row needs one")
                yield _Cells(
                    image.get("bytes") if isinstance(image, dict) else image,
                    label.decode("utf-8", "surrogateescape") if isinstance(label, bytes) else label,
                    parse_captions(row[file.caption]) if file.caption else (),
                )


def read_rows(folder: Path) -> list[PhotoRow]:
    """Return path, label, split and captions of each unpacked photo."""
    rows = [parse_json(line) for line in read_text(folder / _ROWS).split("\n") if line]
    if not rows:
        raise DataError(f"{folder} has no photos; the table is empty")
    return rows
