"""``flip data``: what a folder holds, before anything is embedded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import typer

from flip.cli.options import command
from flip.config import DataConfig, OutputConfig


@dataclass(frozen=True, kw_only=True)
class InfoConfig(DataConfig, OutputConfig):
    """``flip data info``."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Look at a dataset before anything is embedded."
    )
    command(group, "info", InfoConfig)(info)
    app.add_typer(group, name="data")


def info(config: InfoConfig) -> None:
    """Say what --data was recognised as: layout, splits, classes, captions and boxes."""
    from flip.cli.common import data_name, open_data
    from flip.cli.render import write_summary

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
