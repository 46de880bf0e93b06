"""The two kinds of cached rows, photos and texts: their columns, index entries and check sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flip.arrays import BoolArray, FloatArray, IntArray
from flip.embed.index import IndexRow
from flip.embed.keys import number
from flip.embed.parts import DamagedPartError
from flip.embed.vectors import check_sums, embedding_values, is_unit

if TYPE_CHECKING:
    import pyarrow as pa


class Kind(NamedTuple):
    """Kind of the rows in a folder of parts.

    Attributes
    ----------
    columns : tuple of str
        Those that ``rows`` needs.
    rows : callable
        Table of these columns → what the index holds of each row.
    """

    columns: tuple[str, ...]
    rows: Callable[[pa.Table], list[IndexRow]]

    def rows_of(self, table: pa.Table) -> list[IndexRow]:
        """Return the index entry of each row.

        Raises
        ------
        DamagedPartError
            If columns are absent, or hold something else.
        """
        try:
            rows = self.rows(table)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise DamagedPartError(f"its columns are others: {e}") from e
        if not all(type(row.size) is int and type(row.mtime_ns) is int for row in rows):
            raise DamagedPartError("a row has no size or time")
        return rows

    def with_check_sums(self, table: pa.Table) -> pa.Table:
        """Return a table with the column that tells a damaged row."""
        import pyarrow as pa

        identities = [row.identity for row in self.rows_of(table)]
        sums = check_sums(embedding_values(table["embedding"], _width(table)), _with_errors(identities, table))
        return table.append_column("check", pa.array(sums, pa.int64()))

    def sound(self, table: pa.Table, values: FloatArray, identities: Sequence[int]) -> BoolArray:
        """Return a mask (n,) of rows that match their check sum and their expected key."""
        if "check" in table.column_names:
            stored: IntArray = table["check"].to_numpy()
            sound: BoolArray = stored == check_sums(values, _with_errors(identities, table))
        else:
            own = np.array([row.identity for row in self.rows_of(table)], np.int64)
            errors = errors_of(table) or [None] * len(table)
            failed = np.array([error is not None for error in errors], bool)
            sound = (own == np.array(identities, np.int64)) & is_unit(values) & (values.any(axis=1) != failed)
        return sound


def errors_of(table: pa.Table) -> list[str | None] | None:
    """Return the errors of rows; None where there are none."""
    if "error" not in table.column_names or table["error"].null_count == len(table):
        return None
    errors: list[str | None] = table["error"].to_pylist()
    return errors


def _with_errors(identities: Sequence[int], table: pa.Table) -> Sequence[int]:
    """Return the identities with what the errors of rows say in them."""
    errors = errors_of(table)
    if errors is None:
        return identities
    return [i if e is None else i ^ number(e) for i, e in zip(identities, errors, strict=True)]


def _width(table: pa.Table) -> int:
    return int(table.schema.field("embedding").type.list_size)
