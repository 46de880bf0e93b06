"""Folders below folders, and the level that is the class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flip.data.open import open_dataset
from flip.errors import ConfigError

Draw = Callable[..., Path]


@pytest.mark.parametrize(
    ("files", "level", "names"),
    [
        (["Turdus/merula/1.jpg", "Larus/canus/1.jpg"], None, ("Larus", "Turdus")),
        (["Turdus/merula/1.jpg", "Larus/canus/1.jpg"], 1, ("Larus", "Turdus")),
        (["Turdus/merula/1.jpg", "Larus/canus/1.jpg"], 2, ("Larus canus", "Turdus merula")),
        (
            ["Viola/vulgaris/1.jpg", "Beta/vulgaris/1.jpg", "Beta/alba/1.jpg"],
            2,
            ("Beta alba", "Beta vulgaris", "Viola vulgaris"),
        ),
        (["birds/Wren/1.jpg", "birds/Gull/1.jpg", "cats/Lynx/1.jpg"], 2, ("Gull", "Lynx", "Wren")),
        (["BMW/X5/1.jpg", "BMW/Z4/1.jpg", "Audi/X5/1.jpg"], 2, ("Audi X5", "BMW X5", "BMW Z4")),
        (["2019/wren/1.jpg", "2019/gull/1.jpg", "2020/wren/1.jpg", "2020/gull/2.jpg"], 2, ("gull", "wren")),
        (["wren/2019/1.jpg", "gull/2019/2.jpg"], None, ("gull", "wren")),
        (["a/b/c/1.jpg", "a/d/e/1.jpg"], 3, ("c", "e")),
    ],
)
def test_the_level_of_the_classes(
    draw: Draw, tmp_path: Path, files: list[str], level: int | None, names: tuple[str, ...]
) -> None:
    for file in files:
        draw(f"data/{file}")
    dataset = open_dataset(tmp_path / "data", layout="class-folders", class_level=level)
    assert dataset.classnames == names


def test_deeper_levels_are_said_and_years_are_not(draw: Draw, tmp_path: Path) -> None:
    draw("deep/Turdus/merula/1.jpg")
    draw("deep/Larus/canus/1.jpg")
    draw("years/wren/2019/1.jpg")
    draw("years/gull/2019-05/1.jpg")
    (note,) = open_dataset(tmp_path / "deep").notes
    assert "such as in Larus/canus: the class is the first folder, Larus; --class-level 2 takes the second" in note
    assert open_dataset(tmp_path / "years").notes == ()


def test_photos_above_the_level_are_left_out_and_said(draw: Draw, tmp_path: Path) -> None:
    for file in ("Turdus/merula/1.jpg", "Turdus/cover.jpg", "Larus/canus/1.jpg", "2.jpg"):
        draw(f"data/{file}")
    dataset = open_dataset(tmp_path / "data", class_level=2)
    assert len(dataset) == 2
    assert [tuple(vars(omission).values()) for omission in dataset.left_out] == [
        ("photos above class level 2", 2, "2.jpg")
    ]


@pytest.mark.parametrize("layout", ["split-folders", "images-folder"])
def test_levels_count_below_the_folders_of_a_layout(draw: Draw, tmp_path: Path, layout: str) -> None:
    top = {"split-folders": ("train", "test"), "images-folder": ("images",)}[layout]
    for folder in top:
        draw(f"data/{folder}/Turdus/merula/1.jpg")
        draw(f"data/{folder}/Larus/canus/1.jpg")
    dataset = open_dataset(tmp_path / "data", class_level=2)
    assert (dataset.layout, dataset.classnames) == (layout, ("Larus canus", "Turdus merula"))


def test_splits_by_another_name_are_merged_when_the_level_is_given(draw: Draw, tmp_path: Path) -> None:
    for fold in ("fold_a", "fold_b"):
        for name in ("wren", "gull"):
            draw(f"data/{fold}/{name}/1.jpg")
    assert open_dataset(tmp_path / "data", class_level=2).classnames == ("gull", "wren")
    assert open_dataset(tmp_path / "data", class_level=1).classnames == ("fold a", "fold b")


def test_a_level_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--class-level 0 is too small; pass 1 for <class>"):
        open_dataset(tmp_path, class_level=0)
