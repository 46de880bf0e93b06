"""A dataset in numbers, and copies of photos in two splits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flip.data.open import open_dataset
from flip.data.same_photos import copies_of_training_photos, describe_copies
from flip.data.summary import summarise

Draw = Callable[..., Path]


@pytest.fixture
def birds(draw: Draw, tmp_path: Path) -> Path:
    for i, path in enumerate(
        ("train/001.Wren/1.jpg", "train/001.Wren/2.png", "train/002.Gull/1.JPG", "test/001.Wren/3")
    ):
        draw(f"birds/{path}.png" if path.endswith("3") else f"birds/{path}", ("red", "lime", "blue", "olive")[i])
    (tmp_path / "birds" / "test" / "001.Wren" / "3.png").rename(tmp_path / "birds" / "test" / "001.Wren" / "3")
    (tmp_path / "birds" / "train" / "002.Gull" / "x.nef").write_text("x")
    return tmp_path / "birds"


def test_what_data_info_says(birds: Path) -> None:
    summary = summarise(open_dataset(birds))
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["train"], summary["test"], summary["classes"]) == (3, 1, 2)
    assert summary["smallest_class"] == {"label": "Gull", "raw": "002.Gull", "n": 1}
    assert summary["largest_class"] == {"label": "Wren", "raw": "001.Wren", "n": 3}
    assert summary["suffixes"] == {".jpg": 2, ".png": 1, "none": 1}
    assert summary["sizes"] == {"smallest": "8 x 6", "largest": "8 x 6", "unreadable": 0}
    assert summary["names"] == "numbers dropped: 001.Wren is Wren"
    assert summary["left_out"] == [
        {
            "kind": "files with the suffix .nef (camera raw: convert them to JPEG or PNG)",
            "count": 1,
            "first": "train/002.Gull/x.nef",
        }
    ]
    assert summary["copies_in_two_splits"] is None


def test_unreadable_photos_and_tables_without_photos(birds: Path) -> None:
    (birds / "test" / "001.Wren" / "4.jpg").write_text("404")
    dataset = open_dataset(birds)
    assert summarise(dataset)["sizes"] == {"smallest": "8 x 6", "largest": "8 x 6", "unreadable": 1}
    table = summarise(replace(dataset, embeddings=Path("out")))
    assert (table["sizes"], table["copies_in_two_splits"]) == (None, None)


@pytest.mark.parametrize("how", ["copy", "link", "folder"])
def test_copies_in_two_splits_are_found(birds: Path, how: str) -> None:
    photo = birds / "train" / "001.Wren" / "1.jpg"
    if how == "copy":
        shutil.copy(photo, birds / "test" / "001.Wren" / "9.jpg")
    elif how == "link":
        (birds / "test" / "001.Wren" / "9.jpg").symlink_to(photo)
    else:
        (birds / "test" / "002.Gull").symlink_to(photo.parent)
    dataset = open_dataset(birds)
    copies = copies_of_training_photos(dataset)
    held_out = {"copy": "test/001.Wren/9.jpg", "link": "test/001.Wren/9.jpg", "folder": "test/002.Gull/1.jpg"}[how]
    assert (copies[0].held_out.path, copies[0].training.path) == (held_out, "train/001.Wren/1.jpg")
    said = describe_copies(copies)
    assert said is not None
    assert f"such as {held_out}, which is train/001.Wren/1.jpg" in said


def test_photos_of_one_size_that_differ_are_no_copies(birds: Path) -> None:
    first, other = birds / "train" / "001.Wren" / "1.jpg", birds / "test" / "001.Wren" / "9.jpg"
    content = bytearray(first.read_bytes())
    content[-3] ^= 1
    other.write_bytes(content)
    assert copies_of_training_photos(open_dataset(birds)) == []
    assert describe_copies([]) is None
