"""Training sets with generated images."""

from __future__ import annotations

import numpy as np
import pytest

from flip.classify.training_set import NO_SOURCE, TrainingSet
from flip.errors import ConfigError, DataError, FeatureMismatchError
from tests.classify.features_data import CLASSNAMES, features_of


def rows(labels, width=3, **changes):
    labels = np.asarray(labels)
    image = np.random.default_rng(len(labels)).normal(size=(len(labels), width)).astype(np.float32)
    return features_of(image, labels, **changes)


@pytest.fixture
def joined():
    """Four photos of two classes; images made from photos 0, 0, 3 and from none."""
    photos, images = rows([0, 0, 1, 1]), rows([0, 0, 1, 1], paths=("a", "b", "c", "d"))
    return TrainingSet.of(photos).with_generated(images, np.array([0, 0, 3, -1]), 0.5)


def test_features_are_a_training_set_of_real_photos_that_count_1():
    features = rows([0, 1])
    train = TrainingSet.of(features)
    assert train.features is features
    assert train.weight.tolist() == [1, 1]
    assert train.weight.dtype == np.float32
    assert train.real.all()
    assert train.group is None
    assert TrainingSet.of(train) is train


def test_generated_images_come_behind_weigh_less_and_validate_nothing(joined):
    assert joined.features.paths == ("0.jpg", "1.jpg", "2.jpg", "3.jpg", "a", "b", "c", "d")
    assert joined.weight.tolist() == [1] * 4 + [0.5] * 4
    assert joined.real.tolist() == [True] * 4 + [False] * 4
    assert joined.group[:7].tolist() == [0, 1, 2, 3, 0, 0, 3]
    assert joined.group[7] >= NO_SOURCE
    assert joined.real_count == 4


def test_only_takes_generated_images_along_with_their_photo(joined):
    assert joined.only([3, 0]).features.paths == ("3.jpg", "0.jpg", "a", "b", "c", "d")
    assert joined.only([1, 2]).features.paths == ("1.jpg", "2.jpg", "d")
    assert joined.only([1, 3]).features.paths == ("1.jpg", "3.jpg", "c", "d")
    assert joined.only([1, 3]).group[:3].tolist() == [1, 3, 3]


def test_only_of_only_goes_by_groups_and_not_by_row_numbers(joined):
    assert joined.only([3, 0]).only([0]).features.paths == ("3.jpg", "c", "d")


def test_only_without_generated_images_takes_rows():
    assert TrainingSet.of(rows([0, 1, 0])).only([2, 1]).labels.tolist() == [0, 1]


def test_a_photo_of_another_class_is_no_source():
    train = TrainingSet.of(rows([0, 1])).with_generated(rows([0, 0]), np.array([1, 0]), 1.0)
    assert train.group[3] == 0
    assert train.group[2] >= NO_SOURCE


def test_two_folders_of_generated_images_share_no_number(joined):
    more = joined.with_generated(rows([1, 1]), np.array([3, -1]), 0.1)
    assert more.group[8] == 3
    assert len(set(more.group[[7, 9]])) == 2
    assert more.weight[-1] == np.float32(0.1)


def test_unreadable_rows_leave_and_groups_keep_their_numbers():
    photos, images = rows([0, 0, 1], unreadable=(0,)), rows([0, 0, 1], unreadable=(1,))
    train = TrainingSet.of(photos).with_generated(images, np.array([0, 1, 2]), 0.5).readable()
    assert train.labels.tolist() == [0, 1, 0, 1]
    assert train.group.tolist() == [1, 2, 0, 2]


def test_what_does_not_fit_is_refused():
    train = TrainingSet.of(rows([0, 1]))
    with pytest.raises(DataError, match="generated images have 3 classes"):
        train.with_generated(rows([0], classnames=CLASSNAMES[:3]), np.array([0]))
    with pytest.raises(FeatureMismatchError, match="two models"):
        train.with_generated(rows([0], fingerprint="other"), np.array([0]))
    with pytest.raises(ConfigError, match="row numbers below 2"):
        train.with_generated(rows([0]), np.array([2]))
    with pytest.raises(ConfigError, match="finite and not negative"):
        train.with_generated(rows([0]), np.array([0]), -1.0)
    with pytest.raises(ConfigError, match=r"weight has shape \(1,\) for 2 rows"):
        TrainingSet(train.features, np.ones(1, np.float32), train.real)
    with pytest.raises(ConfigError, match="real photos come first"):
        TrainingSet(train.features, train.weight, np.array([False, True]))
