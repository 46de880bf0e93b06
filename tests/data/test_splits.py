"""Words for splits, and the split by a hash."""

from __future__ import annotations

import pytest

from flip.data.splits import affixed_splits, describe_splits, hash_splits, read_splits, split_word
from flip.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("train2017", "train"),
        ("train_mini", "train"),
        ("training_set", "train"),
        ("TrainImages", "train"),
        ("val-2017", "val"),
        ("Validation", "val"),
        ("dev", "val"),
        ("test", "test"),
        ("test_images", "test"),
        ("eval", "test"),
        ("evaluation", "test"),
        ("holdout", "test"),
        ("hold-out", "test"),
        ("held_out", "test"),
        ("unlabeled", "unlabeled"),
        ("unlabelled2017", "unlabeled"),
        ("steam_train", None),
        ("trainer", None),
        ("testudo", None),
        ("wren", None),
        ("2019", None),
        ("train_test", None),
        ("", None),
    ],
)
def test_words_for_splits(name: str, split: str | None) -> None:
    assert split_word(name) == split


def test_eval_is_the_test_split_unless_there_is_one() -> None:
    assert read_splits(["train", "eval"]) == {"train": "train", "eval": "test"}
    assert read_splits(["train", "eval", "test"]) == {"train": "train", "eval": "val", "test": "test"}
    assert read_splits(["train", "evaluation2020", "holdout"])["evaluation2020"] == "val"
    assert describe_splits(read_splits(["train", "eval"])) == "read eval as test"
    assert describe_splits(read_splits(["train", "val", "test"])) is None


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["birds_train", "birds_test"], {"birds_train": "train", "birds_test": "test"}),
        (["cars-train", "cars-val", "cars-test"], {"cars-train": "train", "cars-val": "val", "cars-test": "test"}),
        (["train_birds", "test_birds"], {"train_birds": "train", "test_birds": "test"}),
        (["steam_train", "model_train"], {}),
        (["steam_train", "bus"], {}),
        (["birds_train", "cats_test"], {}),
        (["birds_train"], {}),
        ([], {}),
    ],
)
def test_splits_with_an_affix(names: list[str], splits: dict[str, str]) -> None:
    assert affixed_splits(names) == splits


def test_a_fraction_outside_the_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="--test-fraction 1 is outside"):
        hash_splits(["a"], [0], 1)
