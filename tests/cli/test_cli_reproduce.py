"""``flip reproduce``."""

from __future__ import annotations

import csv
import json

import pytest

from tests.cli.conftest import one_line, read_json
from tests.conftest import write_captioned

#: A short form of the whole table: one row of each kind, and one pass of each fine-tuning.
SHORT = ("--epochs", 1, "--tune-epochs", 1, "--seeds", 2, "--precision", "fp32")
ROWS = "zeroshot*,knn*,shots5-captions-logreg,full-captions-svm-rbf-finetuned,mlp"


@pytest.fixture
def captioned(tmp_path):
    return write_captioned(tmp_path / "captioned")


def test_the_short_form_fills_both_protocols_and_writes_every_format(flip, captioned, tmp_path):
    table = read_json(flip("reproduce", "--data", captioned, "--only", ROWS, *SHORT, "--run", "runs"))
    names = [row["row"] for row in table["rows"]]
    assert names == [
        *("zeroshot", "zeroshot-finetuned", "knn", "knn-finetuned", "shots5-captions-logreg"),
        *("full-captions-svm-rbf-finetuned", "mlp"),
    ]
    assert all(row[protocol]["n"] == 24 for row in table["rows"] for protocol in ("paper", "clean"))
    by_name = {row["row"]: row for row in table["rows"]}
    assert by_name["mlp"]["paper"]["best_on_test"]["choice"].startswith("epoch ")
    assert "best_on_test" not in by_name["mlp"]["clean"]
    assert by_name["shots5-captions-logreg"]["clean"]["draws"] == 2
    assert {"table.json", "table.md", "table.csv", "reproduce.json"} <= {p.name for p in (tmp_path / "runs").iterdir()}
    rows = list(csv.DictReader((tmp_path / "runs" / "table.csv").open()))
    assert len(rows) == 14
    result = json.loads((tmp_path / "runs" / "mlp" / "paper" / "result.json").read_text())
    assert result["protocol"]["test_captions"] is True
    tuned = json.loads((tmp_path / "runs" / "knn-finetuned" / "paper" / "result.json").read_text())
    assert "the test photos among them" in tuned["protocol"]["fine_tuning"]
    compared = read_json(flip("compare", "runs/knn/paper", "runs/knn/clean"))
    assert compared["comparisons"][0]["n"] == 24


def test_rows_that_are_there_are_not_run_again(flip, captioned, tmp_path):
    arguments = ("reproduce", "--data", captioned, *SHORT, "--run", "runs")
    first = read_json(flip(*arguments, "--only", "knn"))
    assert "pass --resume to go on, or --overwrite" in one_line(flip(*arguments, "--only", "zeroshot"), 1)
    both = read_json(flip(*arguments, "--only", "knn,zeroshot", "--resume"))
    by_name = {row["row"]: row for row in both["rows"]}
    assert by_name["knn"] == first["rows"][0], "seconds included"
    other = flip("reproduce", "--data", captioned, *SHORT, "--seed", 1, "--run", "runs", "--resume")
    assert "was begun with other settings: seed 1 (was 0)" in one_line(other, 1)


def test_a_dry_run_lists_rows_with_their_cost_and_runs_none(flip, captioned, tmp_path):
    result = flip("reproduce", "--data", captioned, "--dry-run", "--format", "json", "--run", "runs")
    assert "minutes in all" in result.stderr
    lines = read_json(result)
    assert len(lines) > 70
    by_row = {(line["row"], line["protocol"]): line for line in lines}
    assert by_row["knn", "paper"]["fits"] == 18
    assert by_row["knn-finetuned", "paper"]["needs"].startswith("fine-tuning of the paper model, 30 × 48 photos")
    first, second = (by_row["zeroshot-finetuned", p]["seconds"] for p in ("paper", "clean"))
    assert first > second > 0
    assert not (tmp_path / "runs").exists()


def test_captions_and_images_that_are_not_there_leave_rows_out(flip, squares):
    arguments = ("--only", "full-captions-knn,knn-finetuned,augmentation,zeroshot", *SHORT)
    table = read_json(flip("reproduce", "--data", squares, *arguments))
    by_name = {row["row"]: row for row in table["rows"]}
    assert "48 of 48 photos have no caption" in by_name["full-captions-knn"]["paper"]["left_out"]
    assert by_name["full-captions-knn"]["clean"]["n"] == 24, "the clean row needs no caption"
    assert "has 0 photos with a caption" in by_name["knn-finetuned"]["paper"]["left_out"]
    assert "pass --ckpt, or --augmented" in by_name["augmentation"]["clean"]["left_out"]
    assert by_name["zeroshot"]["paper"]["top1"] is not None


def test_generated_images_of_a_folder_are_taken(flip, squares):
    arguments = ("--augmented", squares / "train", "--only", "augmentation", *SHORT)
    (row,) = read_json(flip("reproduce", "--data", squares, *arguments))["rows"]
    for protocol in ("paper", "clean"):
        assert set(row[protocol]["gain"]) == {"without", "difference", "ci95"}


def test_formats(flip, squares, tmp_path):
    arguments = ("reproduce", "--data", squares, "--only", "zeroshot", *SHORT)
    assert flip(*arguments, "--format", "markdown").stdout.startswith("| row | the paper, on CUB |")
    assert flip(*arguments, "--format", "csv").stdout.startswith("row,title,quoted_top1")
    assert "45.56" in flip(*arguments, "--format", "table").stdout
    flip(*arguments, "-o", "table.md")
    assert (tmp_path / "table.md").read_text().startswith("| row |")


def test_what_a_user_gets_wrong_is_one_line(flip, squares):
    assert "is no row; did you mean knn" in one_line(flip("reproduce", "--data", squares, "--only", "knnn"), 1)
    assert "pass --run with it" in one_line(flip("reproduce", "--data", squares, "--resume"), 2)
    assert "--epochs 0 is too small" in one_line(flip("reproduce", "--data", squares, "--epochs", 0), 2)
    flip("embed", "--data", squares, "-o", "table")
    assert "table of embeddings" in one_line(flip("reproduce", "--data", "table"), 1)
