"""What every head promises, whichever it is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flip import names
from flip.classify.calibration import row_losses
from flip.classify.heads import Inputs, SavedHead, build_head, head_classes, head_from_arrays, mlp
from flip.errors import ConfigError, DataError, FeatureMismatchError
from tests.classify.heads_data import CLASSES, WIDTH, birds, misnamed


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """The networks of these tests have little to learn."""
    monkeypatch.setattr(mlp, "HIDDEN", 32)
    monkeypatch.setattr(mlp, "MOST_EPOCHS", 15)
    monkeypatch.setattr(mlp, "LEARNING_RATE", 1e-2)


every_head = pytest.mark.parametrize("name", names.HEADS)


def parameters(head):
    arrays, values = head.to_arrays()
    return {key: array.tobytes() for key, array in arrays.items()}, json.dumps(values)


@every_head
@pytest.mark.parametrize("per_class", [1, 2, 8])
def test_probabilities_sum_to_one_and_find_most_birds(name, per_class):
    inputs, labels = birds(per_class)
    others, truth = birds(20, seed=2)
    head = build_head(name, CLASSES).fit(inputs, labels)
    probabilities = head.predict_proba(others)
    assert probabilities.shape == (len(truth), CLASSES)
    assert head.logits(others).dtype == probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (head.predict(others) == truth).mean() > 0.8
    assert head.protocol


@every_head
def test_save_then_load_predicts_bit_for_bit_the_same(name):
    inputs, labels = birds(4)
    others, _ = birds(5, seed=2)
    head = build_head(name, CLASSES, seed=3).fit(inputs, labels)
    arrays, values = head.to_arrays()
    assert all(array.dtype != object and array.flags.c_contiguous for array in arrays.values())
    loaded = head_from_arrays(SavedHead({k: a.copy() for k, a in arrays.items()}, json.loads(json.dumps(values))))
    np.testing.assert_array_equal(loaded.predict_proba(others), head.predict_proba(others))
    assert parameters(loaded) == parameters(head)
    assert loaded.protocol == head.protocol


@every_head
def test_the_seed_decides_everything(name):
    inputs, labels = birds(4)
    first, second = (build_head(name, CLASSES, seed=5).fit(inputs, labels) for _ in range(2))
    assert parameters(first) == parameters(second)


@pytest.mark.parametrize("name", [name for name in names.HEADS if name not in ("ensemble", "auto")])
def test_a_fitted_head_can_be_fitted_again(name):
    inputs, labels = birds(4)
    others, other_labels = misnamed(3, seed=7)
    again = build_head(name, CLASSES).fit(others, other_labels).fit(inputs, labels)
    assert parameters(again) == parameters(build_head(name, CLASSES).fit(inputs, labels))


@every_head
def test_predictions_follow_their_rows(name):
    inputs, labels = birds(3)
    others, _ = birds(5, seed=2)
    head = build_head(name, CLASSES).fit(inputs, labels)
    order = np.random.default_rng(0).permutation(len(others))
    np.testing.assert_allclose(head.logits(others.take(order)), head.logits(others)[order], rtol=1e-4, atol=1e-4)


@every_head
def test_names_of_other_birds_do_no_harm(name):
    inputs, labels = misnamed(6)
    others, truth = misnamed(20, seed=2)
    assert (others.zero_shot.argmax(axis=1) == truth).mean() < 0.1
    predicted = build_head(name, CLASSES).fit(inputs, labels).predict(others)
    assert (predicted == truth).mean() > 0.85


@every_head
def test_without_text_the_image_is_enough(name):
    (inputs, labels), (others, truth) = birds(6), birds(20, seed=2)
    head = build_head(name, CLASSES).fit(Inputs(inputs.image), labels)
    assert (head.predict(Inputs(others.image)) == truth).mean() > 0.85


@every_head
def test_held_out_rows_were_not_fitted(name):
    """A row whose label is wrong is remembered by a fit that saw it, and never by one that did not."""
    inputs, labels = birds(8, noise=0.2)
    wrong = labels.copy()
    wrong[0] = 1
    head = build_head(name, CLASSES).fit(inputs, wrong)
    held = head.out_of_fold
    assert held is not None
    row = int(np.flatnonzero(held.rows == 0)[0])
    assert held.logits[row].argmax() == 0
    losses = row_losses(held.logits, labels[held.rows])
    assert losses.mean() < np.log(CLASSES)


@every_head
def test_generated_photos_are_fitted_and_never_held_out(name):
    inputs, labels = birds(6)
    real = np.tile([True, True, True, False, False, False], CLASSES)
    head = build_head(name, CLASSES).fit(inputs, labels, np.where(real, 1.0, 0.5), real)
    assert head.out_of_fold is not None
    assert set(head.out_of_fold.rows) <= set(np.flatnonzero(real))
    alone = build_head(name, CLASSES).fit(inputs.take(real), labels[real])
    assert parameters(alone) != parameters(head)


@every_head
def test_a_held_out_row_is_not_named_by_its_own_copies(name):
    """As above, with copies of the row whose label is wrong, which speak for that label unless they are left out."""
    inputs, labels = birds(8, noise=0.2)
    labels[0] = 1
    rows = np.r_[np.arange(len(labels)), np.zeros(6, np.int64)]
    real = np.arange(len(rows)) < len(labels)
    copied = inputs.take(rows)

    def said(group):
        held = build_head(name, CLASSES).fit(copied, labels[rows], None, real, group).out_of_fold
        assert held is not None
        assert set(held.rows) <= set(np.flatnonzero(real))
        return held.logits[int(np.flatnonzero(held.rows == 0)[0])]

    alone, beside_copies = said(rows), said(None)
    assert alone.argmax() == 0
    assert beside_copies[1] - beside_copies[0] > alone[1] - alone[0] + 0.5


@every_head
def test_one_photo_per_class_and_its_copies_leave_nothing_to_validate_on(name):
    inputs, labels = birds(1)
    rows = np.repeat(np.arange(len(labels)), 3)
    head = build_head(name, CLASSES).fit(inputs.take(rows), labels[rows], group=rows)
    assert head.out_of_fold is None


@every_head
def test_a_class_without_photos_is_never_an_error(name):
    inputs, labels = birds(5)
    present = labels != 2
    head = build_head(name, CLASSES).fit(inputs.take(present), labels[present])
    assert np.isfinite(head.predict_proba(inputs)).all()
    image = Inputs(inputs.image)
    predicted = build_head(name, CLASSES).fit(image.take(present), labels[present]).predict(image)
    assert 2 not in predicted


@every_head
def test_two_classes_are_enough(name):
    inputs, labels = birds(6)
    rows = labels < 2
    two = Inputs(inputs.image[rows], None, inputs.zero_shot[rows, :2])
    assert (build_head(name, 2).fit(two, labels[rows]).predict(two) == labels[rows]).mean() > 0.9


@every_head
def test_rare_classes_keep_a_row_to_fit_on(name):
    inputs, labels = birds(6)
    kept = np.concatenate([np.flatnonzero(labels == c)[: (6, 6, 2, 1)[c]] for c in range(CLASSES)])
    head = build_head(name, CLASSES).fit(inputs.take(kept), labels[kept])
    held = labels[kept][head.out_of_fold.rows]
    assert list(np.bincount(held, minlength=CLASSES)) == [6, 6, 2, 0]


def test_every_word_is_a_head_and_every_head_has_its_word():
    assert set(head_classes()) == set(names.HEADS)
    assert all(cls.name == name for name, cls in head_classes().items())


@every_head
def test_a_prediction_depends_on_no_other_row_and_changes_no_fitted_parameter(name):
    inputs, labels = birds(5)
    others, _ = birds(6, seed=2)
    head = build_head(name, CLASSES).fit(inputs, labels)
    before = parameters(head)
    together = head.logits(others)
    one_by_one = np.concatenate([head.logits(others.take(np.array([i]))) for i in range(len(others))])
    np.testing.assert_allclose(one_by_one, together, rtol=1e-4, atol=1e-4)
    assert parameters(head) == before


def test_one_photo_per_class_leaves_nothing_to_validate_on():
    inputs, labels = birds(1)
    for name in names.HEADS:
        head = build_head(name, CLASSES).fit(inputs, labels)
        assert head.out_of_fold is None
        assert "nothing to validate on" in json.dumps(head.protocol), name


def test_bad_input_is_one_line():
    inputs, labels = birds(3)
    n = len(labels)

    def refused(error, match, *, given=inputs, of=labels, classes=CLASSES, weight=None, real=None):
        with pytest.raises(error, match=match) as caught:
            build_head("gda", classes).fit(given, of, weight, real)
        assert "\n" not in str(caught.value)

    bad = inputs.image.copy()
    bad[[4, 6], 2] = np.nan, np.inf
    refused(DataError, r"image features have NaN or infinite values in 2 of 12 rows, first in row 4", given=Inputs(bad))
    refused(DataError, "name 1 of 4 classes", of=np.zeros(n, int))
    refused(DataError, r"labels run from 0 to 3; with 3 classes pass 0 to 2", given=Inputs(inputs.image), classes=3)
    refused(ConfigError, r"labels have shape \(11,\) for 12 rows", of=labels[:-1])
    refused(ConfigError, "zero-shot logits have 4 columns for 5 classes", classes=5)
    refused(ConfigError, "text features have shape", given=Inputs(inputs.image, inputs.text[:3]))
    refused(ConfigError, "real marks have shape", real=np.ones(3, bool))
    refused(ConfigError, "sample weights must be finite and not negative", weight=np.full(n, -1.0))
    refused(ConfigError, "image features have shape", given=Inputs(inputs.image[:, 0]))


def test_prediction_checks_at_the_door():
    inputs, labels = birds(3)
    head = build_head("gda", CLASSES)
    with pytest.raises(ConfigError, match="not fitted"):
        head.logits(inputs)
    head.fit(inputs, labels)
    with pytest.raises(FeatureMismatchError, match=rf"\[{WIDTH}, 0, 0\].*\[{WIDTH}, {WIDTH}, {CLASSES}\]"):
        head.logits(Inputs(inputs.image))
    bad = inputs.image.copy()
    bad[1, 1] = np.nan
    with pytest.raises(DataError, match="first in row 1"):
        head.logits(Inputs(bad, inputs.text, inputs.zero_shot))


def test_an_unknown_head_names_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"unknown head 'gdaa'; did you mean gda\?; pass one of auto, ridge, mlp, linear"
    ):
        build_head("gdaa", 3)
