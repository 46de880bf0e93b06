"""``flip augment``."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flip.cli.config import DataOptions, require_picture_name
from flip.cli.context import Context, progress
from flip.cli.drawing import DrawOptions, open_checkpoint, row_writer
from flip.cli.options import command
from flip.diffusion.settings import DEFAULT_STRENGTH, AugmentSettings, require_strength
from flip.errors import ConfigError
from flip.names import DEFAULT_MODEL
from flip.settings import flag, option, settings_from
from flip.studies.settings import StudySettings

if TYPE_CHECKING:
    from flip.data.dataset import Dataset
    from flip.diffusion.augment_folder import Tally
    from flip.diffusion.judge import ClipFilter
    from flip.embed.extractor import FeatureExtractor

log = logging.getLogger("flip.cli")

COLUMNS = ("path", "label", "clip_similarity", "prompt")


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(AugmentSettings, StudySettings, DrawOptions, DataOptions):
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

    def __post_init__(self) -> None:
        AugmentSettings.__post_init__(self)
        DataOptions.__post_init__(self)
        StudySettings.__post_init__(self)
        require_strength(self.from_photos, self.steps)
        require_picture_name(self.plot)
        self._require_own_options()

    @property
    def from_photos(self) -> float | None:
        """Share of noise over a source photo; a study draws from photos too, and needs one."""
        return DEFAULT_STRENGTH if self.study and self.strength is None else self.strength

    def _require_own_options(self) -> None:
        """Refuse the options of a study without one, and the others with one: a study draws for each photo."""
        study = ("shots", "seeds", "weights", "per_photo", "learner", "head", "arms", "plot")
        for name in ("per_class", "draws", "filter") if self.study else study:
            if getattr(self, name) == getattr(AugmentOptions, name):
                continue
            if not self.study:
                raise ConfigError(f"{flag(name)} belongs to a study; pass --study with it, or leave it out")
            if getattr(self, name) != "none":
                raise ConfigError(f"--study takes no {flag(name)}: it keeps --per-photo images of each; leave it out")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "augment", AugmentOptions)(augment)


def augment(options: AugmentOptions) -> None:
    """Generate a labelled, balanced training set for a dataset, and keep the images that are worth training on.

    Prompts and photos come from the training split only. flip hybrid, knn and finetune take the folder as --augmented.
    --study measures whether such images help: at several numbers of photos, against as many views of the same photos.
    """
    if options.study:
        from flip.cli.augment_study import study

        study(options)
        return
    from flip.diffusion.augment import augment
    from flip.diffusion.texts import drawing_prompts

    dataset = Context(options).dataset
    dataset.require_photos()
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
            workers=options.workers,
            overwrite=options.overwrite,
            progress=advance,
            on_image=lambda image: write(image.to_row()),
        )
    report(options, tally, folder)


def open_filter(options: AugmentOptions, photos: Dataset) -> ClipFilter | None:
    """Open the filter, with a bar for the photos that it embeds."""
    from flip.diffusion.judge import open_filter

    with progress(options, "photos", len(photos)) as advance:
        return open_filter(
            photos,
            options.filter,
            lambda: open_extractor(options),
            required=options.model is not None,
            progress=advance,
        )


def open_extractor(options: AugmentOptions) -> FeatureExtractor:
    """Open the CLIP model; --precision and --batch-size are those of drawing."""
    from flip.clip.model import load_model
    from flip.embed.extractor import FeatureExtractor
    from flip.embed.settings import EmbedSettings

    settings = EmbedSettings(device=options.device, workers=options.workers)
    return FeatureExtractor(load_model(Context(options).model_name, cache=options.cache), settings, options.cache)


def report(options: AugmentOptions, tally: Tally, folder: Path) -> None:
    """Say what was kept, what was dropped and why, and which classes are short."""
    log.info(f"{folder}: {tally}")
    if tally.short:
        most = sorted(tally.short.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} {n}" for name, n in most[:5]) + (" …" if len(most) > 5 else "")
        log.info(f"{len(tally.short)} classes are short after {options.draws} attempts for each image: {named}")
    if tally.near_test:
        first = tally.near_test[0]
        near = f"{len(tally.near_test)} images are near copies of test photos, the first {first['file']} of"
        log.info(f"{near} {first['photo']}; all are named in augment.json")
