"""``flip embed``."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flip.cli.config import FolderOutput, ReadOptions
from flip.cli.context import Context, finish, progress
from flip.cli.options import command
from flip.cli.output import write_summary
from flip.device import has_siblings
from flip.embed.settings import EngineSettings
from flip.embed.sharding import parse_shard, slurm_shard
from flip.errors import ConfigError
from flip.files import claim_folder
from flip.names import LAYOUTS_OUT
from flip.results import FORMAT
from flip.settings import flag, option, settings_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flip.data.dataset import Dataset
    from flip.embed.extractor import FeatureExtractor
    from flip.features import Features
    from flip.settings import Progress

log = logging.getLogger("flip.cli")


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(ReadOptions, EngineSettings, FolderOutput):
    """``flip embed``."""

    split: str = option("all", "Which split to embed: train, val, test or all.")
    output: Path | None = option(None, "Write the joined table (Parquet) into this folder.")
    captions: bool = option(False, "Also embed the captions now; otherwise the command that needs them does.")
    map: bool = option(
        False, "Also write x, y, neighbors, predicted and score into the table, as Embedding Atlas takes them."
    )

    shard: str | None = option(
        None,
        "I/N: embed block I (from 0) of N of the listing and write its part into -o; auto takes the numbers of a Slurm "
        "array. Any order, any machine; what is there is not done again.",
        completes=("auto",),
    )
    layout_out: str = option(
        "flip",
        "What -o holds: flip's one table, or the folders that clip-retrieval and autofaiss read.",
        choices=LAYOUTS_OUT,
    )
    join: Path | None = option(
        None, "Join the parts of N shards in this folder, or at this URL, to one table; needs no data."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        EngineSettings.__post_init__(self)
        if self.map and self.output is None:
            raise ConfigError("--map adds columns to the table that -o writes; pass -o with a folder too")
        if self.layout_out != "flip":
            self._require_layout_options()
        given = [flag(name) for name in ("output", "shard", "map", "captions", "overwrite") if getattr(self, name)]
        # The variables of the environment are meant for other commands.
        usual = {"data": os.environ.get("FLIP_DATA"), "model": os.environ.get("FLIP_MODEL")}
        given += [flag(name) for name, value in usual.items() if getattr(self, name) not in (None, value)]
        if self.join is not None and given:
            raise ConfigError(f"--join reads and writes the one folder that it names; leave out {', '.join(given)}")
        if self.shard is not None:
            parse_shard(self.shard)
            self._require_shard_options()

    def _require_layout_options(self) -> None:
        if self.output is None:
            raise ConfigError(f"--layout-out {self.layout_out} says what -o holds; pass -o with a folder too")
        if self.map:
            raise ConfigError(f"--map adds columns to flip's table; leave it out with --layout-out {self.layout_out}")
        if self.shard is not None:
            raise ConfigError(
                "--shard writes parts of flip's table; join them, and pass --data with it and --layout-out "
                f"{self.layout_out}"
            )

    def _require_shard_options(self) -> None:
        if self.output is None:
            raise ConfigError("--shard writes a part of the table into -o; pass -o with the folder of all shards")
        if self.map:
            raise ConfigError("--map looks at all photos, and a shard at some; leave it out with --shard")
        if self.overwrite:
            raise ConfigError("--overwrite would remove what other shards wrote; remove the folder, or pass another -o")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "embed", EmbedOptions)(embed)


def embed(options: EmbedOptions) -> None:
    """Embed every photo once and keep the embeddings; what is already known is not embedded again.

    The other commands embed what they need; embed does it ahead, and -o DIR writes the joined table (path, label,
    split, captions, embedding, error) as Parquet, which --data reads back without the photos. --shard I/N does a part
    of it, and --join DIR makes the parts one table.
    """
    if options.join is not None:
        join(options, options.join)
        return
    if options.shard is not None:
        embed_shard(options, options.shard)
        return
    from flip.embed.row_groups import feature_row_groups
    from flip.embed.shards import part_files
    from flip.embed.unreadable import Unreadable

    if options.output is not None:
        claim_folder(options.output, overwrite=options.overwrite)
        if part_files(options.output):
            raise ConfigError(f"-o {options.output} holds shards of a table; join them, or pass another folder")
    context = Context(options)
    dataset = context.dataset.select(options.split)
    began = time.perf_counter()
    if options.engine == "ray":
        embed_by_ray(options, context, dataset)
    unreadable = Unreadable()
    with progress(options, "photos", len(dataset)) as advance:
        # A table of embeddings may be written in another layout without the model that made it.
        extractor = None if context.needs_no_model else context.extractor
        groups = _whole(dataset, extractor, advance) if options.map else feature_row_groups(dataset, extractor, advance)
        _write(options, context, dataset, unreadable.watch(groups))
    unreadable.tell()
    seconds = time.perf_counter() - began
    if options.captions:
        _embed_captions(options, dataset, context.extractor)
    if context.is_main:
        write_summary(options, "flip embed", _summary(context, unreadable.photos, unreadable.count, seconds))
        finish(options, unreadable.count)


def _whole(dataset: Dataset, extractor: FeatureExtractor | None, advance: Progress | None) -> Iterator[Features]:
    """Yield all features at once, for a map of them."""
    from flip.embed.table import read_table_features

    yield read_table_features(dataset) if extractor is None else extractor.features(dataset, advance)


def _summary(context: Context, n: int, unreadable: int, seconds: float) -> dict[str, object]:
    """Return the report of n photos that were embedded in so many seconds."""
    extractor = None if context.needs_no_model else context.extractor
    new = extractor.photos_read if extractor else 0
    return {
        "command": "embed",
        "format": FORMAT,
        "data": context.data_name,
        "model": context.encoder.name if extractor else context.model_name,
        "n": n,
        "embedded": new,
        "cached": n - new,
        "unreadable": unreadable,
        "precision": context.features_precision,
        "device": extractor.device if extractor else "none",
        "images_per_second": new / seconds if new else None,
        "seconds": time.perf_counter() - context.began,
        "cache": str(extractor.folder / extractor.fingerprint) if extractor else None,
    }


def embed_by_ray(options: EmbedOptions, context: Context, dataset: Dataset) -> None:
    """Embed by Ray what the cache does not know; the table is then made from the cache, as always."""
    from flip.clip.model import load_model
    from flip.embed.ray_engine import embed_ahead

    dataset.require_photos()
    load = partial(load_model, context.model_name, arch=options.arch, cache=options.cache)
    with progress(options, "photos", len(dataset)) as advance:
        embed_ahead(dataset, context.extractor, load, settings_from(options, EngineSettings), advance)


def _embed_captions(options: EmbedOptions, dataset: Dataset, extractor: FeatureExtractor) -> None:
    captions = list(dict.fromkeys(caption for r in dataset.records for caption in r.captions))
    with progress(options, "captions", len(captions)) as advance:
        extractor.texts(captions, advance)


def embed_shard(options: EmbedOptions, given: str) -> None:
    """Embed one shard and write its part."""
    from flip.cli.remote_shards import folder_of_shard, upload_part
    from flip.embed.shard_writer import write_shard
    from flip.remote import url_of

    assert options.output is not None
    shard = parse_shard(given) or slurm_shard(os.environ, siblings=has_siblings())
    context = Context(options)
    # Before the model is loaded: a bucket that is not there is known sooner.
    with folder_of_shard(options.output, shard, options.cache) as folder:
        dataset, extractor = context.dataset.select(options.split), context.extractor
        began = time.perf_counter()
        rows = shard.rows(len(dataset))
        if options.engine == "ray":
            embed_by_ray(options, context, dataset.take(rows))
        with progress(options, "photos", len(rows)) as advance:
            written = write_shard(folder, dataset, extractor, shard, advance)
        if written.is_new and context.is_main:
            upload_part(options.output, written.file)
    seconds = time.perf_counter() - began
    if options.captions:
        _embed_captions(options, dataset.take(rows), extractor)
    if not context.is_main:
        return
    shown = url_of(options.output) or options.output
    if not written.is_new:
        log.info("shard %s of %s is there (%s rows); nothing to do", shard, shown, f"{written.rows:,}")
        finish(options, written.unreadable)
        return
    summary = _summary(context, written.rows, written.unreadable, seconds)
    file = f"{shown}/{written.file.relative_to(folder).as_posix()}"
    write_summary(options, "flip embed", {**summary, "shard": str(shard), "of": len(dataset), "file": file})
    finish(options, written.unreadable)


def join(options: EmbedOptions, folder: Path) -> None:
    """Join the parts of all shards."""
    from flip.cli.remote_shards import folder_to_join
    from flip.embed.joining import join_shards
    from flip.remote import url_of

    shown = url_of(folder) or folder
    with folder_to_join(folder, options.cache) as here, progress(options, "rows", None) as advance:
        joined = join_shards(here, advance)
    if not joined.is_new:
        log.info("%s is joined already (%s rows); nothing to do", shown, f"{joined.rows:,}")
        finish(options, joined.unreadable)
        return
    summary = {
        "command": "embed",
        "format": FORMAT,
        "joined": str(shown),
        "shards": joined.shards,
        "n": joined.rows,
        "unreadable": joined.unreadable,
        "files": [file.name for file in joined.files],
    }
    write_summary(options, "flip embed --join", summary)
    finish(options, joined.unreadable)


def _write(options: EmbedOptions, context: Context, dataset: Dataset, groups: Iterator[Features]) -> None:
    """Consume the features, and write them in the requested layout where there is an output folder."""
    from flip.embed.table import write_table, write_table_row_groups

    folder = options.output
    if folder is None or not context.is_main:
        for _ in groups:
            pass
        return
    if options.layout_out == "clip-retrieval":
        from flip.embed.clip_retrieval import write_clip_retrieval

        arrays = write_clip_retrieval(folder, groups, dataset)
        log.info("wrote %s and metadata; autofaiss build_index --embeddings=%s/img_emb", arrays[0].parent, folder)
        return
    model = context.model_name if context.needs_no_model else context.encoder.name
    precision = context.features_precision
    if not options.map:
        log.info("wrote %s", write_table_row_groups(folder, groups, dataset, model, precision=precision))
        return
    from flip.report.embedding_map import map_columns

    (features,) = groups
    columns = map_columns(features, seed=options.seed)
    file = write_table(folder, features, dataset, model, precision=precision, map_columns=columns, overwrite=True)
    log.info("wrote %s", file)
    log.info("look at it: embedding-atlas %s --x x --y y --neighbors neighbors", file)
