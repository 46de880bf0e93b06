"""``flip hybrid``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from flip.cli.context import note, open_data, open_extractor
from flip.cli.options import command
from flip.config import HybridConfig

if TYPE_CHECKING:
    from flip.classify.classifier import HybridClassifier, Origin
    from flip.cli.training import Sample, Training
    from flip.data.dataset import Dataset
    from flip.embed.extractor import FeatureExtractor
    from flip.metrics import Array


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "hybrid", HybridConfig)(hybrid)


def hybrid(config: HybridConfig) -> None:
    """Fit a head on image and text features of the training photos; score a split, save the head, or name photos.

    Whatever is chosen or calibrated is chosen by cross-validation inside the training photos; test photos never take
    part. --save DIR keeps the head; --load DIR names IMAGES with it, with calibrated probabilities.
    """
    if config.load:
        use(config)
    else:
        fit_and_evaluate(config)


def fit_and_evaluate(config: HybridConfig) -> None:
    """Fit on the training photos, then score a split or name photos."""
    from flip.cli.predicting import predict_photos, report_evaluation
    from flip.cli.training import (
        Sample,
        caption_features,
        evaluation_of,
        few_shot,
        make_training,
        open_features,
        without_neighbors,
    )

    start = time.perf_counter()
    dataset = open_data(config)
    dataset.require_training_photos()
    splits = {"train"} if config.images else {"train", config.split}
    if not config.images:
        dataset.select(config.split)
    features, extractor = open_features(config, dataset, splits, with_text=config.text != "none")
    if extractor is not None and not extractor.placement.is_main:
        return

    def sample(split: str) -> Sample:
        readable = features.split(split).require_readable(split)
        captions = config.text == "captions" and extractor is not None
        return Sample(readable, caption_features(config, readable, extractor) if captions and extractor else None)

    training = make_training(config, sample("train"), extractor)
    fitting = _Fitting(config, dataset, features.fingerprint, extractor)
    if config.images:
        assert extractor is not None or config.text == "none"
        classifier = fitting.fit(training)
        _save(config, classifier, fitting)
        extractor = extractor or open_extractor(config, dataset)
        predict_photos(config, extractor, dataset.classnames, without_neighbors(classifier.predict_proba))
        return
    test = sample(config.split)
    extra: dict[str, Any] = {}
    if config.shots:
        rows, predict = few_shot(config, training, test, fitting.predictor, fitting.head_name)
        extra = {"shots": rows}
    else:
        predict = fitting.predictor(training)
    _save(config, fitting.last, fitting)
    evaluation = evaluation_of(
        config,
        "hybrid",
        dataset,
        predict(test),
        test.features,
        unreadable=features.split(config.split).unreadable,
        protocol=fitting.protocol(),
        extra=extra,
        start=start,
    )
    wanted = features.split(config.split)
    report_evaluation(config, evaluation, wanted, _rows(predict, test), dataset.select(config.split).fingerprint())


def use(config: HybridConfig) -> None:
    """Name photos, or score a split, with a saved head."""
    from dataclasses import replace

    from flip.classify.classifier import load_hybrid
    from flip.cli.context import read_features
    from flip.cli.predicting import predict_photos, report_evaluation
    from flip.cli.training import Sample, caption_features, evaluation_of, without_neighbors

    assert config.load is not None
    start = time.perf_counter()
    classifier = load_hybrid(config.load)
    if config.model is None:
        config = replace(config, model=classifier.origin.model)
    if config.images:
        extractor = open_extractor(config)
        classifier.origin.require(_origin(config, extractor))
        predict_photos(config, extractor, classifier.classnames, without_neighbors(classifier.predict_proba))
        return
    dataset = open_data(config).select(config.split)
    require_same_classes(classifier.classnames, dataset)
    extractor = open_extractor(config, dataset)
    classifier.origin.require(_origin(config, extractor))
    features = read_features(config, dataset, extractor)
    readable = features.require_readable(config.split)
    captions = caption_features(config, readable, extractor) if classifier.text == "captions" else None
    test = Sample(readable, captions)

    def predict(sample: Sample) -> Array:
        return classifier.predict_proba(sample.features.image_features, sample.captions)

    evaluation = evaluation_of(
        config,
        "hybrid",
        dataset,
        predict(test),
        readable,
        unreadable=features.unreadable,
        protocol={"head": classifier.head.name, "loaded": str(config.load), "text": classifier.text},
        extra={},
        start=start,
    )
    report_evaluation(config, evaluation, features, _rows(predict, test), dataset.fingerprint())


def require_same_classes(classnames: tuple[str, ...], dataset: Dataset) -> None:
    """Raise a DataError unless the data has the head's classes, in order."""
    from flip.errors import DataError

    if classnames != dataset.classnames:
        odd = next((n for n in dataset.classnames if n not in classnames), dataset.classnames[0])
        raise DataError(
            f"the head knows {len(classnames)} classes and {dataset.root} has {len(dataset.classnames)}, "
            f"such as {odd!r}; score it on data with the same classes"
        )


@dataclass
class _Fitting:
    """Fits heads as the configuration asks, and remembers the last for the protocol."""

    config: HybridConfig
    dataset: Dataset
    fingerprint: str
    extractor: FeatureExtractor | None
    fitted: list[HybridClassifier] = field(default_factory=list)
    text_side: list[Any] = field(default_factory=list)

    @property
    def last(self) -> HybridClassifier:
        return self.fitted[-1]

    def head_name(self) -> str:
        """Return the kind of head that was fitted last; for auto, the kind it chose."""
        head = self.last.head
        return str(getattr(head, "chosen", head).name)

    def fit(self, training: Training, seed: int | None = None) -> HybridClassifier:
        """Fit the head on these photos."""
        from flip.classify.classifier import HybridClassifier
        from flip.classify.heads import make_head

        config, sample = self.config, training.sample
        class_embeddings, scale = self._text()
        head = make_head(config.head, len(self.dataset.classnames), config.seed if seed is None else seed)
        classifier = HybridClassifier(
            head, config.text, class_embeddings, scale, self.dataset.classnames, self._make_origin()
        )
        inputs = classifier.inputs(sample.features.image_features, sample.captions)
        head.fit(inputs, training.labels, training.weight, training.real, training.group)
        self.fitted[:] = [classifier]
        return classifier

    def predictor(self, training: Training, seed: int | None = None) -> Callable[[Sample], Array]:
        """Fit, and return what gives the probabilities of a sample."""
        classifier = self.fit(training, seed)
        return lambda sample: classifier.predict_proba(sample.features.image_features, sample.captions)

    def protocol(self) -> dict[str, Any]:
        """Return how every choice was made."""
        config = self.config
        about: dict[str, Any] = {"head": config.head, "text": config.text}
        if config.text != "none":
            about["prompts"] = config.prompts
        if config.text == "captions":
            about["test_captions"] = True
        if config.shots:
            about["shown_fit"] = f"{config.shots.split(',')[-1]} shots, seed 0"
        if config.augmented:
            about |= {"augmented": str(config.augmented), "augmented_weight": config.augmented_weight}
        return {**about, "chosen": dict(self.last.head.protocol)}

    def _text(self) -> tuple[Any, float]:
        if self.extractor is None or self.config.text == "none":
            return None, 1.0
        if not self.text_side:
            from flip.clip.prompts import class_prompts

            prompts = class_prompts(self.config.prompts, self.dataset.classnames, self.dataset.raw_names)
            self.text_side[:] = [self.extractor.class_embeddings(prompts), self.extractor.model.logit_scale]
        return self.text_side[0], self.text_side[1]

    def _make_origin(self) -> Origin:
        from flip.classify.classifier import Origin
        from flip.cli.context import model_name

        config = self.config
        return Origin(model_name(config, self.dataset), self.fingerprint, config.crop, config.tta)


def _origin(config: HybridConfig, extractor: FeatureExtractor) -> Origin:
    from flip.classify.classifier import Origin

    return Origin(extractor.model.name, extractor.model.fingerprint, config.crop, config.tta)


def _save(config: HybridConfig, classifier: HybridClassifier, fitting: _Fitting) -> None:
    if config.save:
        classifier.save(config.save, fitting.protocol(), overwrite=config.overwrite)
        note(config, f"saved the head in {config.save}; use it with flip hybrid --load {config.save} PHOTO …")


def _rows(predict: Callable[[Sample], Array], test: Sample) -> Any:
    """Return the classifier of prediction rows: they are the very photos that were scored, in the same order."""
    return lambda image_features: (predict(test), None)
