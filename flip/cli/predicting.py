"""The two halves that every classifying command has: score a split, or name photos as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flip.cli.context import finish, input_paths
from flip.cli.output import prediction_writer, save_evaluation, write_evaluation
from flip.config import PredictConfig
from flip.results import Evaluation, Neighbor, Prediction, predict_row

if TYPE_CHECKING:
    from flip.embed.extractor import FeatureExtractor
    from flip.features import Features
    from flip.metrics import Array

#: From image features (n, d) to class probabilities (n, c) and, where asked for, each photo's neighbours.
Classify = Callable[["Array"], "tuple[Array, list[tuple[Neighbor, ...]] | None]"]


def predict_photos(
    config: PredictConfig, extractor: FeatureExtractor, classnames: tuple[str, ...], classify: Classify
) -> None:
    """Write one row for each input, in the input's order, each batch as soon as it is done."""
    if not extractor.placement.is_main:
        return
    unreadable = 0
    paths = input_paths(config.images or [], null=config.null)
    with prediction_writer(config) as write:
        for batch in extractor.stream(paths):
            names = [source.file for source in batch.sources]
            rows = list(_rows(config, names, batch.embeddings, batch.errors, classnames, classify))
            unreadable += sum(row.error is not None for row in rows)
            for row in rows:
                write(row)
    finish(config, unreadable)


def report_evaluation(
    config: PredictConfig,
    evaluation: Evaluation,
    features: Features,
    classify: Classify,
    data_fingerprint: str,
) -> None:
    """Write an evaluation, and the prediction rows of its photos where they are asked for."""
    rows = _rows(
        config,
        features.paths,
        features.image_features,
        features.errors,
        features.classnames,
        classify,
        [features.classnames[c] for c in features.labels],
    )
    save_evaluation(config, evaluation, rows, data_fingerprint, features.fingerprint)
    write_evaluation(config, evaluation)
    finish(config, evaluation.unreadable)


def _rows(
    config: PredictConfig,
    paths: Any,
    image_features: Array,
    errors: Any,
    classnames: tuple[str, ...],
    classify: Classify,
    truths: list[str] | None = None,
) -> Iterator[Prediction]:
    readable = [i for i, error in enumerate(errors) if error is None]
    probabilities, neighbors = classify(image_features[readable]) if readable else (None, None)
    row_of = {i: row for row, i in enumerate(readable)}
    for i, path in enumerate(paths):
        if errors[i] is not None:
            yield Prediction(path, error=errors[i])
            continue
        assert probabilities is not None
        row = row_of[i]
        yield predict_row(
            path,
            probabilities[row],
            classnames,
            top=config.top,
            reject=config.reject,
            truth=truths[i] if truths else None,
            neighbors=neighbors[row] if neighbors is not None else None,
        )
