"""``flip knn``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

from flip.cli.common import data_name, model_name, open_data, open_extractor, read_features
from flip.cli.options import command
from flip.config import KnnConfig, parse_k

if TYPE_CHECKING:
    from flip.classify.knn import KnnClassifier
    from flip.cli.predicting import Classify
    from flip.clip.features import FeatureExtractor, Features
    from flip.data.dataset import Dataset


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "knn", KnnConfig)(knn)


def knn(config: KnnConfig) -> None:
    """Name each photo by a vote of the training photos that look most alike.

    Without IMAGES the split of --data is scored. With IMAGES each is named. With -k auto or a range, k is chosen by
    leave-one-out on the training photos; test photos never take part in the choice.
    """
    predict(config) if config.images else evaluate(config)


def evaluate(config: KnnConfig) -> None:
    """Score a split."""
    from flip import results
    from flip.cli.predicting import report_evaluation
    from flip.clip.features import require_readable

    start = time.perf_counter()
    dataset = open_data(config)
    dataset.require_training_photos()
    wanted = dataset.select(config.split)
    features, is_main = _features(config, dataset, {"train", config.split})
    if not is_main:
        return
    train, test = features.split("train"), features.split(config.split)
    readable = require_readable(test, config.split)
    classifier = _fit(config, require_readable(train, "training"))
    classify = _classify(classifier, train.readable(), config.neighbors)
    evaluation = results.evaluate(
        classifier.predict_proba(readable.image_features),
        readable.labels,
        dataset.classnames,
        command="knn",
        data=data_name(config),
        model=model_name(config, dataset),
        split=config.split,
        protocol=_protocol(config, classifier),
        unreadable=test.unreadable,
        seconds=time.perf_counter() - start,
        extra=_sweep(classifier, readable),
    )
    report_evaluation(config, evaluation, test, classify, wanted.fingerprint())


def predict(config: KnnConfig) -> None:
    """Name photos."""
    from flip.cli.predicting import predict_photos
    from flip.clip.features import require_readable

    dataset = open_data(config)
    dataset.require_training_photos()
    train_set = dataset.select("train")
    extractor = open_extractor(config, train_set)
    train = require_readable(read_features(config, train_set, extractor), "training")
    classifier = _fit(config, train)
    predict_photos(config, extractor, dataset.classnames, _classify(classifier, train, config.neighbors))


def _features(config: KnnConfig, dataset: Dataset, splits: set[str]) -> tuple[Features, bool]:
    """Return the features of these splits; a table of embeddings is read without loading any model."""
    if dataset.embeddings is not None and not config.model:
        from flip.clip.table import read_table_features

        return read_table_features(dataset), True
    used = dataset if "all" in splits else dataset.take(i for i, r in enumerate(dataset.records) if r.split in splits)
    extractor: FeatureExtractor = open_extractor(config, dataset)
    return read_features(config, used, extractor), extractor.placement.is_main


def _fit(config: KnnConfig, train: Features) -> KnnClassifier:
    from flip.classify.knn import fit_knn
    from flip.device import place

    return fit_knn(
        train.image_features,
        train.labels,
        len(train.classnames),
        k=parse_k(config.k),
        vote=config.vote,
        temperature=config.temperature,
        index=config.index,
        gpu=place(config.device).device.type == "cuda",
    )


def _classify(classifier: KnnClassifier, train: Features, list_neighbors: bool) -> Classify:
    def classify(image_features: Any) -> Any:
        found = classifier.neighbors(image_features)
        shares = classifier.vote_on(found)
        if not list_neighbors:
            return shares, None
        named = [
            tuple(
                {"path": train.paths[i], "label": train.classnames[train.labels[i]], "score": float(s)}
                for s, i in zip(similarities, rows, strict=True)
                if i >= 0
            )
            for similarities, rows in zip(found.similarities, found.rows, strict=True)
        ]
        return shares, named

    return classify


def _sweep(classifier: KnnClassifier, test: Features) -> dict[str, Any]:
    """Return each k that was tried: its leave-one-out accuracy on train, which decided, and on the split scored."""
    from dataclasses import replace

    rows = []
    for trial in classifier.trials:
        shares = replace(classifier, k=trial.k).predict_proba(test.image_features)
        top1 = 100.0 * float((shares.argmax(axis=1) == test.labels).mean())
        rows.append({"k": trial.k, "train_top1": trial.train_top1, "top1": top1, "chosen": trial.k == classifier.k})
    return {"sweep": rows} if rows else {}


def _protocol(config: KnnConfig, classifier: KnnClassifier) -> dict[str, Any]:
    protocol: dict[str, Any] = {
        "k": classifier.k,
        "k_chosen_by": "leave-one-out on train" if classifier.trials else "given",
        "vote": config.vote,
        "train_photos": len(classifier.labels),
        "index": classifier.index.kind,
        "crop": config.crop,
        "tta": config.tta,
    }
    if config.vote == "softmax":
        protocol["temperature"] = config.temperature
    if classifier.index.kind != "flat":
        protocol["recall"] = classifier.index.recall(classifier.k, seed=config.seed)
    return protocol
