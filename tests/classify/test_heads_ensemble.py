"""The calibrated average, and the automatic choice."""

from __future__ import annotations

import numpy as np

from flip.classify.heads import build_head
from flip.classify.heads.auto import choose_head
from flip.classify.heads.base import OutOfFold
from flip.classify.heads.checks import check_training
from flip.classify.heads.ensemble import EnsembleHead
from flip.classify.heads.gda import GdaHead
from tests.classify.heads_data import CLASSES, birds


def test_the_average_is_the_weighted_mean_of_calibrated_probabilities():
    inputs, labels = birds(8)
    others, _ = birds(5, seed=2)
    head = build_head("ensemble", CLASSES, members=("gda", "tip", "linear")).fit(inputs, labels)
    assert [member.name for member in head.members] == ["gda", "tip", "linear"]
    assert abs(sum(head.weights) - 1) < 1e-6
    expected = sum(w * m.predict_proba(others) for w, m in zip(head.weights, head.members, strict=True))
    np.testing.assert_allclose(np.exp(head.logits(others)), expected, atol=1e-5)
    alone = build_head("gda", CLASSES).fit(inputs, labels)
    np.testing.assert_array_equal(head.members[0].logits(others), alone.logits(others))


def test_heads_that_cannot_take_so_many_rows_are_left_out(monkeypatch):
    monkeypatch.setattr(GdaHead, "most_rows", 10)
    inputs, labels = birds(3)
    training = check_training(inputs, labels, None, None, CLASSES, 0)
    names = [head.name for head in EnsembleHead(CLASSES)._unfitted(training)]
    assert "gda" not in names
    assert "linear" in names


def test_a_single_head_is_chosen_only_beyond_doubt():
    """Held-out logits made by hand: the member is right where the average is wrong, often or once."""
    inputs, labels = birds(10)
    training = check_training(inputs, labels, None, None, CLASSES, 0)
    rows = np.arange(len(labels))
    right = np.eye(CLASSES, dtype=np.float32)[labels]

    def choice(wrong):
        ensemble, member = EnsembleHead(CLASSES), GdaHead(CLASSES)
        average = right.copy()
        average[:wrong] = np.roll(average[:wrong], 1, axis=1)
        ensemble.members, ensemble.out_of_fold = [member], OutOfFold(rows, average)
        member.out_of_fold = OutOfFold(rows, right)
        return choose_head(ensemble, training).name

    assert choice(0) == choice(2) == "ensemble"
    assert choice(8) == "gda"


def test_auto_predicts_as_the_head_it_chose(monkeypatch):
    from flip.classify.heads import ensemble

    monkeypatch.setattr(ensemble, "MEMBERS", ("gda", "tip"))
    inputs, labels = birds(6)
    others, _ = birds(5, seed=2)
    head = build_head("auto", CLASSES).fit(inputs, labels)
    np.testing.assert_array_equal(head.predict_proba(others), head.chosen.predict_proba(others))
    assert head.protocol["head"].startswith(head.chosen.name)
