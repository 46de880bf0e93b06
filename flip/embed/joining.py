"""Shards joined to one table: every part checked and there once, rows streamed in the order of the listing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from flip.data.layouts.embeddings import SHARDS, read_about, sealed_metadata
from flip.data.parquet import parquet_files, read_parquet_schema
from flip.embed.shard_writer import joined_plan
from flip.embed.shards import PLAN, Digest, Part, checked_batches, count_errors, part_files, read_part
from flip.embed.table import TABLE_FILE, table_files
from flip.embed.table_writer import GROUP_ROWS, table_writer
from flip.errors import ConfigError, DataError
from flip.files import ASIDE_PREFIX, remove_folder, written_aside

if TYPE_CHECKING:
    import pyarrow as pa

    from flip.settings import Progress

log = logging.getLogger(__name__)

#: Row groups of one file, 8,388,608 rows; a table of more is several files, which their names bring into order.
GROUPS_A_FILE = 1024


@dataclass(frozen=True)
class JoinedTable:
    """The table that shards were joined to; ``is_new`` is false where that was done before."""

    files: tuple[Path, ...]
    shards: int
    rows: int
    unreadable: int
    is_new: bool = True


def join_shards(folder: Path, progress: Progress | None = None, *, groups_a_file: int = GROUPS_A_FILE) -> JoinedTable:
    """Join the parts that the shards of one table wrote into a folder; the parts are removed then.

    Memory holds one row group. The table replaces the parts when all of it is on the disk: until then, and after an
    interruption, the folder is as it was, and the join can be run again.

    Parameters
    ----------
    folder : Path
        What ``-o`` named for the shards.
    progress : callable, optional
        Called with the number of rows just finished.
    groups_a_file : int
        Most row groups of one file of the table.

    Raises
    ------
    ConfigError
        If the folder holds no shards, or something beside them.
    DataError
        If a shard is missing, there twice, damaged, or of another table; the message names it.
    """
    parts = [_readable(file) for file in part_files(folder)]
    if not parts:
        return _joined_before(folder)
    _require_whole(folder, parts)
    _require_nothing_else(folder, parts[0])
    names = _file_names(int(parts[0].plan["rows"]), groups_a_file)
    whole = Digest()
    with ExitStack() as files:
        asides = [files.enter_context(written_aside(folder / name, durable=True, kind="table")) for name in names]
        unreadable = _write(parts, asides, whole, groups_a_file, progress)
        if whole.text != parts[0].plan["listing"]:
            raise DataError(f"{folder / SHARDS} has other rows than were listed; embed the shards into a new folder")
    remove_folder(folder / SHARDS)
    plan = parts[0].plan
    return JoinedTable(tuple(folder / name for name in names), int(plan["shards"]), int(plan["rows"]), unreadable)


def _readable(file: Path) -> Part:
    part = read_part(file)
    if part is None:
        index, _, count = file.stem.removeprefix("shard-").partition("-of-")
        again = f"run shard {int(index)}/{int(count)} again" if index.isdigit() and count.isdigit() else "remove it"
        raise DataError(f"{file} is damaged or no part of a table; {again}")
    return part


def _require_whole(folder: Path, parts: Sequence[Part]) -> None:
    """Raise a DataError unless the parts are those of one table, each there once."""
    first = parts[0]
    schema = read_parquet_schema(first.file).remove_metadata()
    for part in parts:
        changed = [key for key, value in first.plan.items() if part.plan.get(key) != value]
        if changed or read_parquet_schema(part.file).remove_metadata() != schema:
            what = ", ".join(f"{key} {part.plan.get(key)}, not {first.plan[key]}" for key in changed) or "other columns"
            raise DataError(f"{part.file} is of another table than {first.file} ({what}); remove the wrong one")
    there = sorted(part.shard.index for part in parts)
    twice = next((i for i, j in pairwise(there) if i == j), None)
    if twice is not None:
        names = " and ".join(part.file.name for part in parts if part.shard.index == twice)
        raise DataError(f"{folder / SHARDS} has shard {twice}/{first.shard.count} twice: {names}; remove one")
    count = first.shard.count
    missing = sorted(set(range(count)) - set(there))
    if missing:
        named = ", ".join(map(str, missing[:20])) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        what = f"shard {named}" if len(missing) == 1 else f"shards {named}"
        raise DataError(
            f"{folder} lacks {what} of {count}; run flip embed -o {folder} --shard {missing[0]}/{count} with the same "
            "options, and join again"
        )


def is_joined(folder: Path) -> bool:
    """Return whether the table is complete and some of its parts were removed: a join was interrupted at its end."""
    parts = [part for file in part_files(folder) if (part := read_part(file)) is not None]
    return 0 < len(parts) < parts[0].shard.count and any(_is_table_of(file, parts[0]) for file in table_files(folder))


def _is_table_of(file: Path, part: Part) -> bool:
    """Return whether a table was joined from the shards of the same plan as a part."""
    try:
        return (read_about(file) or {}).get(PLAN) == part.plan
    except DataError:
        return False


def _require_nothing_else(folder: Path, part: Part) -> None:
    tables = table_files(folder)
    for file in parquet_files(folder):
        if file not in tables:
            raise ConfigError(f"{file} would be read as part of the table; move it out of {folder}, and join again")
        if not _is_table_of(file, part):
            raise ConfigError(f"{file} is a table of something else; move it out of {folder}, and join again")
    parts = {file.name for file in part_files(folder)}
    for file in (folder / SHARDS).iterdir():
        if file.name not in parts and not file.name.startswith(ASIDE_PREFIX):
            raise ConfigError(f"{file} is no part of the table; move it out of {folder / SHARDS}, and join again")


def _joined_before(folder: Path) -> JoinedTable:
    plan = joined_plan(folder)
    if plan is None:
        raise ConfigError(f"{folder} holds no shards; write them with flip embed -o {folder} --shard I/N")
    files = table_files(folder)
    unreadable = sum(count_errors(file) for file in files)
    return JoinedTable(tuple(files), int(plan["shards"]), int(plan["rows"]), unreadable, is_new=False)


def _file_names(rows: int, groups_a_file: int) -> list[str]:
    count = -(-rows // (groups_a_file * GROUP_ROWS))
    stem, suffix = TABLE_FILE.rsplit(".", 1)
    return [TABLE_FILE] if count <= 1 else [f"{stem}-{i:05}.{suffix}" for i in range(count)]


def _write(
    parts: Sequence[Part], files: Sequence[Path], whole: Digest, groups_a_file: int, progress: Progress | None
) -> int:
    """Write the rows of all parts into files, and return how many have no embedding."""
    first, unreadable = min(parts, key=lambda part: part.shard.index), 0
    about = sealed_metadata({**first.about, PLAN: first.plan})
    schema = read_parquet_schema(first.file).with_metadata(about)
    groups = _row_groups(_rows(parts, whole), schema)
    for file in files:
        with table_writer(file, schema) as writer:
            for group in islice(groups, groups_a_file):
                writer.write_table(group)
                unreadable += len(group) - group["error"].null_count
                if progress:
                    progress(len(group))
    # Checks the last part to its end.
    assert next(groups, None) is None
    return unreadable


def _rows(parts: Sequence[Part], whole: Digest) -> Iterator[pa.RecordBatch]:
    for part in sorted(parts, key=lambda part: part.shard.index):
        try:
            yield from checked_batches(part, whole)
        except DataError as error:
            raise DataError(f"{error}; run shard {part.shard} again") from error


def _row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield rows in groups of the same size, however small the parts are."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch.replace_schema_metadata(schema.metadata))
        while (n := sum(map(len, waiting))) >= GROUP_ROWS:
            *before, last = waiting
            rest = n - GROUP_ROWS
            yield pa.Table.from_batches([*before, last.slice(0, len(last) - rest)], schema)
            waiting = [last.slice(len(last) - rest)] if rest else []
    if waiting:
        yield pa.Table.from_batches(waiting, schema)
