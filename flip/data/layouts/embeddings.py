"""Tables of embeddings, written by ``flip embed -o`` or by any other program: the photos need not be there."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flip.data.captions import parse_captions
from flip.data.dataset import Dataset, Record
from flip.data.layout import Layout
from flip.data.layouts.parquet_images import is_parquet_images
from flip.data.parquet import parquet_batches, parquet_files, read_parquet_schema
from flip.data.settings import DEFAULTS, ReadSettings
from flip.data.text import column_text
from flip.data.vector_files import find_vectors
from flip.data.vector_tables import read_vector_table
from flip.errors import DataError, FeatureMismatchError
from flip.files import JsonObject
from flip.names import SPLITS
from flip.reading import parse_json

#: Keys of the Parquet metadata: which model made a table, and its classes; and the hash of that.
METADATA_KEY, SEAL_KEY = b"flip", b"flip.sha256"

#: The folder below ``-o`` where the parts of shards wait to be joined.
SHARDS = "shards"
_PART = re.compile(r"shard-\d{5,}-of-\d{5,}\.parquet")

_COLUMNS = ["path", "label", "split", "captions"]
#: Rows that are read together.
_AT_ONCE = 16_384

_MUST_AGREE = frozenset({"fingerprint", "raw_names", "classnames"})


def is_embeddings(data: Path) -> bool:
    """Return whether a file, or the first file of a folder, is a table of embeddings.

    That is what ``flip embed -o`` wrote; Parquet with a column of float lists and no column of photos; a NumPy array
    with a table beside it; and clip-retrieval's folder.

    Raises
    ------
    DataError
        If the folder holds shards that are not joined yet, or arrays without their tables.
    ConfigError
        If there are several columns of embeddings.
    """
    _require_joined(data)
    return _is_ours(data) or (not is_parquet_images(data) and bool(find_vectors(data)))


def _is_ours(data: Path) -> bool:
    """Return whether flip wrote a table, also where what it says of itself is damaged."""
    file = data if data.is_file() else next(iter(parquet_files(data)), None)
    if file is None or file.suffix.lower() != ".parquet":
        return False
    try:
        return not {METADATA_KEY, SEAL_KEY}.isdisjoint(read_parquet_schema(file).metadata or {})
    except DataError:
        return False


def read_embeddings(data: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read the rows of a table without the embeddings; records are in the order of files (by name) and rows.

    Parameters
    ----------
    data : Path
        A file, or a folder of them.
    settings : ReadSettings
        ``embedding_column`` names the embeddings, and ``test_fraction`` splits a table without splits that another
        program wrote.

    Raises
    ------
    DataError
        If it is no table of embeddings, or its rows have no labels.
    ConfigError
        If it has not the column of embeddings that is named.
    FeatureMismatchError
        If its files were made by different models or hold different classes.
    """
    _require_joined(data)
    if not _is_ours(data) or settings.embedding_column not in (None, "embedding"):
        found = find_vectors(data, settings.embedding_column)
        if not found:
            raise DataError(
                f"{data} was not written by flip embed -o, and has no column of float lists; give a file or folder "
                "that holds embeddings, or another --layout"
            )
        return read_vector_table(data, LAYOUT.name, found, settings)
    files = [data] if data.is_file() else parquet_files(data)
    about = _same_of_all(data, files)
    index = {column_text(name): i for i, name in enumerate(about["raw_names"])}
    records = tuple(record for file in files for record in _records(file, index))
    if not records:
        raise DataError(f"{data} has no rows; write it again with flip embed -o")
    names = tuple(about["classnames"]), tuple(about["raw_names"])
    return Dataset(Path(about.get("root", data)), LAYOUT.name, *names, records, embeddings=data)


def _require_joined(data: Path) -> None:
    """Raise a DataError for a folder that shards wrote and that is not joined: rows would be missing or double."""
    folder = data.parent if data.name == SHARDS else data
    if any(_PART.fullmatch(file.name) for file in (folder / SHARDS).glob("*.parquet")):
        raise DataError(f"{folder} holds shards that are not joined; run flip embed --join {folder}")


def _same_of_all(data: Path, files: Sequence[Path]) -> JsonObject:
    """Return what the tables say of themselves, which must be of one model and the same classes."""
    abouts = [read_about(file) for file in files]
    about = abouts[0] if abouts else None
    if about is None or not about.keys() >= _MUST_AGREE:
        raise DataError(f"{data} is damaged: it does not say which model made it; write it again with flip embed -o")
    for file, other in zip(files, abouts, strict=True):
        if other is None or any(other.get(key) != about[key] for key in _MUST_AGREE):
            raise FeatureMismatchError(
                f"{file} has another model or other classes than {files[0]}; embed them together"
            )
    return about


def _records(file: Path, index: Mapping[str, int]) -> Iterator[Record]:
    line = 0
    for batch in parquet_batches(file, _COLUMNS, _AT_ONCE):
        columns = batch.to_pydict()
        for path, label, split, captions in zip(*(columns[name] for name in _COLUMNS), strict=True):
            line += 1
            if label not in index or split not in SPLITS:
                raise DataError(
                    f"{file}:{line}: label {label!r}, split {split!r}; embed a labelled dataset with --data"
                )
            # One string for all photos of a split.
            yield Record(path, index[label], sys.intern(split), parse_captions(captions))


def read_about(file: Path) -> JsonObject | None:
    """Return flip's metadata of a Parquet table, or None for a table of another origin.

    Raises
    ------
    DataError
        If it was changed since it was written.
    """
    try:
        metadata = read_parquet_schema(file).metadata or {}
        text = metadata.get(METADATA_KEY, b"null")
        about = parse_json(text)
    except (DataError, ValueError):
        return None
    if metadata.get(SEAL_KEY, _seal(text)) != _seal(text):
        raise DataError(f"{file} is damaged: what it says of itself was changed; write it again with flip embed -o")
    return about if isinstance(about, dict) else None


def sealed_metadata(about: JsonObject) -> dict[bytes, bytes]:
    """Return the Parquet metadata of a table that says this of itself."""
    text = json.dumps(about).encode()
    return {METADATA_KEY: text, SEAL_KEY: _seal(text)}


def _seal(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


LAYOUT = Layout(
    "embeddings", is_embeddings, read_embeddings, "what flip embed -o wrote, or any table of embeddings", files=True
)
