"""What class names and captions add to image features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flip.classify.heads.checks import check_training
from flip.classify.heads.folds import held_out_folds, stratified_subset, weight_without
from flip.classify.heads.fused import choose_columns, text_evidence
from flip.classify.text_side import build_text_side, softmax_text_feature
from flip.errors import ConfigError, FeatureMismatchError
from tests.classify.heads_data import CLASSES, birds, class_embeddings, misnamed, photos, unit


def test_prompts_give_logits_and_a_text_feature():
    image = np.eye(2, dtype=np.float32)
    names = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    inputs = build_text_side(image, names, logit_scale=5.0)
    np.testing.assert_allclose(inputs.zero_shot, [[5.0, 3.0], [0.0, 4.0]], atol=1e-6)
    share = 1 / (1 + np.exp(-2.0))
    mixed = share * names[0] + (1 - share) * names[1]
    np.testing.assert_allclose(inputs.text[0], mixed / np.linalg.norm(mixed), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(inputs.text, axis=1), 1, atol=1e-6)


def test_none_and_captions():
    image, captions = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[::-1]
    alone = build_text_side(image)
    assert alone.text is None
    assert alone.zero_shot is None
    inputs = build_text_side(image, np.eye(3, dtype=np.float32), 2.0, captions)
    np.testing.assert_array_equal(inputs.text, captions)
    np.testing.assert_array_equal(inputs.zero_shot, 2 * np.eye(3))
    with pytest.raises(ConfigError, match="2 caption features for 3 photos; give each photo a caption"):
        build_text_side(image, caption_features=captions[:2])
    with pytest.raises(FeatureMismatchError, match="width"):
        build_text_side(image, np.eye(4, dtype=np.float32))


def test_renaming_classes_among_themselves_changes_no_text_feature():
    image, _ = photos(3, seed=1)
    names = class_embeddings()
    first = softmax_text_feature(10 * image @ names.T, names)
    second = softmax_text_feature(10 * image @ names[::-1].T, names[::-1])
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_evidence_tells_good_names_from_wrong_ones():
    inputs, labels = birds(1)
    good = text_evidence(inputs.zero_shot, labels)
    assert good.weight > 0
    assert good.unexplained < 0.8
    wrong, labels = misnamed(1)
    assert text_evidence(wrong.zero_shot, labels) == (0.0, 1.0)
    assert text_evidence(None, labels) == (0.0, 1.0)


def test_captions_that_hurt_are_left_out_and_embeddings_of_class_names_too():
    named, labels = birds(8, noise=0.5)
    inputs = replace(named, has_captions=True)
    good = class_embeddings()[labels]
    noise = 4 * unit(np.random.default_rng(6).normal(size=(len(labels), 12)))
    both, _ = choose_columns(check_training(replace(inputs, text=good), labels, None, None, CLASSES, 0), CLASSES)
    assert len(both.blocks) == 2
    alone, why = choose_columns(check_training(replace(inputs, text=noise), labels, None, None, CLASSES, 0), CLASSES)
    assert len(alone.blocks) == 1
    assert "image features alone" in why
    assert len(choose_columns(check_training(named, labels, None, None, CLASSES, 0), CLASSES).columns.blocks) == 1


def test_folds_are_stratified_disjoint_and_leave_every_class_a_row():
    labels = np.repeat([0, 1, 2, 3], [10, 5, 2, 1])
    folds = held_out_folds(labels, np.ones(18, bool), seed=0)
    assert len(folds) == 5
    held = np.concatenate(folds)
    assert sorted(held) == list(range(17)), "each row once, but for the class of one"
    for fold in folds:
        assert set(np.delete(labels, fold)) == {0, 1, 2, 3}
        assert 2 <= np.sum(labels[fold] == 0) <= 2
        assert np.sum(labels[fold] == 2) <= 1
    assert held_out_folds(np.arange(4), np.ones(4, bool), seed=0) == ()
    few = held_out_folds(np.repeat(np.arange(50), 20), np.ones(1000, bool), seed=0, most=100)
    assert sum(map(len, few)) == 100


def test_a_real_photo_is_held_out_beside_a_generated_one():
    labels, real = np.array([0, 0, 1, 1]), np.array([True, False, True, False])
    assert sorted(np.concatenate(held_out_folds(labels, real, seed=0))) == [0, 2]


def test_rows_of_a_group_are_left_out_together():
    inputs, labels = birds(4)
    rows = np.r_[np.arange(len(labels)), np.arange(len(labels))]
    training = check_training(inputs.take(rows), labels[rows], None, rows == np.arange(len(rows)), CLASSES, 0, rows)
    assert len(training.folds) == 5
    for fold in training.folds:
        assert list(training.left_out(fold)) == [*fold, *(fold + len(labels))]


def test_held_out_rows_leave_their_class_its_weight():
    weight = np.array([1, 1, 1, 1, 0.5], np.float32)
    labels = np.array([0, 0, 1, 1, 1])
    rest = weight_without(weight, labels, np.array([0, 2]))
    np.testing.assert_allclose(rest, [0, 2, 0, 2.5 / 1.5, 0.5 * 2.5 / 1.5], rtol=1e-6)


def test_a_stratified_subset_keeps_proportions_and_what_it_must():
    labels = np.repeat([0, 1, 2], [600, 300, 3])
    rows = stratified_subset(labels, 90, seed=0, must=np.array([5, 700]))
    assert {5, 700} <= set(rows)
    np.testing.assert_allclose(np.bincount(labels[rows]), [60, 30, 1], atol=1)
