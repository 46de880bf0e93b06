from __future__ import annotations

import numpy as np
import pytest

from flip.clip.model import load_model
from flip.clip.prompts import class_prompts
from flip.data.dataset import Dataset, Record
from flip.data.open import open_dataset
from flip.errors import DataError
from flip.training.clip.examples import draw_epoch, make_examples
from flip.training.clip.sampler import balanced_rows
from tests.conftest import write_squares


def rng(seed=0):
    return np.random.default_rng(seed)


def test_equal_classes_give_each_photo_once_and_each_stretch_every_class():
    labels = np.repeat(np.arange(4), 5)
    rows = balanced_rows(labels, 20, rng())
    assert sorted(rows) == list(range(20))
    for start in range(0, 20, 4):
        assert sorted(labels[rows[start : start + 4]]) == [0, 1, 2, 3]


def test_a_class_with_one_photo_comes_as_often_as_one_with_many():
    labels = np.array([0] * 50 + [1])
    rows = balanced_rows(labels, 40, rng())
    assert np.bincount(labels[rows]).tolist() == [20, 20]
    # Of the large class twenty different photos come, not one twice.
    assert len(set(rows[labels[rows] == 0])) == 20


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 10)])
def test_generated_images_fill_their_share_of_the_classes_that_have_any(share, expected):
    labels, generated = np.array([0, 0, 1, 1, 0, 0]), np.array([0, 0, 0, 0, 1, 1], bool)
    rows = balanced_rows(labels, 20, rng(), generated=generated, generated_share=share)
    assert generated[rows].sum() == expected
    assert (labels[rows] == 1).sum() == 10


def test_a_generated_share_of_a_tenth_is_a_tenth():
    labels, generated = np.zeros(40, int), np.arange(40) >= 20
    rows = balanced_rows(labels, 10_000, rng(), generated=generated, generated_share=0.1)
    assert generated[rows].mean() == pytest.approx(0.1, abs=0.01)


@pytest.fixture
def captioned(tmp_path, tiny_model):
    """Two classes; the photos of the first have two captions, one of them far longer than 16 tokens."""
    records = [Record(f"{i}.png", 0, "train", ("short", "a word " * 40)) for i in range(3)]
    records += [Record(f"{i}.png", 1, "train") for i in range(3, 6)]
    dataset = Dataset(tmp_path, "manifest", ("Red Fox", "Blue Jay"), ("Red Fox", "Blue Jay"), tuple(records))
    prompts = class_prompts("plain", dataset.classnames)
    return make_examples(dataset, prompts, load_model(str(tiny_model)).tokenize)


def test_captions_and_prompts_are_drawn_as_often_as_asked_and_long_texts_counted(captioned):
    rows = np.repeat([0, 3], 2000)
    texts = captioned.draw_texts(rows, 0.5, rng())
    shares = np.bincount(texts[:2000], minlength=4) / 2000
    assert shares == pytest.approx([0.25, 0.25, 0.5, 0], abs=0.04)
    assert set(texts[2000:]) == {captioned.prompts[1][0]}
    assert set(captioned.draw_texts(rows[:2000], 1.0, rng())) == {0, 1}
    assert set(captioned.draw_texts(rows[:2000], 0.0, rng())) == {captioned.prompts[0][0]}
    assert captioned.cut == 1


def test_an_epoch_depends_on_seed_and_epoch_alone(captioned):
    draws = [draw_epoch(captioned, 12, seed=s, epoch=e, caption_share=0.5) for s, e in ((0, 0), (0, 0), (0, 1), (1, 0))]
    same = [all(np.array_equal(a, b) for a, b in zip(draws[0], other, strict=True)) for other in draws[1:]]
    assert same == [True, False, False]


def test_photos_of_another_folder_join_under_the_same_names(tmp_path, squares, tiny_model):
    write_squares(tmp_path / "more", seed=9, photos=2)
    dataset, more = open_dataset(squares).select("train"), open_dataset(tmp_path / "more", layout="class-folders")
    prompts = class_prompts("plain", dataset.classnames)
    tokenize = load_model(str(tiny_model)).tokenize
    examples = make_examples(dataset, prompts, tokenize, augmented=more)
    assert (examples.real, len(examples)) == (24, 32)
    assert np.bincount(examples.labels[examples.generated]).tolist() == [2, 2, 2, 2]
    (tmp_path / "more" / "red_fox").rename(tmp_path / "more" / "wolf")
    other = open_dataset(tmp_path / "more", layout="class-folders")
    with pytest.raises(DataError, match="has class 'wolf', which is not among the 4 classes"):
        make_examples(dataset, prompts, tokenize, augmented=other)
