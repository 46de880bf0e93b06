"""Tip-Adapter."""

from __future__ import annotations

import numpy as np
import pytest

from flip.classify.heads import Inputs, build_head
from flip.classify.heads.tip import TipHead, affinities, unit_rows
from tests.classify.heads_data import CLASSES, birds, photos


def test_affinities_by_hand():
    np.testing.assert_allclose(affinities(np.array([[1.0, 0.0, -1.0]]), 2.0), [[1, np.exp(-2), np.exp(-4)]], rtol=1e-6)


def test_scores_are_the_papers_formula():
    """exp(−β (1 − f · F_train)) times one-hot labels, whatever the order of the keys."""
    features, labels = photos(5, seed=1)
    order = np.random.default_rng(0).permutation(len(labels))
    head = TipHead(CLASSES, alpha=1.0, tune=False).fit(Inputs(features[order]), labels[order])
    others, _ = photos(4, seed=2)
    beta = head.setting["beta"]
    expected = np.exp(-beta * (1 - others @ features.T)) @ np.eye(CLASSES)[labels]
    np.testing.assert_allclose(head.scores(head.view(Inputs(others))), expected, rtol=1e-4)


def test_a_generated_photo_votes_with_its_weight():
    features, labels = photos(4, seed=1)
    weight = np.linspace(0.2, 1, len(labels)).astype(np.float32)
    head = TipHead(CLASSES, tune=False).fit(Inputs(features), labels, weight)
    expected = np.exp(-head.setting["beta"] * (1 - features @ features.T)) @ (weight[:, None] * np.eye(CLASSES)[labels])
    np.testing.assert_allclose(head.scores(head.view(Inputs(features))), expected, rtol=1e-4)


def test_beta_and_alpha_come_from_held_out_rows():
    inputs, labels = birds(6)
    head = build_head("tip", CLASSES).fit(inputs, labels)
    assert "cross-validation on train" in head.protocol["beta"]
    assert head.alpha > 0


def test_tuning_the_keys_lowers_the_training_loss():
    from flip.classify.calibration import row_losses
    from flip.classify.heads.checks import check_training
    from flip.classify.heads.columns import Columns

    features, labels = photos(10, seed=1, noise=0.6)
    training = check_training(Inputs(features), labels, None, None, CLASSES, 0)
    head = TipHead(CLASSES)
    order = head._store(Columns(features), training)
    setting = {"beta": 5.5, "epochs": 20, "tuning": [0.0, 1.0]}
    before = row_losses(head._votes(affinities(head.keys @ head.keys.T, 5.5), head.weight), labels[order]).mean()
    keys = head._tune_keys(training, order, head.weight, setting)
    after = row_losses(head._votes(affinities(head.keys @ keys.T, 5.5), head.weight), labels[order]).mean()
    assert after < before


def test_tuned_keys_step_down_the_gradient():
    """The first step of the keys goes against the numerical gradient of the log-loss."""
    from flip.classify.calibration import row_losses
    from flip.classify.heads import tip
    from flip.classify.heads.checks import check_training
    from flip.classify.heads.columns import Columns

    features, labels = photos(3, seed=1)
    training = check_training(Inputs(features), labels, None, None, CLASSES, 0)
    head = TipHead(CLASSES)
    order = head._store(Columns(features), training)
    keys = head.keys.astype(np.float64)

    def loss(moved):
        votes = np.exp(5.5 * (keys @ moved.T - 1)) @ np.eye(CLASSES)[labels[order]]
        return row_losses(votes, labels[order]).mean()

    step = head._tune_keys(training, order, head.weight, {"beta": 5.5, "epochs": 1, "tuning": [0.0, 1.0]}) - head.keys
    for i, j in ((0, 0), (4, 3), (11, 11)):
        nudge = np.zeros_like(keys)
        nudge[i, j] = 1e-5
        slope = (loss(keys + nudge) - loss(keys - nudge)) / 2e-5
        expected = -tip.STEP * slope / (abs(slope) + 1e-4)
        assert step[i, j] == pytest.approx(expected, rel=0.05, abs=2e-5)


def test_unit_rows():
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])
