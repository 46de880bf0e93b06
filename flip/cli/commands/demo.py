"""``flip demo``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flip import names
from flip.cli.config import CacheOptions, FolderOutput
from flip.cli.context import live_bar
from flip.cli.options import command
from flip.cli.output import write_rows
from flip.settings import option

if TYPE_CHECKING:
    from flip.data.dataset import Dataset
    from flip.studies.demo import DemoResult
    from flip.studies.demo_steps import StepUpdate

log = logging.getLogger("flip.cli")

_FIRST = (
    "%d steps on %d drawn species, %d training and %d test photos: each method once, without a network, in "
    "two to three minutes on two idle cores; all of it goes into %s"
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
    overwrite: bool = option(False, "Begin again where an earlier demo is in the folder.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "demo", DemoOptions)(demo)


def demo(options: DemoOptions) -> None:
    """Run every method once on drawn birds with the models that come along: offline, in minutes, on a laptop.

    After a stop the same command goes on with the step that was not finished.
    """
    from flip.data.open import open_dataset
    from flip.embed.settings import EmbedSettings
    from flip.studies.demo import STEPS, Demo

    folder = (options.output or Path("flip-demo")).expanduser()
    dataset = open_dataset(names.SAMPLE, cache=options.cache)
    counts = dataset.splits
    log.info(_FIRST, len(STEPS), len(dataset.classnames), counts["train"], counts["test"], folder)

    @contextmanager
    def open_bar(title: str) -> Iterator[StepUpdate | None]:
        with live_bar(options, title) as update:
            yield None if update is None else lambda share, left: update(share, f"about {left:.0f} s left")

    settings = EmbedSettings(device=options.device, workers=options.workers)
    job = Demo(dataset, folder, settings, options.cache, options.seed, options.overwrite, open_bar)
    summary = job.run()
    _draw(folder, dataset, summary)
    write_rows(options, f"flip demo, {summary['species']} drawn species", summary["rows"])
    _say_what_was_gained(folder, summary)


def _draw(folder: Path, dataset: Dataset, summary: DemoResult) -> None:
    """Write the pictures."""
    from flip.report.demo_sheets import save_generated, save_species
    from flip.report.plots import plot_few_shot
    from flip.studies.demo_drawing import GENERATED, REFUSED

    plain = summary["rows"][1]
    shots = [row["shots"] for row in summary["few_shot"]["kNN"]]
    zero_shot = [{"shots": k, "top1": plain["top1"], "ci95": None} for k in shots]
    title = f"{summary['species']} drawn species, {plain['n']} test photos"
    plot_few_shot(folder / "few-shot.png", {"names alone": zero_shot, **summary["few_shot"]}, title)
    save_species(dataset, folder / "species.png")
    generated = folder / GENERATED, folder / REFUSED
    save_generated(*generated, dataset.raw_names, dataset.classnames, folder / "drawn.png")


def _say_what_was_gained(folder: Path, summary: DemoResult) -> None:
    gain, (low, high) = summary["generated_images"]["difference"], summary["generated_images"]["ci95"]
    log.info("generated images at 5 shots: %+.1f points (95 %% %+.1f to %+.1f)", gain, low, high)
    log.info("%s: species.png, drawn.png, few-shot.png, demo.json, and the models tuned/ and diffusion/", folder)
    names_alone, best = summary["rows"][0], max(summary["rows"], key=lambda row: row["top1"])
    log.info(
        "from %.0f %% (%s) to %.0f %% (%s, %s)",
        *(names_alone["top1"], names_alone["method"], best["top1"], best["method"], best["sees"]),
    )
    for line in _NEXT.format(folder=folder).splitlines():
        log.info("%s", line)
