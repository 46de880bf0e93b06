"""``flip demo``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import typer

from flip import names
from flip.cli.config import CacheOptions, FolderOutput
from flip.cli.options import command
from flip.cli.output import write_rows
from flip.files import claim_folder
from flip.settings import option

log = logging.getLogger("flip.cli")

_FIRST = (
    "%d steps on %d drawn species, %d training and %d test photos: each method once, without a network, in "
    "about two minutes on two idle cores; all of it goes into %s"
)

_NEXT = """
The same by hand, without a network:
  flip zeroshot --data sample
  flip hybrid --data sample --model {folder}/tuned --run {folder}/hybrid && flip report {folder}/hybrid
On your own photos, in one folder per class (CLIP's weights are fetched once, or --model names a folder):
  flip zeroshot --data PHOTOS --prompts bird
  flip hybrid --data PHOTOS --save my-head && flip hybrid --load my-head NEW_PHOTO.jpg"""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(FolderOutput, CacheOptions):
    """``flip demo``."""

    output: Path | None = option(None, "Folder of results, pictures and models. [default: flip-demo]")
    seed: int = option(0, "Seed of everything random.")
    device: str = option("auto", "Where the networks run.", choices=names.DEVICES)
    workers: int | None = option(None, "Threads that decode photos. [default: one per CPU core]")
    overwrite: bool = option(False, "Replace what an earlier demo left in the folder.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "demo", DemoOptions)(demo)


def demo(options: DemoOptions) -> None:
    """Run every method once on drawn birds with the models that come along: offline, in minutes, on a laptop."""
    from flip.data.open import open_dataset
    from flip.embed.settings import EmbedSettings
    from flip.report.plots import plot_few_shot
    from flip.studies.demo import STEPS, Demo

    folder = (options.output or Path("flip-demo")).expanduser()
    claim_folder(folder, overwrite=options.overwrite)
    dataset = open_dataset(names.SAMPLE, cache=options.cache)
    counts = dataset.splits
    log.info(_FIRST, len(STEPS), len(dataset.classnames), counts["train"], counts["test"], folder)
    settings = EmbedSettings(device=options.device, workers=options.workers)
    summary = Demo(dataset, folder, settings, options.cache, options.seed, options.overwrite).run()
    title = f"{summary['species']} drawn species, {summary['rows'][0]['n']} test photos"
    plot_few_shot(folder / "few-shot.png", summary["few_shot"], title)
    write_rows(options, f"flip demo, {summary['species']} drawn species", summary["rows"])
    gain, (low, high) = summary["drawn_photos"]["difference"], summary["drawn_photos"]["ci95"]
    log.info("drawn photos at 5 shots: %+.1f points (95 %% %+.1f to %+.1f)", gain, low, high)
    log.info("%s: species.png, drawn.png, few-shot.png, demo.json, and the models tuned/ and diffusion/", folder)
    names_alone, best = summary["rows"][0], max(summary["rows"], key=lambda row: row["top1"])
    log.info(
        "from %.0f %% (%s) to %.0f %% (%s, %s)",
        *(names_alone["top1"], names_alone["method"], best["top1"], best["method"], best["sees"]),
    )
    for line in _NEXT.format(folder=folder).splitlines():
        log.info("%s", line)
