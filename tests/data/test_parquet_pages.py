"""Page headers of Parquet files: their sizes, and what declares more than the file holds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flip.data.parquet import parquet_batches
from flip.data.parquet_pages import PageSizes, page_sizes
from flip.errors import DataError

TABLE = pa.table(
    {
        "path": [f"photos/{i}.jpg" for i in range(5000)],
        "label": ["wren", "robin"] * 2500,
        "numbers": [[float(i), 0.5] for i in range(5000)],
        "flag": [True, None, False, True, False] * 1000,
        "long": ["x" * 9000] * 5000,
    }
)


def _pages(file: Path, group: int, column: int) -> list[PageSizes]:
    chunk = pq.ParquetFile(file).metadata.row_group(group).column(column)
    start = min(o for o in (chunk.dictionary_page_offset, chunk.data_page_offset) if o is not None)
    with file.open("rb") as stream:
        return list(page_sizes(stream, start, chunk.total_compressed_size))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_pages_fill_their_chunk(tmp_path: Path, version: str, dictionary: bool) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(
        TABLE, file, data_page_version=version, use_dictionary=dictionary, data_page_size=4096, row_group_size=3000
    )
    about = pq.ParquetFile(file).metadata
    several = 0
    for group in range(about.num_row_groups):
        for column in range(about.num_columns):
            chunk, pages = about.row_group(group).column(column), _pages(file, group, column)
            assert sum(p.header + p.packed for p in pages) == chunk.total_compressed_size
            assert sum(p.header + p.unpacked for p in pages) == chunk.total_uncompressed_size
            several += len(pages) > 2
    assert several


@pytest.mark.parametrize("field", ["unpacked", "packed"])
def test_a_page_that_declares_gigabytes_is_refused(tmp_path: Path, field: str) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "label": ["wren", "robin"]}), file, use_dictionary=False)
    data = file.read_bytes()
    # Type (field 1), unpacked (field 2) and packed (field 3) are the first fields of the first header, a byte each.
    place = 4 + {"unpacked": 3, "packed": 5}[field]
    assert data[place - 1] == 0x15
    file.write_bytes(data[:place] + b"\xfe\xff\xff\xff\x0f" + data[place + 1 :])
    with pytest.raises(DataError, match="made to fill the memory"):
        list(parquet_batches(file, ["path"], 10))


@pytest.mark.parametrize(
    "junk", [b"", b"\x00", b"\x15", b"\x15\xff", b"\x1c" * 40, b"\x19\xff" + b"\xff" * 9, b"\x1b\x01"]
)
def test_what_is_no_header_ends_the_walk(tmp_path: Path, junk: bytes) -> None:
    file = tmp_path / "junk"
    file.write_bytes(junk)
    with file.open("rb") as stream:
        assert list(page_sizes(stream, 0, 100)) == []
