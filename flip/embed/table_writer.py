"""Tables of embeddings as they are written: the schema, and features as row groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flip.data.dataset import Dataset
from flip.data.layouts.embeddings import sealed_metadata
from flip.data.text import column_text, utf8
from flip.embed.vectors import embedding_column
from flip.features import Features
from flip.files import JsonObject

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

#: Rows of a row group where rows are written as they come: 8 MB of embeddings of width 512.
GROUP_ROWS = 8192


def about_table(dataset: Dataset, fingerprint: str, model: str, precision: str) -> JsonObject:
    """Return a table's description of itself: the model, the precision, the classes and the data."""
    return {
        "fingerprint": fingerprint,
        "model": model,
        "precision": precision,
        "classnames": dataset.classnames,
        "raw_names": dataset.raw_names,
        "root": str(dataset.root.absolute()),
        "layout": dataset.layout,
    }


def table_schema(dim: int, about: JsonObject) -> pa.Schema:
    """Return ``path``, ``label``, ``split``, ``captions``, ``embedding`` (d float16) and ``error``, with metadata."""
    import pyarrow as pa

    text = pa.string()
    columns = {"path": text, "label": text, "split": text, "captions": pa.list_(text)}
    columns |= {"embedding": pa.list_(pa.float16(), dim), "error": text}
    return pa.schema(list(columns.items()), sealed_metadata(about))


def table_columns(features: Features) -> dict[str, pa.Array]:
    """Return features as the columns of :func:`table_schema`."""
    import pyarrow as pa

    rows = [
        None if error else row.astype(np.float16)
        for row, error in zip(features.image_features, features.errors, strict=True)
    ]
    return {
        "path": pa.array([column_text(path) for path in features.paths], pa.string()),
        "label": pa.array([column_text(features.raw_names[c]) for c in features.labels], pa.string()),
        "split": pa.array(features.splits, pa.string()),
        "captions": pa.array([list(map(utf8, c)) for c in features.captions], pa.list_(pa.string())),
        "embedding": embedding_column(rows, features.image_features.shape[1]),
        "error": pa.array(features.errors, pa.string()),
    }


@contextmanager
def table_writer(file: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Open a table to be written row group by row group: text packed, embeddings as they are, pages with check sums."""
    import pyarrow.parquet as pq

    packed = {name: "zstd" for name in schema.names if name != "embedding"}
    options = {"compression": packed, "use_dictionary": False, "write_page_checksum": True}
    # Opened here: the library takes no path that is not UTF-8.
    with file.open("wb") as stream, pq.ParquetWriter(stream, schema, **options) as writer:
        yield writer


def write_row_group(writer: pq.ParquetWriter, features: Features) -> None:
    """Write features as a row group of a table of :func:`table_schema`."""
    import pyarrow as pa

    columns, schema = table_columns(features), writer.schema
    writer.write_batch(pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema))
