"""Embed one shard of a listing and write its part; memory holds a row group, however large the shard is."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flip.data.dataset import Dataset
from flip.data.layouts.embeddings import SHARDS, read_about
from flip.embed.row_groups import photo_row_groups
from flip.embed.sharding import Shard
from flip.embed.shards import PLAN, Part, count_errors, is_sound, listing_digest, part_files, read_part, shard_file
from flip.embed.table import table_files
from flip.embed.table_writer import about_table, table_schema, table_writer, write_row_group
from flip.embed.unreadable import Unreadable
from flip.errors import ConfigError
from flip.files import SHARD_OUTPUT, JsonObject, claim_folder, require_same_key, written_aside

if TYPE_CHECKING:
    from flip.embed.extractor import FeatureExtractor
    from flip.features import Features
    from flip.settings import Progress

log = logging.getLogger(__name__)

_ADVICE = "pass the data, model and options that it was begun with, or another folder with -o"


@dataclass(frozen=True)
class WrittenShard:
    """The part of a shard.

    Attributes
    ----------
    file : Path
    rows : int
    unreadable : int
        Photos without an embedding; 0 where they are in the joined table already.
    is_new : bool
        False where a sound part, or the joined table, was there.
    """

    file: Path
    rows: int
    unreadable: int = 0
    is_new: bool = True


def write_shard(
    folder: Path, dataset: Dataset, extractor: FeatureExtractor, shard: Shard, progress: Progress | None = None
) -> WrittenShard:
    """Embed one shard of a dataset and write its part, unless a sound one is there.

    Parameters
    ----------
    folder : Path
        Where the parts of all shards go, into ``shards/``.
    dataset : Dataset
        The whole listing.
    extractor : FeatureExtractor
    shard : Shard
    progress : callable, optional

    Raises
    ------
    ConfigError
        If the folder holds something else, or was begun with other data, options, another model or number of shards.
    """
    plan = make_plan(dataset, extractor, shard.count)
    _claim(folder, plan)
    mine = dataset.take(shard.rows(len(dataset)))
    about = about_table(mine, extractor.model.fingerprint, extractor.model.name, extractor.precision)
    part = Part(shard_file(folder, shard), shard, plan, listing_digest(mine), about)
    if joined_plan(folder) is not None:
        return WrittenShard(part.file, len(mine), is_new=False)
    if _is_there(part):
        return WrittenShard(part.file, len(mine), count_errors(part.file), is_new=False)
    unreadable = Unreadable()
    _write(folder, part, unreadable.watch(photo_row_groups(mine, extractor, progress)), extractor)
    unreadable.tell()
    return WrittenShard(part.file, len(mine), unreadable.count)


def make_plan(dataset: Dataset, extractor: FeatureExtractor, shards: int) -> JsonObject:
    """Return the description of the whole table, which all its parts share."""
    return {
        "shards": shards,
        "rows": len(dataset),
        "data": dataset.fingerprint(),
        "listing": listing_digest(dataset),
        "model": extractor.model.fingerprint,
        "precision": extractor.precision,
        "decode": "fast" if extractor.is_fast else "exact",
        "crop": extractor.settings.crop,
        "tta": extractor.settings.tta,
    }


def joined_plan(folder: Path) -> JsonObject | None:
    """Return the plan of the table that shards were joined to; None where there is none, or parts are left."""
    if part_files(folder):
        return None
    about = next((read_about(file) for file in table_files(folder)), None)
    return dict(about[PLAN]) if about is not None and PLAN in about else None


def _claim(folder: Path, plan: JsonObject) -> None:
    """Make the folder, or check that it holds shards of the same table. Shards may begin at the same moment."""
    marks = [SHARDS] if (folder / SHARDS).is_dir() else [file.name for file in table_files(folder)]
    try:
        claim_folder(folder, marks[0] if marks else None, flag=SHARD_OUTPUT)
    except ConfigError:
        if not (folder / SHARDS).is_dir():
            raise
    _require_same_plan(folder, plan)


def _require_same_plan(folder: Path, plan: JsonObject) -> None:
    """Check a part that is there, which agrees with all others, or the joined table."""
    before = next((part.plan for file in part_files(folder) if (part := read_part(file))), None)
    before = before or joined_plan(folder)
    if before is not None:
        require_same_key(folder, before, plan, _ADVICE)
    elif table_files(folder):
        raise ConfigError(f"-o {folder} holds a table that was not made of shards; pass another folder")


def _is_there(part: Part) -> bool:
    there = read_part(part.file) if part.file.is_file() else None
    if there is not None and (there.plan, there.digest) == (part.plan, part.digest) and is_sound(there):
        return True
    if part.file.is_file():
        log.warning("%s is damaged; shard %s is embedded again", part.file.name, part.shard)
    return False


def _write(folder: Path, part: Part, groups: Iterable[Features], extractor: FeatureExtractor) -> None:
    schema = table_schema(extractor.model.dim, part.metadata)
    if not extractor.is_main:
        # It embeds its share, which the main process takes from the cache.
        for _ in groups:
            pass
        return
    with (
        written_aside(part.file, "pass -o with a folder that can be written", durable=True, kind="table") as aside,
        table_writer(aside, schema) as writer,
    ):
        for features in groups:
            write_row_group(writer, features)
        # A shard of another table may have been faster.
        _require_same_plan(folder, part.plan)
