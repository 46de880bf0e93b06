"""Many small parts of the cache become few, beside readers and writers, and however a process ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from flip.embed.claims import MERGING
from flip.embed.index import IndexRow
from flip.embed.parts import DamagedPartError, write_part
from flip.embed.store import PartStore
from flip.embed.vectors import embedding_values

if TYPE_CHECKING:
    import pyarrow as pa

#: Parts of fewer rows are small, so many of them are merged, and merged parts have at most this many rows.
SMALL, MANY, MERGED = 16_384, 32, 32_768


def merge_small_parts(store: PartStore) -> None:
    """Merge the small parts of a folder where there are many.

    A merged part names those that it replaces. It is written first, then the index is pointed to it, then the others
    are removed; whoever finds both after a crash removes the others.

    Raises
    ------
    ConfigError
        If the merged part cannot be written.
    """
    small = sorted(name for name, rows in store.again(store.index.parts).items() if rows < SMALL)
    if len(small) <= MANY or not store.again(lambda: store.claims.take([MERGING])):
        return
    try:
        for names in _groups(store, small):
            _merge(store, names)
    finally:
        store.again(lambda: store.claims.release([MERGING]))


def _groups(store: PartStore, names: list[str]) -> Iterator[list[str]]:
    """Yield names of parts that have ``MERGED`` rows together."""
    sizes, group, rows = store.again(store.index.parts), list[str](), 0
    for name in names:
        if group and rows + sizes.get(name, 0) > MERGED:
            yield group
            group, rows = [], 0
        group.append(name)
        rows += sizes.get(name, 0)
    if len(group) > 1:
        yield group


def _merge(store: PartStore, names: list[str]) -> None:
    import pyarrow as pa

    tables = {name: table for name in names if (table := _sound_table(store, name)) is not None}
    if len(tables) < 2:
        return
    whole = pa.concat_tables(tables.values(), promote_options="default").combine_chunks()
    rows = store.kind.rows_of(whole)
    # Of each photo the last row is kept; the same file with another content is another photo.
    last = {_identity(row): i for i, row in enumerate(rows)}
    kept = np.array(sorted(last.values()), np.int64)
    # A row that is left out is where the one is that is kept instead.
    target = np.searchsorted(kept, [last[_identity(row)] for row in rows])
    merged = write_part(store.folder, whole.take(kept), store.fingerprint, tuple(tables))
    starts = np.cumsum([0, *(len(table) for table in tables.values())])
    moved = [
        (name, i, int(target[start + i]))
        for name, start, table in zip(tables, starts, tables.values(), strict=False)
        for i in range(len(table))
    ]
    store.again(lambda: store.index.move(merged, len(kept), moved))
    for name in tables:
        store.remove(name)


def _sound_table(store: PartStore, name: str) -> pa.Table | None:
    """Return a part's rows with their check sums; None, and the part set aside, where one is not as it was written."""
    with store.mishaps(name):
        table = store.part(name).table()
        identities = [row.identity for row in store.kind.rows_of(table)]
        if not store.kind.sound(table, embedding_values(table["embedding"], store.dim), identities).all():
            raise DamagedPartError("a row is not as it was written")
        return table if "check" in table.column_names else store.kind.with_check_sums(table)
    return None


def _identity(row: IndexRow) -> tuple[int | None, ...]:
    return row.key, row.size, row.mtime_ns, row.content
