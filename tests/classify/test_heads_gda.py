"""Gaussian discriminant analysis."""

from __future__ import annotations

import numpy as np
import pytest

from flip.classify.heads import Inputs, build_head
from flip.classify.heads.columns import Columns
from flip.classify.heads.gda import discriminant, fit_gda, moments_of, shrunk_precision
from tests.classify.heads_data import CLASSES, birds, misnamed, photos


def reference(features, labels):
    """The paper's published procedure, in float64 and without chunks."""
    x = features.astype(np.float64)
    means = np.stack([x[labels == c].mean(axis=0) for c in np.unique(labels)])
    centred = x - means[labels]
    n, d = x.shape
    covariance = centred.T @ centred / (n - len(means))
    precision = d * np.linalg.inv((n - 1) * covariance + np.trace(covariance) * np.eye(d))
    weights = precision @ means.T
    prior = np.log(np.bincount(labels) / n)
    return precision, weights, prior - 0.5 * np.einsum("cd,dc->c", means, weights)


def test_the_precision_by_hand():
    covariance = np.diag([1.0, 3.0])
    np.testing.assert_allclose(shrunk_precision(covariance, 3), 2 * np.diag([1 / 6, 1 / 10]))


def test_the_discriminant_by_hand():
    weights, bias = discriminant(np.array([[1.0, 0.0], [0.0, 2.0]]), np.diag([2.0, 1.0]), np.array([0.25, 0.75]))
    np.testing.assert_allclose(weights, [[2, 0], [0, 2]])
    np.testing.assert_allclose(bias, [np.log(0.25) - 1, np.log(0.75) - 2])


@pytest.mark.parametrize(("rows", "width"), [(20_000, 16), (40, 64)])
def test_weights_equal_the_float64_reference(rows, width):
    """More rows than a chunk, and fewer rows than dimensions."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, rows)
    raw = rng.normal(size=(5, width))[labels] + 3 + rng.normal(size=(rows, width)) * rng.uniform(0.1, 2, width)
    features = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    precision, weights, bias = reference(features, labels)
    got_weights, got_bias = fit_gda(*moments(features, labels, 5))
    np.testing.assert_allclose(got_weights, weights, rtol=1e-4, atol=1e-4 * np.abs(weights).max())
    np.testing.assert_allclose(got_bias, bias, rtol=1e-4, atol=1e-4 * np.abs(bias).max())
    x = features.astype(np.float64)
    means = np.stack([x[labels == c].mean(axis=0) for c in range(5)])
    covariance = (x - means[labels]).T @ (x - means[labels]) / (rows - 5)
    np.testing.assert_allclose(shrunk_precision(covariance, rows), precision, rtol=1e-4)


def moments(features, labels, n_classes, weight=None):
    weight = np.ones(len(labels), np.float32) if weight is None else weight
    found = moments_of(Columns(features), labels, weight, n_classes)
    return found, found.counts


def test_alpha_zero_is_zero_shot():
    inputs, labels = birds(6)
    others, _ = birds(5, seed=2)
    for name in ("gda", "tip"):
        head = build_head(name, CLASSES, alpha=0.0).fit(inputs, labels)
        np.testing.assert_allclose(head.logits(others), others.zero_shot, atol=1e-6)


def test_taking_a_fold_off_the_moments_is_fitting_without_it():
    features, labels = photos(9, seed=4)
    ones = np.ones(len(labels), np.float32)
    rows = np.arange(0, len(labels), 3)
    rest = np.setdiff1d(np.arange(len(labels)), rows)
    whole, _ = moments(features, labels, CLASSES)
    part = moments_of(Columns(features[rows]), labels[rows], ones[rows], CLASSES)
    got = fit_gda(whole.without(part), np.ones(CLASSES))
    expected = fit_gda(moments(features[rest], labels[rest], CLASSES)[0], np.ones(CLASSES))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_weight_of_two_is_two_rows_for_the_means_and_a_weight_of_zero_none():
    features, labels = photos(6, seed=4)
    weight = np.ones(len(labels), np.float32)
    weight[0], weight[1] = 2.0, 0.0
    doubled = np.r_[0, np.arange(len(labels))]
    kept = doubled[doubled != 1]
    got, expected = moments(features, labels, CLASSES, weight)[0], moments(features[kept], labels[kept], CLASSES)[0]
    np.testing.assert_allclose(got.counts, expected.counts)
    np.testing.assert_allclose(got.sums, expected.sums, atol=1e-6)
    np.testing.assert_allclose(got.second, expected.second, atol=1e-6)


def test_one_photo_per_class_uses_the_scatter_about_the_grand_mean():
    features, labels = photos(1, seed=4)
    weights, bias = fit_gda(*moments(features, labels, CLASSES))
    assert np.isfinite(weights).all()
    assert ((features @ weights + bias).argmax(axis=1) == labels).all()


def test_wrong_names_get_no_weight_and_the_protocol_says_so():
    inputs, labels = misnamed(8)
    head = build_head("gda", CLASSES).fit(inputs, labels)
    assert head.text_weight * head.alpha == 0 or head.alpha * np.abs(head.weights).max() > 10
    assert "5-fold cross-validation on train" in head.protocol["fusion"]
    assert "image side alone" in build_head("gda", CLASSES).fit(Inputs(inputs.image), labels).protocol["fusion"]
