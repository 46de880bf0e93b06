"""Evaluations as people read them: the headline first, one screen, no line wrapped; as csv a row for each number."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from flip.cli.evaluation_table import sparkline
from flip.cli.tables import grid, pairs, table_text
from flip.report.plots import plot_confusion
from tests.cli.conftest import Flip, one_line, read_json


def table(flip: Flip, *arguments: object) -> list[str]:
    result = flip(*arguments, "--format", "table", "-q")
    assert result.exit_code == 0, result.output
    return str(result.stdout).splitlines()


def test_the_headline_comes_first_and_all_fits_on_a_screen(flip: Flip, squares: Path) -> None:
    top1 = read_json(flip("knn", "--data", squares, "-q"))["top1"]
    lines = table(flip, "knn", "--data", squares)
    assert lines[0].startswith(f"flip knn: {top1:.1f} % of 24 photos named right   95 % interval ")
    assert len(lines) <= 20
    assert sum(line.startswith("k ") for line in lines) == 2, "k as chosen, and the sweep as one line"
    assert len(table(flip, "knn", "--data", squares, "-v")) > len(lines)


def test_few_shots_and_ranks_have_their_place(flip: Flip, squares: Path) -> None:
    lines = table(flip, "hybrid", "--head", "gda", "--data", squares, "--shots", "1,2,all", "--seeds", "2")
    assert [line.split()[0] for line in lines[-3:]] == ["1", "2", "all"]
    assert any(line.startswith("by group") for line in table(flip, "zeroshot", "--data", squares, "--groups", "auto"))


def test_no_path_is_wrapped(tmp_path: Path) -> None:
    path = "/" + "/".join(["a long folder name"] * 30)
    text = table_text([pairs("title", {"data": path, "more": ("x", "y")})], None)
    assert path in text
    assert text.endswith("more  x\n      y\n")


def test_names_are_no_markup_and_hide_nothing() -> None:
    text = table_text([grid("t", [{"label": "[red]x[/red]", "n": 1}]), pairs("", {"a\x1b[2Jb": "c\nd"})], None)
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_a_sparkline_spans_its_values() -> None:
    assert sparkline([1, 2, 3]) == "▁▅█"
    assert sparkline([5, 5]) == "▁▁"


def test_csv_has_a_row_for_each_number_of_shots(flip: Flip, squares: Path) -> None:
    command = ("knn", "--data", squares, "--shots", "1,2,all", "--seeds", "2", "-k", "1", "-q")
    expected = read_json(flip(*command))["shots"]
    rows = list(csv.DictReader(io.StringIO(flip(*command, "--format", "csv").stdout)))
    assert [row["shots"] for row in rows] == ["1", "2", "all"]
    assert [float(row["top1"]) for row in rows] == [row["top1"] for row in expected]
    assert [row["ci95_low"] == "" for row in rows] == [False, False, True]
    assert all(0 <= float(row["ci95_low"]) <= float(row["ci95_high"]) <= 100 for row in rows[:2])
    (one,) = csv.DictReader(io.StringIO(flip("knn", "--data", squares, "-q", "--format", "csv").stdout))
    assert "shots" not in one
    assert one["format"] == "1"


def test_a_row_without_a_label_keeps_its_guess(flip: Flip, squares: Path, photo: Path) -> None:
    sure = json.loads(flip("zeroshot", "--data", squares, photo).stdout)
    unsure = json.loads(flip("zeroshot", "--data", squares, photo, "--reject", "1").stdout)
    assert "guess" not in sure
    assert (unsure["label"], unsure["guess"]) == (None, unsure["top"][0][0])
    text = flip("zeroshot", "--data", squares, photo, "--reject", "1", "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["label"], row["guess"]) == ("", unsure["guess"])


@pytest.mark.parametrize(
    ("plot", "file"),
    [
        ("a.png", "a.png"),
        ("confusion", "confusion.png"),
        ("calibration:b.svg", "b.svg"),
        ("coverage:deep/c.pdf", "deep/c.pdf"),
    ],
)
def test_pictures_of_an_evaluation(flip: Flip, squares: Path, tmp_path: Path, plot: str, file: str) -> None:
    assert flip("zeroshot", "--data", squares, "--plot", plot).exit_code == 0
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[Path(file).suffix]
    assert (tmp_path / file).read_bytes().startswith(start)


def test_a_picture_that_cannot_be_drawn_is_refused_first(flip: Flip, squares: Path) -> None:
    assert "--shots 1,2,4,all with it" in one_line(flip("knn", "--data", squares, "--plot", "few-shot"), 2)
    assert "is no picture file" in one_line(flip("knn", "--data", squares, "--plot", "confusion:x.gif"), 2)
    assert "is no picture file" in one_line(flip("zeroshot", "--data", squares, "--plot", "scatter"), 2)


def test_a_confusion_matrix_shows_names_and_counts(tmp_path: Path) -> None:
    counts = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    plot_confusion(tmp_path / "m.svg", counts, ["a $x$", "_hidden", "no photo"], "title")
    text = (tmp_path / "m.svg").read_text()
    assert "<!-- a $x$ -->" in text or "a \\$x\\$" in text or "<!-- a" in text
    assert "no photo" not in text
    plot_confusion(tmp_path / "large.png", np.eye(200, dtype=int), [f"class {i}" for i in range(200)], "200 classes")
    assert (tmp_path / "large.png").stat().st_size > 10_000


def test_models_for_people_are_one_screen_with_what_is_here_first(flip: Flip) -> None:
    lines = table(flip, "models")
    assert lines[0].startswith("flip models: ")
    assert lines[0].rstrip().endswith(" on this machine")
    assert len(lines) == 22, "title, header, 20 models"
    assert lines[2].split()[:2] == ["sample", "yes"]
    assert len(table(flip, "models", "-v")) > 100
    assert "more: -v lists all" in flip("models", "--format", "table").stderr


def test_no_number_is_cut_in_a_table_that_is_wider_than_the_screen() -> None:
    rows = [{f"c{i}": f"value {r} {i} of 12345" for i in range(10)} | {"path": "a/long path " * 4} for r in range(3)]
    text = table_text([grid("title", rows)], None)
    assert all(str(row[f"c{i}"]) in text for row in rows for i in range(10))
    assert max(map(len, text.splitlines())) > 120
    assert len(text.splitlines()) < 25, "what is wrapped has twelve characters per line"
