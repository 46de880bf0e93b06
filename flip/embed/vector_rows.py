"""Embeddings that another program wrote, as rows of records: of unit length, with an error where there is none."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flip.arrays import Array, BoolArray, Float64Array
from flip.data.vector_files import read_vectors
from flip.embed.table_rows import RowBatch
from flip.errors import DataError

if TYPE_CHECKING:
    from flip.data.vector_files import VectorTable

log = logging.getLogger(__name__)

#: Reasons why a row has no embedding: it is not finite, or zero.
_WITHOUT = ("it has no finite embedding", "its embedding is zero")

#: Lengths that differ from 1 by less are those of rounded unit vectors.
_ROUNDED = 0.02


def vector_batches(table: VectorTable, paths: Sequence[str]) -> Iterator[RowBatch]:
    """Yield the embeddings of photos in tables that another program wrote, in the tables' order.

    Parameters
    ----------
    table : VectorTable
    paths : sequence of str
        As the records have them; other rows are left out.

    Raises
    ------
    DataError
        If a table is damaged, has embeddings of other widths, or has changed since its records were read.
    """
    photo_of = np.full(table.rows, -1, np.int64)
    photo_of[[table.row_of[path] for path in paths]] = np.arange(len(paths))
    begin, shortest, longest = 0, np.inf, 0.0
    for file in table.files:
        for values in read_vectors(file, table.width):
            here = photo_of[begin : begin + len(values)]
            begin += len(values)
            taken, lengths = _taken(values[: len(here)][here >= 0], here[here >= 0])
            shortest, longest = min(shortest, lengths.min(initial=np.inf)), max(longest, lengths.max(initial=0.0))
            yield taken
    if begin != table.rows:
        raise DataError(f"{table.files[0].path} has {begin:,} rows and had {table.rows:,}; run the command again")
    if max(longest - 1, 1 - shortest) > _ROUNDED and longest:
        log.info("the embeddings have lengths from %.3g to %.3g and are scaled to 1", shortest, longest)


def _taken(values: Array, photos: Array) -> tuple[RowBatch, Float64Array]:
    """Return embeddings as unit rows of photos, and the lengths of those that have one."""
    exact = values.astype(np.float64)
    # Squares of large numbers would overflow.
    largest = np.abs(exact).max(axis=1, initial=0.0)
    sound: BoolArray = np.isfinite(largest) & (largest > 0)
    scaled = exact[sound] / largest[sound, None]
    lengths = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))
    rows = np.zeros(values.shape, np.float32)
    rows[sound] = scaled / lengths[:, None]
    errors = [None if s else _WITHOUT[bool(v == 0)] for s, v in zip(sound, largest, strict=True)]
    found: Float64Array = lengths * largest[sound]
    return RowBatch(photos, rows, errors), found
