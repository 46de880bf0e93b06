"""Bad input on the command line: one-line errors, and notes on everything left out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Flip, one_line, read_json, read_rows


@pytest.mark.parametrize("command", ["zeroshot", "knn", "hybrid"])
def test_a_photo_named_as_an_argument_that_is_not_there_makes_the_exit_code_1(
    flip: Flip, squares: Path, photo: Path, command: str
) -> None:
    result = flip(command, "--data", squares, "absent.jpg", photo, "gone.jpg")
    assert "no photo absent.jpg, and 1 more" in one_line(result, 1)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["absent.jpg", "0.png", "gone.jpg"]
    assert [row.get("error") for row in rows] == ["no such file", None, "no such file"]
    assert rows[1]["label"]


def test_paths_on_stdin_that_are_not_there_are_rows_alone(flip: Flip, squares: Path, photo: Path) -> None:
    rows = read_rows(flip("knn", "--data", squares, "-", stdin=f"absent.jpg\n{photo}\n"))
    assert [row.get("error") for row in rows] == ["no such file", None]


def test_a_broken_photo_as_an_argument_is_a_row_and_no_failure(flip: Flip, squares: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_text("no photo")
    assert "error" in read_rows(flip("knn", "--data", squares, tmp_path / "broken.jpg"))[0]


@pytest.mark.parametrize("classes", ["a\nb\n", "red fox\nblue jay\n", "x\n"])
def test_a_class_list_is_for_photos_and_not_for_a_split(
    flip: Flip, squares: Path, tmp_path: Path, classes: str
) -> None:
    (tmp_path / "classes.txt").write_text(classes)
    line = one_line(flip("zeroshot", "--data", squares, "--classes", "classes.txt"), 2)
    assert "--classes classes.txt" in line
    assert "--classnames" in line
    assert "--subset" in line


@pytest.mark.parametrize("command", ["zeroshot", "knn", "hybrid"])
def test_photos_are_not_named_among_one_class(
    flip: Flip, squares: Path, photo: Path, tmp_path: Path, command: str
) -> None:
    shutil.copytree(squares / "train" / "red_fox", tmp_path / "one" / "red_fox")
    line = one_line(flip(command, "--data", tmp_path / "one", photo), 1)
    assert "one class, 'red fox'" in line or "1 of 1 classes" in line
    (tmp_path / "classes.txt").write_text("bird\n")
    if command == "zeroshot":
        assert "there is one class, 'bird'" in one_line(flip(command, "--classes", "classes.txt", photo), 1)


@pytest.mark.parametrize(("command", "split"), [("zeroshot", "test"), ("knn", "train"), ("hybrid", "test")])
def test_classes_of_which_no_photo_can_be_read_are_said(
    flip: Flip, squares: Path, tmp_path: Path, command: str, split: str
) -> None:
    shutil.copytree(squares, tmp_path / "squares")
    for name in ("red_fox", "blue_jay"):
        for file in (tmp_path / "squares" / split / name).iterdir():
            file.write_text("no photo")
    result = flip(command, "--data", tmp_path / "squares")
    assert result.exit_code == 0, result.output
    said = f"2 classes have no photo of split '{split}' that can be read: 'blue jay', 'red fox'"
    assert said in result.stderr
    assert said not in flip(command, "--data", squares).stderr


@pytest.mark.parametrize("level", [2, 3, 9])
def test_a_class_level_that_no_photo_reaches(flip: Flip, squares: Path, tmp_path: Path, level: int) -> None:
    for data in (squares, squares / "train"):
        line = one_line(flip("data", "info", data, "--class-level", level), 1)
        assert f"--class-level {level} is too deep" in line
        assert "pass --class-level 1 or less" in line


def test_messages_have_no_error_numbers(flip: Flip, squares: Path, tmp_path: Path, photo: Path) -> None:
    (tmp_path / "folder").mkdir()
    for arguments in (
        ("zeroshot", "--data", squares, "--classnames", tmp_path / "folder"),
        ("zeroshot", "--data", squares, "--classnames", "absent.txt"),
        ("zeroshot", "--data", squares, "--classes", "absent.txt", photo),
        ("zeroshot", "--data", squares, "--groups", "absent.csv"),
        ("zeroshot", "--data", squares, "--subset", "absent.txt"),
        ("hybrid", "--data", squares, "--load", tmp_path / "folder"),
        ("report", tmp_path / "folder"),
    ):
        assert not re.search(r"Errno|errno", one_line(flip(*arguments), 1))


def test_a_fine_tuned_folder_says_what_it_was_made_from(flip: Flip, squares: Path, tmp_path: Path) -> None:
    quick = ("--epochs", "1", "--no-scores", "--device", "cpu", "--precision", "fp32", "--batch-size", "8")
    read_json(flip("finetune", "--data", squares, "-o", "tuned", *quick))
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert (config["data"], config["layout"], config["crop"]) == (str(squares), "split-folders", "none")
    assert set(config) >= {"command", "format", "model", "epochs", "seed", "device"}


@pytest.mark.parametrize("command", ["zeroshot", "knn", "finetune"])
def test_copies_across_splits_are_said_wherever_test_photos_are_scored(
    flip: Flip, squares: Path, tmp_path: Path, command: str
) -> None:
    shutil.copytree(squares, tmp_path / "squares")
    place = tmp_path / "squares"
    shutil.copy(place / "train" / "red_fox" / "0.png", place / "test" / "red_fox" / "copy.png")
    (place / "test" / "blue_jay" / "hard.png").hardlink_to(place / "train" / "blue_jay" / "1.png")
    (place / "test" / "blue_jay" / "soft.png").symlink_to(place / "train" / "blue_jay" / "0.png")
    more = ("-o", "tuned", "--epochs", "1", "--batch-size", "8") if command == "finetune" else ()
    result = flip(command, "--data", place, *more)
    assert result.exit_code == 0, result.output
    assert "3 photos that are held out are training photos as well" in result.stderr


@pytest.mark.parametrize("names", [("red_fox",), ("red_fox", "blue_jay")])
def test_classes_that_are_not_scored_are_said(
    flip: Flip, squares: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    shutil.copytree(squares, tmp_path / "squares")
    for name in names:
        shutil.rmtree(tmp_path / "squares" / "test" / name)
    have = "1 class has" if len(names) == 1 else "2 classes have"
    for command in ("zeroshot", "knn"):
        assert f"{have} no photo in split 'test'" in flip(command, "--data", tmp_path / "squares").stderr
        assert "no photo in split" not in flip(command, "--data", squares).stderr
