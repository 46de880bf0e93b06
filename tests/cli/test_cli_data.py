"""``flip data info``, ``check`` and ``get`` as a person runs them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from PIL import Image

from flip.data import fetch
from flip.data.open import open_dataset
from tests.cli.conftest import Flip, one_line, read_json, read_rows
from tests.data.photographs import CLASSES, photograph, write_photographs
from tests.data.test_fetch import Server, archive_at, server, small_cub

__all__ = ["server"]

WREN, GULL, JAY = CLASSES


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos with a copy across splits, a broken one and a dark one."""
    folder = write_photographs(tmp_path / "photos")
    shutil.copy(folder / "test" / WREN / "0.jpg", folder / "train" / WREN / "leak.jpg")
    (folder / "train" / GULL / "broken.jpg").write_text("<html>404</html>")
    photograph(900).point(lambda value: value // 6).save(folder / "train" / JAY / "dark.jpg")
    return folder


FOUND = {
    ("copies-across-splits", f"train/{WREN}/leak.jpg"),
    ("unreadable", f"train/{GULL}/broken.jpg"),
    ("dark", f"train/{JAY}/dark.jpg"),
}
MODEL_FREE = ("--skip", "labels-in-doubt,outliers")


def found(rows: list[dict[str, object]]) -> set[tuple[object, object]]:
    return {(row["kind"], row["path"]) for row in rows}


def test_check_in_json_names_each_fault_with_its_kind(flip: Flip, photos: Path) -> None:
    report = read_json(flip("data", "check", photos, *MODEL_FREE))
    assert report["command"] == "data check"
    assert (report["photos"], report["classes"]) == (30, 3)
    assert found(report["rows"]) == FOUND
    assert report["found"] == report["dropped"] == 3
    counts = {row["check"]: row["count"] for row in report["checks"]}
    assert (counts["dark"], counts["tiny"]) == (1, 0)


def test_check_in_rows_tables_and_files(flip: Flip, photos: Path, tmp_path: Path) -> None:
    assert found(read_rows(flip("data", "check", photos, *MODEL_FREE, "--format", "jsonl"))) == FOUND
    flip("data", "check", "--data", photos, *MODEL_FREE, "-o", tmp_path / "found.csv")
    with (tmp_path / "found.csv").open(newline="") as file:
        assert found(list(csv.DictReader(file))) == FOUND
    table = flip("data", "check", photos, *MODEL_FREE, "--format", "table").stdout
    for word in ("copies-across-splits", "leak.jpg", "the same file as in test", "broken.jpg"):
        assert word in table


def test_strict_ends_with_1_only_when_something_was_found(flip: Flip, photos: Path) -> None:
    assert flip("data", "check", photos, *MODEL_FREE).exit_code == 0
    assert flip("data", "check", photos, *MODEL_FREE, "--strict").exit_code == 1
    assert flip("data", "check", photos, "--only", "tiny,huge", "--strict").exit_code == 0


def test_nothing_is_written_unless_it_is_asked_for(flip: Flip, photos: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    flip("data", "check", photos, *MODEL_FREE)
    assert {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} <= {"photos", "cache"}


def test_the_clean_manifest_is_read_back(flip: Flip, photos: Path, tmp_path: Path) -> None:
    for name in ("clean.jsonl", "clean.csv", "below/clean.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        assert flip("data", "check", photos, *MODEL_FREE, "--write-clean", tmp_path / name).exit_code == 0
        assert len(open_dataset(tmp_path / name)) == 27
        assert flip("data", "check", tmp_path / name, *MODEL_FREE, "--strict").exit_code == 0


def test_the_clean_manifest_never_replaces_the_data(flip: Flip, photos: Path, tmp_path: Path) -> None:
    flip("data", "check", photos, *MODEL_FREE, "--write-clean", tmp_path / "clean.jsonl")
    before = (tmp_path / "clean.jsonl").read_bytes()
    line = one_line(
        flip("data", "check", tmp_path / "clean.jsonl", *MODEL_FREE, "--write-clean", tmp_path / "clean.jsonl"), 1
    )
    assert "is what DATA names too" in line
    assert (tmp_path / "clean.jsonl").read_bytes() == before


def test_the_sheet_shows_each_fault_and_its_pair(flip: Flip, photos: Path, tmp_path: Path) -> None:
    result = flip("data", "check", photos, *MODEL_FREE, "--sheet", tmp_path / "faults.png")
    assert "faults.png: 4 photos" in result.stderr  # a copy stands beside its original
    with Image.open(tmp_path / "faults.png") as sheet:
        assert sheet.width > 4 * 180
    result = flip("data", "check", photos, "--only", "tiny", "--sheet", tmp_path / "none.png")
    assert "nothing to draw" in result.stderr
    assert not (tmp_path / "none.png").exists()
    assert "must end in" in one_line(flip("data", "check", photos, "--sheet", tmp_path / "faults.txt"), 2)


def test_labels_are_judged_with_a_model(flip: Flip, squares: Path, tmp_path: Path) -> None:
    shutil.copytree(squares, tmp_path / "squares")
    for n in (0, 1):
        shutil.move(
            tmp_path / "squares" / "train" / "red_fox" / f"{n}.png",
            tmp_path / "squares" / "train" / "blue_jay" / f"fox{n}.png",
        )
    report = read_json(
        flip("data", "check", tmp_path / "squares", "--only", "labels-in-doubt", "--ranking", tmp_path / "rank.csv")
    )
    assert report["model"]
    with (tmp_path / "rank.csv").open(newline="") as file:
        ranking = list(csv.DictReader(file))
    assert len(ranking) == 48
    assert {Path(row["path"]).name for row in ranking[:2]} == {"fox0.png", "fox1.png"}
    assert {row["suggested"] for row in ranking[:2]} == {"red fox"}


def test_without_a_model_the_rest_is_checked_and_that_is_said(
    flip: Flip, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLIP_MODEL")
    result = flip("data", "check", photos)
    assert found(read_json(result)["rows"]) >= FOUND
    assert "without a model labels and outliers are not judged" in result.stderr
    one_line(flip("data", "check", photos, "--model", "nowhere/absent"), 1)


def test_the_data_is_an_argument_or_an_option_and_not_two(
    flip: Flip, photos: Path, squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_json(flip("data", "info", photos))["photos"] == 30
    assert read_json(flip("data", "info", "--data", photos))["photos"] == 30
    monkeypatch.setenv("FLIP_DATA", str(squares))
    assert read_json(flip("data", "info", photos))["photos"] == 30
    assert "two datasets" in one_line(flip("data", "info", photos, "--data", photos.parent), 1)


def test_an_unknown_check_names_the_near_one(flip: Flip, photos: Path) -> None:
    for given, near in (("darc", "dark"), ("copy", "copies"), ("labels", "labels-in-doubt")):
        line = one_line(flip("data", "check", photos, "--only", given), 2)
        assert repr(given) in line
        assert near in line


def test_get_fetches_once(flip: Flip, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.content = small_cub()
    monkeypatch.setitem(fetch.ARCHIVES, "cub", archive_at(server))
    result = flip("data", "get", "cub", "-o", tmp_path / "birds")
    assert result.exit_code == 0, result.output
    assert f"read it with --data {tmp_path / 'birds'}" in result.stderr
    assert read_json(flip("data", "info", tmp_path / "birds"))["layout"] == "cub"
    again = flip("data", "get", "cub", "-o", tmp_path / "birds")
    assert again.exit_code == 0
    assert "is there already" in again.stderr
    assert len(server.asked) == 1


def test_get_leaves_other_work_alone(
    flip: Flip, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = small_cub()
    monkeypatch.setitem(fetch.ARCHIVES, "cub", archive_at(server))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    one_line(flip("data", "get", "cub", "-o", tmp_path / "mine"), 1)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert server.asked == []


def test_get_says_what_it_knows(flip: Flip) -> None:
    assert "cub" in flip("data", "get").output
    assert "cub" in flip("data", "get", "imagenet").output
    assert flip("data", "get").exit_code == 2
