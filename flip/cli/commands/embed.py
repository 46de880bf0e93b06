"""``flip embed``."""

from __future__ import annotations

import time

import typer

from flip.cli.context import data_name, finish, note, open_data, open_extractor, progress, read_features
from flip.cli.options import command
from flip.config import EmbedConfig


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "embed", EmbedConfig)(embed)


def embed(config: EmbedConfig) -> None:
    """Embed every photo once and keep the embeddings; what is already known is not embedded again.

    The other commands do this by themselves where they must; embed does it ahead, and -o DIR writes the joined table
    (path, label, split, captions, embedding, error) as Parquet, which --data reads back without the photos.
    """
    from flip.cli.output import write_summary
    from flip.embed.table import write_table
    from flip.files import claim_folder

    start = time.perf_counter()
    if config.output is not None:
        claim_folder(config.output, overwrite=config.overwrite)
    dataset = open_data(config).select(config.split)
    extractor = open_extractor(config, dataset)
    known = extractor.count_known(dataset)
    embedding = time.perf_counter()
    features = read_features(config, dataset, extractor)
    seconds = time.perf_counter() - embedding
    if config.captions:
        captions = list(dict.fromkeys(caption for r in dataset.records for caption in r.captions))
        with progress(config, "captions", len(captions)) as advance:
            extractor.texts(captions, advance)
    if not extractor.placement.is_main:
        return
    if config.output is not None:
        file = write_table(config.output, features, dataset, extractor.model.name, overwrite=config.overwrite)
        note(config, f"wrote {file}")
    new = len(dataset) - known
    summary = {
        "command": "embed",
        "data": data_name(config),
        "model": extractor.model.name,
        "n": len(features),
        "embedded": new,
        "cached": known,
        "unreadable": features.unreadable,
        "precision": extractor.precision,
        "device": str(extractor.placement.device),
        "images_per_second": new / seconds if new else None,
        "seconds": time.perf_counter() - start,
        "cache": str(extractor.folder / extractor.fingerprint),
    }
    write_summary(config, "flip embed", summary)
    finish(config, features.unreadable)
