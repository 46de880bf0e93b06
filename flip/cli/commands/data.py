"""``flip data``: what a folder holds, before anything is embedded; and the drawn sample as a folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from flip.cli.options import command
from flip.config import DataConfig, OutputConfig, option, worker_count


@dataclass(frozen=True, kw_only=True)
class InfoConfig(DataConfig, OutputConfig):
    """``flip data info``."""

    cache: Path | None = option(
        None, "Folder in which drawn photos are kept. [default: the platform's cache folder]", envvar="FLIP_CACHE"
    )


@dataclass(frozen=True, kw_only=True)
class SampleConfig(OutputConfig):
    """``flip data sample``."""

    output: Path | None = option(None, "Folder to write, in the layout of CUB-200-2011. [default: the name]")
    name: Literal["sample", "sample-train"] = option(
        "sample", "sample: 24 species, 960 photos; sample-train: 400 others, 5,200 photos."
    )
    seed: int = option(0, "Seed of the individuals; the species stay the same.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Look at a dataset before anything is embedded."
    )
    command(group, "info", InfoConfig)(info)
    command(group, "sample", SampleConfig)(sample)
    app.add_typer(group, name="data")


def info(config: InfoConfig) -> None:
    """Say what --data was recognised as: layout, splits, classes, captions and boxes."""
    from flip.cli.context import data_name, open_data
    from flip.cli.output import write_summary

    dataset = open_data(config)
    counts = Counter(r.label for r in dataset.records)
    summary: dict[str, Any] = {
        "data": data_name(config),
        "layout": dataset.layout,
        "photos": len(dataset),
        "classes": len(dataset.classnames),
        **{f"{split}": n for split, n in dataset.splits.items()},
        "photos_per_class": f"{min(counts.values())} to {max(counts.values())}",
        "with_captions": sum(bool(r.captions) for r in dataset.records),
        "captions": sum(len(r.captions) for r in dataset.records),
        "with_boxes": sum(r.box is not None for r in dataset.records),
        "first_classes": list(dataset.classnames[:5]),
        "fingerprint": dataset.fingerprint(),
    }
    write_summary(config, "flip data info", summary, config.output)


def sample(config: SampleConfig) -> None:
    """Write the drawn birds into a folder as CUB-200-2011 is laid out: photos, classes, split and captions."""
    from flip.cli.context import note, progress
    from flip.sample.fieldguide import sample_guide, sample_train_guide, write_guide

    guide = (sample_guide if config.name == "sample" else sample_train_guide)(config.seed)
    folder = (config.output or Path(config.name)).expanduser()
    with progress(config, "photos", len(guide.species) * guide.photos) as advance:
        write_guide(guide, folder, workers=worker_count(None), progress=advance)
    note(config, f"{folder}: {len(guide.species)} species, {guide.photos} photos each; read it with --data {folder}")
