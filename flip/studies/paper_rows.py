"""The rows of the paper's table: its numbers, how it got them, and how flip gets clean ones.

The paper is *FLIP: Fine-Grained Object Classification using CLIP*; the numbers are those of its text and of the outputs
in its notebooks (CUB-200-2011, 5,994 training and 5,794 test photos, OpenAI's ViT-B/32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial

import numpy as np

from flip.classify.base import Classifier
from flip.classify.classifier import make_head
from flip.classify.knn import KnnClassifier
from flip.classify.settings import KnnSettings
from flip.classify.training_set import TrainingSet
from flip.errors import ConfigError, near_names
from flip.metrics import paired_interval
from flip.studies.paper_bench import CLEAN, PAPER, Bench
from flip.studies.paper_protocol import EPOCHS, ESTIMATORS, PaperKnn, PaperMlp, SklearnClassifier, paper_draw
from flip.studies.protocol import Outcome, run_protocol, score

#: Runs a row under one protocol.
Run = Callable[[Bench], Outcome]

#: flip's head in place of each estimator of the paper; kNN is flip's own.
HEADS = {"logreg": "linear", "svm-linear": "svm-linear", "svm-rbf": "svm-rbf"}

TITLES = {"logreg": "logistic regression", "knn": "kNN", "svm-linear": "linear SVM", "svm-rbf": "RBF SVM"}

#: Products of all training rows by all class weights in a fit under each protocol, roughly.
PASSES = {"logreg": (200, 600), "knn": (20, 100), "svm-linear": (100, 300), "svm-rbf": (100, 300)}

#: How much a generated image counts beside a photo in the clean row of augmentation.
GENERATED_WEIGHT = 0.3


@dataclass(frozen=True)
class Quoted:
    """The paper's number in percent, the one it chose on the test photos where it did, and what to know of them."""

    top1: float | None = None
    best_on_test: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes
    ----------
    name, title, family : str
    quoted : Quoted
    paper, clean : callable or None
        Run it under the paper's protocol, and clean.
    tuned : bool
        Whether the models are fine-tuned first.
    drawn : bool
        Whether it needs generated images.
    fits : tuple of (int, int)
        Fits under each protocol; a clean few-shot row's are multiplied by the number of draws.
    passes : tuple of (int, int)
        Products of all training rows by all class weights in a fit, roughly.
    """

    name: str
    title: str
    family: str
    quoted: Quoted
    paper: Run | None
    clean: Run | None
    tuned: bool = False
    drawn: bool = False
    fits: tuple[int, int] = (1, 1)
    passes: tuple[int, int] = (200, 600)

    def runs(self) -> Iterator[tuple[str, Run]]:
        """Yield each protocol that the row has, with what runs it."""
        for protocol, run in ((PAPER, self.paper), (CLEAN, self.clean)):
            if run is not None:
                yield protocol, run


def select(rows: Sequence[Row], only: str | None) -> list[Row]:
    """Return the rows that ``--only`` names, in the order of the table.

    Parameters
    ----------
    rows : sequence of Row
    only : str or None
        Names, families or patterns, separated by commas; all rows without it.

    Raises
    ------
    ConfigError
        If an item names no row.
    """
    if only is None:
        return list(rows)
    chosen: set[str] = set()
    for item in (part.strip() for part in only.split(",")):
        found = [row.name for row in rows if row.name == item]
        found = found or [row.name for row in rows if row.family == item or fnmatchcase(row.name, item)]
        if not found:
            words = [*(row.name for row in rows), *dict.fromkeys(row.family for row in rows)]
            families = ", ".join(dict.fromkeys(row.family for row in rows))
            raise ConfigError(
                f"--only {item!r} is no row{near_names(item, words)}; pass a family ({families}), a pattern such as "
                "'full-*', or a name that --dry-run lists"
            )
        chosen.update(found)
    return [row for row in rows if row.name in chosen]


def zero_shot_paper(bench: Bench, tuned: bool) -> Outcome:
    """Raw class names in "a photo of a {}"."""
    model = PAPER if tuned else None
    test = bench.features(model).split("test")
    return score(bench.zero_shot("paper", model), test, bench.about(PAPER, tuned))


def zero_shot_clean(bench: Bench, tuned: bool) -> Outcome:
    """Clean class names in the prompts that name the training photos best."""
    model = CLEAN if tuned else None
    test = bench.features(model).split("test")
    chosen = {"prompts_chosen_by": "zero-shot accuracy on the training photos, of plain, bird and clip"}
    return score(bench.zero_shot(bench.best_prompts(model), model), test, bench.about(CLEAN, tuned, **chosen))


def estimator_paper(bench: Bench, name: str, shots: int | None, captions: bool, tuned: bool) -> Outcome:
    """Scikit-learn's estimator over unnormalised features; few shots are one draw."""
    return _fit_as_paper(bench, SklearnClassifier(name, captions=captions), shots, captions, tuned)


def knn_paper(bench: Bench, tuned: bool) -> Outcome:
    """Scikit-learn's kNN at k = 5, with the sweep."""
    return _fit_as_paper(bench, PaperKnn("knn"), None, False, tuned)


def mlp_paper(bench: Bench, tuned: bool) -> Outcome:
    """The paper's network over photo and caption, with all epochs."""
    return _fit_as_paper(bench, PaperMlp(bench.seed), None, True, tuned)


def _fit_as_paper(bench: Bench, classifier: Classifier, shots: int | None, captions: bool, tuned: bool) -> Outcome:
    features = bench.raw(PAPER if tuned else None, captions)
    train, test = features.split("train").require_readable("train"), features.split("test")
    draw = {}
    if shots is not None:
        train = train.take(paper_draw(train.labels, shots))
        draw = {"shots": shots, "draw": "one, seed 42"}
    return score(classifier.fit(train), test, bench.about(PAPER, tuned, **draw))


def classifier_clean(bench: Bench, name: str, shots: int | None, text: bool, tuned: bool) -> Outcome:
    """flip's kNN or head; its choices by cross-validation on the training photos, its text class prompts."""
    model = CLEAN if tuned else None
    features = bench.features(model)
    train = features.split("train").require_readable("train")
    zero_shot = bench.zero_shot(bench.best_prompts(model), model) if text else None
    side = "prompts" if text else "none"
    # Draws of all photos are one.
    few = shots is not None and int(np.bincount(train.labels).max()) > shots

    def fit(training: TrainingSet, seed: int) -> Classifier:
        if name == "knn":
            own = zero_shot.text if zero_shot else None
            return KnnClassifier(KnnSettings(text=side), text=own, seed=seed).fit(training)
        return make_head(HEADS.get(name, name), text=side, zero_shot=zero_shot, seed=seed).fit(training)

    return run_protocol(
        fit,
        train,
        features.split("test"),
        shots=(shots,) if few else (),
        seeds=bench.settings.seeds,
        seed=bench.seed,
        about=bench.about(CLEAN, tuned, **({} if shots is None else {"shots": shots if few else "all photos"})),
    )


def augmentation_paper(bench: Bench) -> Outcome:
    """Logistic regression over photos and all generated images, each counting 1."""
    features, extra = bench.raw(None, False), bench.raw_generated()
    train, test = features.split("train").require_readable("train"), features.split("test")
    without = score(SklearnClassifier("logreg").fit(train), test)
    about = bench.about(PAPER, generated=len(extra), generated_weight=1.0)
    return _gain(score(SklearnClassifier("logreg").fit(train.joined(extra)), test, about), without)


def augmentation_clean(bench: Bench) -> Outcome:
    """A linear head over photos and the generated images that zero-shot names rightly, which count less."""
    features, found = bench.features(), bench.generated()
    train, test = TrainingSet.of(features.split("train").require_readable("train")), features.split("test")
    names = bench.zero_shot(bench.best_prompts())
    kept = np.flatnonzero(names.predict(found.features) == found.features.labels)
    both = train.with_generated(found.features.take(kept), found.sources[kept], GENERATED_WEIGHT)
    about = bench.about(CLEAN, generated=len(kept), left_out=len(found.features) - len(kept))
    without = score(make_head("linear", seed=bench.seed).fit(train), test)
    return _gain(score(make_head("linear", seed=bench.seed).fit(both), test, about), without)


def _gain(outcome: Outcome, without: Outcome) -> Outcome:
    """Return an outcome whose details say what it gained over another on the same photos."""
    rows = [error is None for error in outcome.features.errors]
    labels = outcome.features.labels[rows]
    right = [o.probabilities[rows].argmax(axis=1) == labels for o in (outcome, without)]
    difference, low, high = paired_interval(*right)
    gain = {"without": without.evaluation.top1, "difference": difference, "ci95": [low, high]}
    evaluation = outcome.evaluation
    return replace(outcome, evaluation=replace(evaluation, details={**evaluation.details, "gain": gain}))


#: The notebooks' numbers of the four estimators, in the order of ``ESTIMATORS``: stock, and fine-tuned.
_SHOTS_10 = ((65.33, 48.21, 64.20, 58.75), (66.31, 52.31, 65.81, 60.46))
_SHOTS_5_CAPTIONS = ((48.50, 31.05, 47.10, 42.84), (50.48, 34.40, 49.69, 43.99))
_FULL = ((74.28, 57.78, 72.94, 71.71), (75.18, 62.29, 73.39, 71.59))
_FULL_CAPTIONS = ((None,) * 4, (72.66, 51.12, 71.25, 65.65))
_NO_NOTEBOOK = "the notebook of this name holds the run with 5 shots"


def _estimators(
    name: str, what: str, numbers: Sequence[Sequence[float | None]], shots: int | None, captions: bool
) -> Iterator[Row]:
    for tuned, own in zip((False, True), numbers, strict=True):
        for kind, top1 in zip(ESTIMATORS, own, strict=True):
            yield Row(
                name=f"{name}-{kind}{_suffix(tuned)}",
                title=f"{TITLES[kind]}, {what}{_title(tuned)}",
                family="supervised" if shots is None else "few-shot",
                quoted=Quoted(top1, note="" if top1 is not None else _NO_NOTEBOOK),
                paper=partial(estimator_paper, name=kind, shots=shots, captions=captions, tuned=tuned),
                clean=partial(classifier_clean, name=kind, shots=shots, text=captions, tuned=tuned),
                tuned=tuned,
                passes=PASSES[kind],
            )


def _pair(
    name: str,
    title: str,
    family: str,
    quoted: tuple[Quoted, Quoted],
    paper: Callable[..., Outcome] | None,
    clean: Callable[..., Outcome],
    fits: tuple[int, int] = (1, 1),
    passes: tuple[int, int] = (200, 600),
) -> Iterator[Row]:
    """Yield a row on the stock model, and the same on the fine-tuned ones."""
    for tuned, own in zip((False, True), quoted, strict=True):
        yield Row(
            name=name + _suffix(tuned),
            title=title + _title(tuned),
            family=family,
            quoted=own,
            paper=partial(paper, tuned=tuned) if paper else None,
            clean=partial(clean, tuned=tuned),
            tuned=tuned,
            fits=fits,
            passes=passes,
        )


def _suffix(tuned: bool) -> str:
    return "-finetuned" if tuned else ""


def _title(tuned: bool) -> str:
    return ", fine-tuned" if tuned else ""


_MLP = partial(classifier_clean, name="mlp", shots=None, text=True)
_AUTO = partial(classifier_clean, name="auto", shots=None, text=True)
_KNN = partial(classifier_clean, name="knn", shots=None, text=False)

#: Every row of the table, in its order.
ROWS: tuple[Row, ...] = (
    *_pair(
        *("zeroshot", "zero-shot", "zero-shot"),
        (
            Quoted(45.56),
            Quoted(note="the paper's gain of 3.5 in “zero-shot” is the mean gain of kNN over k"),
        ),
        zero_shot_paper,
        zero_shot_clean,
        fits=(0, 0),
    ),
    *_pair(
        *("knn", "kNN, k = 3…20", "nearest-neighbours"),
        (
            Quoted(57.78, 60.0, "k = 5; “around 60” at the best k, read from its plot"),
            Quoted(62.29, note="k = 5"),
        ),
        knn_paper,
        _KNN,
        fits=(18, 1),
        passes=(20, 100),
    ),
    *_estimators("shots10", "10 shots, image", _SHOTS_10, 10, False),
    *_estimators("shots5-captions", "5 shots, image + caption", _SHOTS_5_CAPTIONS, 5, True),
    *_estimators("full", "all photos, image", _FULL, None, False),
    *_estimators("full-captions", "all photos, image + caption", _FULL_CAPTIONS, None, True),
    *_pair(
        *("mlp", "hybrid network, image + caption", "hybrid"),
        (
            Quoted(73.49, 74.59, f"last of {EPOCHS} epochs; best on test"),
            Quoted(73.82, 75.18, f"last of {EPOCHS} epochs; the best on test is the paper's headline"),
        ),
        mlp_paper,
        _MLP,
        passes=(2000, 2000),
    ),
    Row(
        name="augmentation",
        title="logistic regression with generated images",
        family="augmentation",
        drawn=True,
        quoted=Quoted(note="“did not lead to an improvement”; no number"),
        paper=augmentation_paper,
        clean=augmentation_clean,
        fits=(2, 2),
    ),
    *_pair(
        *("best", "flip's best: head auto with class prompts", "best"),
        (Quoted(note="not in the paper"), Quoted(75.18, note="the paper's best number")),
        None,
        _AUTO,
        fits=(0, 1),
        passes=(0, 5000),
    ),
)
