"""Output paths are checked before any work: no user file is replaced, no long run ends in a refusal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flip.cli.config import PredictOptions
from flip.cli.output import prediction_writer
from flip.results import Prediction
from tests.cli.conftest import Flip, one_line


@pytest.fixture
def table(tmp_path: Path, squares: Path) -> Path:
    """A manifest, which is input."""
    rows = [f"{photo},{photo.parent.name},{photo.parts[-3]}" for photo in sorted(squares.rglob("*.png"))]
    (tmp_path / "labels.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    return tmp_path / "labels.csv"


@pytest.mark.parametrize("option", ["-o", "--predictions"])
def test_an_output_that_is_an_input_is_refused(flip: Flip, table: Path, option: str) -> None:
    before = table.read_bytes()
    (table.parent / "link.csv").symlink_to(table)
    for name in (table, table.parent / ".." / table.parent.name / "labels.csv", table.parent / "link.csv"):
        assert "is what --data names too" in one_line(flip("knn", "--data", table, option, name), 1)
    assert table.read_bytes() == before


def test_the_data_as_an_argument_counts_too(flip: Flip, table: Path) -> None:
    assert "is what DATA names too" in one_line(flip("data", "check", table, "--write-clean", table), 1)
    assert "is what DATA names too" in one_line(flip("data", "info", table, "-o", table), 1)


def test_two_outputs_with_one_name_are_refused_and_a_device_is_not(flip: Flip, squares: Path) -> None:
    message = one_line(flip("knn", "--data", squares, "-o", "x.jsonl", "--predictions", "./x.jsonl"), 1)
    assert "-o x.jsonl is what --predictions names too" in message
    result = flip("knn", "--data", squares, "-o", os.devnull, "--predictions", os.devnull)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("-o", "full", "-o full is a folder; pass the name of a file"),
        ("--sheet", "full", "--sheet full is a folder"),
        ("--plot", "words.txt/a.svg", "is a file"),
        ("--sheet", "words.txt", "holds text and is not replaced by an image"),
        ("--run", "full", "--run full already holds files; pass a new folder"),
        ("--run", "words.txt", "--run words.txt is a file; pass a folder"),
        ("--copy-to", "full", "--copy-to full already holds files; pass a new folder"),
        ("--copy-to", "words.txt/in", "--copy-to words.txt/in cannot be made"),
        ("--predictions", "a.png", "holds an image and is not replaced by text"),
    ],
)
def test_refused_before_anything_is_read(flip: Flip, tmp_path: Path, option: str, name: str, message: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "words.txt").write_text("mine")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    # The data is not there: an output is refused before that is noticed.
    assert message in one_line(flip("knn", "--data", "nowhere", option, name), 1)


def test_what_belongs_to_an_evaluation_is_refused_where_photos_are_named(
    flip: Flip, squares: Path, photo: Path
) -> None:
    for option in ("--predictions", "--run", "--plot"):
        message = one_line(flip("knn", "--data", squares, photo, option, "x.png"), 2)
        assert f"{option} belongs to an evaluation" in message
    assert "pass --copy-to DIR with it" in one_line(flip("knn", "--data", squares, "--link"), 2)
    assert "'foo' is none of" in one_line(flip("knn", "--data", squares, "--plot", "foo:x.png"), 2)


def test_a_page_and_a_table_of_rows_are_refused_early_too(flip: Flip, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    for command in (("report", "nowhere"), ("compare", "nowhere"), ("reproduce", "--data", "nowhere")):
        assert "is a folder" in one_line(flip(*command, "-o", "full"), 1)


@pytest.mark.parametrize("before", [None, "", "the rows of yesterday\n"])
def test_an_interrupted_run_keeps_its_rows_but_not_in_place_of_others(before, tmp_path):
    file = tmp_path / "named.jsonl"
    if before is not None:
        file.write_text(before)

    def name_one_photo() -> None:
        with prediction_writer(PredictOptions(output=file)) as write:
            write(Prediction(path="a.jpg", error="no such file"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        name_one_photo()
    assert (file.read_text() == before) if before else ("a.jpg" in file.read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["named.jsonl"]


@pytest.mark.parametrize("command", [["knn"], ["data", "info"], ["models", "--here"]])
def test_a_dash_is_stdout(flip, birds, tmp_path, command):
    data = [birds] if command[0] == "data" else ["--data", birds] if command[0] == "knn" else []
    result = flip(*command, *data, "-o", "-")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("{")
    assert not (tmp_path / "-").exists()
