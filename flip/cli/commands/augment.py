"""``flip augment``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flip.cli.context import implied_model, note, open_data, open_extractor, progress
from flip.cli.drawing import DrawOptions, open_checkpoint, row_writer
from flip.cli.options import command
from flip.config import DataConfig, ReadConfig, parse_shots, parse_weights, require_picture_name, worker_count
from flip.diffusion.settings import DEFAULT_STRENGTH, AugmentSettings, require_strength
from flip.errors import ConfigError
from flip.names import DEFAULT_MODEL, HEADS
from flip.settings import at_least, option, settings_from

if TYPE_CHECKING:
    from flip.data.dataset import Dataset
    from flip.diffusion.augment_folder import Tally
    from flip.diffusion.judge import ClipFilter

COLUMNS = ("path", "label", "clip_similarity", "prompt")


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(AugmentSettings, DrawOptions, DataConfig):
    """Options of ``flip augment``."""

    output: Path | None = option(
        None, "Folder of the generated training set, or of the study. [default: augmented, or study]"
    )
    model: str | None = option(
        None, f"CLIP model of the filter and the study. [default: {DEFAULT_MODEL}]", envvar="FLIP_MODEL"
    )
    workers: int | None = option(None, "Threads that decode photos. [default: one per CPU core]")

    study: bool = option(
        False, "Measure whether images help instead: heads with and without them, and with real views of the photos."
    )
    shots: str = option("1,5,10,all", "Study only: training photos per class.")
    seeds: int = option(3, "Study only: draws for each number of --shots.")
    weights: str = option("0.1,0.3,1", "Study only: weight of an extra image against a photo.")
    per_photo: int = option(2, "Study only: extra images of each training photo, as many of each kind.")
    head: str = option("linear", "Study only: the head fitted on the photos' features.", choices=HEADS)
    plot: Path | None = option(
        None, "Study only: draw the curves into this .png, .svg or .pdf file. [default: study.svg in the folder]"
    )

    def __post_init__(self) -> None:
        AugmentSettings.__post_init__(self)
        DataConfig.__post_init__(self)
        at_least("--seeds", self.seeds, 1)
        at_least("--per-photo", self.per_photo, 1)
        require_strength(self.from_photos, self.steps)
        parse_shots(self.shots)
        parse_weights(self.weights)
        require_picture_name(self.plot)
        self._require_own_options()

    @property
    def from_photos(self) -> float | None:
        """Share of noise over a source photo; a study draws from photos too, and needs one."""
        return DEFAULT_STRENGTH if self.study and self.strength is None else self.strength

    def _require_own_options(self) -> None:
        """Refuse the options of a study without one, and the others with one: a study draws for each photo."""
        study = ("shots", "seeds", "weights", "per_photo", "head", "plot")
        for name in ("per_class", "draws", "filter") if self.study else study:
            if getattr(self, name) == getattr(AugmentOptions, name):
                continue
            flag = "--" + name.replace("_", "-")
            if not self.study:
                raise ConfigError(f"{flag} belongs to a study; pass --study with it, or leave it out")
            if getattr(self, name) != "none":
                raise ConfigError(f"--study takes no {flag}: it keeps --per-photo images of each photo; leave it out")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "augment", AugmentOptions)(augment)


def augment(options: AugmentOptions) -> None:
    """Generate a labelled, balanced training set for a dataset, and keep the images that are worth training on.

    Prompts and photos come from the training split only. flip hybrid, knn and finetune take the folder as --augmented.
    --study measures whether such images help: at several numbers of photos, against as many views of the same photos.
    """
    if options.study:
        from flip.cli.commands.augment_study import study

        study(options)  # type: ignore[arg-type]
        return
    from flip.diffusion.augment import augment, require_photos
    from flip.diffusion.texts import drawing_prompts

    dataset = open_data(options)
    require_photos(dataset)
    drawing_prompts(dataset.select("train"), options.prompts)  # a slip in --prompts shows before models are loaded
    settings, folder = settings_from(options, AugmentSettings), options.output or Path("augmented")
    clip = open_filter(options, dataset.select("train"))
    loaded = open_checkpoint(options)
    total = settings.per_class * len(dataset.classnames)
    with row_writer(options, COLUMNS) as write, progress(options, "images", total) as advance:
        tally = augment(
            dataset,
            loaded,
            folder,
            settings if clip else replace(settings, filter="none"),
            model=clip,
            seed=options.seed,
            device=options.device,
            precision=options.precision,
            batch_size=options.batch_size,
            workers=worker_count(options.workers),
            overwrite=options.overwrite,
            progress=advance,
            on_image=lambda image: write(image.to_row()),
        )
    report(options, tally, folder)


def open_filter(options: AugmentOptions, photos: Dataset) -> ClipFilter | None:
    """Open the filter, with a bar for the photos that it embeds."""
    from flip.diffusion.judge import open_filter

    model = options.model or implied_model(options)
    reading = ReadConfig(
        model=model,
        device=options.device,  # type: ignore[arg-type]
        cache=options.cache,
        workers=options.workers,
        quiet=options.quiet,
        verbose=options.verbose,
    )
    with progress(options, "photos", len(photos)) as advance:
        return open_filter(
            photos,
            options.filter,
            lambda: open_extractor(reading),
            required=options.model is not None,
            progress=advance,
        )


def report(options: AugmentOptions, tally: Tally, folder: Path) -> None:
    """Say what was kept, what was dropped and why, and which classes are short."""
    note(options, f"{folder}: {tally}")
    if tally.short:
        most = sorted(tally.short.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} {n}" for name, n in most[:5]) + (" …" if len(most) > 5 else "")
        note(options, f"{len(tally.short)} classes are short after {options.draws} attempts for each image: {named}")
    if tally.near_test:
        first = tally.near_test[0]
        near = f"{len(tally.near_test)} images are near copies of test photos, the first {first['file']} of"
        note(options, f"{near} {first['photo']}; all are named in augment.json")
