"""Kernel ridge regression on what the text leaves unexplained."""

from __future__ import annotations

import numpy as np
import pytest

from flip.classify.heads import Inputs, build_head, ridge
from flip.classify.heads.ridge import NOISE, ridge_coefficients, two_width_kernel
from flip.errors import ConfigError
from tests.classify.heads_data import CLASSES, birds, misnamed, photos


def direct_scores(train, labels, test, noise, prior, test_prior, weight):
    """The published formula in float64, by the inverse and without Cholesky: P + k(x, S) (K + λ W⁻¹)⁻¹ (Y − P)."""
    x, q = train.astype(np.float64), test.astype(np.float64)
    mean = x.mean(axis=0)
    scale = np.sqrt(((x - mean) ** 2).sum(axis=1).mean())
    x, q = (x - mean) / scale, (q - mean) / scale

    def kernel(a, b):
        squared = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        return 0.5 * np.exp(-squared / 2) + 0.5 * np.exp(-2 * squared)

    inverse = np.linalg.inv(kernel(x, x) + noise * np.diag(1 / weight))
    return test_prior + kernel(q, x) @ inverse @ (np.eye(CLASSES)[labels] - prior)


def beside(inputs):
    return np.hstack([inputs.image, 0.5 * inputs.text])


@pytest.mark.parametrize("per_class", [1, 2, 6])
def test_scores_equal_the_float64_formula(per_class):
    (inputs, labels), (others, _) = birds(per_class), birds(5, seed=2)
    weight = np.linspace(0.5, 1.5, len(labels)).astype(np.float32)
    head = build_head("ridge", CLASSES).fit(inputs, labels, weight)
    trained, asked = head._trusted(inputs), head._trusted(others)
    if per_class > 1:
        # In the fit a row says nothing about its own name; here nearly all names are trusted all the same.
        np.testing.assert_allclose(head.trust.names, 1, atol=0.1)
    prior = np.exp(trained.zero_shot.astype(np.float64))
    expected = direct_scores(beside(inputs), labels, beside(others), head.noise, prior, np.exp(asked.zero_shot), weight)
    got = head._prior(asked) + two_width_kernel(head._centre(head.view(asked).all()), head.keys) @ head.coefficients
    np.testing.assert_allclose(got, expected, atol=1e-4 if per_class == 1 else 0.02)


@pytest.mark.parametrize("precise", [0, 10_000])
def test_coefficients_solve_the_equations(monkeypatch, precise):
    """In float64 and in float32."""
    monkeypatch.setattr(ridge, "PRECISE_ROWS", precise)
    features, labels = photos(6, seed=3)
    kernel = two_width_kernel(features, features)
    weight = np.linspace(0.2, 1, len(labels)).astype(np.float32)
    residual = np.eye(CLASSES, dtype=np.float32)[labels] - 0.25
    got = ridge_coefficients(kernel, residual, weight, 0.2)
    matrix = kernel.astype(np.float64) + 0.2 * np.diag(1 / weight.astype(np.float64))
    np.testing.assert_allclose(matrix @ got, residual, atol=1e-4)


def test_the_kernel_by_hand():
    rows = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
    apart = 0.5 * np.exp(-0.5) + 0.5 * np.exp(-2.0)
    np.testing.assert_allclose(two_width_kernel(rows, rows), [[1, apart], [apart, 1]], rtol=1e-6)


def test_without_text_the_noise_is_the_default_and_good_text_raises_it():
    inputs, labels = birds(4)
    assert build_head("ridge", CLASSES).fit(Inputs(inputs.image), labels).noise == pytest.approx(NOISE, rel=1e-5)
    assert build_head("ridge", CLASSES).fit(inputs, labels).noise > 1.5 * NOISE


def test_held_out_scores_are_fits_without_the_fold(monkeypatch):
    """Those of the first fold, against a head that is fitted on the other rows with the same noise and centre."""
    inputs, labels = birds(4)
    seen = {}
    monkeypatch.setattr(ridge.RidgeHead, "_calibrate", lambda self, scores, training: seen.update(s=scores, t=training))
    head = build_head("ridge", CLASSES).fit(Inputs(inputs.image), labels)
    fold = seen["t"].folds[0]
    rest = np.setdiff1d(np.arange(len(labels)), fold)
    keys = head._centre(inputs.image)
    counts = np.bincount(labels) / np.bincount(labels[rest])
    solved = ridge_coefficients(
        two_width_kernel(keys[rest], keys[rest]),
        np.eye(CLASSES)[labels[rest]] - 1 / CLASSES,
        counts[labels[rest]].astype(np.float32),
        head.noise,
    )
    expected = 1 / CLASSES + two_width_kernel(keys[fold], keys[rest]) @ solved
    np.testing.assert_allclose(seen["s"][: len(fold)], expected, atol=1e-5)


@pytest.mark.parametrize("per_class", [1, 2])
def test_few_photos_keep_the_order_of_the_scores(per_class):
    (inputs, labels), (others, _) = misnamed(per_class), misnamed(10, seed=2)
    head = build_head("ridge", CLASSES).fit(inputs, labels)
    asked = head._trusted(others)
    scores = head._prior(asked) + two_width_kernel(head._centre(head.view(asked).all()), head.keys) @ head.coefficients
    np.testing.assert_array_equal(head.predict(others), scores.argmax(axis=1))


def test_too_many_photos_are_one_line(monkeypatch):
    monkeypatch.setattr(ridge, "MOST_ROWS", 10)
    inputs, labels = birds(4)
    with pytest.raises(ConfigError, match="ridge takes at most 10 training photos and was given 16; pass --head"):
        build_head("ridge", CLASSES).fit(inputs, labels)
