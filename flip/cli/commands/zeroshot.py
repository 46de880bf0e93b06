"""``flip zeroshot``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flip import names
from flip.cli.config import PredictOptions
from flip.cli.context import Context
from flip.cli.options import command
from flip.cli.predicting import describe, name_photos, require_meaning, show
from flip.errors import ConfigError
from flip.settings import option

if TYPE_CHECKING:
    from flip.clip.prompts import ClassPrompts

log = logging.getLogger("flip.cli")


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions(PredictOptions):
    """``flip zeroshot``."""

    prompts: str = option(
        "plain",
        "plain, paper, bird, coarse (the kind that all class names fit), clip, taxon (for BioCLIP), auto (the best on "
        "training photos), a template with {}, a text file of templates, or JSON class → sentences.",
        completes=(*names.PROMPTS, names.AUTO_PROMPTS),
    )
    classes: Path | None = option(
        None, "File of class names, one per line, to name IMAGES among; they can then be named without --data."
    )

    transductive: bool = option(
        False,
        "Take off the model's preference for some class names, as the unlabelled photos of the split show it; the"
        " result says so, with the plain accuracy beside it. It presumes classes of about the same size.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transductive and self.images:
            raise ConfigError(
                "--transductive needs many photos together and scores a split of --data; leave out IMAGES,"
                " or leave out --transductive"
            )
        if self.classes and not self.images:
            raise ConfigError(
                f"--classes {self.classes} names the classes of IMAGES, and a split of --data has its own; pass photos,"
                " or --classnames FILE to rename the data's classes, --subset FILE to restrict the answers"
            )


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "zeroshot", ZeroShotOptions)(zeroshot)


def zeroshot(options: ZeroShotOptions) -> None:
    """Name each photo by the class whose text is nearest; no photo is needed for training.

    Without IMAGES the split of --data is scored. With IMAGES each is named, among the classes of --classes or --data.
    """
    from flip.clip.class_list import read_class_list
    from flip.clip.prompts import class_prompts
    from flip.studies.protocol import score

    context = Context(options)
    if options.images and options.classes:
        names = read_class_list(options.classes)
        name_photos(options, context, context.zero_shot(class_prompts(options.prompts, names, names)))
        return
    if not options.images:
        require_meaning(context, options.split)
    dataset = context.dataset if options.images else context.dataset.select(options.split)
    prompts = context.prompts_of_data(options.prompts)
    if options.images:
        name_photos(options, context, context.zero_shot(prompts))
        return
    features = context.features(dataset)
    if not context.is_main:
        return
    about = describe(
        options, context, "zeroshot", **_protocol(prompts, options.prompts), precision=context.extractor.precision
    )
    classifier = context.zero_shot(prompts)
    if options.transductive:
        classifier = classifier.transductive()
    show(options, context, score(classifier, features, about), dataset)


def _protocol(prompts: ClassPrompts, asked: str) -> dict[str, object]:
    counts = sorted({len(texts) for texts in prompts.texts})
    return {
        "prompts": prompts.source,
        **({"prompts_chosen_on": "training photos"} if asked == names.AUTO_PROMPTS else {}),
        "prompts_per_class": counts[0] if len(counts) == 1 else [counts[0], counts[-1]],
        "example": prompts.texts[0][0],
    }
