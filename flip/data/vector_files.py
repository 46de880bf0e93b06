"""Files of embeddings that any program wrote: Parquet columns of float lists, and NumPy arrays with a table beside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flip.arrays import Array
from flip.data.files import is_hidden
from flip.data.parquet import open_parquet, parquet_files, read_parquet_schema
from flip.data.photo_folders import METADATA_FILES
from flip.data.table_files import READERS
from flip.errors import ConfigError, DataError, reason_of
from flip.reading import require_plain

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows that are read together.
AT_ONCE = 8192

#: Columns of numbers in a list that are no embeddings.
_NO_VECTORS = frozenset({"bbox", "box", "boxes", "bounding_box", "frame"})

#: clip-retrieval's folders of embeddings and of what it knows of each.
_EMBEDDINGS, _METADATA = "img_emb", "metadata"


class VectorFile(NamedTuple):
    """Embeddings in one file, and the table with a row for each.

    ``path`` ends in ``.parquet`` or ``.npy``; ``column`` is that of a Parquet file; ``table`` is the file with the
    labels, the same for Parquet.
    """

    path: Path
    column: str | None
    table: Path


@dataclass(frozen=True)
class VectorTable:
    """Embeddings of an unknown model, and the row of each record.

    Attributes
    ----------
    files : tuple of VectorFile
        Their rows count on from one file to the next.
    width : int
        Numbers of an embedding.
    rows : int
        Of all files.
    row_of : mapping
        Record path to row.
    """

    files: tuple[VectorFile, ...]
    width: int
    rows: int
    row_of: Mapping[str, int]


def find_vectors(data: Path, column: str | None = None) -> list[VectorFile]:
    """Return the files of embeddings that a path means, none where it means something else.

    Parameters
    ----------
    data : Path
        A ``.parquet`` or ``.npy`` file, a folder of these, or clip-retrieval's folder.
    column : str, optional
        The Parquet column with the embeddings, where there are several.

    Raises
    ------
    ConfigError
        If there is no such column of embeddings, or there are several and none is named.
    DataError
        If an array has no table beside it, or the other way round.
    """
    if data.is_file():
        return _file(data, column)
    if (data / _EMBEDDINGS).is_dir() and (data / _METADATA).is_dir():
        return _clip_retrieval(data)
    tables = [file for file in parquet_files(data) if file.name not in METADATA_FILES]
    arrays = sorted(f for f in data.glob("*.npy") if not is_hidden(f.name) and f.is_file())
    if arrays and all(_beside(array) for array in arrays):
        return [_with_table(array) for array in arrays]
    found = [VectorFile(file, name, file) for file in tables if (name := _vector_column(file, column))]
    if found and len(found) < len(tables):
        other = next(file for file in tables if file not in {one.path for one in found})
        raise DataError(f"{other} has no column of embeddings, and {found[0].path.name} has; put them in two folders")
    return found


def _file(file: Path, column: str | None) -> list[VectorFile]:
    suffix = file.suffix.lower()
    if suffix == ".npy":
        return [_with_table(file)]
    name = _vector_column(file, column) if suffix == ".parquet" else None
    return [VectorFile(file, name, file)] if name else []


def _beside(array: Path) -> list[Path]:
    """Return the tables of the same stem as an array."""
    return [file for suffix in READERS if (file := array.with_suffix(suffix)).is_file()]


def _with_table(array: Path) -> VectorFile:
    tables = _beside(array)
    if len(tables) != 1:
        names = ", ".join(array.with_suffix(suffix).name for suffix in READERS)
        have = f"beside it are {' and '.join(t.name for t in tables)}" if tables else "none is beside it"
        raise DataError(f"{array} needs one table with a row for each embedding, {names}; {have}")
    return VectorFile(array, None, tables[0])


def _clip_retrieval(folder: Path) -> list[VectorFile]:
    """Return the arrays of ``img_emb`` with the tables of ``metadata`` that have the same number."""
    arrays, tables = _numbered(folder / _EMBEDDINGS, ".npy"), _numbered(folder / _METADATA, ".parquet")
    if not arrays or arrays.keys() != tables.keys():
        odd = sorted(arrays.keys() ^ tables.keys())
        which = f"number {odd[0]} is in one of them only" if odd else "they are empty"
        raise DataError(
            f"{folder}: {_EMBEDDINGS}/*.npy and {_METADATA}/*.parquet belong together, and {which}; "
            "fetch or write the folder again"
        )
    return [VectorFile(arrays[i], None, tables[i]) for i in sorted(arrays)]


def _numbered(folder: Path, suffix: str) -> dict[int, Path]:
    """Return the files of a suffix by the last number in their names, which each has and no two share."""
    numbered: dict[int, Path] = {}
    for file in sorted(file for file in folder.glob(f"*{suffix}") if not is_hidden(file.name)):
        found = re.findall(r"\d+", file.stem)[-1:]
        if not found:
            raise DataError(f"{file} has no number in its name, as {folder.name}_0{suffix} has; number it or move it")
        other = numbered.setdefault(int(found[0]), file)
        if other != file:
            raise DataError(f"{folder} has {other.name} and {file.name} of one number; number each, or move one")
    return numbered


def _vector_column(file: Path, given: str | None) -> str | None:
    """Return the column of embeddings: the one that is named, or the only one."""
    schema = read_parquet_schema(file)
    there = [field.name for field in schema if _is_vectors(field.type) and field.name.lower() not in _NO_VECTORS]
    if given is not None:
        if given in schema.names and _is_vectors(schema.field(given).type):
            return given
        have = f"those of float lists are {', '.join(there)}" if there else "no column is of float lists"
        kind = f" ({schema.field(given).type})" if given in schema.names else ""
        raise ConfigError(f"--embedding-column {given}{kind}: {file} has no such embeddings; {have}")
    if len(there) > 1:
        raise ConfigError(
            f"{file} has several columns of embeddings, {', '.join(there)}; pass --embedding-column {there[0]}, or "
            "--layout manifest for the photos"
        )
    return there[0] if there else None


def _is_vectors(kind: pa.DataType) -> bool:
    """Return whether a column is of lists of floats, also as a tensor of fixed shape."""
    import pyarrow as pa

    kind = getattr(kind, "storage_type", kind)
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(listed and pa.types.is_floating(kind.value_type))


def vector_width(files: Sequence[VectorFile]) -> int:
    """Return the width of the embeddings, which is that of the first one.

    Raises
    ------
    DataError
        If no file has one.
    """
    for file in files:
        for rows in read_vectors(file, None):
            if rows.shape[1]:
                return int(rows.shape[1])
    raise DataError(f"{files[0].path} has no embedding; every row is empty")


def read_vectors(file: VectorFile, width: int | None) -> Iterator[Array]:
    """Yield the embeddings of a file, some rows at a time, as floats (m, d); a row without one is NaN.

    Raises
    ------
    DataError
        If the file is damaged, or an embedding has another width.
    """
    yield from _of_array(file.path, width) if file.column is None else _of_column(file.path, file.column, width)


def array_rows(file: Path) -> int:
    """Return the number of embeddings in a NumPy array.

    Raises
    ------
    DataError
        If it is none, or no array of floats of shape (n, d).
    """
    return len(_array(file))


def _array(file: Path) -> Array:
    try:
        require_plain(file)
        array: Array = np.lib.format.open_memmap(file, mode="r")
    except MemoryError:
        raise
    except Exception as error:
        # The header is a Python literal: NumPy raises whatever tokenizing and evaluating a broken one raises.
        raise DataError(f"{file} is no NumPy array that can be read: {reason_of(error)}") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise DataError(f"{file} holds {array.dtype} of shape {array.shape}; embeddings are floats of shape (n, d)")
    return array


def _of_array(file: Path, width: int | None) -> Iterator[Array]:
    array = _array(file)
    if width is not None and array.shape[1] != width:
        raise DataError(f"{file} holds embeddings of width {array.shape[1]}, and the others are {width} wide")
    for begin in range(0, len(array), AT_ONCE):
        yield np.array(array[begin : begin + AT_ONCE])


def _of_column(file: Path, column: str, width: int | None) -> Iterator[Array]:
    line = 0
    with open_parquet(file) as opened:
        for batch in opened.iter_batches(AT_ONCE, columns=[column]):
            rows = _matrix(file, line, batch.column(0), width)
            line += len(rows)
            yield rows


def _matrix(file: Path, line: int, column: pa.Array, width: int | None) -> Array:
    """Return a column of lists as a matrix; rows without a list are NaN."""
    import pyarrow.compute as pc

    column = getattr(column, "storage", column)
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    there = ~np.isnan(lengths) if lengths.dtype.kind == "f" else np.ones(len(column), bool)
    if width is None:
        width = int(lengths[there][0]) if there.any() else 0
    odd = np.flatnonzero(there & (lengths != width))
    if len(odd):
        n = int(lengths[odd[0]])
        raise DataError(f"{file}:{line + odd[0] + 1}: an embedding of {n} numbers, and the others have {width}")
    # Of empty lists that are there nothing is in the values, and nothing of lists that are null.
    values = column.flatten().to_numpy(zero_copy_only=False)
    rows = np.full((len(column), width), np.nan, values.dtype)
    rows[there] = values.reshape(-1, width) if width else rows[there]
    return rows
