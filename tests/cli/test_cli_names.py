"""Names that are not UTF-8, that would move a terminal's cursor, or that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import read_json, read_rows

LATIN, ESCAPE, BACKWARDS, FORMULA = os.fsdecode(b"caf\xe9"), "\x1b[31mred\x1b[0m", "\u202egnp", "=cmd"
NAMES = (LATIN, ESCAPE, BACKWARDS, FORMULA, "[red]x")


@pytest.fixture(scope="module")
def odd(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Split folders of odd class names and odd photo names."""
    root = tmp_path_factory.mktemp("odd")
    for split in ("train", "test"):
        for i, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            for k in range(3):
                source = squares / split / ("red_fox", "blue_jay", "green_frog", "black_cat", "red_fox")[i]
                shutil.copy(source / f"{k}.png", root / split / name / f"{name}-{i}{k}.png")
    return root


def safe(text: str) -> bool:
    return not any(c in text for c in ("\x1b", "\u202e", "\udce9"))


def test_an_evaluation_keeps_the_names_and_shows_them_safely(flip: Any, odd: Path, tmp_path: Path) -> None:
    result = flip("zeroshot", "--data", odd, "--predictions", tmp_path / "p.jsonl", "--run", tmp_path / "run")
    assert {row["label"] for row in read_json(result)["per_class"]} == set(NAMES)
    assert safe(result.stderr)
    table = flip("knn", "--data", odd, "--format", "table")
    assert table.exit_code == 0, table.output
    assert safe(table.stdout)
    assert "caf\\xe9" in table.stdout
    assert "[red]x" in table.stdout
    page = flip("report", tmp_path / "run", "-o", tmp_path / "page.html")
    assert page.exit_code == 0, page.output


def test_rows_of_photos_keep_their_paths(flip: Any, odd: Path) -> None:
    photos = sorted(odd.rglob("test/*/*.png"))
    rows = read_rows(flip("zeroshot", "--data", odd, *photos))
    assert [row["path"] for row in rows] == [str(photo) for photo in photos]
    assert all("error" not in row for row in rows)
    piped = flip("zeroshot", "--data", odd, "--format", "csv", *photos)
    read = csv.DictReader(io.StringIO(piped.stdout_bytes.decode("utf-8", "surrogateescape")))
    assert [row["path"] for row in read] == [str(photo) for photo in photos]


def test_cells_are_guarded_for_spreadsheets(flip: Any, odd: Path, tmp_path: Path) -> None:
    photo = next(odd.glob(f"test/{FORMULA}/*.png"))
    for flag, label in (("--csv-safe", "'=cmd"), ("-q", "=cmd")):
        result = flip("knn", "--data", odd, "--format", "csv", "-k", "1", flag, photo)
        assert next(csv.DictReader(io.StringIO(result.stdout)))["label"] == label
    flip("knn", "--data", odd, "--csv-safe", "--predictions", tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").open(encoding="utf-8", errors="surrogateescape")))
    assert "'=cmd" in {row["truth"] for row in rows}


def test_heads_tables_and_checks_take_such_names(flip: Any, odd: Path, tmp_path: Path) -> None:
    read_json(flip("hybrid", "--data", odd, "--head", "gda", "--save", tmp_path / "head"))
    photo = next(odd.glob(f"test/{LATIN}/*.png"))
    assert read_rows(flip("hybrid", "--load", tmp_path / "head", photo))[0]["label"] in NAMES
    read_json(flip("embed", "--data", odd, "-o", tmp_path / "table"))
    assert {row["label"] for row in read_json(flip("knn", "--data", tmp_path / "table"))["per_class"]} == set(NAMES)
    assert flip("data", "check", odd).exit_code == 0
    assert safe(flip("data", "info", odd).stderr)


def test_generated_images_of_such_classes(flip: Any, odd: Path, ckpt: Path, tmp_path: Path) -> None:
    drawn = flip("augment", "--data", odd, "--ckpt", ckpt, "--steps", "1", "--per-class", "1", "--filter", "none")
    assert drawn.exit_code == 0, drawn.output
    read_json(flip("hybrid", "--data", odd, "--head", "gda", "--augmented", "augmented"))
