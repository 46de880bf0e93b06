"""``flip zeroshot``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

from flip.cli.context import data_name, note, open_data, open_extractor, read_features
from flip.cli.options import command
from flip.config import ZeroShotConfig

if TYPE_CHECKING:
    from flip.cli.predicting import Classify
    from flip.clip.prompts import ClassPrompts
    from flip.embed.extractor import FeatureExtractor


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "zeroshot", ZeroShotConfig)(zeroshot)


def zeroshot(config: ZeroShotConfig) -> None:
    """Name each photo by the class whose text is nearest; no photo is needed for training.

    Without IMAGES the split of --data is scored. With IMAGES each is named, among the classes of --classes or --data.
    """
    predict(config) if config.images else evaluate(config)


def evaluate(config: ZeroShotConfig) -> None:
    """Score a split."""
    from flip import results
    from flip.cli.predicting import report_evaluation

    start = time.perf_counter()
    dataset = open_data(config).select(config.split)
    extractor = open_extractor(config, dataset)
    prompts = _prompts(config, dataset.classnames, dataset.raw_names)
    features = read_features(config, dataset, extractor)
    if not extractor.placement.is_main:
        return
    readable = features.require_readable(config.split)
    class_embeddings = extractor.class_embeddings(prompts)
    classify = _classifier(extractor, class_embeddings)
    probabilities, _ = classify(readable.image_features)
    evaluation = results.score_predictions(
        probabilities,
        readable.labels,
        dataset.classnames,
        command="zeroshot",
        data=data_name(config),
        model=extractor.model.name,
        split=config.split,
        protocol=_protocol(config, prompts, extractor),
        unreadable=features.unreadable,
        seconds=time.perf_counter() - start,
        details=results.calibration_report(probabilities, readable.labels, dataset.classnames, config.reject),
    )
    report_evaluation(config, evaluation, features, classify, dataset.fingerprint())


def predict(config: ZeroShotConfig) -> None:
    """Name photos."""
    from flip.cli.predicting import predict_photos
    from flip.clip.prompts import read_class_list

    if config.classes:
        classnames = raw_names = read_class_list(config.classes)
    else:
        dataset = open_data(config)
        classnames, raw_names = dataset.classnames, dataset.raw_names
    prompts = _prompts(config, classnames, raw_names)
    extractor = open_extractor(config)
    classify = _classifier(extractor, extractor.class_embeddings(prompts))
    predict_photos(config, extractor, classnames, classify)


def _prompts(config: ZeroShotConfig, classnames: tuple[str, ...], raw_names: tuple[str, ...]) -> ClassPrompts:
    from flip.clip.prompts import class_prompts

    prompts = class_prompts(config.prompts, classnames, raw_names)
    if prompts.unmatched:
        named = ", ".join(prompts.unmatched[:5]) + (" …" if len(prompts.unmatched) > 5 else "")
        note(
            config,
            f"{prompts.source} says nothing of {len(prompts.unmatched)} classes, which get the plain prompt: {named}",
        )
    return prompts


def _protocol(config: ZeroShotConfig, prompts: ClassPrompts, extractor: FeatureExtractor) -> dict[str, Any]:
    counts = sorted({len(texts) for texts in prompts.texts})
    return {
        "prompts": prompts.source,
        "prompts_per_class": counts[0] if len(counts) == 1 else f"{counts[0]} to {counts[-1]}",
        "example": prompts.texts[0][0],
        "precision": extractor.precision,
        "crop": config.crop,
        "tta": config.tta,
    }


def _classifier(extractor: FeatureExtractor, class_embeddings: Any) -> Classify:
    from flip.classify.zeroshot import softmax, zero_shot_logits

    scale = extractor.model.logit_scale
    return lambda image_features: (softmax(zero_shot_logits(image_features, class_embeddings, scale)), None)
