"""What looks alike: order of classes, nearest photos, doubtful labels, the map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from flip.features import Features
from flip.report.album import make_content
from flip.report.charts import coverage_chart, few_shot_chart, reliability_chart
from flip.report.rows import read_runs
from flip.report.similarity import alike_order, doubtful_labels, leave_one_out_votes, nearest, project
from flip.results import Run

RunOf = Callable[..., Run]


def make_features(vectors: list[list[float]], labels: list[int], splits: str) -> Features:
    matrix = np.array(vectors, np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    n = len(labels)
    return Features(
        image_features=matrix,
        labels=np.array(labels),
        paths=tuple(f"{i}.jpg" for i in range(n)),
        splits=tuple({"e": "test", "r": "train"}[s] for s in splits),
        captions=((),) * n,
        errors=(None,) * n,
        classnames=("cat", "dog"),
        raw_names=("cat", "dog"),
        fingerprint="f",
    )


def test_confused_classes_stand_together() -> None:
    confusions = np.diag([10] * 6)
    for a, b in ((0, 3), (1, 4), (2, 5)):
        confusions[a, b] = 5
    order = alike_order(confusions).tolist()
    assert sorted(order) == list(range(6))
    assert all(abs(order.index(a) - order.index(a + 3)) == 1 for a in range(3))
    assert alike_order(np.diag([3, 4])).tolist() == [0, 1]


def test_embeddings_decide_where_nothing_is_confused() -> None:
    means = np.array([[1, 0], [0, 1], [0.9, 0.1], [0.1, 0.9]], np.float32)
    order = alike_order(np.diag([5] * 4), means / np.linalg.norm(means, axis=1, keepdims=True)).tolist()
    assert abs(order.index(0) - order.index(2)) == abs(order.index(1) - order.index(3)) == 1


def test_nearest_leaves_itself_out() -> None:
    photos = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    rows, cosines = nearest(photos, photos, 2, itself=np.array([0, 1, -1]))
    assert rows.tolist() == [[1, 2], [0, 2], [2, 1]]
    assert cosines[0] == pytest.approx([0.8, 0])


def test_leave_one_out_votes_by_hand() -> None:
    features = make_features([[1, 0], [1, 0], [0, 1]], [0, 0, 1], "rrr")
    votes = leave_one_out_votes(features)
    # Of the first photo's others one is at cosine 1 and one at 0: exp(-1 / 0.07) against 1.
    other = np.exp(-1 / 0.07)
    assert votes[0] == pytest.approx([1 / (1 + other), other / (1 + other)])
    assert votes[2] == pytest.approx([1, 0])


def test_doubt_is_the_mean_of_the_judges(run_of: RunOf) -> None:
    rows = [("0.jpg", "cat", {"dog": 0.8, "cat": 0.2}), ("1.jpg", "dog", {"dog": 0.9, "cat": 0.1})]
    others = [("0.jpg", "cat", {"dog": 0.6, "cat": 0.4}), ("1.jpg", "dog", {"dog": 0.9, "cat": 0.1})]
    scored = read_runs([run_of("a", rows), run_of("b", others)])
    (doubt,) = doubtful_labels(make_content(scored, [None, None]), 10)
    assert (doubt.photo, doubt.judges) == (0, 2)
    assert (doubt.probability, doubt.label_probability) == pytest.approx((0.7, 0.3))
    # A training photo among dogs that is called a cat is judged by its neighbours alone.
    features = make_features([[1, 0], [0, 1], [0, 1], [0, 1], [0.01, 1]], [0, 1, 1, 1, 0], "eerrr")
    features = replace(features, paths=("0.jpg", "1.jpg", "r1", "r2", "r3"))
    content = make_content(scored, [features, features])
    doubts = {content.album.paths[d.photo]: d for d in doubtful_labels(content, 10)}
    assert doubts["r3"].judges == 1
    assert doubts["r3"].probability == pytest.approx(1, abs=1e-5)
    assert doubts["0.jpg"].judges == 3, "one model is asked once"


def test_the_map_keeps_clusters_apart_and_is_the_same_again() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(c * 8, 1, (20, 6)) for c in (-1, 1)]).astype(np.float32)
    places, method = project(vectors)
    assert (method, places.shape) == ("t-SNE", (40, 2))
    assert np.array_equal(places, project(vectors)[0])
    own = np.linalg.norm(places[:20] - places[:20].mean(0), axis=1).mean()
    assert np.linalg.norm(places[:20].mean(0) - places[20:].mean(0)) > 2 * own
    assert project(vectors[:5])[1] == "PCA"
    assert project(vectors[:2])[0].tolist() == [[0, 0], [0, 0]]


def test_charts_hold_the_numbers_of_the_result(run_of: RunOf) -> None:
    rng = np.random.default_rng(1)
    rows = []
    for i in range(60):
        score = float(np.float32(rng.uniform(0.5, 1)))
        truth = "cat" if rng.random() < score else "dog"
        rows.append((f"{i}.jpg", truth, {"cat": score, "dog": 1 - score}))
    shots = [{"shots": k, "top1": t, "ci95": c, "seeds": 3} for k, t, c in ((1, 40, [30, 50]), ("all", 70.0, None))]
    scored = read_runs([run_of("a", rows, details={"shots": shots})])
    details = scored[0].run.evaluation.details
    table = reliability_chart(scored).table
    assert [row[1:3] for row in table] == [
        (f"{100 * b['confidence']:.1f}", f"{100 * b['accuracy']:.1f}") for b in details["reliability"]
    ]
    coverage = {row[1]: row[2] for row in coverage_chart(scored).table}
    for row in details["coverage"]:
        assert coverage[f"{100 * row['coverage']:.0f}"] == f"{row['top1']:.1f}"
    assert few_shot_chart(scored).table == (("a", "1", "40.0", "30.0 to 50.0"), ("a", "all", "70.0", "one draw"))
