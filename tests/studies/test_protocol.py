"""The numbers, rows and protocol of a result come from one fitted classifier."""

from __future__ import annotations

import numpy as np
import pytest

from flip.classify.classifier import make_head
from flip.classify.knn import KnnClassifier
from flip.classify.training_set import TrainingSet
from flip.errors import ConfigError, DataError, FeatureMismatchError
from flip.features import Features
from flip.studies.protocol import Description, evaluate, run_protocol, score

NAMES = ("a", "b", "c")


def features(per_class: int, seed: int, *, noise: float = 0.9, unreadable: int = 0, split: str = "test") -> Features:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), per_class)
    x = np.eye(3, 8)[labels] + noise * rng.normal(size=(len(labels), 8))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    n = len(labels)
    errors = [None] * (n - unreadable) + ["broken"] * unreadable
    x[n - unreadable :] = 0
    paths = tuple(f"{split}/{i}.jpg" for i in range(n))
    return Features(x, labels, paths, (split,) * n, ((),) * n, tuple(errors), NAMES, NAMES, "print")


def knn(training: TrainingSet, seed: int) -> KnnClassifier:
    return KnnClassifier(k=1).fit(training)


TRAIN, TEST = features(12, 0, split="train"), features(20, 1, unreadable=2)


def test_evaluate_leaves_out_unreadable_photos_and_counts_them():
    classifier = knn(TrainingSet.of(TRAIN), 0)
    evaluation = evaluate(classifier, TEST)
    readable = TEST.readable()
    right = (classifier.predict(readable) == readable.labels).mean()
    assert (evaluation.n, evaluation.unreadable) == (58, 2)
    assert evaluation.top1 == pytest.approx(100 * right)
    assert classifier.score(TEST) == pytest.approx(right)
    assert f"{evaluation.top1:.1f} % (95 %: " in str(evaluation)


def test_rows_are_of_every_photo_in_order():
    outcome = score(knn(TrainingSet.of(TRAIN), 0), TEST)
    rows = outcome.rows(top=2)
    assert [row.path for row in rows] == list(TEST.paths)
    assert [row.error for row in rows] == list(TEST.errors)
    named = [row for row in rows if row.error is None]
    right = np.mean([row.label == row.truth for row in named])
    assert 100 * right == pytest.approx(outcome.evaluation.top1)


@pytest.mark.parametrize("shots", [(1, 4), (4, 1), (1, None)])
def test_few_shot_numbers_rows_and_protocol_are_of_one_named_draw(shots):
    outcome = run_protocol(knn, TRAIN, TEST, shots=shots, seeds=3, about=Description(command="knn"))
    evaluation, last = outcome.evaluation, shots[-1]
    name = "all" if last is None else last
    assert evaluation.protocol["shown_fit"] == f"{name} shots, seed 0"
    assert evaluation.protocol["train_photos"] == (36 if last is None else 3 * last)
    named = [row for row in outcome.rows() if row.error is None]
    assert 100 * np.mean([row.label == row.truth for row in named]) == pytest.approx(evaluation.top1)
    rows = {row["shots"]: row for row in evaluation.details["shots"]}
    assert [row["seeds"] for row in rows.values()] == [1 if k is None else 3 for k in shots]
    alone = run_protocol(knn, TRAIN, TEST, shots=(last,), seeds=1).evaluation
    assert evaluation.top1 == alone.top1, "the first seed of the last number"


def test_the_mean_is_over_every_draw():
    drawn = []

    def fit(training: TrainingSet, seed: int) -> KnnClassifier:
        drawn.append((training, seed))
        return knn(training, seed)

    outcome = run_protocol(fit, TRAIN, TEST, shots=(2,), seeds=4)
    tops = [100 * knn(training, seed).score(TEST) for training, seed in drawn]
    assert [seed for _, seed in drawn] == [0, 1, 2, 3]
    assert outcome.evaluation.details["shots"][0]["top1"] == pytest.approx(np.mean(tops))
    assert len({len(training) for training, _ in drawn}) == 1


def test_generated_images_join_only_the_draws_that_hold_their_photo():
    sources = np.array([0, 35], np.int64)
    training = TrainingSet.of(TRAIN).with_generated(TRAIN.take([0, 35]), sources, 0.5)
    sizes = []

    def fit(given: TrainingSet, seed: int) -> KnnClassifier:
        sizes.append(int((~given.real).sum()))
        return knn(given, seed)

    run_protocol(fit, training, TEST, shots=(1, None), seeds=6)
    assert sizes[-1] == 2
    assert min(sizes[:-1]) == 0
    assert sizes[0:6] != [2] * 6


def test_heads_are_told_the_seed_of_their_draw():
    seeds = []

    def fit(training: TrainingSet, seed: int):
        seeds.append(seed)
        return make_head("linear", seed=seed).fit(training)

    outcome = run_protocol(fit, TRAIN, TEST, shots=(4,), seeds=2)
    assert seeds == [0, 1]
    assert outcome.evaluation.details["shots"][0]["head"] == "linear"


def test_other_classes_and_another_model_are_refused():
    classifier = knn(TrainingSet.of(TRAIN), 0)
    from dataclasses import replace

    with pytest.raises(DataError, match="such as 'd'"):
        evaluate(classifier, replace(TEST, classnames=("a", "b", "d")))
    with pytest.raises(DataError, match="another order"):
        evaluate(classifier, replace(TEST, classnames=("b", "a", "c")))
    with pytest.raises(FeatureMismatchError):
        evaluate(classifier, replace(TEST, fingerprint="other"))


@pytest.mark.parametrize("make", [lambda: KnnClassifier(k=3), lambda: make_head("gda"), lambda: make_head("linear")])
def test_training_photos_are_scored_by_fits_that_did_not_see_them(make):
    """On noise a classifier that learned its photos by heart scores 100 %; held-out fits score about chance."""
    noise = features(20, 7, noise=30.0, split="train")
    outcome = run_protocol(lambda training, seed: make().fit(training), noise, noise)
    assert outcome.evaluation.top1 < 65
    assert outcome.evaluation.protocol["training_photos_scored_by"] in ("leave-one-out", "out-of-fold")
    right = np.mean([row.label == row.truth for row in outcome.rows()])
    assert 100 * right == pytest.approx(outcome.evaluation.top1)


def test_all_splits_mix_held_out_and_plain_predictions():
    both = TRAIN.joined(TEST)
    outcome = run_protocol(knn, TRAIN, both)
    test_alone = run_protocol(knn, TRAIN, TEST)
    assert outcome.evaluation.n == len(TRAIN) + test_alone.evaluation.n
    rows = {row.path: row.label for row in outcome.rows() if row.error is None}
    assert all(rows[row.path] == row.label for row in test_alone.rows() if row.error is None)


def test_training_photos_that_nothing_held_out_are_not_scored():
    one = TRAIN.take([0, 12, 24])
    for make in (lambda: KnnClassifier(k=1), lambda: make_head("gda")):
        with pytest.raises(DataError, match="pass --split test"):
            run_protocol(lambda training, seed, make=make: make().fit(training), one, one)
    with pytest.raises(ConfigError, match="--shots draws its photos from the train split"):
        run_protocol(knn, TRAIN, TRAIN, shots=(1,))
