"""``flip embed``."""

from __future__ import annotations

import logging
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
from flip.embed.settings import EngineSettings
from flip.errors import ConfigError
from flip.files import claim_folder
from flip.results import FORMAT
from flip.settings import option, settings_from

if TYPE_CHECKING:
    from flip.data.dataset import Dataset
    from flip.embed.extractor import FeatureExtractor
    from flip.features import Features

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

    def __post_init__(self) -> None:
        super().__post_init__()
        EngineSettings.__post_init__(self)
        if self.map and self.output is None:
            raise ConfigError("--map adds columns to the table that -o writes; pass -o with a folder too")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "embed", EmbedOptions)(embed)


def embed(options: EmbedOptions) -> None:
    """Embed every photo once and keep the embeddings; what is already known is not embedded again.

    The other commands embed what they need; embed does it ahead, and -o DIR writes the joined table (path, label,
    split, captions, embedding, error) as Parquet, which --data reads back without the photos.
    """
    start = time.perf_counter()
    if options.output is not None:
        claim_folder(options.output, overwrite=options.overwrite)
    context = Context(options)
    dataset = context.dataset.select(options.split)
    extractor = context.extractor
    began = time.perf_counter()
    if options.engine == "ray":
        embed_by_ray(options, context, dataset)
    features = context.features(dataset)
    seconds = time.perf_counter() - began
    if options.captions:
        _embed_captions(options, dataset, extractor)
    if not context.is_main:
        return
    if options.output is not None:
        _write_table(options, options.output, features, dataset, extractor)
    new = extractor.photos_read
    summary = {
        "command": "embed",
        "format": FORMAT,
        "data": context.data_name,
        "model": context.encoder.name,
        "n": len(features),
        "embedded": new,
        "cached": len(features) - new,
        "unreadable": features.unreadable,
        "precision": extractor.precision,
        "device": extractor.device,
        "images_per_second": new / seconds if new else None,
        "seconds": time.perf_counter() - start,
        "cache": str(extractor.folder / extractor.fingerprint),
    }
    write_summary(options, "flip embed", summary)
    finish(options, features.unreadable)


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


def _write_table(
    options: EmbedOptions, folder: Path, features: Features, dataset: Dataset, extractor: FeatureExtractor
) -> None:
    from flip.embed.table import write_table
    from flip.report.embedding_map import map_columns

    columns = map_columns(features, seed=options.seed) if options.map else None
    model, precision = extractor.model.name, extractor.precision
    file = write_table(folder, features, dataset, model, precision=precision, map_columns=columns, overwrite=True)
    log.info("wrote %s", file)
    if columns:
        log.info("look at it: embedding-atlas %s --x x --y y --neighbors neighbors", file)
