"""Parquet files of unknown origin: every error is one of data, and no small file becomes a huge table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

from flip.data.files import is_hidden
from flip.data.parquet_pages import declared_bytes
from flip.errors import DataError
from flip.reading import open_plain

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

#: Rows and bytes that a table may have whatever the size of its file, and how many more per byte of it.
_ROWS, _ROWS_PER_BYTE = 100_000, 10
_BYTES, _BYTES_PER_BYTE = 1 << 28, 100
#: Characters of a text and elements of a list in a header, at most; an element may take kilobytes of memory.
_HEADER_CHARACTERS, _HEADER_ELEMENTS = 100_000_000, 100_000


class HeaderLimits(TypedDict):
    """Arguments of ``pyarrow.parquet.ParquetFile``."""

    thrift_string_size_limit: int
    thrift_container_size_limit: int


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder, by name, without hidden ones and without what is no plain file."""
    return sorted(f for f in folder.glob("*.parquet") if not is_hidden(f.name) and f.is_file())


def read_parquet_schema(file: Path) -> pa.Schema:
    """Return the schema of a Parquet file.

    Raises
    ------
    DataError
        If it is none, or declares more rows or bytes than a file of its size holds.
    """
    with open_parquet(file) as opened:
        return opened.schema_arrow


def parquet_batches(file: Path, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield columns of a Parquet file as record batches of at most ``rows`` rows.

    Raises
    ------
    DataError
        If it is none, is damaged, lacks a column, or declares more than a file of its size holds.
    """
    with open_parquet(file) as opened:
        names = opened.schema_arrow.names
        absent = [name for name in columns if name not in names]
        if absent:
            raise DataError(f"{file} has no column {absent[0]!r}; it has {', '.join(names)}")
        for batch in opened.iter_batches(rows, columns=list(columns)):
            # Text that is not UTF-8 would only be found out where it is used.
            batch.validate(full=True)
            yield batch


def parquet_rows(file: Path, columns: Sequence[str], rows: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file as values by column, ``rows`` of them in memory at a time.

    Raises
    ------
    DataError
        As :func:`parquet_batches`; also for a value that Python does not have, such as the year 200,000.
    """
    for batch in parquet_batches(file, columns, rows):
        try:
            values = batch.to_pylist()
        except Exception as error:
            raise _unreadable(file, error) from error
        yield from values


@contextmanager
def open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; what goes wrong inside of the block is a DataError too."""
    import pyarrow.parquet as pq

    try:
        with open_plain(file) as stream:
            opened = pq.ParquetFile(
                stream,
                page_checksum_verification=True,
                # Buffered, and not in advance, a column is read as it is decoded, and what was decoded is not kept.
                buffer_size=1 << 20,
                pre_buffer=False,
                **header_limits(file),
            )
            _require_bounded(file, stream, opened)
            yield opened
    except (DataError, MemoryError, RecursionError):
        raise
    except Exception as error:
        # Besides its own errors pyarrow raises whatever a broken or odd file makes it stumble over: dates that Python
        # does not have, sizes that do not fit, names that are not UTF-8.
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataError:
    lines = str(error).splitlines()
    return DataError(f"{file} is not a Parquet file that can be read: {lines[0] if lines else error!r}")


def header_limits(file: Path) -> HeaderLimits:
    """Return the arguments of pyarrow's ``ParquetFile`` that bound the memory which headers may claim.

    Each character and each element of a list takes a byte of the file or more.
    """
    size = max(1, file.stat().st_size)
    return {
        "thrift_string_size_limit": min(size, _HEADER_CHARACTERS),
        "thrift_container_size_limit": min(size, _HEADER_ELEMENTS),
    }


def _require_bounded(file: Path, stream: BinaryIO, opened: pq.ParquetFile) -> None:
    size, about = file.stat().st_size, opened.metadata
    rows = about.num_rows
    unpacked = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    most_rows, most_bytes = _ROWS + _ROWS_PER_BYTE * size, _BYTES + _BYTES_PER_BYTE * size
    # The pages may declare more than the list of columns does.
    unpacked = max(unpacked, declared_bytes(stream, size))
    if not 0 <= rows <= most_rows or unpacked > most_bytes:
        raise DataError(
            f"{file} declares {rows:,} rows and {unpacked:,} bytes in a file of {size:,}; it is broken, or made to "
            "fill the memory"
        )
