"""Trust in class names."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from flip.classify.heads import build_head
from flip.classify.heads.checks import check_training
from flip.classify.heads.trust import (
    OwnTrust,
    TextTrust,
    fit_trust,
    least_squares_weight,
    log_gains,
    own_trust,
    trust_names,
    trusted_logits,
)
from flip.classify.text_side import build_text_side
from tests.classify.heads_data import birds, misnamed, unit

MANY, WIDTH = 20, 16


def named(per_class: int, wrong: int, seed: int = 0):
    """Zero-shot logits (n, 20) of photos around their names, the first ``wrong`` names dealt out anew; labels."""
    rng = np.random.default_rng(seed)
    names = rng.normal(size=(MANY, WIDTH))
    labels = np.repeat(np.arange(MANY), per_class)
    image = names[labels] + 0.6 * rng.normal(size=(len(labels), WIDTH))
    dealt = np.r_[np.roll(np.arange(wrong), 1), np.arange(wrong, MANY)].astype(int)
    return (image @ names[dealt].T).astype(np.float32), labels


def every(labels):
    return np.ones(len(labels), bool)


@pytest.mark.parametrize(("per_class", "wrong"), [(1, 0), (1, 10), (2, 10), (5, 10), (5, 4)])
def test_wrong_names_are_told_from_right_ones(per_class, wrong):
    zero_shot, labels = named(per_class, wrong)
    trust = fit_trust(zero_shot, labels, every(labels))
    assert trust.names[wrong:].mean() > 0.9
    assert not wrong or trust.names[:wrong].mean() < 0.3
    assert trust.share == pytest.approx(1 - wrong / MANY, abs=0.15)


@pytest.mark.parametrize("per_class", [1, 3, 8])
def test_names_that_are_all_wrong_are_left_out(per_class):
    zero_shot, labels = named(per_class, MANY)
    trusted = trust_names(zero_shot, labels, every(labels), None)
    assert trusted.logits is None
    assert not trusted.trust.counts


def test_probabilities_equal_the_float64_formula():
    zero_shot, _ = named(2, 5)
    names = np.random.default_rng(3).random(MANY)
    said = softmax(0.7 * zero_shot.astype(np.float64), axis=1)
    pool = (said * (1 - names)).sum(axis=1, keepdims=True) / (1 - names).sum()
    expected = 0.8 * (names * said + (1 - names) * pool) + 0.2 / MANY
    got = np.exp(trusted_logits(zero_shot, TextTrust(0.7, 0.5, names, 0.8)))
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)


def test_trusted_names_are_zero_shot_at_the_scale():
    zero_shot, _ = named(2, 0)
    got = trusted_logits(zero_shot, TextTrust(0.3, 1.0, np.ones(MANY)))
    np.testing.assert_allclose(got, log_softmax(0.3 * zero_shot, axis=1), atol=0.02)
    np.testing.assert_allclose(np.exp(got), softmax(0.3 * zero_shot, axis=1), atol=1e-6)


def test_the_least_squares_weight_is_the_direct_solution():
    zero_shot, labels = named(4, 8)
    logs = log_softmax(2.0 * zero_shot, axis=1)
    x, y = np.exp(logs) - 1 / MANY, np.eye(MANY)[labels] - 1 / MANY
    expected = np.linalg.lstsq(x.reshape(-1, 1), y.ravel(), rcond=None)[0][0]
    assert 0 < expected < 1
    assert least_squares_weight(logs, labels) == pytest.approx(expected, rel=1e-5)


def test_gains_are_smoothed_log_likelihoods_over_chance():
    zero_shot, labels = named(1, 0)
    logs = log_softmax(0.5 * zero_shot.astype(np.float64), axis=1)
    smoothing = 1 / (MANY + 2)
    expected = (1 - smoothing) * logs[np.arange(MANY), labels] + smoothing * logs.mean(axis=1) + np.log(MANY)
    np.testing.assert_allclose(log_gains(zero_shot, labels, 0.5), expected, rtol=1e-5)


def test_a_row_says_nothing_about_its_own_name():
    """The trust in a row's own name, by the others, equals that of a fit without it at the same scale and share."""
    zero_shot, labels = named(3, 10)
    trust = fit_trust(zero_shot, labels, every(labels))
    group = np.r_[0, 0, np.arange(2, len(labels))]
    own = own_trust(zero_shot, labels, every(labels), group, trust)
    gains = log_gains(zero_shot, labels, trust.scale)
    prior = np.log(trust.share) - np.log1p(-trust.share)
    assert own.names[0] == own.names[1] == pytest.approx(1 / (1 + np.exp(-prior - gains[2])))
    assert own.names[5] == pytest.approx(1 / (1 + np.exp(-prior - gains[3] - gains[4])))


def test_own_trust_stands_at_the_rows_own_name_only():
    zero_shot, labels = named(1, 0)
    trust = TextTrust(0.5, 0.5, np.full(MANY, 0.9))
    changed = trusted_logits(zero_shot, trust, OwnTrust(labels, np.full(MANY, 0.1)))
    for row in (0, 7, 19):
        names = np.full(MANY, 0.9)
        names[labels[row]] = 0.1
        np.testing.assert_allclose(
            changed[row], trusted_logits(zero_shot[[row]], TextTrust(0.5, 0.5, names))[0], atol=1e-5
        )


def test_generated_images_are_no_evidence():
    zero_shot, labels = named(2, 0)
    real = np.tile([True, False], MANY)
    nonsense = zero_shot.copy()
    nonsense[~real] = np.roll(nonsense[~real], 3, axis=1)
    got, expected = fit_trust(nonsense, labels, real), fit_trust(zero_shot[real], labels[real], every(labels[real]))
    np.testing.assert_allclose(got.names, expected.names, atol=1e-6)
    assert got.scale == pytest.approx(expected.scale)


def test_more_logits_than_a_chunk_change_nothing(monkeypatch):
    from flip.classify.heads import trust as module

    zero_shot, labels = named(4, 10)
    whole = trust_names(zero_shot, labels, every(labels), np.arange(len(labels)))
    monkeypatch.setattr(module, "CHUNK", 5 * MANY)
    parts = trust_names(zero_shot, labels, every(labels), np.arange(len(labels)))
    np.testing.assert_allclose(parts.logits, whole.logits, atol=1e-5)
    monkeypatch.setattr(module, "MOST_LOGITS", 40 * MANY)
    assert trust_names(zero_shot, labels, every(labels), None).trust.scale == pytest.approx(whole.trust.scale, rel=0.5)


@pytest.mark.parametrize("name", ["ridge", "linear", "gda", "auto"])
def test_half_of_the_names_wrong_keeps_what_the_other_half_gives(name):
    """Photos of the rightly named classes gain as much over no text as with all names right, less a tenth."""
    names = np.random.default_rng(0).normal(size=(MANY, WIDTH))
    half = names[np.r_[np.roll(np.arange(10), 1), np.arange(10, MANY)]]

    def drawn(per_class, seed):
        classes = np.repeat(np.arange(MANY), per_class)
        noise = np.random.default_rng(seed).normal(size=(len(classes), WIDTH))
        return unit(names[classes] + 1.3 * noise), classes

    (features, labels), (others, truth) = drawn(2, 1), drawn(60, 2)
    good = truth >= 10

    def correct(of):
        of = None if of is None else unit(of)
        head = build_head(name, MANY).fit(build_text_side(features, of, 20.0), labels)
        return (head.predict(build_text_side(others, of, 20.0)) == truth)[good].mean()

    alone, all_right, half_right = correct(None), correct(names), correct(half)
    assert all_right > alone + 0.05
    assert half_right - alone >= 0.9 * (all_right - alone)


def test_the_protocol_says_how_far_names_are_trusted():
    inputs, labels = birds(4)
    assert "0 of 4 not trusted" in build_head("gda", 4).fit(inputs, labels).protocol["class names"]
    wrong, labels = misnamed(4)
    assert "left out: zero-shot is at chance" in build_head("gda", 4).fit(wrong, labels).protocol["class names"]


def test_a_given_alpha_takes_zero_shot_as_it_is():
    inputs, labels = misnamed(4)
    assert build_head("gda", 4, alpha=0.5).fit(inputs, labels).trust is None
    assert check_training(inputs, labels, None, None, 4, 0, weigh_text=False).inputs is inputs
