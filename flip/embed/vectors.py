"""Embeddings as columns hold them and as arrays, and sums that tell whether they are as they were written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flip.arrays import Array, BoolArray, FloatArray, IntArray, UIntArray

if TYPE_CHECKING:
    import pyarrow as pa

#: Odd, so that every bit of a word counts in the sum.
_FIRST_WEIGHT = 0x9E3779B97F4A7C15


def embedding_column(rows: Sequence[Array | None], dim: int) -> pa.Array:
    """Return a fixed-size-list column of float16, null where a row has no embedding."""
    import pyarrow as pa

    absent = np.fromiter((row is None for row in rows), bool, len(rows))
    flat = np.stack([np.zeros(dim, np.float16) if row is None else row for row in rows]).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), dim, mask=pa.array(absent))


def embedding_values(column: pa.ChunkedArray | pa.Array, dim: int) -> FloatArray:
    """Return an embedding column as it is stored, float16 or float32 of shape (n, d); null rows are zeros."""
    flat = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    values = flat.values.slice(flat.offset * dim, len(flat) * dim)
    matrix: FloatArray = values.to_numpy(zero_copy_only=False).reshape(len(flat), dim)
    if flat.null_count:
        matrix = matrix.copy()
        matrix[flat.is_null().to_numpy(zero_copy_only=False)] = 0.0
    return matrix


def as_kept(rows: Array) -> FloatArray:
    """Return embeddings of photos as the cache keeps them, in half precision."""
    return np.asarray(rows, np.float16)


def as_used(kept: FloatArray) -> FloatArray:
    """Return rows, or one row, as whoever asks for features gets them: float32 of unit length again."""
    rows = kept.astype(np.float32)
    return _unit_again(rows) if rows.ndim == 2 else _unit_again(rows[None])[0]


def _unit_again(matrix: FloatArray) -> FloatArray:
    """Bring rows that went through half precision, which keeps a norm to three digits, back to unit length."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    np.divide(matrix, norms, out=matrix, where=norms > 0)
    return matrix


def check_sums(values: FloatArray, identities: Sequence[int] | IntArray) -> IntArray:
    """Return a sum over each row's embedding and what the row is of; a bit that flips in either changes it.

    Parameters
    ----------
    values : array of shape (n, d)
        As they are stored.
    identities : n integers
        Numbers of the photos' contents or of the texts.
    """
    words = np.ascontiguousarray(values).view(np.uint16)  # (n, d or 2 d)
    odd = np.arange(1, 2 * words.shape[1], 2, dtype=np.uint64)
    weights: UIntArray = odd * np.uint64(_FIRST_WEIGHT)
    sums = words.astype(np.uint64) @ weights + np.asarray(identities, np.int64).view(np.uint64)
    signed: IntArray = sums.view(np.int64)
    return signed


def is_unit(values: FloatArray) -> BoolArray:
    """Return a mask of rows that are zero, or finite and of unit length within half precision."""
    return is_unit_length(np.linalg.norm(values.astype(np.float32), axis=1))


def is_unit_length(norms: FloatArray) -> BoolArray:
    """Return a mask of norms (n,) that are 0, or 1 within half precision."""
    unit: BoolArray = (np.abs(norms - 1) < 0.02) | (norms == 0)
    return unit
