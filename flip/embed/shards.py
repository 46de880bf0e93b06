"""Parts of a table that shards write: their description of the whole, and the check of their rows.

A folder holds them in ``shards/`` until they are joined: before that it is no table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.data.dataset import Dataset
from flip.data.layouts.embeddings import SHARDS, read_about
from flip.data.parquet import open_parquet, parquet_files
from flip.data.text import column_text, utf8
from flip.embed.sharding import Shard
from flip.embed.table_writer import GROUP_ROWS
from flip.errors import DataError
from flip.files import JsonObject

if TYPE_CHECKING:
    import pyarrow as pa

#: The columns that a listing decides.
LISTED = ["path", "label", "split", "captions"]

#: Keys of a part's metadata beside those of every table.
PLAN, SHARD, DIGEST = "plan", "shard", "digest"


@dataclass(frozen=True)
class Part:
    """One shard's file and its description of itself.

    Attributes
    ----------
    file : Path
    shard : Shard
    plan : dict
        The description of the whole, which all parts share: number of shards and rows, hashes of the data and of all
        rows in order, model, precision, decoding and view.
    digest : str
        Hash of this part's rows, without their embeddings.
    about : dict
        The description that every table has.
    """

    file: Path
    shard: Shard
    plan: JsonObject
    digest: str
    about: JsonObject

    @property
    def rows(self) -> range:
        """The rows of the whole that belong here."""
        return self.shard.rows(int(self.plan["rows"]))

    @property
    def metadata(self) -> JsonObject:
        """The whole description, as the file holds it."""
        return {**self.about, PLAN: self.plan, SHARD: self.shard.index, DIGEST: self.digest}


class Digest:
    """A hash of listed rows in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows of path, label, split and captions as a table holds them."""
        for row in rows:
            self._hash.update(repr(row).encode())

    @property
    def text(self) -> str:
        """The hash of what was added so far, 32 hex digits."""
        return self._hash.hexdigest()[:32]


def listing_digest(dataset: Dataset) -> str:
    """Return the hash of all rows that a table of a dataset has."""
    digest = Digest()
    labels = [column_text(name) for name in dataset.raw_names]
    digest.add((column_text(r.path), labels[r.label], r.split, [*map(utf8, r.captions)]) for r in dataset.records)
    return digest.text


def shard_file(folder: Path, shard: Shard) -> Path:
    """Return the file of a shard's part below an output folder."""
    return folder / SHARDS / f"shard-{shard.index:05}-of-{shard.count:05}.parquet"


def part_files(folder: Path) -> list[Path]:
    """Return the parts below an output folder, by name."""
    return parquet_files(folder / SHARDS) if (folder / SHARDS).is_dir() else []


def read_part(file: Path) -> Part | None:
    """Read a part's description of itself; None for a file that is damaged or no part."""
    try:
        about = dict(read_about(file) or {})
        plan, index, digest = about.pop(PLAN), about.pop(SHARD), about.pop(DIGEST)
        return Part(file, Shard(int(index), int(plan["shards"])), dict(plan), str(digest), about)
    except (DataError, KeyError, TypeError, ValueError):
        return None


def checked_batches(part: Part, whole: Digest | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part; after the last, raise unless they were those that were listed, in their order.

    Parameters
    ----------
    part : Part
    whole : Digest, optional
        Takes the rows too.

    Raises
    ------
    DataError
        If the file is damaged, or has other rows than it says.
    """
    own, n = Digest(), 0
    with open_parquet(part.file) as opened:
        for batch in opened.iter_batches(GROUP_ROWS):
            batch.validate(full=True)
            rows = list(zip(*(batch[name].to_pylist() for name in LISTED), strict=True))
            for digest in (own, *([whole] if whole else [])):
                digest.add(rows)
            n += len(batch)
            yield batch
    if n != len(part.rows) or own.text != part.digest:
        raise DataError(f"{part.file} has other rows than were listed for shard {part.shard}")


def count_errors(file: Path) -> int:
    """Return the number of rows of a table that have no embedding."""
    with open_parquet(file) as opened:
        return sum(len(batch) - batch["error"].null_count for batch in opened.iter_batches(columns=["error"]))


def is_sound(part: Part) -> bool:
    """Return whether a part can be read to its end and has the rows that it says."""
    try:
        for _ in checked_batches(part):
            pass
    except DataError:
        return False
    return True
