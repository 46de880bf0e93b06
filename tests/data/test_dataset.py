from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from flip.data.classnames import clean_class_names, label_indices
from flip.data.dataset import (
    Dataset,
    Rank,
    Record,
    few_shot_indices,
    rows_of_sources,
)
from flip.data.splits import hash_splits
from flip.errors import ConfigError, DataError


@pytest.fixture
def dataset() -> Dataset:
    records = (
        Record("a/1.jpg", 0, "train", ("a wren",)),
        Record("b/1.jpg", 1, "test"),
        Record("a/2.jpg", 0, "test", (), (1.0, 2.0, 3.0, 4.0)),
        Record("/elsewhere/b.jpg", 1, "train"),
    )
    return Dataset(Path("photos"), "class-folders", ("A", "B"), ("a", "b"), records)


def test_length_labels_splits_and_files(dataset: Dataset) -> None:
    assert len(dataset) == 4
    assert dataset.labels.tolist() == [0, 1, 0, 1]
    assert dataset.labels.dtype == np.int64
    assert dataset.splits == {"train": 2, "test": 2}
    assert list(map(dataset.file, dataset.records[1::2])) == [Path("photos/b/1.jpg"), Path("/elsewhere/b.jpg")]


def test_it_shows_itself_in_a_line(dataset: Dataset) -> None:
    assert str(dataset) == "class-folders: 4 photos, 2 classes, train 2, test 2, captions for 1"
    assert repr(dataset) == f"<Dataset {dataset}; in photos>"


def test_select_and_take_keep_the_order(dataset: Dataset) -> None:
    assert [r.path for r in dataset.select("test").records] == ["b/1.jpg", "a/2.jpg"]
    assert dataset.select("all") is dataset
    assert dataset.take([2, 0]).records == (dataset.records[2], dataset.records[0])
    assert dataset.take([]).classnames == dataset.classnames


def test_an_absent_split_is_named_with_those_that_are_there(dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"split 'val' of photos has no photo; it has train \(2\), test \(2\)"):
        dataset.select("val")


def test_a_class_without_training_photo_is_named(dataset: Dataset) -> None:
    dataset.require_training_photos()
    with pytest.raises(DataError, match="no training photo for class 'B' in photos"):
        dataset.take([0, 1]).require_training_photos()


def test_the_fingerprint_is_that_of_what_is_known_of_the_photos(dataset: Dataset) -> None:
    assert dataset.fingerprint() == dataset.take(range(4)).fingerprint()
    assert len(dataset.fingerprint()) == 16
    others = [
        dataset.take([1, 0, 2, 3]),
        dataset.take([0, 1, 2]),
        Dataset(dataset.root, "cub", ("A", "C"), ("a", "b"), dataset.records),
        Dataset(dataset.root, "cub", ("A", "B"), ("a", "b"), (Record("a/1.jpg", 0, "train"), *dataset.records[1:])),
    ]
    assert len({dataset.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_few_shots_are_drawn_from_every_class_and_nested() -> None:
    labels = np.array([0, 1, 0, 1, 0, 2, 0, 1])
    four, two = few_shot_indices(labels, 4, seed=3), few_shot_indices(labels, 2, seed=3)
    assert labels[two].tolist() == [0, 0, 1, 1, 2]
    assert labels[four].tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    assert set(two) <= set(four)
    assert len(set(four)) == len(four)
    assert few_shot_indices(labels, 2, seed=3).tolist() == two.tolist()
    assert len({tuple(few_shot_indices(labels, 2, seed=s)) for s in range(10)}) > 1


def test_few_shots_of_nothing_are_nothing_and_zero_shots_are_refused() -> None:
    assert few_shot_indices(np.empty(0, np.int64), 1, seed=0).tolist() == []
    with pytest.raises(ConfigError, match="shots is 0; pass 1 or more"):
        few_shot_indices(np.array([0]), 0, seed=0)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("Boeing_737-200", "Boeing 737-200"),
        ("St._Bernard", "St. Bernard"),
        ("12.", "12."),
        ("7", "7"),
        ("  two   words ", "two words"),
    ],
)
def test_class_names_are_what_a_person_would_say(raw: str, clean: str) -> None:
    assert clean_class_names([raw]) == (clean,)


def test_labels_are_indices_into_sorted_names() -> None:
    assert label_indices(["b", "a", "b", "c"]) == (("a", "b", "c"), [1, 0, 1, 2])
    assert label_indices([]) == ((), [])


def test_numbers_as_labels_are_sorted_as_numbers() -> None:
    assert label_indices(["10", "9", "2"]) == (("2", "9", "10"), [2, 1, 0])
    assert label_indices(["10", "9", "x"])[0] == ("9", "10", "x")


PATHS = [f"class{i % 20}/photo_{i}.jpg" for i in range(2000)]
LABELS = [i % 20 for i in range(2000)]


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
def test_the_hash_holds_out_about_the_fraction(fraction: float) -> None:
    held_out = hash_splits(PATHS, LABELS, fraction).count("test") / len(PATHS)
    assert held_out == pytest.approx(fraction, abs=0.04)


def test_a_photo_keeps_its_split_when_others_are_added() -> None:
    few, many = hash_splits(PATHS[:1000], LABELS[:1000], 0.3), hash_splits(PATHS, LABELS, 0.3)
    assert few == many[:1000]


def test_the_order_of_photos_does_not_matter() -> None:
    assert hash_splits(PATHS[::-1], LABELS[::-1], 0.3) == hash_splits(PATHS, LABELS, 0.3)[::-1]


def test_the_split_is_the_same_in_every_version() -> None:
    # The digests begin with 50, 7a and 92: shares 0.31, 0.48 and 0.57.
    assert hash_splits(["a.jpg", "b.jpg", "c.jpg"], [0, 0, 0], 0.5) == ["train", "train", "test"]
    assert hash_splits(["a.jpg", "b.jpg", "c.jpg"], [0, 0, 0], 0.6) == ["train", "test", "test"]
    assert hash_splits(["a.jpg", "b.jpg", "c.jpg"], [0, 0, 1], 0.5) == ["train", "train", "train"]


def test_every_class_has_a_training_photo_and_no_fraction_leaves_all_in_training() -> None:
    splits = hash_splits(PATHS[:60], LABELS[:60], 0.999)
    assert {label for label, split in zip(LABELS, splits, strict=False) if split == "train"} == set(range(20))
    assert set(hash_splits(PATHS, LABELS, 0.0)) == {"train"}


def test_accents_composed_or_not_fall_into_the_same_split() -> None:
    names = [f"caf\u00e9/{i}.jpg" for i in range(50)]
    decomposed = [name.replace("\u00e9", "e\u0301") for name in names]
    assert hash_splits(names, [0] * 50, 0.5) == hash_splits(decomposed, [0] * 50, 0.5)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_a_fraction_outside_the_range_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"test.fraction .* is outside \[0, 1\); pass for example 0.3"):
        hash_splits(["a"], [0], fraction)


def test_sources_are_found_wherever_the_data_lay():
    paths = ["train/a/1.jpg", "train/b/1.jpg", "1.jpg"]
    sources = ["/old/place/train/b/1.jpg", None, "data\\train\\a\\1.jpg", "train/c/2.jpg", "elsewhere/1.jpg", ""]
    assert rows_of_sources(sources, paths) == [1, None, 0, None, 2, None]


def test_a_fingerprint_is_the_same_in_every_version():
    """The value that the first version with sources gave: unfinished runs are resumed by it."""
    records = (
        Record("a/1.jpg", 0, "train", ("a wren", "it's small"), (1.0, 2.0, 3.0, 4.5)),
        Record("é/2.jpg", 1, "test", (), None, "a/1.jpg"),
    )
    dataset = Dataset(Path("photos"), "manifest", ("Wren", "Möwe"), ("wren", "Möwe"), records)
    assert dataset.fingerprint() == "94d7fa0040786f27"


def test_a_new_field_of_records_does_not_change_the_fingerprint(dataset):
    class Later(NamedTuple):
        path: str
        label: int
        split: str
        captions: tuple[str, ...]
        box: tuple[float, float, float, float] | None
        source: str | None
        licence: str = "CC0"

    later = replace(dataset, records=tuple(Later(*record[:6]) for record in dataset.records))
    assert later.fingerprint() == dataset.fingerprint()


def test_one_class_is_refused_where_it_is_scored(dataset):
    dataset.require_classes()
    with pytest.raises(DataError, match="photos has one class, 'A'; every answer would be right"):
        replace(dataset, classnames=("A",), raw_names=("a",)).require_classes()


def test_groups_that_came_with_the_data(dataset):
    ranked = replace(dataset, ranks=(Rank("family", ("x", "y")), Rank("genus", ("p", "q"))))
    assert ranked.groups("genus") == ("p", "q")
    assert ranked.select("test").groups("family") == ("x", "y")
    assert ranked.fingerprint() == dataset.fingerprint()
    with pytest.raises(DataError, match="photos has no rank 'order'; it has family, genus"):
        ranked.groups("order")
    with pytest.raises(DataError, match="it has none"):
        dataset.groups("order")


def test_a_table_of_embeddings_has_no_photos_to_train_on(dataset):
    dataset.require_photos()
    table = replace(dataset, embeddings=Path("out"))
    with pytest.raises(DataError, match="out is a table of embeddings, and training needs the photos; pass their"):
        table.require_photos()
