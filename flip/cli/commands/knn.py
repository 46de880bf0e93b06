"""``flip knn``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from flip.cli.context import open_data, open_extractor, read_features
from flip.cli.options import command
from flip.config import KnnConfig, parse_k
from flip.results import Neighbor

if TYPE_CHECKING:
    from flip.classify.knn import KnnClassifier, Neighbors
    from flip.cli.training import Sample, Training
    from flip.data.dataset import Dataset
    from flip.embed.extractor import FeatureExtractor
    from flip.metrics import Array

    #: Class embeddings (c, d) and logit scale.
    TextSide = tuple[Array, float]


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
    from flip.cli.predicting import report_evaluation
    from flip.cli.training import Sample, evaluation_of, few_shot, make_training, open_features

    start = time.perf_counter()
    dataset = open_data(config)
    dataset.require_training_photos()
    wanted = dataset.select(config.split)
    features, extractor = open_features(config, dataset, {"train", config.split}, with_text=config.text != "none")
    if extractor is not None and not extractor.placement.is_main:
        return
    photos = features.split(config.split)
    test = Sample(photos.require_readable(config.split))
    training = make_training(config, Sample(features.split("train").require_readable("training")), extractor)
    fitting = _Fitting(config, _text_side(config, dataset, extractor))
    extra: dict[str, Any] = {}
    if config.shots:
        rows, predict = few_shot(config, training, test, fitting.predictor, lambda: "knn")
        extra = {"shots": rows}
    else:
        predict = fitting.predictor(training)
        extra = fitting.sweep(test)
    evaluation = evaluation_of(
        config,
        "knn",
        dataset,
        predict(test),
        test.features,
        unreadable=photos.unreadable,
        protocol=fitting.protocol(),
        extra=extra,
        start=start,
    )
    report_evaluation(config, evaluation, photos, fitting.classify, wanted.fingerprint())


def predict(config: KnnConfig) -> None:
    """Name photos."""
    from flip.cli.predicting import predict_photos
    from flip.cli.training import Sample, make_training

    dataset = open_data(config)
    dataset.require_training_photos()
    train_set = dataset.select("train")
    extractor = open_extractor(config, train_set)
    train = read_features(config, train_set, extractor).require_readable("training")
    fitting = _Fitting(config, _text_side(config, dataset, extractor))
    fitting.fit(make_training(config, Sample(train), extractor))
    predict_photos(config, extractor, dataset.classnames, fitting.classify)


def _text_side(config: KnnConfig, dataset: Dataset, extractor: FeatureExtractor | None) -> TextSide | None:
    """Return class embeddings and logit scale where text votes too."""
    if config.text == "none" or extractor is None:
        return None
    from flip.clip.prompts import class_prompts

    prompts = class_prompts(config.prompts, dataset.classnames, dataset.raw_names)
    return extractor.class_embeddings(prompts), extractor.model.logit_scale


@dataclass
class _Fitting:
    """Fits neighbour votes as the configuration asks, and remembers the last for rows and protocol."""

    config: KnnConfig
    text: TextSide | None
    training: Training | None = None
    classifier: KnnClassifier | None = None
    text_share: float = 0.0

    def fit(self, training: Training) -> None:
        """Index these photos, choose k and, where text votes too, its share, by leave-one-out."""
        from flip.classify.knn import choose_text_share, fit_knn
        from flip.device import place

        config, features = self.config, training.sample.features
        self.training = training
        self.classifier = fit_knn(
            features.image_features,
            features.labels,
            len(features.classnames),
            k=parse_k(config.k),
            vote=config.vote,
            temperature=config.temperature,
            index=config.index,
            gpu=place(config.device).device.type == "cuda",
            sample_weight=training.weight,
            real=training.real,
            group=training.group,
        )
        if self.text is not None:
            text_votes = self._zero_shot(features.image_features)
            self.text_share = choose_text_share(self.classifier, text_votes)

    def predictor(self, training: Training, seed: int = 0) -> Callable[[Sample], Array]:
        """Fit, and return what gives the vote shares of a sample."""
        self.fit(training)
        fitted = replace(self)
        return lambda sample: fitted.classify(sample.features.image_features)[0]

    def classify(self, image_features: Array) -> Any:
        """Return class probabilities (n, c) and, with ``--neighbors``, each photo's neighbours."""
        assert self.classifier is not None
        assert self.training is not None
        found = self.classifier.neighbors(image_features)
        shares: Array = self.classifier.vote_on(found)
        if self.text is not None:
            shares = (1 - self.text_share) * shares + self.text_share * self._zero_shot(image_features)
        return shares, self._named(found) if self.config.neighbors else None

    def _named(self, found: Neighbors) -> list[tuple[Neighbor, ...]]:
        assert self.training is not None
        train = self.training.sample.features
        return [
            tuple(
                Neighbor(train.paths[i], train.classnames[train.labels[i]], float(s))
                for s, i in zip(similarities, rows, strict=True)
                if i >= 0
            )
            for similarities, rows in zip(found.similarities, found.rows, strict=True)
        ]

    def _zero_shot(self, image_features: Array) -> Array:
        from flip.classify.zeroshot import softmax, zero_shot_logits

        assert self.text is not None
        return softmax(zero_shot_logits(image_features, *self.text))

    def sweep(self, test: Sample) -> dict[str, Any]:
        """Return each k that was tried: its leave-one-out accuracy on train, which decided, and on the split scored."""
        assert self.classifier is not None
        rows = []
        for trial in self.classifier.trials:
            shares = replace(self.classifier, k=trial.k).predict_proba(test.features.image_features)
            top1 = 100.0 * float((shares.argmax(axis=1) == test.features.labels).mean())
            chosen = trial.k == self.classifier.k
            rows.append({"k": trial.k, "train_top1": trial.train_top1, "top1": top1, "chosen": chosen})
        return {"sweep": rows} if rows else {}

    def protocol(self) -> dict[str, Any]:
        """Return how every choice was made."""
        config, classifier = self.config, self.classifier
        assert classifier is not None
        protocol: dict[str, Any] = {
            "k": classifier.k,
            "k_chosen_by": "leave-one-out on train" if classifier.trials else "given",
            "vote": config.vote,
            "train_photos": len(classifier.labels),
            "index": classifier.index.kind,
        }
        if config.vote == "softmax":
            protocol["temperature"] = config.temperature
        if config.text != "none":
            protocol |= {"text": config.prompts, "text_share": f"{self.text_share:g}, by leave-one-out on train"}
        if config.shots:
            protocol["shown_fit"] = f"{config.shots.split(',')[-1]} shots, seed 0"
        if config.augmented:
            protocol |= {"augmented": str(config.augmented), "augmented_weight": config.augmented_weight}
        if classifier.index.kind != "flat":
            protocol["recall"] = classifier.index.recall(classifier.k, seed=config.seed)
        return protocol
