"""Zero-shot corrected by the unlabelled photos that are scored."""

from __future__ import annotations

import numpy as np
import pytest

from flip.classify.transductive import class_predictions, log_prior, stationary
from flip.classify.zeroshot import ZeroShotClassifier
from tests.classify.features_data import CLASSNAMES, bird_features
from tests.classify.heads_data import class_embeddings

CLASSES = 6


def biased(seed: int, per_class: int = 60, bias: float = 3.0):
    """Logits (n, 6) that favour one class, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), per_class)
    logits = 4.0 * np.eye(CLASSES)[labels] + 1.5 * rng.normal(size=(len(labels), CLASSES))
    logits[:, seed % CLASSES] += bias
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_a_favoured_name_loses_its_advantage(seed):
    logits, labels = biased(seed)
    prior = log_prior(logits)
    assert prior.argmax() == seed % CLASSES
    before, after = (np.mean(x.argmax(axis=1) == labels) for x in (logits, logits - prior))
    assert after > before + 0.05


def test_unbiased_logits_stay_nearly_as_they_are():
    logits, _ = biased(2, per_class=300, bias=0.0)
    prior = log_prior(logits)
    assert np.ptp(prior) < 0.3


def test_the_order_of_the_photos_and_a_constant_do_not_matter():
    logits, _ = biased(1)
    order = np.random.default_rng(0).permutation(len(logits))
    np.testing.assert_allclose(log_prior(logits[order]), log_prior(logits), atol=1e-5)
    np.testing.assert_allclose(log_prior(logits + 7), log_prior(logits), atol=1e-4)


def test_stationary_is_the_leading_eigenvector_of_the_transpose():
    predictions = np.random.default_rng(0).dirichlet(np.ones(5), size=5)
    values, vectors = np.linalg.eig(predictions.T)
    leading = np.real(vectors[:, np.argmax(np.real(values))])
    np.testing.assert_allclose(stationary(predictions), leading / leading.sum(), atol=1e-8)


def test_predictions_by_hand():
    """Two sure photos of class 0, one of class 1 that is not sure, none of class 2."""
    probabilities = np.array([[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.3, 0.4, 0.3]])
    got = class_predictions(np.log(probabilities).astype(np.float32))
    np.testing.assert_allclose(got, [[0.8, 0.125, 0.075], [0, 1, 0], [0, 0, 1]], atol=1e-6)


def test_the_result_is_declared_with_the_plain_number_beside_it():
    features = bird_features(30, seed=3)
    plain = ZeroShotClassifier(class_embeddings(), 10.0, CLASSNAMES, "one")
    classifier = plain.transductive()
    assert "without their labels" in classifier.protocol["transductive"]
    assert "transductive" not in plain.protocol
    details = classifier.details_on(features)["plain"]
    assert details["top1"] == pytest.approx(100 * plain.score(features))
    assert details["ci95"][0] < details["top1"] < details["ci95"][1] or details["top1"] == 100
    logits = plain.text.logits(features.image_features)
    expected = (logits - log_prior(logits)).argmax(axis=1)
    np.testing.assert_array_equal(classifier.predict(features), expected)
