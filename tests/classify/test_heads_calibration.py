"""Temperatures, logit weights and mixtures from held-out rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from flip.classify.calibration import (
    fit_logit_weights,
    fit_mixture,
    fit_temperature,
    row_losses,
    softmax,
    temperature_of,
)
from flip.metrics import expected_calibration_error


def drawn(n: int, sharpness: float, seed: int = 0):
    """Logits, and labels drawn from softmax(sharpness · logits)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 5)).astype(np.float32)
    probabilities = softmax(sharpness * logits)
    return logits, (probabilities.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


def test_softmax_by_hand():
    np.testing.assert_allclose(softmax(np.array([[0.0, np.log(3.0)]])), [[0.25, 0.75]], atol=1e-6)
    np.testing.assert_allclose(softmax(np.array([[0.0, np.log(9.0)]]), temperature=2.0), [[0.25, 0.75]], atol=1e-6)
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4]])), [[0.5, 0.5]])
    np.testing.assert_allclose(row_losses(np.array([[1e4, 1e4]]), np.array([0])), [np.log(2)])
    np.testing.assert_allclose(row_losses(np.array([[0.0, np.log(3.0)]]), np.array([1])), [np.log(4 / 3)])


def test_temperature_is_the_one_of_least_log_loss():
    logits, labels = drawn(4000, sharpness=2.0)
    temperature = fit_temperature(logits, labels)
    best = minimize_scalar(lambda t: row_losses(logits / t, labels).mean(), bounds=(0.05, 5), method="bounded").x
    assert temperature == pytest.approx(best, rel=0.01)
    assert temperature == pytest.approx(0.5, rel=0.1)


def test_calibration_lowers_the_calibration_error():
    logits, labels = drawn(2000, sharpness=1.0)
    overconfident = 5 * logits
    fitted = softmax(overconfident[1000:], fit_temperature(overconfident[:1000], labels[:1000]))
    before = expected_calibration_error(softmax(overconfident[1000:]), labels[1000:])
    assert expected_calibration_error(fitted, labels[1000:]) < 0.3 * before


def test_a_few_rows_that_are_all_right_leave_the_temperature_finite():
    temperature = fit_temperature(np.eye(3, dtype=np.float32), np.arange(3))
    assert 0.1 < temperature < 1


def test_logits_that_say_nothing_get_no_weight():
    logits, labels = drawn(3000, sharpness=2.0)
    noise = np.random.default_rng(5).normal(size=logits.shape).astype(np.float32)
    useful, useless = fit_logit_weights([logits, noise], labels).weights
    assert useful == pytest.approx(2.0, rel=0.1)
    assert useless < 0.1
    assert fit_logit_weights([-logits], labels).weights[0] == 0
    assert np.isfinite(temperature_of(0.0))


def test_biases_correct_a_class_that_is_named_too_readily():
    logits, labels = drawn(3000, sharpness=2.0)
    shift = np.array([1.5, 0, 0, 0, 0], np.float32)
    fitted = fit_logit_weights([2 * logits + shift], labels, bias_variance=1.0)
    np.testing.assert_allclose(fitted.bias - fitted.bias[1:].mean(), -shift, atol=0.2)
    assert fitted.log_loss < fit_logit_weights([2 * logits + shift], labels).log_loss
    assert not fit_logit_weights([logits], labels).bias.any()


def test_mixture_weights_prefer_the_better_and_stay_even_with_few_rows():
    logits, labels = drawn(2000, sharpness=3.0)
    good, even = softmax(3 * logits), np.full((2000, 5), 0.2, np.float32)
    many = fit_mixture([good, even], labels)
    assert many.sum() == pytest.approx(1)
    assert many[0] > 0.9
    few = fit_mixture([good[:3], even[:3]], labels[:3])
    assert abs(few[0] - 0.5) < 0.1
