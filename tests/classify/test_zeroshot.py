import numpy as np
import pytest

from flip.classify.zeroshot import mean_class_embeddings, zero_shot_logits
from flip.errors import FeatureMismatchError


def test_a_class_of_several_prompts_is_their_unit_mean():
    texts = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    classifier = mean_class_embeddings(texts, np.array([0, 0, 1]))
    assert classifier == pytest.approx(np.array([[2**-0.5, 2**-0.5], [0, 1]]))


def test_logits_are_scaled_cosines():
    images = np.array([[1, 0], [0, 1]], np.float32)
    classes = np.array([[1, 0], [0.6, 0.8]], np.float32)
    assert zero_shot_logits(images, classes, 10.0) == pytest.approx(np.array([[10, 6], [0, 8]]))


def test_permuting_classes_permutes_logits():
    rng = np.random.default_rng(0)
    images, classes = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=(4, 8)).astype(np.float32)
    order = np.array([2, 0, 3, 1])
    permuted = zero_shot_logits(images, classes[order], 3.0)
    assert permuted == pytest.approx(zero_shot_logits(images, classes, 3.0)[:, order])


def test_two_widths_are_two_models():
    with pytest.raises(FeatureMismatchError, match="width 3, class embeddings 2"):
        zero_shot_logits(np.zeros((1, 3), np.float32), np.zeros((2, 2), np.float32), 1.0)
