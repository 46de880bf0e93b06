"""``flip data``: what a folder holds, before anything is embedded; and the drawn sample as a folder."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from flip import names
from flip.cli.config import CacheOptions, DataOptions, FileOutput, FolderOutput
from flip.cli.context import Context, progress
from flip.cli.options import command
from flip.cli.output import write_summary
from flip.results import FORMAT
from flip.settings import option

log = logging.getLogger("flip.cli")


@dataclass(frozen=True, kw_only=True)
class InfoOptions(DataOptions, CacheOptions, FileOutput):
    """``flip data info``."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions(FolderOutput):
    """``flip data sample``."""

    output: Path | None = option(None, "Folder to write, in the layout of CUB-200-2011. [default: the name]")
    name: str = option(
        names.SAMPLE,
        "sample: 24 species, 960 photos; sample-train: 400 others, 5,200 photos.",
        choices=names.SAMPLE_DATA,
    )
    seed: int = option(0, "Seed of the individuals; the species stay the same.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Look at a dataset before anything is embedded."
    )
    command(group, "info", InfoOptions)(info)
    command(group, "sample", SampleOptions)(sample)
    app.add_typer(group, name="data")


def info(options: InfoOptions) -> None:
    """Say what --data was recognised as: layout, splits, classes, captions and boxes."""
    context = Context(options)
    dataset = context.dataset
    counts = Counter(r.label for r in dataset.records)
    summary: dict[str, Any] = {
        "command": "data info",
        "format": FORMAT,
        "data": context.data_name,
        "layout": dataset.layout,
        "photos": len(dataset),
        "classes": len(dataset.classnames),
        **dataset.splits,
        "photos_per_class": f"{min(counts.values())} to {max(counts.values())}",
        "with_captions": sum(bool(r.captions) for r in dataset.records),
        "captions": sum(len(r.captions) for r in dataset.records),
        "with_boxes": sum(r.box is not None for r in dataset.records),
        "first_classes": list(dataset.classnames[:5]),
        "fingerprint": dataset.fingerprint(),
    }
    write_summary(options, "flip data info", summary)


def sample(options: SampleOptions) -> None:
    """Write the drawn birds into a folder as CUB-200-2011 is laid out: photos, classes, split and captions."""
    from flip.device import cpu_count
    from flip.sample.fieldguide import sample_guide, sample_train_guide, write_guide

    guide = (sample_guide if options.name == names.SAMPLE else sample_train_guide)(options.seed)
    folder = (options.output or Path(options.name)).expanduser()
    with progress(options, "photos", len(guide.species) * guide.photos) as advance:
        write_guide(guide, folder, workers=cpu_count(), progress=advance)
    log.info("%s: %d species, %d photos each; read it with --data %s", folder, len(guide.species), guide.photos, folder)
