"""``flip hybrid``."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flip.classify.settings import HeadSettings
from flip.cli.config import TrainedOptions
from flip.cli.context import Context
from flip.cli.options import command
from flip.cli.predicting import describe, name_photos, require_meaning, run_fit, show
from flip.errors import ConfigError
from flip.settings import option

if TYPE_CHECKING:
    from flip.classify.classifier import HeadClassifier, Origin
    from flip.classify.training_set import TrainingSet

log = logging.getLogger("flip.cli")


@dataclass(frozen=True, kw_only=True)
class HybridOptions(TrainedOptions, HeadSettings):
    """``flip hybrid``."""

    save: Path | None = option(None, "Save the fitted head in this folder.")
    load: Path | None = option(None, "Use the head saved in this folder instead of fitting one.")
    overwrite: bool = option(False, "Replace what the --save folder holds.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.load and (self.save or self.shots or self.augmented):
            raise ConfigError("--load takes a fitted head; leave out --save, --shots and --augmented, which fit one")
        if self.shots and self.save:
            raise ConfigError("--shots fits many heads; leave out --save, or fit one without --shots")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "hybrid", HybridOptions)(hybrid)


def hybrid(options: HybridOptions) -> None:
    """Fit a head on image and text features of the training photos; score a split, save the head, or name photos.

    Whatever is chosen or calibrated is chosen by cross-validation inside the training photos; test photos never take
    part. --save DIR keeps the head; --load DIR names IMAGES with it, with calibrated probabilities.
    """
    if options.load:
        use_saved(options, options.load)
        return
    from flip.classify.classifier import make_head

    context = Context(options)
    options = replace(options, text=context.text_side(options.text))
    with_text = options.text != "none"
    zero_shot = context.zero_shot_of_data(options.prompts) if with_text else None

    def fit(training: TrainingSet, seed: int) -> HeadClassifier:
        head = make_head(options.head, text=options.text, zero_shot=zero_shot, seed=seed, origin=_origin(context))
        head.fit(training)
        if options.save:
            head.save(options.save, protocol=_generated(options), overwrite=options.overwrite)
            log.info("saved the head in %s; use it with flip hybrid --load %s PHOTO …", options.save, options.save)
        return head

    run_fit(options, context, "hybrid", fit, with_model=with_text, captions=options.text == "captions")


def _generated(options: HybridOptions) -> dict[str, object]:
    if options.augmented is None:
        return {}
    return {"augmented": str(options.augmented), "augmented_weight": options.augmented_weight}


def use_saved(options: HybridOptions, folder: Path) -> None:
    """Name photos, or score a split, with a saved head."""
    from flip.classify.classifier import load_classifier
    from flip.data.learned import require_unlearned
    from flip.embed.captions import with_caption_features
    from flip.embed.table import UNKNOWN_MODEL
    from flip.studies.protocol import score

    classifier = load_classifier(folder)
    context = Context(replace(options, model=options.model or classifier.origin.model))
    if not options.images:
        require_meaning(context, options.split)
        if not classifier.origin.fingerprint.startswith(UNKNOWN_MODEL):
            context.pair_model()
    classifier.origin.require(_origin(context))
    if options.images:
        name_photos(options, context, classifier)
        return
    dataset = context.dataset.select(options.split)
    features = context.features(dataset, with_model=not context.needs_no_model)
    if not context.is_main:
        return
    learned = classifier.count_learned(features)
    require_unlearned(f"the head in {folder}", learned, len(features), options.split)
    if classifier.text == "captions":
        features = with_caption_features(features, context.extractor)
    about = describe(options, context, "hybrid", loaded=str(folder))
    outcome = score(classifier, features, about)
    show(options, context, outcome, dataset)


def _origin(context: Context) -> Origin:
    from flip.classify.classifier import Origin

    options = context.options
    assert isinstance(options, HybridOptions)
    return Origin(context.model_name, context.model_fingerprint, options.crop, options.tta, context.features_precision)
