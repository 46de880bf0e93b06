"""``flip demo``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from flip.cli.context import note
from flip.cli.options import command
from flip.config import SAMPLE, DemoConfig

_NEXT = """
On your own photos, in one folder a class:
  flip zeroshot --data PHOTOS --prompts bird
  flip hybrid --data PHOTOS --shots 1,5,all
  flip hybrid --data PHOTOS --save my-head && flip hybrid --load my-head NEW_PHOTO.jpg"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "demo", DemoConfig)(demo)


def demo(config: DemoConfig) -> None:
    """Tell the whole story on drawn birds with the models that come along: offline, in minutes, on a laptop."""
    from flip.cli.output import write_rows
    from flip.data.open import open_dataset
    from flip.files import claim_folder
    from flip.studies.demo import Demo, reading_config

    folder = (config.output or Path("flip-demo")).expanduser()
    claim_folder(folder, overwrite=config.overwrite)
    dataset = open_dataset(SAMPLE, cache=config.cache, say=lambda line: note(config, line))
    reading = reading_config(cache=config.cache, device=config.device, workers=config.workers, seed=config.seed)
    summary = Demo(dataset, folder, reading, lambda line: note(config, line), overwrite=config.overwrite).tell()
    write_rows(replace(config, output=None), f"flip demo, {summary['species']} drawn species", summary["rows"])
    gain, (low, high) = summary["drawn_photos"]["difference"], summary["drawn_photos"]["ci95"]
    note(config, f"drawn photos at 5 shots: {gain:+.1f} points (95 % {low:+.1f} to {high:+.1f})")
    note(config, f"{folder}: species.png, drawn.png, few-shot.png, demo.json, and the models tuned/ and diffusion/")
    note(config, _NEXT)
