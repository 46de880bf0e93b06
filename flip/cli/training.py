"""What ``flip knn`` and ``flip hybrid`` share: training samples, few-shot draws, the evaluation they report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flip.cli.context import data_name, model_name, note, open_extractor, progress, read_features
from flip.config import HybridConfig, KnnConfig, TrainedConfig, parse_shots
from flip.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from flip.cli.predicting import Classify
    from flip.data.dataset import Dataset
    from flip.embed.extractor import FeatureExtractor
    from flip.features import Features
    from flip.metrics import Array
    from flip.results import Evaluation


@dataclass(frozen=True)
class Sample:
    """Readable photos with their features and, for ``--text captions``, their captions' (n, d)."""

    features: Features
    captions: Array | None = None

    def take(self, rows: Any) -> Sample:
        """Return these rows."""
        return Sample(self.features.take(rows), None if self.captions is None else self.captions[rows])


@dataclass(frozen=True)
class Training:
    """Training photos: the real ones first, then generated ones, which weigh less and validate nothing.

    ``group`` is None without generated ones; else what was made from a real photo has its number, and other pictures
    have numbers of their own from ``NO_SOURCE`` on.
    """

    sample: Sample
    real: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]
    group: npt.NDArray[np.int64] | None = None

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Labels of shape (n,)."""
        return self.sample.features.labels

    def only(self, real_rows: Any) -> Training:
        """Return these of the real photos, and every generated one that was not made from another."""
        import numpy as np

        if self.group is None:
            return Training(self.sample.take(real_rows), self.real[real_rows], self.weight[real_rows])
        allowed = ~self.real & ((self.group >= NO_SOURCE) | np.isin(self.group, real_rows))
        rows = np.concatenate([real_rows, np.flatnonzero(allowed)])
        return Training(self.sample.take(rows), self.real[rows], self.weight[rows], self.group[rows])


#: From here on a number in ``Training.group`` means a picture that was made from no training photo.
NO_SOURCE = 1 << 40

#: From training photos and a seed to what returns class probabilities (n, c) of other photos.
Fit = Callable[[Training, int], Callable[[Sample], "Array"]]


def open_features(
    config: TrainedConfig, dataset: Dataset, splits: set[str], *, with_text: bool
) -> tuple[Features, FeatureExtractor | None]:
    """Return the features of these splits; a table of embeddings is read without a model where no text is needed."""
    used = dataset if "all" in splits else dataset.take(i for i, r in enumerate(dataset.records) if r.split in splits)
    if dataset.embeddings is not None and not config.model and not with_text and not config.augmented:
        from flip.embed.table import read_table_features

        return read_table_features(used), None
    extractor = open_extractor(config, dataset)
    return read_features(config, used, extractor), extractor


def make_training(config: TrainedConfig, train: Sample, extractor: FeatureExtractor | None) -> Training:
    """Return the training photos, with those of ``--augmented`` behind them."""
    import numpy as np

    n = len(train.features)
    if config.augmented is None or extractor is None:
        return Training(train, np.ones(n, bool), np.ones(n, np.float32))
    generated, sources = _generated(config, train.features, extractor)
    note(
        config,
        f"{len(generated)} generated photos join the {n} real ones with weight {config.augmented_weight:g}",
    )
    captions = None if train.captions is None else caption_features(config, generated, extractor)
    sample = Sample(_joined(train.features, generated), captions)
    if captions is not None and train.captions is not None:
        sample = replace(sample, captions=np.concatenate([train.captions, captions]))
    weight = np.r_[np.ones(n), np.full(len(generated), config.augmented_weight)].astype(np.float32)
    return Training(sample, np.arange(len(weight)) < n, weight, np.r_[np.arange(n), sources])


def caption_features(config: TrainedConfig, features: Features, extractor: FeatureExtractor) -> Array:
    """Return the unit mean of each photo's caption embeddings, shape (n, d).

    Raises
    ------
    DataError
        If a photo has no caption.
    """
    import numpy as np

    without = [path for path, captions in zip(features.paths, features.captions, strict=True) if not captions]
    if without:
        raise DataError(
            f"--text captions: {len(without)} of {len(features)} photos have no caption, the first {without[0]}; "
            "add captions, or pass --text prompts"
        )
    texts = [text for captions in features.captions for text in captions]
    with progress(config, "captions", len(texts)) as advance:
        embedded = extractor.texts(texts, advance)
    starts = np.cumsum([0, *(len(captions) for captions in features.captions)])[:-1]
    means = np.add.reduceat(embedded, starts, axis=0)
    unit: Array = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def few_shot(
    config: TrainedConfig, training: Training, test: Sample, fit: Fit, head: Callable[[], str]
) -> tuple[list[dict[str, Any]], Callable[[Sample], Array]]:
    """Fit once for each draw of ``--shots``.

    Parameters
    ----------
    head : callable
        The name of what was fitted last.

    Returns
    -------
    list of rows, one for each number of shots, and the first fit of the last number
    """
    from flip.data.dataset import few_shot_indices
    from flip.studies.few_shot import Draw, draws, few_shot_rows, short_classes

    labels = training.labels[training.real]
    shots = parse_shots(config.shots)
    for k in shots:
        short = short_classes(labels, k) if k else 0
        if short:
            note(config, f"{k} shots: {short} classes have fewer training photos and give all they have")
    scored: list[tuple[Draw, float, str]] = []
    first: dict[int | None, Callable[[Sample], Array]] = {}
    planned = list(draws(labels, shots, config.seeds, few_shot_indices))
    with progress(config, "draws", len(planned)) as advance:
        for draw in planned:
            predictor = fit(training.only(draw.rows), draw.seed)
            right = predictor(test).argmax(axis=1) == test.features.labels
            scored.append((draw, 100.0 * float(right.mean()), head()))
            first.setdefault(draw.shots, predictor)
            if advance:
                advance(1)
    return few_shot_rows(scored), first[shots[-1]]


def evaluation_of(
    config: KnnConfig | HybridConfig,
    command: str,
    dataset: Dataset,
    probabilities: Array,
    test: Features,
    *,
    unreadable: int,
    protocol: dict[str, Any],
    extra: dict[str, Any],
    start: float,
) -> Evaluation:
    """Return the evaluation of class probabilities (n, c) of the readable photos of a split."""
    from flip import results

    evaluation = results.score_predictions(
        probabilities,
        test.labels,
        dataset.classnames,
        command=command,
        data=data_name(config),
        model=model_name(config, dataset),
        split=config.split,
        protocol={**protocol, "crop": config.crop, "tta": config.tta},
        unreadable=unreadable,
        seconds=time.perf_counter() - start,
        details={**extra, **results.calibration_report(probabilities, test.labels, dataset.classnames, config.reject)},
    )
    if config.plot:
        from flip.report.plots import plot_doubt, plot_few_shot

        title = f"{command}, {len(dataset.classnames)} classes, n {evaluation.n}"
        if "shots" in extra:
            plot_few_shot(config.plot, {command: extra["shots"]}, title)
        else:
            plot_doubt(config.plot, evaluation.details, title)
        note(config, f"drew {config.plot}")
    return evaluation


def without_neighbors(predict: Callable[[Array], Array]) -> Classify:
    """Return a classifier for prediction rows that lists no neighbours."""
    return lambda image_features: (predict(image_features), None)


def _generated(
    config: TrainedConfig, train: Features, extractor: FeatureExtractor
) -> tuple[Features, npt.NDArray[np.int64]]:
    """Return the readable generated photos (m), and for each the row of the photo it was made from, or a number."""
    import numpy as np

    from flip.data.dataset import rows_of_sources
    from flip.data.open import open_dataset

    assert config.augmented is not None
    dataset, classnames = open_dataset(config.augmented), train.classnames
    unknown = [name for name in dataset.classnames if name not in classnames]
    if unknown:
        raise DataError(
            f"{config.augmented} has class {unknown[0]!r}, which the data has not; it has {', '.join(classnames[:5])} …"
        )
    # Where the folder has splits of its own, only what it gives to training is taken.
    dataset = dataset.select("train") if "train" in dataset.splits else dataset
    features = extractor.features(dataset)
    own = np.array([classnames.index(name) for name in dataset.classnames])
    readable = replace(features, labels=own[features.labels], classnames=classnames).require_readable("generated")
    noted = {record.path: record.source for record in dataset.records}
    found = rows_of_sources([noted[path] for path in readable.paths], train.paths)
    alone = range(NO_SOURCE, NO_SOURCE + len(readable))
    kept = [
        row if row is not None and train.labels[row] == label else number
        for row, label, number in zip(found, readable.labels, alone, strict=True)
    ]
    return readable, np.array(kept, np.int64)


def _joined(a: Features, b: Features) -> Features:
    import numpy as np

    return replace(
        a,
        image_features=np.concatenate([a.image_features, b.image_features]),
        labels=np.concatenate([a.labels, b.labels]),
        paths=a.paths + b.paths,
        splits=a.splits + b.splits,
        captions=a.captions + b.captions,
        errors=a.errors + b.errors,
    )
